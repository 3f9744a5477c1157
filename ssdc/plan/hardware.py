"""What a machine can do per second: the figures that turn counts into predicted times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """A machine: rates in operations and bytes a second, overheads in seconds, sizes in bytes.

    `matrix` and `vector` count floating-point operations (a multiply-add is two), `transcendental` exponentials and the
    like; `launch` is the cost of starting one operation, `tile` the matrix side below which the matrix rate drops.
    `bandwidth` gives, for operations that touch at most so many bytes, the rate at which they move: caches, memory, and
    memory that the system must first hand out.
    """

    name: str
    matrix: float
    vector: float
    transcendental: float
    bandwidth: tuple[tuple[float, float], ...]
    launch: float
    tile: int
    memory: float

    def moving(self, count: float) -> float:
        """Seconds to move `count` bytes in one operation."""
        rate = next((rate for most, rate in self.bandwidth if count <= most), self.bandwidth[-1][1])
        return count / rate


CPU = Hardware(
    "cpu",
    matrix=1.8e11,
    vector=2.5e10,
    transcendental=3e9,
    bandwidth=((4e6, 6e10), (6.4e7, 2.2e10), (float("inf"), 5e9)),
    launch=5e-6,
    tile=64,
    memory=1.6e10,
)
"""Two cores with wide vectors, through PyTorch, float32."""

HARDWARE: Mapping[str, Hardware] = {"cpu": CPU}
