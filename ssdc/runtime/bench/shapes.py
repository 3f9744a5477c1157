"""The sizes of a contraction with one gate a head, random operands for it, the same as a program, and the shapes of the
suite.

In: sizes, or a layer that holds such a contraction. Out: `Shape`, `Given`, text. Nothing is computed or timed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssdc.codegen.operands import operands as operands_of
from ssdc.codegen.triton.contraction import refusal
from ssdc.plan.roles import roles
from ssdc.runtime.module import Layer

Gate = Literal["none", "constant", "varying"]


@dataclass(frozen=True)
class Shape:
    """A contraction: query and key [batch, length, groups, states], value [batch, length, heads, columns]; `scale`
    multiplies each value.

    >>> str(Shape(4, 4096, 80, 128, 64, 1, scale=True))
    'B=4 T=4,096 H=80 N=128 P=64 G=1, varying gate, scaled'
    """

    batch: int
    length: int
    heads: int
    states: int
    columns: int
    groups: int
    gate: Gate = "varying"
    scale: bool = False

    def __str__(self) -> str:
        groups = f" G={self.groups}" if self.groups != self.heads else ""
        gate = "no gate" if self.gate == "none" else f"{self.gate} gate"
        text = f"B={self.batch} T={self.length:,} H={self.heads} N={self.states} P={self.columns}{groups}, {gate}"
        return text + ", scaled" * self.scale


@dataclass(frozen=True)
class Given:
    """Operands of a shape, and the gradient of its output. `rate` [heads] is what a gate is of its scale, where there
    is one."""

    query: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor | None
    scale: Tensor | None
    rate: Tensor | None
    grad: Tensor
    heads: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The operands of the contraction; those with a gradient are leaves."""
        return tuple(x for x in (self.query, self.key, self.value, self.gate, self.scale) if x is not None)


def operands(shape: Shape, dtype: torch.dtype, device: torch.device) -> Given:
    """Random operands: gates of data between -0.1 and 0 in float32, constant ones as retention has them (Sun et al.
    2023, equation 8)."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(heads: int, size: int) -> Tensor:
        x = torch.randn(shape.batch, shape.length, heads, size, device=device, generator=generator)
        return x.to(dtype).requires_grad_()

    def uniform(*sizes: int) -> Tensor:
        return torch.rand(*sizes, device=device, generator=generator)

    query, key = normal(shape.groups, shape.states), normal(shape.groups, shape.states)
    value, grad = normal(shape.heads, shape.columns), normal(shape.heads, shape.columns).detach()
    flat = (shape.batch, shape.length, shape.heads)
    gate, scale, rate = None, None, None
    if shape.scale:
        scale, rate = (0.1 * uniform(*flat)).requires_grad_(), -uniform(shape.heads)
        gate = (scale.detach() * rate).requires_grad_() if shape.gate != "none" else None
    elif shape.gate == "varying":
        gate = (-0.1 * uniform(*flat)).requires_grad_()
    elif shape.gate == "constant":
        gate = torch.log1p(-torch.exp2(-5.0 - torch.arange(shape.heads, device=device)))
    return Given(query, key, value, gate, scale, rate, grad, shape.heads)


MASKS: dict[Gate, str] = {
    "none": "mask L[t,s] = causal",
    "constant": "input gate[h]\n  mask L[h,t,s] = decay(exp(gate[h]))",
    "varying": "input gate[b,t,h]\n  mask L[b,h,t,s] = semiseparable(exp(gate[b,t,h]))",
}


def program(shape: Shape) -> str:
    """The contraction as a program, whose inputs are q, k, v, then gate and scale where it has them.

    >>> print(program(Shape(1, 8, 4, 16, 16, 2, "none")))
    layer contraction(H = 4, N = 16, P = 16, G = 2) {
      time t, s
      axis b, h = H, n = N, p = P
      axis g = G groups h
      input q[b,t,g,n], k[b,t,g,n], v[b,t,h,p]
      mask L[t,s] = causal
      y[b,t,h,p] = q[b,t,g,n] * k[b,s,g,n] * v[b,s,h,p] * L[t,s]
      output y
    }
    """
    mask = MASKS[shape.gate]
    product = f"q[b,t,g,n] * k[b,s,g,n] * v[b,s,h,p] * {mask[mask.index('mask ') + 5 : mask.index(' =')]}"
    lines = [
        f"layer contraction(H = {shape.heads}, N = {shape.states}, P = {shape.columns}, G = {shape.groups}) {{",
        "time t, s",
        "axis b, h = H, n = N, p = P",
        "axis g = G groups h",
        "input q[b,t,g,n], k[b,t,g,n], v[b,t,h,p]",
        mask,
        *(["input scale[b,t,h]"] if shape.scale else []),
        f"y[b,t,h,p] = {product}{' * scale[b,s,h]' if shape.scale else ''}",
        "output y",
    ]
    return "\n  ".join(lines) + "\n}"


def shape_of(layer: Layer, **sizes: int) -> Shape:
    """The first contraction of a layer that the Triton kernels serve, at a call's sizes; a strict one as if readers
    read their own position, too. Raises ValueError, with the reasons, where there is none."""
    reasons = []
    for choice in layer.plan(**sizes).choices.values():
        ops, found = operands_of(layer.graph, choice), roles(choice.problem)
        reason = refusal(ops)
        if reason is None:
            count = choice.problem.count
            lead = tuple(axis for axis in found.batch[:1] if layer.graph.sizes.get(axis) is None)
            heads = (*found.batch[len(lead) :], *found.rows)
            shared = [axis for axis in heads if all(axis not in op.axes for op in ops.readers)]
            gated = [*ops.logs, *ops.exclusive_logs]
            timed = any(choice.problem.time in op.axes for op in gated) or bool(ops.documents)
            gate: Gate = "varying" if timed else "constant" if gated else "none"
            flat = {*found.batch, choice.problem.time}
            return Shape(
                count(lead), choice.problem.length, count(heads), count(found.inner), count(found.outer),
                count(heads) // count(tuple(shared)), gate, any(set(op.axes) <= flat for op in ops.writers),
            )  # fmt: skip
        reasons.append(f"'{choice.problem.equation}': {reason}")
    raise ValueError("; ".join(reasons) or "it has no masked contraction")


# ---- the suite -------------------------------------------------------------------------------------------------------

SQUARE = (
    (4, 2048, 16, 128),
    (1, 8192, 96, 128),
    (2, 16384, 16, 128),
    (8, 2048, 32, 256),
    (8, 1024, 8, 64),
)
"""Batch, length, heads, and the size of a head, of linear attention, retention and scalar gates."""
MAMBA2 = ((4, 4096, 80), (8, 2048, 24), (1, 65536, 80), (1, 16384, 24))
"""Batch, length and heads of Mamba-2: 64 columns, 128 states, one group."""
FAMILIES: dict[str, tuple[Shape, ...]] = {
    "linear": tuple(Shape(b, t, h, n, n, h, "none") for b, t, h, n in SQUARE),
    "gated": tuple(Shape(b, t, h, n, n, h, "varying") for b, t, h, n in SQUARE),
    "retention": tuple(Shape(b, t, h, n, n, h, "constant") for b, t, h, n in SQUARE),
    "mamba2": tuple(Shape(b, t, h, 128, 64, 1, "varying", True) for b, t, h in MAMBA2),
}
"""The shapes of `ssdc bench --suite`, by what has them."""

TOKENS, HEADS, COLUMNS, STATES = 131072, 32, 64, (64, 128, 256)
"""The headline: a model of width 2048, its tokens a call, and the states a head of ours."""
LENGTHS = tuple(2**k for k in range(9, 18))


def headline(length: int, states: int | None) -> Shape:
    """Ours with so many states, scores shared by all heads as in Mamba-2; attention of the same width for None."""
    batch = TOKENS // length
    if states is None:
        return Shape(batch, length, HEADS, COLUMNS, COLUMNS, HEADS, "none")
    return Shape(batch, length, HEADS, states, COLUMNS, 1, "varying")
