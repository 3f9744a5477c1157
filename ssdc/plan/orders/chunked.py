"""Chunked: quadratic inside chunks, low rank between them (Dao & Gu 2024, section 6)."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.orders.blocks import blocks
from ssdc.plan.problem import SUB

CHUNKS = (16, 32, 64, 128, 256)


def candidates(pricing: Pricing, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for every mask that is a product of gates, and for every mask of bounded width."""
    problem = pricing.problem
    sizes = [size for size in CHUNKS if size <= max(problem.length, CHUNKS[0])] if chunk is None else [chunk]
    if problem.inside and chunk is not None and chunk % SUB and problem.mask.width is None:
        reason = f"chunks of {chunk}: the gate varies along a summed axis, so a chunk is a multiple of {SUB}"
        return (Refusal("chunked", reason, "inside"),)
    return tuple(blocks(pricing.anew(), "chunked", size) for size in sizes)
