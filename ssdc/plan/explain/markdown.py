"""An explanation as Markdown: a heading an equation, a table of candidates, refusals with the source line that causes
them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssdc.plan.explain.data import Equation, Explanation, Kernels, Launch, Place, Priced, Program, Refused
from ssdc.plan.explain.outline import HEADINGS, MODES, figures, launches, milliseconds, state_line


def markdown(program: Program) -> str:
    """The explanations of a program's layers as one document."""
    rows: list[str] = []
    if program.several:
        lines = [(f"`{m.layer.layer}`", str(m.count), *figures(m.totals)) for m in program.members]
        if program.own_parameters:
            lines.append(("the model's own", "", f"{program.own_parameters:,}", "", "", "", ""))
        rows.extend(("# Layers", ""))
        rows.extend(_table(("layer", "times", *HEADINGS), [*lines, ("in all", "", *figures(program.totals))]))
    for member in program.members:
        rows.extend(_layer(member.layer))
    return "\n".join(rows).rstrip("\n") + "\n"


def _layer(found: Explanation) -> Iterator[str]:
    yield from (f"# Layer `{found.layer}`", "")
    sizes = ", ".join(f"{name} = {size:,}" for name, size in found.sizes.items())
    yield f"At {sizes}, on {found.hardware}{MODES[found.mode]}."
    if found.not_causal is not None:
        yield f"It is not causal, so without a state: {escape(found.not_causal)}."
    else:
        yield "It is causal: it has a state and can step."
    yield ""
    if found.state:
        yield from (f"- `{state_line(one)}`" for one in found.state)
        yield ""
    yield from _table(HEADINGS, [figures(found.totals)])
    if len(found.equations) > 1:
        lines = [_line(one) for one in found.equations]
        rest = ("everything else", "", "", "", milliseconds(found.rest_seconds))
        yield from _table(("equation", "order", "kernels", "GFLOP", "predicted"), [*lines, rest])
    for pair in found.pairs:
        yield from (f"## `{pair.what}`", "", f"Quadratic, its one ordering: {escape(pair.reason)}.", "")
        yield from _excerpt(pair.place)
    for one in found.equations:
        yield from _equation(found, one)


def _line(one: Equation) -> tuple[str, ...]:
    form, chosen = one.kernels.form if isinstance(one.kernels, Kernels) else "none", one.chosen
    return f"`{one.name}`", chosen.name, form, f"{chosen.flop / 1e9:.3g}", milliseconds(chosen.seconds)


def _equation(found: Explanation, one: Equation) -> Iterator[str]:
    at = f", at {one.place}" if one.place else ""
    yield from (f"## `{one.equation}`", "", f"Contraction over mask `{one.mask}` ({', '.join(one.facts)}){at}.", "")
    if one.asked:
        yield from ("The order or the chunk was asked for.", "")
    yield from _rivals("order", one.candidates)
    for candidate in one.candidates:
        if candidate.left:
            yield from (f"`{candidate.name}` is for asking only: {escape(candidate.left)}.", "")
    for no in one.refused:
        yield from (f"No `{no.what}`: {escape(no.reason)}.", "")
        yield from _excerpt(no.place)
    yield from _kernels(found, one.kernels)
    for doubt in one.doubts:
        yield from (f"`{doubt.gate}` is not shown to lie in [0, 1]: it is kept to forms that stay finite.", "")
        yield from _excerpt(doubt.place)


def _rivals(what: str, candidates: tuple[Priced, ...]) -> Iterator[str]:
    rows = []
    for one in candidates:
        mark = "**" if one.chosen else ""
        parts = ", ".join(f"{part.name} {milliseconds(part.seconds)} ({part.bound})" for part in one.parts)
        sizes = (f"{one.flop / 1e9:.3g}", f"{one.bytes / 1e6:.4g}", f"{one.workspace / 1e6:.4g}", str(one.depth))
        rows.append((f"{mark}{one.name}{mark}", milliseconds(one.seconds), one.bound, *sizes, parts))
    headings = ("predicted", "bound by", "GFLOP", "MB moved", "workspace MB", "depth", "parts")
    yield from _table((what, *headings), rows)


def _kernels(found: Explanation, kernels: Kernels | Refused | None) -> Iterator[str]:
    if kernels is None or found.device is None:
        return
    where = f"Triton kernels on {found.device.name}, {found.device.dtype}"
    if isinstance(kernels, Refused):
        yield from (f"{where}: no, {escape(kernels.reason)}.", "")
        yield from _excerpt(kernels.place)
        return
    pieces = f", time in {kernels.segments} pieces" if kernels.segments > 1 else ""
    yield from (f"{where}: {kernels.form}{pieces}.", "")
    if kernels.candidates:
        yield from _rivals("form", kernels.candidates)
    rows = [_launch(name, one) for name, one in launches(kernels)]
    headings = ("pass", "kernel", "chunk", "states", "columns", "warps", "stages", "heads")
    yield from _table(headings, rows)


def _launch(name: str, one: Launch) -> tuple[str, ...]:
    sizes = (one.chunk, one.states, one.columns, one.warps, one.stages, one.heads)
    return name, one.kernel, *map(str, sizes)


def _excerpt(place: Place | None) -> Iterator[str]:
    if place is not None:
        yield from ("```text", str(place), *place.rows, "```", "")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join('---' for _ in headings)}|"
    yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""


def escape(text: str) -> str:
    """A reason in which nothing is markup.

    >>> escape("a_b * c")
    'a\\\\_b \\\\* c'
    """
    return "".join(f"\\{one}" if one in "\\`*_[]<>#|" else one for one in text)
