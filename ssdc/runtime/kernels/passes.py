"""The kernel launches of one masked contraction: forward, backward, one position. Tensors in, new tensors out.

In: operands as `ssdc.runtime.kernels.masked` describes them; `own` is an index into OWN, told apart from the tensor
of a gate of its own. Not done here: autograd, fakes, the operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor

from ssdc.codegen.triton import configuration
from ssdc.codegen.triton.configuration import Backward, Call, Forward
from ssdc.codegen.triton.facts import Element, Facts, Gate, Kernel, Own, Skip
from ssdc.codegen.triton.hopper import CHUNK, fits, padded
from ssdc.codegen.triton.maps import decoded, normed
from ssdc.errors import CallError
from ssdc.runtime import tuned
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.launch import fitting, launch, processors

NAMES: Mapping[torch.dtype, Element] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
OWN: tuple[Own, ...] = ("none", "gate", "varying")
SKIPS: tuple[Skip, ...] = ("none", "head", "column")
"""The kinds of a skip factor, by its dimensions."""


def _facts(
    query: Tensor,
    value: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    strict: bool,
    own: int,
    skip: Tensor | None,
    maps: str,
) -> Facts:
    kind = "none" if gate is None else "constant" if gate.ndim == 1 else "varying"
    tf32 = query.dtype is torch.float32 and query.is_cuda and torch.backends.cuda.matmul.allow_tf32
    dims = 0 if skip is None else skip.ndim
    return _made(query.dtype, query.shape[-1], value.shape[-1], kind, strict, own, scale is not None, tf32, dims, maps)


@lru_cache(maxsize=4096)
def _made(
    dtype: torch.dtype,
    states: int,
    columns: int,
    gate: Gate,
    strict: bool,
    own: int,
    scale: bool,
    tf32: bool,
    skip: int = 0,
    maps: str = "",
) -> Facts:
    """Raises ValueError for maps that do not exist."""
    chains, norm = decoded(maps)
    precision: Literal["ieee", "tf32"] = "tf32" if tf32 else "ieee"
    kind = SKIPS[skip]
    return Facts(NAMES[dtype], states, columns, gate, strict, OWN[own], scale, precision, kind, chains, norm)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    skip: Tensor | None,
    maps: str,
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
    if skip is not None and list(skip.shape) not in ([heads], [heads, value.shape[-1]]):
        raise ValueError(f"skip is {list(skip.shape)} and must be {[heads]} or {[heads, value.shape[-1]]}")
    columns = value.shape[-1] + normed(maps)
    if initial is not None and list(initial.shape) != [query.shape[0], heads, query.shape[-1], columns]:
        raise ValueError(f"the initial state {list(initial.shape)} does not fit: {shapes}")


def _operands(**given: Tensor | None) -> dict[str, Tensor]:
    return {name: fitting(x) for name, x in given.items() if x is not None}


def _call(heads: int, initial: bool, gradient: bool, query: Tensor, key: Tensor, *rest: Tensor) -> Call:
    shared = heads // query.shape[2] if query.shape[2] == key.shape[2] else 1
    lanes, length = query.shape[0] * heads, query.shape[1]
    return Call(lanes, length, shared, processors(query.device), initial, gradient, walks.readable(query, key, *rest))


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
    skip: Tensor | None = None,
    maps: str = "",
    form: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state, and row sums [b, h, t] (of a norm), by the kernels that the cost rule chooses (in this form,
    where one is given)."""
    _check(query, key, value, gate, own, scale, initial, heads, skip, maps)
    facts = _facts(query, value, gate, scale, strict, kind, skip, maps)
    call = _call(heads, initial is not None, True, query, key, value)
    if form not in configuration.FORMS:
        known = ", ".join(name for name in configuration.FORMS if name)
        raise ValueError(f"there is no form {form!r}; forms are {known}")
    wanted = configuration.FORMS[form]
    if wanted == "hopper" and not (call.engine and fits(facts)):
        raise CallError("form 'hopper' walks 16-bit operands, in rows of 16 bytes, on Hopper GPUs; use form='auto'")
    chosen = configuration.forward(facts, call, form=wanted) if wanted else tuned.forward(facts, call, query.device)
    return run_forward(chosen, query, key, value, gate, own, scale, initial, heads, skip)


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
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels of a configuration, in order."""
    batch, length = query.shape[:2]
    columns, facts = value.shape[-1], chosen.outputs.facts
    y, final, sums = result_tensors(query, value, heads, facts.norm is not None)
    row: tuple[Tensor, ...] = () if facts.norm is None else (sums,)
    if y.numel() == 0 or final.numel() == 0:
        return y, final.zero_() if initial is None else final.copy_(initial), sums
    operands = _operands(query=query, key=key, value=value, gate=gate, own=own, scale=scale, skip=skip)
    start = None if initial is None else initial.float().contiguous()
    if chosen.form == "hopper":
        segments = walks.cut(length, chosen.segments)[1]
        entering = _walked(facts, chosen.carry, segments, operands, start, final, heads)
        walks.outputs(facts, segments, operands, entering, y, final, heads)
        return y, final, sums
    entering = _entering(chosen.sums, chosen.carry, chosen.segments, operands, start, final, heads, length)
    kernel = chosen.outputs
    lanes, parts = batch * heads, -(-columns // kernel.tiles.outer)
    if chosen.form == "parallel":
        chunks = _chunk_states(chosen.states, chosen.segments, operands, entering, final, heads, length)
        count = chunks.shape[2]
        launch(kernel, batch * (heads // kernel.share) * count * parts, operands, heads, chunks, y, *row, length, heads)
        return y, final, sums
    if chosen.form == "recurrent":
        launch(kernel, lanes * parts, operands, heads, final if start is None else start, y, final, *row, length, heads)
        return y, final, sums
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
        *row,
        length,
        span,
        segments,
        heads,
    )
    return y, final, sums


def result_tensors(query: Tensor, value: Tensor, heads: int, norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """New tensors for output, last state and row sums; of no elements for sums that nothing asks for."""
    batch, length, _, states = query.shape
    columns = value.shape[-1]
    return (
        value.new_empty((batch, length, heads, columns)),
        value.new_empty((batch, heads, states, columns + norm), dtype=torch.float32),
        value.new_empty((batch, heads, length) if norm else (0,), dtype=torch.float32),
    )


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
    batch, _, states, pitch = final.shape
    lanes, tiles, columns = batch * heads, sums.tiles, sums.facts.columns
    count = -(-length // tiles.chunk)
    span = -(-count // segments)
    segments = -(-count // span)
    totals = final.new_empty((batch, heads, segments, states, pitch))
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
    stretches = -(-states * pitch // carry.stretch)
    begin = final if start is None else start
    launch(carry, lanes * stretches, {}, heads, begin, totals, logarithms, entering, final, segments)
    return entering


def _walked(
    facts: Facts,
    carry: Kernel,
    segments: int,
    operands: Mapping[str, Tensor],
    start: Tensor | None,
    final: Tensor,
    heads: int,
) -> Tensor | None:
    """The same by Hopper's kernels: from the queries and the output's gradient where `carry` goes backwards."""
    if segments == 1:
        return start
    batch, _, states, columns = final.shape
    totals = final.new_empty((batch, heads, segments, states, columns))
    logarithms = final.new_empty((batch, heads, segments))
    walks.states(facts, segments, operands, totals, logarithms, heads, carry.reverse)
    entering = torch.empty_like(totals)
    programs = batch * heads * -(-states * columns // carry.stretch)
    begin = final if start is None else start
    launch(carry, programs, {}, heads, begin, totals, logarithms, entering, final, segments)
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
    batch, _, states, pitch = final.shape
    tiles, columns = kernel.tiles, kernel.facts.columns
    count = -(-length // tiles.chunk)
    span = -(-count // segments)
    segments = -(-count // span)
    chunks = next(iter(operands.values())).new_empty((batch, heads, count, states, pitch))
    last = final if segments == 1 else final.new_empty((batch, heads, segments, states, pitch))
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
    skip: Tensor | None = None,
    maps: str = "",
    output: Tensor | None = None,
    sums: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, gate, own, scale, initial state and skip; without elements where none is due.

    A norm needs the output and row sums of the forward pass."""
    batch, length, _, states = query.shape
    columns = value.shape[-1]
    made = gradient_tensors(query, key, value, gate, own, scale, initial, heads, gates, skip)
    if grad.numel() == 0 or states * heads == 0:
        for x in made:
            x.zero_()
        if initial is not None and grad_final is not None:
            made[6].copy_(grad_final)
        return made
    facts = _facts(query, value, gate, scale, strict, kind, skip, maps)
    call = _call(heads, initial is not None, grad_final is not None, query, key, value, grad)
    chosen = tuned.backward(facts, call, gates, query.device)
    operands = _operands(query=query, key=key, value=value, gate=gate, own=own, scale=scale, skip=skip, grad=grad)
    start = None if initial is None else initial.float().contiguous()
    if output is not None and sums is not None:
        operands |= _rows(configuration.rows(facts), operands, output, sums, length, heads)
    ending = None if grad_final is None else grad_final.float().contiguous()
    if chosen.form == "hopper":
        _walk_back(chosen, facts, operands, start, ending, made, heads, gates)
        return made
    final = value.new_empty((batch, heads, states, facts.pitch), dtype=torch.float32)
    entering = _entering(chosen.sums, chosen.carry, chosen.segments, operands, start, final, heads, length)
    chunks = _chunk_states(chosen.states, chosen.segments, operands, entering, final, heads, length)
    first = torch.empty_like(final)
    leaving = _entering(chosen.later_sums, chosen.later_carry, chosen.segments, operands, ending, first, heads, length)
    later = _chunk_states(chosen.later, chosen.segments, operands, leaving, first, heads, length)
    count = chunks.shape[2]
    inners, outers = -(-states // chosen.gradients.tiles.inner), -(-columns // chosen.values.tiles.outer)
    d_query, d_key, d_value = (_by_head(into, heads) for into in made[:3])
    d_gate, d_own = (final.new_empty((inners + outers if gates else 0, batch, heads, length)) for _ in range(2))
    d_scale = final.new_empty((outers, batch, heads, length))
    d_skip = final.new_empty((0,) if skip is None else (batch * count * (outers if skip.ndim == 1 else 1), *skip.shape))
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
    _gathered(made, d_query, d_key, d_value)
    if gates and gate is not None:
        if gate.ndim == 1:
            made[3].copy_(d_gate.sum((0, 1, 3)))
        else:
            _summed(d_gate, made[3])
        if own is not None:
            _summed(d_own, made[4])
    if scale is not None:
        _summed(d_scale, made[5])
    if skip is not None:
        made[7].copy_(d_skip.sum(0))
    if initial is not None:
        made[6].copy_(first)
    return made


def _rows(
    kernel: Kernel, operands: Mapping[str, Tensor], output: Tensor, sums: Tensor, length: int, heads: int
) -> dict[str, Tensor]:
    """One over the norm, and the gradient of row sums, [b, t, h]."""
    inverse, push = torch.empty_like(sums), torch.empty_like(sums)
    programs = sums.shape[0] * heads * -(-length // kernel.tiles.chunk)
    launch(kernel, programs, {**operands, "output": output}, heads, sums, inverse, push, length, heads)
    return {"inverse": inverse.transpose(1, 2), "push": push.transpose(1, 2)}


def _by_head(into: Tensor, heads: int) -> Tensor:
    """Where the gradient of an operand goes head by head: itself, unless heads share it."""
    batch, length, groups, size = into.shape
    return into if groups == heads else into.new_empty((batch, length, heads, size))


def _gathered(made: tuple[Tensor, ...], *by_head: Tensor) -> None:
    """Sum the gradients of heads that share an operand."""
    for into, found in zip(made, by_head, strict=False):
        if found is not into:
            torch.sum(found.view((*found.shape[:2], into.shape[2], -1, found.shape[3])), 3, out=into)


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
    final, first = new((2, batch, heads, states, columns))
    entering = _walked(facts, chosen.carry, segments, operands, start, final, heads)
    leaving = _walked(facts, chosen.later_carry, segments, operands, ending, first, heads)
    parts, tiles = -(-states // CHUNK), -(-columns // CHUNK)
    rows = new((4, parts if gates else 0, batch, heads, length))
    into = dict(zip(("read", "written", "crossing", "d_own"), rows, strict=True))
    into |= {
        "d_query": _by_head(made[0], heads),
        "d_key": _by_head(made[1], heads),
        "d_value": _by_head(made[2], heads),
    }
    into |= {"through": new((batch, heads, -(-length // CHUNK) if gates else 0, parts, padded(columns)))}
    into |= {"first": first, "dots": new((tiles if facts.scale else 0, batch, heads, length))}
    into |= {"skip_dots": new((tiles if facts.skip == "head" else 0, batch, heads, length))}
    walks.gradients(facts, segments, operands, entering, leaving, into, heads, gates)
    _gathered(made, into["d_query"], into["d_key"], into["d_value"])
    if gates:
        varying = facts.gate == "varying"
        d_gate = made[3] if varying else new((batch, length, heads))
        walks.gates(facts, into, d_gate, made[4])
        if not varying:
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
    skip: Tensor | None,
) -> tuple[Tensor, ...]:
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
        like(skip),
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
    skip: Tensor | None = None,
    maps: str = "",
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
    operands = _operands(**timed, skip=skip)
    batch, columns = query.shape[0], value.shape[-1]
    y = value.new_empty((batch, heads, columns))
    before = state.float().contiguous()
    after = torch.empty_like(before)
    facts = _facts(
        query, value, gate if gate is None or gate.ndim == 1 else timed["gate"], scale, strict, kind, skip, maps
    )
    kernel = configuration.step(facts)
    launch(kernel, batch * heads * -(-columns // kernel.tiles.outer), operands, heads, before, y, after, heads)
    return y, after
