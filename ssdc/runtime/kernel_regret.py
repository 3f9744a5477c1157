"""How good the choice among forms of the Triton kernels is: forms of a contraction timed, beside their predictions.

In: shapes of contractions with one gate a head. Out: a `Cell` a shape and mode, as `ssdc.runtime.regret` has them.
Needs a CUDA device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from torch import Tensor

from ssdc.codegen.triton import choose, pricing
from ssdc.codegen.triton.configuration import Backward, Call, Forward
from ssdc.codegen.triton.facts import Facts
from ssdc.plan.candidate import Candidate
from ssdc.plan.hardware import Hardware
from ssdc.runtime.devices import alone
from ssdc.runtime.kernels.calls import Given
from ssdc.runtime.kernels.launch import processors
from ssdc.runtime.kernels.masked import configured, masked
from ssdc.runtime.kernels.walks import readable
from ssdc.runtime.regret import Cell, Timing, settle, timed, turned

LARGEST = 8e9
"""Bytes that the operands of a call may have."""
ROUNDS, MOST, BURST = 9, 20, 2e-3
"""Rounds of which the host's least counts, and in each the calls at most, and their seconds about."""
REPLAYED = 3
"""Calls after which further ones are replayed (`ssdc.runtime.kernels.replay`)."""
SHORT = 256
"""Positions that one kernel is tried on one by one."""


@dataclass(frozen=True)
class Shape:
    """A contraction in bfloat16 with gates that vary: query and key [batch, length, heads / shared, states], value
    [batch, length, heads, columns]."""

    batch: int
    length: int
    heads: int
    states: int
    columns: int
    shared: int = 1

    @property
    def bytes(self) -> float:
        """Of operands and result."""
        return 4.0 * self.batch * self.length * self.heads * (self.states / self.shared + self.columns)


SEGMENTS = (1, 2, 4, 8, 16, 32)
"""Pieces of time that are measured, besides those of the choice."""
WIDTHS = ((16, 16, 1), (64, 64, 1), (128, 128, 1), (128, 64, 8), (256, 64, 1), (256, 256, 1))
"""States, columns, and heads that share a query and key."""
LANES = ((1, 1), (1, 16), (4, 32), (16, 64))
"""Sequences and heads."""


def shapes(lengths: tuple[int, ...]) -> tuple[Shape, ...]:
    """The grid of shapes that fit into memory."""
    grid = (
        Shape(batch, length, heads, states, columns, shared if heads % shared == 0 else 1)
        for states, columns, shared in WIDTHS
        for batch, heads in LANES
        for length in lengths
    )
    return tuple(dict.fromkeys(shape for shape in grid if shape.bytes <= LARGEST))


def measure(shape: Shape, hardware: Hardware, device: str = "cuda") -> Iterator[Cell]:
    """The cells of a shape, forward, and forward and backward; none where the device has no memory for it. First among
    candidates is the choice, which calls run."""
    count = processors(torch.device(device))
    facts = Facts("bfloat16", shape.states, shape.columns, "varying")
    operands = _operands(shape, device)
    engine = readable(*operands[:3])
    call = Call(shape.batch * shape.heads, shape.length, shape.shared, count, False, False, engine)
    sizes = {"b": shape.batch, "T": shape.length, "H": shape.heads, "N": shape.states, "P": shape.columns}
    groups = f"G={shape.heads // shape.shared}"
    offered, after = _forms(facts, call, hardware), _backs(facts, call, hardware)
    calls = [_forward(one, shape, operands) for one in offered] + [_backward(one, shape, operands) for one in after]
    try:
        *hosts, learned = _hosts([*calls, _learned(operands, shape.heads)])
        taken = [Taken(alone(call), host) for call, host in zip(calls, hosts, strict=True)]
    except torch.cuda.OutOfMemoryError:
        return
    learning = max(0.0, learned - hosts[0] - hosts[len(offered)])  # the host's, besides what the passes take of it
    forward, back = dict(zip(offered, taken, strict=False)), dict(zip(after, taken[len(offered) :], strict=True))
    found = [_timing(pricing.candidate(facts, call, one, hardware), seconds) for one, seconds in forward.items()]
    yield Cell("kernels", groups, sizes, "forward", tuple(found))
    both = [
        _timing(pricing.candidate(facts, call, one, hardware, last), first + second + Taken(0.0, learning), last)
        for one, first in forward.items()
        for last, second in back.items()
    ]
    yield Cell("kernels", groups, sizes, "both", tuple(both))


@dataclass(frozen=True)
class Taken:
    """Seconds that a call takes of the device, and of the host, which works ahead."""

    device: float
    host: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.device + other.device, self.host + other.host)


def _timing(found: Candidate, taken: Taken, after: Backward | None = None) -> Timing:
    """A candidate: of a stream of calls, each takes what the slower of device and host does."""
    back = "" if after is None else f", back {after.form}" + (f"({after.segments})" if after.segments > 1 else "")
    return Timing(found.title + back, found.cost.seconds, max(taken.device, taken.host))


def _forms(facts: Facts, call: Call, hardware: Hardware) -> tuple[Forward, ...]:
    """What is measured forward, the choice first; position by position only where time is short."""
    chosen = choose.forward(facts, call, hardware=hardware)
    offered = [one for one in pricing.forms(facts, call) if one.segments in SEGMENTS]
    return tuple(dict.fromkeys((chosen, *(one for one in offered if one.form != "recurrent" or call.length <= SHORT))))


def _backs(facts: Facts, call: Call, hardware: Hardware) -> tuple[Backward, ...]:
    """What is measured backward, the choice first."""
    chosen = choose.backward(facts, call, True, hardware=hardware)
    offered = [one for one in pricing.backs(facts, call, True) if one.segments in SEGMENTS]
    return tuple(dict.fromkeys((chosen, *offered)))


def _operands(shape: Shape, device: str) -> tuple[Tensor, ...]:
    """Query, key, value, log gate, and the gradient of the output."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(heads: int, width: int) -> Tensor:
        size = (shape.batch, shape.length, heads, width)
        return torch.randn(size, device=device, generator=generator).to(torch.bfloat16)

    groups = shape.heads // shape.shared
    gate = -0.1 * torch.rand((shape.batch, shape.length, shape.heads), device=device, generator=generator)
    query, key = normal(groups, shape.states), normal(groups, shape.states)
    return query, key, normal(shape.heads, shape.columns), gate, normal(shape.heads, shape.columns)


def _given(operands: Sequence[Tensor], shape: Shape) -> Given:
    query, key, value, gate, *_ = operands
    return Given(query, key, value, gate, None, None, None, shape.heads, False, 0)


def _forward(chosen: Forward, shape: Shape, operands: Sequence[Tensor]) -> Callable[[], object]:
    return partial(configured(chosen), *_given(operands, shape))


def _backward(chosen: Backward, shape: Shape, operands: Sequence[Tensor]) -> Callable[[], object]:
    return partial(configured(chosen), operands[4], None, *_given(operands, shape), True)


def _learned(operands: Sequence[Tensor], heads: int) -> Callable[[], object]:
    """Forward and backward, as users run them: by the choice, and differentiated by PyTorch."""
    *tensors, grad = operands
    query, key, value, gate = leaves = [x.detach().requires_grad_() for x in tensors]

    def both() -> object:
        y, _ = masked(query, key, value, gate, None, None, None, heads, False)
        return torch.autograd.grad(y, leaves, grad)

    return both


def _hosts(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds that the host takes for each of several calls, the least over rounds in turn, since all that disturbs it
    adds: of a few, one upon another, as many as go before the host would wait for the device."""
    counts = []
    for call in calls:
        for _ in range(REPLAYED):
            call()
        counts.append(max(1, min(MOST, int(BURST / timed(call, "cuda", 1)))))
    least = [inf] * len(calls)
    for turn in range(ROUNDS):
        settle()
        for place in turned(len(calls), turn):
            least[place] = min(least[place], _host(calls[place], counts[place]))
    return least


def _host(call: Callable[[], object], count: int) -> float:
    """Seconds until the host has started each of so many calls, after one, on a device that has little to do before."""
    torch.cuda.synchronize()
    call()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count
