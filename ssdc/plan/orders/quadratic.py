"""Quadratic: scores of every reader and writer, times the mask, times the values; masked attention."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Refusal
from ssdc.plan.hardware import Hardware
from ssdc.plan.orders.blocks import blocks
from ssdc.plan.problem import Problem


def candidates(problem: Problem, hardware: Hardware, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Always legal: the contraction is linear in the writers."""
    return (blocks(problem, hardware, "quadratic", 0),)
