"""Values of the reference evaluation: a float64 tensor that knows its axes by name, and how far float32 may be off.

In: numbers, tensors, other values. Out: values of elementwise operations, with axes matched by name, grouped axes
gathered, and, if a `Rounding` is given, error magnitudes carried along (see `bounds.py` for what they mean).
Contractions are in `contract.py`; nothing here knows of programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdc.errors import SsdcError
from ssdc.runtime.reference.bounds import Rounding, moved_by


class EvaluationError(SsdcError):
    """The reference met something that the language does not define. A checked program never raises it."""


@dataclass(frozen=True)
class Support:
    """Where a value may be other than zero by its structure: a bool tensor over some of its axes."""

    labels: tuple[str, ...]
    allowed: Tensor


@dataclass(frozen=True)
class Value:
    """A tensor with one label a dimension.

    `bound` has the shape of `data`, is real, and is in units of the unit roundoff; None unless bounds are wanted.
    `constant` says that no input and no parameter went in.
    """

    labels: tuple[str, ...]
    data: Tensor
    bound: Tensor | None = None
    support: Support | None = None
    constant: bool = False

    def renamed(self, names: Mapping[str, str]) -> Value:
        """The same under other labels."""
        labels = tuple(names.get(label, label) for label in self.labels)
        if len(set(labels)) < len(labels):
            raise EvaluationError(f"an axis stands twice among {', '.join(labels)}")
        support = self.support
        if support is not None:
            support = Support(tuple(names.get(label, label) for label in support.labels), support.allowed)
        return replace(self, labels=labels, support=support)

    def each(self, change: Callable[[Tensor], Tensor], labels: tuple[str, ...]) -> Value:
        """A rearrangement that treats data and bound alike and forgets the support."""
        bound = None if self.bound is None else change(self.bound)
        return Value(labels, change(self.data), bound, None, self.constant)

    def select(self, label: str, at: int | slice) -> Value:
        """The value at one position of an axis, which is dropped, or at a range of it."""
        kept = tuple(name for name in self.labels if name != label) if isinstance(at, int) else self.labels
        chosen = self.each(lambda tensor: _select(tensor, self.labels, label, at), kept)
        support = self.support
        if support is not None and label in support.labels:
            names = tuple(name for name in support.labels if name in kept)
            support = Support(names, _select(support.allowed, support.labels, label, at))
        return replace(chosen, support=support)

    def last(self, label: str) -> Value:
        """The same with one axis moved to the end."""
        place = self.labels.index(label)
        return self.each(lambda tensor: tensor.movedim(place, -1), (*(n for n in self.labels if n != label), label))


def _select(tensor: Tensor, labels: tuple[str, ...], label: str, at: int | slice) -> Tensor:
    place = labels.index(label)
    return tensor.select(place, at) if isinstance(at, int) else tensor[(slice(None),) * place + (at,)]


def lay_out(tensor: Tensor, labels: Sequence[str], onto: Sequence[str]) -> Tensor:
    """A tensor as a view with the axes `onto`, in that order, those that it lacks of size one."""
    order = [labels.index(label) for label in onto if label in labels]
    if len(order) < len(labels):
        raise EvaluationError(f"axes {', '.join(labels)} do not fit into {', '.join(onto)}")
    place = tuple(slice(None) if label in labels else None for label in onto)
    return tensor.permute(order)[place] if onto else tensor


def _laid(value: Value, onto: tuple[str, ...]) -> Value:
    return value.each(lambda tensor: lay_out(tensor, value.labels, onto), onto)


class Arithmetic:
    """Elementwise operations on values.

    `groups` maps an axis to the axis that it groups, `sizes` every label to its size (filled in by the caller).
    """

    def __init__(self, groups: Mapping[str, str], sizes: Mapping[str, int], rounding: Rounding | None = None) -> None:
        self.groups = groups
        self.sizes = sizes
        self.rounding = rounding

    def exact(self, labels: tuple[str, ...], data: Tensor) -> Value:
        """A value that float32 holds as it is, such as an input."""
        return Value(labels, data, self._zeros(data))

    def constant(self, number: float, like: torch.device | None = None) -> Value:
        """A number of the program."""
        return self.fixed((), torch.tensor(float(number), dtype=torch.float64, device=like))

    def fixed(self, labels: tuple[str, ...], data: Tensor) -> Value:
        """A value known when compiling: it is rounded once, if at all."""
        bound = None if self.rounding is None else self.rounding.stored(data)
        return Value(labels, data, bound, constant=True)

    def gathered(self, value: Value, present: Iterable[str]) -> Value:
        """A value with each grouping axis whose grouped axis is present read as g = h // (H/G)."""
        names = set(present) | set(value.labels)
        for label in value.labels:
            target = self.groups.get(label)
            if target is None or target not in names:
                continue
            if target in value.labels:
                raise EvaluationError(f"axis '{label}' groups '{target}', and one tensor has both")
            value = self._gather(value, label, target)
        return value

    def _gather(self, value: Value, label: str, target: str) -> Value:
        groups, size = self.sizes[label], self.sizes[target]
        if groups == 0 or size % groups:
            raise EvaluationError(f"{size} positions of '{target}' do not fall into {groups} groups '{label}'")
        rows = torch.arange(size, device=value.data.device) // (size // groups)
        place, support = value.labels.index(label), value.support
        value = value.each(lambda tensor: tensor.index_select(place, rows), value.labels).renamed({label: target})
        if support is not None and label in support.labels:
            allowed = support.allowed.index_select(support.labels.index(label), rows)
            support = Support(tuple(target if name == label else name for name in support.labels), allowed)
        return replace(value, support=support)

    def aligned(self, values: Sequence[Value]) -> tuple[tuple[str, ...], list[Value]]:
        """The labels of all, in order of appearance, and each value laid out along them (to be broadcast)."""
        present = {label for value in values for label in value.labels}
        values = [self.gathered(value, present) for value in values]
        labels = tuple(dict.fromkeys(label for value in values for label in value.labels))
        return labels, [_laid(value, labels) for value in values]

    def pointwise(self, function: Callable[..., Tensor], *values: Value, exact: bool = False) -> Value:
        """An elementwise function of values. `exact` says that it never rounds (a choice, a sign, a maximum)."""
        labels, laid = self.aligned(values)
        arguments = [value.data for value in laid]
        data = function(*arguments)
        constant = all(value.constant for value in values)
        if self.rounding is None:
            return Value(labels, data, constant=constant)
        if constant:
            return self.fixed(labels, data)
        bound = torch.zeros_like(data.real) if exact else self.rounding.made(data)
        for place, value in enumerate(laid):
            assert value.bound is not None
            if value.bound.any():
                bound = bound + moved_by(function, arguments, place, value.bound, data, self.rounding.unit)
        return Value(labels, data, bound)

    def plus(self, values: Sequence[Value], signs: Sequence[int]) -> Value:
        """A sum of values, each with a sign; rounding is counted against the sum of their absolute values."""
        labels, laid = self.aligned(values)
        data = sum_up([value.data * sign for value, sign in zip(laid, signs, strict=True)])
        constant = all(value.constant for value in values)
        if self.rounding is None:
            return Value(labels, data, constant=constant)
        if constant:
            return self.fixed(labels, data)
        bound = sum_up([value.bound for value in laid if value.bound is not None])
        if len(laid) > 1:
            bound = bound + self.rounding.made(sum_up([value.data.abs() for value in laid]))
        return Value(labels, data, bound)

    def spread(self, value: Value, labels: tuple[str, ...]) -> Value:
        """A value over exactly these axes, repeated along those that it lacks."""
        shape = [self.sizes[label] for label in labels]
        return value.each(lambda tensor: lay_out(tensor, value.labels, labels).expand(shape), labels)

    def _zeros(self, data: Tensor) -> Tensor | None:
        return None if self.rounding is None else torch.zeros(data.shape, dtype=torch.float64, device=data.device)


def sum_up(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of at least one tensor, with broadcasting."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
