"""What a machine can do per second: the figures that turn counts into predicted times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """A machine: rates in operations and bytes a second, overheads in seconds, sizes in bytes.

    `matrix` and `vector` count floating-point operations (a multiply-add is two), `transcendental` exponentials and the
    like; `launch` is the cost of starting one operation, `tile` the matrix side below which the matrix rate drops.
    """

    name: str
    matrix: float
    vector: float
    transcendental: float
    bandwidth: float
    cache: float
    launch: float
    tile: int
    memory: float


CPU = Hardware("cpu", matrix=1.6e11, vector=8e9, transcendental=3e9, bandwidth=1.2e10, cache=2e6, launch=6e-6, tile=64, memory=1.6e10)
"""Two cores with wide vectors, through PyTorch, float32."""

HARDWARE: Mapping[str, Hardware] = {"cpu": CPU}
