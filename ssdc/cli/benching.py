"""What `ssdc bench` found: as a table, as lines, as JSON, as a picture.

In go entries of rows; out come rich's table, text and files. Nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ssdc.cli.console import note
from ssdc.cli.dots import Dot, dots
from ssdc.cli.plot import Panel, draw

if TYPE_CHECKING:
    from rich.table import Table

    from ssdc.runtime.bench.runs import Entry
    from ssdc.runtime.bench.times import Row

PANELS = (("forward", "forward (ms)"), ("both", "forward + backward (ms)"))


@dataclass
class Report:
    """A run: entries so far, and what else is to be told of them. `rate` is the copy rate in bytes a second."""

    title: str
    device: str
    rate: float
    versions: dict[str, str | None]
    entries: list[Entry] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether something of ssdc's own failed."""
        return any(_mine(row) and row.note.startswith("failed") for entry in self.entries for row in entry.rows)

    def write(self, file: Path | None) -> None:
        """Everything as JSON, where a file is given: times in ms, `first` in s."""
        if file is None:
            return
        found = {
            "title": self.title, "device": self.device, "copy_bytes_per_s": self.rate, "versions": self.versions,
            "entries": [asdict(entry) for entry in self.entries],
            **self.extra,
        }  # fmt: skip
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """What a table has no room for: rows without times, versions, and the last word of a suite or headline."""
        told = [
            f"no times at {_call(entry)}: {_label(row)}: {row.note}"
            for entry in self.entries
            for row in entry.rows
            if row.note
        ]
        told.append(", ".join(f"{name} {version or '(not installed)'}" for name, version in self.versions.items()))
        for name, when in self.extra.get("crossovers", {}).items():
            told.append(f"{name}: faster than softmax attention {when}")
        if "summary" in self.extra:
            told.append(_summary(self.extra["summary"]))
        return told


def _summary(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "no summary: it needs a peer, and all of ssdc's own times"
    return (
        "{shapes} shapes, fastest peer's time over ssdc's, geometric mean: forward {forward:.2f}, "
        "forward + backward {both:.2f}; a peer is faster on {slower_forward} and {slower_both}"
    ).format(**found)


def _mine(row: Row) -> bool:
    return row.name.startswith("ssdc")


def _label(row: Row) -> str:
    return row.name if row.part == "contraction" else f"{row.part}: {row.name}"


def _call(entry: Entry) -> str:
    return f"{entry.of}, T={entry.length:,}" if f"T={entry.length}" not in entry.of else entry.of


# ---- the table -------------------------------------------------------------------------------------------------------


def table_of(report: Report) -> Table:
    """A table, a section an entry."""
    from rich.table import Table

    caption = f"floor: bytes that must move, at {report.rate / 1e9:,.0f} GB/s, a copy's rate in this run; "
    caption += "ours: ssdc's own time for the same"
    title = f"{report.title}; {report.device}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", collapse_padding=True)
    table.add_column("call", no_wrap=True)
    table.add_column("what", no_wrap=True)
    for heading in ("forward ms", "/ ours", "/ floor", "fwd+bwd ms", "/ ours", "/ floor", "step us", "/ floor", "error",
                    "grad error", "first s"):  # fmt: skip
        table.add_column(heading, justify="right", min_width=4)
    for entry in report.entries:
        for place, row in enumerate(entry.rows):
            cells = ("-",) if row.note else _cells(row, _ours(entry, row))
            table.add_row(_call(entry) if place == 0 else "", _label(row), *cells, style="bold" if _mine(row) else None)
        table.add_section()
    return table


def _ours(entry: Entry, row: Row) -> Row | None:
    """The row of ours that another is compared with: the first of its part."""
    alike = (one for one in entry.rows if _mine(one) and (one.part == "layer") == (row.part == "layer"))
    return next((one for one in alike if not one.note), None)


def _cells(row: Row, ours: Row | None) -> tuple[str, ...]:
    cells = []
    for phase in ("forward", "both"):
        time = getattr(row, phase)
        mine = None if ours is None or ours is row else getattr(ours, phase)
        cells += [_three(time), _ratio(time, mine), _ratio(time, getattr(row, f"{phase}_floor"))]
    step = None if row.step is None else 1e3 * row.step
    cells += [_three(step), _ratio(row.step, row.step_floor)]
    return (*cells, _small(row.error), _small(row.gradient_error), "" if row.first is None else f"{row.first:.2f}")


def _three(value: float | None) -> str:
    """Three digits.

    >>> _three(0.034567), _three(1234.5), _three(None)
    ('0.0346', '1,234', '')
    """
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _ratio(time: float | None, other: float | None) -> str:
    return "" if time is None or not other else f"{time / other:.2f}" if time < 10 * other else _three(time / other)


# ---- the picture -----------------------------------------------------------------------------------------------------


def picture(file: Path, report: Report) -> None:
    """Times over T, a line a row, floors dashed; where no two entries differ in length alone, a dot a row."""
    title = f"{report.title}; {report.device}"
    try:
        if not any(row.forward for entry in report.entries for row in entry.rows):
            note("nothing was measured, so there is nothing to draw")
        elif "summary" in report.extra:
            dots(file, title, [(label, _dots(report.entries, phase)) for phase, label in PANELS])
        else:
            entries = report.entries
            draw(
                file, title, [Panel(label, _lines(entries, phase), _floors(entries, phase)) for phase, label in PANELS]
            )
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="--plot") from None


Line = list[tuple[int, float]]


def _named(entries: Sequence[Entry], entry: Entry, label: str) -> str:
    """A line's name, with its layer's where there are several."""
    return label if len({one.of for one in entries}) == 1 else f"{entry.of} {label}"


def _lines(entries: Sequence[Entry], phase: str) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for entry in entries:
        for row in entry.rows:
            time = getattr(row, phase)
            if time is not None:
                found.setdefault(_named(entries, entry, _label(row)), []).append((entry.length, time))
    return found


def _floors(entries: Sequence[Entry], phase: str) -> dict[str, Line]:
    """The floor of each part's first row, or of each row of ours where they differ in size."""
    found: dict[str, dict[int, float]] = {}
    for entry in entries:
        known: list[float] = []
        for row in entry.rows:
            floor = getattr(row, f"{phase}_floor")
            if _mine(row) and floor is not None and all(abs(floor / one - 1) > 0.02 for one in known):
                known.append(floor)
                place = f"floor {_label(row)}".replace(": ssdc", "").replace(" ssdc", "")
                found.setdefault(_named(entries, entry, place), {})[entry.length] = floor
    return {name: sorted(points.items()) for name, points in found.items()}


def _dots(entries: Sequence[Entry], phase: str) -> list[Dot]:
    found = []
    for entry in entries:
        times = {row.name: time for row in entry.rows if (time := getattr(row, phase)) is not None}
        floor = next((value for row in entry.rows if (value := getattr(row, f"{phase}_floor")) is not None), None)
        found.append(Dot(entry.of, times, floor))
    return found
