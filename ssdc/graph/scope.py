"""Names of one layer: its sizes, axes, time positions and tensors, resolved and checked.

In: a layer's syntax tree and the sizes a user gives. Out: a `Scope`, which every later stage asks. Faults are collected
in `Scope.faults`, so that one run reports all of them. Equations are not looked at here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from ssdc import errors
from ssdc.errors import Fault
from ssdc.source import Span
from ssdc.syntax import ast

LIMIT = 2**31
Role = Literal["input", "param", "mask", "defined"]


@dataclass(frozen=True)
class AxisInfo:
    """An axis: its size (None: not known yet), whether it is declared, and the axis that it groups, if any.

    An axis that is not `fixed` takes its size from the inputs of each call.
    """

    name: str
    size: int | None
    groups: str | None
    fixed: bool
    span: Span


@dataclass(frozen=True)
class Symbol:
    """A declared tensor or mask. `axes` are the logical axes in order, flattened and unit indices resolved."""

    name: str
    role: Role
    ref: ast.TensorRef
    axes: tuple[str, ...]
    kind: str
    span: Span


@dataclass
class Scope:
    """What the names of a layer mean. `reader` is the time axis; `writers` range over the same positions."""

    layer: ast.Layer
    sizes: dict[str, int] = field(default_factory=dict)
    axes: dict[str, AxisInfo] = field(default_factory=dict)
    reader: str = ""
    writers: tuple[str, ...] = ()
    symbols: dict[str, Symbol] = field(default_factory=dict)
    definitions: dict[str, tuple[ast.Define, int]] = field(default_factory=dict)
    masks: dict[str, ast.Mask] = field(default_factory=dict)
    models: dict[str, ast.Use] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Tensors and masks whose declaration has a fault: what reads them is given up without a further one."""
    faults: list[Fault] = field(default_factory=list)

    def report(self, fault: Fault) -> None:
        """Record a fault, once; checking goes on."""
        known = ((other.code, other.span, other.text) for other in self.faults)
        if (fault.code, fault.span, fault.text) not in known:
            self.faults.append(fault)

    def is_size(self, name: str) -> bool:
        return name in self.sizes

    def size(self, name: str) -> int | None:
        """The value of a size, or the size of an axis where it is fixed."""
        if name in self.sizes:
            return self.sizes[name]
        return self.axes[name].size if name in self.axes else None

    def kind(self, name: str) -> str:
        return self.symbols[name].kind if name in self.symbols else "real"

    def is_time(self, name: str) -> bool:
        return name == self.reader or name in self.writers

    def definition(self, ref: ast.TensorRef) -> ast.Expr | None:
        """The defining expression of a tensor read with just its own indices, where that is elementwise; else None."""
        if ref.name not in self.definitions:
            return None
        define, position = self.definitions[ref.name]
        target = define.targets[position]
        if len(define.targets) != 1 or target.indices != ref.indices:
            return None
        return define.value if self._elementwise(define.value, set(self.axes_of(target))) else None

    def _elementwise(self, expr: ast.Expr, left: set[str]) -> bool:
        match expr:
            case ast.TensorRef():
                plain = all(isinstance(index, ast.AxisIndex | ast.FlatIndex) for index in expr.indices)
                known = expr.name in self.symbols and expr.name not in self.masks
                return plain and known and set(self.axes_of(expr)) <= left
            case ast.Reduce():
                return False
            case ast.Call():
                return (
                    expr.function not in self.models
                    and expr.function != "split"
                    and all(self._elementwise(argument, left) for argument in expr.arguments)
                )
            case ast.Binary() | ast.Compare():
                return self._elementwise(expr.left, left) and self._elementwise(expr.right, left)
            case ast.Negate():
                return self._elementwise(expr.operand, left)
            case ast.Number() | ast.Name() | ast.Position():
                return True

    def axes_of(self, ref: ast.TensorRef) -> tuple[str, ...]:
        """The logical axes of a reference as written: flattened indices opened, units and lookups left out."""
        names: list[str] = []
        for index in ref.indices:
            match index:
                case ast.AxisIndex() | ast.LagIndex():
                    names.append(index.name)
                case ast.FlatIndex():
                    names.extend(index.names)
                case ast.UnitIndex():
                    pass
                case ast.LookupIndex():
                    names.extend(self.axes_of(index.tensor))
        return tuple(names)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A remedy that names the closest known name."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise


def resolve(layer: ast.Layer, given: Mapping[str, int] | None = None, *, lenient: bool = False) -> Scope:
    """The scope of a layer. `given` overrides size defaults; with `lenient`, a size without a value stays unknown.

    Faults are left in `Scope.faults`; a scope with faults is fit for finding further faults only.
    """
    scope = Scope(layer)
    _sizes(scope, dict(given or {}), lenient)
    for statement in layer.statements:
        if isinstance(statement, ast.Time):
            _time(scope, statement)
    for statement in layer.statements:
        if isinstance(statement, ast.Axes):
            for entry in statement.entries:
                _axis(scope, entry, lenient)
    if not scope.reader:
        scope.report(errors.NoTime(head_span(layer), name=layer.name))
        scope.reader, scope.writers = "t", ("s",)
    _groups(scope)
    for statement in layer.statements:
        _declare(scope, statement)
    _parameter_names(scope)
    if not any(isinstance(statement, ast.Output) for statement in layer.statements):
        scope.report(errors.NoOutput(head_span(layer), name=layer.name))
    return scope


def head_span(layer: ast.Layer) -> Span:
    """The words `layer NAME`."""
    return Span(layer.span.start, min(layer.span.end, layer.span.start + len("layer ") + len(layer.name)))


def _sizes(scope: Scope, given: dict[str, int], lenient: bool) -> None:
    layer = scope.layer
    for size in layer.sizes:
        if size.name in scope.sizes:
            scope.report(errors.DuplicateName(size.span, what="size", name=size.name))
        value: int | None = None
        if size.name in given:
            value = _given(scope, size, given.pop(size.name))
        elif size.default is not None:
            value = evaluate(size.default, scope, lenient)
        elif not lenient:
            hint = f"give it a default, `{size.name} = 64`, or a value when compiling, sizes={{'{size.name}': 64}}"
            scope.report(errors.MissingSize(size.span, name=size.name, layer=layer.name, hint=hint))
        scope.sizes[size.name] = value if value is not None else _UNKNOWN
    for name in given:
        hint = did_you_mean(
            name,
            [size.name for size in layer.sizes],
            f"layer '{layer.name}' takes " + (", ".join(size.name for size in layer.sizes) or "no sizes"),
        )
        scope.report(errors.UnknownSize(head_span(layer), name=name, hint=hint))
    for statement in layer.statements:
        if isinstance(statement, ast.Size):
            if statement.name in scope.sizes:
                scope.report(errors.DuplicateName(statement.span, what="size", name=statement.name))
            value = evaluate(statement.value, scope, lenient)
            scope.sizes[statement.name] = value if value is not None else _UNKNOWN


def _given(scope: Scope, size: ast.LayerSize, value: object) -> int | None:
    """A size that the caller gives, or a fault."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LIMIT:
        return value
    what = f"size '{size.name}' is given as {value!r}; a size is a whole number between 1 and 2^31"
    scope.report(errors.BadSize(size.span, what=what, hint=f"pass sizes={{'{size.name}': 64}}"))
    return None


_UNKNOWN = -1
"""A size without a value: not given yet (with `lenient`), or faulty."""


def evaluate(expr: ast.Expr, scope: Scope, lenient: bool = False) -> int | None:
    """The value of a size expression; None (and a fault) where it has none.

    Exact: a division that leaves a remainder is a fault, and so is a value outside 1 to 2^31.
    """
    before = len(scope.faults)
    value = _fraction(expr, scope, lenient)
    if value is None or len(scope.faults) > before:
        return None
    if value.denominator != 1:
        what = f"this size is {value.numerator}/{value.denominator}, not a whole number"
        scope.report(errors.BadSize(expr.span, what=what, hint="a division between sizes must be exact"))
        return None
    if not 0 < value <= LIMIT:
        what = f"this size is {value.numerator}; a size is between 1 and 2^31"
        scope.report(errors.BadSize(expr.span, what=what, hint=""))
        return None
    return value.numerator


def _fraction(expr: ast.Expr, scope: Scope, lenient: bool) -> Fraction | None:
    match expr:
        case ast.Number(value=int(value)):
            return Fraction(value)
        case ast.Name(name=name):
            if name not in scope.sizes:
                hint = did_you_mean(name, scope.sizes, "sizes stand in the layer's head or in a `size` statement")
                scope.report(errors.UnknownSize(expr.span, name=name, hint=hint))
                return None
            return None if scope.sizes[name] == _UNKNOWN else Fraction(scope.sizes[name])
        case ast.Negate(operand=operand):
            inner = _fraction(operand, scope, lenient)
            return None if inner is None else -inner
        case ast.Binary(op="+" | "-" | "*" | "/" as op):
            left, right = _fraction(expr.left, scope, lenient), _fraction(expr.right, scope, lenient)
            if left is None or right is None:
                return None
            if op == "/":
                if right == 0:
                    scope.report(errors.BadSize(expr.span, what="a division by zero", hint=""))
                    return None
                if (left / right).denominator != 1:
                    what = f"{left} / {right} is not a whole number"
                    scope.report(errors.BadSize(expr.span, what=what, hint="a division between sizes must be exact"))
                    return None
                return left / right
            return left + right if op == "+" else left - right if op == "-" else left * right
        case _:
            hint = "sizes are made of whole numbers, sizes, + - * / and parentheses"
            scope.report(errors.BadSize(expr.span, what="this is not a size", hint=hint))
            return None


def _time(scope: Scope, statement: ast.Time) -> None:
    if scope.reader:
        scope.report(errors.DuplicateName(statement.span, what="time axis", name=statement.names[0]))
        return
    spans = statement.spans or (statement.span,) * len(statement.names)
    for place, (name, span) in enumerate(zip(statement.names, spans, strict=True)):
        if name in statement.names[:place]:
            scope.report(errors.DuplicateName(span, what="position", name=name))
    first, *others = dict.fromkeys(statement.names)
    scope.reader, scope.writers = first, tuple(others)


def _axis(scope: Scope, entry: ast.Axis, lenient: bool) -> None:
    if entry.name in scope.axes or scope.is_time(entry.name):
        scope.report(errors.DuplicateName(name_span(entry.span, entry.name), what="axis", name=entry.name))
        return
    size = evaluate(entry.size, scope, lenient) if entry.size is not None else None
    scope.axes[entry.name] = AxisInfo(entry.name, size, entry.groups, entry.size is not None, entry.span)


def _groups(scope: Scope) -> None:
    for axis in scope.axes.values():
        fault = _grouping(scope, axis) if axis.groups is not None else None
        if fault is not None:
            scope.report(fault)
            scope.axes[axis.name] = replace(axis, groups=None)


def _grouping(scope: Scope, axis: AxisInfo) -> Fault | None:
    """What is wrong with `axis g = G groups h`."""
    name = axis.groups or ""
    if scope.is_time(name):
        what = f"axis '{axis.name}' groups the time axis '{name}'"
        return errors.BadGroups(
            axis.span, what=what, hint="time is never grouped; blocks of positions are the compiler's business"
        )
    if name == axis.name:
        hint = f"name the axis that it is a function of: `axis {name} = G groups h`"
        return errors.BadGroups(axis.span, what=f"axis '{name}' groups itself", hint=hint)
    grouped = scope.axes.get(name)
    if grouped is None:
        return errors.UnknownAxis(axis.span, name=name)
    if grouped.groups is not None:
        what = f"axis '{axis.name}' groups '{name}', which itself groups '{grouped.groups}'"
        return errors.BadGroups(axis.span, what=what, hint=f"write `groups {grouped.groups}` for both")
    if axis.size and grouped.size and grouped.size % axis.size:
        what = f"the {grouped.size} positions of '{name}' do not fall into {axis.size} equal groups"
        return errors.BadGroups(axis.span, what=what, hint=f"the number of groups must divide {grouped.size}")
    for one in scope.axes.values():
        if one.groups != name or one.name == axis.name or not one.size or not axis.size:
            continue
        if max(one.size, axis.size) % min(one.size, axis.size):
            both = f"'{axis.name}' ({axis.size} groups) and '{one.name}' ({one.size})"
            hint = "of two groupings of one axis, one must divide the other"
            return errors.BadGroups(axis.span, what=f"{both} group '{name}' and do not nest", hint=hint)
    return None


def _declare(scope: Scope, statement: ast.Statement) -> None:
    match statement:
        case ast.Inputs():
            for entry in statement.entries:
                _symbol(scope, entry.tensor, "input", entry.kind)
        case ast.Params():
            for param in statement.entries:
                _symbol(scope, param.tensor, "param", param.kind)
        case ast.Mask():
            if _symbol(scope, statement.tensor, "mask", "real"):
                scope.masks[statement.tensor.name] = statement
        case ast.Define():
            for position, target in enumerate(statement.targets):
                if _symbol(scope, target, "defined", "real"):
                    scope.definitions[target.name] = (statement, position)
        case ast.Use():
            if statement.name in scope.models:
                scope.report(errors.DuplicateName(statement.span, what="submodule", name=statement.name))
                return
            scope.models[statement.name] = statement
        case ast.Output() | ast.Size() | ast.Time() | ast.Axes():
            pass


def _symbol(scope: Scope, ref: ast.TensorRef, role: Role, kind: str) -> bool:
    """Enter a declared name; False where it is taken."""
    if ref.name in scope.symbols:
        scope.report(errors.DuplicateName(ref.span, what="tensor", name=ref.name))
        return False
    axes = scope.axes_of(ref)
    before = len(scope.faults)
    for index in ref.indices:
        _declared_index(scope, ref, index, role)
    for axis in dict.fromkeys(axes):
        if axes.count(axis) > 1:
            scope.report(errors.RepeatedAxis(index_span(ref, axis, last=True), name=ref.name, axis=axis))
        elif scope.is_time(axis):
            pass
        elif axis not in scope.axes:
            scope.report(_unknown_axis(scope, ref, axis, role))
        elif role == "param" and not scope.axes[axis].fixed:
            what = f"the parameter '{ref.name}' needs a size for its axis '{axis}'"
            scope.report(errors.BadSize(index_span(ref, axis), what=what, hint=f"declare `axis {axis} = SIZE`"))
    if len(scope.faults) > before:
        scope.broken.add(ref.name)
    scope.symbols[ref.name] = Symbol(ref.name, role, ref, tuple(dict.fromkeys(axes)), kind, ref.span)
    return True


def _unknown_axis(scope: Scope, ref: ast.TensorRef, axis: str, role: Role) -> Fault:
    if role == "mask" and axis in scope.axes_of(ref)[-2:]:
        return errors.MaskPositions(
            index_span(ref, axis), name=ref.name, reader=scope.reader, writer=(*scope.writers, "s")[0]
        )
    return errors.UnknownAxis(index_span(ref, axis), name=axis)


def _declared_index(scope: Scope, ref: ast.TensorRef, index: ast.Index, role: Role) -> None:
    match index:
        case ast.LagIndex():
            what = f"'{ref.name}' is declared at a lag"
            hint = f"declare it at '{scope.reader}', and read it at a lag"
            scope.report(errors.BadPosition(index.span, what=what, hint=hint))
        case ast.LookupIndex():
            what = f"'{ref.name}' is declared with a lookup"
            scope.report(
                errors.BadPosition(
                    index.span, what=what, hint="lookups are for reading: name the axis of the rows here"
                )
            )
        case ast.FlatIndex(names=names) if any(map(scope.is_time, names)) and role != "mask":
            what = f"'{ref.name}' has time inside the flattened axis ({' '.join(names)})"
            scope.report(errors.BadPosition(index.span, what=what, hint="give time an index of its own"))
        case ast.AxisIndex(name=name) if (
            role == "input" and name in scope.writers and scope.reader not in scope.axes_of(ref)
        ):
            what = f"the input '{ref.name}' is declared at the writer position '{name}'"
            hint = f"declare it at the reader position '{scope.reader}'; it may be read at any position"
            scope.report(errors.BadPosition(index.span, what=what, hint=hint))
        case _:
            pass


def index_span(ref: ast.TensorRef, axis: str, *, last: bool = False) -> Span:
    """The place of an axis among the indices of a tensor, the first or the last; the whole tensor where it has none."""
    for index in reversed(ref.indices) if last else ref.indices:
        match index:
            case ast.AxisIndex(name=name) | ast.LagIndex(name=name) if name == axis:
                return index.span
            case ast.FlatIndex(names=names) if axis in names:
                return index.span
            case ast.LookupIndex(tensor=tensor) if index_span(tensor, axis) != tensor.span:
                return index_span(tensor, axis)
            case _:
                pass
    return ref.span


def name_span(span: Span, name: str) -> Span:
    """The part of a span that holds the name with which it begins."""
    return Span(span.start, min(span.end, span.start + len(name)))


def _parameter_names(scope: Scope) -> None:
    """A parameter's name may not be the beginning of another's: both are keys of one state_dict."""
    names = {symbol.name for symbol in scope.symbols.values() if symbol.role == "param"}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth])
            if prefix in names or prefix in scope.models:
                scope.report(errors.NestedName(scope.symbols[name].span, name=name, other=prefix))
