"""Equations: a definition's right side -> maps, linear contractions and masked contractions (language.md, "Equations").

Each term is a product of factors. One that sums over a writer position becomes a `Contraction` with the term's mask;
one that sums over other axes a `Linear`; what remains is elementwise. Terms that chain positions through several masks
are peeled from the innermost writer outwards.
"""

from __future__ import annotations

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Broken, Context
from ssdc.graph.contractions import summed_over_time
from ssdc.graph.elementwise import check_functions, direct_axes, free_axes, lower, positions
from ssdc.graph.factors import (
    Factor,
    Left,
    at_one_position,
    axes_of,
    ends_of,
    every,
    is_mask,
    mask_inside,
    tensors,
)
from ssdc.graph.scope import index_span
from ssdc.graph.selfreads import check_self_reads
from ssdc.graph.terms import Product, addends, sum_of_products
from ssdc.structures.walk import walk
from ssdc.syntax import ast

MOST_TERMS = 256
"""Terms of one equation, multiplied out."""


def lower_equation(ctx: Context, target: ast.TensorRef, value: ast.Expr) -> str:
    """The node of a definition with one target."""
    axes = ctx.scope.axes_of(target)
    times = frozenset(ctx.times(axes))
    before = len(ctx.scope.faults)
    check_functions(ctx, value)
    if times and ctx.scope.reader not in times:
        what = f"'{target.name}' is defined at the writer position '{min(times)}'"
        hint = f"define it at the reader position '{ctx.scope.reader}'; it may be read at any position"
        raise ctx.fail(errors.BadPosition(target.span, what=what, hint=hint))
    left = Left(target.name, ctx.atoms_of(axes), times, target)
    terms = sum_of_products(value, lambda expr: _mixed(ctx, expr, left), MOST_TERMS + 1)
    if len(terms) > MOST_TERMS:
        what = f"the expression has more than {MOST_TERMS} terms when multiplied out"
        raise ctx.fail(
            errors.BadCall(value.span, what=what, hint="give sums a line of their own: `e[...] = a[...] + b[...]`")
        )
    if target.name in {ref.name for ref in tensors(value)}:
        check_self_reads(ctx, target, terms)
        others = [ref for ref in tensors(value) if ref.name != target.name]
        every(lambda ref: ctx.tensor(ref.name, ref.span) if ref.name in ctx.scope.masks else ctx.read(ref), others)
        what = f"the recursive equation of '{target.name}'"
        hint = "it has a reference (ssdc.reference), and no generated code so far"
        if len(ctx.scope.faults) == before:
            ctx.scope.report(errors.NotLowered(target.span, what=what, hint=hint))
    if len(ctx.scope.faults) > before:
        raise Broken
    factors = every(lambda product: _factors(ctx, product), terms)
    lowered = every(
        lambda pair: _term(ctx, pair[1][0], pair[1][1], left, pair[0]),
        list(enumerate(zip(terms, factors, strict=True))),
    )
    _check_left(ctx, left, [axis for term in lowered for axis in axes_of(ctx, term)])
    if len(lowered) == 1 and isinstance(lowered[0], ir.Ref) and ctx.nodes[lowered[0].node].axes == left.axes:
        return ctx.name(lowered[0].node, f"{left.name}:1", left.name)
    total = lowered[0]
    for term in lowered[1:]:
        negative = isinstance(term, ir.Apply) and term.function == "neg"
        total = ir.Apply("-", (total, term.arguments[0])) if negative else ir.Apply("+", (total, term))  # type: ignore[union-attr]
    return ctx.add(ir.Map(target.name, left.axes, total, kind=_kind(total), span=value.span))


def _kind(expr: ir.Scalar) -> ir.Kind:
    comparison = isinstance(expr, ir.Apply) and expr.function in ("<", "<=", ">", ">=", "==", "!=")
    return "bool" if comparison else "real"


def _mixed(ctx: Context, expr: ast.Expr, left: Left) -> bool:
    """Whether a sum among the factors must be multiplied out: it holds a mask, or positions that meet inside it.

    Multiplying out is right where every addend has the axes that the term sums over; anything else is a fault.
    """
    masks = any(ref.name in ctx.scope.masks for ref in tensors(expr))
    if not masks and (len(positions(ctx, expr)) < 2 or len(left.positions) > 1):
        return False
    summed = [
        frozenset(ctx.atoms_of(free_axes(ctx, addend))) - set(left.axes) - left.positions for addend in addends(expr)
    ]
    if len(set(summed)) > 1:
        what = "this sum mixes positions, and its terms are summed over different axes"
        raise ctx.fail(errors.BadPosition(expr.span, what=what, hint="multiply it out: write the terms one by one"))
    return True


def _check_left(ctx: Context, left: Left, have: list[str]) -> None:
    missing = list(dict.fromkeys(ctx.axis_of(axis) for axis in left.axes if axis not in have))
    if missing:
        axes = f"axis '{missing[0]}'" if len(missing) == 1 else "axes " + ", ".join(f"'{axis}'" for axis in missing)
        raise ctx.fail(errors.MissingLeftAxis(index_span(left.ref, missing[0]), name=left.name, axes=axes))


def _factors(ctx: Context, product: Product) -> list[Factor]:
    return every(lambda factor: _factor(ctx, *factor), product.factors)


def _term(ctx: Context, product: Product, factors: list[Factor], left: Left, place: int) -> ir.Scalar:
    """One term as an expression over nodes; the contractions in it become nodes of their own."""
    _check_summed(ctx, factors, left)
    summed = frozenset().union(*(factor.positions for factor in factors)) - left.positions
    name = f"{left.name}:{place + 1}"
    if len(left.positions) > 1:
        expr = _over_pairs(ctx, factors, left, name)
    elif summed - {ctx.scope.reader}:
        expr = summed_over_time(ctx, factors, left, name, summed)
    else:
        expr = at_one_position(ctx, factors, left.axes, name)
    return ir.Apply("neg", (expr,)) if product.sign < 0 else expr


def _factor(ctx: Context, expr: ast.Expr, inverse: bool) -> Factor:
    every(lambda ref: ctx.tensor(ref.name, ref.span) if ref.name in ctx.scope.masks else ctx.read(ref), tensors(expr))
    axes = free_axes(ctx, expr)
    for part in walk(expr):
        if isinstance(part, ast.Position) and part.axis not in ctx.scope.axes and not ctx.scope.is_time(part.axis):
            raise ctx.fail(errors.UnknownAxis(part.span, name=part.axis))
        if isinstance(part, ast.Reduce):
            every(lambda index: _known_axis(ctx, index), part.over)
    atoms = ctx.atoms_of(tuple(axis for axis in axes if not ctx.scope.is_time(axis)))
    return Factor(expr, inverse, tuple(dict.fromkeys(atoms)), positions(ctx, expr))


def _known_axis(ctx: Context, index: ast.AxisIndex | ast.FlatIndex) -> None:
    for name in (index.name,) if isinstance(index, ast.AxisIndex) else index.names:
        if name not in ctx.scope.axes and not ctx.scope.is_time(name):
            raise ctx.fail(errors.UnknownAxis(index.span, name=name))


def _check_summed(ctx: Context, factors: list[Factor], left: Left) -> None:
    """An axis that is summed must occur outside functions; positions inside them are told of by name."""
    direct = {atom for factor in factors for axis in direct_axes(ctx, factor.expr) for atom in ctx.atoms(axis)}
    for factor in factors:
        for axis in free_axes(ctx, factor.expr):
            atoms = set(ctx.atoms(axis))
            if not atoms <= set(left.axes) | direct and not (ctx.scope.is_time(axis) and axis in left.positions):
                raise ctx.fail(_hidden(ctx, factor.expr, axis))


def _hidden(ctx: Context, expr: ast.Expr, axis: str) -> errors.Fault:
    """The fault of an axis that is summed and stands inside a function only."""
    function, span = "a function", expr.span
    for part in walk(expr):
        if isinstance(part, ast.Call | ast.Reduce) and axis in free_axes(ctx, part):
            function = part.function
            if isinstance(part, ast.Reduce):
                lower(ctx, part)  # a fold over time is a fault of its own
        elif isinstance(part, ast.TensorRef) and axis in ctx.scope.axes_of(part):
            span = index_span(part, axis)
            if part.name in ctx.scope.masks:
                return mask_inside(part, f"`{function}`")
            break
    if ctx.scope.is_time(axis):
        what = f"the position '{axis}' is summed, but occurs only inside '{function}'"
        reader = ctx.scope.reader
        hint = (
            f"define the inner expression on a line of its own, at '{reader}', and read that at '{axis}' under a mask"
        )
        return errors.BadPosition(span, what=what, hint=hint)
    if function == "a function":  # a power, a divisor, a sum in brackets
        function = "^" if isinstance(expr, ast.Binary) and expr.op == "^" else function
    return errors.SummedInsideFunction(span, axis=axis, function=function)


def _over_pairs(ctx: Context, factors: list[Factor], left: Left, name: str) -> ir.Scalar:
    """A term of a tensor that has a reader and a writer position: both stay, and memory is quadratic."""
    extra = frozenset().union(*(factor.positions for factor in factors)) - left.positions
    if extra:
        what = f"'{left.name}' runs over pairs of positions, and '{min(extra)}' would be summed besides"
        raise ctx.fail(errors.BadPosition(left.span, what=what, hint="give the inner sum a line of its own"))
    for factor in factors:
        if is_mask(ctx, factor):
            ends_of(ctx, factor)
    return at_one_position(ctx, factors, left.axes, name, pairs=True)
