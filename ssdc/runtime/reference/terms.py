"""A right side as the summation rule reads it: signed terms, each a list of factors. Works on the syntax tree alone."""

from __future__ import annotations

from ssdc.syntax import ast

Factors = list[tuple[ast.Expr, bool]]
"""Factors, each with whether it divides."""


def terms_of(expr: ast.Expr) -> list[tuple[int, ast.Expr]]:
    """The operands of the outermost `+` and `-`, each with its sign.

    >>> a, b = ast.Name("a"), ast.Name("b")
    >>> terms_of(ast.Binary("-", ast.Negate(a), b))
    [(-1, Name(name='a')), (-1, Name(name='b'))]
    """
    found: list[tuple[int, ast.Expr]] = []
    todo = [(1, expr)]
    while todo:
        sign, part = todo.pop()
        match part:
            case ast.Binary(op="+" | "-" as op, left=left, right=right):
                todo += [(sign if op == "+" else -sign, right), (sign, left)]
            case ast.Negate(operand=operand):
                todo.append((-sign, operand))
            case _:
                found.append((sign, part))
    return found


def factors_of(expr: ast.Expr) -> tuple[int, Factors]:
    """The sign of a term and the operands of its outermost `*` and `/`."""
    sign = 1
    found: Factors = []
    todo = [(expr, False)]
    while todo:
        part, inverse = todo.pop()
        match part:
            case ast.Binary(op="*" | "/" as op, left=left, right=right):
                todo += [(right, inverse ^ (op == "/")), (left, inverse)]
            case ast.Negate(operand=operand):
                sign = -sign
                todo.append((operand, inverse))
            case _:
                found.append((part, inverse))
    return sign, found
