"""The comparison that all numeric tests rest on, shown to fail where it must."""

from __future__ import annotations

import pytest
import torch

from tests.support.compare import FACTOR, UNIT, Report, check, fourier, tolerance

WANTED = torch.tensor([[1.0, -2.0, 0.0], [1e-20, 4.0, 1e10]], dtype=torch.float64)
BOUND = tolerance(WANTED, WANTED.abs() + 1e-30)


def test_what_is_inside_its_bound_passes() -> None:
    check(WANTED + 0.99 * BOUND, WANTED, BOUND, "just inside")
    check(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, 3), "nothing")


@pytest.mark.parametrize("place", range(6))
def test_one_element_outside_its_bound_fails_whatever_the_others_are(place: int) -> None:
    found = WANTED.clone()
    found.view(-1)[place] += 1.01 * BOUND.view(-1)[place]
    with pytest.raises(AssertionError, match=rf"1 of 6 elements.*\[{place // 3}, {place % 3}\]"):
        check(found, WANTED, BOUND, "one")


@pytest.mark.parametrize("bad", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("which", ("found", "wanted", "bound"))
def test_what_is_not_finite_fails_on_either_side(bad: float, which: str) -> None:
    given = {"found": WANTED.clone(), "wanted": WANTED.clone(), "bound": BOUND.clone()}
    given[which][0, 1] = bad
    with pytest.raises(AssertionError):
        check(**given, what="not finite")
    if which != "bound":
        with pytest.raises(AssertionError):
            check(**{**given, "found": given[which], "wanted": given[which]}, what="both")


def test_another_shape_fails_even_if_it_broadcasts() -> None:
    with pytest.raises(AssertionError, match="shape"):
        check(torch.ones(1, 3), torch.ones(2, 3), torch.ones(2, 3), "shape")


def test_a_report_tells_of_every_failure() -> None:
    report = Report()
    for name in ("scan", "fft"):
        report.check(WANTED + 1, WANTED, BOUND, name)
    report.check(WANTED, WANTED, BOUND, "right")
    with pytest.raises(AssertionError, match=r"(?s)scan.*fft") as caught:
        report.close()
    assert "right" not in str(caught.value)


def test_bounds_are_those_of_their_formats() -> None:
    m = torch.tensor([3.0], dtype=torch.float64)
    assert tolerance(m, m) == FACTOR * 2**-24 * 3
    assert tolerance(m, m, torch.float64) == 2 * FACTOR * 2**-53 * 3
    assert tolerance(m, m, torch.bfloat16) == pytest.approx(2**-8 * 3 * (1 + 16 * 2**-24) + 48 * 2**-24, rel=1e-12)
    assert tolerance(m, m, torch.float16, low=True) == 16 * 2**-11 * 3
    assert UNIT[torch.float16] == 2**-11
    over_time = fourier(torch.tensor([[1.0, 5.0, 0.0, 2.0]], dtype=torch.float64), 1)
    assert (over_time == over_time[0, 0]).all() and over_time[0, 0] == 16 * 4 * 2 * 2**-53 * 5.0
