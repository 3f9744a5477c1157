"""Every mask structure of the reference against its definition, entry by entry, and what a mask keeps out."""

from __future__ import annotations

from math import exp, prod

import pytest
import torch
from torch import Tensor

from ssdc.runtime.reference import EvaluationError, contract
from tests.unit.reference_cases import SIZES, example, inputs_of, reference

LENGTH = 9
ENTRIES = {
    "full": ("", lambda a, t, s: 1.0),
    "causal": ("", lambda a, t, s: float(s <= t)),
    "strict": ("", lambda a, t, s: float(s < t)),
    "band(3)": ("", lambda a, t, s: float(0 <= t - s < 3)),
    "semiseparable(a[b,t])": ("a[b,t]", lambda a, t, s: prod(a[s + 1 : t + 1]) if s <= t else 0.0),
    "semiseparable(a[b,t], strict)": ("a[b,t]", lambda a, t, s: prod(a[s + 1 : t]) if s < t else 0.0),
    "semiseparable(exp(a[b,t]) ^ 2)": (
        "a[b,t]", lambda a, t, s: exp(2 * sum(a[s + 1 : t + 1])) if s <= t else 0.0
    ),
    "decay(a[b])": ("a[b]", lambda a, t, s: a[0] ** (t - s) if s <= t else 0.0),
    "toeplitz(a[b,j])": ("a[b,j]", lambda a, t, s: a[t - s] if 0 <= t - s < 4 else 0.0),
    "conv(a[b,j])": ("a[b,j]", lambda a, t, s: a[3 - (t - s)] if 0 <= t - s < 4 else 0.0),
    "documents(doc[b,t])": ("doc[b,t] : int", lambda a, t, s: float(a[t] == a[s])),
}  # fmt: skip
REVERSIBLE = [key for key in ENTRIES if key.split("(")[0] not in ("full", "documents")]


def written_out(structure: str, argument: str, values: Tensor | None) -> Tensor:
    front = "b," if argument else ""
    text = f"""layer f() {{ time t, s axis b, j = 4 input x[b,t]{", " + argument if argument else ""}
      mask M[{front}t,s] = {structure} m[b,t,s] = M[{front}t,s] * 1 + 0 * x[b,t]
      y[b,t] = M[{front}t,s] * x[b,s] output m, y }}"""
    x = torch.randn(1, LENGTH, dtype=torch.float64)
    m, y = reference(text)(x, *([] if values is None else [values]))
    torch.testing.assert_close(y, (m @ x[..., None])[..., 0], rtol=1e-12, atol=1e-12)
    return m[0]


def values_of(argument: str, fill: float | None = None) -> Tensor | None:
    if not argument:
        return None
    if argument.startswith("doc"):
        return torch.tensor([[0, 0, 0, 2, 2, 3, 3, 3, 9]])
    shape = {"a[b,t]": (1, LENGTH), "a[b]": (1,), "a[b,j]": (1, 4)}[argument]
    return torch.randn(shape, dtype=torch.float64) if fill is None else torch.full(shape, fill, dtype=torch.float64)


def test_every_structure_is_here() -> None:
    from ssdc.runtime.reference.structures import STRUCTURES

    assert {key.split("(")[0] for key in ENTRIES} | {"fenwick", "dense"} == set(STRUCTURES)


@pytest.mark.parametrize("structure", sorted(ENTRIES))
def test_entries(structure: str) -> None:
    argument, entry = ENTRIES[structure]
    values = values_of(argument)
    m = written_out(structure, argument, values)
    list_ = [] if values is None else values[0].tolist()
    a = list_ if isinstance(list_, list) else [list_]
    want = [[entry(a, t, s) for s in range(LENGTH)] for t in range(LENGTH)]
    torch.testing.assert_close(m, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("structure", REVERSIBLE)
def test_reverse_is_what_the_reversed_sequence_gives(structure: str) -> None:
    argument, _ = ENTRIES[structure]
    values = values_of(argument)
    name, _, rest = structure.partition("(")
    backwards = f"{name}(reverse)" if not rest else f"{structure[:-1]}, reverse)"
    turned = values.flip(1) if argument == "a[b,t]" and values is not None else values
    mine, forwards = written_out(backwards, argument, values), written_out(structure, argument, turned)
    torch.testing.assert_close(mine, forwards.flip(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize("gate", [0.0, -0.0, 1e-300, -1.5, 3.0])
def test_extreme_gates(gate: float) -> None:
    m = written_out("semiseparable(a[b,t])", "a[b,t]", values_of("a[b,t]", gate))
    want = [[gate ** (t - s) if t > s else float(s == t) for s in range(LENGTH)] for t in range(LENGTH)]
    torch.testing.assert_close(m, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0)


def test_fenwick_levels() -> None:
    text = """layer f() { time t, s axis b, l = 4 input x[b,t], lam[b,t,l] mask M[b,t,s] = fenwick(lam[b,t,l])
      y[b,t] = M[b,t,s] * x[b,s] output y }"""
    x, lam = torch.randn(2, 8, dtype=torch.float64), torch.randn(2, 8, 4, dtype=torch.float64)
    y = torch.zeros_like(x)
    for t in range(8):
        for s in range(t + 1):
            level = 0 if s == t else len(bin(t ^ s)) - 2
            y[:, t] += lam[:, t, level] * x[:, s]
    torch.testing.assert_close(reference(text)(x, lam), y, rtol=1e-12, atol=1e-12)
    with pytest.raises(EvaluationError, match="9 positions have 5 levels"):
        reference(text)(torch.ones(1, 9), torch.ones(1, 9, 4))


def test_dense_is_the_matrix_and_masks_multiply() -> None:
    text = """layer f() { time t, s axis b input x[b,t], w[b,t]
      m[b,t,s] = w[b,t] * w[b,s]
      mask M[b,t,s] = dense(m[b,t,s]) * strict * band(4) y[b,t] = M[b,t,s] * x[b,s] output y }"""
    x, w = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    want = (w[:, :, None] * w[:, None]).tril(-1).triu(-3) @ x[..., None]
    torch.testing.assert_close(reference(text)(x, w), want[..., 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_position_by_position_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example(name)
    inputs = inputs_of(module, 9)
    whole, bounds = module.bounds(**inputs)
    monkeypatch.setattr(contract, "LARGEST", 1)
    rows, row_bounds = module.bounds(**inputs)
    torch.testing.assert_close(rows, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(module(**inputs), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(row_bounds, bounds, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted(set(SIZES) - {"hydra"}))
def test_a_bad_input_reaches_no_earlier_position(name: str, bad: float) -> None:
    module = example(name)
    inputs = inputs_of(module, 9)
    clean = module(**inputs)
    for key, tensor in inputs.items():
        if tensor.is_floating_point():
            spoilt = tensor.clone()
            spoilt[0, 5] = bad
            y = module(**{**inputs, key: spoilt})
            torch.testing.assert_close(y[0, :5], clean[0, :5], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(y[1], clean[1], rtol=1e-10, atol=1e-12)
            assert not torch.equal(y[0, 5:], clean[0, 5:])


def test_a_bad_input_stays_inside_its_document_and_window() -> None:
    module = example("packed_window")
    inputs = inputs_of(module, 12)
    inputs["doc"] = torch.tensor([[0] * 6 + [1] * 6] * 2)
    inputs["v"][0, 2, 0, 0] = torch.nan
    y = module(**inputs)
    assert y[0, 2:6, 0, 0].isnan().all() and y.isnan().sum() == 4
