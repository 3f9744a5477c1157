"""How good the choice among forms of the Triton kernels is: forms of a contraction timed, beside their predictions.

In: shapes of contractions with one gate a head. Out: a `Cell` a shape and mode, as `ssdc.runtime.regret` has them; the
cost rule's own choice is named in it. Needs a CUDA device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.triton import configuration, pricing
from ssdc.codegen.triton.configuration import Backward, Call, Forward
from ssdc.codegen.triton.facts import Facts
from ssdc.plan.candidate import Candidate, Mode
from ssdc.plan.hardware import Hardware
from ssdc.runtime.kernels.backward import run_backward
from ssdc.runtime.kernels.calls import Given
from ssdc.runtime.kernels.forward import run_forward
from ssdc.runtime.kernels.launch import processors
from ssdc.runtime.kernels.replay import replayed
from ssdc.runtime.kernels.walks import readable
from ssdc.runtime.regret import Cell, Timing

LARGEST = 8e9
"""Bytes that the operands of a call may have."""


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


BEST = 2
"""Numbers of segments that are measured of each form: those predicted to be the fastest."""
WIDTHS = ((64, 64, 1), (128, 128, 1), (128, 64, 8), (256, 256, 1))
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


def measure(shape: Shape, mode: Mode, hardware: Hardware, device: str = "cuda") -> Iterator[Cell]:
    """The cell of a shape, forward or (`both`) forward and backward; none where the device has no memory for it."""
    count = processors(torch.device(device))
    facts = Facts("bfloat16", shape.states, shape.columns, "varying")
    operands = _operands(shape, device)
    engine = readable(*operands[:3])
    call = Call(shape.batch * shape.heads, shape.length, shape.shared, count, False, False, engine)
    back = configuration.backward(facts, call, True) if mode == "both" else None
    rule = configuration.forward(facts, call)
    offered = [(pricing.candidate(facts, call, one, hardware, back), one) for one in pricing.forms(facts, call)]
    offered.sort(key=lambda pair: (pair[0].cost.seconds, pair[0].cost.busy))
    priced = [pair for place, pair in enumerate(offered) if pair[1] == rule or _worth(offered, place, shape.length)]
    try:
        timings = tuple(
            Timing(found.title, found.cost.seconds, _seconds(one, back, shape, operands)) for found, one in priced
        )
    except torch.cuda.OutOfMemoryError:
        return
    sizes = {"b": shape.batch, "T": shape.length, "H": shape.heads, "N": shape.states, "P": shape.columns}
    chosen = pricing.candidate(facts, call, rule, hardware).title
    yield Cell("kernels", f"G={shape.heads // shape.shared}", sizes, mode, timings, chosen)


def _worth(offered: Sequence[tuple[Candidate, Forward]], place: int, length: int) -> bool:
    """Whether a candidate is measured: the `BEST` of each form, and position by position only where that is short."""
    form = offered[place][1].form
    if form == "recurrent" and length > 256:
        return False
    return sum(one.form == form for _, one in offered[:place]) < BEST


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


def _seconds(chosen: Forward, after: Backward | None, shape: Shape, operands: Sequence[Tensor]) -> float:
    """Seconds of a call as users make it, replayed; with kernels for `after` it, of one forward and backward."""

    def given(*tensors: Tensor) -> Given:
        return Given(*tensors, None, None, None, shape.heads, False, 0)  # type: ignore[arg-type, call-arg]

    @replayed
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        return run_forward(chosen, given(*tensors))

    @replayed
    def backward(grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        assert after is not None
        return run_backward(after, grad, None, given(*tensors), True)

    class Learned(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Any:
            ctx.save_for_backward(*tensors)
            return forward(*tensors)[0]

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return backward(grad, *ctx.saved_tensors)[:4]

    *tensors, grad = operands
    leaves = [x.detach().requires_grad_() for x in tensors]
    learned: Callable[..., Tensor] = Learned.apply

    def call() -> None:
        if after is None:
            forward(*tensors)
        else:
            torch.autograd.grad(learned(*leaves), leaves, grad)

    do_bench = importlib.import_module("triton.testing").do_bench
    return float(do_bench(call, warmup=10, rep=30, return_mode="median")) / 1e3
