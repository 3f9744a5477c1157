"""The choice among forms of the Triton kernels: facts and sizes of a call, a machine -> the configuration that the cost
model predicts to be the fastest (`ssdc.codegen.triton.pricing`). Nothing is timed.
"""

from __future__ import annotations

from functools import lru_cache

from ssdc.codegen.triton import configuration, pricing
from ssdc.codegen.triton.configuration import Backward, BackwardForm, Call, Form, Forward
from ssdc.codegen.triton.facts import Facts
from ssdc.plan.hardware import H200, Hardware

SHORT = 16
"""The longest call that goes position by position: decoding, speculative or not, and short prefills."""


@lru_cache(maxsize=16384)
def forward(
    facts: Facts, call: Call, form: Form | None = None, segments: int | None = None, hardware: Hardware = H200
) -> Forward:
    """The kernels of a forward call; of a form, or of so many pieces of time, where they are given."""
    if form is None and call.length <= SHORT:
        form = "recurrent"
    offered = [
        one
        for one in pricing.forms(facts, call)
        if form in (None, one.form) and segments in (None, one.segments) and (form or one.form != "recurrent")
    ]
    if not offered:  # asked for, though it would not be chosen
        return configuration.forward(facts, call, form or "parallel", segments or 1)
    return min(offered, key=lambda one: pricing.order(pricing.candidate(facts, call, one, hardware)))


@lru_cache(maxsize=16384)
def backward(
    facts: Facts,
    call: Call,
    gates: bool,
    form: BackwardForm | None = None,
    segments: int | None = None,
    hardware: Hardware = H200,
) -> Backward:
    """The kernels of a backward call; `gates` tells whether gradients of gates are wanted."""
    offered = [
        one
        for one in pricing.backs(facts, call, gates)
        if form in (None, one.form) and segments in (None, one.segments)
    ]
    if not offered:
        return configuration.backward(facts, call, gates, form or "parallel", segments or 1)
    return min(offered, key=lambda one: pricing.order(pricing.back(facts, call, one, hardware)))
