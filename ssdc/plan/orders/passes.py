"""The elementwise passes that orderings share, as work: decays from log gates, masks between positions, loops over
time. The counts are those of `ssdc.runtime.blocks` and `ssdc.runtime.primitives`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ssdc.plan.candidate import Pricing
from ssdc.plan.cost import Work
from ssdc.plan.products import ITEM, pointwise

SCAN_BLOCK, SCAN_STATE = 256, 8192
"""`linear_scan` cuts longer scans of smaller states into blocks of so many steps."""
FLOORED: Mapping[str, float] = {"cpu": 13.0, "cuda": 18.0}
"""Numbers in and out of memory, by device, that an entry of a running sum is worth."""
MASK: Mapping[str, float] = {"cpu": 31.0, "cuda": 12.0}
"""The same of an entry of a mask, besides its exponential: a CPU writes some by a pattern."""
MASK_BACK: Mapping[str, float] = {"cpu": 1.0, "cuda": 1.9}
"""How much more its derivative moves."""
PRODUCTS: Mapping[str, float] = {"cpu": 12.0, "cuda": 18.0}
"""The same of an entry of a mask of plain gates."""
OPERATOR = 22.0
"""Operations that the call of a custom operator is worth."""
SUMMED_STATE = 512
"""On a CPU, `running_sum` adds step by step from so many entries of a state on; all else is left to `torch.cumsum`."""
SUMMED, FAR_SUMMED, FAR_APART = 4.0, 17.0, 256
"""Operations of plain loops that an entry of `torch.cumsum` is worth, and one whose neighbours in time lie so many
entries apart."""
WAITING, FAR_WAITING = 1.4, 3.2
"""Steps of a chain within a kernel that one of `torch.cumsum` is worth on a GPU, from its cache and from memory."""


def floored(pricing: Pricing, entries: float) -> None:
    """Running sums of log gates in float64, where there are any."""
    if pricing.problem.gated:
        moved = FLOORED[pricing.hardware.device]
        pricing.add("mask", pointwise(entries, moved, gradient=pricing.gradient, launches=4))


def masked(pricing: Pricing, part: str, entries: float, pattern: float) -> None:
    """A mask of `entries` between pairs of positions, of which `pattern` differ in their places alone."""
    problem, gradient, device = pricing.problem, pricing.gradient, pricing.hardware.device
    pricing.add(part, pointwise(pattern, 3.0, gradient=False, launches=6))
    if problem.mask.log_gates or problem.mask.exclusive_log_gates:
        moved, back = MASK[device], MASK_BACK[device]
        pricing.add(
            part,
            pointwise(entries, moved, exponentials=1.0, gradient=gradient, launches=4, back=back, result=3.0),
        )
    if not problem.logarithmic:
        pricing.add(
            part,
            pointwise(entries, PRODUCTS[device], exponentials=1.0, gradient=gradient, launches=8, back=3.0, result=3.0),
        )
    if problem.reset:
        pricing.add(part, pointwise(entries, 2.0, gradient=False, launches=2))


def decayed(pricing: Pricing, part: str, entries: float) -> None:
    """Decays from positions to a border: a difference of sums, and its exponential."""
    pricing.add(part, pointwise(entries, 9.0, exponentials=1.0, gradient=pricing.gradient, launches=6))


def looped(pricing: Pricing, part: str, steps: int, state: float, *, gated: bool) -> None:
    """`linear_scan` over `steps` states, or `running_sum` where there are no gates."""
    gradient = pricing.gradient
    scans = 2.0 if gradient else 1.0
    if not gated and pricing.hardware.device == "cuda":
        cache, _ = pricing.hardware.bandwidth[0]
        waiting = WAITING if 2.0 * ITEM * state * steps <= cache else FAR_WAITING
        depth = waiting * steps * scans if state > 1 else 0.0  # a single row is scanned side by side
        pricing.add(part, pointwise(state * steps, 5.0, gradient=gradient, launches=4, back=2.3), Work(depth=depth))
        return
    if not gated and state < SUMMED_STATE:
        entries = state * steps
        worth = FAR_SUMMED if state >= FAR_APART else SUMMED
        pricing.add(part, pointwise(entries, 4.0, gradient=gradient, launches=2))
        pricing.add(part, Work(thin=worth * entries * scans, entries=entries))
        return
    pricing.add(part, pointwise(0, 0, gradient=gradient, launches=OPERATOR))
    if not gated:
        pricing.add(part, loop(state, steps * scans, 3.0))
        return
    if steps <= SCAN_BLOCK or state >= SCAN_STATE:
        pricing.add(part, loop(state, steps * scans, 4.0))
    else:
        blocks = steps // SCAN_BLOCK
        pricing.add(
            part,
            loop(state * blocks, 2.0 * SCAN_BLOCK * scans, 5.0),
            loop(state * blocks, SCAN_BLOCK * scans, 4.0),
            loop(state, blocks * scans, 6.0),
        )
    if gradient:
        pricing.add(part, pointwise(state * steps, 9.0, gradient=False, launches=8))


def loop(entries: float, steps: float, moved: float, held: float | None = None) -> Work:
    """Steps of a loop over time, each an elementwise operation on `entries`; `held` states are in memory at once (all,
    if not given)."""
    size = ITEM * entries * (steps if held is None else held)
    return Work(
        vector=2.0 * entries * steps,
        bytes=ITEM * entries * moved * steps,
        launches=steps,
        steps=steps,
        touched=size if held is not None else 2.0 * size,
        fresh=size,
        workspace=size,
        largest=0.0 if held is not None else size / 2,
        entries=entries,
    )
