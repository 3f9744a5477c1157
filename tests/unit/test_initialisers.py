"""Initialisers: distributions, bounds, faults with their places; names of parameters and their defaults."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssdc.errors import SpecError
from ssdc.graph.scope import resolve
from ssdc.runtime.initialisers import initialise, softplus_inverse
from ssdc.runtime.parameters import ParameterNameError, declare, default_initialiser, lookup
from ssdc.source import Source
from ssdc.syntax import ast
from ssdc.syntax.parser import parse
from tests.unit.reference_cases import EXAMPLES, example


def text_of(init: str, kind: str = "") -> str:
    return f"layer f(D = 16) {{ time t axis h = 400, d = D param w[h,d]{kind} ~ {init} output w }}"


def init_of(text: str) -> ast.Expr:
    params = [part for part in parse(Source(text)).layers[0].statements if isinstance(part, ast.Params)]
    assert params[0].entries[0].init is not None
    return params[0].entries[0].init


def drawn(init: str, **options: object) -> torch.Tensor:
    torch.manual_seed(0)
    text = text_of(init)
    return initialise(init_of(text), (400, 16), sizes={"D": 16}, axes=("h", "d"), source=Source(text), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("init", "low", "high", "mean"), [
    ("zeros", 0, 0, 0), ("ones", 1, 1, 1), ("constant(2.5)", 2.5, 2.5, 2.5), ("constant(D ^ -0.5)", 0.25, 0.25, 0.25),
    ("uniform(2, 6)", 2, 6, 4), ("-uniform(1, 2) * 3", -6, -3, -4.5), ("log(uniform(1, 16))", 0, 2.7726, 1.957),
    ("exp(uniform(log(0.001), log(0.1)))", 0.001, 0.1, 0.0215),
    ("linear", -0.5, 0.5, 0),
    ("1 - 2 ^ (-5 - zeros)", 0.96875, 0.96875, 0.96875),
    ("clamp(normal(1), -0.5, 0.5)", -0.5, 0.5, 0), ("max(zeros, uniform(-1, 1))", 0, 1, 0.25),
    ("index(h) / 399", 0, 1, 0.5),
])  # fmt: skip
def test_range_and_mean(init: str, low: float, high: float, mean: float) -> None:
    w = drawn(init, fan_in=4)
    assert w.shape == (400, 16) and w.dtype == torch.float32 and w.is_contiguous()
    assert low - 1e-5 <= w.min() and w.max() <= high + 1e-5
    assert abs(w.mean() - mean) <= 0.02 * max(1.0, high - low)
    if init != "index(h) / 399" and low < high:
        assert w.unique().numel() > 1000, "drawn element by element"


def test_normal_and_seed() -> None:
    w = drawn("normal(0.1)", dtype=torch.float64)
    assert abs(w.std() - 0.1) < 0.005 and abs(w.mean()) < 0.005
    torch.testing.assert_close(w.float(), drawn("normal(0.1)"), rtol=0, atol=0)
    assert not torch.equal(w, initialise(init_of(text_of("normal(0.1)")), (400, 16), dtype=torch.float64))


def test_softplus_inverse_is_stable() -> None:
    x = torch.tensor([1e-300, 1e-20, 1e-3, 1.0, 50.0, 800.0], dtype=torch.float64)
    y = softplus_inverse(x)
    back = torch.where(y < -30, y.exp(), torch.logaddexp(y, torch.zeros_like(y)))
    torch.testing.assert_close(back, x, rtol=1e-12, atol=0)


def test_linear_is_that_of_torch() -> None:
    w, theirs = drawn("linear", fan_in=64), nn.Linear(64, 400).weight
    assert w.abs().max() <= 1 / 8 and abs(w.abs().max() - theirs.abs().max()) < 1e-3
    torch.testing.assert_close(w, initialise_default(64), rtol=0, atol=0)
    assert (initialise(None, (3,)) == 0).all()


def initialise_default(fan_in: int) -> torch.Tensor:
    torch.manual_seed(0)
    return initialise(None, (400, 16), fan_in=fan_in)


def test_complex_draws_both_parts() -> None:
    w = drawn("normal(1)", kind="complex")
    assert w.dtype == torch.complex64 and abs(w.real.std() - 1) < 0.05 and abs(w.imag.std() - 1) < 0.05
    assert not torch.equal(w.real, w.imag)
    assert (drawn("constant(2)", kind="complex") == 2).all()


def test_meta_draws_nothing() -> None:
    before = torch.get_rng_state()
    assert initialise(init_of(text_of("normal(1)")), (10**6, 10**6), device="meta").is_meta
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("init", "code", "at"), [
    ("uniform(2, 2)", "E252", "uniform(2, 2)"), ("exp(uniform(3, 1))", "E252", "uniform(3, 1)"),
    ("uniform(1)", "E251", "uniform(1)"), ("zeros(3)", "E251", "zeros(3)"), ("normal", "E251", "normal"),
    ("normal(-1)", "E253", "-1"), ("linear", "E254", "linear"), ("uniform(0, uniform(1, 2))", "E255", "uniform(1, 2)"),
    ("constant(ones)", "E255", "ones"), ("uniform(0, 1 / 0)", "E255", "1 / 0"), ("banana", "E250", "banana"),
    ("exp(banana)", "E250", "banana"), ("foo(1)", "E250", "foo(1)"), ("index(q)", "E250", "index(q)"),
    ("log(zeros)", "E256", "log(zeros)"),
    ("where(1 < 2, 1, 2)", "E250", "where(1 < 2, 1, 2)"),
])  # fmt: skip
def test_faults_and_their_places(init: str, code: str, at: str) -> None:
    with pytest.raises(SpecError) as caught:
        drawn(init)
    (fault,) = caught.value.faults
    text = text_of(init)
    assert fault.code == code
    start = text.index(at, text.index("~"))
    assert (fault.span.start, fault.span.end) == (start, start + len(at))


def test_names_nest_and_clash() -> None:
    module = nn.Module()
    for name in ("in_proj.weight", "a.b.c", "a.b.d", "D", "forward", "training", "train.eval"):
        declare(module, name, nn.Parameter(torch.zeros(1)))
    keys = ["in_proj.weight", "a.b.c", "a.b.d", "D", "forward", "training", "train.eval"]
    assert sorted(module.state_dict()) == sorted(keys) == sorted(name for name, _ in module.named_parameters())
    assert callable(module.forward) and module.training is True
    assert lookup(module, "a.b.d") is dict(module.named_parameters())["a.b.d"]
    module.load_state_dict({key: torch.ones(1) for key in keys})
    assert lookup(module, "train.eval").item() == 1
    for name, match in [("a.b", "beside 'a.b.c'"), ("D.weight", "beside the parameter 'D'"), ("D", "declared twice")]:
        with pytest.raises(ParameterNameError, match=match):
            declare(module, name, nn.Parameter(torch.zeros(1)))
    for name in ("b", "a.b", "a.x.c", "D.weight"):
        with pytest.raises(KeyError):
            lookup(module, name)


def test_defaults() -> None:
    scope = resolve(parse(Source((EXAMPLES / "mamba2.ssd").read_text())).layers[0], {"D": 64})
    found = {
        name: default_initialiser(scope, name)
        for name in ("in_proj.weight", "conv1d.weight", "conv1d.bias", "out_proj.weight", "norm.weight")
    }
    linear, zeros = ast.Name("linear"), ast.Name("zeros")
    assert found == {
        "in_proj.weight": (linear, 64), "conv1d.weight": (linear, 4), "conv1d.bias": (linear, 4),
        "out_proj.weight": (linear, 128), "norm.weight": (zeros, None),
    }  # fmt: skip


def test_a_module_is_reproduced_by_its_seed() -> None:
    one, two = example("mamba2").state_dict(), example("mamba2").state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
