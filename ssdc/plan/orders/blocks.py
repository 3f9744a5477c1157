"""The blocks of a mask as einsum terms: what `quadratic`, `chunked` and `recurrent` over a window are made of.

A mask cut into chunks of Q positions has dense diagonal blocks, and (where it reaches back without bound) off-diagonal
blocks of low rank: a decay to the chunk's end for each writer, a state carried on, a decay from the chunk's start for
each reader. A mask of bounded width needs no state: each chunk reads a window of Q + width - 1 writers. Where a gate
varies with a summed axis, the diagonal block is cut again into rows of 16 with an anchor each, so that no exponent is
ever positive.
"""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing
from ssdc.plan.hardware import Hardware
from ssdc.plan.problem import BLOCK, CHUNK, COLUMN, ROW, SUB, WITHIN, Problem


def blocks(problem: Problem, hardware: Hardware, order: str, chunk: int) -> Candidate:
    """The candidate with chunks of `chunk` positions (0: one chunk holds all of time)."""
    length = max(1, problem.length)
    rows = chunk or length
    if problem.inside and problem.mask.width is None:
        rows = -(-rows // SUB) * SUB
    chunks = -(-length // rows)
    width = problem.mask.width
    window = rows if width is None else rows + width - 1
    inside = problem.inside and width is None
    sizes = {
        **problem.sizes,
        CHUNK: chunks,
        ROW: SUB if inside else rows,
        COLUMN: window,
        BLOCK: rows // SUB or 1,
        WITHIN: SUB,
    }
    pricing = Pricing(problem, hardware, sizes)
    (_inside if inside else _plain)(problem, pricing, chunks, rows, window)
    if width is None:
        _carried(problem, pricing, chunks, rows, inside)
    moved = sum(
        problem.count(axes) * (length if problem.time in axes else 1)
        for _, axes in (*problem.readers, *problem.writers)
    )
    pricing.elementwise("layout", moved + problem.count(problem.axes) * length, 2.0, launches=4)
    return pricing.candidate(order, chunk, depth=chunks if width is None else 1)


def mask_axes(problem: Problem, *places: str) -> tuple[str, ...]:
    """The axes of a decay: the gates' own, the chunk where they vary with time, and places within it."""
    return (*problem.gates, *((CHUNK,) if problem.varying else ()), *places)


def _plain(problem: Problem, pricing: Pricing, chunks: int, rows: int, window: int) -> None:
    """The diagonal block with the mask as one operand [.., row, column]."""
    operands = problem.at(problem.readers, CHUNK, ROW) + problem.at(problem.writers, CHUNK, COLUMN)
    within = mask_axes(problem, ROW, COLUMN)
    kernels = tuple((f"K{k}", (*axes, ROW, COLUMN)) for k, axes in enumerate(problem.kernels))
    if problem.gated or problem.reset or not kernels:
        operands += (("L", within),)
    pricing.term("diagonal", operands + kernels, problem.out(CHUNK, ROW))
    entries = problem.count(problem.gates) * (chunks if problem.varying else 1) * rows * window
    pricing.elementwise("mask", entries, 7.0 if problem.gated else 1.0, 1.0 if problem.gated else 0.0, launches=6)


def _inside(problem: Problem, pricing: Pricing, chunks: int, rows: int, window: int) -> None:
    """The diagonal block in rows of 16: within a block elementwise, before it through the block's anchor."""
    readers = problem.at(problem.readers, CHUNK, BLOCK, ROW)
    out = problem.out(CHUNK, BLOCK, ROW)
    local = (*problem.gates, CHUNK, BLOCK, ROW, WITHIN)
    pricing.term("within", readers + problem.at(problem.writers, CHUNK, BLOCK, WITHIN) + (("L", local),), out)
    entries = problem.count(problem.gates) * chunks * rows
    pricing.elementwise("mask", entries * SUB, 7.0, 1.0, launches=6)
    if rows > SUB:
        anchors = (("LF", (*problem.gates, CHUNK, BLOCK, ROW)), ("LE", (*problem.gates, CHUNK, BLOCK, COLUMN)))
        pricing.term("before", readers + problem.at(problem.writers, CHUNK, COLUMN) + anchors, out)
        pricing.elementwise("anchors", entries * (rows // SUB), 7.0, 1.0, launches=8)


def _carried(problem: Problem, pricing: Pricing, chunks: int, rows: int, inside: bool) -> None:
    """The off-diagonal blocks: write to the chunk's end, carry, read from its start."""
    decays = problem.gated or problem.reset
    leave = (("E", (*problem.gates, CHUNK, COLUMN)),) if decays else ()
    enter_axes = (*problem.gates, CHUNK, BLOCK, ROW) if inside else mask_axes(problem, ROW)
    enter = (("F", enter_axes),) if decays else ()
    pricing.term("write", problem.at(problem.writers, CHUNK, COLUMN) + leave, (CHUNK, *problem.state))
    places = (CHUNK, BLOCK, ROW) if inside else (CHUNK, ROW)
    state = (("S", (CHUNK, *problem.state)),)
    pricing.term("read", problem.at(problem.readers, *places) + enter + state, problem.out(*places))
    pricing.elementwise("carry", problem.count(problem.state) * chunks, 4.0, launches=chunks)
