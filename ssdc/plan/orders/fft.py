"""FFT: a mask that depends on the lag alone, applied to every entry of the state as a convolution."""

from __future__ import annotations

from math import log2

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.products import pointwise

WHY_ASKED_ONLY = "it mixes all positions, so a later input reaches earlier outputs in their last bits"
"""Why `auto` does not choose it."""


def candidates(pricing: Pricing, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for time-invariant masks; computed in float64, and accurate relative to the largest entry of a sequence."""
    problem = pricing.problem
    if problem.varying:
        cut = not problem.gates_vary
        reason = f"the mask's {'documents' if cut else 'gates'} vary with time, so it is no convolution"
        return (Refusal("fft", reason, "documents" if cut else "varying"),)
    if not problem.logarithmic:
        return (Refusal("fft", "a gate of unknown sign has no logarithm to raise to the lag", "plain"),)
    time = problem.time
    pricing.term("write", problem.writers or (("one", ()),), tuple(a for a in (time, *problem.state)))
    pricing.term("read", (*problem.readers, ("S", (time, *problem.convolved))), problem.axes)
    length = 2 * max(1, problem.length)
    entries = problem.count(problem.convolved) * length
    pricing.add(
        "transform", pointwise(entries, 24.0 + 8.0 * log2(length), gradient=pricing.gradient, launches=20, result=8.0)
    )
    return (pricing.candidate("fft", None, depth=1),)
