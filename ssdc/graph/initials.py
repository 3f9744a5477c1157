"""Initialisers of parameters, checked as far as text alone can tell: names, numbers of arguments, ranges.

In: a scope. Out: faults in it. That `linear` has a fan-in and that all values drawn are finite is found where they are
drawn, in `ssdc.runtime.initialisers`, which also says what the words mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ssdc import errors
from ssdc.graph.scope import Scope
from ssdc.syntax import ast

DISTRIBUTIONS: Mapping[str, int] = {"zeros": 0, "ones": 0, "linear": 0, "constant": 1, "uniform": 2, "normal": 1}
"""The initialisers proper, and how many numbers each takes."""

FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "rsqrt": lambda x: x**-0.5, "abs": abs, "sin": math.sin,
    "cos": math.cos, "tanh": math.tanh, "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "log1p": math.log1p,
    "logsigmoid": lambda x: -math.log1p(math.exp(-x)), "expm1": math.expm1, "relu": lambda x: max(x, 0.0),
    "sign": lambda x: math.copysign(1.0, x) if x else 0.0, "softplus": lambda x: math.log1p(math.exp(x)),
    "softplus_inverse": lambda x: math.log(math.expm1(x)), "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: 0.5 * x * math.erfc(-x / 2**0.5), "elu": lambda x: x if x > 0 else math.expm1(x),
}  # fmt: skip
"""Elementwise functions of one argument."""

SEVERAL: Mapping[str, tuple[int, Callable[..., float]]] = {
    "min": (2, min), "max": (2, max), "clamp": (3, lambda x, low, high: min(max(x, low), high)),
}  # fmt: skip
"""Elementwise functions of several arguments."""

OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b, "^": pow,
}  # fmt: skip


class _Varies(Exception):
    """A value that is no single number: it is drawn, or depends on the place in the tensor."""


def check_initialisers(scope: Scope) -> None:
    """Report what is wrong with the initialisers of a layer's parameters."""
    for statement in scope.layer.statements:
        if isinstance(statement, ast.Params):
            for param in statement.entries:
                if param.init is not None:
                    _check(scope, param.init, scope.axes_of(param.tensor))


def _check(scope: Scope, expr: ast.Expr, axes: tuple[str, ...]) -> None:
    """Report unknown words, wrong numbers of arguments and empty ranges in an expression."""
    match expr:
        case ast.Number():
            pass
        case ast.Name(name=name) | ast.Call(function=name) if name in DISTRIBUTIONS:
            _distribution(scope, name, expr)
        case ast.Name(name=name) if scope.is_size(name):
            pass
        case ast.Position(axis=axis) if axis in axes:
            pass
        case ast.Negate(operand=operand):
            _check(scope, operand, axes)
        case ast.Binary(left=left, right=right):
            _check(scope, left, axes)
            _check(scope, right, axes)
        case ast.Call(function=name, arguments=arguments) if _fits(name, len(arguments)):
            for argument in arguments:
                _check(scope, argument, axes)
        case _:
            scope.report(errors.UnknownInitialiser(expr.span, found=described(expr)))


def _fits(function: str, count: int) -> bool:
    return (function in FUNCTIONS and count == 1) or (function in SEVERAL and SEVERAL[function][0] == count)


def _distribution(scope: Scope, name: str, expr: ast.Name | ast.Call) -> None:
    arguments = expr.arguments if isinstance(expr, ast.Call) else ()
    want, found = DISTRIBUTIONS[name], len(arguments)
    if found != want:
        scope.report(errors.InitialiserArguments(expr.span, name=name, want=want, found=found))
        return
    numbers: list[float | None] = []
    for argument in arguments:
        try:
            value = _number(scope, argument)
        except _Varies:
            value = math.nan
        except (ArithmeticError, ValueError):
            value = math.nan
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            scope.report(errors.NotANumber(argument.span, found=described(argument)))
            return
        numbers.append(value)
    match name, numbers:
        case "uniform", [float() | int() as low, float() | int() as high] if not low < high:
            scope.report(errors.EmptyRange(expr.span, low=f"{low:g}", high=f"{high:g}"))
        case "normal", [float() | int() as deviation] if deviation < 0:
            scope.report(errors.NegativeDeviation(arguments[0].span, found=f"{deviation:g}"))
        case _:
            pass


def _number(scope: Scope, expr: ast.Expr) -> float | None:
    """The value of an argument; None where a size in it has no value yet.

    Raises _Varies, ArithmeticError or ValueError where it has none.
    """
    match expr:
        case ast.Number(value=value):
            return float(value)
        case ast.Name(name=name) if scope.is_size(name) and name not in DISTRIBUTIONS:
            return float(scope.sizes[name]) if scope.sizes[name] > 0 else None
        case ast.Negate(operand=operand):
            inner = _number(scope, operand)
            return None if inner is None else -inner
        case ast.Binary(op=op, left=left, right=right):
            one, other = _number(scope, left), _number(scope, right)
            return None if one is None or other is None else OPERATORS[op](one, other)
        case ast.Call(function=name, arguments=arguments) if _fits(name, len(arguments)):
            values = [_number(scope, argument) for argument in arguments]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                return None
            return FUNCTIONS[name](*known) if name in FUNCTIONS else SEVERAL[name][1](*known)
        case _:
            raise _Varies


def described(expr: ast.Expr) -> str:
    """What an expression is, in a few words."""
    match expr:
        case ast.Name(name=name) | ast.TensorRef(name=name):
            return f"'{name}'"
        case ast.Call(function=name, arguments=arguments):
            return f"'{name}' of {len(arguments)} argument{'s' * (len(arguments) != 1)}"
        case ast.Reduce(function=name):
            return f"a reduction '{name}'"
        case ast.Position(axis=axis):
            return f"index({axis})"
        case _:
            return "an expression"
