"""Masked contractions with one gate a head in quadratic order, streamed by Triton kernels: `streamed`, `folded`.

    y[t] = sum over s of (query[t] . key[s]) exp(gate[s+1] + .. + gate[t]) scale[s] value[s]

over s <= t (strict: s < t, the last gate replaced by `own`) and, with a width, t - s < width. In: query [b, t, g, n],
key [b, past + t, g, n], value [b, past + t, v, p] (g and v divide the heads: head h reads entry h // (heads / g)), log
gate [b, past + t, h], [h] or none, own and scale [b, past + t, h] or none; 16- or 32-bit floats. The last t writers
stand at the readers' positions. Out: y [b, t, h, p] in the type of the value, new and contiguous.

Pairs of positions are never in memory; for gradients of gates, one number a pair of blocks is. `streamed` is a torch
operator with a fake and a gradient (a second operator), for all but a second derivative. No host synchronisation, no
atomics: two runs give the same bits, and a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.triton import streamed as rule
from ssdc.codegen.triton.facts import Facts
from ssdc.runtime.blocks import decay, floored
from ssdc.runtime.kernels.calls import by_head, check, facts_of, gathered, gradient_tensors, kind_of, operands_of
from ssdc.runtime.kernels.eager import learns, plain, refuse_tangents
from ssdc.runtime.kernels.launch import fitting, launch, together


def streamed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | str | None,
    scale: Tensor | None,
    heads: int,
    strict: bool,
    width: int | None,
) -> Tensor:
    """Outputs (see the module). `own` is "gate" for a strict reader that applies the gate itself.

    Raises NotImplementedError under forward-mode differentiation, ValueError for shapes that do not fit.
    """
    refuse_tangents(query, key, value, gate, scale)
    kind = kind_of(own)
    given = (query, key, value, gate, None if isinstance(own, str) else own, scale)
    if plain(given):
        run: Callable[..., Tensor] = _Streamed.apply if learns(*given) else _forward
        y = run(*given, heads, strict, kind, width)
    else:
        y = torch.ops.ssdc.streamed(*given, heads, strict, kind, width)
    return y


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
) -> tuple[Facts, dict[str, Tensor]]:
    """The facts of a call, and its operands as kernels take them. Raises ValueError for shapes that do not fit."""
    check(query, key, value, gate, own, scale, heads, past=True)
    if own is not None and gate is None:
        raise ValueError("a reader has a gate of its own only where there are gates")
    facts = facts_of(query, value, gate, scale, strict, kind, None, "")
    return facts, operands_of(query=query, key=key, value=value, gate=gate, own=own, scale=scale)


# ---- forward ---------------------------------------------------------------------------------------------------------

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? own, Tensor? scale"
_REST = "int heads, bool strict, int kind, int? width"


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
    width: int | None,
) -> Tensor:
    facts, operands = _call(query, key, value, gate, own, scale, heads, strict, kind)
    batch, length = query.shape[:2]
    y = value.new_empty((batch, length, heads, value.shape[-1]))
    if y.numel() == 0 or query.shape[-1] == 0:
        return y.zero_()
    kernel = rule.outputs(facts, _banded(query, key, width))
    blocks, _, numbers = _numbers(query, key, width, kernel.tiles.chunk, heads)
    launch(kernel, batch * heads * blocks * kernel.outers, operands, heads, *(y,) * 5, *numbers)
    return y


def _numbers(
    query: Tensor, key: Tensor, width: int | None, chunk: int, heads: int
) -> tuple[int, int, tuple[int, int, int, int, int, int]]:
    """The blocks of readers, those of writers before them, and the last arguments of a kernel."""
    (batch, length), span = query.shape[:2], key.shape[1]
    blocks, past = -(-length // chunk), -(-(span - length) // chunk)
    reach = rule.reach(width, chunk, blocks + past)
    return blocks, past, (length, span - length, reach, span if width is None else width, heads, batch)


def _banded(query: Tensor, key: Tensor, width: int | None) -> bool:
    """Whether a kernel has to look at lags, or at writers from before the first reader."""
    return key.shape[1] > query.shape[1] or (width is not None and width < key.shape[1])


_streamed = torch.library.custom_op(
    "ssdc::streamed", _forward, mutates_args=(), schema=f"({_INPUTS}, {_REST}) -> Tensor"
)


@_streamed.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
    heads = rest[3]
    return value.new_empty((*query.shape[:2], heads, value.shape[-1]))


# ---- backward --------------------------------------------------------------------------------------------------------


def _gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
    width: int | None,
    gates: bool,
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, gate, own and scale; without elements where none is due."""
    facts, operands = _call(query, key, value, gate, own, scale, heads, strict, kind)
    made = _made(query, key, value, gate, own, scale, gates)
    if grad.numel() == 0 or query.shape[-1] == 0:
        return tuple(x.zero_() for x in made)
    operands["grad"] = fitting(grad)
    chosen = rule.backward(facts, _banded(query, key, width), gates)
    (batch, length), span = query.shape[:2], key.shape[1]
    blocks, past, numbers = _numbers(query, key, width, chosen.queries.tiles.chunk, heads)
    d_query, d_key, d_value = (by_head(into, heads) for into in made[:3])

    def partial(*shape: int) -> Tensor:
        return query.new_empty(shape, dtype=torch.float32)

    lanes, (readers, writers) = batch * heads, chosen.gates.parts if chosen.gates else (0, 0)
    read, mine = (partial(some, lanes, length) for some in (readers, readers if facts.own == "varying" else 0))
    written, pairs = partial(writers, lanes, span), partial(readers, lanes, blocks, numbers[2])
    scales = partial(chosen.values.outers if facts.scale else 0, batch, span, heads)
    earlier, later = lanes * blocks, lanes * (blocks + past)
    constant = gate is not None and gate.ndim == 1
    d_gate = partial(batch, span, heads) if constant and gates else made[3]
    with together():
        for kernel, programs, into, sums in (
            (chosen.queries, earlier, d_query, read),
            (chosen.keys, later, d_key, written),
            (chosen.values, later, d_value, read),
        ):
            launch(kernel, programs * kernel.outers, operands, heads, into, scales, sums, mine, pairs, *numbers)
        if chosen.gates:
            launch(chosen.gates, later, {}, heads, d_gate, made[4], read, mine, written, pairs, *numbers)
    gathered(made, d_query, d_key, d_value)
    if chosen.gates and constant:
        made[3].copy_(d_gate.sum((0, 1)))
    if scale is not None:
        made[5].copy_(scales[0] if scales.shape[0] == 1 else scales.sum(0))
    return made


def _made(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    gates: bool,
) -> tuple[Tensor, ...]:
    """New tensors for the gradients of a streamed call."""
    return gradient_tensors(query, key, value, gate, own, scale, None, gates, None)[:6]


_streamed_backward = torch.library.custom_op(
    "ssdc::streamed_backward",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor grad, {_INPUTS}, {_REST}, bool gates) -> ({', '.join(['Tensor'] * 6)})",
)


@_streamed_backward.register_fake
def _(grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    query, key, value, gate, own, scale, *_, gates = rest
    return _made(query, key, value, gate, own, scale, gates)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.rest = inputs[6:]
    ctx.save_for_backward(*inputs[:6])


def _backward(ctx: Any, grad: Tensor, run: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor | None, ...]:
    gates = any(ctx.needs_input_grad[3:5])
    found = run(grad, *ctx.saved_tensors, *ctx.rest, gates)
    needed = zip(ctx.saved_tensors, ctx.needs_input_grad, found, strict=False)
    return (*(None if x is None or not needs else g for x, needs, g in needed), None, None, None, None)


_streamed.register_autograd(
    lambda ctx, grad: _backward(ctx, grad, torch.ops.ssdc.streamed_backward), setup_context=_context
)


class _Streamed(torch.autograd.Function):
    """What the operator and its gradient do, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _context(ctx, inputs, inputs[0])
        return _forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad, _gradients)


# ---- states ----------------------------------------------------------------------------------------------------------


def folded(
    y: Tensor,
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
    """Outputs that read an initial state as well, and the state after the last position, [b, h, n, p] in float32.

    All of time in two products, by torch alone: quadratic order has no state of its own. Operands as those of
    `streamed`, without a past; y its result.
    """
    batch, length = query.shape[:2]
    query, key, value = (x.repeat_interleave(heads // x.shape[2], 2).float() for x in (query, key, value))
    weights = key.new_ones((batch, length, heads)) if scale is None else scale.float()
    enter = across = None
    if gate is not None:
        gates = floored(gate).expand(batch, length, heads)
        total = gates.cumsum(1)
        if not strict or isinstance(own, str):
            reader = total
        else:
            reader = total - gates if own is None else total - gates + floored(own)
        whole = gates.sum(1)
        enter, across = decay(reader, torch.float32), decay(whole, torch.float32)
        weights = weights * decay(whole.unsqueeze(1) - total, torch.float32)
    final = torch.einsum("bthn,bthp->bhnp", key * weights.unsqueeze(-1), value)
    if initial is None:
        return y, final
    state = initial.float()
    read = torch.einsum("bthn,bhnp->bthp", query if enter is None else query * enter.unsqueeze(-1), state)
    final = final + (state if across is None else across.view(batch, heads, 1, 1) * state)
    return y + read.to(y.dtype), final
