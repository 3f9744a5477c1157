"""`band(w)`: M[t,s] = 1 where 0 <= t - s < w, in reverse where 0 <= s - t < w. A sliding window of w positions."""

from __future__ import annotations

from fractions import Fraction

from ssdc.errors import BandWidth
from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, describe, direction_of, one_argument
from ssdc.structures.walk import spine
from ssdc.syntax import ast

DEPTH = 64


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """A width, made of numbers and sizes; may run in reverse."""
    width = one_argument(structure, scope, "band(W)")
    check_flags(structure, scope, ("reverse",))
    direction = direction_of(structure)
    if width is None:
        return Facts(direction)
    if not _is_size(width, scope, DEPTH):
        scope.report(BandWidth(width.span, found=describe(width)))
        return Facts(direction)
    value = _value(width, scope)
    if value is not None and (value < 1 or value.denominator != 1):
        scope.report(BandWidth(width.span, found=str(value)))
        return Facts(direction)
    return Facts(direction, widths=(width,))


def _is_size(expr: ast.Expr, scope: Scope, depth: int) -> bool:
    match expr:
        case ast.Number(value=value):
            return isinstance(value, int)
        case ast.Name(name=name):
            return scope.is_size(name)
        case ast.Negate(operand=operand):
            return depth > 0 and _is_size(operand, scope, depth - 1)
        case ast.Binary(op="+" | "-" | "*" | "/"):
            first, rest = spine(expr, "+-*/")
            parts = (first, *(right for _, right in rest))
            return depth > 0 and all(_is_size(part, scope, depth - 1) for part in parts)
        case _:
            return False


def _value(expr: ast.Expr, scope: Scope) -> Fraction | None:
    """The width where all its sizes are known; None too for a division by zero, which sizes report themselves."""
    match expr:
        case ast.Number(value=value):
            return Fraction(value)
        case ast.Name(name=name):
            size = scope.size(name)
            return None if size is None else Fraction(size)
        case ast.Negate(operand=operand):
            inner = _value(operand, scope)
            return None if inner is None else -inner
        case ast.Binary():
            first, rest = spine(expr, "+-*/")
            total = _value(first, scope)
            for op, right in rest:
                total = _combine(op, total, _value(right, scope))
            return total
        case _:
            return None


def _combine(op: str, a: Fraction | None, b: Fraction | None) -> Fraction | None:
    if a is None or b is None or (op == "/" and b == 0):
        return None
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case _:
            return a / b
