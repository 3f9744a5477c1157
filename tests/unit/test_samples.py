"""Inputs that keep masks bounded: which are drawn how, and that longer calls begin with shorter ones."""

from __future__ import annotations

import pytest
import torch

import ssdc
from ssdc.runtime.samples import sample_inputs, wanted_sides
from tests.support.programs import CASES, Case, compiled

PROGRAM = """layer gates(H, V = 5, D = 3) {{
  time t, s
  axis b, h = H, v = V, d = D
  input x[b,t,h], a[b,t,h], c[b,t,h], ids[b,t] : int, doc[b,t] : int, flag[b,t] : bool, fixed[h]
  param embed[v,d]
  param w[h] ~ uniform(1, 2)
  param neg[h] ~ -uniform(1, 2)
  mask L[b,h,t,s] = semiseparable({gate}) * documents(doc[b,t])
  e[b,t,d] = embed[ids[b,t], d]
  y[b,t,h] = L[b,h,t,s] * x[b,s,h] * where(flag[b,s], 1, 2) * mean(e[b,s,d] over d) + a[b,t,h] * c[b,t,h] * fixed[h]
  y2[b,t,h] = neg[h] * w[h] * x[b,t,h]
  output y, y2
}}"""


@pytest.mark.parametrize(
    ("gate", "wanted"),
    [
        ("exp(a[b,t,h])", {"a": -1}),
        ("exp(-a[b,t,h])", {"a": 1}),
        ("exp(w[h] * a[b,t,h])", {"a": -1}),
        ("exp(neg[h] * a[b,t,h])", {"a": 1}),
        ("exp(-exp(w[h]) * a[b,t,h])", {"a": 1}),
        ("exp(a[b,t,h] * c[b,t,h])", {"a": -1, "c": 1}),
        ("exp(a[b,t,h] - c[b,t,h] / 2)", {"a": -1, "c": 1}),
        ("exp(a[b,t-1,h])", {"a": -1}),
        ("a[b,t,h]", {"a": 0}),
        ("sigmoid(a[b,t,h])", {}),
        ("exp(-softplus(a[b,t,h]))", {}),
    ],
)
def test_the_sides_that_gates_want(gate: str, wanted: dict[str, int]) -> None:
    layer = ssdc.compile(PROGRAM.format(gate=gate), sizes={"H": 4})
    assert wanted_sides(layer) == wanted
    x = sample_inputs(layer, b=2, T=50)
    for name, side in wanted.items():
        assert bool((x[name] * side >= 0).all()) if side else bool(((x[name] > 0) & (x[name] <= 1)).all())
        assert x[name].abs().amax((0, 1)).tolist() != pytest.approx([x[name].abs().max().item()] * 4, rel=1e-3)


def test_shapes_kinds_and_seeds() -> None:
    layer = ssdc.compile(PROGRAM.format(gate="exp(a[b,t,h])"), sizes={"H": 4})
    x = sample_inputs(layer, b=2, T=1500)
    shapes = {"x": (2, 1500, 4), "a": (2, 1500, 4), "c": (2, 1500, 4)}
    shapes |= {"ids": (2, 1500), "doc": (2, 1500), "flag": (2, 1500), "fixed": (4,)}
    assert {name: tuple(value.shape) for name, value in x.items()} == shapes
    assert set(x["ids"].unique().tolist()) == set(range(5))
    steps = x["doc"].diff(dim=1)
    assert set(steps.unique().tolist()) == {0, 1}, "documents do not decrease, and there is more than one"
    assert x["flag"].dtype == torch.bool
    again, other = (sample_inputs(layer, b=2, T=1500, seed=seed) for seed in (0, 1))
    short = sample_inputs(layer, T=7)
    assert all(torch.equal(x[name], again[name]) for name in x)
    assert not torch.equal(x["x"], other["x"])
    assert short["x"].shape == (1, 7, 4)
    assert sample_inputs(layer, T=0)["x"].shape == (1, 0, 4)


@pytest.mark.parametrize("length", [0, 1, 100, 256, 257, 700])
def test_longer_calls_begin_with_shorter_ones(length: int) -> None:
    layer = ssdc.compile(PROGRAM.format(gate="exp(a[b,t,h])"), sizes={"H": 2})
    long, short = sample_inputs(layer, b=2, T=1000), sample_inputs(layer, b=2, T=length)
    for name, value in short.items():
        start = long[name][:, :length] if name != "fixed" else long[name]
        assert torch.equal(value, start), name


def test_float64_holds_the_same_numbers() -> None:
    layer = ssdc.compile(PROGRAM.format(gate="exp(a[b,t,h])"), sizes={"H": 2})
    single, double = sample_inputs(layer, T=9), sample_inputs(layer, T=9, dtype=torch.float64)
    assert double["x"].dtype == torch.float64 and double["ids"].dtype == torch.int64
    assert all(torch.equal(single[name].double(), double[name].double()) for name in single)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_program_stays_finite(case: Case) -> None:
    layer = compiled(case)
    with torch.no_grad():
        outputs = layer(**sample_inputs(layer, b=2, T=700))
    for y in outputs if isinstance(outputs, tuple) else (outputs,):
        assert bool(y.isfinite().all()) and float(y.abs().max()) < 1e6
