"""The cost model: what a piece of work asks of a machine -> how long it takes there, and what bounds it.

In: `Work`, counts without a machine. Out: `Price`, predicted seconds by what is busy. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from ssdc.plan.hardware import INFINITE, Hardware

STALL = 1.34
"""How much longer one program takes for products that wait for one another than a multiprocessor that has them all."""
TOGETHER = 1.6
"""How well a GPU's units work beside one another: the power in whose norm their times add up (one: they take turns)."""
ALONE = 1.5
"""How much more than its share of memory's rate a processor of a GPU has where others are idle."""
HEAP = 2.0**25
"""Bytes of a result from which on the system hands out its memory anew each time, page by page (the most that the C
library's threshold for mapped memory grows to); memory of smaller ones is kept for the next."""
EAGER = 0.8
"""How much of a copy's rate PyTorch's operations reach on a GPU, one after another."""
WAITS = 6.0
"""Beginnings of a kernel that a step of a loop over time is worth on a GPU: small kernels, one upon another."""
ROW = 30.0
"""Elementwise operations that a CPU does while it starts a row."""
UNITS = ("matrix", "vector", "exponentials", "memory", "launches", "latency")
"""What may be busy."""


@dataclass(frozen=True)
class Work:
    """Operations done one after another, alike: counts over all of them.

    `matrix` are floating-point operations of matrix products (a multiply-add is two), of which `side` is the least side
    and whose elements have 16 bits with `half`; `thin` those of products with one column, `vector` elementwise ones, in
    so many `rows` of neighbours where operands lie differently.
    `bytes` are moved, `scattered` of them against the order of memory; `touched` pass before the same ones are used
    again; `fresh` are those of all results, `largest` those of one, `workspace` those alive at once. `launches` are
    operations started, of which `steps` in a loop over time, `nodes` those that are differentiated, `kernels` Triton
    kernels started. `depth` counts steps within a kernel that wait for one another, each with `chain` operations of
    matrix products that do so, too.
    `entries` can be worked on side by side.
    """

    matrix: float = 0.0
    thin: float = 0.0
    vector: float = 0.0
    transcendental: float = 0.0
    rows: float = 0.0
    bytes: float = 0.0
    scattered: float = 0.0
    launches: float = 0.0
    steps: float = 0.0
    kernels: float = 0.0
    nodes: float = 0.0
    depth: float = 0.0
    fresh: float = 0.0
    workspace: float = 0.0
    side: float = float("inf")
    half: bool = False
    chain: float = 0.0
    touched: float = 0.0
    largest: float = 0.0
    entries: float = float("inf")

    def times(self, factor: float, *, kept: bool = True) -> Work:
        """The work done `factor` times, one after another; its results are all `kept`, or each takes the place of the
        last."""
        names = COUNTS if kept else COUNTS[:-2]
        return replace(self, **{name: getattr(self, name) * factor for name in names})


COUNTS = tuple(one.name for one in fields(Work))[:14]
"""The fields of `Work` that add up over operations, `fresh` and `workspace` last."""


@dataclass(frozen=True)
class Price:
    """Predicted seconds: `busy` with the work, and `starting` operations, which a GPU does beside one another
    (`overlap`); and the seconds that each unit is busy."""

    busy: float = 0.0
    starting: float = 0.0
    overlap: bool = False
    units: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The whole time."""
        return max(self.busy, self.starting) if self.overlap else self.busy + self.starting

    @property
    def bound(self) -> str:
        """The unit that is busy longest.

        >>> Price(2.0, 1.0, units={"memory": 2.0, "launches": 1.0}).bound
        'memory'
        """
        return max(self.units, key=lambda unit: self.units[unit], default="launches")

    def __add__(self, other: Price) -> Price:
        units = {unit: self.units.get(unit, 0.0) + other.units.get(unit, 0.0) for unit in UNITS}
        overlap = self.overlap or other.overlap
        return Price(self.busy + other.busy, self.starting + other.starting, overlap, units)


@dataclass(frozen=True)
class Cost:
    """What a candidate takes in all: operations by unit, bytes moved, operations started, seconds, the bytes of its
    temporaries (as autograd keeps them), and the seconds without the starts."""

    matrix: float = 0.0
    vector: float = 0.0
    transcendental: float = 0.0
    bytes: float = 0.0
    launches: float = 0.0
    seconds: float = 0.0
    workspace: float = 0.0
    busy: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def total(works: Sequence[Work], price: Price) -> Cost:
    """The sum of works, at their price."""

    def of(*names: str) -> float:
        return float(sum(getattr(work, name) for work in works for name in names))

    return Cost(
        matrix=of("matrix", "thin"),
        vector=of("vector"),
        transcendental=of("transcendental"),
        bytes=of("bytes"),
        launches=of("launches", "kernels"),
        seconds=price.seconds,
        workspace=of("workspace"),
        busy=price.busy,
    )


def costing(works: Sequence[Work], hardware: Hardware) -> Cost:
    """What works take on a machine, one after another."""
    return total(works, sum(prices(works, hardware), Price()))


def prices(works: Sequence[Work], hardware: Hardware) -> list[Price]:
    """The price of each of several works that are done together: the results of all lie in memory."""
    held = sum(work.fresh for work in works)
    return [predict(work, hardware, held) for work in works]


def predict(work: Work, hardware: Hardware, held: float = 0.0) -> Price:
    """The time of a piece of work on a machine, where `held` bytes of results lie beside it.

    A CPU does one thing after another, so times add up; a GPU loads and multiplies at once, but not all the time, and
    does so while the next operation is started.

    >>> from ssdc.plan.hardware import CPU
    >>> predict(Work(matrix=2e9, side=64, bytes=1e6, touched=1e6, launches=1), CPU).bound
    'matrix'
    """
    gpu = hardware.device == "cuda"
    rate = hardware.half if work.half else hardware.matrix
    share = hardware.share(work.entries)
    units = {
        "matrix": (work.matrix / hardware.product(work.side, half=work.half) + work.thin / hardware.column(work.side))
        / share,
        "vector": (work.vector + (0.0 if gpu else ROW * work.rows)) / hardware.vector / share,
        "exponentials": work.transcendental / hardware.transcendental / share,
        "memory": _moving(work, hardware, held) / (min(1.0, ALONE * share) if gpu else share),
        "launches": (work.launches - work.steps) * hardware.launch + work.steps * hardware.step
        + work.nodes * hardware.node + work.kernels * hardware.kernel,
        "latency": work.depth * (hardware.latency + STALL * work.chain * hardware.processors / rate),
    }  # fmt: skip
    working = [seconds for unit, seconds in units.items() if unit != "launches"]
    power = TOGETHER if gpu else 1.0
    busy = sum(seconds**power for seconds in working) ** (1 / power)
    return Price(busy + (work.kernels + WAITS * work.steps) * hardware.begin, units["launches"], gpu, units)


def _moving(work: Work, hardware: Hardware, held: float) -> float:
    """Seconds that a whole machine takes to move what a piece of work does."""
    touched = work.touched if work.steps else max(work.touched, held)
    if hardware.device == "cpu" and work.largest >= HEAP:
        touched = INFINITE
    seconds = hardware.moving(work.bytes, touched) + work.scattered / hardware.scattered
    return seconds / EAGER if hardware.device == "cuda" and not work.kernels else seconds
