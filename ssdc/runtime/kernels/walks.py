"""Launches of the Hopper walk: forward and backward of one masked contraction. Tensors in, new tensors out.

In: operands as `ssdc.runtime.kernels.masked` describes them, 16-bit, on a GPU of compute capability 9, laid out so that
the copy engine can read them (`readable`). Not done here: autograd, and the states that enter segments of time
(`ssdc.runtime.kernels.segments` gives them).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.hopper import CHUNK, LONG, WARPS, Gates, Walk, source, walk_of
from ssdc.runtime.kernels.launch import entered, start
from ssdc.runtime.loader import load


@lru_cache(maxsize=64)
def capable(device: torch.device) -> bool:
    """Whether a device is a Hopper GPU, under a Triton that has Gluon."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        return False
    return importlib.util.find_spec("triton.experimental.gluon") is not None


def readable(*tensors: Tensor) -> bool:
    """Whether the copy engine of a Hopper GPU reads these 16-bit operands [b, t, g, n]."""
    return tensors[0].element_size() == 2 and capable(tensors[0].device) and all(aligned(x) for x in tensors)


UNIT = 8
"""16-bit elements in 16 bytes: what the copy engine's addresses are multiples of."""


def aligned(x: Tensor) -> bool:
    """Whether the copy engine reads a 16-bit tensor [b, t, g, n]: rows contiguous, starts at multiples of 16 bytes, no
    element shared."""
    (batch, time, group, size), (of_batch, of_time, of_group, step) = x.shape, x.stride()
    return (
        x.numel() > 0
        and x.data_ptr() % 16 == 0
        and (step == 1 or size == 1)
        and (batch == 1 or (of_batch > 0 and of_batch % UNIT == 0))
        and (time == 1 or (of_time > 0 and of_time % UNIT == 0))
        and (group == 1 or (of_group > 0 and of_group % UNIT == 0))
    )


Tiles = dict[tuple[str, int, int], Any]
"""Descriptors of tiles: of an operand by name, with rows and columns of the tile."""


def described(x: Tensor, rows: int, columns: int) -> Any:
    """The descriptor of tiles [1, rows, 1, columns] of an `aligned` operand [b, t, g, n]; this thread launches it."""
    entered(x.device)
    shape = x.shape
    row = -(-shape[3] // UNIT) * UNIT
    strides = [step if size > 1 else row for size, step in zip(shape, x.stride(), strict=True)]
    strides[3] = 1
    kind, layout = units().TensorDescriptor, units().TILE
    made = object.__new__(kind)  # its own constructor checks again what `aligned` did: microseconds of every launch
    made.__dict__.update(
        base=x, shape=list(shape), strides=strides, block_shape=[1, rows, 1, columns], layout=layout, padding="zero",
        round_f32_to_tf32=False,
    )  # fmt: skip
    return made


def _read(walk: Walk, operands: Mapping[str, Tensor], known: Tiles) -> list[Any]:
    """Descriptors of what a walk reads in tiles, from those known; new ones are added."""
    for tile in walk.reads:
        if tile not in known:
            known[tile] = described(operands[tile[0]], *tile[1:])
    return [known[tile] for tile in walk.reads]


@lru_cache(maxsize=1)
def units() -> Any:
    """What Triton knows of Hopper's units (`ssdc.runtime.kernels.hopper`), which needs Triton."""
    return importlib.import_module("ssdc.runtime.kernels.hopper")


@lru_cache(maxsize=1024)
def function(walk: Walk | Gates) -> Any:
    """The jitted function of a walk, or of what follows two of them."""
    return getattr(load(source(walk)), "gates" if isinstance(walk, Gates) else "hopper")


def states(
    facts: Facts,
    segments: int,
    operands: Mapping[str, Tensor],
    totals: Tensor,
    logarithms: Tensor,
    heads: int,
    backwards: bool,
) -> None:
    """Fill what each segment but the last adds to the state [b, h, segments - 1, n, p], and the logarithms (base 2) of
    its decay [b, h, segments - 1]; `backwards`, the same of the state's gradient for each but the first."""
    walk = walk_of("later" if backwards else "states", facts)
    batch, length = operands["key"].shape[:2]
    span, segments = cut(length, segments)
    arguments = _read(walk, operands, {})
    arguments += [heads // operands[name].shape[2] for name, *_ in walk.reads]
    arguments += _numbers(walk, operands)
    arguments += (totals, logarithms, length, -(-span * CHUNK // LONG), segments, heads)
    start(function(walk), batch * heads * walk.outers * (segments - 1), arguments, WARPS)


def cut(length: int, segments: int) -> tuple[int, int]:
    """Chunks in a segment, an even number where there are several segments, and how many of these there are then.

    >>> cut(1000, 1), cut(1000, 3), cut(6400, 7)
    ((16, 1), (6, 3), (16, 7))
    """
    count = -(-length // CHUNK)
    if segments == 1:
        return count, 1
    span = 2 * -(-count // (2 * segments))
    return span, -(-count // span)


def _numbers(walk: Walk, operands: Mapping[str, Tensor]) -> list[Any]:
    """Operands of one number a position, with their strides."""
    arguments: list[Any] = []
    for name in walk.numbers:
        x = operands[name]
        arguments += (x, 0, 0, x.stride(0)) if x.ndim == 1 else (x, *x.stride())
    return arguments


def gates(facts: Facts, made: Mapping[str, Tensor], d_gate: Tensor, d_own: Tensor) -> None:
    """The gradients of log gates [b, t, h] (and of a reader's own), from what `gradients` filled."""
    batch, length, heads = d_gate.shape
    after = Gates(facts, *made["through"].shape[-2:])
    arguments: list[Any] = [made[name] for name in ("read", "written", "crossing", "through", "d_own")]
    strides = (d_gate.stride(), d_own.stride() if d_own.ndim == 3 else (0, 0, 0))
    arguments += (d_gate, *strides[0], d_own, *strides[1], length, heads, batch)
    start(function(after), batch * heads * -(-length // CHUNK), arguments, WARPS)


def outputs(
    facts: Facts,
    segments: int,
    operands: Mapping[str, Tensor],
    entering: Tensor | None,
    output: Tensor,
    final: Tensor,
    heads: int,
) -> None:
    """Fill outputs [b, t, h, p] and the last state [b, h, n, p], from the state that enters each segment."""
    walk = walk_of("outputs", facts, entering is not None)
    _run(walk, operands, output, entering, {"final": final}, segments, heads, {})


def gradients(
    facts: Facts,
    segments: int,
    operands: Mapping[str, Tensor],
    entering: Tensor | None,
    leaving: Tensor | None,
    made: Mapping[str, Tensor],
    heads: int,
    gated: bool,
) -> None:
    """Fill `made`: d_query and d_key [b, t, h, n], d_value [b, t, h, p], first (the gradient of the initial state).

    With a scale or skip, dots (and skip_dots) [tiles of p, b, h, t], parts of a sum; with `gated`, what `gates` adds
    up: read, written, crossing (and d_own) [tiles of n, b, h, t], through [b, h, chunks, tiles of n, columns].
    """
    queries = walk_of("queries", facts, entering is not None, gated)
    keys = walk_of("keys", facts, leaving is not None, gated)
    values = walk_of("values", facts, leaving is not None)
    batch, length = operands["grad"].shape[:2]
    count, tiles = -(-length // CHUNK) if gated else 0, queries.tiles
    # The state before each chunk meets the gradient of the one after it.
    chunks = operands["query"].new_empty((batch, heads, count, queries.outers, tiles.inner, tiles.outer))
    read = {"chunks": chunks, "rows": made["read"], "crossing": made["crossing"], "d_own": made["d_own"]}
    written = {"chunks": chunks, "rows": made["written"], "through": made["through"]}
    valued = {"final": made["first"], "dots": made["dots"], "skip_dots": made["skip_dots"]}
    known: Tiles = {}
    _run(queries, operands, made["d_query"], entering, read, segments, heads, known)
    _run(keys, operands, made["d_key"], leaving, written, segments, heads, known)
    _run(values, operands, made["d_value"], leaving, valued, segments, heads, known)


def _run(
    walk: Walk,
    operands: Mapping[str, Tensor],
    output: Tensor,
    entering: Tensor | None,
    made: Mapping[str, Tensor],
    segments: int,
    heads: int,
    known: Tiles,
) -> None:
    """Launch a walk; `made` is what it writes besides `output`."""
    batch, length = output.shape[:2]
    span, segments = cut(length, segments)
    arguments = _read(walk, operands, known)
    arguments.append(described(output, CHUNK, CHUNK))
    arguments += [heads // operands[name].shape[2] for name, *_ in walk.reads]
    arguments += _numbers(walk, operands)
    if walk.skips:
        skip = operands["skip"]
        arguments += (skip, skip.stride(0), skip.stride(1) if skip.ndim == 2 else 0)
    arguments.append(output if entering is None else entering)
    arguments += [
        made.get(name, output)
        for name in ("final", "chunks", "through", "rows", "crossing", "d_own", "dots", "skip_dots")
    ]
    arguments += (length, span, segments, heads, batch)
    start(function(walk), batch * heads * walk.outers * segments, arguments, WARPS)
