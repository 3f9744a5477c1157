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

from ssdc.codegen.triton.configuration import Backward, Forward
from ssdc.codegen.triton.maps import normed
from ssdc.runtime.kernels.backward import backward_pass
from ssdc.runtime.kernels.calls import Given, kind_of
from ssdc.runtime.kernels.eager import learns, plain, refuse_tangents
from ssdc.runtime.kernels.forward import forward_pass, run_forward
from ssdc.runtime.kernels.replay import replayed


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
    `form` is that of the forward pass, where the cost model is not to choose (`ssdc.codegen.triton.configuration`).

    Raises NotImplementedError under forward-mode differentiation, ValueError for shapes that do not fit.
    """
    refuse_tangents(query, key, value, gate, scale, initial, skip)
    reader = None if isinstance(own, str) else own
    given = Given(query, key, value, gate, reader, scale, initial, heads, strict, kind_of(own), skip, maps)
    tensors = (*given[:7], skip)
    run: Callable[..., tuple[Tensor, ...]] = _Masked.apply if learns(*tensors) else _forward
    y, final, _ = (run if plain(tensors) else torch.ops.ssdc.masked)(*given, form)
    return y, final


# ---- forward ---------------------------------------------------------------------------------------------------------

_GIVEN = (
    "Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? own, Tensor? scale, Tensor? initial, int heads, "
    "bool strict, int kind, Tensor? skip"
)
COUNT = len(Given._fields)


@replayed
def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    """What `Given` holds, and a form."""
    return forward_pass(Given(*arguments[:COUNT]), *arguments[COUNT:])


_masked = torch.library.custom_op(
    "ssdc::masked",
    _forward,
    mutates_args=(),
    schema=f'({_GIVEN}=None, str maps="", str form="") -> (Tensor, Tensor, Tensor)',
)


@_masked.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    return Given(*arguments[:COUNT]).results()


# ---- backward --------------------------------------------------------------------------------------------------------


@replayed
def _backward(grad: Tensor, grad_final: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """What `Given` holds, whether gates learn, and the output and row sums of a norm."""
    return backward_pass(grad, grad_final, Given(*arguments[:COUNT]), *arguments[COUNT:])


_masked_backward = torch.library.custom_op(
    "ssdc::masked_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor grad_final, {_GIVEN}, str maps, bool gates, Tensor? output=None, Tensor? sums=None)"
    f" -> ({', '.join(['Tensor'] * 8)})",
)


@_masked_backward.register_fake
def _(grad: Tensor, grad_final: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return Given(*arguments[:COUNT]).gradients(arguments[COUNT])


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given, (y, _, sums) = Given(*inputs[:COUNT]), output
    ctx.rest, ctx.maps = given[7:10], given.maps
    row = (y, sums) if normed(given.maps) else (None, None)
    ctx.save_for_backward(*given[:7], given.skip, *row)


def _gradients(
    ctx: Any, run: Callable[..., tuple[Tensor, ...]], grad: Tensor, grad_final: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of every argument of `masked`, None where none is due."""
    *tensors, skip, y, sums = ctx.saved_tensors
    given = len(ctx.needs_input_grad)  # torch leaves out the last arguments that are as by default
    needs = (*ctx.needs_input_grad, False, False, False)
    found = run(grad, grad_final, *tensors, *ctx.rest, skip, ctx.maps, any(needs[3:5]), y, sums)
    wanted = [None if x is None or not need else g for x, need, g in zip(tensors, needs, found, strict=False)]
    return (*wanted, None, None, None, found[7] if needs[10] else None, None, None)[:given]


_masked.register_autograd(
    lambda ctx, grad, grad_final, _: _gradients(ctx, torch.ops.ssdc.masked_backward, grad, grad_final),
    setup_context=_context,
)


def configured(chosen: Forward | Backward) -> Callable[..., tuple[Tensor, ...]]:
    """The forward or backward pass by the kernels of a configuration, replayed as calls are: of what `Given` holds;
    backward, of the gradients of output and last state first, and last of whether gates learn, and a norm's rows."""
    if isinstance(chosen, Forward):
        return replayed(lambda *arguments: run_forward(chosen, Given(*arguments)))

    def run(grad: Tensor, grad_final: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        return backward_pass(grad, grad_final, Given(*arguments[:COUNT]), *arguments[COUNT:], chosen=chosen)

    return replayed(run)


class _Masked(torch.autograd.Function):
    """What the operator and its gradient do, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        found = _forward(*inputs)
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
            grad = value.new_zeros((*value.shape[:2], ctx.rest[0], value.shape[3]))
        return _gradients(ctx, _backward, grad, grad_final)
