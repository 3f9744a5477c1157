"""Quadratic: scores of every reader and writer, times the mask, times the values; masked attention."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.orders.blocks import blocks


def candidates(pricing: Pricing, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Always legal: the contraction is linear in the writers."""
    return (blocks(pricing, "quadratic", 0),)
