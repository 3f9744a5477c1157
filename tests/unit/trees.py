"""Trees for unit tests, written in Python's syntax (`**` for `^`, `x[b, t - 1]`), and a float evaluator of them."""

from __future__ import annotations

import ast as python
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssdc.errors import Fault
from ssdc.syntax import ast

OPERATORS = {python.Add: "+", python.Sub: "-", python.Mult: "*", python.Div: "/", python.Pow: "^"}
COMPARISONS = {python.Lt: "<", python.LtE: "<=", python.Gt: ">", python.GtE: ">=", python.Eq: "==", python.NotEq: "!="}
REDUCTIONS = ("sum", "mean", "rmsnorm", "layernorm", "l2norm", "softmax")  # `sum(e, n)` stands for `sum(e over n)`


def tree(text: str) -> ast.Expr:
    return _tree(python.parse(text, mode="eval").body)


def ref(text: str) -> ast.TensorRef:
    result = tree(text)
    assert isinstance(result, ast.TensorRef)
    return result


def _tree(node: python.expr) -> ast.Expr:
    match node:
        case python.Constant(value=int() | float() as value):
            return ast.Number(value)
        case python.Name(id=name):
            return ast.Name(name)
        case python.UnaryOp(op=python.USub(), operand=operand):
            return ast.Negate(_tree(operand))
        case python.BinOp(left=left, op=op, right=right):
            return ast.Binary(OPERATORS[type(op)], _tree(left), _tree(right))
        case python.Compare(left=left, ops=[op], comparators=[right]):
            return ast.Compare(COMPARISONS[type(op)], _tree(left), _tree(right))
        case python.Call(func=python.Name(id="index"), args=[python.Name(id=axis)]):
            return ast.Position(axis)
        case python.Call(func=python.Name(id=name), args=args) if name in REDUCTIONS:
            over = tuple(ast.AxisIndex(axis.id) for axis in args[1:] if isinstance(axis, python.Name))
            return ast.Reduce(name, _tree(args[0]), over)
        case python.Call(func=python.Name(id=name), args=args):
            return ast.Call(name, tuple(_tree(arg) for arg in args))
        case python.Subscript(value=python.Name(id=name), slice=python.Tuple(elts=parts)):
            return ast.TensorRef(name, tuple(_index(part) for part in parts))
        case python.Subscript(value=python.Name(id=name), slice=part):
            return ast.TensorRef(name, (_index(part),))
        case _:
            raise AssertionError(python.dump(node))


def _index(node: python.expr) -> ast.Index:
    match node:
        case python.Name(id=name):
            return ast.AxisIndex(name)
        case python.Constant(value=1):
            return ast.UnitIndex()
        case python.BinOp(left=python.Name(id=name), op=python.Sub(), right=python.Constant(value=int() as steps)):
            return ast.LagIndex(name, steps)
        case python.Tuple(elts=parts):
            return ast.FlatIndex(tuple(part.id for part in parts if isinstance(part, python.Name)))
        case python.Subscript():
            inner = _tree(node)
            assert isinstance(inner, ast.TensorRef)
            return ast.LookupIndex(inner)
        case _:
            raise AssertionError(python.dump(node))


@dataclass
class FakeScope:
    """A scope with the definitions and sizes that a test gives; `faults` collects what is reported."""

    definitions: dict[str, ast.Expr] = field(default_factory=dict)
    sizes: dict[str, int | None] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    reader: str = "t"
    writers: tuple[str, ...] = ("s",)
    faults: list[Fault] = field(default_factory=list)

    def definition(self, ref: ast.TensorRef) -> ast.Expr | None:
        return self.definitions.get(ref.name)

    def kind(self, name: str) -> str:
        return self.kinds.get(name, "real")

    def is_size(self, name: str) -> bool:
        return name in self.sizes

    def size(self, name: str) -> int | None:
        return self.sizes.get(name)

    def report(self, fault: Fault) -> None:
        self.faults.append(fault)


Real = Any  # float, or mpmath.mpf


def functions(m: Any) -> dict[str, Callable[..., Real]]:
    """The elementwise functions over `math` or `mpmath`, by their textbook definitions."""

    def softplus(x: Real) -> Real:
        return max(x, 0 * x) + m.log1p(m.exp(-abs(x)))

    def sigmoid(x: Real) -> Real:
        return 1 / (1 + m.exp(-x)) if x >= 0 else m.exp(x) / (1 + m.exp(x))

    return {
        "^": m.pow if m is math else m.power,
        "exp": m.exp,
        "log": m.log,
        "sqrt": m.sqrt,
        "rsqrt": lambda x: 1 / m.sqrt(x),
        "abs": abs,
        "sin": m.sin,
        "cos": m.cos,
        "tanh": m.tanh,
        "sigmoid": sigmoid,
        "silu": lambda x: x * sigmoid(x),
        "softplus": softplus,
        "relu": lambda x: max(x, 0 * x),
        "gelu": lambda x: x * (1 + m.erf(x / m.sqrt(2))) / 2,
        "elu": lambda x: x if x > 0 else m.expm1(x),
        "logsigmoid": lambda x: -softplus(-x),
        "sign": lambda x: (x > 0) - (x < 0) + 0 * x,
        "log1p": m.log1p,
        "expm1": m.expm1,
        "min": min,
        "max": max,
        "clamp": lambda x, low, high: min(max(x, low), high),
    }


FLOAT = functions(math)
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
RELATIONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def evaluate(
    expr: ast.Expr,
    values: Mapping[str, Real],
    scope: FakeScope,
    number: Callable[[float], Real] = float,
    table: Mapping[str, Callable[..., Real]] = FLOAT,
    seen: list[Real] | None = None,
) -> Real:
    """The value of an expression, in floats unless told otherwise; `seen` collects that of every node.

    A tensor without a definition, and `index(axis)`, take their value from `values` by name.
    """

    def fresh(e: ast.Expr) -> Real:
        match e:
            case ast.Number(value=value):
                return number(value)
            case ast.Name(name=name):
                return number(scope.sizes[name] or values[name])
            case ast.TensorRef(name=name):
                definition = scope.definition(e)
                return number(values[name]) if definition is None else go(definition)
            case ast.Position(axis=axis):
                return number(values[axis])
            case ast.Negate(operand=operand):
                return -go(operand)
            case ast.Binary(op="^", left=left, right=right):
                return table["^"](go(left), go(right))
            case ast.Binary(op=op, left=left, right=right):
                return ARITHMETIC[op](go(left), go(right))
            case ast.Call(function="where", arguments=(ast.Compare(op=op, left=left, right=right), yes, no)):
                return go(yes) if RELATIONS[op](go(left), go(right)) else go(no)
            case ast.Call(function=function, arguments=arguments):
                return table[function](*(go(argument) for argument in arguments))
            case _:
                raise AssertionError(e)

    def go(e: ast.Expr) -> Real:
        value = fresh(e)
        if seen is not None:
            seen.append(value)
        return value

    return go(expr)
