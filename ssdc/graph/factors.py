"""The factors of a term, and what terms of every kind do with them: read, multiply, become nodes.

In: factors as written, with their atoms and positions. Out: elementwise expressions and nodes of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Broken, Context
from ssdc.graph.elementwise import lower, ordered
from ssdc.graph.scope import index_span
from ssdc.source import Span
from ssdc.syntax import ast

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST_AT_ONCE = 6
"""Operands of one einsum: the exact search of pairwise orders grows as 3^n."""


@dataclass(frozen=True)
class Factor:
    """A factor of a term: an expression, or a node that an inner contraction left."""

    expr: ast.Expr
    inverse: bool
    atoms: tuple[str, ...]
    """Without positions."""
    positions: frozenset[str]
    node: str | None = None


@dataclass(frozen=True)
class Left:
    """The left side: its name, and its atoms and positions in order."""

    name: str
    axes: tuple[str, ...]
    positions: frozenset[str]
    ref: ast.TensorRef
    """As written, for diagnostics."""

    @property
    def span(self) -> Span:
        return self.ref.span


def every(do: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What `do` makes of each item; all are tried before the statement is given up."""
    made: list[Made] = []
    broken = False
    for item in items:
        try:
            made.append(do(item))
        except Broken:
            broken = True
    if broken:
        raise Broken
    return made


def tensors(expr: ast.Expr) -> list[ast.TensorRef]:
    """Every tensor that an expression reads, lookups included, in the order of the text."""
    match expr:
        case ast.TensorRef(indices=indices):
            inner = [index.tensor for index in indices if isinstance(index, ast.LookupIndex)]
            return [expr, *inner]
        case ast.Negate(operand=operand) | ast.Reduce(operand=operand):
            return tensors(operand)
        case ast.Binary(left=left, right=right) | ast.Compare(left=left, right=right):
            return tensors(left) + tensors(right)
        case ast.Call(arguments=arguments):
            return [ref for argument in arguments for ref in tensors(argument)]
        case ast.Number() | ast.Name() | ast.Position():
            return []


def axes_of(ctx: Context, expr: ir.Scalar) -> tuple[str, ...]:
    """The atoms and positions over which an expression of nodes varies, in order of appearance."""
    match expr:
        case ir.Index(atoms=atoms):
            return atoms
        case ir.Apply(arguments=arguments):
            return tuple(axis for argument in arguments for axis in axes_of(ctx, argument))
        case ir.Fold(function=function, operand=operand, over=over):
            inner = axes_of(ctx, operand)
            return inner if function.endswith(("norm", "softmax")) else tuple(a for a in inner if a not in over)
        case _:
            return tuple(axis for name in ir.refs(expr) for axis in ctx.nodes[name].axes)


def mask_inside(ref: ast.TensorRef, where: str) -> errors.Fault:
    """The fault of a mask that stands inside a function."""
    hint = "a mask is a factor of a term, beside the tensors that it is multiplied by"
    return errors.BadPosition(ref.span, what=f"the mask '{ref.name}' stands inside {where}", hint=hint)


def scalar(ctx: Context, factor: Factor, pairs: bool = False) -> ir.Scalar:
    """A factor as an elementwise expression."""
    if factor.node is not None:
        return ir.Ref(factor.node)
    return lower(ctx, factor.expr, pairs=pairs)


def multiplied(factors: list[tuple[ir.Scalar, bool]]) -> ir.Scalar:
    """A product of expressions, those marked dividing."""
    total: ir.Scalar | None = None
    for expr, inverse in sorted(factors, key=lambda pair: pair[1]):
        if total is None:
            total = ir.Apply("/", (ir.Const(1.0), expr)) if inverse else expr
        else:
            total = ir.Apply("/" if inverse else "*", (total, expr))
    return total if total is not None else ir.Const(1.0)


def as_node(ctx: Context, factor: Factor, name: str, pairs: bool = False) -> str:
    """A factor as a node of its own."""
    expr = scalar(ctx, factor, pairs)
    if isinstance(expr, ir.Ref) and not factor.inverse:
        return expr.node
    expr = ir.Apply("/", (ir.Const(1.0), expr)) if factor.inverse else expr
    axes = tuple(dict.fromkeys(axes_of(ctx, expr)))
    return ctx.add(ir.Map(f"{name}/{short(factor.expr)}", ordered(ctx, axes), expr, span=factor.expr.span))


def in_a_word(expr: ast.Expr) -> str:
    """An expression in a word, for diagnostics."""
    match expr:
        case ast.Call(function=function) | ast.Reduce(function=function):
            return f"`{function}`"
        case ast.Binary(op="^"):
            return "a power"
        case _:
            return "a divisor or a sum in brackets"


def span_at(expr: ast.Expr, position: str) -> Span:
    """The first index of an expression that is this position."""
    for ref in tensors(expr):
        span = index_span(ref, position)
        if span != ref.span:
            return span
    return expr.span


def short(expr: ast.Expr) -> str:
    """The first tensor of an expression, for names of nodes."""
    names = [ref.name for ref in tensors(expr)]
    return names[0] if names else "const"


def is_mask(ctx: Context, factor: Factor) -> bool:
    """Whether a factor is a mask read as such."""
    return factor.node is None and isinstance(factor.expr, ast.TensorRef) and factor.expr.name in ctx.scope.masks


def ends_of(ctx: Context, mask: Factor) -> tuple[str, str]:
    """The reader and the writer position of a mask factor."""
    assert isinstance(mask.expr, ast.TensorRef)
    axes = ctx.scope.axes_of(mask.expr)
    ctx.check_mask_read(mask.expr)
    return axes[-2], axes[-1]


def fewer(ctx: Context, operands: list[str], left: tuple[str, ...], name: str) -> tuple[str, ...]:
    """At most `MOST_AT_ONCE` operands: of more, the first ones are contracted in a node of their own."""
    while len(operands) > MOST_AT_ONCE:
        first, rest = operands[:MOST_AT_ONCE], operands[MOST_AT_ONCE:]
        wanted = set(left).union(*(ctx.nodes[operand].axes for operand in rest))
        axes = tuple(dict.fromkeys(axis for operand in first for axis in ctx.nodes[operand].axes if axis in wanted))
        operands = [ctx.add(ir.Linear(f"{name}/product", ordered(ctx, axes), tuple(first))), *rest]
    return tuple(operands)


def at_one_position(
    ctx: Context, factors: list[Factor], left: tuple[str, ...], name: str, pairs: bool = False
) -> ir.Scalar:
    """A term without a summed position: elementwise, or einsum over the factors that share summed atoms."""

    def summed(factor: Factor) -> set[str]:
        return set(factor.atoms) - set(left)

    inner = [factor for factor in factors if summed(factor)]
    outer = [(scalar(ctx, factor, pairs), factor.inverse) for factor in factors if not summed(factor)]
    if inner:
        operands = fewer(ctx, [as_node(ctx, factor, name, pairs) for factor in inner], left, name)
        have = {axis for operand in operands for axis in ctx.nodes[operand].axes}
        axes = tuple(axis for axis in left if axis in have)
        outer.insert(0, (ir.Ref(ctx.add(ir.Linear(name, axes, operands, span=inner[0].expr.span))), False))
    return multiplied(outer)


def through_pairs(ctx: Context, factors: list[Factor], left: Left, name: str) -> ir.Scalar:
    """A sum over a writer position through a tensor over pairs (softmax weights): einsum over time."""
    operands = fewer(ctx, [as_node(ctx, factor, name, pairs=True) for factor in factors], left.axes, name)
    have = {axis for operand in operands for axis in ctx.nodes[operand].axes}
    axes = tuple(axis for axis in left.axes if axis in have)
    return ir.Ref(ctx.add(ir.Linear(name, axes, operands, span=left.span)))
