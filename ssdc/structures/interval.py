"""The range of an expression's values, whatever is fed in.

In: an expression and its scope. Out: an `Interval` that holds every real value it can take. Inputs and parameters may
be anything, whatever their initialiser; a tensor with an elementwise definition is looked through. Not done: relations
between operands, except a square (x * x) and a mean of two (a * p + (1 - a) * q).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import assert_never

from ssdc.structures.algebra import Scope
from ssdc.structures.bounds import ALL, NONNEGATIVE, ONE, UNIT, Interval, exp
from ssdc.structures.walk import same, spine
from ssdc.syntax import ast

__all__ = ["Interval", "Ranges", "interval_of"]

DEPTH = 128  # levels of expressions and definitions together; beyond them the answer is ALL
FACTORS = 16  # of a product that is searched for a mean of two


def interval_of(expr: ast.Expr, scope: Scope) -> Interval:
    """The range of `expr`; `ALL` where nothing is known."""
    return Ranges(scope).of(expr)


class Ranges:
    """The ranges of several expressions of one scope; each node is worked out once."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._known: dict[int, tuple[ast.Expr, Interval]] = {}  # by identity; holds the node so that ids stay taken
        self._depth = 0

    def of(self, expr: ast.Expr) -> Interval:
        """The range of `expr`."""
        found = self._known.get(id(expr))
        if found is not None:
            return found[1]
        if self._depth >= DEPTH:
            return ALL
        self._depth += 1
        result = self._fresh(expr)
        self._depth -= 1
        self._known[id(expr)] = (expr, result)
        return result

    def _fresh(self, expr: ast.Expr) -> Interval:
        match expr:
            case ast.Number(value=value):
                return _point(value)
            case ast.Name(name=name):
                return self._size(name) if self._scope.is_size(name) else ALL
            case ast.TensorRef():
                definition = self._scope.definition(expr)
                return ALL if definition is None else self.of(definition)
            case ast.Negate(operand=operand):
                return -self.of(operand)
            case ast.Binary():
                return self._binary(expr)
            case ast.Compare():
                return UNIT
            case ast.Call(function=function, arguments=arguments):
                return self._call(function, arguments)
            case ast.Reduce():
                return self._reduce(expr)
            case ast.Position(axis=axis):
                size = self._scope.size(axis)
                return NONNEGATIVE if size is None else Interval(0.0, max(size - 1, 0))
            case _:
                assert_never(expr)

    def _size(self, name: str) -> Interval:
        size = self._scope.size(name)
        return Interval(1.0, math.inf) if size is None else _point(size)

    def _binary(self, expr: ast.Binary) -> Interval:
        if expr.op == "^":
            return self.of(expr.left) ** self.of(expr.right)
        if expr.op in "+-":
            plain = self._chain(expr, "+-")
            mixed = self._mixture(expr)
            return plain if mixed is None else plain.meet(mixed)
        if expr.op == "*" and same(expr.left, expr.right):
            return self.of(expr.left) ** Interval(2, 2)
        return self._chain(expr, "*/")

    def _chain(self, expr: ast.Binary, operators: str) -> Interval:
        first, rest = spine(expr, operators)
        result = self.of(first)
        for op, right in rest:
            result = _ARITHMETIC[op](result, self.of(right))
        return result

    def _mixture(self, expr: ast.Binary) -> Interval | None:
        """A mean of two, a * p + (1 - a) * q with a in [0, 1], lies between p and q."""
        if expr.op != "+" or max(len(_factors(expr.left)), len(_factors(expr.right))) > FACTORS:
            return None
        for one, other in ((expr.left, expr.right), (expr.right, expr.left)):
            shares, rivals = _factors(other), _factors(one)
            for place, share in enumerate(shares):
                weight = complement(share)
                taken = None if weight is None else next((i for i, r in enumerate(rivals) if same(r, weight)), None)
                if weight is not None and taken is not None and self.of(weight).within(UNIT):
                    return self._product(rivals, taken).hull(self._product(shares, place))
        return None

    def _product(self, factors: list[ast.Expr], without: int) -> Interval:
        result = ONE
        for place, factor in enumerate(factors):
            result = result if place == without else result * self.of(factor)
        return result

    def _call(self, function: str, arguments: tuple[ast.Expr, ...]) -> Interval:
        if function == "where" and len(arguments) == 3:
            return self.of(arguments[1]).hull(self.of(arguments[2]))
        values = tuple(self.of(argument) for argument in arguments)
        if function in ("min", "max") and values:
            pick = min if function == "min" else max
            return Interval(pick(v.low for v in values), pick(v.high for v in values))
        if function == "clamp" and len(values) == 3:
            x, low, high = values
            return Interval(min(max(x.low, low.low), high.low), min(max(x.high, low.high), high.high))
        rule = FUNCTIONS.get(function)
        return ALL if rule is None or len(values) != 1 else rule(values[0])

    def _reduce(self, expr: ast.Reduce) -> Interval:
        inner = self.of(expr.operand)
        match expr.function:
            case "mean" | "max":
                return inner
            case "sum":
                return Interval(0.0 if inner.low >= 0 else -math.inf, 0.0 if inner.high <= 0 else math.inf)
            case "softmax":
                return UNIT
            case "l2norm" if all(option.name != "eps" or self.of(option.value).low >= 0 for option in expr.options):
                return Interval(0.0 if inner.low >= 0 else -1.0, 0.0 if inner.high <= 0 else 1.0)
            case _:
                return ALL


def complement(expr: ast.Expr) -> ast.Expr | None:
    """e, for an expression written `1 - e`."""
    if isinstance(expr, ast.Binary) and expr.op == "-" and isinstance(expr.left, ast.Number) and expr.left.value == 1:
        return expr.right
    return None


def _factors(expr: ast.Expr) -> list[ast.Expr]:
    first, rest = spine(expr, "*")
    return [first, *(right for _, right in rest)]


def _point(value: float) -> Interval:
    try:
        return Interval(float(value), float(value))
    except OverflowError:
        return Interval(0.0, math.inf) if value > 0 else Interval(-math.inf, 0.0)


def _log(x: Interval) -> Interval:
    """Of log x over the part of x that has one."""
    return ALL if x.high <= 0 else Interval(max(x.low, 0.0), x.high).map(lambda v: math.log(v) if v > 0 else -math.inf)


def _log1p(x: Interval) -> Interval:
    if x.high <= -1:
        return ALL
    return Interval(max(x.low, -1.0), x.high).map(lambda v: math.log1p(v) if v > -1 else -math.inf)


def _sqrt(x: Interval) -> Interval:
    return NONNEGATIVE if x.high < 0 else Interval(max(x.low, 0.0), x.high).map(math.sqrt)


def expm1(x: float) -> float:
    """e^x - 1 in floats that overflow to infinity."""
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(exp(-abs(x)))


def _silu(x: Interval) -> Interval:
    """x * sigmoid(x) falls to -0.278464... at -1.278..., then rises."""
    high = x.high * sigmoid(x.high) if x.high > 0 else 0.0
    return Interval(x.low * sigmoid(x.low) if x.low >= 0 else -0.27846455, high)


def _gelu(x: Interval) -> Interval:
    """Exact and by tanh: between -0.1701 and 0 left of zero, between 0 and x right of it."""
    return Interval(0.0 if x.low >= 0 else -0.1701, max(x.high, 0.0))


_ARITHMETIC: Mapping[str, Callable[[Interval, Interval], Interval]] = {
    "+": Interval.__add__,
    "-": Interval.__sub__,
    "*": Interval.__mul__,
    "/": Interval.__truediv__,
}

FUNCTIONS: Mapping[str, Callable[[Interval], Interval]] = {
    "exp": Interval.exp,
    "log": _log,
    "sqrt": _sqrt,
    "rsqrt": lambda x: ONE / _sqrt(x),
    "abs": Interval.absolute,
    "sin": lambda _: Interval(-1, 1),
    "cos": lambda _: Interval(-1, 1),
    "tanh": lambda x: x.map(math.tanh),
    "sigmoid": lambda x: x.map(sigmoid),
    "silu": _silu,
    "softplus": lambda x: x.map(softplus),
    "relu": lambda x: x.map(lambda v: max(v, 0.0)),
    "gelu": _gelu,
    "elu": lambda x: x.map(lambda v: v if v > 0 else expm1(v)),
    "logsigmoid": lambda x: x.map(lambda v: -softplus(-v)),
    "sign": lambda x: x.map(lambda v: math.copysign(1.0, v) if v else 0.0),
    "log1p": _log1p,
    "expm1": lambda x: x.map(expm1),
}
