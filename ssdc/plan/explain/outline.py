"""An explanation as a tree of lines, which plain text indents and a terminal draws.

Lines of one parent are columns that line up. Nothing here is measured or decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ssdc.plan.candidate import Mode
from ssdc.plan.explain.data import (
    Equation,
    Explanation,
    Kernels,
    Launch,
    Place,
    Priced,
    Program,
    Refused,
    State,
    Totals,
)


@dataclass(frozen=True)
class Branch:
    """A line, or a few, and what hangs below. `tone` is how a terminal shows it: title, chosen, quiet, or as it is."""

    text: str
    below: tuple[Branch, ...] = ()
    tone: str = ""


def plain(branches: tuple[Branch, ...]) -> str:
    """Trees as indented text, an empty line between them.

    >>> print(plain((Branch("a", (Branch("b", (Branch("c"),)),)), Branch("d"))))
    a
      b
        c
    <BLANKLINE>
    d
    """
    return "\n\n".join("\n".join(row.rstrip() for row in _rows(branch, "")) for branch in branches)


def _rows(branch: Branch, indent: str) -> Iterator[str]:
    yield from (indent + row for row in branch.text.split("\n"))
    lead = len(branch.text) - len(branch.text.lstrip(" ->"))
    for one in branch.below:
        yield from _rows(one, indent + " " * (lead + 2))


def in_words(found: Explanation) -> str:
    """One layer's explanation as text."""
    return plain(tuple(of_layer(found)))


def outline(program: Program) -> tuple[Branch, ...]:
    """The trees of a program: a line for each layer and the totals where there are several, then layer by layer."""
    trees = tuple(tree for member in program.members for tree in of_layer(member.layer))
    return (_summary(program), *trees) if program.several else trees


def _summary(program: Program) -> Branch:
    names = [f"{m.count} x {m.layer.layer}" if m.count > 1 else m.layer.layer for m in program.members]
    rows = [_cells(name, *figures(m.totals)) for name, m in zip(names, program.members, strict=True)]
    if program.own_parameters:
        rows.append(_cells("the model's own", f"{program.own_parameters:,}"))
    last = Branch(_cells("in all", *figures(program.totals)), tone="chosen")
    return Branch("layers", (Branch(_cells("", *HEADINGS), tone="quiet"), *map(Branch, rows), last), "title")


HEADINGS = ("parameters", "state bytes", "GFLOP", "prefill", "a token")


def figures(totals: Totals) -> tuple[str, ...]:
    """The cells under HEADINGS."""
    state = "none" if totals.state_bytes is None else f"{totals.state_bytes:,}"
    token = "none" if totals.token_seconds is None else milliseconds(totals.token_seconds)
    return f"{totals.parameters:,}", state, f"{totals.flop / 1e9:.3g}", milliseconds(totals.prefill_seconds), token


def _cells(name: str, *cells: str) -> str:
    return f"{name:<24}" + "".join(f"{cell:>14}" for cell in cells)


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, to three digits.

    >>> milliseconds(0.00012345)
    '0.123 ms'
    """
    return f"{1e3 * seconds:.3g} ms"


MODES: Mapping[Mode, str] = {"forward": "", "both": ", forward and backward", "step": ", one position"}


# ---- one layer -------------------------------------------------------------------------------------------------------


def of_layer(found: Explanation) -> Iterator[Branch]:
    """The layer as a whole, then each of its equations that has an ordering."""
    sizes = ", ".join(f"{name} = {size:,}" for name, size in found.sizes.items())
    below = [_causal(found)]
    if len(found.equations) > 1:
        below.extend(_lines(found))
    below.append(Branch(_in_all(found)))
    yield Branch(f"layer {found.layer} at {sizes}, on {found.hardware}{MODES[found.mode]}", tuple(below), "title")
    for one in found.pairs:
        yield Branch(f"{one.what}: quadratic, its one ordering: {one.reason}", _at(one.place), "title")
    for equation in found.equations:
        yield _equation(found, equation)


def _in_all(found: Explanation) -> str:
    parameters, state, flop, prefill, token = figures(found.totals)
    later = "" if found.totals.token_seconds is None else f", {token} a token"
    held = "" if found.totals.state_bytes is None else f", a state of {state} bytes"
    beside = f"{milliseconds(found.rest_seconds)} of it beside the contractions"
    return f"in all: {parameters} parameters{held}, {flop} GFLOP, {prefill} ({beside}){later}"


def _causal(found: Explanation) -> Branch:
    if found.not_causal is not None:
        return Branch(f"not causal, so without a state: {found.not_causal}")
    return Branch("causal: it has a state and can step", tuple(Branch(state_line(one)) for one in found.state))


def state_line(one: State) -> str:
    """One part of a state in words."""
    axes = ", ".join(one.axes)
    match one.kind:
        case "accumulated":
            text = f"{one.name}: [{axes}], accumulated, float32"
        case "history":
            count = f"{one.length} position{'s' * (one.length != 1)}"
            text = f"{one.name}: {'all of the past' if one.length is None else f'the last {count}'} of [{axes}]"
        case _:
            text = "the number of positions"
    return f"{text}, {one.bytes:,} bytes"


def _lines(found: Explanation) -> Iterator[Branch]:
    """One line an equation."""
    yield Branch(_cells("equation", "order", "kernels", "GFLOP", "predicted"), tone="quiet")
    for one in found.equations:
        chosen = one.chosen
        kernels = one.kernels.form if isinstance(one.kernels, Kernels) else "none"
        cost = (f"{chosen.flop / 1e9:.3g}", milliseconds(chosen.seconds))
        yield Branch(_cells(one.name, chosen.name, kernels, *cost))


def _equation(found: Explanation, one: Equation) -> Branch:
    at = f", {one.place}" if one.place else ""
    head = f"{one.equation}: contraction over mask {one.mask} ({', '.join(one.facts)}){at}"
    below = [Branch("the order or the chunk was asked for")] if one.asked else []
    width = _width(one.candidates)
    below.extend(_rivals("order", one.candidates, width))
    below.extend(Branch(f"   {no.what:<{width}} no: {no.reason}", _at(no.place)) for no in one.refused)
    below.extend(_kernels(found, one.kernels))
    below.extend(
        Branch(f"{doubt.gate} is not shown to lie in [0, 1]: it is kept to forms that stay finite", _at(doubt.place))
        for doubt in one.doubts
    )
    return Branch(head, tuple(below), "title")


def _width(candidates: tuple[Priced, ...]) -> int:
    return max(13, *(len(candidate.name) for candidate in candidates))


def _rivals(what: str, candidates: tuple[Priced, ...], width: int) -> Iterator[Branch]:
    """Candidates under their headings."""
    columns = f"{'predicted':>12}{'bound by':>14}{'GFLOP':>10}{'MB moved':>10}{'workspace MB':>14}{'depth':>8}"
    yield Branch(f"   {what:<{width}}{columns}", tone="quiet")
    yield from (_priced(candidate, width) for candidate in candidates)


def _priced(one: Priced, width: int) -> Branch:
    mark = "-> " if one.chosen else "   "
    cost = f"{milliseconds(one.seconds):>12}{one.bound:>14}{one.flop / 1e9:>10.3g}{one.bytes / 1e6:>10.4g}"
    parts = ", ".join(f"{part.name} {milliseconds(part.seconds)} {part.bound}".rstrip() for part in one.parts)
    left = (Branch(f"for asking only: {one.left}", tone="quiet"),) if one.left else ()
    text = f"{mark}{one.name:<{width}}{cost}{one.workspace / 1e6:>14.4g}{one.depth:>8}"
    return Branch(text, (Branch(parts, tone="quiet"), *left), "chosen" if one.chosen else "")


def _kernels(found: Explanation, kernels: Kernels | Refused | None) -> Iterator[Branch]:
    if kernels is None or found.device is None:
        return
    where = f"Triton kernels on {found.device.name}, {found.device.dtype}"
    if isinstance(kernels, Refused):
        yield Branch(f"{where}: no, {kernels.reason}", _at(kernels.place))
        return
    pieces = f", time in {kernels.segments} pieces" if kernels.segments > 1 else ""
    below = [*_rivals("form", kernels.candidates, _width(kernels.candidates))] if kernels.candidates else []
    head = f"{'':<26}{'chunk':>8}{'states':>8}{'columns':>9}{'warps':>7}{'stages':>8}{'heads':>7}"
    below.append(Branch(head, tone="quiet"))
    below.extend(Branch(_launch(name, one)) for name, one in launches(kernels))
    yield Branch(f"{where}: {kernels.form}{pieces}", tuple(below))


def launches(kernels: Kernels) -> Iterator[tuple[str, Launch]]:
    """Each launch with its pass, in the order in which they run."""
    for name, several in (("forward", kernels.forward), ("backward", kernels.backward), ("step", kernels.step)):
        yield from ((name, one) for one in several)


def _launch(name: str, one: Launch) -> str:
    sizes = f"{one.chunk:>8}{one.states:>8}{one.columns:>9}{one.warps:>7}{one.stages:>8}{one.heads:>7}"
    return f"{name:<10}{one.kernel:<16}{sizes}"


def _at(place: Place | None) -> tuple[Branch, ...]:
    """A place and its line, with marks."""
    return () if place is None else (Branch("\n".join((str(place), *(f"  {row}" for row in place.rows)))),)
