"""Draws times of several subjects by shape: a row a shape, a mark a subject, its floor a tick.

In go shapes with times in ms; out comes a picture file. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssdc.report.style import styles


@dataclass(frozen=True)
class Dot:
    """A shape: times by subject, and the least possible time, where it is known."""

    shape: str
    times: Mapping[str, float]
    floor: float | None


def dots(file: Path, title: str, panels: Sequence[tuple[str, Sequence[Dot]]]) -> None:
    """Writes one panel a measured quantity, side by side, shapes from the top down, time on a log axis.

    Raises ValueError for an ending that matplotlib does not know, OSError where the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    rows = [dot.shape for dot in panels[0][1]]
    names = list(dict.fromkeys(name for _, found in panels for dot in found for name in dot.times))
    figure = Figure(figsize=(5.2 * len(panels) + 3, 1.6 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, (label, found) in zip(axes, panels, strict=True):
        for name, (colour, marker) in styles(names).items():
            points = [(dot.times[name], row) for row, dot in enumerate(found) if name in dot.times]
            xs, ys = zip(*points, strict=True) if points else ((), ())
            panel.plot(xs, ys, color=colour, marker=marker, linestyle="none", markersize=6, label=name)
        floors = [(dot.floor, row) for row, dot in enumerate(found) if dot.floor is not None]
        xs, ys = zip(*floors, strict=True) if floors else ((), ())
        panel.plot(xs, ys, color="#555555", marker="|", linestyle="none", markersize=11, label="floor")
        panel.set(xscale="log", xlabel=label)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes[0].set_yticks(range(len(rows)), rows, fontsize=8)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names) + 1, frameon=False)
    figure.suptitle(title)
    figure.savefig(file, dpi=150)
