"""The exact search for the order in which to multiply a product of tensors pairwise.

A product of named-axis operands, summed over what the result lacks, can be evaluated by any binary tree over the
operands. Dynamic programming over subsets finds the cheapest tree (at most eight operands, so at most 3^8 splits); each
pair is priced as what it is: a matrix product, or elementwise work at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ssdc.plan.hardware import Hardware


@dataclass(frozen=True)
class Step:
    """`left * right` summed to `axes`; with `right` empty, `left` alone summed to `axes`."""

    left: str
    right: str
    result: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Path:
    """A cheapest tree: its steps in order, the last one's result being the product's."""

    steps: tuple[Step, ...]
    axes: tuple[str, ...]


SAME = 1 - 1e-9
"""Sums of the same terms in another order are no better than one another."""

Operands = tuple[tuple[str, tuple[str, ...]], ...]
"""Names of operands with their axes."""


def search(operands: Operands, axes: tuple[str, ...], sizes: Mapping[str, int], hardware: Hardware) -> Path:
    """The cheapest pairwise order of a product of operands, summed over every axis that `axes` lacks.

    >>> from ssdc.plan.hardware import CPU
    >>> sizes = {"i": 64, "j": 64, "n": 128, "p": 64, "h": 24}
    >>> q, k, mask, v = ("q", ("i", "n")), ("k", ("j", "n")), ("L", ("h", "i", "j")), ("v", ("j", "h", "p"))
    >>> [step.axes for step in search((q, k, mask, v), ("i", "h", "p"), sizes, CPU).steps]
    [('j', 'i'), ('h', 'i', 'j'), ('i', 'h', 'p')]
    """
    used = {axis for _, found in operands for axis in found} | set(axes)
    return _search(operands, axes, tuple(sorted((axis, sizes[axis]) for axis in used)), hardware)


@lru_cache(maxsize=4096)
def _search(operands: Operands, axes: tuple[str, ...], sizes: tuple[tuple[str, int], ...], hardware: Hardware) -> Path:
    table = dict(sizes)
    count, whole = len(operands), (1 << len(operands)) - 1
    out = frozenset(axes)
    of = [frozenset(found) for _, found in operands]
    kept: dict[int, frozenset[str]] = {}
    for subset in range(1, whole + 1):
        inside = frozenset().union(*(of[k] for k in range(count) if subset >> k & 1))
        outside = frozenset().union(out, *(of[k] for k in range(count) if not subset >> k & 1))
        kept[subset] = inside & outside if subset & (subset - 1) else of[subset.bit_length() - 1]
    kept[whole] = out & frozenset().union(*of)
    best: dict[int, tuple[float, int]] = {1 << k: (0.0, 0) for k in range(count)}
    for subset in sorted(range(1, whole + 1), key=int.bit_count):
        if subset in best:
            continue
        part = (subset - 1) & subset
        while part:
            other = subset ^ part
            if part > other:
                pair = pair_seconds(kept[part], kept[other], kept[subset], table, hardware)
                seconds = best[part][0] + best[other][0] + pair
                if subset not in best or seconds < SAME * best[subset][0]:
                    best[subset] = (seconds, part)
            part = (part - 1) & subset
    steps: list[Step] = []
    _steps(whole, best, kept, operands, axes, steps)
    if not steps:
        ((name, found),) = operands
        return Path((Step(name, "", "out", tuple(axis for axis in axes if axis in found)),), axes)
    return Path(tuple(steps), axes)


def _steps(
    subset: int,
    best: Mapping[int, tuple[float, int]],
    kept: Mapping[int, frozenset[str]],
    operands: Operands,
    axes: tuple[str, ...],
    steps: list[Step],
) -> tuple[str, tuple[str, ...]]:
    part = best[subset][1]
    if not part:
        return operands[subset.bit_length() - 1]
    left, left_axes = _steps(part, best, kept, operands, (), steps)
    right, right_axes = _steps(subset ^ part, best, kept, operands, (), steps)
    natural = _natural(left_axes, right_axes, kept[subset])
    found = tuple(axis for axis in axes if axis in kept[subset]) if axes else natural
    result = "out" if axes else f"{left}{right}"
    steps.append(Step(left, right, result, found))
    return result, found


def _natural(left: tuple[str, ...], right: tuple[str, ...], kept: frozenset[str]) -> tuple[str, ...]:
    """The axes of a pair's result in the order that moves least: as the larger operand has them, where nothing is
    summed; else batch, rows, columns, as a matrix product has them."""
    if {*left, *right} <= kept:
        longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
        return tuple(dict.fromkeys((*longer, *shorter)))
    batch = [axis for axis in left if axis in right]
    return tuple(axis for axis in dict.fromkeys((*batch, *left, *right)) if axis in kept)


def pair_seconds(
    left: frozenset[str], right: frozenset[str], out: frozenset[str], sizes: Mapping[str, int], hardware: Hardware
) -> float:
    """The predicted time of one pairwise step in float32, wherever its operands lie.

    A matrix product where an axis is summed and each side has an axis of its own; elementwise work otherwise.
    """

    def count(axes: frozenset[str]) -> float:
        return float(prod(sizes[axis] for axis in axes))

    summed = (left | right) - out
    rows, columns, inner = left - right - summed, right - left - summed, (left & right) - out
    moved = 4.0 * (count(left) + count(right) + count(out))
    if inner and count(rows) > 1 and count(columns) > 1:
        least = min(count(rows), count(columns), count(inner))
        return 2.0 * count(left | right) / hardware.product(least) + hardware.moving(moved) + hardware.launch
    if summed:
        moved += 8.0 * count(left | right)
    return 2.0 * count(left | right) / hardware.vector + hardware.moving(moved) + hardware.launch
