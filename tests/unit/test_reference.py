"""The reference of every example against loops written by hand from the papers' recurrences, in plain float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssdc.runtime.reference import EvaluationError, Reference
from ssdc.runtime.reference.terms import factors_of, terms_of
from ssdc.syntax import ast
from tests.unit.reference_cases import SIZES, example, inputs_of, reference

Loop = Callable[[Reference, dict[str, Tensor]], Tensor]
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def grouped(x: Tensor, heads: int) -> Tensor:
    return torch.stack([x[..., h // (heads // x.shape[-2]), :] for h in range(heads)], -2)


def scan(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, after: bool = False) -> Tensor:
    """y[t] = q[t] S[t], S[t] = gate[t] S[t-1] + k[t] v[t]^T; with `after` y[t] = q[t] S[t-1]. gate [b,t,h,n]."""
    b, length, h, n = q.shape
    state, rows = torch.zeros(b, h, n, v.shape[-1], dtype=v.dtype), []
    for t in range(length):
        before = state
        state = gate[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        rows.append((q[:, t, :, :, None] * (before if after else state)).sum(2))
    return torch.stack(rows, 1)


def ssd(m: Reference, i: dict[str, Tensor]) -> Tensor:
    p = dict(m.named_parameters())
    h = i["x"].shape[2]
    gate = torch.exp(-p["A_log"].exp() * i["dt"])[..., None].expand(-1, -1, -1, i["B"].shape[-1])
    x = i["x"]
    return scan(grouped(i["C"], h), grouped(i["B"], h), i["dt"][..., None] * x, gate) + p["D"][:, None] * x


def retention(m: Reference, i: dict[str, Tensor]) -> Tensor:
    gamma = torch.tensor([1 - 2.0 ** (-5 - h) for h in range(2)], dtype=torch.float64)
    return 0.5 * scan(i["q"], i["k"], i["v"], gamma[:, None].expand(i["q"].shape))


def gla(m: Reference, i: dict[str, Tensor]) -> Tensor:
    return 0.5 * scan(i["q"], i["k"], i["v"], i["g"].exp())


def linear_attention(m: Reference, i: dict[str, Tensor]) -> Tensor:
    q, k = F.elu(i["q"]) + 1, F.elu(i["k"]) + 1
    ones = torch.ones_like(q)
    return scan(q, k, i["v"], ones) / (scan(q, k, torch.ones_like(i["v"][..., :1]), ones) + 1e-6)


def mlstm(m: Reference, i: dict[str, Tensor]) -> Tensor:
    gate = i["f"].sigmoid()[..., None].expand(i["q"].shape)
    k = 0.5 * i["k"] * i["i"].exp()[..., None]
    den = scan(i["q"], k, torch.ones_like(i["v"][..., :1]), gate)
    return scan(i["q"], k, i["v"], gate) / den.abs().clamp(min=1)


def rwkv6(m: Reference, i: dict[str, Tensor]) -> Tensor:
    u = m.get_parameter("u")
    bonus = (i["r"] * u * i["k"]).sum(-1, keepdim=True) * i["v"]
    b, length, h, n = i["r"].shape
    state, rows = torch.zeros(b, h, n, i["v"].shape[-1], dtype=torch.float64), []
    for t in range(length):
        rows.append(torch.einsum("bhn,bhnp->bhp", i["r"][:, t], state))
        state = i["w"][:, t].exp()[..., None] * state + i["k"][:, t, :, :, None] * i["v"][:, t, :, None, :]
    return torch.stack(rows, 1) + bonus


def hydra(m: Reference, i: dict[str, Tensor]) -> Tensor:
    def one_way(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
        state, rows = torch.zeros(2, 2, 4, 3, dtype=torch.float64), []
        for t in range(q.shape[1]):
            rows.append(torch.einsum("bhn,bhnp->bhp", q[:, t], state))
            state = a[:, t].exp()[..., None, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        return torch.stack(rows, 1)

    parts = [i[name] for name in "qkva"]
    back = one_way(*(part.flip(1) for part in parts)).flip(1)
    return one_way(*parts) + back + m.get_parameter("d")[:, None] * i["v"]


def deltanet(m: Reference, i: dict[str, Tensor]) -> Tensor:
    q, k, v, beta = (i[name] for name in ("q", "k", "v", "beta"))
    state, rows = torch.zeros(2, 2, 4, 3, dtype=torch.float64), []
    for t in range(q.shape[1]):
        read = torch.einsum("bhn,bhnp->bhp", k[:, t], state)
        state = state + k[:, t, :, :, None] * (beta[:, t, :, None] * (v[:, t] - read))[:, :, None, :]
        rows.append(0.5 * torch.einsum("bhn,bhnp->bhp", q[:, t], state))
    return torch.stack(rows, 1)


def attention(m: Reference, i: dict[str, Tensor]) -> Tensor:
    q, k, v = (i[name].transpose(1, 2) for name in "qkv")
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def packed_window(m: Reference, i: dict[str, Tensor]) -> Tensor:
    gamma, doc, y = m.get_parameter("gamma_logit").sigmoid(), i["doc"], torch.zeros_like(i["v"])
    for b in range(2):
        for t in range(doc.shape[1]):
            for s in range(max(0, t - 3), t + 1):
                if doc[b, t] == doc[b, s]:
                    y[b, t] += ((i["q"][b, t] * i["k"][b, s]).sum(-1) * gamma ** (t - s))[:, None] * i["v"][b, s]
    return y


def mamba(m: Reference, i: dict[str, Tensor]) -> Tensor:
    a, d = -m.get_parameter("A_log").exp(), m.get_parameter("D")
    state, rows = torch.zeros(2, 5, 4, dtype=torch.float64), []
    for t in range(i["x"].shape[1]):
        dt, x = i["dt"][:, t], i["x"][:, t]
        state = (dt[..., None] * a).exp() * state + (dt * x)[..., None] * i["B"][:, t, None, :]
        rows.append((state * i["Cm"][:, t, None, :]).sum(-1) + d * x)
    return torch.stack(rows, 1)


def rglru(m: Reference, i: dict[str, Tensor]) -> Tensor:
    log_a = -8 * i["r"].sigmoid() * F.softplus(m.get_parameter("Lambda"))
    state, rows = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(i["x"].shape[1]):
        a = log_a[:, t].exp()
        state = a * state + (1 - a * a).sqrt() * i["i"][:, t].sigmoid() * i["x"][:, t]
        rows.append(state)
    return torch.stack(rows, 1)


def mamba2(m: Reference, i: dict[str, Tensor]) -> Tensor:
    p = dict(m.named_parameters())
    h, hp, gn = 4, 16, 10
    z, xbc, dt = (i["u"] @ p["in_proj.weight"].T).split([hp, hp + 2 * gn, h], -1)
    padded = F.pad(xbc.transpose(1, 2), (3, 0))
    act = F.silu(F.conv1d(padded, p["conv1d.weight"], p["conv1d.bias"], groups=hp + 2 * gn)).transpose(1, 2)
    x, bb, cc = act.split([hp, gn, gn], -1)
    dt = F.softplus(dt + p["dt_bias"])
    x, bb, cc = x.unflatten(-1, (h, 4)), grouped(bb.unflatten(-1, (2, 5)), h), grouped(cc.unflatten(-1, (2, 5)), h)
    gate = torch.exp(-p["A_log"].exp() * dt)[..., None].expand(-1, -1, -1, 5)
    y = (scan(cc, bb, dt[..., None] * x, gate) + p["D"][:, None] * x).flatten(-2) * F.silu(z)
    normed = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p["norm.weight"]
    return normed @ p["out_proj.weight"].T


LOOPS: dict[str, Loop] = {
    "ssd": ssd, "retention": retention, "gla": gla, "linear_attention": linear_attention, "mlstm": mlstm,
    "rwkv6": rwkv6, "hydra": hydra, "deltanet": deltanet, "attention": attention, "packed_window": packed_window,
    "mamba": mamba, "rglru": rglru, "mamba2": mamba2,
}  # fmt: skip


def test_every_example_has_a_loop() -> None:
    assert set(LOOPS) == set(SIZES)


@pytest.mark.parametrize("length", [1, 2, 13])
@pytest.mark.parametrize("name", sorted(LOOPS))
def test_example_equals_its_loop(name: str, length: int) -> None:
    module = example(name)
    inputs = inputs_of(module, length)
    torch.testing.assert_close(module(**inputs), LOOPS[name](module, inputs), **CLOSE)


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_no_positions_at_all(name: str) -> None:
    module = example(name)
    y = module(**inputs_of(module, 0))
    assert y.shape[1] == 0 and y.shape[0] == 2


@pytest.mark.parametrize("name", ["deltanet", "mamba2", "packed_window", "rwkv6"])
def test_gradients_equal_those_of_the_loop(name: str) -> None:
    module = example(name)
    inputs = inputs_of(module, 7)
    wanted = [tensor.requires_grad_() for tensor in inputs.values() if tensor.is_floating_point()] + list(
        module.parameters()
    )
    weight = torch.randn_like(module(**inputs))
    mine = torch.autograd.grad((module(**inputs) * weight).sum(), wanted)
    theirs = torch.autograd.grad((LOOPS[name](module, inputs) * weight).sum(), wanted)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, **CLOSE)


def test_parameters_are_the_declared_names_in_float64() -> None:
    state = example("mamba2").state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "in_proj.weight": (56, 8), "conv1d.weight": (36, 1, 4), "conv1d.bias": (36,), "dt_bias": (4,), "A_log": (4,),
        "D": (4,), "norm.weight": (16,), "out_proj.weight": (8, 16),
    }  # fmt: skip
    assert all(tensor.dtype == torch.float64 for tensor in state.values())
    assert state["in_proj.weight"].abs().max() <= 8**-0.5 and state["conv1d.bias"].abs().max() <= 0.5
    assert state["conv1d.bias"].abs().max() > 0


def test_terms_and_functions() -> None:
    text = """layer f(N) { time t, s  axis b, n = N
      input x[b,t,n], m[b,t] : bool  param w[n] ~ constant(3)
      a[b,t] = 2 - (x[b,t,n] + 1) * w[n] / 2
      c[b,t,n] = where(x[b,t,n] > 0, gelu(x[b,t,n]), -x[b,t,n] ^ 2) + where(m[b,t], 1, 0) * index(t)
      d[b,t] = sum(w[n] * x[b,t,n] over n) + mean(x[b,t,n] over n) + max(x[b,t,n] over n) - min(x[b,t,n] over n)
      e[b,t,n] = layernorm(x[b,t,n] over n) * l2norm(x[b,t,n] over n) + softmax(x[b,t,n] over n)
      f[b,t,n] = x[b,t-2,n] + clamp(x[b,t,n], -0.5, 0.5) + max(x[b,t,n], 0, index(n))
      output a, c, d, e, f }"""
    x, m = torch.randn(2, 5, 3, dtype=torch.float64), torch.rand(2, 5) > 0.5
    a, c, d, e, f = reference(text, N=3)(x, m)
    torch.testing.assert_close(a, 2 - 1.5 * (x + 1).sum(-1), **CLOSE)
    late = m[..., None] * torch.arange(5)[:, None]
    torch.testing.assert_close(c, torch.where(x > 0, F.gelu(x), -(x**2)) + late, **CLOSE)
    torch.testing.assert_close(d, 3 * x.sum(-1) + x.mean(-1) + x.amax(-1) - x.amin(-1), **CLOSE)
    norms = F.layer_norm(x, (3,)) * x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(e, norms + x.softmax(-1), **CLOSE)
    back = torch.cat([torch.zeros_like(x[:, :2]), x[:, :-2]], 1)
    torch.testing.assert_close(f, back + x.clamp(-0.5, 0.5) + torch.maximum(x.clamp(min=0), torch.arange(3.0)), **CLOSE)


def test_summation_is_per_term() -> None:
    text = (
        "layer f(N) { time t axis b, n = N input x[b,t,n], z[b,t] y[b,t] = x[b,t,n] * x[b,t,n] - z[b,t] + 4 output y }"
    )
    x, z = torch.randn(1, 2, 3, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    torch.testing.assert_close(reference(text, N=3)(x, z), x.square().sum(-1) - z + 4, **CLOSE)


def test_lookup_and_its_range() -> None:
    text = """layer f(V, D) { time t axis b, v = V, d = D input ids[b,t] : int param embed[v,d]
      y[b,t,d] = embed[ids[b,t], d] output y }"""
    module = reference(text, V=5, D=3)
    assert module.get_parameter("embed").std() > 0.3
    ids = torch.tensor([[0, 4, 4]])
    torch.testing.assert_close(module(ids), module.get_parameter("embed")[ids], rtol=0, atol=0)
    for wrong in (-1, 5):
        with pytest.raises(EvaluationError, match="rows outside of the 5"):
            module(torch.tensor([[0, wrong, 1]]))


def test_chain_of_masks_is_their_product() -> None:
    text = """layer f(N) { time t, s, r axis b, n = N
      input q[b,t,n], k[b,t,n], v[b,t], g[b,t]
      mask A[b,t,s] = semiseparable(exp(g[b,t])) mask K[s,r] = band(3)
      y[b,t] = q[b,t,n] * A[b,t,s] * k[b,s,n] * K[s,r] * v[b,r] output y }"""
    module = reference(text, N=3)
    i = {n: torch.randn(2, 6, 3, dtype=torch.float64) for n in "qk"} | {
        n: -torch.rand(2, 6, dtype=torch.float64) for n in "vg"
    }
    y = torch.zeros(2, 6, dtype=torch.float64)
    for t in range(6):
        for s in range(t + 1):
            for r in range(max(0, s - 2), s + 1):
                gate = i["g"][:, s + 1 : t + 1].sum(1).exp()
                y[:, t] += (i["q"][:, t] * i["k"][:, s]).sum(-1) * gate * i["v"][:, r]
    torch.testing.assert_close(module(**i), y, **CLOSE)


def test_softmax_row_without_a_writer_is_zero() -> None:
    text = """layer f() { time t, s axis b input q[b,t], v[b,t] mask M[t,s] = strict
      w[b,t,s] = softmax(q[b,t] * q[b,s] over s, mask = M) y[b,t] = w[b,t,s] * v[b,s] output y, w }"""
    q, v = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    y, w = reference(text)(q, v)
    assert (y[:, 0] == 0).all() and (w[:, 0] == 0).all()
    torch.testing.assert_close(w[:, 1:].sum(-1), torch.ones(2, 3, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(y[:, 1], v[:, 0], **CLOSE)


@pytest.mark.parametrize("flag", ["", ", reverse"])
def test_recursion_solves_its_equation(flag: str) -> None:
    text = f"""layer f(N) {{ time t, s axis b, n = N input k[b,t,n], v[b,t], g[b,t,n]
      mask S[b,n,t,s] = semiseparable(exp(g[b,t,n]), strict{flag})
      u[b,t] = v[b,t] - 0.3 * k[b,t,n] * k[b,s,n] * S[b,n,t,s] * u[b,s] output u }}"""
    k, v, g = (
        torch.randn(2, 70, 3, dtype=torch.float64),
        torch.randn(2, 70, dtype=torch.float64),
        -torch.rand(2, 70, 3),
    )
    u = reference(text, N=3)(k, v, g)
    g = g.double()
    for t in range(70):
        rest = v[:, t].clone()
        for s in range(t + 1, 70) if flag else range(t):
            gate = (g[:, t + 1 : s] if flag else g[:, s + 1 : t]).sum(1).exp()
            rest -= 0.3 * (k[:, t] * k[:, s] * gate).sum(-1) * u[:, s]
        torch.testing.assert_close(u[:, t], rest, **CLOSE)


def test_a_position_may_not_read_itself() -> None:
    text = """layer f() { time t, s axis b input v[b,t] mask L[t,s] = causal
      u[b,t] = v[b,t] - L[t,s] * u[b,s] output u }"""
    with pytest.raises(EvaluationError, match="strict in one direction"):
        reference(text)(torch.ones(1, 3))


def test_models_and_chains() -> None:
    text = """
      layer double(D, S = 2) { time t axis b, d = D input x[b,t,d] param w[d] ~ constant(S)
        y[b,t,d] = w[d] * x[b,t,d] output y }
      layer parts(D) { time t axis b, d = D input x[b,t,d] y[b,t,d] = x[b,t,d] + 1 z[b,t,d] = -x[b,t,d] output y, z }
      layer model(D) { time t axis b, d = D input x[b,t,d]
        use head = double(D = D, S = 5) use body = chain(double(D = D) * 2, double(D = D, S = 3)) * 2
        use two = parts(D = D)
        h[b,t,d] = head(x[b,t,d]) a[b,t,d], c[b,t,d] = two(h[b,t,d]) y[b,t,d] = body(a[b,t,d] * c[b,t,d]) output y }"""
    module = reference(text, D=3)
    assert list(module.state_dict()) == ["head.w", *(f"body.{i}.w" for i in range(6))]
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(module(x), 144 * (5 * x + 1) * (-5 * x), **CLOSE)
    values, bounds = module.bounds(x)
    assert (bounds >= values.abs()).all() and bounds.isfinite().all()


def test_complex_gate_turns() -> None:
    text = """layer f() { time t, s axis b input x[b,t], a[b,t] : complex mask L[b,t,s] = semiseparable(a[b,t])
      y[b,t] = L[b,t,s] * x[b,s] output y }"""
    x, angle = torch.randn(1, 6, dtype=torch.float64), torch.rand(1, 6, dtype=torch.float64)
    a = torch.polar(0.9 * torch.ones_like(angle), angle)
    state, rows = torch.zeros(1, dtype=torch.complex128), []
    for t in range(6):
        state = a[:, t] * state + x[:, t]
        rows.append(state)
    torch.testing.assert_close(reference(text)(x, a), torch.stack(rows, 1), **CLOSE)


def test_long_sums_and_products_need_no_depth() -> None:
    one = ast.Name("x")
    long = reduce(lambda left, _: ast.Binary("-", left, one), range(3000), cast(ast.Expr, one))
    assert [sign for sign, _ in terms_of(long)] == [1] + [-1] * 3000
    sign, factors = factors_of(reduce(lambda left, _: ast.Binary("/", left, ast.Negate(one)), range(2999), long))
    assert sign == -1 and len(factors) == 3000 and [inverse for _, inverse in factors] == [False] + [True] * 2999


def test_grouping_axes_are_read_at_their_heads() -> None:
    text = """layer f(H, G) { time t axis b, h = H, g = G groups h input x[b,t,h], B[b,t,g]
      y[b,t] = B[b,t,g] * x[b,t,h]  z[b,t,h] = exp(B[b,t,g] + x[b,t,h])
      n[b,t] = sum(B[b,t,g] over g) output y, z, n }"""
    x, b = torch.randn(1, 3, 6, dtype=torch.float64), torch.randn(1, 3, 2, dtype=torch.float64)
    y, z, n = reference(text, H=6, G=2)(x, b)
    wide = b.repeat_interleave(3, -1)
    torch.testing.assert_close(y, (wide * x).sum(-1), **CLOSE)
    torch.testing.assert_close(z, (wide + x).exp(), **CLOSE)
    torch.testing.assert_close(n, b.sum(-1), **CLOSE)
    assert math.isclose(float(n[0, 0]), float(b[0, 0].sum()))
