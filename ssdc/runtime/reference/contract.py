"""One term: the product of its factors summed over every axis that is not asked for.

In: factors (values and masks) and the labels to keep. Out: the sum, its error magnitude, and sum|terms|. Factors are
contracted two at a time over float64 with the masks as operands. Where an operand of that would be too large, reader
positions are taken one by one; where something is not finite, every product is formed and those that a mask rules out
by structure are left out before summing, so that a NaN reaches no position that does not read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from string import ascii_letters
from typing import TypeVar

import torch
from torch import Tensor

from ssdc.runtime.reference.masks import View, both
from ssdc.runtime.reference.paths import Labels, contraction_path
from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Support, Value, lay_out, sum_up

LARGEST = 256 * 2**20 // 8
"""Elements of the largest operand that is written out (256 MiB)."""

T = TypeVar("T")
Parts = tuple[Tensor, Tensor | None]
"""The absolute value of something and its error magnitude (None: exact)."""


@dataclass(frozen=True)
class Term:
    """A contracted term: `value` over the labels asked for that it has, `absolute` = sum|terms| if it was rounded."""

    value: Value
    absolute: Tensor | None = None


def contract(maths: Arithmetic, factors: Sequence[Value | View], out: Sequence[str], reader: str) -> Term:
    """The product of `factors` summed over all axes but those in `out`.

    `reader` is the label along which positions are taken one by one if an operand would be too large.
    """
    names = {label for factor in factors for label in factor.labels}
    for label, target in maths.groups.items():
        if label in out and target in names:
            if target in out:
                raise EvaluationError(f"axis '{label}' on the left groups '{target}', which is on the left beside it")
            wide = contract(maths, factors, [target if name == label else name for name in out], reader)
            return _folded(maths, wide, label, target)
    seen = names | set(out)
    operands = [tuple(dict.fromkeys(_gathered(maths, label, seen) for label in factor.labels)) for factor in factors]
    keep = tuple(label for label in out if any(label in operand for operand in operands))
    if reader in keep and not _fits(maths, operands, keep):
        return _by_position(maths, factors, keep, reader)
    values = [maths.gathered(factor.whole() if isinstance(factor, View) else factor, seen) for factor in factors]
    support = reduce(lambda one, two: both(maths, one, two), (value.support for value in values))
    term = _pairwise(maths, values, keep, support)
    if support is None or bool(term.value.data.isfinite().all()):
        return term
    # 0 * NaN: what the masks rule out has to be left out. An operand that is not finite always shows in the result.
    if reader in keep and reader in support.labels:
        return _by_position(maths, factors, keep, reader)
    return _literally(maths, values, keep, support)


def _folded(maths: Arithmetic, term: Term, label: str, target: str) -> Term:
    """A term over an axis summed within each of its groups."""
    if target not in term.value.labels:
        return term
    place = term.value.labels.index(target)

    def fold(tensor: Tensor) -> Tensor:
        groups = maths.sizes[label]
        each = tensor.shape[place] // groups
        return tensor.reshape(*tensor.shape[:place], groups, each, *tensor.shape[place + 1 :]).sum(place + 1)

    labels = tuple(label if name == target else name for name in term.value.labels)
    absolute = term.value.data.abs() if term.absolute is None else term.absolute
    return Term(term.value.each(fold, labels), None if maths.rounding is None else fold(absolute))


def _gathered(maths: Arithmetic, label: str, seen: set[str]) -> str:
    target = maths.groups.get(label)
    return target if target is not None and target in seen else label


Problem = tuple[tuple[Labels, ...], Labels, tuple[tuple[str, int], ...]]


def _problem(maths: Arithmetic, operands: Sequence[Labels], keep: Labels) -> Problem:
    labels = sorted({label for operand in operands for label in operand})
    return tuple(operands), keep, tuple((label, maths.sizes[label]) for label in labels)


def _fits(maths: Arithmetic, operands: Sequence[Labels], keep: Labels) -> bool:
    if any(prod(maths.sizes[label] for label in labels) > LARGEST for labels in operands):
        return False
    return contraction_path(*_problem(maths, operands, keep))[1] <= LARGEST


def _by_position(maths: Arithmetic, factors: Sequence[Value | View], keep: Labels, reader: str) -> Term:
    """The term at each reader position by itself, from row M[t,:] of each mask read there."""
    views = [factor for factor in factors if isinstance(factor, View) and factor.reader == reader]
    ways = {view.mask.backwards for view in views if view.mask.sequential}
    if len(ways) > 1:
        raise EvaluationError("masks that run both ways meet in one term that is too large to be written out")
    inner = tuple(label for label in keep if label != reader)
    length = maths.sizes[reader]
    order = range(length - 1, -1, -1) if ways == {True} else range(length)
    terms = {t: contract(maths, [at(factor, reader, t) for factor in factors], inner, "") for t in order}
    term = gather_terms(maths, [terms[t] for t in range(length)], inner, reader)
    value = term.value.each(lambda tensor: lay_out(tensor, term.value.labels, keep), keep)
    absolute = None if term.absolute is None else lay_out(term.absolute, term.value.labels, keep)
    return Term(value, absolute)


def gather_terms(maths: Arithmetic, terms: Sequence[Term], inner: Labels, reader: str) -> Term:
    """Terms at each reader position as one, over the labels (reader, *inner)."""
    if not terms:
        empty = torch.zeros([0, *(maths.sizes[label] for label in inner)], dtype=torch.float64)
        return Term(maths.exact((reader, *inner), empty), None if maths.rounding is None else empty)
    data = torch.stack([term.value.data for term in terms])
    bounds = [term.value.bound for term in terms if term.value.bound is not None]
    sums = [term.absolute for term in terms if term.absolute is not None]
    value = Value((reader, *inner), data, torch.stack(bounds) if bounds else None)
    return Term(value, torch.stack(sums) if sums else None)


def add_terms(maths: Arithmetic, terms: Sequence[Term], left: Labels) -> Value:
    """The sum of terms over the axes `left`, its rounding counted against sum|terms|."""
    spread = [maths.spread(term.value, left) for term in terms]
    supports = [term.value.support for term in terms]
    support: Support | None = supports[0] if len(terms) == 1 else None
    if maths.rounding is None or (len(terms) == 1 and terms[0].absolute is None):
        return replace(maths.plus(spread, [1] * len(spread)), support=support)
    if all(value.constant for value in spread):
        return maths.plus(spread, [1] * len(spread))
    size = [term.value.data.abs() if term.absolute is None else term.absolute for term in terms]
    laid = [maths.spread(Value(term.value.labels, part), left).data for term, part in zip(terms, size, strict=True)]
    errors = [value.bound for value in spread if value.bound is not None]
    bound = sum_up(errors) + maths.rounding.made(sum_up(laid))
    return Value(left, sum_up([value.data for value in spread]), bound, support)


def at(factor: Value | View, reader: str, t: int) -> Value | View:
    """A factor at one reader position; as it is if it does not vary along the reader."""
    if isinstance(factor, View):
        return factor.row(t) if factor.reader == reader else factor
    return factor.select(reader, t) if reader in factor.labels else factor


def _literally(maths: Arithmetic, values: Sequence[Value], keep: Labels, support: Support) -> Term:
    """Every product formed, those outside the support dropped, the rest summed."""
    labels, laid = maths.aligned(values)
    allowed = lay_out(support.allowed, support.labels, labels)
    summed = [place for place, label in enumerate(labels) if label not in keep]
    rest = tuple(label for label in labels if label in keep)

    def add_up(tensor: Tensor) -> Tensor:
        kept = torch.where(allowed, tensor, 0)
        return lay_out(kept.sum(summed) if summed else kept, rest, keep)

    data = add_up(reduce(torch.mul, (value.data for value in laid)))
    left = _left(support, keep)
    if maths.rounding is None:
        return Term(Value(keep, data, support=left))
    parts: list[Parts] = [(value.data.abs(), value.bound) for value in laid]
    absolute, error = reduce(lambda one, two: _product(one, two, torch.mul), parts)
    total = add_up(absolute)
    return Term(Value(keep, data, torch.zeros_like(total) if error is None else add_up(error), left), total)


def _left(support: Support | None, keep: Labels) -> Support | None:
    return support if support is not None and set(support.labels) <= set(keep) else None


def _product(one: Parts, two: Parts, times: Callable[[Tensor, Tensor], Tensor]) -> Parts:
    """Absolute value and error magnitude of a product, to first order."""
    errors = [times(one[0], two[1])] if two[1] is not None else []
    errors += [times(one[1], two[0])] if one[1] is not None else []
    return times(one[0], two[0]), sum_up(errors) if errors else None


def _pairwise(maths: Arithmetic, values: Sequence[Value], keep: Labels, support: Support | None) -> Term:
    left = _left(support, keep)
    if len(values) == 1:
        (only,) = values
        if set(only.labels) == set(keep):
            return Term(replace(only.each(lambda tensor: lay_out(tensor, only.labels, keep), keep), support=left))
        values = [only, maths.constant(1, only.data.device)]
    operands = [value.labels for value in values]
    common = reduce(torch.promote_types, (value.data.dtype for value in values))
    data = _run(maths, [value.data.to(common) for value in values], operands, keep, _einsum)
    if maths.rounding is None:
        return Term(Value(keep, data, support=left))
    parts: list[Parts] = [
        (value.data.abs(), value.bound if value.bound is not None and value.bound.any() else None) for value in values
    ]
    absolute, error = _run(maths, parts, operands, keep, _einsum_parts)
    return Term(Value(keep, data, torch.zeros_like(absolute) if error is None else error, left), absolute)


def _run(
    maths: Arithmetic, items: Sequence[T], operands: Sequence[Labels], keep: Labels, times: Callable[[T, T, str], T]
) -> T:
    """Items contracted pair by pair in the cheapest order; `times` takes two and an einsum formula."""
    pairs, _ = contraction_path(*_problem(maths, operands, keep))
    letters = dict(zip(dict.fromkeys(label for labels in operands for label in labels), ascii_letters, strict=False))
    standing = list(zip(items, operands, strict=True))
    for first, second in pairs:
        (right, right_labels), (left, left_labels) = standing.pop(second), standing.pop(first)
        needed = set(keep).union(*(labels for _, labels in standing))
        result = tuple(n for n in dict.fromkeys((*left_labels, *right_labels)) if n in needed) if standing else keep
        one, two, three = ("".join(letters[n] for n in labels) for labels in (left_labels, right_labels, result))
        standing.append((times(left, right, f"{one},{two}->{three}"), result))
    return standing[0][0]


def _einsum(one: Tensor, two: Tensor, formula: str) -> Tensor:
    """One contraction of two tensors; a plain product if nothing is summed, which einsum would do by tiny matrices."""
    operands, result = formula.split("->")
    left, right = operands.split(",")
    if set(left) | set(right) <= set(result):
        return lay_out(one, left, result) * lay_out(two, right, result)
    return torch.einsum(formula, one, two)


def _einsum_parts(one: Parts, two: Parts, formula: str) -> Parts:
    return _product(one, two, lambda left, right: _einsum(left, right, formula))
