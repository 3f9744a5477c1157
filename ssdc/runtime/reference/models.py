"""What a `use` statement names: the layers of a chain in order, each with its sizes. Whole numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import assert_never

from ssdc.runtime.reference.value import EvaluationError
from ssdc.syntax import ast


def members_of(model: ast.Model, sizes: Mapping[str, int]) -> list[tuple[str, dict[str, int]]]:
    """The layers of a model in the order of their calls, with the sizes given to each.

    >>> block = ast.Instance("block", (("D", ast.Name("E")),))
    >>> members_of(ast.Chain((block, ast.Repeat(ast.Instance("last"), ast.Number(2)))), {"E": 8})
    [('block', {'D': 8}), ('last', {}), ('last', {})]
    """
    match model:
        case ast.Instance(layer=layer, sizes=given):
            return [(layer, {name: whole(expr, sizes) for name, expr in given})]
        case ast.Repeat(member=member, count=count):
            return members_of(member, sizes) * whole(count, sizes)
        case ast.Chain(members=members):
            return [found for member in members for found in members_of(member, sizes)]
        case _:
            assert_never(model)


def whole(expr: ast.Expr, sizes: Mapping[str, int]) -> int:
    """The value of a size expression. Raises EvaluationError where it is no positive whole number."""
    value = _fraction(expr, sizes)
    if value.denominator != 1 or value < 1:
        raise EvaluationError(f"a size is {value}")
    return value.numerator


def _fraction(expr: ast.Expr, sizes: Mapping[str, int]) -> Fraction:
    match expr:
        case ast.Number(value=int(value)):
            return Fraction(value)
        case ast.Name(name=name) if name in sizes:
            return Fraction(sizes[name])
        case ast.Negate(operand=operand):
            return -_fraction(operand, sizes)
        case ast.Binary(op="+", left=left, right=right):
            return _fraction(left, sizes) + _fraction(right, sizes)
        case ast.Binary(op="-", left=left, right=right):
            return _fraction(left, sizes) - _fraction(right, sizes)
        case ast.Binary(op="*", left=left, right=right):
            return _fraction(left, sizes) * _fraction(right, sizes)
        case ast.Binary(op="/", left=left, right=right) if _fraction(right, sizes):
            return _fraction(left, sizes) / _fraction(right, sizes)
        case _:
            raise EvaluationError("a size is made of whole numbers, sizes, + - * / and parentheses")
