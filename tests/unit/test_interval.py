"""Ranges: every value that an expression takes lies within its interval, and the gates of known layers are bounded."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssdc.structures.bounds import ALL, LARGEST, NONNEGATIVE, UNIT, ZERO, Interval
from ssdc.structures.interval import FUNCTIONS, Ranges, complement, interval_of
from ssdc.structures.walk import same
from ssdc.syntax import ast
from tests.unit.trees import FLOAT, FakeScope, evaluate, tree

INF = math.inf
SLACK = 1e-9  # the interval's ends and the values are computed in different orders of rounding
reals = st.floats(-40, 40).map(lambda x: x + 0.0)  # no -0.0


def holds(interval: Interval, value: float) -> bool:
    slack = SLACK * (1 + abs(value)) if math.isfinite(value) else 0.0  # inf: past the floats
    return interval.low - slack <= value <= interval.high + slack


def scope() -> FakeScope:
    return FakeScope(
        definitions={"d": tree("softplus(x[t])"), "e": tree("-d[t] * sigmoid(y[t])"), "f": tree("1 - sigmoid(z[t])")},
        sizes={"N": 6, "M": None, "h": 8},
    )


leaves = st.one_of(
    st.sampled_from(["x[t]", "y[t]", "z[t]", "d[t]", "e[t]", "f[t]", "index(h)", "N", "M"]).map(tree),
    st.sampled_from([-2, -1, 0, 1, 2, 3, 0.5, -0.25, 7.5]).map(lambda v: tree(str(v))),
)


def grow(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    unary = sorted(FUNCTIONS)
    condition = st.builds(ast.Compare, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner, inner)
    mixture = st.builds(
        lambda a, p, q: ast.Binary("+", ast.Binary("*", p, a), ast.Binary("*", ast.Binary("-", ast.Number(1), a), q)),
        inner.map(lambda e: ast.Call("sigmoid", (e,))),
        inner,
        inner,
    )
    return st.one_of(
        st.builds(ast.Negate, inner),
        st.builds(ast.Binary, st.sampled_from(["+", "-", "*", "/", "^"]), inner, inner),
        inner.map(lambda e: ast.Binary("*", e, e)),
        mixture,
        st.builds(lambda name, e: ast.Call(name, (e,)), st.sampled_from(unary), inner),
        st.builds(lambda name, a, b: ast.Call(name, (a, b)), st.sampled_from(["min", "max"]), inner, inner),
        st.builds(lambda a, b, c: ast.Call("clamp", (a, b, c)), inner, inner, inner),
        st.builds(lambda c, a, b: ast.Call("where", (c, a, b)), condition, inner, inner),
    )


@settings(max_examples=1500, deadline=None)
@given(st.recursive(leaves, grow, max_leaves=6), reals, reals, reals, st.integers(0, 7), st.integers(1, 50))
def test_every_value_lies_within(expr: ast.Expr, x: float, y: float, z: float, h: int, size: int) -> None:
    values = {"x": x, "y": y, "z": z, "h": h, "M": size}
    try:
        value = evaluate(expr, values, scope())
    except (ValueError, OverflowError, ZeroDivisionError):
        assume(False)
    assume(not math.isnan(value))
    assert holds(interval_of(expr, scope()), value)


def test_the_check_sees_an_interval_that_is_too_small() -> None:
    value = evaluate(tree("sigmoid(x[t])"), {"x": 3.0}, scope())
    assert holds(UNIT, value)
    assert not holds(Interval(0, 0.95), value)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_functions_of_an_interval(name: str, data: st.DataObject) -> None:
    low, high = sorted((data.draw(reals), data.draw(reals)))
    x = data.draw(st.floats(low + 0.0, high + 0.0))
    try:
        value = FLOAT[name](x)
    except (ValueError, ZeroDivisionError):
        assume(False)
    assert holds(FUNCTIONS[name](Interval(low, high)), value)


@pytest.mark.parametrize("op", ["+", "-", "*", "/", "^"])
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_arithmetic_on_intervals(op: str, data: st.DataObject) -> None:
    ends = st.one_of(st.integers(-4, 4).map(float), reals)
    a, b = (Interval(*sorted((data.draw(ends), data.draw(ends)))) for _ in range(2))
    x, y = (data.draw(st.one_of(st.floats(i.low, i.high), st.sampled_from([i.low, i.high]))) for i in (a, b))
    table = {"+": (a + b), "-": (a - b), "*": (a * b), "/": (a / b), "^": (a**b)}
    try:
        value = evaluate(ast.Binary(op, tree("x[t]"), tree("y[t]")), {"x": x, "y": y}, FakeScope())
    except (ValueError, ZeroDivisionError, OverflowError):
        assume(False)
    assert holds(table[op], value)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ZERO * ALL, ZERO),
        (Interval(0, INF) * Interval(-INF, 0), Interval(-INF, 0)),
        (Interval(-INF, INF) + Interval(1, 2), ALL),
        (Interval(INF, INF) - Interval(INF, INF), ALL),
        (UNIT / Interval(2, 4), Interval(0, 0.5)),
        (UNIT / Interval(0, 4), NONNEGATIVE),
        (UNIT / Interval(-4, 0), Interval(-INF, 0)),
        (UNIT / Interval(-1, 1), ALL),
        (UNIT / ZERO, ALL),
        (ALL ** Interval(2, 2), NONNEGATIVE),
        (ALL ** Interval(3, 3), ALL),
        (ALL ** Interval(0, 0), Interval(1, 1)),
        (ALL ** Interval(-2, -2), NONNEGATIVE),
        (UNIT ** Interval(0, INF), UNIT),
        (UNIT ** Interval(-1, 0), Interval(1, INF)),
        (Interval(2, 2) ** Interval(-INF, -5), Interval(0, 2**-5)),
        (Interval(-3, 2) ** Interval(2, 2), Interval(0, 9)),
        (Interval(-3, 2).absolute(), Interval(0, 3)),
        (Interval(1000, INF).exp(), Interval(LARGEST, INF)),
        (Interval(1000, 1000).exp() * Interval(-1000, -1000).exp(), NONNEGATIVE),
        (NONNEGATIVE / NONNEGATIVE, NONNEGATIVE),
        (Interval(2, INF) / Interval(-INF, -2), Interval(-INF, 0)),
        (Interval(0.5, 0.5) / Interval(1e-310, 1e-310), Interval(0.5 / 1e-310, INF)),
    ],
)
def test_ends(found: Interval, expected: Interval) -> None:
    assert found == expected


@pytest.mark.parametrize(("low", "high"), [(1, 0), (math.nan, 0), (0, math.nan)])
def test_no_interval(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        Interval(low, high)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x[b, t]", ALL),
        ("exp(-exp(A[h]) * softplus(dt[b, t, h] + bias[h]))", UNIT),
        ("exp(-exp(A[h]) * dt[b, t, h])", NONNEGATIVE),
        ("exp(log_a[b, t, c])", UNIT),
        ("gamma[h]", Interval(1 - 2**-5, 1 - 2**-12)),
        ("1 - 2 ** (-5 - index(k))", Interval(1 - 2**-5, 1)),
        ("exp(g[b, t, h, n])", NONNEGATIVE),
        ("exp(logsigmoid(f[b, t]) / 16)", UNIT),
        ("gamma[h] + (1 - gamma[h]) * sigmoid(x[b, t, h])", Interval(1 - 2**-5, 1)),
        ("sigmoid(x[t]) * (1 - lb[c]) + lb[c]", UNIT),
        ("sigmoid(x[t]) * (1 - w[c]) + w[c]", ALL),
        ("x[t] * x[t]", NONNEGATIVE),
        ("x[t] * y[t]", ALL),
        ("N ** -0.5", Interval(6**-0.5, 6**-0.5)),
        ("1 / M", UNIT),
        ("foo(x[t])", ALL),
        ("min(x[t], 1)", Interval(-INF, 1)),
        ("max(x[t], 1)", Interval(1, INF)),
        ("clamp(x[t], 0, 1)", UNIT),
        ("nothing", ALL),
        ("where(x[t] > 0, 0, 1)", UNIT),
        ("sum(sigmoid(x[n]), n)", NONNEGATIVE),
        ("sum(x[n], n)", ALL),
        ("mean(sigmoid(x[n]), n)", UNIT),
        ("softmax(x[n], n)", UNIT),
        ("l2norm(x[n], n)", Interval(-1, 1)),
        ("l2norm(relu(x[n]), n)", UNIT),
        ("rmsnorm(x[n], n)", ALL),
    ],
)
def test_known_ranges(text: str, expected: Interval) -> None:
    layer = FakeScope(
        definitions={
            "gamma": tree("1 - 2 ** (-5 - index(h))"),
            "log_a": tree("-8 * sigmoid(r[b, t, c]) * softplus(Lambda[c])"),
            "lb": tree("sigmoid(raw[c])"),
        },
        sizes={"N": 6, "M": None, "h": 8},
    )
    found = interval_of(tree(text), layer)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert not (expected.within(UNIT) and not found.within(UNIT))


def test_a_negative_eps_takes_the_bound_of_l2norm_away() -> None:
    norm = ast.Reduce("l2norm", tree("x[n]"), (ast.AxisIndex("n"),), (ast.Option("eps", tree("-1")),))
    assert interval_of(norm, FakeScope()) == ALL


def test_a_definition_that_reads_itself_ends() -> None:
    assert interval_of(tree("a[t]"), FakeScope(definitions={"a": tree("a[t] + 1")})) == ALL


def test_a_long_sum_and_a_deep_chain_of_definitions_end_quickly() -> None:
    long = tree("sigmoid(x[t])")
    for _ in range(5000):
        long = ast.Binary("+", long, tree("1"))
    assert interval_of(long, FakeScope()) == Interval(5000, 5001)
    names = {f"a{i}": tree(f"a{i + 1}[t] * a{i + 1}[t] + a{i + 1}[t]") for i in range(500)}
    assert interval_of(tree("a0[t]"), FakeScope(definitions=names)) == ALL


def test_a_node_is_worked_out_once() -> None:
    expr = tree("sigmoid(x[t])")
    for _ in range(40):
        expr = ast.Binary("+", tree("sigmoid(a[h])"), ast.Binary("*", tree("1 - sigmoid(a[h])"), expr))
    assert Ranges(FakeScope()).of(expr).within(UNIT)


def test_complement_and_same() -> None:
    assert complement(tree("1 - x[t]")) == tree("x[t]")
    assert complement(tree("2 - x[t]")) is None
    assert same(tree("exp(x[t]) + 1"), tree("exp(x[t]) + 1"))
    assert not same(tree("exp(x[t]) + 1"), tree("exp(x[t]) + 1.0"))
    assert not same(tree("max(x[t], y[t])"), tree("max(x[t], y[t], z[t])"))
