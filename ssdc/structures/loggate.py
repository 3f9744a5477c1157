"""The logarithm of a gate, as an expression.

In: a gate and its scope. Out: an expression for its log that takes no exponential of a log, or None where none is known
(a gate that may be zero or negative, or whose sign is not shown). Products of gates become sums of such expressions,
which neither overflow nor vanish. The results may call `log1p` and `expm1`, which programs cannot. Not done: numbers.
"""

from __future__ import annotations

import math
from itertools import islice

from ssdc.structures.algebra import Gate, Scope
from ssdc.structures.bounds import ALL, UNIT, Interval
from ssdc.structures.interval import Ranges, complement
from ssdc.structures.walk import spine, walk
from ssdc.syntax import ast

STEPS = 2_000  # expressions looked at for one gate, definitions looked through included
DEPTH = 100  # levels of the same
NODES = 4_096  # of a log form; larger ones are not worth having
HALF = -math.log(2)  # where log(1 - e^u) changes form
SLACK = 1e-9  # by which a bound found through a log gives way to rounding, relative
FAR = 1e30  # stands for infinity in a difference of logs: past every log of a float, and finite in float32


def gate_of(expr: ast.Expr, scope: Scope, exclusive: bool = False) -> Gate:
    """A gate with its log form, and the tighter of the ranges that the two forms give."""
    interval = Ranges(scope).of(expr)
    log = log_of(expr, scope)
    if log is not None:
        interval = interval.meet(_exponential(Ranges(scope).of(log)))
    return Gate(expr, log, ALL if _reads_complex(expr, scope) else interval, exclusive)


def _exponential(log: Interval) -> Interval:
    """Of e^log; the ends give way by more than the two roundings of a log and its exponential, but never past one."""
    low, high = log.exp().low * (1 - SLACK), log.exp().high * (1 + SLACK)
    return Interval(1.0 if log.low == 0 else low, min(high, 1.0) if log.high <= 0 else high)


def log_of(expr: ast.Expr, scope: Scope) -> ast.Expr | None:
    """An expression for log(expr), equal to it wherever `expr` is positive, or None.

    exp(x) gives x, sigmoid(x) logsigmoid(x), products, quotients and powers the sums, differences and multiples, 1 - e
    a form that keeps its digits at both ends. Tensors with an elementwise definition are looked through.
    """
    log = _Derivation(scope).log(expr)
    return log if log is not None and _smaller(log, NODES) else None


class _Derivation:
    """One derivation: the ranges that it has found, and what it may still spend."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._range = Ranges(scope).of
        self._steps = STEPS
        self._depth = DEPTH

    def log(self, expr: ast.Expr) -> ast.Expr | None:
        if self._steps == 0 or self._depth == 0:
            return None
        self._steps -= 1
        self._depth -= 1
        if _reads_complex(expr, self._scope):
            result = self._by_form(expr) if _holds_for_complex(expr) else None
        else:
            result = self._by_form(expr) or self._by_range(expr)
        self._depth += 1
        return result

    def _by_range(self, expr: ast.Expr) -> ast.Expr | None:
        """Log of something away from zero and from infinity, which may be computed first."""
        bounds = self._range(expr)
        return call("log", expr) if bounds.low > 0 and bounds.high < math.inf else None

    def _by_form(self, expr: ast.Expr) -> ast.Expr | None:
        match expr:
            case ast.Number(value=value):
                return number(math.log(value)) if 0 < value < math.inf else None
            case ast.Name(name=name):
                return call("log", expr) if self._scope.is_size(name) else None
            case ast.TensorRef():
                return self._definition(expr)
            case ast.Negate(operand=ast.Negate(operand=operand)):
                return self.log(operand)
            case ast.Binary(op="^", left=left, right=right):
                return _multiple(right, self.log(left))
            case ast.Binary(op="*" | "/"):
                return self._product(expr)
            case ast.Binary(op="+", left=left, right=right):
                return self._sum(expr, left, right)
            case ast.Binary(op="-"):
                rest = complement(expr)
                return None if rest is None else self._complement(rest)
            case ast.Call(function=function, arguments=arguments):
                return self._call(expr, function, arguments)
            case _:
                return None

    def _definition(self, ref: ast.TensorRef) -> ast.Expr | None:
        definition = self._scope.definition(ref)
        if definition is None:
            return None
        log = self.log(definition)
        return call("log", ref) if isinstance(log, ast.Call) and log.arguments[0] is definition else log

    def _product(self, expr: ast.Expr) -> ast.Expr | None:
        first, rest = spine(expr, "*/")
        total = self.log(first)
        for op, factor in rest:
            log = self.log(factor) if total is not None else None
            if total is None or log is None:
                return None
            total = add(total, log) if op == "*" else subtract(total, log)
        return total

    def _sum(self, expr: ast.Expr, left: ast.Expr, right: ast.Expr) -> ast.Expr | None:
        """log(1 + e^u) is softplus(u), log(e^u + e^v) is max(u, v) + softplus(-|u - v|)."""
        if not _reads_tensor(expr):
            return None
        u, v = self.log(left), self.log(right)
        if u is None or v is None:
            return None
        if u == ZERO or v == ZERO:
            return call("softplus", v if u == ZERO else u)
        if not (_smaller(u, 256) and _smaller(v, 256)):
            return None
        apart = call("abs", subtract(self._finite(u), self._finite(v)))
        return add(call("max", u, v), call("softplus", negate(apart)))

    def _finite(self, log: ast.Expr) -> ast.Expr:
        return log if self._range(log).low > -FAR else call("max", log, number(-FAR))

    def _complement(self, e: ast.Expr) -> ast.Expr | None:
        """log(1 - e), for e shown to lie in [0, 1]."""
        log = self.log(e)
        match log:
            case ast.Call(function="logsigmoid", arguments=(x,)):
                return call("logsigmoid", negate(x))
            case _:
                pass
        bounds = self._range(e)
        if log is not None:
            bounds = bounds.meet(self._range(log).exp())
            if bounds.within(UNIT) and not _reads_tensor(e):
                return call("log1p", negate(e)) if bounds.high <= 0.5 else None
            return self._log1m(log, bounds) if bounds.within(UNIT) else None
        return call("log1p", negate(e)) if -math.inf < bounds.low and bounds.high < 1 else None

    def _log1m(self, u: ast.Expr, bounds: Interval) -> ast.Expr | None:
        """log(1 - e^u): by expm1 for u near 0, by log1p below -log 2. Each is fed only what it is good for, so that the
        one not taken sends no NaN into a gradient (Maechler 2012, "Accurately computing log(1 - exp(-|a|))")."""
        if bounds.high <= 0.5:
            return call("log1p", negate(call("exp", u)))
        if bounds.low >= 0.5:
            return call("log", negate(call("expm1", u)))
        if not _smaller(u, 256):
            return None
        half = number(HALF)
        small = call("log1p", negate(call("exp", call("min", u, half))))
        large = call("log", negate(call("expm1", call("max", u, half))))
        return call("where", ast.Compare("<", u, half, span=u.span), small, large)

    def _call(self, expr: ast.Expr, function: str, arguments: tuple[ast.Expr, ...]) -> ast.Expr | None:
        match function, arguments:
            case "exp", (x,):
                return x
            case "sigmoid", (x,):
                return call("logsigmoid", x)
            case "sqrt", (x,):
                return _multiple(number(0.5), self.log(x))
            case "rsqrt", (x,):
                return _multiple(number(-0.5), self.log(x))
            case "abs", (x,):
                return self.log(x)
            case "where", (condition, a, b):
                yes, no = self.log(a), self.log(b)
                return None if yes is None or no is None else call("where", condition, yes, no)
            case "min" | "max" | "clamp", _:  # log is increasing
                logs = [self.log(argument) for argument in arguments]
                known = tuple(log for log in logs if log is not None)
                return call(function, *known) if len(known) == len(arguments) else None
            case _:
                return None


# ---- building expressions -------------------------------------------------------------------------------------------


def call(function: str, *arguments: ast.Expr) -> ast.Call:
    """`function(arguments)`, placed where the first of them stands."""
    return ast.Call(function, arguments, span=arguments[0].span)


def number(value: float) -> ast.Expr:
    """A number as the language writes it: a literal, negated if it is below zero."""
    return ast.Number(value) if value >= 0 else ast.Negate(ast.Number(-value))


ZERO = ast.Number(0.0)


def negate(e: ast.Expr) -> ast.Expr:
    """-e."""
    if e == ZERO:
        return e
    return e.operand if isinstance(e, ast.Negate) else ast.Negate(e, span=e.span)


def add(a: ast.Expr, b: ast.Expr) -> ast.Expr:
    """a + b."""
    if a == ZERO or b == ZERO:
        return b if a == ZERO else a
    if isinstance(b, ast.Negate):
        return ast.Binary("-", a, b.operand, span=a.span.to(b.span))
    return ast.Binary("+", a, b, span=a.span.to(b.span))


def subtract(a: ast.Expr, b: ast.Expr) -> ast.Expr:
    """a - b."""
    return add(a, negate(b))


def _multiple(factor: ast.Expr, log: ast.Expr | None) -> ast.Expr | None:
    """factor * log; anything to the power of a literal 0 is one, even if its log is -inf."""
    if log is None or log == ZERO or factor == ast.Number(0) or factor == ZERO:
        return None if log is None else ZERO
    if factor == ast.Number(1):
        return log
    return ast.Binary("*", factor, log, span=factor.span.to(log.span))


def _reads_tensor(expr: ast.Expr) -> bool:
    """Whether anything but sizes, positions and numbers takes part; of those alone nothing is lost to rounding."""
    return any(isinstance(node, ast.TensorRef) for node in walk(expr))


def _smaller(expr: ast.Expr, nodes: int) -> bool:
    return next(islice(walk(expr), nodes, None), None) is None


# ---- complex gates --------------------------------------------------------------------------------------------------


def _reads_complex(expr: ast.Expr, scope: Scope) -> bool:
    """Whether a complex tensor takes part: functions of one keep no bounds on the real line."""
    return any(isinstance(node, ast.TensorRef) and scope.kind(node.name) == "complex" for node in walk(expr))


def _holds_for_complex(expr: ast.Expr) -> bool:
    """Whether e^(log e) = e by this form for complex e too: any branch of the log will do, but |e| and e^c want one."""
    match expr:
        case ast.TensorRef() | ast.Binary(op="*" | "/") | ast.Call(function="exp"):
            return True
        case _:
            return False
