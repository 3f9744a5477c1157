"""The blocks of a mask as einsum terms: what `quadratic`, `chunked` and `recurrent` over a window are made of.

A mask cut into chunks of Q positions has dense diagonal blocks, and (where it reaches back without bound) off-diagonal
blocks of low rank: a decay to the chunk's end for each writer, a state carried on, a decay from the chunk's start for
each reader. A mask of bounded width needs no state: each chunk reads a window of Q + width - 1 writers. Where a gate
varies with a summed axis, the diagonal block is cut again into rows of 16 with an anchor each, so that no exponent is
ever positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ssdc.plan.candidate import Candidate, Pricing
from ssdc.plan.orders.passes import decayed, floored, looped, masked
from ssdc.plan.problem import BLOCK, CHUNK, COLUMN, ROW, SUB, WITHIN, Problem
from ssdc.plan.products import alike, moved, pointwise

GATHERED, UNFOLDED, FOLDED = 3.2, 1.6, 20.0
"""Numbers against the order of memory that an entry of a mask looked up by lag, of a window, and of a window's
derivative is worth."""
STRIDED = 5.0
"""Rows that one of the sum of diagonal and other blocks is worth, of which one is read from all over memory."""
ENTERED: Mapping[str, float] = {"cpu": 2.0, "cuda": 5.0}
"""Numbers in and out of memory, by device, that an entry of the states before chunks is worth."""
APART = 4.0
"""Operations that the derivative of a product with a window starts for each matrix: on a CPU, PyTorch multiplies them
apart."""


def blocks(pricing: Pricing, order: str, chunk: int) -> Candidate:
    """The candidate with chunks of `chunk` positions (0: one chunk holds all of time)."""
    problem = pricing.problem
    length = max(1, problem.length)
    rows = chunk or length
    width = problem.mask.width
    inside = problem.inside and width is None
    if inside:
        rows = -(-rows // SUB) * SUB
    chunks = -(-length // rows)
    window = rows if width is None else rows + width - 1
    pricing.sizes = {
        **problem.sizes,
        CHUNK: chunks,
        ROW: SUB if inside else rows,
        COLUMN: window,
        BLOCK: rows // SUB or 1,
        WITHIN: SUB,
    }
    memory = (_inside if inside else _plain)(pricing, chunks, rows, window)
    if width is None:
        parts = dict(pricing.parts)
        _carried(pricing, chunks, inside, memory)
        if not chunk:  # its text carries a state only where one comes in or is asked for
            pricing.parts = parts
    places = (CHUNK, BLOCK, ROW) if inside else (CHUNK, ROW)
    pricing.add("layout", moved(memory, problem.out(*places), places, pricing.sizes, gradient=pricing.gradient))
    if width is not None:
        windows = sum(problem.count(axes) for _, axes in problem.writers) * chunks * window
        pricing.add("layout", pointwise(windows, UNFOLDED, gradient=pricing.gradient, scattered=UNFOLDED))
        if pricing.gradient:
            most = max((problem.count(axes) for axes in problem.kernels), default=0)
            apart = most if pricing.hardware.device == "cpu" else min(1, most)
            pricing.add("layout", pointwise(windows, 0, gradient=False, launches=APART * apart, scattered=FOLDED))
    return pricing.candidate(order, chunk, depth=chunks if width is None else 1)


def mask_axes(problem: Problem, *places: str) -> tuple[str, ...]:
    """The axes of a decay: the gates' own, the chunk where they vary with time, and places within it."""
    return (*problem.gates, *((CHUNK,) if problem.varying else ()), *places)


def _plain(pricing: Pricing, chunks: int, rows: int, window: int) -> tuple[str, ...]:
    """The diagonal block with the mask as one operand [.., row, column]."""
    problem = pricing.problem
    operands = problem.at(problem.readers, CHUNK, ROW) + problem.at(problem.writers, CHUNK, COLUMN)
    kernels = tuple((f"K{k}", (*axes, ROW, COLUMN)) for k, axes in enumerate(problem.kernels))
    if problem.gated or problem.reset or not kernels:
        operands += (("L", mask_axes(problem, ROW, COLUMN)),)
    memory = pricing.term("diagonal", operands + kernels, problem.out(CHUNK, ROW))
    places = chunks if problem.varying else 1
    floored(pricing, problem.count(problem.gates) * places * window)
    masked(pricing, "mask", problem.count(problem.gates) * places * rows * window, rows * window)
    for axes in problem.kernels:
        entries = problem.count(axes) * rows * window
        pricing.add(
            "mask", pointwise(entries, 16.0, gradient=pricing.gradient, launches=6, back=2.0, scattered=GATHERED)
        )
    return memory


def _inside(pricing: Pricing, chunks: int, rows: int, window: int) -> tuple[str, ...]:
    """The diagonal block in rows of 16: within a block elementwise, before it through the block's anchor."""
    problem = pricing.problem
    readers = problem.at(problem.readers, CHUNK, BLOCK, ROW)
    out = problem.out(CHUNK, BLOCK, ROW)
    local = (*problem.gates, CHUNK, BLOCK, ROW, WITHIN)
    memory = pricing.term("within", readers + problem.at(problem.writers, CHUNK, BLOCK, WITHIN) + (("L", local),), out)
    entries = problem.count(problem.gates) * chunks * rows
    floored(pricing, entries)
    masked(pricing, "mask", entries * SUB, SUB * SUB)
    if rows > SUB:
        anchors = (("LF", (*problem.gates, CHUNK, BLOCK, ROW)), ("LE", (*problem.gates, CHUNK, BLOCK, COLUMN)))
        pricing.term("before", readers + problem.at(problem.writers, CHUNK, COLUMN) + anchors, out)
        masked(pricing, "anchors", entries * (rows // SUB), rows * rows // SUB)
        decayed(pricing, "anchors", entries)
    return memory


def _carried(pricing: Pricing, chunks: int, inside: bool, memory: tuple[str, ...]) -> None:
    """The off-diagonal blocks: write to the chunk's end, carry, read from its start, and add to the diagonal ones, of
    axes `memory`."""
    problem = pricing.problem
    decays = problem.gated or problem.reset
    leave = (("E", (*problem.gates, CHUNK, COLUMN)),) if decays else ()
    enter_axes = (*problem.gates, CHUNK, BLOCK, ROW) if inside else mask_axes(problem, ROW)
    enter = (("F", enter_axes),) if decays else ()
    pricing.term("write", problem.at(problem.writers, CHUNK, COLUMN) + leave, (CHUNK, *problem.state))
    places = (CHUNK, BLOCK, ROW) if inside else (CHUNK, ROW)
    state = (("S", (CHUNK, *problem.state)),)
    read = pricing.term("read", problem.at(problem.readers, *places) + enter + state, problem.out(*places))
    gradient = pricing.gradient
    if decays:
        decayed(
            pricing, "carry", 2.0 * problem.count(problem.gates) * (problem.length if problem.varying or inside else 1)
        )
    looped(pricing, "carry", chunks, problem.count(problem.state), gated=decays)
    entered = ENTERED[pricing.hardware.device]
    pricing.add("carry", pointwise(problem.count(problem.state) * chunks, entered, gradient=gradient, launches=2))
    entries = problem.count(problem.axes) * problem.length
    rows = STRIDED * entries / alike(memory, read, memory, pricing.sizes)
    pricing.add("read", replace(pointwise(entries, 3.0, gradient=gradient, back=0.0), rows=rows))
