"""Elementwise expressions: syntax tree -> `Scalar`, with every axis, function and position checked."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Context
from ssdc.graph.functions import ELEMENTWISE, NORMS, REDUCTIONS
from ssdc.graph.packing import POSITION
from ssdc.graph.scope import did_you_mean, name_span
from ssdc.structures.walk import walk
from ssdc.syntax import ast

OPERATORS: Mapping[str, Callable[..., object]] = {
    "neg": operator.neg, "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "^": operator.pow,
}  # fmt: skip


def free_axes(ctx: Context, expr: ast.Expr) -> tuple[str, ...]:
    """The axes (positions included, as written) over which an expression varies, in order of appearance."""
    return tuple(dict.fromkeys(_free(ctx, expr)))


def _free(ctx: Context, expr: ast.Expr) -> tuple[str, ...]:
    match expr:
        case ast.TensorRef():
            return ctx.scope.axes_of(expr)
        case ast.Negate(operand=operand):
            return _free(ctx, operand)
        case ast.Binary(left=left, right=right) | ast.Compare(left=left, right=right):
            return _free(ctx, left) + _free(ctx, right)
        case ast.Call(arguments=arguments):
            return tuple(axis for argument in arguments for axis in _free(ctx, argument))
        case ast.Reduce(function=function, operand=operand):
            inner = _free(ctx, operand)
            if function in NORMS:
                return inner
            over = over_axes(expr)
            dropped = {atom for axis in over for atom in ctx.atoms(axis)}
            return tuple(axis for axis in inner if not set(ctx.atoms(axis)) <= dropped)
        case ast.Position(axis=axis):
            return (axis,)
        case ast.Number() | ast.Name():
            return ()


def ordered(ctx: Context, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Axes with the per-call ones first, then positions, then the rest as they come."""
    free = [a for a in axes if a in ctx.scope.axes and not ctx.scope.axes[a].fixed]
    times = [a for a in axes if ctx.scope.is_time(a)]
    return (*free, *times, *(a for a in axes if a not in free and a not in times))


def direct_axes(ctx: Context, expr: ast.Expr) -> tuple[str, ...]:
    """The axes that occur in an expression outside the arguments of functions."""
    match expr:
        case ast.Negate(operand=operand):
            return direct_axes(ctx, operand)
        case ast.Binary(left=left, right=right):
            return direct_axes(ctx, left) + direct_axes(ctx, right)
        case ast.TensorRef() | ast.Position():
            return free_axes(ctx, expr)
        case _:
            return ()


def check_functions(ctx: Context, expr: ast.Expr) -> None:
    """Faults for functions that do not exist, stand in the wrong place, or take other arguments, all of them."""
    for part in walk(expr):
        match part:
            case ast.Call():
                _check_call(ctx, part)
            case ast.Reduce(function=function) if function not in REDUCTIONS and function not in NORMS:
                hint = did_you_mean(function, (*REDUCTIONS, *NORMS), "folds are " + " ".join((*REDUCTIONS, *NORMS)))
                if function in ELEMENTWISE:
                    hint = f"'{function}' works on each entry and has no axes to run over: {function}(e)"
                ctx.scope.report(errors.UnknownFunction(name_span(part.span, function), name=function, hint=hint))
            case _:
                pass


def _check_call(ctx: Context, expr: ast.Call) -> None:
    function, count = expr.function, len(expr.arguments)
    span = name_span(expr.span, function)
    if function == "split":
        hint = "give it a statement of its own: `a[...], b[...] = split(e[...])`"
        ctx.scope.report(errors.BadCall(span, what="`split` stands inside an expression", hint=hint))
    elif function in ctx.scope.models:
        hint = f"give it a statement of its own: `y[...] = {function}(...)`"
        ctx.scope.report(
            errors.BadCall(span, what=f"a call of the submodule '{function}' stands inside an expression", hint=hint)
        )
    elif function in NORMS or (function in REDUCTIONS and function not in ELEMENTWISE):
        hint = f"name them: {function}(e over h)"
        ctx.scope.report(
            errors.BadCall(span, what=f"`{function}` is called without the axes that it runs over", hint=hint)
        )
    elif function not in ELEMENTWISE:
        names = (*ELEMENTWISE, *REDUCTIONS, *NORMS, *ctx.scope.models)
        hint = did_you_mean(function, names, "the functions are " + " ".join(sorted(set(names))))
        ctx.scope.report(errors.UnknownFunction(span, name=function, hint=hint))
    elif not ELEMENTWISE[function][0] <= count <= ELEMENTWISE[function][1]:
        low, high = ELEMENTWISE[function]
        want = str(low) if low == high else f"{low} to {high}"
        hint = (
            f"to reduce, name the axes: {function}(e over h)"
            if function in ("min", "max")
            else FORMS.get(function, f"written {function}(e)")
        )
        what = (
            f"`{function}` takes {want} argument{'s' * (high > 1)}, and {count} {'is' if count == 1 else 'are'} given"
        )
        ctx.scope.report(errors.BadCall(expr.span, what=what, hint=hint))


FORMS: Mapping[str, str] = {"where": "written where(a < b, x, y)", "clamp": "written clamp(e, low, high)"}
"""How functions of several arguments are written."""


def over_axes(expr: ast.Reduce) -> tuple[str, ...]:
    """The axes that a reduction names."""
    names: list[str] = []
    for index in expr.over:
        names.extend((index.name,) if isinstance(index, ast.AxisIndex) else index.names)
    return tuple(names)


def positions(ctx: Context, expr: ast.Expr) -> frozenset[str]:
    """The positions (reader, writers) at which an expression reads."""
    return frozenset(axis for axis in free_axes(ctx, expr) if ctx.scope.is_time(axis))


def lower(ctx: Context, expr: ast.Expr, *, pairs: bool = False) -> ir.Scalar:
    """An elementwise expression over nodes of the graph.

    All its tensors stand at one position, which the caller knows; with `pairs`, a tensor at a writer position is
    renamed to it, and masks may be read as tensors over pairs of positions.
    """
    match expr:
        case ast.Number(value=value):
            return ir.Const(float(value))
        case ast.Name(name=name):
            if not ctx.scope.is_size(name):
                known = f"'{name}' is an axis; index({name}) is the position along it" if name in ctx.scope.axes else ""
                known = f"'{name}' is a tensor: give its indices, {name}[...]" if name in ctx.scope.symbols else known
                hint = known or did_you_mean(
                    name, ctx.scope.sizes, "a tensor carries brackets; a name without them is a size"
                )
                raise ctx.fail(errors.UnknownSize(expr.span, name=name, hint=hint))
            return ir.Const(float(ctx.scope.sizes[name]))
        case ast.TensorRef():
            return ir.Ref(read_at(ctx, expr, pairs))
        case ast.Negate(operand=operand):
            return _operation("neg", lower(ctx, operand, pairs=pairs))
        case ast.Binary(op=op, left=left, right=right):
            return _operation(op, lower(ctx, left, pairs=pairs), lower(ctx, right, pairs=pairs))
        case ast.Compare():
            what = "a comparison stands outside the first argument of `where`"
            raise ctx.fail(errors.BadCall(expr.span, what=what, hint="written where(a < b, x, y)"))
        case ast.Call():
            return _call(ctx, expr, pairs)
        case ast.Reduce():
            return _reduce(ctx, expr, pairs)
        case ast.Position(axis=axis):
            if ctx.scope.is_time(axis):
                return ir.Ref(_position(ctx, axis, pairs))
            if axis not in ctx.scope.axes:
                raise ctx.fail(errors.UnknownAxis(expr.span, name=axis))
            return ir.Index(ctx.atoms(axis))


def _operation(op: str, *operands: ir.Scalar) -> ir.Scalar:
    """An operator, computed now where its operands are numbers."""
    values = [operand.value for operand in operands if isinstance(operand, ir.Const)]
    if len(values) == len(operands):
        try:
            value = OPERATORS[op](*values)
        except (ArithmeticError, ValueError):
            value = None
        if isinstance(value, float) and math.isfinite(value):
            return ir.Const(value)
    if (
        op == "-"
        and operands[0] == ir.Const(1.0)
        and isinstance(operands[1], ir.Apply)
        and operands[1].function == "exp"
    ):
        return ir.Apply("neg", (ir.Apply("expm1", operands[1].arguments),))  # 1 - exp(e) without its cancellation
    return ir.Apply(op, operands)


def read_at(ctx: Context, ref: ast.TensorRef, pairs: bool) -> str:
    """The node that a reference reads; with `pairs`, over the very position that it names."""
    symbol = ctx.scope.symbols.get(ref.name)
    if pairs and symbol is not None and symbol.role == "mask":
        mask = ctx.tensor(ref.name, ref.span)
        times = ctx.times(ctx.scope.axes_of(ref))
        ctx.check_mask_read(ref)
        axes = (*ctx.nodes[mask].axes, *times)
        return ctx.add(ir.DenseMask(f"{mask}[{','.join(times)}]", axes, mask, span=ref.span))
    name = ctx.read(ref)
    times = ctx.times(ctx.scope.axes_of(ref))
    if pairs and len(times) == 1 and times[0] != ctx.scope.reader:
        return ctx.rename(name, ((ctx.scope.reader, times[0]),), ref)
    return name


def _position(ctx: Context, axis: str, pairs: bool) -> str:
    """index(t): a hidden input that counts the positions of each document."""
    reader = ctx.scope.reader
    if POSITION not in ctx.nodes:
        ctx.add(ir.Input(POSITION, (reader,), ((reader,),), kind="int"))
    if pairs and axis != reader:
        return ctx.rename(POSITION, ((reader, axis),), ast.TensorRef(POSITION, ()))
    return POSITION


def _call(ctx: Context, expr: ast.Call, pairs: bool) -> ir.Scalar:
    function, arguments = expr.function, expr.arguments
    lowered: list[ir.Scalar] = []
    for place, argument in enumerate(arguments):
        if isinstance(argument, ast.Compare) and function == "where" and place == 0:
            sides = (lower(ctx, argument.left, pairs=pairs), lower(ctx, argument.right, pairs=pairs))
            lowered.append(ir.Apply(argument.op, sides))
        else:
            lowered.append(lower(ctx, argument, pairs=pairs))
    if function == "where" and not _is_condition(ctx, lowered[0]):
        what = "the first argument of `where` is no condition"
        hint = "it takes a comparison, where(a > 0, x, y), or a tensor declared `: bool`"
        raise ctx.fail(errors.BadCall(arguments[0].span, what=what, hint=hint))
    return ir.Apply(function, tuple(lowered))


def _is_condition(ctx: Context, expr: ir.Scalar) -> bool:
    match expr:
        case ir.Ref(node=node):
            return ctx.nodes[node].kind == "bool"
        case ir.Apply(function=function):
            return function in ("<", "<=", ">", ">=", "==", "!=")
        case _:
            return False


def _reduce(ctx: Context, expr: ast.Reduce, pairs: bool) -> ir.Scalar:
    function = expr.function
    _check_over(ctx, expr, pairs)
    eps, where = _options(ctx, expr, pairs)
    over = tuple(atom for axis in over_axes(expr) for atom in ctx.atoms(axis))
    return ir.Fold(function, lower(ctx, expr.operand, pairs=pairs), over, eps, where)


def _check_over(ctx: Context, expr: ast.Reduce, pairs: bool) -> None:
    """Faults for axes that a fold may not run over."""
    function, have = expr.function, free_axes(ctx, expr.operand)
    atoms, reader, writer = set(ctx.atoms_of(have)), ctx.scope.reader, (*ctx.scope.writers, "s")[0]
    for index in expr.over:
        for axis in (index.name,) if isinstance(index, ast.AxisIndex) else index.names:
            if ctx.scope.is_time(axis):
                if pairs and axis in ctx.scope.writers and function in ("softmax", "sum", "max"):
                    continue
                hint = f"sum over time in a term, with a mask: `mask M[{reader},{writer}] = causal`, or `full`"
                if function == "softmax":
                    hint = (
                        f"a softmax over time is taken over the writer position of a tensor over pairs of positions: "
                        f"`w[...,{reader},{writer}] = softmax(score[...,{reader},{writer}] over {writer})`"
                    )
                raise ctx.fail(
                    errors.BadPosition(index.span, what=f"`{function}` runs over the position '{axis}'", hint=hint)
                )
            if axis not in ctx.scope.axes:
                raise ctx.fail(errors.UnknownAxis(index.span, name=axis))
            if not set(ctx.atoms(axis)) <= atoms:
                what = f"`{function}` runs over '{axis}', which its argument does not have"
                raise ctx.fail(
                    errors.BadCall(index.span, what=what, hint=f"the argument has {', '.join(have) or 'no axis'}")
                )


def _options(ctx: Context, expr: ast.Reduce, pairs: bool) -> tuple[float | None, ir.Scalar | None]:
    """`eps` of a norm, and `mask` of a softmax over a writer position."""
    function = expr.function
    eps, where = NORMS.get(function), None
    for place, option in enumerate(expr.options):
        what, hint = "", ""
        if any(other.name == option.name for other in expr.options[:place]):
            what, hint = f"the option '{option.name}' stands twice", "give it once"
        elif option.name == "eps" and NORMS.get(function) is not None:
            value = option.value.value if isinstance(option.value, ast.Number) else -1.0
            eps = float(value)
            if value < 0:
                what, hint = "`eps` is not a number of at least zero", "write a literal, such as eps = 1e-5"
        elif option.name == "mask" and function == "softmax" and pairs:
            where = _mask_option(ctx, expr, option)
        elif option.name == "mask" and function == "softmax":
            what = "a mask goes with a softmax over a writer position"
            hint = f"this one runs over {', '.join(over_axes(expr))}"
        else:
            what = f"`{function}` takes no option '{option.name}'"
            takes = (
                "eps"
                if NORMS.get(function) is not None
                else "mask, over a writer position"
                if function == "softmax"
                else "none"
            )
            hint = did_you_mean(option.name, (takes[:4].strip(","),), f"it takes {takes}")
        if what:
            raise ctx.fail(errors.BadCall(option.span, what=what, hint=hint))
    return eps, where


def _mask_option(ctx: Context, expr: ast.Reduce, option: ast.Option) -> ir.Scalar:
    match option.value:
        case ast.Name(name=name) | ast.TensorRef(name=name) if name in ctx.scope.masks:
            node = ctx.tensor(name, option.span)
            times = ctx.times(free_axes(ctx, expr.operand))
            return ir.Ref(
                ctx.add(
                    ir.DenseMask(f"{name}[{','.join(times)}]", (*ctx.nodes[node].axes, *times), node, span=option.span)
                )
            )
        case _:
            ends = f"{ctx.scope.reader},{(*ctx.scope.writers, 's')[0]}"
            hint = f"declare it, `mask M[{ends}] = causal`, then write `mask = M`"
            raise ctx.fail(errors.BadCall(option.value.span, what="the option `mask` names no mask", hint=hint))
