"""Submodules: that `use` names layers of the file with the sizes they take, and that calls give what they need.

In: a scope and the layers of its file. Out: faults in the scope. Nothing is lowered: a submodule that is used rightly
is reported as not lowered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ssdc import errors
from ssdc.graph.scope import Scope, did_you_mean, evaluate, name_span
from ssdc.syntax import ast

HINT = "it has a reference (ssdc.reference); to run it, compile its layers one by one and call them from Python"


def is_model_call(scope: Scope, expr: ast.Expr) -> bool:
    """Whether an expression is the call of a submodule."""
    return isinstance(expr, ast.Call) and expr.function in scope.models


def check_models(scope: Scope, layers: Mapping[str, ast.Layer]) -> None:
    """Report what is wrong with the submodules of a layer and with the calls of them."""
    for use in scope.models.values():
        before = len(scope.faults)
        members = list(_members(scope, use.model))
        for member in members:
            _instance(scope, member, layers)
        if len(scope.faults) > before:
            continue
        for define in dict.fromkeys(define for define, _ in scope.definitions.values()):
            if isinstance(define.value, ast.Call) and define.value.function == use.name:
                _call(scope, define, define.value, [layers[member.layer] for member in members])
        if len(scope.faults) == before:
            scope.report(errors.NotLowered(use.span, what=f"the submodule '{use.name}'", hint=HINT))


def _members(scope: Scope, model: ast.Model) -> Iterator[ast.Instance]:
    """The instances of a model in order, each once where it is repeated."""
    match model:
        case ast.Instance():
            yield model
        case ast.Repeat(member=member, count=count):
            evaluate(count, scope, True)
            yield from _members(scope, member)
        case ast.Chain(members=members):
            for one in members:
                yield from _members(scope, one)


def _instance(scope: Scope, instance: ast.Instance, layers: Mapping[str, ast.Layer]) -> None:
    """Report an unknown layer, sizes that it does not take or still needs, and a layer that uses itself."""
    layer = layers.get(instance.layer)
    if layer is None:
        others = [name for name in layers if name != scope.layer.name]
        hint = did_you_mean(
            instance.layer, others, f"it has {', '.join(others)}" if others else "define it beside this one"
        )
        scope.report(errors.UnknownLayer(name_span(instance.span, instance.layer), name=instance.layer, hint=hint))
        return
    path = _way_back(layer.name, scope.layer.name, layers)
    if path:
        shown = " -> ".join([scope.layer.name, *path])
        hint = "a layer is made of other layers; repeat one with `chain(block(D = D) * 4)`"
        scope.report(errors.Circular(instance.span, name=scope.layer.name, path=shown, hint=hint))
        return
    known = {size.name for size in layer.sizes}
    given = [name for name, _ in instance.sizes]
    for place, (name, value) in enumerate(instance.sizes):
        evaluate(value, scope, True)
        if name not in known:
            hint = did_you_mean(name, known, f"layer '{layer.name}' takes {', '.join(sorted(known)) or 'no sizes'}")
            scope.report(errors.UnknownSize(instance.span, name=name, hint=hint))
        elif name in given[:place]:
            scope.report(errors.DuplicateName(value.span, what="size", name=name))
    for size in layer.sizes:
        if size.default is None and size.name not in given:
            hint = f"write {layer.name}({size.name} = ...)"
            scope.report(errors.MissingSize(instance.span, name=size.name, layer=layer.name, hint=hint))


def _way_back(start: str, goal: str, layers: Mapping[str, ast.Layer]) -> list[str]:
    """The layers through which one uses another; empty if it does not."""
    seen: set[str] = set()
    todo = [[start]]
    while todo:
        path = todo.pop()
        if path[-1] == goal:
            return path
        if path[-1] in seen or path[-1] not in layers:
            continue
        seen.add(path[-1])
        uses = [one for one in layers[path[-1]].statements if isinstance(one, ast.Use)]
        todo.extend([*path, name] for use in uses for name in _names(use.model))
    return []


def _names(model: ast.Model) -> Iterator[str]:
    match model:
        case ast.Instance(layer=layer):
            yield layer
        case ast.Repeat(member=member):
            yield from _names(member)
        case ast.Chain(members=members):
            for one in members:
                yield from _names(one)


def _call(scope: Scope, define: ast.Define, call: ast.Call, members: list[ast.Layer]) -> None:
    """Report arguments that are no tensors, and numbers of arguments and results that do not fit."""
    for argument in call.arguments:
        if not isinstance(argument, ast.TensorRef):
            continue
        if argument.name not in scope.symbols:
            hint = did_you_mean(
                argument.name, scope.symbols, "declare it as an input or a param, or define it by an equation"
            )
            scope.report(errors.UnknownTensor(argument.span, name=argument.name, hint=hint))
    inputs = [tensor.name for tensor in _inputs(members[0])]
    if len(call.arguments) != len(inputs):
        what = f"'{call.function}' takes {len(inputs)} input(s), and is given {len(call.arguments)}"
        hint = f"its first layer '{members[0].name}' declares {', '.join(inputs) or 'none'}"
        scope.report(errors.BadCall(call.span, what=what, hint=hint))
    results = [name for one in members[-1].statements if isinstance(one, ast.Output) for name in one.names]
    if len(define.targets) != len(results):
        what = f"'{call.function}' gives {len(results)} output(s), and is to define {len(define.targets)}"
        hint = f"its last layer '{members[-1].name}' gives {', '.join(results) or 'none'}"
        scope.report(errors.BadCall(define.targets[0].span.to(define.targets[-1].span), what=what, hint=hint))


def _inputs(layer: ast.Layer) -> Iterator[ast.TensorRef]:
    for statement in layer.statements:
        if isinstance(statement, ast.Inputs):
            for entry in statement.entries:
                yield entry.tensor
