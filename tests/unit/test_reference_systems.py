"""The reference against the naive functions of fla-core and the torch bodies of transformers, system by system.

They compute in float32 and in an order of their own, so that the tolerance is what `Reference.bounds` gives.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssdc.runtime.reference import Reference
from tests.unit.reference_cases import example, inputs_of, reference

UNIT = 2.0**-24
LENGTH = 64
pytestmark = pytest.mark.filterwarnings("ignore")


def within_bounds(module: Reference, inputs: dict[str, Tensor], theirs: Tensor) -> None:
    values, magnitudes = module.bounds(**inputs)
    assert magnitudes.isfinite().all() and (magnitudes > 0).all()
    units = ((theirs.double() - values).abs() / (UNIT * magnitudes)).max().item()
    assert 0 < units <= 16, f"{units} units"


def single(module: Reference, length: int = LENGTH) -> dict[str, Tensor]:
    """Inputs that float32 holds, and parameters too."""
    for parameter in module.parameters():
        parameter.data = parameter.data.float().double()
    return inputs_of(module, length, dtype=torch.float32)


def heads_first(*tensors: Tensor) -> list[Tensor]:
    return [tensor.transpose(1, 2) for tensor in tensors]


def original(function: Callable[..., object]) -> Callable[..., object]:
    """The torch body behind a dispatcher."""
    return getattr(function, "__wrapped__", function)


def test_retention() -> None:
    naive = pytest.importorskip("fla.ops.retention.naive")
    module = example("retention", N=8, P=8)
    i = single(module)
    within_bounds(module, i, naive.naive_retention(*heads_first(i["q"], i["k"], i["v"])).transpose(1, 2))


def test_gla() -> None:
    naive = pytest.importorskip("fla.ops.gla.naive")
    module = example("gla", N=8, P=6)
    i = single(module)
    within_bounds(module, i, naive.naive_recurrent_gla(i["q"], i["k"], i["v"], i["g"])[0])


def test_rwkv6() -> None:
    naive = pytest.importorskip("fla.ops.rwkv6.recurrent_naive")
    module = example("rwkv6", N=8, P=6)
    i = single(module)
    theirs, _ = naive.naive_recurrent_rwkv6(
        *heads_first(i["r"], i["k"], i["v"], i["w"]), module.get_parameter("u").float(), scale=1.0
    )
    within_bounds(module, i, theirs.transpose(1, 2))


@pytest.mark.parametrize("form", ["delta_rule_recurrence", "delta_rule_chunkwise", "delta_rule_parallel"])
def test_deltanet(form: str) -> None:
    naive = pytest.importorskip("fla.ops.delta_rule.naive")
    module = example("deltanet", N=8, P=6)
    i = single(module, 128)
    i["k"] = F.normalize(i["k"], dim=-1)
    within_bounds(module, i, getattr(naive, form)(*heads_first(i["q"], i["k"], i["v"], i["beta"]))[0].transpose(1, 2))


def test_linear_attention() -> None:
    naive = pytest.importorskip("fla.ops.linear_attn.naive")
    module = example("linear_attention", N=8, P=6)
    i = single(module)
    q, k = F.elu(i["q"]) + 1, F.elu(i["k"]) + 1
    within_bounds(module, i, naive.naive_recurrent_linear_attn(q, k, i["v"], scale=1.0, normalize=True)[0])


def test_hgrn() -> None:
    naive = pytest.importorskip("fla.ops.hgrn.naive")
    module = reference("""layer hgrn(C) { time t, s axis b, c = C input x[b,t,c], g[b,t,c]
      mask L[b,c,t,s] = semiseparable(exp(g[b,t,c])) y[b,t,c] = L[b,c,t,s] * x[b,s,c] output y }""", C=5)  # fmt: skip
    i = single(module)
    within_bounds(module, i, naive.naive_recurrent_hgrn(i["x"], i["g"])[0])


def test_mamba() -> None:
    hf = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    module = example("mamba", C=6, N=8)
    i = single(module)
    a = -module.get_parameter("A_log").exp()
    x, dt, b, c = (i[name].transpose(1, 2) for name in ("x", "dt", "B", "Cm"))
    scan = original(hf.mamba_selective_scan)
    theirs = scan(x, dt, a.float(), b, c, D=module.get_parameter("D").float())
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert isinstance(theirs, Tensor)
    within_bounds(module, i, theirs.transpose(1, 2))


def test_mamba2_core() -> None:
    hf = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    module = example("ssd", N=8, P=6)
    i = single(module)
    a, d = -module.get_parameter("A_log").exp().float(), module.get_parameter("D").float()
    theirs = original(hf.mamba2_chunk_scan)(i["x"], i["dt"], a, i["B"], i["C"], chunk_size=16, D=d)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert isinstance(theirs, Tensor)
    within_bounds(module, i, theirs)


GATED_DELTA = """layer gdn(H, N, P) { time t, s axis b, h = H, n = N, p = P
  input q[b,t,h,n], k[b,t,h,n], v[b,t,h,p], g[b,t,h], beta[b,t,h]
  qn[b,t,h,n] = l2norm(q[b,t,h,n] over n) kn[b,t,h,n] = l2norm(k[b,t,h,n] over n)
  mask S[b,h,t,s] = semiseparable(exp(g[b,t,h])) * strict
  mask L[b,h,t,s] = semiseparable(exp(g[b,t,h]))
  u[b,t,h,p] = beta[b,t,h] * v[b,t,h,p] - beta[b,t,h] * kn[b,t,h,n] * kn[b,s,h,n] * S[b,h,t,s] * u[b,s,h,p]
  y[b,t,h,p] = N ^ -0.5 * qn[b,t,h,n] * kn[b,s,h,n] * L[b,h,t,s] * u[b,s,h,p] output y }"""


@pytest.mark.parametrize("form", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_gated_delta_rule(form: str) -> None:
    hf = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    module = reference(GATED_DELTA, H=2, N=8, P=6)
    i = single(module)
    theirs = original(getattr(hf, form))(i["q"], i["k"], i["v"], i["g"], i["beta"], use_qk_l2norm_in_kernel=True)
    assert isinstance(theirs, tuple)
    within_bounds(module, i, theirs[0])


def test_rwkv4() -> None:
    hf = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
    module = reference("""layer rwkv4(C) { time t, s axis b, c = C input k[b,t,c], v[b,t,c]
      param w[c] ~ normal(1) param u[c] ~ normal(1)
      mask L[c,t,s] = semiseparable(exp(-exp(w[c])), strict)
      num[b,t,c] = L[c,t,s] * exp(k[b,s,c]) * v[b,s,c] + exp(u[c] + k[b,t,c]) * v[b,t,c]
      den[b,t,c] = L[c,t,s] * exp(k[b,s,c]) + exp(u[c] + k[b,t,c])
      y[b,t,c] = num[b,t,c] / den[b,t,c] output y }""", C=5)  # fmt: skip
    i = single(module)
    w, u = module.get_parameter("w").float(), module.get_parameter("u").float()
    within_bounds(module, i, hf.rwkv_linear_attention_cpu(w, u, i["k"], i["v"])[0])


def test_mlstm() -> None:
    """Their state is float64 here; they add an eps of 1e-6 to the normaliser."""
    hf = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    module = example("mlstm", N=8, P=6)
    i = inputs_of(module, LENGTH)
    q, k, v, gate_i, gate_f = heads_first(*(i[name] for name in ("q", "k", "v", "i", "f")))
    theirs = hf.mlstm_recurrent_sequence_native(q, k, v, gate_i, gate_f, dtype_state=torch.float64)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    torch.testing.assert_close(module(**i), theirs.transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_rglru() -> None:
    """The gated scan of Griffin, from the second position on: at the first, theirs resets and does not normalise."""
    hf = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    config = hf.RecurrentGemmaConfig(lru_width=5, num_attention_heads=1, hidden_size=5)
    theirs = hf.RecurrentGemmaRglru(config)
    module = example("rglru", C=5)
    torch.nn.init.normal_(theirs.recurrent_gate_weight), torch.nn.init.normal_(theirs.input_gate_weight)
    torch.nn.init.normal_(theirs.recurrent_gate_bias), torch.nn.init.normal_(theirs.input_gate_bias)
    with torch.no_grad():
        theirs.recurrent_param.copy_(module.get_parameter("Lambda"))
    x = torch.randn(2, LENGTH, 5)
    gate_r = x @ theirs.recurrent_gate_weight[0] + theirs.recurrent_gate_bias[0]
    gate_i = x @ theirs.input_gate_weight[0] + theirs.input_gate_bias[0]
    module.get_parameter("Lambda").data = theirs.recurrent_param.detach().double()
    with torch.no_grad():
        y = theirs(x, torch.arange(1, LENGTH + 1)[None].expand(2, -1))
        values, magnitudes = module.bounds(x, gate_r, gate_i)
    # The gates are computed in float32 on both sides, and not in the same order: their error counts on top.
    assert ((y.double() - values).abs() <= 64 * UNIT * magnitudes + 1e-6).all()
