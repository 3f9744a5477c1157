"""Comparing with the reference: every element against a bound of its own, and no element without one.

Bounds are derived, never fitted. With u the unit roundoff and m the magnitude that `Reference.bounds` returns (its
derivation is in `ssdc.runtime.reference.bounds`):

    float32                16 u m
    float64                2 * 16 u64 m         the reference rounds in float64 too; m is a first-order quantity, the
                                                same for both formats, and taken at float32's finite differences
    float16, bfloat16      u_out |y| + 16 u m   computed in float32 and rounded once at the end, to numbers of at least
                                                the smallest subnormal; 16 u_out m where operands are cast (`low`)
    order fft              + 16 log2(4T) sqrt(T) u64 max m
                                                a float64 FFT is off by c log2(n) u64 ||w||_2 ||k||_2 (Higham, ch. 24),
                                                which does not get smaller where the result is small; by Cauchy and
                                                Schwarz ||w||_2 ||k||_2 <= sqrt(T) max|w| ||k||_1, the size of the
                                                largest sum of absolute terms where inputs are alike everywhere;
                                                times 1e6 where a program divides by as little as 1e-6
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FACTOR = 16.0
"""How many units of u * m an element may be off."""

UNIT = {dtype: torch.finfo(dtype).eps / 2 for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def tolerance(wanted: Tensor, magnitude: Tensor, dtype: torch.dtype = torch.float32, *, low: bool = False) -> Tensor:
    """The bound of each element for a computation whose inputs and outputs are of `dtype`."""
    if dtype == torch.float32:
        return FACTOR * UNIT[dtype] * magnitude
    if dtype == torch.float64:
        return 2 * FACTOR * UNIT[dtype] * magnitude
    if low:
        return FACTOR * UNIT[dtype] * magnitude
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    computed = FACTOR * UNIT[torch.float32] * magnitude
    return UNIT[dtype] * (wanted.abs() + computed) + computed + smallest


def fourier(magnitude: Tensor, time: int | None, grown: float = 1.0) -> Tensor:
    """What the order fft adds to a bound; `grown` is what a program multiplies an error by afterwards, at most."""
    if time is None or magnitude.numel() == 0:
        return torch.zeros_like(magnitude)
    length = magnitude.shape[time]
    factor = grown * FACTOR * math.log2(4 * length) * math.sqrt(length) * UNIT[torch.float64]
    return factor * magnitude.max().expand_as(magnitude)


def check(found: Tensor, wanted: Tensor, bound: Tensor, what: str) -> None:
    """Raise AssertionError, naming the worst element, unless |found - wanted| <= bound and all is finite."""
    assert found.shape == wanted.shape, f"{what}: shape {list(found.shape)}, expected {list(wanted.shape)}"
    if found.numel() == 0:
        return
    found, wanted = found.detach().double(), wanted.detach().double()
    assert bound.shape == wanted.shape and bool(bound.isfinite().all()), f"{what}: a bound that promises nothing"
    far = (found - wanted).abs()
    fine = (far <= bound) & wanted.isfinite()
    if bool(fine.all()):
        return
    ratio = torch.where(fine, 0.0, torch.nan_to_num(far / bound, nan=torch.inf, posinf=torch.inf))
    worst = int(ratio.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), found.shape)]
    raise AssertionError(
        f"{what}: {int((~fine).sum())} of {fine.numel()} elements are outside their bound; the worst, at {place}, is "
        f"{float(found.flatten()[worst])!r}, expected {float(wanted.flatten()[worst])!r}, "
        f"{float(ratio.flatten()[worst]):.3g} times its bound"
    )


class Report:
    """Checks that go on after a failure, so that one test tells of every order: `with report.of("scan"): ...`."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def check(self, found: Tensor, wanted: Tensor, bound: Tensor, what: str) -> None:
        try:
            check(found, wanted, bound, what)
        except AssertionError as error:
            self.failures.append(str(error))

    def close(self) -> None:
        """Raise AssertionError with all failures, if there were any."""
        assert not self.failures, "\n" + "\n".join(self.failures)
