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

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.triton import streamed as rule
from ssdc.runtime.blocks import decay, floored
from ssdc.runtime.kernels.calls import Given, by_head, gathered, kind_of
from ssdc.runtime.kernels.eager import learns, plain, refuse_tangents
from ssdc.runtime.kernels.launch import launch, together
from ssdc.runtime.kernels.replay import replayed


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
    reader = None if isinstance(own, str) else own
    given = (query, key, value, gate, reader, scale, heads, strict, kind_of(own), width)
    tensors = given[:6]
    if not plain(tensors):
        y: Tensor = torch.ops.ssdc.streamed(*given)
        return y
    run: Callable[..., Tensor] = _Streamed.apply if learns(*tensors) else _forward
    return run(*given)


def _given(arguments: Sequence[Any]) -> tuple[Given, int | None]:
    """The operands of a call and its width, from the first arguments of the operators."""
    query, key, value, gate, own, scale, heads, strict, kind, width, *_ = arguments
    return Given(query, key, value, gate, own, scale, None, heads, strict, kind), width


def _check(given: Given) -> None:
    """Raises ValueError for shapes that do not fit."""
    given.check(past=True)
    if given.own is not None and given.gate is None:
        raise ValueError("a reader has a gate of its own only where there are gates")


# ---- forward ---------------------------------------------------------------------------------------------------------

_GIVEN = (
    "Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? own, Tensor? scale, int heads, bool strict, "
    "int kind, int? width"
)


@replayed
def _forward(*arguments: Any) -> Tensor:
    given, width = _given(arguments)
    _check(given)
    query, heads = given.query, given.heads
    y = _result(given)
    if y.numel() == 0 or query.shape[-1] == 0:
        return y.zero_()
    kernel = rule.outputs(given.facts, _banded(given, width))
    blocks, _, numbers = _numbers(given, width, kernel.tiles.chunk)
    programs = query.shape[0] * heads * blocks * kernel.outers
    launch(kernel, programs, given.operands(), heads, *(y,) * 5, *numbers)
    return y


def _result(given: Given) -> Tensor:
    """A new tensor for the output."""
    return given.value.new_empty((*given.query.shape[:2], given.heads, given.value.shape[-1]))


def _numbers(given: Given, width: int | None, chunk: int) -> tuple[int, int, tuple[int, int, int, int, int, int]]:
    """The blocks of readers, those of writers before them, and the last arguments of a kernel."""
    (batch, length), span = given.query.shape[:2], given.key.shape[1]
    blocks, past = -(-length // chunk), -(-(span - length) // chunk)
    reach = rule.reach(width, chunk, blocks + past)
    return blocks, past, (length, span - length, reach, span if width is None else width, given.heads, batch)


def _banded(given: Given, width: int | None) -> bool:
    """Whether a kernel has to look at lags, or at writers from before the first reader."""
    span = given.key.shape[1]
    return span > given.query.shape[1] or (width is not None and width < span)


_streamed = torch.library.custom_op("ssdc::streamed", _forward, mutates_args=(), schema=f"({_GIVEN}) -> Tensor")


@_streamed.register_fake
def _(*arguments: Any) -> Tensor:
    return _result(_given(arguments)[0])


# ---- backward --------------------------------------------------------------------------------------------------------


@replayed
def _gradients(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, gate, own and scale; without elements where none is due. The last argument tells
    whether gates learn."""
    (given, width), gates = _given(arguments), arguments[-1]
    _check(given)
    query, key, gate, scale, heads = given.query, given.key, given.gate, given.scale, given.heads
    made = given.gradients(gates)[:6]
    if grad.numel() == 0 or query.shape[-1] == 0:
        return tuple(x.zero_() for x in made)
    facts, operands = given.facts, given.operands(grad=grad)
    chosen = rule.backward(facts, _banded(given, width), gates)
    (batch, length), span = query.shape[:2], key.shape[1]
    blocks, past, numbers = _numbers(given, width, chosen.queries.tiles.chunk)
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


_streamed_backward = torch.library.custom_op(
    "ssdc::streamed_backward",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor grad, {_GIVEN}, bool gates) -> ({', '.join(['Tensor'] * 6)})",
)


@_streamed_backward.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return _given(arguments)[0].gradients(arguments[-1])[:6]


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
