"""A comparison for people: as a table, as lines, as a picture.

In goes a `Comparison`; out come rich's table, text and a picture's file. Nothing is measured here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ssdc.cli.console import note
from ssdc.cli.plot import Panel, about, draw
from ssdc.plan.comparison import Comparison, Crossover, Row, Series, Spec

if TYPE_CHECKING:
    from rich.table import Table

LEAST_PEAK = 1e6
"""Bytes below which a peak of memory tells little."""


def title_of(found: Comparison) -> str:
    """What was compared: the layers with their sizes, and the call."""
    parts = ["; ".join(_told(spec) for spec in found.specs), "float32"]
    parts += [f"{name}={size:,}" for name, size in (("T", found.T), ("b", found.batch)) if size is not None]
    parts += [f"{found.threads} thread{'s' * (found.threads > 1)}"] if found.threads else []
    parts += ["forward and backward"] if found.mode == "both" else []
    return ", ".join(parts)


def _told(spec: Spec) -> str:
    """A spec and its sizes, those that were chosen for it with a star: `ssd H=4* P=64`."""
    return " ".join([spec.name, *(f"{name}={size}{'*' * (name in spec.chosen)}" for name, size in spec.sizes.items())])


def table_of(found: Comparison) -> Table:
    """A table, a section a value of what varies; of one spec the planner's choices marked."""
    from rich.table import Table

    several = len(found.specs) > 1
    notes = [f"predicted for {found.profile}, the whole call", *([] if several else ["-> the planner's choice"])]
    notes += ["* chosen: not given, and without a default"] if any(spec.chosen for spec in found.specs) else []
    table = Table(title=title_of(found), title_justify="left", caption="; ".join(notes), caption_justify="left")
    texts = [found.axis, *(["layer"] if several else []), "ordering"]
    for heading in (*texts, "time ms", "predicted ms", "peak MB", "error u*m", "GFLOP", "MB moved"):
        table.add_column(heading, justify="left" if heading in texts[1:] else "right", no_wrap=True)
    for before, row in zip((None, *found.rows), found.rows, strict=False):
        new = before is None or before.at != row.at
        if before is not None and new:
            table.add_section()
        label = [row.spec, row.order] if several else [("-> " if row.planned else "   ") + row.order]
        bold = row.planned and not several
        table.add_row(f"{row.at:,}" if new else "", *label, *_numbers(row), style="bold" if bold else None)
    return table


def _numbers(row: Row) -> tuple[str, ...]:
    return (
        _number(row.seconds, 1e3) if row.skipped is None else "skipped",
        _number(row.predicted, 1e3),
        _number(row.peak, 1e-6),
        _number(row.error),
        _number(row.flop, 1e-9),
        _number(row.bytes, 1e-6),
    )


def _number(value: float | None, scale: float = 1.0) -> str:
    """Three digits, with separators.

    >>> _number(0.0123456, 1e3), _number(12345.6), _number(0.0), _number(None)
    ('12.3', '12,346', '0', '')
    """
    if value is None:
        return ""
    scaled = value * scale
    return f"{scaled:,.0f}" if scaled >= 100 or scaled == 0 else f"{scaled:.3g}"


# ---- lines -----------------------------------------------------------------------------------------------------------


def lines_of(found: Comparison) -> list[str]:
    """What a table has no room for: crossovers, and a line for each ordering that was not run."""
    at = f"{found.axis}="
    lines = [f"skipped at {at}{row.at:,}: {_of(found, row)}: {row.skipped}" for row in found.rows if row.skipped]
    for spec in found.specs:
        lines += [f"not legal: {order}: {reason}" for order, reason in spec.refused.items()]
    if len({row.at for row in found.rows}) > 1:
        lines += _crossings("measured", at, found.series("seconds"), found.measured_crossovers)
        lines += _crossings("predicted", at, found.series("predicted"), found.predicted_crossovers)
    return lines


def _of(found: Comparison, row: Row) -> str:
    return f"{row.spec}, {row.order}" if len(found.specs) > 1 else row.order


def _crossings(what: str, at: str, series: Series, found: tuple[Crossover, ...]) -> list[str]:
    """A line for each crossover; or why there is none."""
    lines = [
        f"crossover, {what}: {one.after} is faster than {one.before} from {at}{about(one.at)} on"
        + (", and fastest of all" if one.least and len(series) > 2 else "")
        for one in found
    ]
    return lines or [f"crossover, {what}: none"]


# ---- the picture -----------------------------------------------------------------------------------------------------


def picture(file: Path, found: Comparison) -> None:
    """Writes the picture: times, predictions dashed, and peaks of memory."""
    times, predicted, peaks = (found.series(field) for field in ("seconds", "predicted", "peak"))
    if not times:
        note("nothing was measured, so there is nothing to draw")
        return
    large = {name: [point for point in line if point[1] >= LEAST_PEAK] for name, line in peaks.items()}
    panels = [Panel("time (ms); dashed: predicted; rings: crossovers", _scaled(times, 1e3), _scaled(predicted, 1e3))]
    if any(large.values()):
        panels.append(Panel("peak memory (MB)", _scaled(large, 1e-6)))
    try:
        draw(file, title_of(found), panels, axis=found.axis)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="--plot") from None


def _scaled(series: Series, scale: float) -> Series:
    return {name: [(size, scale * value) for size, value in line] for name, line in series.items() if line}
