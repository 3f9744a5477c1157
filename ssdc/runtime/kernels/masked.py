"""Masked contractions with one gate a head, by Triton kernels: `masked` and `masked_step`.

    S[t] = exp(gate[t]) * S[t-1] + scale[t] * key[t] value[t]^T,    y[t] = query[t] S[t]

In: query and key [b, t, g, n], value [b, t, v, p] (g and v divide the heads: head h reads entry h // (heads / g)),
log gate [b, t, h], [h] or none, scale [b, t, h] or none, initial state [b, h, n, p] or none; 16- or 32-bit floats for
query, key and value, float32 for the rest. Strict: y[t] = query[t] (exp(own[t]) * S[t-1]), where `own` is none, the
gate itself, or a log gate. Out: y [b, t, h, p] in the type of the value and the last state in float32, new and
contiguous.

Both are torch operators with fakes; `masked` has a gradient (a second operator), for all but a second derivative. No
host synchronisation, no atomics: two runs give the same bits, and a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssdc.runtime.kernels.passes import OWN, backward_pass, forward_pass, gradient_tensors, step_pass


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
) -> tuple[Tensor, Tensor]:
    """Outputs and last state (see the module). `own` is "gate" for a strict reader that applies the gate itself.

    Raises NotImplementedError under forward-mode differentiation, ValueError for shapes that do not fit.
    """
    _refuse_tangents(query, key, value, gate, scale, initial)
    if query.shape[1] == 1 and initial is not None and not _learns(query, key, value, gate, own, scale, initial):
        y, final = masked_step(
            query.squeeze(1),
            key.squeeze(1),
            value.squeeze(1),
            gate if gate is None or gate.ndim == 1 else gate.squeeze(1),
            own.squeeze(1) if isinstance(own, Tensor) else own,
            scale if scale is None else scale.squeeze(1),
            initial,
            heads,
            strict,
        )
        return y.unsqueeze(1), final
    kind = OWN.index("gate" if isinstance(own, str) else "none" if own is None else "varying")
    given = (query, key, value, gate, None if isinstance(own, str) else own, scale, initial)
    if _plain(given):
        run: Callable[..., tuple[Tensor, Tensor]] = _Masked.apply if _learns(*given) else forward_pass
        y, final = run(*given, heads, strict, kind)
    else:
        y, final = torch.ops.ssdc.masked(*given, heads, strict, kind)
    return y, final


def masked_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | str | None,
    scale: Tensor | None,
    state: Tensor,
    heads: int,
    strict: bool,
) -> tuple[Tensor, Tensor]:
    """One position, in one launch and without a gradient: query and key [b, g, n], value [b, v, p], gates [b, h] or
    [h], state [b, h, n, p]; output [b, h, p] and the state after it."""
    kind = OWN.index("gate" if isinstance(own, str) else "none" if own is None else "varying")
    given = (query, key, value, gate, None if isinstance(own, str) else own, scale, state)
    y, after = (step_pass if _plain(given) else torch.ops.ssdc.masked_step)(*given, heads, strict, kind)
    return y, after


def _plain(given: tuple[Tensor | None, ...]) -> bool:
    """Whether a call is eager, on tensors of no subclass and under no mode: the operators' own cost in Python, some 100
    microseconds, is then saved by calling what they call."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(x is None or type(x) is Tensor or type(x) is torch.nn.Parameter for x in given)
    )


def _learns(*tensors: Tensor | str | None) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in tensors)


def _refuse_tangents(*tensors: Tensor | None) -> None:
    if forward_ad._current_level < 0:
        return
    unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual
    if any(x is not None and unpack(x).tangent is not None for x in tensors):
        raise NotImplementedError("ssdc.masked has no forward-mode derivative; use reverse mode")


# ---- forward ---------------------------------------------------------------------------------------------------------

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? own, Tensor? scale"


@torch.library.custom_op(
    "ssdc::masked",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor? initial, int heads, bool strict, int kind) -> (Tensor, Tensor)",
)
def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
) -> tuple[Tensor, Tensor]:
    return forward_pass(query, key, value, gate, own, scale, initial, heads, strict, kind)


@_masked.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
) -> tuple[Tensor, Tensor]:
    batch, length, _, states = query.shape
    columns = value.shape[-1]
    return value.new_empty((batch, length, heads, columns)), value.new_empty(
        (batch, heads, states, columns), dtype=torch.float32
    )


# ---- backward --------------------------------------------------------------------------------------------------------


@torch.library.custom_op(
    "ssdc::masked_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor grad_final, {_INPUTS}, Tensor? initial, int heads, bool strict, int kind, bool gates)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _masked_backward(
    grad: Tensor,
    grad_final: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
    gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return backward_pass(grad, grad_final, query, key, value, gate, own, scale, initial, heads, strict, kind, gates)


@_masked_backward.register_fake
def _(
    grad: Tensor,
    grad_final: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
    gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return gradient_tensors(query, key, value, gate, own, scale, initial, heads, gates)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.heads, ctx.strict, ctx.kind = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    gates = any(ctx.needs_input_grad[3:5])
    found = torch.ops.ssdc.masked_backward(grad, grad_final, *saved, ctx.heads, ctx.strict, ctx.kind, gates)
    wanted = [
        None if x is None or not needs else g for x, needs, g in zip(saved, ctx.needs_input_grad, found, strict=False)
    ]
    return (*wanted, None, None, None)


_masked.register_autograd(_backward, setup_context=_context)


class _Masked(torch.autograd.Function):
    """What the operator and its gradient do, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        *tensors, ctx.heads, ctx.strict, ctx.kind = inputs
        ctx.save_for_backward(*tensors)
        return forward_pass(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        saved: tuple[Any, ...] = ctx.saved_tensors
        if grad is None and grad_final is None:
            return (None,) * (len(saved) + 3)
        if grad is None:
            grad = saved[2].new_zeros((*saved[2].shape[:2], ctx.heads, saved[2].shape[3]))
        gates = any(ctx.needs_input_grad[3:5])
        rest: tuple[Any, ...] = (ctx.heads, ctx.strict, ctx.kind, gates)
        found = backward_pass(grad, grad_final, *saved, *rest)
        wanted = [
            None if x is None or not needs else g
            for x, needs, g in zip(saved, ctx.needs_input_grad, found, strict=False)
        ]
        return (*wanted, None, None, None)


# ---- one position ----------------------------------------------------------------------------------------------------


@torch.library.custom_op(
    "ssdc::masked_step",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor state, int heads, bool strict, int kind) -> (Tensor, Tensor)",
)
def _masked_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    state: Tensor,
    heads: int,
    strict: bool,
    kind: int,
) -> tuple[Tensor, Tensor]:
    return step_pass(query, key, value, gate, own, scale, state, heads, strict, kind)


@_masked_step.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    state: Tensor,
    heads: int,
    strict: bool,
    kind: int,
) -> tuple[Tensor, Tensor]:
    return value.new_empty((query.shape[0], heads, value.shape[-1])), state.new_empty(state.shape, dtype=torch.float32)
