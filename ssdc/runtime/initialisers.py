"""Initialisers -> tensors: `zeros ones constant(c) uniform(lo, hi) normal(std) linear` and functions of these.

In: the expression behind `~` and a shape. Out: a tensor, drawn from torch's global generator on the CPU and in float64
whatever its dtype and device are, so that `torch.manual_seed` gives a float32 module and its float64 reference the same
parameters up to rounding. Each distribution of an expression is drawn over the whole shape, from left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor

from ssdc import errors
from ssdc.errors import Fault, SpecError
from ssdc.source import Source
from ssdc.syntax import ast


def softplus_inverse(x: Tensor) -> Tensor:
    """The y with softplus(y) = x, for x > 0: x + log(-expm1(-x)), which neither cancels nor overflows.

    >>> torch.nn.functional.softplus(softplus_inverse(torch.tensor([1e-3, 1.0, 90.0], dtype=torch.float64)))
    tensor([1.0000e-03, 1.0000e+00, 9.0000e+01], dtype=torch.float64)
    """
    return x + torch.log(-torch.expm1(-x))


def _logsigmoid(x: Tensor) -> Tensor:
    return -torch.logaddexp(-x, torch.zeros_like(x))


FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "abs": torch.abs, "sin": torch.sin,
    "cos": torch.cos, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "logsigmoid": _logsigmoid, "log1p": torch.log1p,
    "expm1": torch.expm1, "relu": torch.relu, "sign": torch.sign, "softplus_inverse": softplus_inverse,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)), "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: 0.5 * x * torch.erfc(-x / 2**0.5), "elu": torch.nn.functional.elu,
}  # fmt: skip
"""Elementwise functions of one argument."""

SEVERAL: Mapping[str, tuple[int, Callable[..., Tensor]]] = {
    "min": (2, torch.minimum), "max": (2, torch.maximum),
    "clamp": (3, lambda x, low, high: torch.minimum(torch.maximum(x, low), high)),
}  # fmt: skip
"""Elementwise functions of several arguments."""

DISTRIBUTIONS: Mapping[str, int] = {"zeros": 0, "ones": 0, "linear": 0, "constant": 1, "uniform": 2, "normal": 1}
"""The initialisers proper, and how many numbers each takes."""


def initialise(
    init: ast.Expr | None,
    shape: Sequence[int],
    *,
    sizes: Mapping[str, int] | None = None,
    axes: Sequence[str] = (),
    fan_in: int | None = None,
    kind: str = "real",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    source: Source | None = None,
) -> Tensor:
    """A fresh tensor of `shape`.

    `sizes` are the sizes that may be named; `axes` names the dimensions of `shape`, for `index(h)`. `fan_in` is the
    number of values over which a contraction sums the parameter: `linear` is uniform in +-1/sqrt(fan_in), as
    torch.nn.Linear has it. Without an initialiser it is `linear` if there is a fan-in, else `zeros`
    (`parameters.default_initialiser` knows embeddings and biases). A complex parameter draws its real and its imaginary
    part one after the other, of a distribution; an initialiser without one gives the real part.

    Raises SpecError with the place of what is wrong: an unknown name, uniform(lo, hi) without lo < hi, a negative
    standard deviation, `linear` without a fan-in, or values that are not finite, such as log(zeros).
    """
    if init is None:
        init = ast.Name("zeros" if fan_in is None else "linear")
    drawing = _Drawing(tuple(shape), dict(sizes or {}), tuple(axes), fan_in)
    complex_ = kind == "complex"
    wanted = dtype.to_complex() if complex_ and not dtype.is_complex else dtype
    if torch.device(device or "cpu").type == "meta":
        return torch.empty(drawing.shape, dtype=wanted, device=device)
    try:
        tensor = drawing.tensor(init)
        if complex_:
            imaginary = drawing.tensor(init) if _draws(init) else torch.zeros_like(tensor)
            tensor = torch.complex(tensor, imaginary)
        if not bool(tensor.isfinite().all()):
            raise _Wrong(errors.BadInitialValue(init.span))
    except _Wrong as wrong:
        raise SpecError(source or Source(""), [wrong.fault]) from None
    return tensor.expand(drawing.shape).to(dtype=wanted, device=device).clone()


def _draws(init: ast.Expr) -> bool:
    match init:
        case ast.Name(name="linear") | ast.Call(function="uniform" | "normal"):
            return True
        case ast.Call(arguments=arguments):
            return any(_draws(argument) for argument in arguments)
        case ast.Binary(left=left, right=right):
            return _draws(left) or _draws(right)
        case ast.Negate(operand=operand):
            return _draws(operand)
        case _:
            return False


class _Wrong(Exception):
    """A fault on its way to the one place that knows the source."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


class _Drawing:
    """The evaluation of one initialiser, in float64."""

    def __init__(
        self, shape: tuple[int, ...], sizes: dict[str, int], axes: tuple[str, ...], fan_in: int | None
    ) -> None:
        self.shape, self.sizes, self.axes, self.fan_in = shape, sizes, axes, fan_in

    def tensor(self, expr: ast.Expr) -> Tensor:
        """The value of an expression, to be broadcast to the shape."""
        match expr:
            case ast.Number(value=value):
                return torch.tensor(float(value), dtype=torch.float64)
            case ast.Name(name=name) | ast.Call(function=name) if name in DISTRIBUTIONS:
                return self._distribution(name, expr)
            case ast.Name(name=name) if name in self.sizes:
                return torch.tensor(float(self.sizes[name]), dtype=torch.float64)
            case ast.Position(axis=axis) if axis in self.axes:
                place = self.axes.index(axis)
                rest = [1] * (len(self.shape) - place - 1)
                return torch.arange(self.shape[place], dtype=torch.float64).reshape(-1, *rest)
            case ast.Negate(operand=operand):
                return -self.tensor(operand)
            case ast.Binary(op=op, left=left, right=right):
                return _OPERATORS[op](self.tensor(left), self.tensor(right))
            case ast.Call(function=name, arguments=(argument,)) if name in FUNCTIONS:
                return FUNCTIONS[name](self.tensor(argument))
            case ast.Call(function=name, arguments=arguments) if name in SEVERAL and len(arguments) == SEVERAL[name][0]:
                return SEVERAL[name][1](*(self.tensor(argument) for argument in arguments))
            case _:
                raise _Wrong(errors.UnknownInitialiser(expr.span, found=_described(expr)))

    def _distribution(self, name: str, expr: ast.Name | ast.Call) -> Tensor:
        arguments = expr.arguments if isinstance(expr, ast.Call) else ()
        if len(arguments) != DISTRIBUTIONS[name]:
            want, found = DISTRIBUTIONS[name], len(arguments)
            raise _Wrong(errors.InitialiserArguments(expr.span, name=name, want=want, found=found))
        numbers = [self._number(argument) for argument in arguments]
        match name, numbers:
            case "uniform", [low, high]:
                if not low < high:
                    raise _Wrong(errors.EmptyRange(expr.span, low=f"{low:g}", high=f"{high:g}"))
                return self._uniform(low, high)
            case "normal", [deviation]:
                if deviation < 0:
                    raise _Wrong(errors.NegativeDeviation(arguments[0].span, found=f"{deviation:g}"))
                return torch.randn(self.shape, dtype=torch.float64) * deviation
            case "linear", _:
                if not self.fan_in:
                    raise _Wrong(errors.NoFanIn(expr.span))
                return self._uniform(-(self.fan_in**-0.5), self.fan_in**-0.5)
            case _:
                value = numbers[0] if numbers else float(name == "ones")
                return torch.full(self.shape, value, dtype=torch.float64)

    def _uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.shape, dtype=torch.float64)

    def _number(self, expr: ast.Expr) -> float:
        """An argument of a distribution: one finite number, such as `log(0.001)` or `D ^ -0.5`."""
        varies = _draws(expr) or any(_is_fill(part) for part in _parts(expr))
        value = self.tensor(expr) if not varies else torch.full((2,), torch.nan)
        if value.dim() or not isfinite(value.item()):
            raise _Wrong(errors.NotANumber(expr.span, found=_described(expr)))
        return float(value.item())


def _parts(expr: ast.Expr) -> list[ast.Expr]:
    found, todo = [], [expr]
    while todo:
        node = todo.pop()
        found.append(node)
        match node:
            case ast.Call(arguments=arguments):
                todo += arguments
            case ast.Binary(left=left, right=right):
                todo += [left, right]
            case ast.Negate(operand=operand):
                todo.append(operand)
            case _:
                pass
    return found


def _is_fill(expr: ast.Expr) -> bool:
    match expr:
        case ast.Name(name=name) | ast.Call(function=name):
            return name in DISTRIBUTIONS
        case _:
            return isinstance(expr, ast.Position)


_OPERATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.div, "^": torch.pow,
}  # fmt: skip


def _described(expr: ast.Expr) -> str:
    match expr:
        case ast.Name(name=name) | ast.TensorRef(name=name):
            return f"'{name}'"
        case ast.Call(function=name, arguments=arguments):
            return f"'{name}' of {len(arguments)} arguments"
        case ast.Reduce(function=name):
            return f"a reduction '{name}'"
        case ast.Position(axis=axis):
            return f"index({axis})"
        case _:
            return "an expression"
