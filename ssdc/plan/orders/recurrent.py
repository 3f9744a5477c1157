"""Recurrent: one position at a time, the state carried; over a mask of bounded width, a ring of past writers."""

from __future__ import annotations

from ssdc.plan.candidate import Candidate, Pricing, Refusal
from ssdc.plan.cost import Work
from ssdc.plan.orders.blocks import blocks
from ssdc.plan.orders.passes import OPERATOR, decayed, loop
from ssdc.plan.products import EINSUM, ITEM, multiplied, pointwise
from ssdc.plan.roles import roles

FORWARD, BACKWARD = 3.6, 28.0
"""Numbers in and out of memory for an entry of the state, at each position: without and with the derivative."""
ENTRY, COLUMN_BACK = 4.0, 11.0
"""Products that reading is worth where a state has one entry, and the derivative where it has one column, so that each
is too small for its call."""
FAR, FAR_BACK, NEAR = 2.0, 10.0, 4e6
"""Numbers more in and out of memory for an entry of a state of more bytes than caches hold, likewise."""
SPREAD = 5.0
"""Numbers in and out of memory for an entry of an operand that is copied for each of the batch axes that it lacks."""
ROWS = 6.0
"""Rows that one of the state is worth at each position: gates and keys have one number for it."""
SLAB, SLAB_ENTRIES = 64, 1 << 20
"""States that `ssdc.runtime.primitives.recurrent` holds at once, and their entries at most."""


def candidates(pricing: Pricing, chunk: int | None) -> tuple[Candidate | Refusal, ...]:
    """Legal for every mask that is a product of gates, and for every mask of bounded width."""
    problem = pricing.problem
    if problem.mask.width is not None:
        return (blocks(pricing, "recurrent", 1),)
    found = roles(problem)
    pricing.term("query", found.query_operands or (("one", ()),), found.query)
    pricing.term("key", found.key_operands or (("one", ()),), found.key)
    pricing.term("value", found.value_operands or (("one", ()),), found.value)
    length = max(1, problem.length)
    state = problem.count(problem.state)
    if problem.gated:
        decayed(pricing, "positions", problem.count(problem.gates) * (length if problem.varying else 1))
    slab = max(1, min(SLAB, int(SLAB_ENTRIES // max(1, state))))
    far = ITEM * state > NEAR
    passes, loops = (BACKWARD + FAR_BACK * far, 3) if pricing.gradient else (FORWARD + FAR * far, 1)
    pricing.add("positions", loop(state, length * loops, passes / loops, min(length, slab)))
    many, height, width, depth = (problem.count(axes) for axes in (found.batch, found.rows, found.outer, found.inner))
    if width > 1:
        pricing.add("positions", Work(rows=ROWS * length * loops * state / width, entries=state))
    if pricing.gradient:
        products = 4.0 if width > 1 else COLUMN_BACK
    else:
        products = 1.0 if width * depth > 1 else ENTRY
    pricing.add("positions", multiplied(length * many, height, width, depth).times(products))
    for operand, own in ((found.query, height * depth), (found.key, depth), (found.value, width)):
        if operand and not set(found.batch) <= set(operand):
            copied = pointwise(length * many * own, SPREAD * loops, gradient=False, launches=0.0, result=0.0)
            pricing.add("positions", copied)
    slabs = -(-length // slab)
    pricing.add("positions", pointwise(0, 0, gradient=pricing.gradient, launches=OPERATOR + 16.0 * slabs))
    return (pricing.candidate("recurrent", None, depth=length),)


def step(pricing: Pricing) -> Candidate:
    """One position, for a problem of that length: the state brought forward and read, or a window's products."""
    problem = pricing.problem
    if problem.mask.width is not None:
        blocks(pricing, "recurrent", 1)
    else:
        found = roles(problem)
        state = problem.count(problem.state)
        many, height, width, depth = (problem.count(a) for a in (found.batch, found.rows, found.outer, found.inner))
        pricing.add("gates", pointwise(problem.count(problem.gates), 2.0, gradient=False, exponentials=1.0))
        pricing.add("state", pointwise(state, 5.0, gradient=False, launches=2.0 + len(problem.writers)))
        pricing.add(
            "read", multiplied(many, height, width, depth), pointwise(state, 1.0, gradient=False, launches=EINSUM)
        )
    return pricing.candidate("recurrent", None, depth=1)
