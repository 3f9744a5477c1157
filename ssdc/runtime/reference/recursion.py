"""Recursive equations, u = base + K u with K strict: forward substitution, position by position.

In: the value of the terms without u, and the factors of each term with it. Out: u. The mask between the reader and the
position at which u is read must be strict in one direction, or EvaluationError is raised. Magnitudes: `bounds.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdc.runtime.reference.contract import Term, add_terms, at, contract, gather_terms
from ssdc.runtime.reference.expressions import Names
from ssdc.runtime.reference.masks import WRITER, View
from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Value, lay_out


@dataclass(frozen=True)
class Recursion:
    """One term: its sign, the factors beside u, and the position at which it reads u."""

    sign: int
    factors: Sequence[Value | View]
    writer: str


def solve(names: Names, left: tuple[str, ...], base: Value, terms: Sequence[Recursion]) -> Value:
    """u over the axes `left`, in which `base` is given."""
    reader, length = names.reader, names.length
    if reader not in left:
        raise EvaluationError("a recursive equation is not defined over time")
    backwards = _backwards(names, terms)
    inner = tuple(label for label in left if label != reader)
    past = _Past(names, inner, backwards)
    for t in range(length - 1, -1, -1) if backwards else range(length):
        parts = [Term(base.select(reader, t))]
        if len(past):
            span = slice(t + 1, length) if backwards else slice(0, t)
            known = past.whole()
            parts += [_at(names, term, known, t, span, inner) for term in terms]
        past.add(add_terms(names.maths, parts, inner))
    value = past.whole().renamed({WRITER: reader})
    value = value.each(lambda tensor: lay_out(tensor, value.labels, left), left)
    if names.maths.rounding is None:
        return value
    return replace(value, bound=_magnitude(names, left, base, value, terms))


class _Past:
    """The positions found so far, joined in blocks, so that not all are put together anew at each step."""

    BLOCK = 64

    def __init__(self, names: Names, inner: tuple[str, ...], backwards: bool) -> None:
        self.names, self.inner, self.backwards = names, inner, backwards
        self.blocks: list[Value] = []
        self.fresh: list[Value] = []

    def __len__(self) -> int:
        return len(self.blocks) + len(self.fresh)

    def add(self, value: Value) -> None:
        self.fresh.append(value)
        if len(self.fresh) == self.BLOCK:
            self.blocks.append(self._joined())
            self.fresh = []

    def _joined(self) -> Value:
        rows = [Term(value) for value in (self.fresh[::-1] if self.backwards else self.fresh)]
        return gather_terms(self.names.maths, rows, self.inner, WRITER).value

    def whole(self) -> Value:
        """All of them in order of time, over the axes (WRITER, *inner)."""
        blocks = [*self.blocks, self._joined()] if self.fresh or not self.blocks else self.blocks
        blocks = blocks[::-1] if self.backwards else blocks
        bounds = [block.bound for block in blocks if block.bound is not None]
        data = torch.cat([block.data for block in blocks])
        return Value((WRITER, *self.inner), data, torch.cat(bounds) if bounds else None)


def _backwards(names: Names, terms: Sequence[Recursion]) -> bool:
    """Whether u is found from the last position to the first. Raises where a mask lets a position read itself."""
    ways = {_direction(names, term) for term in terms}
    if len(ways) > 1:
        raise EvaluationError("a recursive equation reads both earlier and later positions")
    return ways == {True}


def _direction(names: Names, term: Recursion) -> bool:
    if term.writer == names.reader:
        raise EvaluationError("a recursive equation reads itself at the reader position")
    views = [factor for factor in term.factors if isinstance(factor, View) and factor.writer == term.writer]
    if any(view.reader != names.reader for view in views):
        raise EvaluationError("a recursive equation reads itself through a chain of masks")
    ways = {structure.reverse for view in views for structure in view.mask.factors if structure.strict}
    if len(ways) != 1:
        raise EvaluationError("a recursive equation reads itself without a mask that is strict in one direction")
    return ways == {True}


def _at(names: Names, term: Recursion, past: Value, t: int, span: slice, inner: tuple[str, ...]) -> Term:
    """One term at position t, from u at the positions of `span`."""
    factors: list[Value | View] = [past.renamed({WRITER: term.writer})]
    for factor in term.factors:
        here = at(factor, names.reader, t)
        if isinstance(here, Value) and term.writer in here.labels:
            here = here.select(term.writer, span)
        factors.append(here)
    done = contract(names.maths, factors, inner, "")
    return Term(replace(done.value, data=done.value.data * term.sign), done.absolute)


def _magnitude(names: Names, left: tuple[str, ...], base: Value, u: Value, terms: Sequence[Recursion]) -> Tensor:
    """sqrt(X^2 r^2), with X the inverse of 1 - K and r = m(base) + |base| + (magnitudes and sum|terms| of K) |u|."""
    plain = Arithmetic(names.maths.groups, names.maths.sizes)
    matrix, errors = _matrix(names, left, terms)
    one = torch.eye(names.length, dtype=matrix.data.dtype, device=matrix.data.device).expand_as(matrix.data)
    upper = bool(matrix.data.triu().any())
    inverse = torch.linalg.solve_triangular(one - matrix.data, one, upper=upper, unitriangular=True)
    assert base.bound is not None

    def apply(operator: Tensor, vector: Tensor) -> Tensor:
        at_writer = Value(left, vector).renamed({names.reader: WRITER})
        return contract(plain, [Value(matrix.labels, operator), at_writer], left, names.reader).value.data

    residual = base.bound + base.data.abs() + apply(errors.data, u.data.abs())
    return apply(inverse.abs().square(), residual.square()).sqrt()


def _matrix(names: Names, left: tuple[str, ...], terms: Sequence[Recursion]) -> tuple[Value, Value]:
    """K and its magnitudes over the axes (*front, reader, WRITER)."""
    maths = names.maths
    entries, errors = [], []
    for term in terms:
        done = contract(maths, term.factors, (*left, term.writer), names.reader)
        bound, labels = done.value.bound, done.value.labels
        assert bound is not None
        total = bound if done.absolute is None else bound + done.absolute
        entries.append(Value(labels, done.value.data * term.sign).renamed({term.writer: WRITER}))
        errors.append(Value(labels, total).renamed({term.writer: WRITER}))
    seen = {label for value in entries for label in value.labels}
    labels = (*(n for n in left if n in seen and n != names.reader), names.reader, WRITER)
    plain = Arithmetic(maths.groups, maths.sizes)
    laid = [plain.spread(plain.plus(values, [1] * len(values)), labels) for values in (entries, errors)]
    return laid[0], laid[1]
