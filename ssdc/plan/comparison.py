"""A comparison as data: specs or orderings over one size, predicted and measured, and where their lines cross.

Times are seconds, sizes bytes, work floating-point operations. Nothing is planned or measured here. `as_json` gives the
comparison as a JSON document whose keys are the fields of these classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Literal, TypeAlias

SCHEMA = 1
"""The version of the JSON document; it rises when a key changes its meaning or goes."""

Series: TypeAlias = Mapping[str, Sequence[tuple[int, float]]]
"""For each name its points (size, value), sizes rising, values above zero."""


@dataclass(frozen=True)
class Crossover:
    """From about the size `at` on, `after` is below `before`, which was lower until then; there both have `value`.

    `least`: no other line is below the two there.
    """

    at: float
    value: float
    before: str
    after: str
    least: bool = True


@dataclass(frozen=True)
class Spec:
    """A layer that is compared: its sizes (those that vary left out), which of them were chosen for want of a value,
    and the orderings that it does not admit, with the reasons."""

    name: str
    file: str
    layer: str
    sizes: Mapping[str, int]
    chosen: tuple[str, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One ordering of one spec at one size: what is predicted of the whole layer, and what was measured, or in
    `skipped` why nothing was.

    `planned` marks the planner's choice. `workspace` is predicted bytes of temporaries, `peak` the measured rise of
    resident bytes, `error` the largest distance from float64 in units of u * m (None where none was compared).
    """

    spec: str
    order: str
    at: int
    planned: bool
    flop: float
    bytes: float
    workspace: float
    predicted: float
    seconds: float | None = None
    peak: float | None = None
    error: float | None = None
    skipped: str | None = None

    @property
    def ordering(self) -> str:
        """The orderings without chunks, each once: `chunked(64)` and `chunked(32)` are one line.

        >>> Row("a", "direct + chunked(64)", 256, True, 0, 0, 0, 0).ordering
        'direct + chunked'
        """
        return " + ".join(dict.fromkeys(re.sub(r"\(\d+\)", "", self.order).split(" + ")))


@dataclass(frozen=True)
class Comparison:
    """What was compared over the values of `axis` (`T`, `b` or a size): the orderings of one spec, or the planner's
    choices of several. `T` and `batch` are None where they vary. Predictions are for the machine `profile`."""

    axis: str
    T: int | None
    batch: int | None
    mode: Literal["forward", "both"]
    threads: int | None
    profile: str
    specs: tuple[Spec, ...]
    rows: tuple[Row, ...]

    def name(self, row: Row) -> str:
        """The line that a row is a point of: its ordering, or where there are several specs, its spec."""
        return row.ordering if len(self.specs) == 1 else row.spec

    def series(self, field: Literal["seconds", "predicted", "peak"]) -> dict[str, list[tuple[int, float]]]:
        """The lines of one quantity."""
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows:
            value: float | None = getattr(row, field)
            if value is not None and value > 0:
                found.setdefault(self.name(row), []).append((row.at, value))
        return found

    @property
    def measured_crossovers(self) -> tuple[Crossover, ...]:
        """Where measured lines cross."""
        return crossovers(self.series("seconds"))

    @property
    def predicted_crossovers(self) -> tuple[Crossover, ...]:
        """Where predicted lines cross."""
        return crossovers(self.series("predicted"))


def crossovers(series: Series) -> tuple[Crossover, ...]:
    """Where any two lines cross, by straight lines in log-log between points that both have; sizes rising.

    >>> crossovers({"a": [(1, 1.0), (4, 16.0)], "b": [(1, 4.0), (4, 4.0)]})
    (Crossover(at=2.0, value=4.0, before='a', after='b', least=True),)
    """
    points = {name: dict(values) for name, values in series.items()}
    found = []
    for one, other in combinations(points, 2):
        common = sorted(points[one].keys() & points[other].keys())
        gaps = [math.log(points[one][size] / points[other][size]) for size in common]
        lower = None
        for (low, gap), (high, next_gap) in pairwise(zip(common, gaps, strict=True)):
            lower = lower if gap == 0 else (one if gap < 0 else other)
            after = None if next_gap == 0 else (one if next_gap < 0 else other)
            if lower is None or after is None or after == lower:
                continue
            share = gap / (gap - next_gap)
            value = _between(points[lower], low, high, share)
            others = (line for name, line in points.items() if name not in (one, other) and {low, high} <= line.keys())
            least = all(_between(line, low, high, share) >= value for line in others)
            found.append(Crossover(round(low * (high / low) ** share, 1), _digits(value), lower, after, least))
    return tuple(sorted(found, key=lambda crossing: crossing.at))


def _between(line: Mapping[int, float], low: int, high: int, share: float) -> float:
    """The value of a line at a share of the way between two of its points."""
    return math.exp((1 - share) * math.log(line[low]) + share * math.log(line[high]))


def as_json(found: Comparison) -> str:
    """A comparison as JSON: `{"schema": 1, .., "specs": [..], "rows": [..], "crossovers": {"measured": [..], ..}}`."""
    crossings = {"measured": found.measured_crossovers, "predicted": found.predicted_crossovers}
    document = {
        "schema": SCHEMA,
        **asdict(found),
        "crossovers": {name: [asdict(one) for one in several] for name, several in crossings.items()},
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
