"""What a machine can do per second: the figures that turn counts of work into predicted times.

In: nothing. Out: `Hardware`, and the profiles that ship (`HARDWARE`). Which of them stands for a process is
`ssdc.plan.profiles`'; measuring a machine is `ssdc calibrate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Hardware:
    """A machine with all of its processors (cores, multiprocessors) busy: rates in operations and bytes a second,
    overheads in seconds, sizes in bytes.

    `matrix` counts floating-point operations of float32 matrix products (a multiply-add is two) whose sides are at
    least `tile`, `half` those of 16-bit elements, `thin` those of a column and a matrix of such sides, `vector`
    elementwise ones, `transcendental` exponentials and the like. `bandwidth` gives, for working sets of at most so many
    bytes, the rate at which they move: caches, then memory, then memory that the system must first hand out; what moves
    against the order in memory takes as long again as `scattered` says. `launch` is the cost of starting one operation,
    `step` that of one step of a loop over time, `node` what differentiation adds to an operation, `kernel` the cost of
    starting one of the Triton kernels, `begin` what a GPU itself takes to begin one. On a GPU `latency` is what a step
    of a chain within a kernel waits at least. Work of at most `grain` entries keeps one processor busy, of larger work
    a `further` one does so much of what one alone does. Its registers and shared memory together hold `on_chip` bytes.
    """

    name: str
    device: Literal["cpu", "cuda"]
    processors: int
    matrix: float
    half: float
    thin: float
    vector: float
    transcendental: float
    bandwidth: tuple[tuple[float, float], ...]
    scattered: float
    launch: float
    step: float
    node: float
    kernel: float
    begin: float
    latency: float
    tile: float
    grain: float
    further: float
    on_chip: float
    memory: float
    source: str = ""
    """Where the figures come from."""

    def moving(self, count: float, touched: float | None = None) -> float:
        """Seconds to move `count` bytes in a working set of `touched` (that many, if not given)."""
        most = count if touched is None else touched
        return count / next((rate for limit, rate in self.bandwidth if most <= limit), self.bandwidth[-1][1])

    def share(self, entries: float) -> float:
        """How much of the machine work on so many entries keeps busy."""
        used = min(float(self.processors), max(1.0, entries / self.grain))
        return (1.0 + self.further * (used - 1.0)) / self.processors

    def product(self, side: float, *, half: bool = False) -> float:
        """The rate of matrix products whose least side is `side`."""
        share: float = min(1.0, side / self.tile) ** NARROW
        return (self.half if half else self.matrix) * share

    def column(self, side: float) -> float:
        """The rate of a column's product with a matrix whose least side is `side`: a GPU is slow on small ones."""
        share: float = (min(side, WIDE) / self.tile) ** NARROW if self.device == "cuda" else 1.0
        return self.thin * share

    def limited(self, processors: int) -> Hardware:
        """The machine with only so many of its processors."""
        return self.scaled(min(processors, self.processors))

    def scaled(self, processors: int) -> Hardware:
        """A machine of so many such processors."""
        share = processors / self.processors
        rates = {name: getattr(self, name) * share for name in RATES}
        bandwidth = tuple((limit, rate * share) for limit, rate in self.bandwidth)
        return replace(self, processors=processors, bandwidth=bandwidth, **rates)


RATES = ("matrix", "half", "thin", "vector", "transcendental", "scattered")
"""The figures of `Hardware` that grow with its processors, besides the bandwidth."""
INFINITE = float("inf")
NARROW = 0.25
"""How the rate of matrix products falls with their least side: the power."""
WIDE = 1024
"""The least side of a matrix from which on its product with a column gains nothing more: it is bound by memory."""

CPU = Hardware(
    "cpu",
    "cpu",
    processors=2,
    matrix=2e11,
    half=2e11,
    thin=7.3e9,
    vector=2e11,
    transcendental=3.4e9,
    bandwidth=((4.5e6, 1.4e11), (2e7, 1.3e11), (1.5e8, 7e10), (1e9, 4.2e10), (INFINITE, 2.1e10)),
    scattered=7e10,
    launch=2e-6,
    step=1.8e-6,
    node=4.6e-6,
    kernel=2e-6,
    begin=0.0,
    latency=0.0,
    tile=32,
    grain=32768,
    further=0.6,
    on_chip=1e6,
    memory=1.6e10,
    source="measured: two cores of a server (AMD EPYC, 512-bit vectors), float32, PyTorch 2.13",
)

H200 = Hardware(
    "h200",
    "cuda",
    processors=132,
    matrix=5.0e13,
    half=7.3e14,
    thin=4.6e11,
    vector=4e13,
    transcendental=3.9e12,
    bandwidth=((4e7, 6e12), (INFINITE, 4.27e12)),
    scattered=4.35e12,
    launch=1.15e-5,
    step=1e-5,
    node=1.8e-5,
    kernel=7.5e-6,
    begin=1.1e-6,
    latency=1.2e-7,
    tile=64,
    grain=2048,
    further=1.0,
    on_chip=4.9e5,
    memory=1.41e11,
    source="measured: copies 4.27 TB/s, dense bf16 680 to 790 TFLOP/s, 132 multiprocessors; the rest by NVIDIA's data "
    "sheet (H200 SXM: float32 67 TFLOP/s, 141 GB, 228 KB shared memory and 256 KB registers a multiprocessor)",
)

H100 = replace(
    H200,
    name="h100",
    bandwidth=((4e7, 6e12), (INFINITE, 2.98e12)),
    memory=8e10,
    source="NVIDIA's data sheet (H100 SXM: 3.35 TB/s, 80 GB), scaled as measured on the H200",
)

A100 = replace(
    H200,
    name="a100",
    processors=108,
    matrix=1.5e13,
    half=2.3e14,
    thin=2.2e11,
    vector=1.2e13,
    transcendental=2.4e12,
    bandwidth=((3e7, 4e12), (INFINITE, 1.81e12)),
    scattered=2.2e12,
    latency=1.7e-7,
    on_chip=4.2e5,
    memory=8e10,
    source="NVIDIA's data sheet (A100 SXM: bf16 312 TFLOP/s, float32 19.5, 2.04 TB/s, 80 GB, 108 multiprocessors), "
    "scaled as measured on the H200",
)

B200 = replace(
    H200,
    name="b200",
    processors=148,
    matrix=5.6e13,
    half=1.66e15,
    vector=4.5e13,
    transcendental=4.6e12,
    bandwidth=((1e8, 1.1e13), (INFINITE, 7.1e12)),
    thin=5e11,
    scattered=7.2e12,
    memory=1.8e11,
    source="NVIDIA's data sheet (B200: bf16 2,250 TFLOP/s dense, 8 TB/s, 180 GB, 148 multiprocessors), scaled as "
    "measured on the H200",
)

HARDWARE: Mapping[str, Hardware] = {"cpu": CPU, "a100": A100, "h100": H100, "h200": H200, "b200": B200}
"""The profiles that ship, by name."""
