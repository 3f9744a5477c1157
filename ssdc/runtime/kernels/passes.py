"""The kernel launches of one masked contraction: forward, backward, one position. Tensors in, new tensors out.

In: operands as `ssdc.runtime.kernels.masked` describes them; `own` is an index into OWN, told apart from the tensor
of a gate of its own. Not done here: autograd, fakes, the operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from ssdc.codegen.triton import configuration
from ssdc.codegen.triton.configuration import Call, Forward
from ssdc.codegen.triton.facts import Element, Facts, Gate, Kernel, Own
from ssdc.runtime.kernels.launch import fitting, launch, processors

NAMES: Mapping[torch.dtype, Element] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
OWN: tuple[Own, ...] = ("none", "gate", "varying")


def _facts(query: Tensor, value: Tensor, gate: Tensor | None, scale: Tensor | None, strict: bool, own: int) -> Facts:
    kind = "none" if gate is None else "constant" if gate.ndim == 1 else "varying"
    tf32 = query.dtype is torch.float32 and query.is_cuda and torch.backends.cuda.matmul.allow_tf32
    return _made(query.dtype, query.shape[-1], value.shape[-1], kind, strict, own, scale is not None, tf32)


@lru_cache(maxsize=4096)
def _made(
    dtype: torch.dtype, states: int, columns: int, gate: Gate, strict: bool, own: int, scale: bool, tf32: bool
) -> Facts:
    return Facts(NAMES[dtype], states, columns, gate, strict, OWN[own], scale, "tf32" if tf32 else "ieee")


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
) -> None:
    shapes = f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}, {heads} heads"
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4 or query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must be [b, t, g, n], value [b, t, v, p]: {shapes}")
    if query.shape[:2] != value.shape[:2] or key.shape[:2] != value.shape[:2]:
        raise ValueError(f"query, key and value must agree in batch and time: {shapes}")
    if any(heads % x.shape[2] for x in (query, key, value)):
        raise ValueError(f"the heads must be a multiple of each operand's: {shapes}")
    if not query.dtype == key.dtype == value.dtype or query.dtype not in NAMES:
        found = f"{query.dtype}, {key.dtype}, {value.dtype}"
        raise ValueError(f"query, key and value must have one dtype of {', '.join(NAMES.values())}: {found}")
    wanted = [query.shape[0], query.shape[1], heads]
    for name, x in (("gate", gate), ("own", own), ("scale", scale)):
        if x is not None and list(x.shape) != wanted and not (name == "gate" and list(x.shape) == [heads]):
            raise ValueError(f"{name} is {list(x.shape)} and must be {wanted}")
    if initial is not None and list(initial.shape) != [query.shape[0], heads, query.shape[-1], value.shape[-1]]:
        raise ValueError(f"the initial state {list(initial.shape)} does not fit: {shapes}")


def _operands(**given: Tensor | None) -> dict[str, Tensor]:
    wide = ("gate", "own", "scale")
    return {name: fitting(x.float() if name in wide else x) for name, x in given.items() if x is not None}


def _call(query: Tensor, key: Tensor, heads: int, initial: bool, gradient: bool = True) -> Call:
    shared = heads // query.shape[2] if query.shape[2] == key.shape[2] else 1
    return Call(query.shape[0] * heads, query.shape[1], shared, processors(query.device), initial, gradient)


def forward_pass(
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
    """Output and last state, by the kernels that the cost rule chooses."""
    _check(query, key, value, gate, own, scale, initial, heads)
    chosen = configuration.forward(
        _facts(query, value, gate, scale, strict, kind), _call(query, key, heads, initial is not None)
    )
    return run_forward(chosen, query, key, value, gate, own, scale, initial, heads)


def run_forward(
    chosen: Forward,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
) -> tuple[Tensor, Tensor]:
    """The kernels of a configuration, in order."""
    batch, length, _, states = query.shape
    columns = value.shape[-1]
    y = value.new_empty((batch, length, heads, columns))
    final = value.new_empty((batch, heads, states, columns), dtype=torch.float32)
    if y.numel() == 0 or final.numel() == 0:
        return y, final.zero_() if initial is None else final.copy_(initial)
    operands = _operands(query=query, key=key, value=value, gate=gate, own=own, scale=scale)
    start = None if initial is None else initial.float().contiguous()
    entering = _entering(chosen.sums, chosen.carry, chosen.segments, operands, start, final, heads, length)
    kernel = chosen.outputs
    lanes, parts = batch * heads, -(-columns // kernel.tiles.outer)
    if chosen.form == "parallel":
        chunks = _chunk_states(chosen.states, chosen.segments, operands, entering, final, heads, length)
        count = chunks.shape[2]
        launch(kernel, batch * (heads // kernel.share) * count * parts, operands, heads, chunks, y, length, heads)
        return y, final
    count = -(-length // kernel.tiles.chunk)
    span = -(-count // chosen.segments)
    segments = -(-count // span)
    launch(
        kernel,
        lanes * segments * parts,
        operands,
        heads,
        final if entering is None else entering,
        y,
        final,
        length,
        span,
        segments,
        heads,
    )
    return y, final


def _entering(
    sums: Kernel,
    carry: Kernel,
    segments: int,
    operands: Mapping[str, Tensor],
    start: Tensor | None,
    final: Tensor,
    heads: int,
    length: int,
) -> Tensor | None:
    """The state that enters each segment [b, h, segments, n, p], and the last into `final`; `start` where there is
    one segment."""
    if segments == 1:
        return start
    batch, _, states, columns = final.shape
    lanes, tiles = batch * heads, sums.tiles
    count = -(-length // tiles.chunk)
    span = -(-count // segments)
    segments = -(-count // span)
    totals = final.new_empty((batch, heads, segments, states, columns))
    logarithms = final.new_empty((batch, heads, segments))
    parts = -(-states // tiles.inner) * -(-columns // tiles.outer)
    launch(
        sums,
        lanes * segments * parts,
        operands,
        heads,
        totals,
        totals,
        totals,
        logarithms,
        length,
        span,
        segments,
        heads,
    )
    entering = torch.empty_like(totals)
    stretches = -(-states * columns // carry.stretch)
    begin = final if start is None else start
    launch(carry, lanes * stretches, {}, heads, begin, totals, logarithms, entering, final, segments)
    return entering


def _chunk_states(
    kernel: Kernel,
    segments: int,
    operands: Mapping[str, Tensor],
    entering: Tensor | None,
    final: Tensor,
    heads: int,
    length: int,
) -> Tensor:
    """The state before each chunk [b, h, chunks, n, p], in the type of the operands; with one segment, the last into
    `final`."""
    batch, _, states, columns = final.shape
    tiles = kernel.tiles
    count = -(-length // tiles.chunk)
    span = -(-count // segments)
    segments = -(-count // span)
    chunks = next(iter(operands.values())).new_empty((batch, heads, count, states, columns))
    last = final if segments == 1 else final.new_empty((batch, heads, segments, states, columns))
    parts = -(-states // tiles.inner) * -(-columns // tiles.outer)
    launch(
        kernel,
        batch * heads * segments * parts,
        operands,
        heads,
        last if entering is None else entering,
        chunks,
        last,
        last,
        length,
        span,
        segments,
        heads,
    )
    return chunks


def backward_pass(
    grad: Tensor,
    grad_final: Tensor | None,
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
    """Gradients of query, key, value, gate, own, scale and initial state; without elements where none is due."""
    batch, length, _, states = query.shape
    columns = value.shape[-1]
    made = gradient_tensors(query, key, value, gate, own, scale, initial, heads, gates)
    if grad.numel() == 0 or states * heads == 0:
        for x in made:
            x.zero_()
        if initial is not None and grad_final is not None:
            made[6].copy_(grad_final)
        return made
    facts = _facts(query, value, gate, scale, strict, kind)
    chosen = configuration.backward(facts, _call(query, key, heads, initial is not None, grad_final is not None), gates)
    operands = _operands(query=query, key=key, value=value, gate=gate, own=own, scale=scale, grad=grad)
    start = None if initial is None else initial.float().contiguous()
    final = value.new_empty((batch, heads, states, columns), dtype=torch.float32)
    entering = _entering(chosen.sums, chosen.carry, chosen.segments, operands, start, final, heads, length)
    chunks = _chunk_states(chosen.states, chosen.segments, operands, entering, final, heads, length)
    first = torch.empty_like(final)
    ending = None if grad_final is None else grad_final.float().contiguous()
    leaving = _entering(chosen.later_sums, chosen.later_carry, chosen.segments, operands, ending, first, heads, length)
    later = _chunk_states(chosen.later, chosen.segments, operands, leaving, first, heads, length)
    count = chunks.shape[2]
    inners, outers = -(-states // chosen.gradients.tiles.inner), -(-columns // chosen.values.tiles.outer)
    d_query, d_key, d_value = (
        into if into.shape[2] == heads else into.new_empty((batch, length, heads, into.shape[3])) for into in made[:3]
    )
    d_gate, d_own = (final.new_empty((inners + outers if gates else 0, batch, heads, length)) for _ in range(2))
    d_scale = final.new_empty((outers, batch, heads, length))
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
        length,
        heads,
        batch,
    )
    for into, found in ((made[0], d_query), (made[1], d_key), (made[2], d_value)):
        if found is not into:
            torch.sum(found.view((*found.shape[:2], into.shape[2], -1, found.shape[3])), 3, out=into)
    if gates and gate is not None:
        if gate.ndim == 1:
            made[3].copy_(d_gate.sum((0, 1, 3)))
        else:
            _summed(d_gate, made[3])
        if own is not None:
            _summed(d_own, made[4])
    if scale is not None:
        _summed(d_scale, made[5])
    if initial is not None:
        made[6].copy_(first)
    return made


def _summed(parts: Tensor, into: Tensor) -> None:
    """The sum of [parts, b, h, t], as [b, t, h]."""
    if into.dtype == parts.dtype:
        torch.sum(parts, 0, out=into.transpose(1, 2))
    else:
        into.copy_(parts.sum(0).transpose(1, 2))


def gradient_tensors(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """New tensors for the gradients, of no elements where none is due."""

    def like(x: Tensor | None) -> Tensor:
        return query.new_empty((0,)) if x is None else x.new_empty(x.shape)  # contiguous, whatever the strides of x

    return (
        like(query),
        like(key),
        like(value),
        like(gate if gates else None),
        like(own if gates else None),
        like(scale),
        like(initial),
    )


def step_pass(
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
    """Output at one position and the state after it, in one launch."""
    timed = {
        name: x.unsqueeze(1) if x is not None and x.ndim > 1 else x
        for name, x in (
            ("query", query),
            ("key", key),
            ("value", value),
            ("gate", gate),
            ("own", own),
            ("scale", scale),
        )
    }
    operands = _operands(**timed)
    batch, columns = query.shape[0], value.shape[-1]
    y = value.new_empty((batch, heads, columns))
    before = state.float().contiguous()
    after = torch.empty_like(before)
    facts = _facts(query, value, gate if gate is None or gate.ndim == 1 else timed["gate"], scale, strict, kind)
    kernel = configuration.step(facts)
    launch(kernel, batch * heads * -(-columns // kernel.tiles.outer), operands, heads, before, y, after, heads)
    return y, after
