"""Direct: a mask of bounded width, one shifted product a lag."""

from __future__ import annotations

from collections.abc import Mapping

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.products import pointwise

MOST_LAGS = 4096
VIEW: Mapping[str, float] = {"cpu": 1.0, "cuda": 0.3}
"""Operations that a view is worth, which starts nothing on a GPU."""
SUM = 6.0
"""Numbers in and out of memory that adding an entry of a lag is worth: shifted rows do not begin where caches do."""


def candidates(pricing: Pricing, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for masks of bounded width: conv, toeplitz, band."""
    problem = pricing.problem
    width = problem.mask.width
    if width is None:
        return (
            Refusal("direct", "the mask reaches back without bound; direct is for conv, toeplitz and band", "reach"),
        )
    if width > MOST_LAGS:
        return (
            Refusal(
                "direct",
                f"{width} lags are {width} passes over the sequence; at most {MOST_LAGS} are unrolled",
                "width",
            ),
        )
    time = problem.time
    operands = problem.readers + problem.writers + tuple((f"K{k}", axes) for k, axes in enumerate(problem.kernels))
    if problem.gated or problem.reset:
        operands += (("L", (*problem.gates, *((time,) if problem.varying else ()))),)
    pricing.term("lag", operands, problem.axes, repeat=width)
    gradient, length = pricing.gradient, max(1, problem.length)
    result = problem.count(problem.axes) * length
    sums = pointwise(result, SUM, gradient=gradient, back=0.0).times(width - 1, kept=gradient)
    timed = [axes for _, axes in problem.writers if time in axes]
    written = sum(problem.count(axes) for axes in timed) * length
    cut = VIEW[pricing.hardware.device] * (2.0 * len(timed) + len(problem.kernels))
    views = pointwise(written, 5.0 if gradient else 0.0, gradient=False, launches=cut, result=0.0)
    pricing.add("sum", sums, views.times(width, kept=gradient))
    if problem.gated or problem.reset:
        gates = problem.count(problem.gates) * (length if problem.varying else 1)
        decays = pointwise(gates, 9.0, exponentials=float(problem.gated), gradient=gradient, launches=4)
        pricing.add("mask", decays.times(width, kept=gradient))
    return (pricing.candidate("direct", None, depth=1),)
