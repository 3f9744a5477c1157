"""A comparison and the layers compared -> one page, by one template with autoescape on.

In go what was compared, and each layer with the plan of one call; out comes HTML that needs nothing else. What is not
markup made by `ssdc.markup` or by a plot is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import jinja2

from ssdc import pipeline
from ssdc.graph.picture import to_svg
from ssdc.markup import Html
from ssdc.pipeline import Checked
from ssdc.plan.comparison import Comparison, Series, crossovers
from ssdc.plan.explain.data import Explanation, Kernels, Priced
from ssdc.plan.explain.outline import figures, launches, milliseconds, state_line
from ssdc.plan.planner import Plan
from ssdc.report.listing import Line, listing, refusals
from ssdc.report.plots import curves, roofline
from ssdc.report.squares import formula, squares
from ssdc.report.style import short
from ssdc.resources import template_root
from ssdc.runtime.grids import Grid, grids
from ssdc.syntax import ast

LENGTHS = tuple(2**power for power in range(6, 17))
"""Positions over which predictions are drawn."""
SIDE = 16
"""Positions of a mask's picture."""
CLIP = 8.0
"""How many times the chosen ordering's bar the longest may be."""


@dataclass(frozen=True)
class Structure:
    """A factor of a mask, as written and as a formula."""

    text: str
    formula: str


@dataclass(frozen=True)
class MaskPicture:
    """A mask: its structures, and pictures with where each was taken."""

    name: str
    structures: tuple[Structure, ...]
    pictures: tuple[tuple[str, Html], ...]


@dataclass(frozen=True)
class Plot:
    """A plot, and in words what it shows."""

    svg: Html
    words: str


@dataclass(frozen=True)
class Section:
    """All that is shown of one layer."""

    id: str
    file: str
    title: str
    sizes: Mapping[str, int]
    found: Explanation
    lines: tuple[Line, ...]
    graph: Html
    masks: tuple[MaskPicture, ...]
    plots: tuple[Plot, ...]
    code: str
    kernels: str


@dataclass(frozen=True)
class Shown:
    """A layer that is shown, and the plan of the call that is explained."""

    checked: Checked
    plan: Plan


def page(comparison: Comparison, layers: Sequence[Shown]) -> str:
    """The report of what was compared, each spec with its section, in order."""
    sections = [_section(place, shown) for place, shown in enumerate(layers, 1)]
    template = environment().get_template("html/report.jinja")
    return template.render(found=comparison, plots=_compared(comparison), sections=sections, side=SIDE)


def environment() -> jinja2.Environment:
    """The environment of pages: everything is escaped, an undefined name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_root()),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["time"] = duration
    made.filters["size"] = lambda count: f"{count:,}"
    made.globals.update(
        figures=figures, state_line=state_line, launches=launches, refusals=refusals, bars=bars, Kernels=Kernels
    )
    return made


def duration(seconds: float) -> str:
    """A time to three digits, from a second on in seconds.

    >>> duration(0.0123456), duration(27.2)
    ('12.3 ms', '27.2 s')
    """
    return (
        milliseconds(seconds) if seconds < 0.9995 else f"{seconds:,.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"
    )


def _section(place: int, shown: Shown) -> Section:
    checked, plan = shown.checked, shown.plan
    found = pipeline.explain(checked, plan)
    words = {one.name: one.chosen.name for one in found.equations}
    return Section(
        f"layer-{place}",
        checked.source.name,
        found.layer,
        checked.scope.sizes,
        found,
        tuple(listing(checked.source, checked.graph, found)),
        to_svg(checked.graph, words),
        _masks(shown),
        tuple(_plots(shown, found, f"p{place}")),
        pipeline.text(checked, plan),
        pipeline.kernels(checked, plan),
    )


# ---- masks -----------------------------------------------------------------------------------------------------------


def _masks(shown: Shown) -> tuple[MaskPicture, ...]:
    """Every mask that a call reads, in the order of the program."""
    checked = shown.checked
    source, scope = checked.source, checked.scope
    name, sizes = scope.layer.name, dict(scope.sizes)
    given = {size.name: sizes[size.name] for size in scope.layer.sizes}
    found = grids(
        lambda: pipeline.compile(source, name, given, backend="torch"),
        lambda: pipeline.reference(source, name, given),
        SIDE,
    )
    by_mask = {mask: tuple(several) for mask, several in groupby(found, lambda one: one.mask)}
    statements = [part for part in scope.layer.statements if isinstance(part, ast.Mask)]
    return tuple(
        MaskPicture(
            one.tensor.name,
            tuple(
                Structure(source.text[part.span.start : part.span.end], formula(part.name, part.flags))
                for part in one.structures
            ),
            tuple((grid.at, squares(grid.rows, _label(grid))) for grid in by_mask[one.tensor.name]),
        )
        for one in statements
        if one.tensor.name in by_mask
    )


def _label(grid: Grid) -> str:
    where = f" at {grid.at}" if grid.at else ""
    return f"The mask {grid.mask}{where}: {len(grid.rows)} readers from top to bottom, writers from left to right"


# ---- plots -----------------------------------------------------------------------------------------------------------


def _compared(found: Comparison) -> list[Plot]:
    """What was compared, measured and predicted, over the size that varies; none where that has one value."""
    measured, predicted = found.series("seconds"), found.series("predicted")
    if len({row.at for row in found.rows}) < 2:
        return []
    if not measured:
        return [Plot(curves("predicted", found.axis, predicted, "all"), _words(found.axis, predicted))]
    svg = curves("measured (dashed: predicted)", found.axis, measured, "all", predicted)
    return [Plot(svg, "Measured. " + _words(found.axis, measured))]


def _plots(shown: Shown, found: Explanation, name: str) -> list[Plot]:
    plots = []
    lengths = {T: _at(shown, T) for T in LENGTHS} if found.equations else {}
    for place, one in enumerate(found.equations):
        series: dict[str, list[tuple[int, float]]] = {}
        for T, plan in lengths.items():
            choice = plan.choices[one.name]
            cheapest: dict[str, float] = {}
            for candidate in sorted((choice.chosen, *choice.rivals), key=lambda found: found.cost.seconds):
                cheapest.setdefault(candidate.order, candidate.cost.seconds)
            for order, seconds in cheapest.items():
                series.setdefault(order, []).append((T, seconds))
        svg = curves(f"{one.equation} over {one.mask}: predicted", "T (positions)", series, f"{name}c{place}")
        plots.append(Plot(svg, _words("T", series)))
        svg = roofline(f"{one.equation} over {one.mask}: roofline", one, shown.plan.hardware, f"{name}r{place}")
        plots.append(Plot(svg, _bound(one.chosen)))
    return plots


def _at(shown: Shown, T: int) -> Plan:
    """The plan at another length."""
    sizes = {**shown.plan.sizes, shown.checked.graph.reader: T}
    return pipeline.plan(shown.checked, sizes, mode=shown.plan.mode)


def _words(axis: str, series: Series) -> str:
    """Which is least, and from where on, in a sentence."""
    start = min(x for points in series.values() for x, _ in points)
    first = min((dict(points)[start], name) for name, points in series.items() if start in dict(points))[1]
    changes = [one for one in crossovers(series) if one.least]
    if not changes:
        return f"Fastest throughout: {first}."
    later = "".join(f", then {one.after} from {axis} ≈ {one.at:,.0f}" for one in changes)
    return f"Fastest: {first} at {axis} = {short(start)}{later}."


def _bound(chosen: Priced) -> str:
    return (
        f"Circled: the choice, {chosen.name}, bound by {chosen.bound}. The lines are what the machine can do at most."
    )


# ---- bars ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A candidate's bar: its parts (name, seconds, what bounds it, share of the width), and whether it is cut.

    Parts that overlap, on a GPU, share the bar of the whole.
    """

    parts: tuple[tuple[str, float, str, float], ...]
    cut: bool


def bars(candidates: Sequence[Priced]) -> list[tuple[Priced, Bar]]:
    """Candidates with bars on one linear scale, which ends at `CLIP` times the least."""
    least = min(one.seconds for one in candidates)
    limit = min(max(one.seconds for one in candidates), CLIP * least)
    return [(one, _bar(one, limit)) for one in candidates]


def _bar(one: Priced, limit: float) -> Bar:
    whole = sum(part.seconds for part in one.parts) or 1.0
    width = 100 * min(one.seconds, limit) / limit
    parts = tuple((part.name, part.seconds, part.bound, round(width * part.seconds / whole, 2)) for part in one.parts)
    return Bar(parts, one.seconds > limit * 1.001)
