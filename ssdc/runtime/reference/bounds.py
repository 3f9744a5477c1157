"""How far a float32 computation may be from the float64 reference: error magnitudes, to first order.

A magnitude m of a value v says that a computation in floating point with unit roundoff u (2^-24 for float32) and any
sensible ordering finds some v' with |v' - v| <= c * u * m, where c (16 in this project) allows for library functions
that are right to a few units and for the length of sums. It is derived as follows (Higham, Accuracy and Stability of
Numerical Algorithms, ch. 2 and 3; first order in u throughout):

    input, parameter     m = 0                           it is the same number in both
    constant of program  m = 0 or |v|                    |v| if float32 cannot hold it; folded when compiling
    y = f(v, w, ...)     m = |y| + sum_i max_+- |f(.., v_i +- u m_i, ..) - y| / u
                                                         the rounding of y, and each argument moved to both ends of its
                                                         interval: |f'| m_i where f is smooth, still right at kinks,
                                                         zeros and poles; f that only choose (abs, max, where) do not
                                                         round
    y = sum of terms     m = sum|terms| + sum over terms, factors f of |term / f| m_f
                                                         a contraction contracts magnitudes; sum|terms| stands for the
                                                         rounding of all products and partial sums

So a contraction of inputs under a mask of zeros and ones has m = sum|terms|, the unit of the project's score-card. As
statistics go, n terms of one sign round off by about 0.4 sqrt(n/3) u sum|terms| if added one by one, so that c = 16 is
three standard deviations at n = 500; chunked and tiled orderings stay far below.

Masks of gates. M[t,s] = exp(sum of log a[r]) is off by what its exponent is off: m(M) = |M| * sum_r (m(log a[r]) +
|log a[r]|), the sum over the very gates between s and t; the second part is the rounding of that sum. Gates further
away do not count, so that a difference of long cumulative sums is outside the bound, as it should be. log a is taken as
written: g for exp(g), logsigmoid(f) for sigmoid(f), sums and multiples for products and powers. An ordering that
multiplies float32 gates step by step rounds each gate as well; these roundings are independent if the gates differ, and
c covers them; for long runs of equal gates near one, ask for `products=True`, which adds one |M| a step.

Underflow adds the smallest normal number to each rounding. In a recursive equation u = base + K u, the equation at each
position leaves a residual of at most r = m(base) + |base| + (magnitudes and sum|terms| of K) |u|, and the errors of u
are X times these, with X the inverse of 1 - K. Entries of X for different positions multiply roundings that have
nothing to do with each other, hundreds of them where no state forgets, so that they are added as such:
m(u) = sqrt(X^2 r^2), elementwise squares. (|X| r would be thousands of times too wide for the delta rule.)

Not covered: comparisons whose sides are within rounding of each other, and overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounding:
    """A floating-point format. `products`: gates are multiplied step by step, each rounded (see above)."""

    dtype: torch.dtype = torch.float32
    products: bool = False

    @property
    def unit(self) -> float:
        """The unit roundoff u: 2^-24 for float32."""
        return torch.finfo(self.dtype).eps / 2

    @property
    def floor(self) -> float:
        """Underflow, in units of u."""
        return torch.finfo(self.dtype).tiny / self.unit

    def made(self, data: Tensor) -> Tensor:
        """The magnitude of rounding a computed value once; of a sum of absolute values, of summing it."""
        return data.detach().abs() + self.floor

    def stored(self, data: Tensor) -> Tensor:
        """The magnitude of rounding a value known exactly: zero where the format holds it."""
        kept = data.to(self.dtype).to(data.dtype) == data
        return torch.where(kept, torch.zeros_like(data.real), data.abs())


def moved_by(
    function: Callable[..., Tensor], arguments: Sequence[Tensor], place: int, bound: Tensor, data: Tensor, unit: float
) -> Tensor:
    """How far `function`, equal to `data` at `arguments`, moves as one argument moves by unit * bound, over unit.

    Where a moved argument leaves the domain (all domains end at zero), zero takes its place.
    """
    centre = arguments[place]
    steps = (1.0, -1.0, 1j, -1j) if centre.is_complex() else (1.0, -1.0)
    most = torch.zeros(data.shape, dtype=torch.float64, device=data.device)
    for step in steps:
        moved = torch.where(centre.isfinite(), centre + step * unit * bound, centre)
        reached = function(*arguments[:place], moved, *arguments[place + 1 :])
        if reached.isnan().any():
            edge = function(*arguments[:place], torch.zeros_like(centre), *arguments[place + 1 :])
            reached = torch.where(reached.isnan(), edge, reached)
        far = (reached - data).abs()
        most = torch.maximum(most, torch.where(far.isnan(), torch.where(data.isfinite(), torch.inf, 0.0), far))
    return most / unit
