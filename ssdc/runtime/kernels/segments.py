"""States at the starts of segments of time and of chunks, and the gradients of states at their ends."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssdc.codegen.triton.facts import Facts, Kernel
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.launch import launch


def pieces(length: int, chunk: int, segments: int) -> tuple[int, int, int]:
    """Chunks in all, chunks in a segment, and how many segments there are then.

    >>> pieces(1000, 64, 3), pieces(1, 64, 1)
    ((16, 6, 3), (1, 1, 1))
    """
    count = -(-length // chunk)
    span = -(-count // segments)
    return count, span, -(-count // span)


def segment_starts(
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
    _, span, segments = pieces(length, tiles.chunk, segments)
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
    return _carried(carry, totals, logarithms, start, final)


def hopper_starts(
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
    return _carried(carry, totals, logarithms, start, final)


def _carried(carry: Kernel, totals: Tensor, logarithms: Tensor, start: Tensor | None, final: Tensor) -> Tensor:
    """The state that enters each segment, from what each adds and how it decays; the last into `final`."""
    batch, heads, segments, states, pitch = totals.shape
    entering = torch.empty_like(totals)
    programs = batch * heads * -(-states * pitch // carry.stretch)
    begin = final if start is None else start
    launch(carry, programs, {}, heads, begin, totals, logarithms, entering, final, segments)
    return entering


def chunk_states(
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
    count, span, segments = pieces(length, tiles.chunk, segments)
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
