"""Recurrent: one position at a time, the state carried; over a mask of bounded width, a ring of past writers."""

from __future__ import annotations

from dataclasses import replace

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.hardware import Hardware
from ssdc.plan.orders.blocks import blocks
from ssdc.plan.problem import Problem
from ssdc.plan.roles import roles

PASSES = 4.0
"""Over the state, at each position."""
SLAB = 64
"""States that are held at once."""


def candidates(problem: Problem, hardware: Hardware, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for every mask that is a product of gates, and for every mask of bounded width."""
    if problem.mask.width is not None:
        return (blocks(problem, hardware, "recurrent", 1),)
    pricing = Pricing(problem, hardware, problem.sizes)
    found = roles(problem)
    pricing.term("query", found.query_operands or (("one", ()),), found.query)
    pricing.term("key", found.key_operands or (("one", ()),), found.key)
    pricing.term("value", found.value_operands or (("one", ()),), found.value)
    length = max(1, problem.length)
    state = problem.count(problem.state)
    pricing.elementwise("positions", state * length, PASSES, launches=length)
    pricing.parts["positions"] = replace(pricing.parts["positions"], workspace=4.0 * state * min(length, SLAB))
    return (pricing.candidate("recurrent", None, depth=length),)
