"""Syntax tree -> contraction graph: every statement of one layer lowered, all its faults found in one run.

In: a resolved scope. Out: a `Graph` whose nodes are typed and whose axes, sizes and times agree. Not done here: fusing
contractions that share operands (`fuse`), document boundaries of packed calls (`packing`), states (`states`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Broken, Context
from ssdc.graph.elementwise import check_functions, lower
from ssdc.graph.equations import lower_equation
from ssdc.graph.graph import Graph
from ssdc.graph.initials import check_initialisers
from ssdc.graph.inputs import check_inputs
from ssdc.graph.masks import lower_mask
from ssdc.graph.models import check_models, is_model_call
from ssdc.graph.scope import Scope, did_you_mean, index_span
from ssdc.syntax import ast


def build(scope: Scope, layers: Mapping[str, ast.Layer] | None = None) -> Graph | None:
    """The graph of a layer; None where faults were found (they are in `scope.faults`).

    `layers` are those that `use` may name.
    """
    ctx = Context(scope, _lower_symbol)
    for name, symbol in scope.symbols.items():
        if symbol.role in ("input", "param"):
            _guarded(ctx, name)
    for name in scope.symbols:
        _guarded(ctx, name)
    check_initialisers(scope)
    check_models(scope, layers or {})
    results = _results(ctx)
    if not scope.faults:
        check_inputs(scope)
    if scope.faults:
        return None
    return Graph(
        layer=scope.layer.name,
        reader=scope.reader,
        writers=scope.writers,
        nodes=ctx.nodes,
        results=results,
        sizes=ctx.sizes(),
        atoms={axis: ctx.atoms(axis) for axis in (scope.reader, *scope.axes)},
        equations=ctx.equations,
    )


def _guarded(ctx: Context, name: str) -> None:
    with suppress(Broken):
        ctx.tensor(name, ctx.scope.symbols[name].span)


def _lower_symbol(ctx: Context, name: str) -> None:
    symbol = ctx.scope.symbols[name]
    match symbol.role:
        case "input" | "param":
            ctx.bound[name] = _declared(ctx, name)
        case "mask":
            ctx.bound[name] = lower_mask(ctx, ctx.scope.masks[name])
        case "defined":
            define, _ = ctx.scope.definitions[name]
            if is_model_call(ctx.scope, define.value):
                ctx.give_up(target.name for target in define.targets)
                raise Broken  # told of by `check_models`
            if len(define.targets) > 1 or (isinstance(define.value, ast.Call) and define.value.function == "split"):
                try:
                    _split(ctx, define)
                except Broken:
                    ctx.give_up(target.name for target in define.targets)
                    raise
            else:
                ctx.bound[name] = lower_equation(ctx, define.targets[0], define.value)


def _declared(ctx: Context, name: str) -> str:
    symbol = ctx.scope.symbols[name]
    if symbol.kind == "complex":
        hint = "it has a reference (ssdc.reference); carry the real and imaginary parts as two tensors to compile it"
        raise ctx.fail(errors.NotLowered(symbol.span, what=f"the complex tensor '{name}'", hint=hint))
    times = ctx.times(symbol.axes)
    if symbol.role == "param" and times:
        raise ctx.fail(errors.ParameterOverTime(symbol.span, name=name, axis=times[0]))
    if len(times) > 1:
        hint = "it has a reference (ssdc.reference); make it of tensors with one position each to compile it"
        raise ctx.fail(errors.NotLowered(symbol.span, what=f"the input '{name}' over pairs of positions", hint=hint))
    axes = ctx.atoms_of(symbol.axes)
    layout = layout_of(ctx, symbol.ref)
    kind: ir.Kind = "int" if symbol.kind == "int" else "bool" if symbol.kind == "bool" else "real"
    if symbol.role == "input":
        return ctx.add(ir.Input(name, axes, layout, kind=kind, span=symbol.span))
    init = next(
        param.init
        for statement in ctx.scope.layer.statements
        if isinstance(statement, ast.Params)
        for param in statement.entries
        if param.tensor.name == name
    )
    return ctx.add(ir.Parameter(name, axes, layout, init, kind=kind, span=symbol.span))


def layout_of(ctx: Context, ref: ast.TensorRef) -> ir.Layout:
    """How a declaration stores its tensor: one entry a dimension."""
    layout: list[tuple[str, ...]] = []
    for index in ref.indices:
        match index:
            case ast.AxisIndex(name=name):
                layout.append(ctx.atoms(name))
            case ast.FlatIndex(names=names):
                layout.append(ctx.atoms_of(names))
            case _:
                layout.append(())
    return tuple(layout)


def _split(ctx: Context, define: ast.Define) -> None:
    """`a[...], b[...] = split(e[...])`: every target at once."""
    value = define.value
    if not (isinstance(value, ast.Call) and value.function == "split"):
        if isinstance(value, ast.Call):
            check_functions(ctx, value)
        what = f"{len(define.targets)} tensors are defined at once by one expression"
        hint = "only a `split` or a call of a submodule gives several: `a[...], b[...] = split(e[...])`"
        raise ctx.fail(errors.SplitMismatch(define.targets[0].span.to(define.targets[-1].span), what=what, hint=hint))
    if len(value.arguments) != 1 or not isinstance(value.arguments[0], ast.TensorRef):
        span = value.arguments[0].span.to(value.arguments[-1].span) if value.arguments else value.span
        hint = "define what is to be cut on a line of its own, and split that: split(e[b,t,e])"
        raise ctx.fail(errors.BadCall(span, what="`split` takes one tensor", hint=hint))
    argument = value.arguments[0]
    used = ctx.scope.axes_of(argument)
    for writer in used:
        if ctx.scope.is_time(writer) and writer != ctx.scope.reader:
            what = f"`split` reads '{argument.name}' at the writer position '{writer}'"
            hint = f"split it at the reader position '{ctx.scope.reader}'; the parts may be read at any position"
            raise ctx.fail(errors.BadPosition(index_span(argument, writer), what=what, hint=hint))
    lowered = lower(ctx, argument)
    assert isinstance(lowered, ir.Ref)
    source = ctx.nodes[lowered.node]
    if not source.axes or ctx.scope.is_time(source.axes[-1]):
        what = f"`split` cuts the last axis, and that of '{argument.name}' is {'time' if source.axes else 'not there'}"
        raise ctx.fail(errors.SplitMismatch(argument.span, what=what, hint="split along an axis with a size"))
    sizes = ctx.sizes()
    offset: tuple[tuple[str, ...], ...] = ()
    for target in define.targets:
        axes = ctx.atoms_of(ctx.scope.axes_of(target))
        opened = layout_of(ctx, target)[-1] if target.indices else ()
        if axes[: len(axes) - len(opened)] != source.axes[:-1] or not opened:
            before = ", ".join(used[:-1])
            what = f"the part '{target.name}' does not begin with the axes of what is split, {before}"
            shown = f"{target.name}[{','.join(used[:-1])},...]"
            hint = f"write {shown}: split cuts the last axis and keeps the others in order"
            raise ctx.fail(errors.SplitMismatch(target.span, what=what, hint=hint))
        part = ir.Part(target.name, axes, lowered.node, offset, opened, kind=source.kind, span=target.span)
        ctx.bound[target.name] = ctx.add(part)
        offset = (*offset, opened)
    parts = [_count(sizes, opened) for opened in offset]
    whole = sizes.get(source.axes[-1])
    if None not in parts and whole is not None and sum(p for p in parts if p) != whole:
        total = sum(p for p in parts if p)
        what = f"the parts have {' + '.join(map(str, parts))} = {total} entries, and '{used[-1]}' has {whole}"
        hint = f"the parts must add up: {abs(whole - total)} {'are missing' if whole > total else 'are too many'}"
        raise ctx.fail(errors.SplitMismatch(define.targets[0].span.to(define.targets[-1].span), what=what, hint=hint))


def _count(sizes: dict[str, int | None], atoms: tuple[str, ...]) -> int | None:
    count = 1
    for atom in atoms:
        size = sizes.get(atom)
        if size is None:
            return None
        count *= size
    return count


def _results(ctx: Context) -> tuple[ir.Result, ...]:
    results: list[ir.Result] = []
    for statement in ctx.scope.layer.statements:
        if not isinstance(statement, ast.Output):
            continue
        for name, span in zip(
            statement.names, statement.spans or (statement.span,) * len(statement.names), strict=True
        ):
            symbol = ctx.scope.symbols.get(name)
            if any(result.name == name for result in results):
                ctx.scope.report(errors.DuplicateName(span, what="output", name=name))
            elif symbol is None:
                hint = did_you_mean(name, ctx.scope.symbols, "an output is a tensor defined in the layer")
                ctx.scope.report(errors.UnknownTensor(span, name=name, hint=hint))
            elif symbol.role == "mask":
                shown = ",".join(symbol.axes)
                hint = f"make a tensor of it, at quadratic cost: `{name}_[{shown}] = {name}[{shown}]`"
                ctx.scope.report(errors.BadPosition(span, what=f"the output '{name}' is a mask", hint=hint))
            elif name in ctx.bound:
                results.append(ir.Result(name, ctx.bound[name], layout_of(ctx, symbol.ref)))
    return tuple(results)
