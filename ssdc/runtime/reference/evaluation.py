"""One evaluation of a layer: names -> values, each statement when it is first asked for.

In: a scope, the arithmetic, and the values of inputs and parameters. Out: the values of the outputs. Faults of a
program are the checker's business; what slips through raises EvaluationError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

from ssdc.runtime.reference.equations import define, split
from ssdc.runtime.reference.expressions import axes_of, value_of
from ssdc.runtime.reference.masks import Mask, View
from ssdc.runtime.reference.structures import mask_of
from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Value, lay_out
from ssdc.syntax import ast


class AxisLike(Protocol):
    """An axis of a scope: its size, if it is fixed, and the axis that it groups."""

    @property
    def size(self) -> int | None:
        """Its size; None if the inputs of a call decide."""

    @property
    def groups(self) -> str | None:
        """The axis that it groups."""


class ScopeLike(Protocol):
    """What the reference needs to know of a layer; `ssdc.graph.scope.Scope` is one."""

    @property
    def layer(self) -> ast.Layer:
        """The tree."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Every size by name."""

    @property
    def axes(self) -> Mapping[str, AxisLike]:
        """Every axis by name."""

    @property
    def reader(self) -> str:
        """The reader position."""

    @property
    def writers(self) -> tuple[str, ...]:
        """The writer positions."""


Called = Callable[[Sequence[Value], Arithmetic], list[Value]]
"""A used layer: stored tensors in, stored tensors out, labelled by dimension number."""


@dataclass
class Evaluation:
    """One evaluation. `given` holds the values of inputs and parameters over their axes."""

    scope: ScopeLike
    maths: Arithmetic
    length: int
    given: Mapping[str, Value]
    models: Mapping[str, Called]
    known: dict[str, Value] = field(default_factory=dict)
    masks: dict[str, Mask] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = self.scope.reader
        self.times = (self.scope.reader, *self.scope.writers)
        self.refs: dict[str, ast.TensorRef] = {}
        self.statements: dict[str, ast.Define | ast.Mask] = {}
        for statement in self.scope.layer.statements:
            match statement:
                case ast.Inputs(entries=entries) | ast.Params(entries=entries):
                    self.refs.update({entry.tensor.name: entry.tensor for entry in entries})
                case ast.Mask(tensor=tensor):
                    self.refs[tensor.name] = tensor
                    self.statements[tensor.name] = statement
                case ast.Define(targets=targets):
                    self.refs.update({target.name: target for target in targets})
                    self.statements.update({target.name: statement for target in targets})
                case _:
                    pass

    def outputs(self) -> list[Value]:
        """The outputs in order, over their axes."""
        for statement in self.scope.layer.statements:
            if isinstance(statement, ast.Define):
                self.tensor(statement.targets[0].name)
        return [self.tensor(name) for name in output_names(self.scope.layer)]

    def declared(self, name: str) -> ast.TensorRef:
        """How a tensor or mask was declared."""
        if name not in self.refs:
            raise EvaluationError(f"there is no tensor '{name}'")
        return self.refs[name]

    def number(self, name: str) -> int:
        """A size."""
        if name not in self.scope.sizes:
            raise EvaluationError(f"there is no size '{name}'")
        return self.scope.sizes[name]

    def value(self, expr: ast.Expr) -> Value:
        """The value of an elementwise expression."""
        return value_of(self, expr)

    def whole_number(self, expr: ast.Expr) -> int:
        """The value of a size expression."""
        value = value_of(self, expr)
        if value.labels or not value.constant or value.data.item() != int(value.data.item()):
            raise EvaluationError("a size is a whole number")
        return int(value.data.item())

    def view(self, ref: ast.TensorRef) -> View | None:
        """A mask as a reference reads it; None if the name is no mask."""
        statement = self.statements.get(ref.name)
        if not isinstance(statement, ast.Mask):
            return None
        if ref.name not in self.masks:
            self._enter(ref.name)
            self.masks[ref.name] = mask_of(self, statement)
            self.pending.pop()
        mask, axes = self.masks[ref.name], axes_of(ref.indices)
        plain = all(isinstance(index, ast.AxisIndex) for index in ref.indices)
        if not plain or axes[:-2] != mask.front or not set(axes[-2:]) <= set(self.times) or axes[-1] == axes[-2]:
            raise EvaluationError(f"the mask '{ref.name}' is read with the axes {axes}")
        return View(mask, axes[-2], axes[-1])

    def tensor(self, name: str) -> Value:
        """The value of a tensor over its declared axes."""
        if name in self.given:
            return self.given[name]
        if name not in self.known:
            statement = self.statements.get(name)
            if not isinstance(statement, ast.Define):
                raise EvaluationError(f"'{name}' is not a tensor with a value")
            self._enter(name)
            self._define(statement)
            self.pending.pop()
        return self.known[name]

    def _enter(self, name: str) -> None:
        if name in self.pending:
            raise EvaluationError(f"the definition of '{name}' needs itself: {' -> '.join([*self.pending, name])}")
        self.pending.append(name)

    def _define(self, statement: ast.Define) -> None:
        match statement.value:
            case ast.Call(function="split", arguments=(argument,)):
                values = split(self, statement.targets, argument)
            case ast.Call(function=function) as call if function in self.models:
                values = self._call(call, statement.targets)
            case expr if len(statement.targets) == 1:
                values = [define(self, statement.targets[0], expr)]
            case _:
                raise EvaluationError("several tensors are defined at once otherwise than by a split or a layer")
        for target, value in zip(statement.targets, values, strict=True):
            self.known[target.name] = value

    def _call(self, call: ast.Call, targets: Sequence[ast.TensorRef]) -> list[Value]:
        """A used layer, called with its arguments as they are stored."""
        stored = [self._stored(argument) for argument in call.arguments]
        results = self.models[call.function](stored, self.maths)
        if len(results) != len(targets):
            raise EvaluationError(f"'{call.function}' gives {len(results)} tensors, {len(targets)} are named")
        return [opened(target, value, self.maths.sizes) for target, value in zip(targets, results, strict=True)]

    def _stored(self, argument: ast.Expr) -> Value:
        value = self.value(argument)
        if isinstance(argument, ast.TensorRef):
            return stored(argument, value, self.maths.sizes)
        plain = tuple(ast.AxisIndex(label) for label in value.labels)
        return stored(ast.TensorRef("", plain), value, self.maths.sizes)


def output_names(layer: ast.Layer) -> tuple[str, ...]:
    """What a call of a layer returns, in order."""
    return tuple(name for part in layer.statements if isinstance(part, ast.Output) for name in part.names)


def stored(ref: ast.TensorRef, value: Value, sizes: Mapping[str, int]) -> Value:
    """A value as a tensor is stored: flattened axes joined, units put in; labelled by dimension number."""
    shape = stored_shape(ref, sizes)
    labels = axes_of(ref.indices)
    return value.each(
        lambda tensor: lay_out(tensor, value.labels, labels).reshape(shape),
        tuple(str(place) for place in range(len(shape))),
    )


def opened(ref: ast.TensorRef, value: Value, sizes: Mapping[str, int]) -> Value:
    """A stored tensor over its axes. Raises EvaluationError if the shape does not fit."""
    shape = stored_shape(ref, sizes)
    if list(value.data.shape) != shape:
        raise EvaluationError(f"'{ref.name}' has the shape {list(value.data.shape)}, {shape} is declared")
    labels = axes_of(ref.indices)
    inner = [sizes[label] for label in labels]
    return value.each(lambda tensor: tensor.reshape(inner), labels)


def stored_shape(ref: ast.TensorRef, sizes: Mapping[str, int]) -> list[int]:
    """The shape in which a declared tensor is stored.

    >>> indices = (ast.FlatIndex(("h", "p")), ast.UnitIndex(), ast.AxisIndex("d"))
    >>> stored_shape(ast.TensorRef("w", indices), {"h": 2, "p": 3, "d": 5})
    [6, 1, 5]
    """
    return [prod(sizes[label] for label in axes_of((index,))) for index in ref.indices]
