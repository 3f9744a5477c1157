"""Draws what `ssdc compare` and `ssdc bench` found: one line an ordering, spec or library, crossovers marked.

In go values by name over one size; out comes a picture file. Log-log axes, a label at the end of each line instead of a
legend, colours that colour-blind readers can tell apart, a marker a name besides. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from ssdc.plan.comparison import Crossover, Series, crossovers
from ssdc.report.style import short, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = ("#777777", "")
"""The colour of a floor, which has no marker."""
Looks = Mapping[str, tuple[str, str]]
"""Colours and markers by the names of lines."""
AXES = {"T": "T (positions)", "b": "b (sequences)"}


@dataclass(frozen=True)
class Panel:
    """A quantity: its measured lines, and dashed ones: what is predicted of a line, by its name, or a floor, by any
    other."""

    label: str
    lines: Series
    dashed: Series = field(default_factory=dict)


def draw(file: Path, title: str, panels: Sequence[Panel], *, axis: str = "T") -> None:
    """Writes the panels, side by side, over the size `axis`, to `file` (its ending names the format). Rings are where
    lines cross (thin ones: dashed lines), words are at those of the lowest.

    Raises ValueError for an ending that matplotlib does not know, OSError where the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    looks = styles(list(dict.fromkeys(name for panel in panels for name in panel.lines)))
    for place, panel in zip(axes, panels, strict=True):
        _panel(place, panel, looks, axis)
    figure.suptitle(fill(title, 85 * len(panels)))
    figure.savefig(file, dpi=150)


def _panel(axes: Axes, panel: Panel, looks: Looks, axis: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=AXES.get(axis, axis), ylabel=panel.label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    sizes = sorted({size for values in (*panel.lines.values(), *panel.dashed.values()) for size, _ in values})
    axes.set_xticks(sizes, [short(size) for size in sizes], rotation=0 if len(sizes) < 8 else 45)
    axes.minorticks_off()
    for name, values in panel.lines.items():
        colour, marker = looks.get(name, FLOOR)
        axes.plot(*zip(*values, strict=True), color=colour, marker=marker, markersize=4.5, linewidth=1.6)
    for name, values in panel.dashed.items():
        colour, marker = looks.get(name, FLOOR)
        axes.plot(*zip(*values, strict=True), color=colour, marker=marker, markersize=4.5, markerfacecolor="white",
                  linestyle="--", linewidth=1.0)  # fmt: skip
    floors = {name: values for name, values in panel.dashed.items() if name not in panel.lines}
    _label_ends(axes, {**panel.lines, **floors}, looks)
    predicted = {name: values for name, values in panel.dashed.items() if name in looks}
    measured = crossovers(panel.lines)
    for crossings, colour, width in ((crossovers(predicted), "#777777", 0.8), (measured, "#000000", 1.4)):
        for one in crossings:
            axes.plot(one.at, one.value, "o", markersize=9, fillstyle="none", color=colour, markeredgewidth=width)
    least = [one for one in measured if one.least]
    for one in least:
        axes.axvline(one.at, color="#888888", linewidth=0.8, linestyle=":")
    for one in _apart(least):
        text = f"{one.after} from {axis} = {about(one.at)}"
        axes.annotate(text, (one.at, 0.02), xycoords=("data", "axes fraction"), xytext=(-2, 0),
                      textcoords="offset points", rotation=90, fontsize=8, color="#555555", ha="right", va="bottom",
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})  # fmt: skip


def _apart(found: Sequence[Crossover]) -> list[Crossover]:
    """The crossings that have room for a label; of several close together the last."""
    last = len(found) - 1
    return [one for place, one in enumerate(found) if place == last or found[place + 1].at > 1.3 * one.at]


def _label_ends(axes: Axes, series: Series, looks: Looks) -> None:
    """Each line's name right of its last point, lines that end together spread apart."""
    ends = sorted((values[-1][1], values[-1][0], name) for name, values in series.items())
    low, high = axes.get_ylim()
    apart = (high / low) ** 0.045
    taken: dict[int, float] = {}
    for value, size, name in ends:
        height = max(value, taken.get(size, 0.0) * apart)
        taken[size] = height
        axes.annotate(name, (size, height), xytext=(7, 0), textcoords="offset points", va="center",
                      color=looks.get(name, FLOOR)[0], fontweight="bold" if name in looks else "normal")  # fmt: skip


def about(size: float) -> str:
    """A size between two that were tried.

    >>> about(1234.6), about(4.24)
    ('1,235', '4.2')
    """
    return f"{size:,.0f}" if size >= 20 else f"{size:.2g}"
