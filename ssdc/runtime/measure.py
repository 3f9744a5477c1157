"""What one call costs on this machine: its time, its peak memory, and how far it is from the float64 reference.

In goes what makes a layer, and the shape of a call; out come numbers. It is meant for a process of its own, since the
high-water mark of memory is one a process. CPU only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from ssdc.graph.graph import Graph
from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.samples import sample_inputs

UNIT = 2.0**-24
"""float32's unit roundoff."""
BUDGET = 0.3
"""Seconds that the repetitions of a call may take."""
WARM = 32
"""Positions of the call that loads what every call needs."""


@dataclass(frozen=True)
class Measured:
    """Median seconds over `repeats` calls, bytes at the peak beyond what was held before, and error in units of u * m.

    `error` is the largest |y - exact| / (u * magnitude) over all elements compared; None where none was.
    """

    seconds: float
    repeats: int
    peak: int
    error: float | None


def measure(
    make: Callable[[], Layer],
    exact: Path | None,
    length: int,
    batch: int,
    *,
    backward: bool = False,
    threads: int | None = None,
) -> Measured:
    """Measures calls of a layer: the first for memory and error, the next ones for time.

    `exact` holds what `write_reference` wrote. With `backward`, a call is the gradient of the sum of its outputs with
    respect to inputs and parameters, too.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    layer = seeded(make)
    _run(layer, sample_inputs(layer, b=batch, T=WARM), backward)
    inputs = sample_inputs(layer, b=batch, T=length)
    before = _reset_peak()
    began = time.perf_counter()
    outputs = _run(layer, inputs, backward)
    first = time.perf_counter() - began
    peak = max(0, _status("VmHWM") - before)
    error = None if exact is None else _error(layer.graph, outputs, length, exact)
    del outputs
    repeats = min(20, max(1 if first > 4 * BUDGET else 3, int(BUDGET / max(first, 1e-6))))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        _run(layer, inputs, backward)
        times.append(time.perf_counter() - began)
    return Measured(median(times), repeats, peak, error)


def write_reference(
    make: Callable[[], Layer], define: Callable[[], Reference], file: Path, length: int, batch: int
) -> None:
    """Writes the reference's outputs for a call and their magnitudes, as `Reference.bounds` gives them."""
    layer, reference = seeded(make), define()
    reference.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    with torch.no_grad():
        exact, magnitude = reference.bounds(*sample_inputs(layer, b=batch, T=length).values())
    torch.save([_several(exact), _several(magnitude)], file)


Made = TypeVar("Made")


def seeded(make: Callable[[], Made]) -> Made:
    """A layer or reference whose parameters are the same in every process."""
    torch.manual_seed(0)
    return make()


def _run(layer: Layer, inputs: dict[str, Tensor], backward: bool) -> tuple[Tensor, ...]:
    if not backward:
        with torch.no_grad():
            return _several(layer(**inputs))
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    outputs = _several(layer(**leaves))
    layer.zero_grad()
    sum((y.sum() for y in outputs), start=outputs[0].new_zeros(())).backward()  # type: ignore[no-untyped-call]
    return tuple(y.detach() for y in outputs)


def _several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


# ---- error -----------------------------------------------------------------------------------------------------------


def _error(graph: Graph, outputs: tuple[Tensor, ...], length: int, file: Path) -> float | None:
    exact, magnitude = torch.load(file, weights_only=True)
    worst = []
    for result, y, wanted, bound in zip(graph.results, outputs, exact, magnitude, strict=True):
        time = next((dim for dim, atoms in enumerate(result.layout) if atoms == (graph.reader,)), None)
        if time is None:
            continue
        count = min(length, wanted.shape[time])
        far = (y.narrow(time, 0, count).double() - wanted.narrow(time, 0, count)).abs()
        units = torch.where(far == 0, 0.0, far / (UNIT * bound.narrow(time, 0, count)))
        worst.append(float(units.nan_to_num(nan=torch.inf).max()))
    return max(worst, default=None)


# ---- memory ----------------------------------------------------------------------------------------------------------


def _reset_peak() -> int:
    """Lets this process's high-water mark begin anew, where the system allows it; the bytes resident now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(entry: str) -> int:
    """A size in bytes that the Linux kernel keeps of this process: VmRSS (now) or VmHWM (at most)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == entry:
            return 1024 * int(value.split()[0])
    return 0
