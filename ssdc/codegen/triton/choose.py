"""The choice among forms of the Triton kernels: facts and sizes of a call, a machine -> the configuration that the cost
model predicts to be the fastest (`ssdc.codegen.triton.pricing`). Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from ssdc.codegen.triton import configuration, pricing
from ssdc.codegen.triton.configuration import Backward, BackwardForm, Call, Form, Forward
from ssdc.codegen.triton.facts import Facts
from ssdc.plan.candidate import Candidate
from ssdc.plan.hardware import H200, Hardware

Some = TypeVar("Some", Forward, Backward)
SHORT = 16
"""The longest call that goes position by position: decoding, speculative or not, and short prefills."""


def forward(
    facts: Facts, call: Call, form: Form | None = None, segments: int | None = None, hardware: Hardware = H200
) -> Forward:
    """The kernels of a forward call; of a form, or of so many pieces of time, where they are given."""
    if form is None and call.length <= SHORT:
        form = "recurrent"
    return configuration.forward(facts, call, *_forward(facts, _like(call), form, segments, hardware))


def backward(
    facts: Facts,
    call: Call,
    gates: bool,
    form: BackwardForm | None = None,
    segments: int | None = None,
    hardware: Hardware = H200,
) -> Backward:
    """The kernels of a backward call; `gates` tells whether gradients of gates are wanted."""
    return configuration.backward(facts, call, gates, *_backward(facts, _like(call), gates, form, segments, hardware))


def _like(call: Call) -> Call:
    """The call that stands for those of about its length, so that calls of many lengths cost few choices.

    >>> [_like(Call(1, length, 1, 132)).length for length in (16, 1000, 1024, 1025)]
    [16, 1024, 1024, 1088]
    """
    step = max(1, 1 << (call.length - 1).bit_length() >> 5)
    return replace(call, length=-(-call.length // step) * step)


@lru_cache(maxsize=16384)
def _forward(facts: Facts, call: Call, form: Form | None, segments: int | None, hardware: Hardware) -> tuple[Form, int]:
    offered = [one for one in pricing.forms(facts, call) if form or one.form != "recurrent"]
    best = _least(offered, form, segments, lambda one: pricing.candidate(facts, call, one, hardware))
    return (best.form, best.segments) if best else (form or "parallel", segments or 1)


@lru_cache(maxsize=16384)
def _backward(
    facts: Facts, call: Call, gates: bool, form: BackwardForm | None, segments: int | None, hardware: Hardware
) -> tuple[BackwardForm, int]:
    offered = pricing.backs(facts, call, gates)
    best = _least(offered, form, segments, lambda one: pricing.back(facts, call, one, hardware))
    return (best.form, best.segments) if best else (form or "parallel", segments or 1)


def _least(
    offered: Iterable[Some], form: str | None, segments: int | None, price: Callable[[Some], Candidate]
) -> Some | None:
    """The cheapest of what is offered in a form and so many pieces of time; none where they are asked for, though they
    would not be chosen."""
    fair = [one for one in offered if form in (None, one.form) and segments in (None, one.segments)]
    return min(fair, key=lambda one: pricing.order(price(one)), default=None)
