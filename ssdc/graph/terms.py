"""Sums of products: an equation's right side as signed terms, each a list of factors.

The operands of the outermost `+` and `-` are the terms, the operands of `*` and `/` their factors (language.md, "The
summation rule"). Works on the syntax tree alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from ssdc.syntax import ast


@dataclass(frozen=True)
class Product:
    """A signed product: each factor with whether it divides."""

    sign: int
    factors: tuple[tuple[ast.Expr, bool], ...]


def sum_of_products(expr: ast.Expr, mixed: Callable[[ast.Expr], bool], most: int | None = None) -> tuple[Product, ...]:
    """The first `most` terms of an expression. A sum among the factors of which `mixed` holds is multiplied out."""
    products = (
        product
        for sign, term in _terms(expr, 1)
        for product in _multiply_out(Product(sign, ()), tuple(_factors(term)), mixed)
    )
    return tuple(islice(products, most))


def addends(expr: ast.Expr) -> tuple[ast.Expr, ...]:
    """The operands of an expression's outermost `+` and `-`."""
    return tuple(term for _, term in _terms(expr, 1))


def _terms(expr: ast.Expr, sign: int) -> Iterator[tuple[int, ast.Expr]]:
    match expr:
        case ast.Binary(op="+" | "-" as op, left=left, right=right):
            yield from _terms(left, sign)
            yield from _terms(right, sign if op == "+" else -sign)
        case ast.Negate(operand=operand):
            yield from _terms(operand, -sign)
        case _:
            yield sign, expr


def _factors(expr: ast.Expr, inverse: bool = False) -> Iterator[tuple[ast.Expr, bool]]:
    match expr:
        case ast.Binary(op="*" | "/" as op, left=left, right=right):
            yield from _factors(left, inverse)
            yield from _factors(right, inverse ^ (op == "/"))
        case _:
            yield expr, inverse


def _multiply_out(
    done: Product, rest: tuple[tuple[ast.Expr, bool], ...], mixed: Callable[[ast.Expr], bool]
) -> Iterator[Product]:
    if not rest:
        yield done
        return
    (factor, inverse), *others = rest
    if isinstance(factor, ast.Negate):
        inner = tuple(_factors(factor.operand, inverse))
        yield from _multiply_out(Product(-done.sign, done.factors), inner + tuple(others), mixed)
    elif isinstance(factor, ast.Binary) and factor.op in "+-" and not inverse and mixed(factor):
        for sign, term in _terms(factor, 1):
            inner = tuple(_factors(term))
            yield from _multiply_out(Product(done.sign * sign, done.factors), inner + tuple(others), mixed)
    else:
        yield from _multiply_out(Product(done.sign, (*done.factors, (factor, inverse))), tuple(others), mixed)
