"""Direct: a mask of bounded width, one shifted product a lag."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.hardware import Hardware
from ssdc.plan.problem import Problem

MOST_LAGS = 4096


def candidates(problem: Problem, hardware: Hardware, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for masks of bounded width: conv, toeplitz, band."""
    width = problem.mask.width
    if width is None:
        return (Refusal("direct", "the mask reaches back without bound; direct is for conv, toeplitz and band"),)
    if width > MOST_LAGS:
        return (
            Refusal("direct", f"{width} lags are {width} passes over the sequence; at most {MOST_LAGS} are unrolled"),
        )
    pricing = Pricing(problem, hardware, problem.sizes)
    time = problem.time
    operands = problem.readers + problem.writers + tuple((f"K{k}", axes) for k, axes in enumerate(problem.kernels))
    if problem.gated or problem.reset:
        operands += (("L", (*problem.gates, *((time,) if problem.varying else ()))),)
    pricing.term("lag", operands, problem.axes, repeat=width)
    pricing.elementwise("sum", problem.count(problem.axes) * max(1, problem.length) * width, 3.0, launches=width)
    return (pricing.candidate("direct", None, depth=1),)
