"""Compiled layers and the reference against implementations by others: fla's naive recurrences, transformers' torch
bodies.

Both sides are float32, and both are within 16 u m of what is right (`tests/support/compare.py`): so each is held to
that
bound around the reference, and the reference is thereby held to theirs. Their code is a test dependency, and is
called as the
plain torch function under its dispatcher (`__wrapped__`), which may pick a kernel otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.compare import check, tolerance
from tests.support.programs import CASES, Case, compiled, draw_inputs, orders, reference, tuple_of

pytest.importorskip("transformers")
pytest.importorskip("fla")
pytestmark = pytest.mark.filterwarnings("ignore")
LENGTH = 83


@cache
def case_of(name: str, **sizes: int) -> Case:
    case = next(case for case in CASES if case.name == name)
    return Case(name, {**case.sizes, **sizes}, case.draws, case.steady, case.folder)


def agree(case: Case, inputs: dict[str, Tensor], peer: Tensor) -> None:
    """Both the peer and every order of the compiled layer are within their bound of the reference."""
    wanted, magnitude = reference(case).bounds(**inputs, products=True)
    bound = tolerance(wanted, magnitude)
    assert float(wanted.abs().max()) > 0.1, "a test of zeros"
    check(peer, wanted, bound, "the peer")
    for order, wanted_order in orders(case).items():
        (found,) = tuple_of(compiled(case, wanted_order)(**inputs))
        check(found, wanted, bound, order)


def parameters(case: Case) -> dict[str, Tensor]:
    return {name: value.detach().float() for name, value in reference(case).named_parameters()}


def linear_attention(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.linear_attn.naive import naive_recurrent_linear_attn

    feature = [torch.nn.functional.elu(i[name]) + 1 for name in "qk"]
    return naive_recurrent_linear_attn(*feature, i["v"], scale=1.0, normalize=True)[0]


def retention(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.retention.naive import naive_retention

    return naive_retention(*(i[name].transpose(1, 2) for name in "qkv")).transpose(1, 2)


def gla(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.gla.naive import naive_recurrent_gla

    return naive_recurrent_gla(i["q"], i["k"], i["v"], i["g"])[0]


def hgrn2(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.gla.naive import naive_recurrent_gla

    lower = parameters(case)["lower"]
    gate = lower + (1 - lower) * i["f"].sigmoid()
    q = torch.nn.functional.silu(i["q"]) * math.sqrt(i["q"].shape[-1])  # it divides by that
    return naive_recurrent_gla(q, 1 - gate, i["i"], gate.log())[0]


def rwkv6(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6

    given = [i[name].transpose(1, 2) for name in "rkvw"]
    return naive_recurrent_rwkv6(*given, parameters(case)["u"], scale=1.0)[0].transpose(1, 2)


def based(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.based.naive import naive_parallel_based

    q, k, v = (i[name].transpose(1, 2) for name in "qkv")
    return naive_parallel_based(q, k, v, use_norm=True).transpose(1, 2)


def gsa(case: Case, i: dict[str, Tensor]) -> Tensor:
    from fla.ops.gsa.naive import naive_recurrent_gsa

    q, k, v, g = (i[name] for name in "qkvg")
    return naive_recurrent_gsa(q, k, v, 1 - g.exp(), g, scale=q.shape[-1] ** -0.5)[0]


def rwkv4(case: Case, i: dict[str, Tensor]) -> Tensor:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    p = parameters(case)
    return i["r"].sigmoid() * rwkv_linear_attention_cpu(p["time_decay"], p["time_first"], i["k"], i["v"])[0]


def ssd(case: Case, i: dict[str, Tensor]) -> Tensor:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    p = parameters(case)
    return plain(mamba2_chunk_scan)(i["x"], i["dt"], -p["A_log"].exp(), i["B"], i["C"], chunk_size=16, D=p["D"])


def mamba(case: Case, i: dict[str, Tensor]) -> Tensor:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    p, (x, dt, b, c) = parameters(case), (i[name].transpose(1, 2) for name in ("x", "dt", "B", "Cm"))
    return plain(mamba_selective_scan)(x, dt, -p["A_log"].exp(), b, c, D=p["D"]).transpose(1, 2)


def rglru(case: Case, i: dict[str, Tensor]) -> Tensor:
    """Its gates are computed inside, block by block: with blocks of one channel and weights of zero for the input, the
    biases are the pre-activations, one position at a time."""
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    class Config:
        num_attention_heads = lru_width = case.sizes["C"]

    module, rows = RecurrentGemmaRglru(Config()), []
    module.recurrent_param.data = parameters(case)["Lambda"]
    for weight in (module.input_gate_weight, module.recurrent_gate_weight):
        weight.data.zero_()
    for row in range(i["x"].shape[0]):
        module.recurrent_states, steps = torch.zeros(1, case.sizes["C"]), []
        for t in range(LENGTH):
            module.input_gate_bias.data = i["i"][row, t, :, None]
            module.recurrent_gate_bias.data = i["r"][row, t, :, None]
            steps.append(module(i["x"][row, None, t, None], torch.ones(1, 1)).detach()[0, 0])
        rows.append(torch.stack(steps))
    return torch.stack(rows)


def plain(dispatcher: Callable[..., Any]) -> Callable[..., Any]:
    """The torch body under a dispatcher of transformers."""
    return dispatcher.__wrapped__  # type: ignore[attr-defined, no-any-return]


PEERS: dict[str, Callable[[Case, dict[str, Tensor]], Tensor]] = {
    "linear_attention": linear_attention, "retention": retention, "gla": gla, "hgrn2": hgrn2, "rwkv6": rwkv6,
    "based": based,
    "gsa": gsa, "rwkv4": rwkv4, "ssd": ssd, "mamba": mamba, "rglru": rglru,
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_cores(name: str) -> None:
    case = case_of(name)
    inputs = draw_inputs(case, LENGTH)
    agree(case, inputs, PEERS[name](case, inputs))


def test_retention_with_a_peer_in_float64_arithmetic() -> None:
    """Closer than float32 allows: retention as its dense matrix, written here, against both."""
    case = case_of("retention")
    i = {name: value.double() for name, value in draw_inputs(case, LENGTH).items()}
    gamma = 1 - 2.0 ** (-5.0 - torch.arange(case.sizes["H"], dtype=torch.float64))
    lag = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    dense = torch.where(lag >= 0, gamma[:, None, None] ** lag.clamp(min=0), 0)
    wanted = torch.einsum("bthn,bshn,hts,bshp->bthp", i["q"] * i["q"].shape[-1] ** -0.5, i["k"], dense, i["v"])
    torch.testing.assert_close(reference(case)(**i), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(compiled(case, "chunked", torch.float64)(**i), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "groups"), (("mamba2", 1), ("mamba2_grouped", 1), ("mamba2_grouped", 2)))
def test_whole_mamba2_mixer(name: str, groups: int) -> None:
    """Published parameter names load by name into the compiled layer; outputs and a decoding step agree."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=8,
        num_heads=4,
        head_dim=4,
        expand=2,
        state_size=5,
        n_groups=groups,
        chunk_size=16,
        num_hidden_layers=1,
    )
    torch.manual_seed(7)
    mixer = Mamba2Mixer(config, 0).eval()
    for parameter in mixer.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    case = case_of(name, G=groups)
    module = reference(case)
    module.load_state_dict({key: value.double() for key, value in mixer.state_dict().items()})
    inputs = draw_inputs(case, LENGTH)
    with plain_bodies("transformers.models.mamba2.modeling_mamba2"):
        peer = mixer(inputs["u"])
    agree(case, inputs, peer.detach())
    layer = compiled(case, "chunked")
    wanted, magnitude = module.bounds(**inputs)
    _, state = layer(u=inputs["u"][:, :-1], return_state=True)
    last, _ = layer.step(state, u=inputs["u"][:, -1])
    check(last, wanted[:, -1], tolerance(wanted, magnitude)[:, -1], "a step")


class plain_bodies:
    """While entered, every dispatcher of a module is its torch body."""

    def __init__(self, module: str) -> None:
        import importlib

        self.module = importlib.import_module(module)
        self.kept: dict[str, Any] = {}

    def __enter__(self) -> None:
        for name, value in list(vars(self.module).items()):
            if callable(value) and hasattr(value, "__wrapped__") and not isinstance(value, type):
                self.kept[name] = value
                setattr(self.module, name, value.__wrapped__)

    def __exit__(self, *error: object) -> None:
        for name, value in self.kept.items():
            setattr(self.module, name, value)


def test_a_wrong_layer_is_caught() -> None:
    """The comparison has teeth: a decay that is off by one part in ten thousand is no agreement."""
    case = case_of("gla")
    inputs = draw_inputs(case, LENGTH)
    off = {**inputs, "g": inputs["g"] * (1 + 1e-4)}
    with pytest.raises(AssertionError, match="the peer"):
        agree(case, inputs, gla(case, off))
