"""Questions about an expression's tree that every structure asks.

In: an expression. Out: its nodes, its axes, whether it reads a name, whether two are the same. Nothing here recurses: a
sum of ten thousand terms is a left-nested tree ten thousand deep, and programs are untrusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import zip_longest
from typing import assert_never

from ssdc.syntax import ast


def children(expr: ast.Expr) -> tuple[ast.Expr, ...]:
    """The operands of an expression, in the order of the text. Options of a reduction count, indices do not."""
    match expr:
        case ast.Number() | ast.Name() | ast.TensorRef() | ast.Position():
            return ()
        case ast.Negate(operand=operand):
            return (operand,)
        case ast.Binary(left=left, right=right) | ast.Compare(left=left, right=right):
            return (left, right)
        case ast.Call(arguments=arguments):
            return arguments
        case ast.Reduce(operand=operand, options=options):
            return (operand, *(option.value for option in options))
        case _:
            assert_never(expr)


def walk(expr: ast.Expr) -> Iterator[ast.Expr]:
    """Every node of an expression, parents first, in the order of the text.

    >>> [type(node).__name__ for node in walk(ast.Negate(ast.Call("exp", (ast.Name("N"),))))]
    ['Negate', 'Call', 'Name']
    """
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))


def spine(expr: ast.Expr, operators: str) -> tuple[ast.Expr, list[tuple[str, ast.Expr]]]:
    """A left-nested chain of `operators` laid flat: the first operand, then each operator with its right operand.

    >>> first, rest = spine(ast.Binary("-", ast.Binary("+", ast.Name("a"), ast.Name("b")), ast.Name("c")), "+-")
    >>> first, [(op, right.name) for op, right in rest]
    (Name(name='a'), [('+', 'b'), ('-', 'c')])
    """
    rest: list[tuple[str, ast.Expr]] = []
    while isinstance(expr, ast.Binary) and expr.op in operators:
        rest.append((expr.op, expr.right))
        expr = expr.left
    return expr, rest[::-1]


def same(one: ast.Expr, other: ast.Expr) -> bool:
    """Whether two expressions are written alike. Spans do not count; no limit on depth, unlike `==`."""
    return all(
        a is not None and b is not None and (a is b or _label(a) == _label(b))
        for a, b in zip_longest(walk(one), walk(other))
    )


def _label(node: ast.Expr) -> tuple[object, ...]:
    match node:
        case ast.Number(value=value):
            return "number", type(value), value
        case ast.Name(name=name):
            return "name", name
        case ast.TensorRef(name=name, indices=indices):
            return "tensor", name, indices
        case ast.Negate():
            return ("negate",)
        case ast.Binary(op=op):
            return "binary", op
        case ast.Compare(op=op):
            return "compare", op
        case ast.Call(function=function, arguments=arguments):
            return "call", function, len(arguments)
        case ast.Reduce(function=function, over=over, options=options):
            return "reduce", function, over, tuple(option.name for option in options)
        case ast.Position(axis=axis):
            return "position", axis
        case _:
            assert_never(node)


def index_names(index: ast.Index) -> tuple[str, ...]:
    """The axes that an index runs along; those of the row number, for a lookup."""
    match index:
        case ast.AxisIndex(name=name) | ast.LagIndex(name=name):
            return (name,)
        case ast.FlatIndex(names=names):
            return names
        case ast.UnitIndex():
            return ()
        case ast.LookupIndex(tensor=tensor):
            return tuple(name for inner in tensor.indices for name in index_names(inner))
        case _:
            assert_never(index)


def axes_of(expr: ast.Expr) -> tuple[str, ...]:
    """The axes along which an expression varies, each once, in order of appearance; `over` axes are not among them.

    An axis reduced in one place and free in another counts as free.
    """
    found: dict[str, None] = {}
    waiting: list[tuple[ast.Expr, frozenset[str]]] = [(expr, frozenset())]
    while waiting:
        node, bound = waiting.pop()
        if isinstance(node, ast.TensorRef):
            found.update((name, None) for index in node.indices for name in index_names(index) if name not in bound)
        elif isinstance(node, ast.Position) and node.axis not in bound:
            found[node.axis] = None
        elif isinstance(node, ast.Reduce) and node.function in _REMOVES:
            bound = bound | {name for index in node.over for name in index_names(index)}
        waiting.extend((child, bound) for child in reversed(children(node)))
    return tuple(found)


_REMOVES = ("sum", "mean", "max", "min")  # the norms and softmax keep the axes that they run over


def reads(expr: ast.Expr, names: Collection[str]) -> bool:
    """Whether an expression varies along one of the axes `names`."""
    return any(name in names for name in axes_of(expr))
