"""What `ssdc compare` found, a row an ordering and length: as a table, as lines, as a picture.

In go rows; out come rich's table, text and a picture's file. Nothing is measured here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ssdc.cli.console import note
from ssdc.cli.plot import draw

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One ordering at one length: what the planner predicts, and what was measured, or why nothing was.

    Counts and predictions are of masked contractions, forward only, None where there are none (softmax is not priced);
    `moved`, `workspace` and `peak` in MB, times in s.
    """

    length: int
    order: str
    planned: bool
    gflop: float | None = None
    moved: float | None = None
    workspace: float | None = None
    predicted: float | None = None
    seconds: float | None = None
    peak: float | None = None
    error: float | None = None
    skipped: str | None = None


def table_of(rows: list[Row], title: str) -> Table:
    """A table, a section a length, the planner's choices marked."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption="-> the planner's choice", caption_justify="left")
    for heading in ("T", "ordering", "time ms", "predicted ms", "peak MB", "error u*m", "GFLOP", "MB moved"):
        table.add_column(heading, justify="left" if heading == "ordering" else "right", no_wrap=True)
    last = 0
    for row in rows:
        if last and row.length != last:
            table.add_section()
        mark, style = ("-> ", "bold") if row.planned else ("   ", None)
        table.add_row(
            f"{row.length:,}" if row.length != last else "",
            mark + row.order,
            _number(row.seconds, 1e3) if row.skipped is None else "skipped",
            _number(row.predicted, 1e3),
            _number(row.peak),
            _number(row.error),
            _number(row.gflop),
            _number(row.moved),
            style=style,
        )
        last = row.length
    return table


def _number(value: float | None, scale: float = 1.0) -> str:
    """Three digits, with separators.

    >>> _number(0.0123456, 1e3), _number(12345.6), _number(0.0), _number(None)
    ('12.3', '12,346', '0', '')
    """
    if value is None:
        return ""
    scaled = value * scale
    return f"{scaled:,.0f}" if scaled >= 100 or scaled == 0 else f"{scaled:.3g}"


def absent(rows: list[Row], refused: dict[str, str]) -> list[str]:
    """A line for each ordering that was not run."""
    lines = [f"skipped at T={row.length:,}: {row.order}: {row.skipped}" for row in rows if row.skipped]
    return lines + [f"not legal: {order}: {reason}" for order, reason in refused.items()]


def picture(file: Path, title: str, rows: list[Row]) -> None:
    """Writes the picture. Chunks change with the length, and share a line; peaks below 1 MB tell little."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {"time (ms)": {}, "peak memory (MB)": {}}
    for row in rows:
        name = " + ".join(dict.fromkeys(re.sub(r"\(\d+\)", "", row.order).split(" + ")))
        if row.seconds is not None:
            panels["time (ms)"].setdefault(name, []).append((row.length, 1e3 * row.seconds))
        if row.peak is not None and row.peak >= 1:
            panels["peak memory (MB)"].setdefault(name, []).append((row.length, row.peak))
    if not panels["time (ms)"]:
        note("nothing was measured, so there is nothing to draw")
        return
    try:
        draw(file, title, [(label, series) for label, series in panels.items() if series])
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="--plot") from None
