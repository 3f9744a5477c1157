"""What a call's inputs must tell: the length of time, and the size of every axis that has none."""

from __future__ import annotations

from ssdc import errors
from ssdc.graph.scope import Scope, head_span, index_span
from ssdc.syntax import ast


def check_inputs(scope: Scope) -> None:
    """Report axes that are used, have no size, and whose size no input tells."""
    inputs = [symbol for symbol in scope.symbols.values() if symbol.role == "input"]
    head = head_span(scope.layer)
    if not inputs:
        hint = f"a call takes length, dtype and device from its inputs: add `input x[b,{scope.reader}]`"
        scope.report(
            errors.NoSizeFromInputs(head, axis="any axis", why=f"layer '{scope.layer.name}' has no input", hint=hint)
        )
        return
    if not any(scope.reader in symbol.axes for symbol in inputs):
        why = f"no input has the time axis '{scope.reader}', whose length each call decides"
        scope.report(
            errors.NoSizeFromInputs(head, axis="time", why=why, hint=f"give an input the index '{scope.reader}'")
        )
    told = {axis for symbol in inputs for index in symbol.ref.indices for axis in _told(scope, index)}
    missing: set[str] = set()
    for symbol in scope.symbols.values():
        for axis in symbol.axes:
            info = scope.axes.get(axis)
            if info is None or info.fixed or axis in told or axis in missing:
                continue
            missing.add(axis)
            flat = any(axis in other.axes for other in inputs)
            why = (
                "it stands only in flattened axes beside others without a size"
                if flat
                else f"no input has the axis '{axis}'"
            )
            hint = f"give it a size, `axis {axis} = SIZE`, or an input along it"
            scope.report(errors.NoSizeFromInputs(index_span(symbol.ref, axis), axis=f"'{axis}'", why=why, hint=hint))


def _told(scope: Scope, index: ast.Index) -> tuple[str, ...]:
    """The axes whose size one dimension of an input tells."""
    match index:
        case ast.AxisIndex(name=name):
            return (name,)
        case ast.FlatIndex(names=names):
            unknown = [name for name in names if name in scope.axes and not scope.axes[name].fixed]
            return tuple(unknown) if len(unknown) == 1 else ()
        case _:
            return ()
