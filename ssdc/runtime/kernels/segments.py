"""States at the starts of segments of time and of chunks, and the gradients of states at their ends."""

from __future__ import annotations

from collections.abc import Mapping

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
    like: Tensor,
    heads: int,
    length: int,
) -> Tensor | None:
    """The state that enters each segment [b, h, segments, n, p]; `start` where there is one segment. States are as
    `like` [b, h, n, p]."""
    if segments == 1:
        return start
    batch, _, states, pitch = like.shape
    lanes, tiles, columns = batch * heads, sums.tiles, sums.facts.columns
    _, span, segments = pieces(length, tiles.chunk, segments)
    totals = like.new_empty((batch, heads, segments - 1, states, pitch))
    logarithms = like.new_empty((batch, heads, segments - 1))
    parts = -(-states // tiles.inner) * -(-columns // tiles.outer)
    launch(
        sums,
        lanes * (segments - 1) * parts,
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
    return _carried(carry, totals, logarithms, start)


def hopper_starts(
    facts: Facts,
    carry: Kernel,
    segments: int,
    operands: Mapping[str, Tensor],
    start: Tensor | None,
    like: Tensor,
    heads: int,
) -> Tensor | None:
    """The same by Hopper's kernels: from the queries and the output's gradient where `carry` goes backwards."""
    if segments == 1:
        return start
    batch, _, states, columns = like.shape
    totals = like.new_empty((batch, heads, segments - 1, states, columns))
    logarithms = like.new_empty((batch, heads, segments - 1))
    walks.states(facts, segments, operands, totals, logarithms, heads, carry.reverse)
    return _carried(carry, totals, logarithms, start)


def _carried(carry: Kernel, totals: Tensor, logarithms: Tensor, start: Tensor | None) -> Tensor:
    """The state that enters each segment, from what those before it add and how they decay."""
    batch, heads, summed, states, pitch = totals.shape
    entering = totals.new_empty((batch, heads, summed + 1, states, pitch))
    programs = batch * heads * -(-states * pitch // carry.stretch)
    begin = entering if start is None else start
    launch(carry, programs, {}, heads, begin, totals, logarithms, entering, summed + 1)
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
    """The state before each chunk [b, h, chunks, n, p], in the type of the operands, and the last into `final`."""
    batch, _, states, pitch = final.shape
    tiles, columns = kernel.tiles, kernel.facts.columns
    count, span, segments = pieces(length, tiles.chunk, segments)
    chunks = next(iter(operands.values())).new_empty((batch, heads, count, states, pitch))
    parts = -(-states // tiles.inner) * -(-columns // tiles.outer)
    launch(
        kernel,
        batch * heads * segments * parts,
        operands,
        heads,
        final if entering is None else entering,
        chunks,
        final,
        final,
        length,
        span,
        segments,
        heads,
    )
    return chunks
