"""Scan: the state at every position by a work-efficient scan over elementwise gates, then read all at once."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.hardware import Hardware
from ssdc.plan.problem import Problem


def candidates(problem: Problem, hardware: Hardware, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal where the mask is a product of gates over all the past; holds every state in memory."""
    if problem.mask.width is not None:
        return (
            Refusal(
                "scan",
                f"the mask reaches back {problem.mask.width} positions, and no state of fixed size folds a window",
            ),
        )
    pricing = Pricing(problem, hardware, problem.sizes)
    time = problem.time
    pricing.term("write", problem.writers or (("one", ()),), tuple(a for a in (time, *problem.state)))
    read = (*problem.readers, ("S", (time, *problem.state)))
    if problem.reader_gated:
        read += (("F", (*problem.gates, *((time,) if problem.varying else ()))),)
    pricing.term("read", read, problem.axes)
    length = max(1, problem.length)
    pricing.elementwise("scan", problem.count(problem.state) * length, 6.0, launches=min(length, 256) + 8)
    return (pricing.candidate("scan", None, depth=min(length, 256)),)
