"""FFT: a mask that depends on the lag alone, applied to every entry of the state as a convolution."""

from __future__ import annotations

from math import log2

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.hardware import Hardware
from ssdc.plan.problem import Problem

WHY_ASKED_ONLY = "it mixes all positions, so a later input reaches earlier outputs in their last bits"
"""Why `auto` does not choose it."""


def candidates(problem: Problem, hardware: Hardware, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for time-invariant masks; computed in float64, and accurate relative to the largest entry of a sequence."""
    if problem.varying:
        what = "documents" if problem.reset and not problem.gated else "gates"
        return (Refusal("fft", f"the mask's {what} vary with time, so it is no convolution"),)
    if not problem.logarithmic:
        return (Refusal("fft", "a gate of unknown sign has no logarithm to raise to the lag"),)
    pricing = Pricing(problem, hardware, problem.sizes)
    time = problem.time
    pricing.term("write", problem.writers or (("one", ()),), tuple(a for a in (time, *problem.state)))
    pricing.term("read", (*problem.readers, ("S", (time, *problem.convolved))), problem.axes)
    length = 2 * max(1, problem.length)
    entries = problem.count(problem.convolved) * length
    pricing.elementwise("transform", entries, 24.0 + 8.0 * log2(length), launches=8)
    return (pricing.candidate("fft", None, depth=1),)
