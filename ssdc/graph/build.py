"""Syntax tree -> contraction graph: every statement of one layer lowered, all its faults found in one run.

In: a resolved scope. Out: a `Graph` whose nodes are typed and whose axes, sizes and times agree. Not done here: fusing
contractions that share operands (`fuse`), document boundaries of packed calls (`packing`), states (`states`).
"""

from __future__ import annotations

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Broken, Context
from ssdc.graph.elementwise import lower
from ssdc.graph.equations import lower_equation
from ssdc.graph.graph import Graph, Result
from ssdc.graph.masks import lower_mask
from ssdc.graph.scope import Scope, did_you_mean
from ssdc.syntax import ast


def build(scope: Scope) -> Graph | None:
    """The graph of a layer; None where faults were found (they are in `scope.faults`)."""
    ctx = Context(scope, _lower_symbol)
    for name, symbol in scope.symbols.items():
        if symbol.role in ("input", "param"):
            _guarded(ctx, name)
    for name in scope.symbols:
        _guarded(ctx, name)
    for use in scope.models.values():
        hint = "compile the layers one by one and call them from Python"
        scope.report(errors.NotLowered(use.span, what=f"the submodule '{use.name}'", hint=hint))
    results = _results(ctx)
    if scope.faults:
        return None
    return Graph(
        layer=scope.layer.name, reader=scope.reader, writers=scope.writers, nodes=ctx.nodes, results=results,
        sizes=ctx.sizes(), atoms={axis: ctx.atoms(axis) for axis in (scope.reader, *scope.axes)}, equations=ctx.equations,
    )


def _guarded(ctx: Context, name: str) -> None:
    try:
        ctx.tensor(name, ctx.scope.symbols[name].span)
    except Broken:
        pass


def _lower_symbol(ctx: Context, name: str) -> None:
    symbol = ctx.scope.symbols[name]
    match symbol.role:
        case "input" | "param":
            ctx.bound[name] = _declared(ctx, name)
        case "mask":
            ctx.bound[name] = lower_mask(ctx, ctx.scope.masks[name])
        case "defined":
            define, _ = ctx.scope.definitions[name]
            if len(define.targets) > 1 or (isinstance(define.value, ast.Call) and define.value.function == "split"):
                _split(ctx, define)
            elif isinstance(define.value, ast.Call) and define.value.function in ctx.scope.models:
                what = f"a call of the submodule '{define.value.function}'"
                hint = "compile the layers one by one and call them from Python"
                raise ctx.fail(errors.NotLowered(define.value.span, what=what, hint=hint))
            else:
                ctx.bound[name] = lower_equation(ctx, define.targets[0], define.value)


def _declared(ctx: Context, name: str) -> str:
    symbol = ctx.scope.symbols[name]
    if symbol.kind == "complex":
        hint = "it has a reference (ssdc.reference); carry the real and imaginary parts as two tensors to compile it"
        raise ctx.fail(errors.NotLowered(symbol.span, what=f"the complex tensor '{name}'", hint=hint))
    axes = ctx.atoms_of(symbol.axes)
    layout = layout_of(ctx, symbol.ref)
    kind: ir.Kind = "int" if symbol.kind == "int" else "bool" if symbol.kind == "bool" else "real"
    if symbol.role == "input":
        return ctx.add(ir.Input(name, axes, layout, kind=kind, span=symbol.span))
    init = next(
        param.init for statement in ctx.scope.layer.statements if isinstance(statement, ast.Params)
        for param in statement.entries if param.tensor.name == name
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
        if isinstance(value, ast.Call) and value.function in ctx.scope.models:
            hint = "compile the layers one by one and call them from Python"
            raise ctx.fail(errors.NotLowered(value.span, what=f"a call of the submodule '{value.function}'", hint=hint))
        what = "several targets take a `split` or a call of a used layer"
        raise ctx.fail(errors.SplitMismatch(define.span, what=what, hint="`a[...], b[...] = split(e[...])`"))
    if len(value.arguments) != 1 or not isinstance(value.arguments[0], ast.TensorRef):
        raise ctx.fail(errors.BadCall(value.span, what="split takes one tensor", hint="split(e[b,t,e])"))
    lowered = lower(ctx, value.arguments[0])
    assert isinstance(lowered, ir.Ref)
    source = ctx.nodes[lowered.node]
    sizes = ctx.sizes()
    offset: tuple[tuple[str, ...], ...] = ()
    for target in define.targets:
        axes = ctx.atoms_of(ctx.scope.axes_of(target))
        opened = layout_of(ctx, target)[-1]
        if axes[: len(axes) - len(opened)] != source.axes[:-1] or not opened:
            want = ",".join(ctx.axis_of(axis) for axis in source.axes[:-1])
            what = f"'{target.name}' does not keep the axes of what is split"
            raise ctx.fail(errors.SplitMismatch(target.span, what=what, hint=f"begin it with [{want}, ...]: split cuts the last axis"))
        part = ir.Part(target.name, axes, lowered.node, offset, opened, kind=source.kind, span=target.span)
        ctx.bound[target.name] = ctx.add(part)
        offset = (*offset, opened)
    parts = [_count(sizes, opened) for opened in offset]
    whole = sizes.get(source.axes[-1])
    if None not in parts and whole is not None and sum(p for p in parts if p) != whole:
        what = f"the parts have {' + '.join(map(str, parts))} = {sum(p for p in parts if p)} entries, and the axis has {whole}"
        raise ctx.fail(errors.SplitMismatch(define.span, what=what, hint="sizes must add up"))


def _count(sizes: dict[str, int | None], atoms: tuple[str, ...]) -> int | None:
    count = 1
    for atom in atoms:
        size = sizes.get(atom)
        if size is None:
            return None
        count *= size
    return count


def _results(ctx: Context) -> tuple[Result, ...]:
    results: list[Result] = []
    for statement in ctx.scope.layer.statements:
        if not isinstance(statement, ast.Output):
            continue
        for name, span in zip(statement.names, statement.spans or (statement.span,) * len(statement.names), strict=True):
            symbol = ctx.scope.symbols.get(name)
            if symbol is None:
                hint = did_you_mean(name, ctx.scope.symbols, "an output is a tensor defined in the layer")
                ctx.scope.report(errors.UnknownTensor(span, name=name, hint=hint))
            elif symbol.role == "mask":
                what = f"the output '{name}' is a mask"
                ctx.scope.report(errors.BadPosition(span, what=what, hint=f"`m[b,t,s] = {name}[b,t,s]` makes a tensor of it"))
            elif name in ctx.bound:
                results.append(Result(name, ctx.bound[name], layout_of(ctx, symbol.ref)))
    return tuple(results)
