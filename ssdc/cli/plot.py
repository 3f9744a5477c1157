"""Draws what `ssdc compare` and `ssdc bench` measured over T: one line an ordering or library, crossovers marked.

In go measured values by name; out comes a picture file. Log-log axes, a label at the end of each line instead of a
legend, colours that colour-blind readers can tell apart, a marker an ordering besides. Nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series: TypeAlias = Mapping[str, Sequence[tuple[int, float]]]
"""For each ordering its points (T, value), T rising, values above zero."""

# Okabe and Ito's palette, without its yellow (too pale on white) and black first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
FLOOR = "#777777"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Crossover:
    """From about `T` positions on, `after` is lower than `before`, which was the lowest until then."""

    T: float
    value: float
    before: str
    after: str


def crossovers(series: Series) -> tuple[Crossover, ...]:
    """Where the lowest line changes, between points that both lines have, by straight lines in log-log.

    >>> crossovers({"a": [(1, 1.0), (4, 16.0)], "b": [(1, 4.0), (4, 4.0)]})
    (Crossover(T=2.0, value=4.0, before='a', after='b'),)
    """
    points = {name: dict(values) for name, values in series.items()}
    lengths = sorted({T for values in points.values() for T in values})
    found = []
    for low, high in pairwise(lengths):
        both = {
            name: (values[low], values[high]) for name, values in points.items() if low in values and high in values
        }
        if len(both) < 2:
            continue
        before, after = (min(both, key=lambda name: both[name][end]) for end in (0, 1))
        if before != after:
            gap = [math.log(both[after][end] / both[before][end]) for end in (0, 1)]
            share = gap[0] / (gap[0] - gap[1])
            T = low * (high / low) ** share
            value = both[before][0] * (both[before][1] / both[before][0]) ** share
            found.append(Crossover(round(T, 1), round(value, 12), before, after))
    return tuple(found)


def draw(
    file: Path, title: str, panels: Sequence[tuple[str, Series]], *, floors: Sequence[Series] | None = None
) -> None:
    """Writes one panel a measured quantity, side by side, to `file` (its ending names the format); `floors` has lines
    of each panel that nothing can be below, dashed.

    Raises ValueError for an ending that matplotlib does not know, OSError where the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for _, series in panels for name in series))
    for panel, (label, series), under in zip(axes, panels, floors or [{}] * len(panels), strict=True):
        _panel(panel, label, series, under, names)
    figure.suptitle(title)
    figure.savefig(file, dpi=150)


def _panel(axes: Axes, label: str, series: Series, floors: Series, names: list[str]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="T (positions)", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    lengths = sorted({T for values in series.values() for T, _ in values})
    axes.set_xticks(lengths, [_short(T) for T in lengths], rotation=0 if len(lengths) < 8 else 45)
    axes.minorticks_off()
    for name, values in series.items():
        place = names.index(name) % len(COLOURS)
        xs, ys = zip(*values, strict=True)
        axes.plot(xs, ys, color=COLOURS[place], marker=MARKERS[place], markersize=4.5, linewidth=1.6)
    for values in floors.values():
        axes.plot(*zip(*values, strict=True), color=FLOOR, linestyle="--", linewidth=1.0)
    _label_ends(axes, {**series, **floors}, names)
    for crossing in _apart(crossovers(series)):
        axes.axvline(crossing.T, color="#888888", linewidth=0.8, linestyle=":")
        text = f"{crossing.after} from T = {crossing.T:,.0f}"
        axes.annotate(text, (crossing.T, 0.02), xycoords=("data", "axes fraction"), xytext=(-2, 0),
                      textcoords="offset points", rotation=90, fontsize=8, color="#555555", ha="right", va="bottom",
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})  # fmt: skip


def _apart(found: Sequence[Crossover]) -> list[Crossover]:
    """The crossings that have room for a label; of several close together the last."""
    last = len(found) - 1
    return [one for place, one in enumerate(found) if place == last or found[place + 1].T > 1.3 * one.T]


def _label_ends(axes: Axes, series: Series, names: list[str]) -> None:
    """Each line's name right of its last point, lines that end together spread apart."""
    ends = sorted((values[-1][1], values[-1][0], name) for name, values in series.items())
    low, high = axes.get_ylim()
    apart = (high / low) ** 0.045
    taken: dict[int, float] = {}
    for value, T, name in ends:
        height = max(value, taken.get(T, 0.0) * apart)
        taken[T] = height
        known = name in names
        axes.annotate(name, (T, height), xytext=(7, 0), textcoords="offset points", va="center",
                      color=COLOURS[names.index(name) % len(COLOURS)] if known else FLOOR,
                      fontweight="bold" if known else "normal")  # fmt: skip


def _short(T: int) -> str:
    return f"{T // 1024}K" if T % 1024 == 0 else str(T)
