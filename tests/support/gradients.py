"""Gradients of a layer or its reference, and how far rounding may move them.

To first order, a computation that is stable makes no larger an error than what it computes would change by if every
input,
parameter, initial state and cotangent changed by a relative u (backward stability; Higham, ch. 1.5): each product of a
gradient's sum has those as its factors. That change is found by making it, in the float64 reference: DRAWS times every
number x becomes x (1 +- h), signs at random, and the root mean square of what the gradient changes by, over h, is its
condition c. A mean of squares over signs is the square sum of all first derivatives, times their x, so that it is the
size of
an error whose parts are random, too; |g| is added for the last rounding. Gates are taken from running sums over a
chunk, whose
gradient is a running sum backwards: an error at one position shows at others of its chunk. So c is the largest along
time
for each entry of the other axes. A gradient may be off by FACTOR * u * c, with FACTOR = 64: 16 as for outputs, twice
for
the values that the forward pass leaves and the backward pass reads, and twice for the estimate of c from DRAWS draws.

In float64 the reference rounds as much as what it is compared with, and less carefully (1 - exp(x) as written), so
that the
bound is 1e-9 c, and 16 u64 times the largest c for what cancels to nothing (scaling a query changes no quotient of row
sums; what remains of a gradient is the rounding of terms as large as elsewhere). The order fft adds what
`compare.fourier` derives. CANCELS are gradients that the chain rule, applied to a
program as written, makes of terms that cancel: no computation of them from those terms is stable in the sense above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from tests.support.compare import UNIT
from tests.support.programs import Case, draw_inputs, reference, time_dims, tuple_of

FACTOR = 64.0
DRAWS = 6
STEP = 2.0**-20
"""Large against float64's rounding, small against the curvature of what is differentiated."""

Gradients = dict[str, Tensor]


def cotangents(case: Case, outputs: tuple[Tensor, ...], seed: int = 0) -> list[Tensor]:
    """Random numbers that float32 holds, one an element of the outputs."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(y.shape, generator=draw).to(torch.float64) for y in outputs]


def gradients(
    call: Callable[..., object], module: nn.Module, inputs: Mapping[str, Tensor], weights: list[Tensor]
) -> Gradients:
    """The gradients of sum(weights * outputs) for real inputs and parameters; zero where nothing depends on one."""
    leaves = {name: x.detach().clone().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
    wanted = {name: x for name, x in leaves.items() if x.is_floating_point()} | dict(module.named_parameters())
    outputs = tuple_of(call(**leaves))  # type: ignore[arg-type]
    total = sum(
        ((y * w.to(y.dtype)).sum() for y, w in zip(outputs, weights, strict=True)), start=outputs[0].new_zeros(())
    )
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(wanted.items(), found, strict=True)}


def nudged(x: Tensor, draw: torch.Generator, step: float = STEP) -> Tensor:
    """x (1 +- step), signs at random."""
    if not x.is_floating_point():
        return x
    return x * (1 + step * (2.0 * torch.randint(2, x.shape, generator=draw).to(x.device) - 1))


def conditioned(
    evaluate: Callable[[Mapping[str, Tensor], list[Tensor]], Gradients],
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    weights: list[Tensor],
    dims: Mapping[str, int | None],
    step: float = STEP,
) -> tuple[Gradients, Gradients]:
    """Gradients in float64, and the condition of each element. `dims` names the time dimension of each input; a `step`
    as large as a format's rounding sees the kinks that this rounding may cross."""
    wanted = evaluate(inputs, weights)
    squares = {name: torch.zeros_like(g) for name, g in wanted.items()}
    kept = {name: parameter.data for name, parameter in module.named_parameters()}
    for seed in range(DRAWS):
        draw = torch.Generator().manual_seed(seed + 1)
        for name, parameter in module.named_parameters():
            parameter.data = nudged(kept[name], draw, step)
        changed = {k: nudged(x, draw, step) for k, x in inputs.items()}
        moved = evaluate(changed, [nudged(w, draw, step) for w in weights])
        for name, g in moved.items():
            squares[name] += ((g - wanted[name]) / step) ** 2
    for name, parameter in module.named_parameters():
        parameter.data = kept[name]
    found = {}
    for name, g in wanted.items():
        size = (squares[name] / DRAWS).sqrt() + g.abs()
        dim = dims.get(name)
        found[name] = size if dim is None or not size.numel() else size.amax(dim, keepdim=True).expand_as(size)
    return wanted, found


@cache
def expected(case: Case, length: int) -> tuple[dict[str, Tensor], list[Tensor], Gradients, Gradients]:
    """Inputs, cotangents, the reference's gradients, and their conditions."""
    x = {
        name: value.double() if value.is_floating_point() else value
        for name, value in draw_inputs(case, length).items()
    }
    module = reference(case)
    weights = cotangents(case, tuple_of(module(**x)))
    wanted, condition = conditioned(lambda i, w: gradients(module, module, i, w), module, x, weights, time_dims(case))
    return x, weights, wanted, condition


CANCELS = {("s4d", "log_A"): 2 / 3.7e-4, ("s4d", "log_dt"): 2 / 3.7e-4}
"""By how much the terms of a gradient exceed it, at most: (1 - exp(-r)) / A, r = A dt >= exp(-1) / 1000, has the
derivatives
dt exp(-r) and -(1 - exp(-r)) / A along log A, both about dt, and their sum is about dt r / 2."""


def tolerance(case: Case, name: str, condition: Tensor, dtype: torch.dtype, order: str, length: int) -> Tensor:
    """How far each element of a gradient may be off."""
    unit = FACTOR * UNIT[dtype] if dtype == torch.float32 else 1e-9
    bound = unit * CANCELS.get((case.name, name), 1.0) * condition + torch.finfo(torch.float32).tiny
    if dtype == torch.float64 and condition.numel():
        bound = bound + 16 * UNIT[dtype] * condition.max()
    if order in ("fft", "auto") and condition.numel():
        factor = FACTOR * math.log2(4 * length) * math.sqrt(length) * UNIT[torch.float64] * case.grown
        bound = bound + factor * condition.max()
    return bound
