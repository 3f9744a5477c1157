"""Closed intervals of real numbers, and arithmetic on them.

In: intervals. Out: an interval that holds every result. The ends are floats and may be infinite; an infinite end stands
for "as large as you like", so that 0 * inf is 0. An end that overflows, and e^x that vanishes, are rounded outwards;
other ends are computed by the operations that the values go through. Where an operation has no real value (log of -1)
nothing is promised about it; the interval holds the results of the rest.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """All x with low <= x <= high.

    >>> Interval(-8, -8) * Interval(0, 1) * Interval(0, math.inf)
    Interval(low=-inf, high=0.0)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Raises ValueError for an empty interval and for NaN."""
        if not self.low <= self.high:
            raise ValueError(f"no interval reaches from {self.low} to {self.high}")
        object.__setattr__(self, "low", min(self.low, LARGEST) + 0.0)  # -0.0 becomes 0.0, an integer a float
        object.__setattr__(self, "high", max(self.high, -LARGEST) + 0.0)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def within(self, other: Interval) -> bool:
        """Whether every value of this one lies in `other`."""
        return other.low <= self.low and self.high <= other.high

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def meet(self, other: Interval) -> Interval:
        """What two true bounds on one value say together; this one where rounding has pulled them apart."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Interval(low, high) if low <= high else self

    def map(self, function: Callable[[float], float]) -> Interval:
        """Through a function that never decreases."""
        return Interval(function(self.low), function(self.high))

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        return _around(times(a, b) for a in (self.low, self.high) for b in (other.low, other.high))

    def __truediv__(self, other: Interval) -> Interval:
        if other.low < 0 < other.high or other == ZERO:
            return ALL
        if other.high <= 0:
            return -self / -other
        return _around(over(a, b) for a in (self.low, self.high) for b in (other.low, other.high))

    def __pow__(self, other: Interval) -> Interval:
        """Real powers. A base that may be negative needs a constant whole exponent, or the answer is `ALL`."""
        if other.low == other.high and other.low.is_integer():
            return _whole_power(self, other.low)
        if self.low < 0 and (other.low < other.high or self.high < 0):
            return ALL
        base = Interval(max(self.low, 0.0), self.high)
        return _around(power(a, b) for a in (base.low, base.high) for b in (other.low, other.high))

    def absolute(self) -> Interval:
        """Of |x|."""
        if self.low < 0 < self.high:
            return Interval(0.0, max(-self.low, self.high))
        return self if self.low >= 0 else -self

    def exp(self) -> Interval:
        """Of e^x."""
        return Interval(exp(self.low), max(exp(self.high), SMALLEST) if self.high > -math.inf else 0.0)


LARGEST = sys.float_info.max  # a low end is no larger: what overflows is still a number
SMALLEST = math.ulp(0.0)

ALL = Interval(-math.inf, math.inf)
ZERO = Interval(0.0, 0.0)
ONE = Interval(1.0, 1.0)
UNIT = Interval(0.0, 1.0)
NONNEGATIVE = Interval(0.0, math.inf)


def times(a: float, b: float) -> float:
    """The product of two ends, with 0 * inf = 0."""
    return 0.0 if a == 0 or b == 0 else a * b


def over(a: float, b: float) -> float:
    """The quotient of two ends, for b >= 0, with inf / inf = 0: no interval is infinite at both ends of one side."""
    if a == 0 or math.isinf(b):
        return 0.0
    return math.copysign(math.inf, a) if b == 0 else a / b


def power(base: float, exponent: float) -> float:
    """base^exponent for a base >= 0, in floats that overflow to infinity."""
    if base == 0 and exponent < 0:
        return math.inf
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


def exp(x: float) -> float:
    """e^x in floats that overflow to infinity."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _whole_power(base: Interval, exponent: float) -> Interval:
    if exponent < 0:
        return ONE / _whole_power(base, -exponent)
    if exponent % 2 == 0:
        return base.absolute().map(lambda x: power(x, exponent))
    return base.map(lambda x: math.copysign(power(abs(x), exponent), x))


def _around(values: Iterable[float]) -> Interval:
    ends = tuple(values)
    return Interval(min(ends), max(ends))
