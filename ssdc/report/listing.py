"""A program's lines with marks where it decides what its plan may be: masks, equations, and causes of refusals.

In go a source, a graph and its explanation; out come `Line`s, each cut into plain and marked stretches, with notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.plan.explain.data import Equation, Explanation, Kernels, Place, Refused
from ssdc.plan.explain.outline import milliseconds
from ssdc.plan.explain.places import place
from ssdc.source import Source


@dataclass(frozen=True)
class Note:
    """What is to be said of a line. `kind` is "mask", "order" (a choice) or "refused"."""

    kind: str
    what: str
    text: str


@dataclass
class Line:
    """One line: its number from one, stretches of text with whether they are marked, and notes, each once."""

    number: int
    stretches: list[tuple[str, bool]]
    notes: list[Note] = field(default_factory=list)


Mark = tuple[Place, Note]


def listing(source: Source, graph: Graph, found: Explanation) -> list[Line]:
    """All lines of a program."""
    marks: dict[int, list[Mark]] = {}
    for at, note in _marks(source, graph, found):
        marks.setdefault(at.line, []).append((at, note))
    texts = source.text.rstrip().split("\n")
    return [_line(number, text.rstrip("\r"), marks.get(number, [])) for number, text in enumerate(texts, 1)]


def _line(number: int, text: str, marks: list[Mark]) -> Line:
    marked = [False] * len(text)
    for at, _ in marks:
        start = at.column - 1
        length = at.rows[-1].count("^")
        marked[start : start + length] = [True] * len(marked[start : start + length])
    stretches: list[tuple[str, bool]] = []
    for letter, on in zip(text, marked, strict=True):
        if stretches and stretches[-1][1] == on:
            stretches[-1] = (stretches[-1][0] + letter, on)
        else:
            stretches.append((letter, on))
    return Line(number, stretches, list(dict.fromkeys(note for _, note in marks)))


def _marks(source: Source, graph: Graph, found: Explanation) -> Iterator[Mark]:
    for name in graph.order:
        node = graph.nodes[name]
        if isinstance(node, ir.Mask) and (at := place(source, node.span)) is not None:
            gates = ", gates in [0, 1]" if node.bounded else ", gates not shown to lie in [0, 1]"
            yield at, Note("mask", f"mask {name.rstrip('<>')}", node.direction + (gates if node.all_gates else ""))
    for one in found.equations:
        if one.place is not None:
            yield one.place, Note("order", one.equation, f"{one.chosen.name}, {milliseconds(one.chosen.seconds)}")
        yield from _refusals(one)
    for pair in found.pairs:
        if pair.place is not None:
            yield pair.place, Note("refused", pair.what, f"quadratic, its one ordering: {pair.reason}")


def _refusals(one: Equation) -> Iterator[Mark]:
    """Refusals of one equation, those with the same reason and place told together."""
    together: dict[tuple[Place, str], list[str]] = {}
    for refused in refusals(one):
        if refused.place is not None:
            together.setdefault((refused.place, refused.reason), []).append(refused.what)
    for (at, reason), names in together.items():
        yield at, Note("refused", f"no {' or '.join(names)}", reason)


def refusals(one: Equation) -> tuple[Refused, ...]:
    """Orderings that an equation does not admit, and Triton kernels where they do not serve it."""
    if one.kernels is None or isinstance(one.kernels, Kernels):
        return one.refused
    return (*one.refused, Refused("Triton kernels", one.kernels.reason, one.kernels.place))
