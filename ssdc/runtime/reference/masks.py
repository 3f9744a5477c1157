"""Masks from their definitions, row by row: M[t,:] for one reader position t at a time, or all of M.

In: a mask statement, and the values of its arguments. Out: a `Mask`. Products of gates are formed by the recursion
M[t,s] = a[t] M[t-1,s], M[s,s] = 1 along the reader position; there is no logarithm, no quotient and no difference of
cumulative sums, so gates of zero, negative, growing and complex gates are ordinary. Reversed structures are the same
on the reversed sequence. Structures are multiplied elementwise. Error magnitudes: see `bounds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Support, Value

WRITER = " writer"
READER = " reader"
"""Labels of the two positions inside a mask; a space keeps them apart from names."""


class Rows(Protocol):
    """One structure, running forwards. Rows of a sequential one are cheap only in ascending order."""

    front: tuple[str, ...]
    sequential: bool

    def row(self, t: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Entries [*front, T], their magnitudes, and where they are not zero by structure."""


@dataclass
class Plain:
    """Entries of ones wherever `allowed(t)` says, a bool tensor [*front, T]: full, causal, strict, band, documents."""

    allowed: Callable[[int], Tensor]
    front: tuple[str, ...] = ()
    sequential: bool = False

    def row(self, t: int) -> tuple[Tensor, Tensor | None, Tensor]:
        allowed = self.allowed(t)
        ones = allowed.to(torch.float64)
        return ones, torch.zeros_like(ones), allowed


@dataclass
class Lags:
    """Entries by lag, M[t,s] = k[t-s] for 0 <= t-s < J: `kernel` [*front, J] in lag order. decay, toeplitz and conv."""

    front: tuple[str, ...]
    kernel: Tensor
    bound: Tensor | None
    length: int
    sequential: bool = False

    def row(self, t: int) -> tuple[Tensor, Tensor | None, Tensor]:
        lags = torch.arange(t, t - self.length, -1, device=self.kernel.device)
        allowed = (lags >= 0) & (lags < self.kernel.shape[-1])
        return self._by_lag(self.kernel, t), None if self.bound is None else self._by_lag(self.bound, t), allowed

    def _by_lag(self, kernel: Tensor, t: int) -> Tensor:
        used = kernel[..., : t + 1].flip(-1)
        return F.pad(used, (t + 1 - used.shape[-1], self.length - t - 1))


@dataclass
class Products:
    """M[t,s] = a[s+1] ... a[t], and with `strict` a[s+1] ... a[t-1]: gate [*front, T]. semiseparable.

    `bound` holds the magnitudes of the gates, as `gates.gate_value` gives them, and `floor` is that of underflow.
    """

    front: tuple[str, ...]
    gate: Tensor
    bound: Tensor | None
    strict: bool
    floor: float = 0.0
    sequential: bool = True

    def __post_init__(self) -> None:
        self.length = self.gate.shape[-1]
        self._restart()

    def _restart(self) -> None:
        self.at = -1
        self.entries = self.gate[..., :0]
        self.errors = None if self.bound is None else self.bound[..., :0]

    def row(self, t: int) -> tuple[Tensor, Tensor | None, Tensor]:
        last = t - 1 if self.strict else t
        if last < self.at:
            self._restart()
        while self.at < last:
            self._advance()
        room = (0, self.length - self.at - 1)
        allowed = torch.arange(self.length, device=self.gate.device) <= self.at
        errors = None if self.errors is None else F.pad(self.errors + self.floor, room)
        return F.pad(self.entries, room), errors, allowed

    def _advance(self) -> None:
        self.at += 1
        gate = self.gate[..., self.at : self.at + 1]
        if self.errors is not None and self.bound is not None:
            grown = gate.abs() * self.errors + self.bound[..., self.at : self.at + 1] * self.entries.abs()
            self.errors = torch.cat([grown, torch.zeros_like(gate.real)], -1)
        self.entries = torch.cat([self.entries * gate, torch.ones_like(gate)], -1)


@dataclass
class Table:
    """Entries that are given for each reader position: `pick` takes [*front, T] out of a tensor. fenwick, dense."""

    front: tuple[str, ...]
    pick: Callable[[Tensor, int], Tensor]
    allowed: Callable[[int], Tensor]
    data: Tensor
    bound: Tensor | None
    sequential: bool = False

    def row(self, t: int) -> tuple[Tensor, Tensor | None, Tensor]:
        allowed = self.allowed(t)
        chosen = [
            torch.where(allowed, self.pick(tensor, t), 0) for tensor in (self.data, self.bound) if tensor is not None
        ]
        return chosen[0], chosen[1] if len(chosen) > 1 else None, allowed


@dataclass(frozen=True)
class Factor:
    """A structure as it stands in a mask. `strict`: no position reads itself; `binary`: zeros and ones only."""

    rows: Rows
    reverse: bool = False
    strict: bool = False
    binary: bool = False

    def row(self, maths: Arithmetic, t: int, length: int) -> Value:
        """M[t,:] over the labels (*front, WRITER)."""
        data, bound, allowed = self.rows.row(length - 1 - t if self.reverse else t)
        if self.reverse:
            data, allowed = data.flip(-1), allowed.flip(-1)
            bound = None if bound is None else bound.flip(-1)
        labels = (*self.rows.front, WRITER)
        support = Support(labels[-allowed.dim() :], allowed)
        return Value(labels, data, bound if maths.rounding is not None else None, support)

    def all(self, maths: Arithmetic, length: int) -> Value:
        """M over the labels (*front, READER, WRITER), its rows made in the order that suits the structure."""
        order = range(length - 1, -1, -1) if self.reverse else range(length)
        rows = {t: self.row(maths, t, length) for t in order}
        return stack([rows[t] for t in range(length)], READER)


def stack(rows: Sequence[Value], label: str) -> Value:
    """Rows that have the same labels, as one value whose axis `label` stands before the last."""
    first = rows[0]
    bounds = [row.bound for row in rows if row.bound is not None]
    support = None
    if first.support is not None:
        allowed = torch.stack([row.support.allowed for row in rows if row.support is not None], -2)
        support = Support((*first.support.labels[:-1], label, first.support.labels[-1]), allowed)
    labels = (*first.labels[:-1], label, first.labels[-1])
    data = torch.stack([row.data for row in rows], -2)
    return Value(labels, data, torch.stack(bounds, -2) if bounds else None, support)


def multiplied(maths: Arithmetic, values: Sequence[Value]) -> Value:
    """The elementwise product of masks; a position is allowed where all of them allow it."""
    result = values[0]
    for value in values[1:]:
        product = maths.pointwise(torch.mul, result, value)
        result = replace(product, support=both(maths, result.support, value.support))
    return result


def both(maths: Arithmetic, first: Support | None, second: Support | None) -> Support | None:
    """Where two supports allow a position."""
    if first is None or second is None:
        return first or second
    plain = Arithmetic(maths.groups, maths.sizes)
    value = plain.pointwise(torch.logical_and, *(Value(one.labels, one.allowed) for one in (first, second)))
    return Support(value.labels, value.data)


@dataclass
class Mask:
    """A mask of one call: the product of its structures, over `front`, READER and WRITER, for `length` positions."""

    maths: Arithmetic
    name: str
    front: tuple[str, ...]
    factors: tuple[Factor, ...]
    length: int

    @cached_property
    def whole(self) -> Value:
        """All rows, over (*front, READER, WRITER) in some order."""
        if self.length == 0:
            shape = [self.maths.sizes[label] for label in self.front] + [0, 0]
            support = Support((READER, WRITER), torch.ones(0, 0, dtype=torch.bool))
            empty = self.maths.exact((*self.front, READER, WRITER), torch.zeros(shape, dtype=torch.float64))
            return replace(empty, support=support)
        return multiplied(self.maths, [factor.all(self.maths, self.length) for factor in self.factors])

    def row(self, t: int) -> Value:
        """M[t,:], over (*front, WRITER) in some order."""
        return multiplied(self.maths, [factor.row(self.maths, t, self.length) for factor in self.factors])

    @property
    def binary(self) -> bool:
        """Zeros and ones only."""
        return all(factor.binary for factor in self.factors)

    @property
    def sequential(self) -> bool:
        """Rows are cheap in one order only."""
        return any(factor.rows.sequential for factor in self.factors)

    @property
    def backwards(self) -> bool:
        """Rows are cheap from the last position to the first. Raises where they are cheap in neither order."""
        ways = {factor.reverse for factor in self.factors if factor.rows.sequential}
        if len(ways) > 1:
            raise EvaluationError(f"the mask '{self.name}' runs both ways and is too large to be written out")
        return ways == {True}


@dataclass(frozen=True)
class View:
    """A mask as a factor of a term, its positions named as it was read: `L[b,h,t,s]`."""

    mask: Mask
    reader: str
    writer: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The axes of the mask as read."""
        return (*self.mask.front, self.reader, self.writer)

    def whole(self) -> Value:
        """The mask written out."""
        return self.mask.whole.renamed({READER: self.reader, WRITER: self.writer})

    def row(self, t: int) -> Value:
        """One row, over all labels but the reader."""
        return self.mask.row(t).renamed({WRITER: self.writer})
