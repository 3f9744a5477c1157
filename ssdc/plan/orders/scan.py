"""Scan: the state at every position by a work-efficient scan over elementwise gates, then read all at once."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.orders.passes import decayed, looped


def candidates(pricing: Pricing, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal where the mask is a product of gates over all the past; holds every state in memory."""
    problem = pricing.problem
    if problem.mask.width is not None:
        return (
            Refusal(
                "scan",
                f"the mask reaches back {problem.mask.width} positions, and no state of fixed size folds a window",
                "width",
            ),
        )
    time = problem.time
    pricing.term("write", problem.writers or (("one", ()),), (time, *problem.state))
    read = (*problem.readers, ("S", (time, *problem.state)))
    if problem.reader_gated:
        read += (("F", (*problem.gates, *((time,) if problem.varying else ()))),)
    pricing.term("read", read, problem.axes)
    length = max(1, problem.length)
    gated = problem.gated or problem.reset
    if gated:
        decayed(pricing, "scan", problem.count(problem.gates) * (length if problem.varying else 1))
    looped(pricing, "scan", length, problem.count(problem.state), gated=gated)
    return (pricing.candidate("scan", None, depth=min(length, 256)),)
