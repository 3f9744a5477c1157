"""The functions of the language on float64 values: elementwise ones by table, reductions, norms and softmax.

Nothing here is approximated: softplus has no linear branch, gelu is the exact one. Norms and softmax are composed of
elementwise steps, so that error magnitudes pass through each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Support, Value, lay_out


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without the linear branch of torch's own."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.expm1(x.clamp(max=0)))


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * torch.erfc(-x / 2**0.5)


def _choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition != 0, yes, no)


def _least(*values: Tensor) -> Tensor:
    return _fold(torch.minimum, values)


def _most(*values: Tensor) -> Tensor:
    return _fold(torch.maximum, values)


def _fold(function: Callable[[Tensor, Tensor], Tensor], values: Sequence[Tensor]) -> Tensor:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


def _clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "abs": torch.abs, "sin": torch.sin,
    "cos": torch.cos, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": _silu, "softplus": softplus,
    "relu": torch.relu, "gelu": _gelu, "elu": _elu, "logsigmoid": lambda x: -softplus(-x), "sign": torch.sgn,
    "log1p": torch.log1p, "expm1": torch.expm1, "min": _least, "max": _most, "clamp": _clamp, "where": _choose,
    "real": lambda x: x.real, "imag": lambda x: x.imag if x.is_complex() else torch.zeros_like(x), "conj": torch.conj,
}  # fmt: skip
"""Every elementwise function."""

EXACT = frozenset({"abs", "relu", "sign", "min", "max", "clamp", "where", "real", "imag", "conj"})
"""Those that choose or copy, and so never round (of a complex number, `abs` does: that is left to the factor 16)."""

COMPARISONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "<": torch.lt, "<=": torch.le, ">": torch.gt, ">=": torch.ge, "==": torch.eq, "!=": torch.ne,
}  # fmt: skip

EPS: Mapping[str, float] = {"rmsnorm": 1e-5, "layernorm": 1e-5, "l2norm": 1e-6}
"""The norms, and the `eps` that each adds by default."""


def total(maths: Arithmetic, value: Value, over: Sequence[str]) -> Value:
    """The sum over axes, with its rounding."""
    axes = [value.labels.index(label) for label in over]
    labels = tuple(label for label in value.labels if label not in over)
    data = value.data.sum(axes) if axes else value.data
    if maths.rounding is None or value.bound is None:
        return Value(labels, data, constant=value.constant)
    if value.constant:
        return maths.fixed(labels, data)
    bound = value.bound.sum(axes) + maths.rounding.made(value.data.abs().sum(axes)) if axes else value.bound
    return Value(labels, data, bound)


def mean(maths: Arithmetic, value: Value, over: Sequence[str]) -> Value:
    """The mean over axes."""
    count = prod(value.data.shape[value.labels.index(label)] for label in over)
    return maths.pointwise(torch.div, total(maths, value, over), maths.constant(count))


def extreme(value: Value, over: Sequence[str], largest: bool) -> Value:
    """The maximum or minimum over axes. A choice moves by at most the largest magnitude that it chose from."""
    axes = [value.labels.index(label) for label in over]
    labels = tuple(label for label in value.labels if label not in over)
    data = value.data.amax(axes) if largest else value.data.amin(axes)
    return Value(labels, data, None if value.bound is None else value.bound.amax(axes), constant=value.constant)


def norm(maths: Arithmetic, function: str, value: Value, over: Sequence[str], eps: float) -> Value:
    """rmsnorm e / sqrt(mean(e^2) + eps), layernorm (e - mean) / sqrt(var + eps), l2norm e / sqrt(sum(e^2) + eps)."""
    if function == "layernorm":
        value = maths.plus([value, mean(maths, value, over)], [1, -1])
    squares = maths.pointwise(lambda x: (x * x.conj()).real if x.is_complex() else x * x, value)
    size = total(maths, squares, over) if function == "l2norm" else mean(maths, squares, over)
    root = maths.pointwise(torch.sqrt, maths.plus([size, maths.constant(eps)], [1, 1]))
    return maths.pointwise(torch.div, value, root)


def softmax(maths: Arithmetic, scores: Value, over: Sequence[str], support: Support | None) -> Value:
    """exp(e) / sum(exp(e)) over the allowed positions; a row without any is zero.

    The largest allowed score is taken off first. It cancels whatever its error, so it counts as exact.
    """
    axes = [scores.labels.index(label) for label in over]
    allowed = torch.ones_like(scores.data, dtype=torch.bool)
    if support is not None:
        missing = set(support.labels) - set(scores.labels)
        if missing:
            raise EvaluationError(f"the mask of a softmax has the axis '{min(missing)}', which its argument lacks")
        allowed = lay_out(support.allowed, support.labels, scores.labels).expand(scores.data.shape)
    if not scores.data.numel():
        return scores
    kept = scores.each(lambda tensor: torch.where(allowed, tensor, 0), scores.labels)
    top = torch.where(allowed, kept.data.detach(), -torch.inf).amax(axes, keepdim=True)
    top = torch.where(top.isneginf(), 0, top).expand(scores.data.shape)
    shifted = maths.pointwise(torch.sub, kept, maths.exact(scores.labels, top))
    powers = maths.pointwise(torch.exp, shifted).each(lambda tensor: torch.where(allowed, tensor, 0), scores.labels)
    sums = total(maths, powers, over)
    sums = sums.each(lambda tensor: torch.where(_some(allowed, axes), tensor, torch.ones_like(tensor)), sums.labels)
    result = maths.pointwise(torch.div, powers, sums)
    return Value(result.labels, result.data, result.bound, support)


def _some(allowed: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        allowed = allowed.any(axis)
    return allowed
