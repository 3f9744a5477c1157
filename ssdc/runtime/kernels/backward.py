"""The kernel launches of a masked contraction backward: gradients of a call. Tensors in, new tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from ssdc.codegen.triton import configuration
from ssdc.codegen.triton.configuration import Backward
from ssdc.codegen.triton.facts import Facts, Kernel
from ssdc.codegen.triton.hopper import CHUNK, padded
from ssdc.runtime import tuned
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.calls import Given, by_head, gathered
from ssdc.runtime.kernels.launch import launch, together
from ssdc.runtime.kernels.segments import chunk_states, hopper_starts, segment_starts


def backward_pass(
    grad: Tensor,
    grad_final: Tensor | None,
    given: Given,
    gates: bool,
    output: Tensor | None = None,
    sums: Tensor | None = None,
    *,
    chosen: Backward | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, gate, own, scale, initial state and skip, by the kernels of a configuration, or
    those that the cost model chooses; without elements where none is due.

    A norm needs the output and row sums of the forward pass."""
    (batch, length, _, states), columns = given.query.shape, given.value.shape[-1]
    gate, initial, skip, heads = given.gate, given.initial, given.skip, given.heads
    made = given.gradients(gates)
    if grad.numel() == 0 or states * heads == 0:
        for x in made:
            x.zero_()
        if initial is not None and grad_final is not None:
            made[6].copy_(grad_final)
        return made
    if not walks.aligned(grad) and walks.readable(given.query, given.key, given.value):
        grad = grad.contiguous()  # that of a sum is one number, expanded
    if chosen is None:
        chosen = tuned.backward(given.facts, given.call(grad_final is not None, grad), gates, grad.device)
    facts, operands = chosen.gradients.facts, given.operands(grad=grad)
    start = None if initial is None else initial.float().contiguous()
    if output is not None and sums is not None:
        operands |= _rows(configuration.rows(facts), operands, output, sums, length, heads)
    ending = None if grad_final is None else grad_final.float().contiguous()
    if chosen.form == "hopper":
        _walk_back(chosen, facts, operands, start, ending, made, heads, gates)
        return made
    final = grad.new_empty((batch, heads, states, facts.pitch), dtype=torch.float32)
    with together():
        starts = segment_starts(chosen.sums, chosen.carry, chosen.segments, operands, start, final, heads, length)
        chunks = chunk_states(chosen.states, chosen.segments, operands, starts, final, heads, length)
        first = torch.empty_like(final)
        ends = segment_starts(
            chosen.later_sums, chosen.later_carry, chosen.segments, operands, ending, first, heads, length
        )
        later = chunk_states(chosen.later, chosen.segments, operands, ends, first, heads, length)
        count = chunks.shape[2]
        inners, outers = -(-states // chosen.gradients.tiles.inner), -(-columns // chosen.values.tiles.outer)
        d_query, d_key, d_value = (by_head(into, heads) for into in made[:3])
        d_gate, d_own = (final.new_empty((inners + outers if gates else 0, batch, heads, length)) for _ in range(2))
        d_scale = final.new_empty((outers, batch, heads, length))
        d_skip = final.new_empty(
            (0,) if skip is None else (batch * count * (outers if skip.ndim == 1 else 1), *skip.shape)
        )
        launch(
            chosen.gradients,
            batch * heads * count * inners,
            operands,
            heads,
            chunks,
            later,
            d_query,
            d_key,
            d_gate[:inners],
            d_own[:inners],
            length,
            heads,
            batch,
        )
        launch(
            chosen.values,
            batch * (heads // chosen.values.share) * count * outers,
            operands,
            heads,
            later,
            d_value,
            d_scale,
            d_gate[inners:],
            d_own[inners:],
            d_skip,
            length,
            heads,
            batch,
        )
    gathered(made, d_query, d_key, d_value)
    if gates and gate is not None:
        if gate.ndim == 1:
            made[3].copy_(d_gate.sum((0, 1, 3)))
        else:
            _summed(d_gate, made[3])
        if given.own is not None:
            _summed(d_own, made[4])
    if given.scale is not None:
        _summed(d_scale, made[5])
    if skip is not None:
        made[7].copy_(d_skip.sum(0))
    if initial is not None:
        made[6].copy_(first)
    return made


def _walk_back(
    chosen: Backward,
    facts: Facts,
    operands: Mapping[str, Tensor],
    start: Tensor | None,
    ending: Tensor | None,
    made: tuple[Tensor, ...],
    heads: int,
    gates: bool,
) -> None:
    """Fill the gradients by Hopper's kernels."""
    query, value = operands["query"], operands["value"]
    (batch, length, _, states), columns = query.shape, value.shape[-1]
    segments = walks.cut(length, chosen.segments)[1]
    new = partial(torch.empty, device=query.device, dtype=torch.float32)
    first = new((batch, heads, states, columns))
    parts, tiles = -(-states // CHUNK), -(-columns // CHUNK)
    rows = new((4, parts if gates else 0, batch, heads, length))
    into = dict(zip(("read", "written", "crossing", "d_own"), rows, strict=True))
    into |= {
        "d_query": by_head(made[0], heads),
        "d_key": by_head(made[1], heads),
        "d_value": by_head(made[2], heads),
    }
    into |= {"through": new((batch, heads, -(-length // CHUNK) if gates else 0, parts, padded(columns)))}
    into |= {"first": first, "dots": new((tiles if facts.scale else 0, batch, heads, length))}
    into |= {"skip_dots": new((tiles if facts.skip == "head" else 0, batch, heads, length))}
    summed = gates and facts.gate != "varying"
    d_gate = new((batch, length, heads)) if summed else made[3]
    with together():
        starts = hopper_starts(facts, chosen.carry, segments, operands, start, first, heads)
        ends = hopper_starts(facts, chosen.later_carry, segments, operands, ending, first, heads)
        walks.gradients(facts, segments, operands, starts, ends, into, heads, gates)
        if gates:
            walks.gates(facts, into, d_gate, made[4])
    gathered(made, into["d_query"], into["d_key"], into["d_value"])
    if summed:
        made[3].copy_(d_gate.sum((0, 1)))
    if facts.scale:
        _summed(into["dots"], made[5])
    if facts.skip == "head":
        made[7].copy_(into["skip_dots"].sum((0, 1, 3)))
    elif facts.skip == "column":
        grad = operands["grad"].float().reshape(batch, length, value.shape[2], -1, columns)
        made[7].copy_(torch.einsum("btgrp,btgp->grp", grad, value.float()).flatten(0, 1))
    if made[6].numel():
        made[6].copy_(first)


def _rows(
    kernel: Kernel, operands: Mapping[str, Tensor], output: Tensor, sums: Tensor, length: int, heads: int
) -> dict[str, Tensor]:
    """One over the norm, and the gradient of row sums, [b, t, h]."""
    inverse, push = torch.empty_like(sums), torch.empty_like(sums)
    programs = sums.shape[0] * heads * -(-length // kernel.tiles.chunk)
    launch(kernel, programs, {**operands, "output": output}, heads, sums, inverse, push, length, heads)
    return {"inverse": inverse.transpose(1, 2), "push": push.transpose(1, 2)}


def _summed(parts: Tensor, into: Tensor) -> None:
    """The sum of [parts, b, h, t], as [b, t, h]."""
    if into.dtype == parts.dtype:
        torch.sum(parts, 0, out=into.transpose(1, 2))
    else:
        into.copy_(parts.sum(0).transpose(1, 2))
