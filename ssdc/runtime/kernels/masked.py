"""Masked contractions with one gate a head, by Triton kernels: `masked`.

    S[t] = exp(gate[t]) * S[t-1] + scale[t] * key[t] value[t]^T,    y[t] = query[t] S[t] + skip * value[t]

In: query and key [b, t, g, n], value [b, t, v, p] (g and v divide the heads: head h reads entry h // (heads / g)),
log gate [b, t, h], [h] or none, scale [b, t, h] or none, initial state [b, h, n, p] or none, skip [h], [h, p] or none;
16- or 32-bit floats for query, key and value, any float for the rest. `maps` are functions of query, key and value
that the kernels apply first (`ssdc.codegen.triton.maps`); a fourth is a norm: y is divided by that function of its row
sum (what values of one would give), and states have one more column, of those. Strict: y[t] = query[t] (exp(own[t]) *
S[t-1]), where `own` is none, the gate itself, or a log gate. Out: y [b, t, h, p] in the type of the value and the last
state in float32, new and contiguous.

A torch operator with a fake and a gradient (a second operator), for all but a second derivative. No host
synchronisation, no atomics: two runs give the same bits, and a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.triton.maps import normed
from ssdc.runtime.kernels.backward import backward_pass
from ssdc.runtime.kernels.calls import gradient_tensors, kind_of, result_tensors
from ssdc.runtime.kernels.eager import learns, plain, refuse_tangents
from ssdc.runtime.kernels.forward import forward_pass


def masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | str | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    skip: Tensor | None = None,
    maps: str = "",
    form: str = "",
) -> tuple[Tensor, Tensor]:
    """Outputs and last state (see the module). `own` is "gate" for a strict reader that applies the gate itself;
    `form` is that of the forward pass, where the cost rule is not to choose (`ssdc.codegen.triton.configuration`).

    Raises NotImplementedError under forward-mode differentiation, ValueError for shapes that do not fit.
    """
    refuse_tangents(query, key, value, gate, scale, initial, skip)
    kind = kind_of(own)
    given = (query, key, value, gate, None if isinstance(own, str) else own, scale, initial)
    if plain((*given, skip)):
        run: Callable[..., tuple[Tensor, ...]] = _Masked.apply if learns(*given, skip) else forward_pass
        y, final, _ = run(*given, heads, strict, kind, skip, maps, form)
    else:
        y, final, _ = torch.ops.ssdc.masked(*given, heads, strict, kind, skip, maps, form)
    return y, final


# ---- forward ---------------------------------------------------------------------------------------------------------

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? own, Tensor? scale"
_REST = 'Tensor? skip=None, str maps=""'


_masked = torch.library.custom_op(
    "ssdc::masked",
    forward_pass,
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor? initial, int heads, bool strict, int kind, "
    f'{_REST}, str form="") -> (Tensor, Tensor, Tensor)',
)


@_masked.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    heads, maps = rest[4], rest[8] if len(rest) > 8 else ""
    return result_tensors(query, value, heads, normed(maps))


# ---- backward --------------------------------------------------------------------------------------------------------


_masked_backward = torch.library.custom_op(
    "ssdc::masked_backward",
    backward_pass,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor grad_final, {_INPUTS}, Tensor? initial, int heads, bool strict, int kind, "
    f"bool gates, {_REST}, Tensor? output=None, Tensor? sums=None) -> ({', '.join(['Tensor'] * 8)})",
)


@_masked_backward.register_fake
def _(grad: Tensor, grad_final: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    query, key, value, gate, own, scale, initial, _, _, _, gates, *more = rest
    return gradient_tensors(query, key, value, gate, own, scale, initial, gates, more[0] if more else None)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.heads, ctx.strict, ctx.kind, skip, ctx.maps, _ = inputs
    y, _, sums = output
    norm = normed(ctx.maps)
    ctx.save_for_backward(*tensors, skip, y if norm else None, sums if norm else None)


def _backward(ctx: Any, grad: Tensor, grad_final: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, torch.ops.ssdc.masked_backward, grad, grad_final)


def _gradients(
    ctx: Any, run: Callable[..., tuple[Tensor, ...]], grad: Tensor, grad_final: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of every argument of `masked`, None where none is due."""
    *tensors, skip, y, sums = ctx.saved_tensors
    given = len(ctx.needs_input_grad)  # torch leaves out the last arguments that are as by default
    needs = (*ctx.needs_input_grad, False, False, False)
    found = run(grad, grad_final, *tensors, ctx.heads, ctx.strict, ctx.kind, any(needs[3:5]), skip, ctx.maps, y, sums)
    wanted = [None if x is None or not need else g for x, need, g in zip(tensors, needs, found, strict=False)]
    return (*wanted, None, None, None, found[7] if needs[10] else None, None, None)[:given]


_masked.register_autograd(_backward, setup_context=_context)


class _Masked(torch.autograd.Function):
    """What the operator and its gradient do, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        found = forward_pass(*inputs)
        _context(ctx, inputs, found)
        ctx.mark_non_differentiable(found[2])
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_final: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None and grad_final is None:
            return (None,) * len(ctx.needs_input_grad)
        if grad is None:
            value: Tensor = ctx.saved_tensors[2]
            grad = value.new_zeros((*value.shape[:2], ctx.heads, value.shape[3]))
        return _gradients(ctx, backward_pass, grad, grad_final)
