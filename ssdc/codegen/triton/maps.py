"""Functions that kernels apply to an operand's tiles: chains of elementwise steps, their text and their slopes.

In: an elementwise expression of one tensor. Out: the tensor and a chain, such as `("elu", "+1.0")`, and the text of a
chain in Triton, in float32. A step is a name of STEPS, or one of `+ * > <` (add, multiply, at least, at most) before
a number. Not done: functions of several tensors.

>>> from ssdc.graph.nodes import Apply, Const, Ref
>>> chain(Apply("+", (Apply("elu", (Ref("q"),)), Const(1.0))))
('q', ('elu_one',))
>>> chain(Apply("/", (Ref("q"), Const(4.0))))
('q', ('*0.25',))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ssdc.graph import nodes as ir

Chain = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A function of `x` in float32: its text, that of its derivative, and whether it keeps zero. NaN stays NaN."""

    value: str
    slope: str
    zero: bool


STEPS: Mapping[str, Step] = {
    "abs": Step("tl.abs(x)", "tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))", True),
    "elu": Step("tl.where(x > 0, x, less_one(x))", "tl.where(x > 0, 1.0, tl.exp(x))", True),
    "elu_one": Step("tl.where(x > 0, x + 1.0, tl.exp(x))", "tl.where(x > 0, 1.0, tl.exp(x))", False),
    "exp": Step("tl.exp(x)", "tl.exp(x)", False),
    "expm1": Step("less_one(x)", "tl.exp(x)", True),
    "relu": Step("tl.where(x < 0, 0.0, x)", "tl.where(x > 0, 1.0, 0.0)", True),
    "sigmoid": Step("tl.sigmoid(x)", "tl.sigmoid(x) * tl.sigmoid(-x)", False),
    "silu": Step("x * tl.sigmoid(x)", "tl.sigmoid(x) * (1.0 + x * tl.sigmoid(-x))", True),
    "softplus": Step("softplus(x)", "tl.sigmoid(x)", False),
    "square": Step("x * x", "2.0 * x", True),
    "tanh": Step("tanh(x)", "4.0 * tl.sigmoid(2.0 * x) * tl.sigmoid(-2.0 * x)", True),
}
"""Functions of one argument; `softplus`, `tanh` and `less_one` (exp(x) - 1) are of templates/triton/_functions.jinja,
exact near zero too."""

SIGNS = "+*><"


def chain(expr: ir.Scalar) -> tuple[str, Chain] | None:
    """The tensor that an expression is a function of and the function, or None where it is no chain of steps."""
    found = _chain(expr)
    if found is None:
        return None
    steps = list(found[1])
    for place in range(len(steps) - 1, 0, -1):
        if steps[place - 1 : place + 1] == ["elu", "+1.0"]:
            steps[place - 1 : place + 1] = ["elu_one"]  # without the loss of exp(x) - 1 + 1
    return found[0], tuple(steps)


def _chain(expr: ir.Scalar) -> tuple[str, Chain] | None:
    match expr:
        case ir.Ref(node=node):
            return node, ()
        case ir.Apply(function="logsigmoid", arguments=(inner,)):
            return _then(inner, "*-1.0", "softplus", "*-1.0")
        case ir.Apply(function="neg", arguments=(inner,)):
            return _then(inner, "*-1.0")
        case ir.Apply(function=function, arguments=(inner,)) if function in STEPS:
            return _then(inner, function)
        case ir.Apply(function="*", arguments=(left, right)) if left == right:
            return _then(left, "square")
        case ir.Apply(function=function, arguments=(left, right)):
            low, high = constant(left), constant(right)
            if high is not None and low is None:
                return _then(left, *_by_number(function, high))
            if low is not None and high is None:
                return _then(right, *_of_number(function, low))
    return None


def _then(inner: ir.Scalar, *steps: str) -> tuple[str, Chain] | None:
    found = _chain(inner)
    return None if found is None or not steps else (found[0], (*found[1], *steps))


def _by_number(function: str, number: float) -> Chain:
    """The steps of `x function number`; none where there is no such step."""
    if function == "^":
        return ("square",) if number == 2 else ()
    if function == "/":
        return (f"*{1 / number!r}",) if number and math.isfinite(1 / number) else ()
    if function == "-":
        return (f"+{-number!r}",)
    return _of_number(function, number)


def _of_number(function: str, number: float) -> Chain:
    """The steps of `number function x`."""
    match function:
        case "+" | "*":
            return (f"{function}{number!r}",)
        case "-":
            return ("*-1.0", f"+{number!r}")
        case "max":
            return (f">{number!r}",)
        case "min":
            return (f"<{number!r}",)
        case _:
            return ()


def constant(expr: ir.Scalar) -> float | None:
    """The value of an expression of numbers; None for any other, and for one that is not finite.

    >>> constant(ir.Apply("^", (ir.Const(64.0), ir.Const(-0.5))))
    0.125
    """
    match expr:
        case ir.Const(value=value):
            return float(value)
        case ir.Apply(function="neg", arguments=(inner,)):
            found = constant(inner)
            return None if found is None else -found
        case ir.Apply(function=function, arguments=(first, second)) if function in "+-*/^":
            left, right = constant(first), constant(second)
            return None if left is None or right is None else _reckoned(function, left, right)
        case _:
            return None


def _reckoned(function: str, left: float, right: float) -> float | None:
    try:
        match function:
            case "+":
                value = left + right
            case "-":
                value = left - right
            case "*":
                value = left * right
            case "/":
                value = left / right
            case _:
                value = math.pow(left, right)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    return value if math.isfinite(value) else None


# ---- one string for all operands of a call ---------------------------------------------------------------------------


def encoded(chains: tuple[Chain, ...], norm: Chain | None = None) -> str:
    """Chains as one string, empty where all are; with that of the row sums as the last.

    >>> encoded((("elu_one", "*0.5"), (), ())), encoded(((), (), ()))
    ('elu_one,*0.5;;', '')
    >>> encoded((("relu",), (), ()), (">1.0",)), encoded(((), (), ()), ())
    ('relu;;;>1.0', ';;;')
    """
    every = chains if norm is None else (*chains, norm)
    return ";".join(",".join(steps) for steps in every) if any(chains) or norm is not None else ""


@lru_cache(maxsize=4096)
def decoded(text: str) -> tuple[tuple[Chain, Chain, Chain], Chain | None]:
    """The chains of query, key and value, and of the row sums where a fourth is given. Raises ValueError for a step
    that does not exist.

    >>> decoded("relu;;;>1.0")
    ((('relu',), (), ()), ('>1.0',))
    """
    parts: list[Chain] = [tuple(part.split(",")) if part else () for part in text.split(";")] if text else [(), (), ()]
    for step in (step for steps in parts for step in steps):
        _step(step)
    match parts:
        case [query, key, value]:
            return (query, key, value), None
        case [query, key, value, norm]:
            return (query, key, value), norm
        case _:
            raise ValueError(f"the maps {text!r} are {len(parts)} chains; three or four are needed")


def normed(text: str) -> int:
    """The columns of row sums beside a state: 1 where outputs are divided by them, else 0.

    >>> normed(";;;>1.0"), normed("")
    (1, 0)
    """
    return int(text.count(";") == 3)


# ---- text ------------------------------------------------------------------------------------------------------------


def _step(step: str) -> Step:
    if step in STEPS:
        return STEPS[step]
    sign, number = step[:1], step[1:]
    if not sign or sign not in SIGNS or not math.isfinite(float(number)):
        raise ValueError(f"there is no map {step!r}")
    text = repr(float(number))
    match sign:
        case "+":
            return Step(f"x + {text}", "1.0", float(number) == 0)
        case "*":
            return Step(f"x * {text}", text, True)
        case ">":
            return Step(f"tl.where(x < {text}, {text}, x)", f"tl.where(x < {text}, 0.0, 1.0)", float(number) <= 0)
        case _:
            return Step(f"tl.where(x > {text}, {text}, x)", f"tl.where(x > {text}, 0.0, 1.0)", float(number) >= 0)


def keeps_zero(steps: Chain) -> bool:
    """Whether a chain takes zero to zero, so that padding needs no mask."""
    return all(_step(step).zero for step in steps)


def values(steps: Chain) -> tuple[str, ...]:
    """The text of each step's value, of `x`."""
    return tuple(_step(step).value for step in steps)


def slopes(steps: Chain) -> tuple[str, ...]:
    """The text of each step's derivative, of `x`."""
    return tuple(_step(step).slope for step in steps)
