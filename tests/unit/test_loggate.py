"""Log forms of gates: equal to the log of the gate, to rounding, wherever there is one; none where there is no such."""

from __future__ import annotations

import math
from functools import reduce

import mpmath
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssdc.structures.bounds import UNIT
from ssdc.structures.loggate import gate_of, log_of
from ssdc.structures.walk import walk
from ssdc.syntax import ast
from tests.unit.trees import FLOAT, FakeScope, evaluate, functions, tree

EXACT = functions(mpmath)
UNIT_ROUNDING = 2.0**-53
reals = st.floats(-60, 60)


def scope() -> FakeScope:
    return FakeScope(
        definitions={
            "dt": tree("softplus(x[b, t, h] + y[h])"),
            "gamma": tree("1 - 2 ** (-5 - index(h))"),
            "log_a": tree("-8 * sigmoid(x[b, t, c]) * softplus(y[c])"),
            "lb": tree("sigmoid(x[h])"),
            "f": tree("sigmoid(z[b, t])"),
        },
        sizes={"N": 6, "M": None, "h": 8},
    )


def truly(expr: ast.Expr, values: dict[str, float]) -> mpmath.mpf:
    """The value of `expr` itself; examples that divide by zero have none and are passed over."""
    try:
        return evaluate(expr, values, scope(), mpmath.mpf, EXACT)
    except ZeroDivisionError:
        assume(False)


def error(expr: ast.Expr, values: dict[str, float]) -> float:
    """How far the log form, in floats, is from the true log of `expr`, in roundings of the largest number met."""
    log = log_of(expr, scope())
    assert log is not None
    with mpmath.workdps(400):
        exact = truly(expr, values)
        assume(exact > 0)
        truth = mpmath.log(exact)
        seen: list[float] = []
        found = evaluate(log, values, scope(), float, FLOAT, seen)
        unit = UNIT_ROUNDING * max(1.0, *(abs(value) for value in seen))
        return float(abs(found - truth) / unit)


def limit(expr: ast.Expr) -> float:
    """A few roundings for each operation of the log form (an elementary function is right to two or three)."""
    log = log_of(expr, scope())
    assert log is not None
    return 8.0 * sum(1 for node in walk(log))


FORMS = [
    "exp(x[b, t, h, n])",
    "sigmoid(x[h])",
    "exp(-exp(y[h]) * x[b, t, h])",
    "exp(-exp(y[h]) * dt[b, t, h])",
    "exp(log_a[b, t, c])",
    "gamma[h]",
    "1 - 2 ** (-5 - index(h))",
    "1 - 2 ** (-1 - index(h))",
    "1 - f[b, t]",
    "1 - sigmoid(x[t])",
    "1 - (1 - sigmoid(x[t]))",
    "1 - sigmoid(x[t]) * sigmoid(y[t])",
    "1 - exp(-softplus(x[t]))",
    "1 - 0.25 * sigmoid(x[t])",
    "sqrt(1 - exp(2 * log_a[b, t, c]))",
    "sqrt(1 - gamma[h] ^ 2)".replace("^", "**"),
    "sigmoid(x[t]) ** (1 / 16)",
    "sigmoid(x[t]) ** y[t]",
    "1 / (1 + exp(-x[t]))",
    "exp(x[t]) / (1 + exp(x[t]))",
    "exp(x[t]) / (exp(x[t]) + exp(y[t]))",
    "lb[h] + (1 - lb[h]) * f[b, t]",
    "lb[h] * f[b, t] * gamma[h] / exp(z[t])",
    "rsqrt(N) * sigmoid(x[t])",
    "N ** -0.5 * sigmoid(x[t])",
    "M * exp(x[t])",
    "0.9",
    "-(-sigmoid(x[t]))",
    "2 ** -softplus(x[t])",
    "abs(sigmoid(x[t]))",
    "where(x[t] < y[t], sigmoid(x[t]), exp(z[t]))",
    "min(sigmoid(x[t]), exp(y[t]))",
    "max(sigmoid(x[t]), 0.05)",
    "clamp(sigmoid(x[t]), 0.01, 0.99)",
    "clamp(x[t], 0.01, 0.99)",
    "0.5 + 0.5 * sigmoid(x[t])",
    "index(h) + 1",
    "cos(x[t]) + 3",
]


@pytest.mark.parametrize("text", FORMS)
@settings(max_examples=60, deadline=None)
@given(x=reals, y=reals, z=reals, h=st.integers(0, 7), size=st.integers(1, 99))
def test_the_log_form_is_the_log(text: str, x: float, y: float, z: float, h: int, size: int) -> None:
    y = min(y, 5.0) if "exp(y[h])" in text else y
    assert error(tree(text), {"x": x, "y": y, "z": z, "h": h, "M": size}) <= limit(tree(text))


simple = st.sampled_from(["sigmoid(x[t])", "sigmoid(-y[t])", "exp(-softplus(z[t]))", "f[t]", "exp(log_a[t])"]).map(tree)
factors = st.one_of(simple, st.sampled_from(["gamma[h]", "0.75", "1 - f[t]", "2 ** -index(h)"]).map(tree))
products = st.lists(factors, min_size=1, max_size=4).map(lambda f: reduce(lambda a, b: ast.Binary("*", a, b), f))


def grow(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    constants = st.sampled_from([0.5, 0.0625, 2, 3, 1, 0])
    return st.one_of(
        st.builds(lambda a, b: ast.Binary("*", a, b), inner, inner),
        st.builds(lambda a, b: ast.Binary("/", a, b), inner, inner),
        st.builds(lambda a, b: ast.Binary("+", a, b), inner, inner),
        st.builds(lambda a, c: ast.Binary("^", a, ast.Number(c)), inner, constants),
        st.builds(lambda f, a: ast.Call(f, (a,)), st.sampled_from(["sqrt", "rsqrt", "abs"]), inner),
        st.builds(lambda f, a, b: ast.Call(f, (a, b)), st.sampled_from(["min", "max"]), inner, inner),
        st.builds(lambda a, b: ast.Call("where", (tree("x[t] < y[t]"), a, b)), inner, inner),
    )


gates = st.recursive(st.one_of(products, products.map(lambda e: ast.Binary("-", ast.Number(1), e))), grow, max_leaves=4)


@settings(max_examples=600, deadline=None)
@given(expr=gates, x=reals, y=reals, z=reals, h=st.integers(0, 7))
def test_the_log_form_of_a_composed_gate_is_the_log(expr: ast.Expr, x: float, y: float, z: float, h: int) -> None:
    log = log_of(expr, scope())
    assume(log is not None)
    values = {"x": x, "y": y, "z": z, "h": h}
    assert error(expr, values) <= limit(expr)
    with mpmath.workdps(400):
        exact = truly(expr, values)
    interval = gate_of(expr, scope()).interval
    assert interval.low * (1 - 1e-12) <= exact <= interval.high * (1 + 1e-12)


def test_the_comparison_sees_a_log_that_is_wrong() -> None:
    wrong = tree("sigmoid(x[t]) * 1.000001")
    right = tree("sigmoid(x[t])")
    values = {"x": 1.0}
    found = evaluate(log_of(wrong, scope()) or right, values, scope())
    assert abs(found - math.log(evaluate(right, values, scope()))) > limit(right) * UNIT_ROUNDING


@pytest.mark.parametrize(
    ("text", "log"),
    [
        ("exp(g[b, t, h, n])", "g[b, t, h, n]"),
        ("sigmoid(f[b, t, h])", "logsigmoid(f[b, t, h])"),
        ("1 - sigmoid(f[b, t, h])", "logsigmoid(-f[b, t, h])"),
        ("1 - sigmoid(-f[b, t, h])", "logsigmoid(f[b, t, h])"),
        ("exp(-exp(A[h]) * x[b, t, h])", "-exp(A[h]) * x[b, t, h]"),
        ("exp(a[t]) * exp(b[t])", "a[t] + b[t]"),
        ("exp(a[t]) / exp(b[t])", "a[t] - b[t]"),
        ("exp(a[t]) ** 3", "3 * a[t]"),
        ("exp(a[t]) ** 0", "0.0"),
        ("1 + exp(a[t])", "softplus(a[t])"),
        ("gamma[h]", "log1p(-2 ** (-5 - index(h)))"),
        ("sqrt(N)", "0.5 * log(N)"),
    ],
)
def test_known_forms(text: str, log: str) -> None:
    assert log_of(tree(text), scope()) == tree(log)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0.5",
        "x[b, t]",
        "-sigmoid(x[t])",
        "tanh(x[t])",
        "softplus(x[t])",
        "relu(x[t])",
        "abs(x[t])",
        "x[t] ** 2",
        "x[t] * sigmoid(y[t])",
        "where(x[t] > 0, 0, sigmoid(y[t]))",
        "1 - exp(x[t])",
        "1 - x[t]",
        "index(h)",
        "1 - 2 ** -index(h)",
        "0 * sigmoid(x[t])",
        "sum(sigmoid(x[n]), n)",
        "exp(x[t]) - exp(y[t])",
        "nothing",
    ],
)
def test_no_log_is_claimed(text: str) -> None:
    assert log_of(tree(text), scope()) is None


@pytest.mark.parametrize(
    ("text", "bounded"),
    [
        ("gamma[h]", True),
        ("exp(log_a[b, t, c])", True),
        ("exp(-exp(y[h]) * dt[b, t, h])", True),
        ("exp(-exp(y[h]) * x[b, t, h])", False),
        ("exp(g[b, t, h, n])", False),
        ("lb[h] + (1 - lb[h]) * f[b, t]", True),
        ("1 / (1 + exp(-x[t]))", True),
        ("exp(x[t]) / (exp(x[t]) + exp(y[t]))", False),  # true, but no rule here relates the two
        ("0", True),
    ],
)
def test_gates_are_bounded_where_that_can_be_shown(text: str, bounded: bool) -> None:
    gate = gate_of(tree(text), scope())
    assert gate.bounded is bounded
    assert gate.interval.within(UNIT) is bounded


def numbers_in(log: ast.Expr, values: dict[str, float]) -> list[float]:
    seen: list[float] = []
    evaluate(log, values, scope(), float, FLOAT, seen)
    return seen


@pytest.mark.parametrize("extreme", [-1e4, -745.0, -37.0, -1e-9, -1e-300, 0.0, 1e-300, 1e-9, 37.0, 700.0])
@pytest.mark.parametrize("text", ["sigmoid(x[t])", "1 - sigmoid(x[t])", "lb[t] + (1 - lb[t]) * sigmoid(x[t])"])
def test_extreme_gates_stay_numbers(text: str, extreme: float) -> None:
    log = log_of(tree(text), scope())
    assert log is not None
    assert all(math.isfinite(value) for value in numbers_in(log, {"x": extreme}))


def test_a_gate_that_vanishes_has_no_nan() -> None:
    log = log_of(tree("exp(x[t]) + exp(y[t])"), scope())
    assert log is not None
    assert evaluate(log, {"x": -math.inf, "y": -math.inf}, scope()) == -math.inf
    assert evaluate(log, {"x": -math.inf, "y": -3.0}, scope()) == -3.0


def test_both_branches_of_one_minus_are_fed_what_they_are_good_for() -> None:
    """The branch not taken must not be infinite: its gradient is multiplied by zero, which would be NaN."""
    log = log_of(tree("1 - exp(-softplus(x[t]))"), scope())
    assert isinstance(log, ast.Call) and log.function == "where"
    for x in (-600.0, -40.0, 0.0, 40.0, 600.0):
        assert all(math.isfinite(evaluate(branch, {"x": x}, scope())) or x == 600 for branch in log.arguments[1:])


def test_complex_gates() -> None:
    layer = FakeScope(kinds={"z": "complex"})
    assert log_of(tree("exp(z[b, t])"), layer) == tree("z[b, t]")
    assert log_of(tree("sigmoid(m[t]) * exp(z[b, t])"), layer) == tree("logsigmoid(m[t]) + z[b, t]")
    for text in ("abs(exp(z[t]))", "sqrt(exp(z[t]))", "sigmoid(z[t])", "exp(z[t]) ** 0.5", "z[t]"):
        assert log_of(tree(text), layer) is None
    assert not gate_of(tree("sigmoid(z[t])"), layer).bounded


def test_hostile_definitions_end_quickly() -> None:
    twice = {f"a{i}": tree(f"a{i + 1}[t] * a{i + 1}[t]") for i in range(60)} | {"a60": tree("exp(x[t])")}
    assert log_of(tree("a0[t]"), FakeScope(definitions=twice)) is None
    circle = {"a": tree("a[t] * sigmoid(x[t])")}
    assert log_of(tree("a[t]"), FakeScope(definitions=circle)) is None
    nested = {f"a{i}": tree(f"1 - a{i + 1}[t] * a{i + 1}[t]") for i in range(60)} | {"a60": tree("exp(-relu(x[t]))")}
    assert log_of(tree("a0[t]"), FakeScope(definitions=nested)) is None
    long = tree("sigmoid(x[t])")
    for _ in range(1000):
        long = ast.Binary("*", long, tree("0.5"))
    assert log_of(long, FakeScope()) is not None
