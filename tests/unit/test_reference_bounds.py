"""Error magnitudes: what they are for plain contractions, that good orderings keep within them, and bad ones do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.reference_cases import SIZES, example, inputs_of, reference
from tests.unit.test_reference import LOOPS

UNIT = 2.0**-24


def units(mine: Tensor, values: Tensor, magnitudes: Tensor) -> float:
    """The largest error in units of u * magnitude."""
    return ((mine.double() - values).abs() / (UNIT * magnitudes)).max().item()


def test_a_plain_contraction_has_the_sum_of_absolute_terms() -> None:
    text = """layer f(N) { time t, s axis b, n = N input q[b,t,n], k[b,t,n], v[b,t] mask M[t,s] = band(3)
      y[b,t] = q[b,t,n] * k[b,s,n] * M[t,s] * v[b,s] - v[b,t] output y }"""
    i = inputs_of(reference(text, N=3), 8)
    _, bounds = reference(text, N=3).bounds(**i)
    absolute = reference(text.replace("- v", "+ v"), N=3)(**{name: tensor.abs() for name, tensor in i.items()})
    torch.testing.assert_close(bounds, absolute, rtol=1e-12, atol=1e-30)


def test_inputs_and_copies_are_exact() -> None:
    text = """layer f() { time t axis b input x[b,t]
      y[b,t] = -x[b,t-1] z[b,t] = 1 - 2 ^ (-5 - index(b)) + 0 * x[b,t] output y, z }"""
    _, (copied, constant) = reference(text).bounds(torch.randn(2, 4))
    assert (copied == 0).all() and (constant < 1.1).all()


def test_gates_in_log_space_count_what_lies_between() -> None:
    text = """layer f() { time t, s axis b input x[b,t], g[b,t] mask L[b,t,s] = semiseparable(exp(g[b,t]))
      y[b,t] = L[b,t,s] * x[b,s] output y }"""
    module = reference(text)
    x, g = torch.zeros(1, 5), torch.tensor([[-3.0, -1.0, -2.0, -4.0, -0.5]])
    x[0, 1] = 2
    _, bounds = module.bounds(x, g)
    for t in range(1, 5):
        log = g[0, 2 : t + 1].sum().double()
        assert bounds[0, t].item() == pytest.approx(2 * log.exp().item() * (1 - log.item()), rel=1e-9)
    _, wider = module.bounds(x, g, products=True)
    assert wider[0, 4].item() == pytest.approx(bounds[0, 4].item() + 3 * 2 * g[0, 2:].sum().double().exp().item())


def test_functions_move_with_their_arguments() -> None:
    text = """layer f() { time t axis b input x[b,t]
      e[b,t] = exp(x[b,t] * x[b,t]) r[b,t] = relu(x[b,t] * x[b,t] - 1)
      c[b,t] = 1 / (1 - x[b,t] * x[b,t]) output e, r, c }"""
    x = torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    _, (e, r, c) = reference(text).bounds(x)
    square = x * x
    torch.testing.assert_close(e, square.exp() * (square + 1), rtol=1e-6, atol=0)
    torch.testing.assert_close(r, torch.tensor([[0.0, 4 + 5.0]], dtype=torch.float64), rtol=1e-6, atol=1e-20)
    # m(1 - x^2) = x^2 + 1 + x^2, magnified by c^2, and the rounding of c
    want = (2 * square + 1) / (1 - square) ** 2 + 2 / (1 - square).abs()
    assert (c <= want * 1.001).all() and (c >= want * 0.5).all()


@pytest.mark.parametrize("name", sorted(SIZES))
@pytest.mark.parametrize("length", [3, 40])
def test_float32_loops_keep_within(name: str, length: int) -> None:
    module = example(name)
    for parameter in module.parameters():
        parameter.data = parameter.data.float().double()
    inputs = inputs_of(module, length, dtype=torch.float32)
    if name == "deltanet":
        inputs["k"] = torch.nn.functional.normalize(inputs["k"], dim=-1)
    values, magnitudes = module.bounds(**inputs)
    assert magnitudes.isfinite().all()
    as_float64 = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in inputs.items()}
    with torch.no_grad():
        wrong = LOOPS[name](module, as_float64)
        module.float()
        mine = run_in_single(name, module, inputs)
    assert units(wrong, values, magnitudes) < 1e-3
    assert mine.dtype == torch.float32
    found = units(mine, values, magnitudes)
    assert found <= 16, f"{found} units"


def run_in_single(name: str, module: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """A loop of test_reference in float32: its zeros are made float32 too."""
    zeros, tensor = torch.zeros, torch.tensor

    def single_zeros(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return zeros(*shape, dtype=torch.float32)

    def single_tensor(data: object, dtype: torch.dtype | None = None) -> Tensor:
        return tensor(data, dtype=torch.float32)

    torch.zeros, torch.tensor = single_zeros, single_tensor  # type: ignore[assignment]
    try:
        return LOOPS[name](module, inputs)  # type: ignore[arg-type]
    finally:
        torch.zeros, torch.tensor = zeros, tensor


RETAIN = """layer f(N, P) { time t, s axis b, n = N, p = P input q[b,t,n], k[b,t,n], v[b,t,p], g[b,t]
  mask L[b,t,s] = semiseparable(exp(g[b,t])) y[b,t,p] = q[b,t,n] * k[b,s,n] * L[b,t,s] * v[b,s,p] output y }"""


def decay_factors(g: Tensor, form: str) -> Tensor:
    """log L[t,s] in float32: sums of each segment, or differences of cumulative sums."""
    lower = torch.ones(g.shape[1], g.shape[1], dtype=torch.bool).tril()
    if form == "difference":
        c = g.cumsum(1)
        return (c[:, :, None] - c[:, None]).masked_fill(~lower, -torch.inf)
    segments = g[:, :, None].expand(-1, -1, g.shape[1]).masked_fill(~lower.tril(-1), 0).cumsum(1)
    return segments.masked_fill(~lower, -torch.inf)


@pytest.mark.parametrize(("form", "deepest", "good"), [
    ("segment", 1, True), ("segment", 10, True), ("segment", 100, True), ("segment", 1000, True),
    ("difference", 100, False), ("difference", 1000, False),
])  # fmt: skip
def test_the_hazard_of_cumulative_sums_is_outside(form: str, deepest: float, good: bool) -> None:
    """Half of the log gates are zero, the others reach down to -deepest (reliability.md, "Hazards")."""
    module = reference(RETAIN, N=8, P=8)
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 256, 8, generator=draw) for _ in range(3))
    g = -deepest * torch.rand(2, 256, generator=draw) * (torch.rand(2, 256, generator=draw) < 0.5)
    values, magnitudes = module.bounds(q, k, v, g)
    mine = (q @ k.transpose(1, 2) * decay_factors(g, form).exp()) @ v
    assert (units(mine, values, magnitudes) <= 16) == good


@pytest.mark.parametrize("gate", [0.0, -0.0, -1e-30, -1e-3, -1e3, -1e4, -torch.inf])
def test_extreme_gates_have_finite_magnitudes(gate: float) -> None:
    module = reference(RETAIN, N=4, P=4)
    q, k, v = (torch.randn(1, 32, 4) for _ in range(3))
    values, magnitudes = module.bounds(q, k, v, torch.full((1, 32), gate))
    assert values.isfinite().all() and magnitudes.isfinite().all()


def test_a_wrong_element_is_outside() -> None:
    module = example("ssd")
    inputs = inputs_of(module, 20, dtype=torch.float32)
    values, magnitudes = module.bounds(**inputs)
    assert units(values, values, magnitudes) == 0
    assert units(values * (1 + 1e-3), values, magnitudes) > 16


def test_the_magnitudes_of_a_recursion_stay_useful() -> None:
    """Propagated position by position they would grow like 1.6 to the power of the length."""
    module = example("deltanet", N=16, P=4)
    inputs = inputs_of(module, 200, dtype=torch.float32)
    inputs["k"] = torch.nn.functional.normalize(inputs["k"], dim=-1)
    values, magnitudes = module.bounds(**inputs)
    assert UNIT * 16 * magnitudes.max() < 0.05 * values.abs().mean()
    assert UNIT * 16 * magnitudes.median() < 0.005 * values.abs().mean()


def test_bfloat16_has_its_own_unit() -> None:
    text = "layer f() { time t axis b input x[b,t] y[b,t] = exp(x[b,t]) + 0.3 output y }"
    x = torch.randn(1, 50).bfloat16()
    values, magnitudes = reference(text).bounds(x, dtype=torch.bfloat16)
    mine = torch.exp(x) + torch.tensor(0.3, dtype=torch.bfloat16)
    assert ((mine.double() - values).abs() <= 2.0**-8 * 2 * magnitudes).all()
    assert ((mine.double() - values).abs() > UNIT * 16 * magnitudes).any()
