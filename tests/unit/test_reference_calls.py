"""Calls of the reference: states, steps, packed documents, arguments, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from ssdc.errors import CallError, DtypeError, SpecError, StateError
from ssdc.runtime.reference import EvaluationError
from tests.unit.reference_cases import BOTH_WAYS, SIZES, example, inputs_of, reference

STREAMS = sorted(set(SIZES) - set(BOTH_WAYS))


def part(inputs: dict[str, torch.Tensor], start: int, end: int) -> dict[str, torch.Tensor]:
    return {name: tensor[:, start:end] for name, tensor in inputs.items()}


@pytest.mark.parametrize("name", STREAMS)
def test_going_on_equals_one_call(name: str) -> None:
    module = example(name)
    inputs = inputs_of(module, 9)
    whole = module(**inputs)
    first, state = module(**part(inputs, 0, 4), return_state=True, state=module.init_state(b=2))
    second, state = module(**part(inputs, 4, 4 + 3), state=state, return_state=True)
    steps = []
    for t in (7, 8):
        y, state = module.step(state, **{name: tensor[:, t] for name, tensor in inputs.items()})
        steps.append(y)
    torch.testing.assert_close(torch.cat([first, second, torch.stack(steps, 1)], 1), whole, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_documents_are_evaluated_one_by_one(name: str) -> None:
    module = example(name)
    inputs = inputs_of(module, 9, b=1)
    y = module(**inputs, cu_seqlens=torch.tensor([0, 4, 4, 5, 9]))
    parts = [module(**part(inputs, *span)) for span in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(y, torch.cat(parts, 1), rtol=0, atol=0)
    values, _ = module.bounds(**inputs, cu_seqlens=[0, 4, 9])
    torch.testing.assert_close(values[:, :4], y[:, :4], rtol=1e-10, atol=1e-11)


def test_documents_carry_a_state_each() -> None:
    module = example("ssd")
    inputs = inputs_of(module, 10, b=1)
    cut = [0, 3, 5]
    first, states = module(**part(inputs, 0, 5), cu_seqlens=cut, return_state=True)
    second, _ = module(**part(inputs, 5, 10), cu_seqlens=cut, state=states, return_state=True)
    alone = module(**{k: torch.cat([v[:, :3], v[:, 5:8]], 1) for k, v in inputs.items()})
    torch.testing.assert_close(torch.cat([first[:, :3], second[:, :3]], 1), alone, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("offsets", [[0], [0, 4], [1, 5], [0, 4, 3, 5], []])
def test_bad_offsets(offsets: list[int]) -> None:
    module = example("ssd")
    with pytest.raises(CallError, match="cu_seqlens leads from 0"):
        module(**inputs_of(module, 5, b=1), cu_seqlens=offsets)


def test_both_ways_has_no_state() -> None:
    module = example("hydra")
    with pytest.raises(StateError, match="reads later positions"):
        module(**inputs_of(module, 3), return_state=True)
    for text in ("full", "causal(reverse)", "documents(d[t])"):
        head = "layer f() { time t, s axis b input x[b,t], d[t] : int mask M[t,s]"
        code = f"{head} = {text} y[b,t] = M[t,s] * x[b,s] output y }}"
        with pytest.raises(StateError):
            reference(code)(torch.ones(1, 3), torch.zeros(3, dtype=torch.long), return_state=True)


def test_arguments() -> None:
    module = example("retention")
    i = inputs_of(module, 3)
    torch.testing.assert_close(module(i["q"], i["k"], v=i["v"]), module(**i), rtol=0, atol=0)
    assert module(**inputs_of(module, 3, dtype=torch.bfloat16)).dtype == torch.float64
    for wrong, match in [
        ({"q": i["q"], "k": i["k"]}, "'v' is missing"),
        ({**i, "z": i["v"]}, "no input 'z'"),
        ({**i, "v": i["v"][:, :2]}, "'v' has 2 positions along"),
        ({**i, "v": i["v"][0]}, "'v' has 4 dimensions, found 3"),
        ({**i, "q": i["q"][..., :3]}, "'q' has 3 positions"),
    ]:
        with pytest.raises(CallError, match=match):
            module(**wrong)
    with pytest.raises(CallError, match="given twice"):
        module(i["q"], q=i["q"])
    with pytest.raises(CallError, match="takes 3 inputs, 4 are given"):
        module(i["q"], i["q"], i["q"], i["q"])


def test_dtypes() -> None:
    module = example("packed_window")
    i = inputs_of(module, 3)
    with pytest.raises(DtypeError, match="'doc' is int, found float64"):
        module(**{**i, "doc": i["doc"].double()})
    with pytest.raises(DtypeError, match="'q' is real, found complex128"):
        module(**{**i, "q": i["q"].to(torch.complex128)})


def test_states_that_do_not_fit() -> None:
    module = example("ssd")
    i = inputs_of(module, 3)
    with pytest.raises(StateError, match="3 positions along 'b', the call 2"):
        module(**i, state=module.init_state(b=3))
    gates = example("gla", H=4, N=5)
    _, other = gates(**inputs_of(gates, 3), return_state=True)
    with pytest.raises(StateError, match="other inputs"):
        module(**i, state=other)
    with pytest.raises(StateError, match="no axis 'q'"):
        module.init_state(q=3)


def test_an_input_without_time_may_not_change() -> None:
    text = """layer f() { time t, s axis b input x[b,t], w[b] mask M[t,s] = causal
      y[b,t] = w[b] * M[t,s] * x[b,s] output y }"""
    module, x, w = reference(text), torch.randn(2, 4), torch.randn(2)
    _, state = module(x, w, return_state=True)
    y, state = module.step(state, x[:, 0], w)
    torch.testing.assert_close(y, w.double() * (x.sum(1) + x[:, 0]).double(), rtol=1e-6, atol=1e-6)
    with pytest.raises(StateError, match="'w' has no time axis and differs"):
        module(x, w + 1, state=state)


def test_several_outputs_are_a_tuple() -> None:
    text = "layer f() { time t axis b input x[b,t] y[b,t] = 2 * x[b,t] z[b,t] = x[b,t-1] output z, y }"
    (z, y), state = reference(text)(torch.ones(1, 2), return_state=True)
    assert y.tolist() == [[2, 2]] and z.tolist() == [[0, 1]]
    (z, y), _ = reference(text).step(state, torch.ones(1))
    assert y.tolist() == [2] and z.tolist() == [1]


def test_a_parameter_over_time_has_no_size() -> None:
    text = "layer f() { time t, s axis b input x[b,t] param m[t,s] mask M[t,s] = dense(m[t,s]) "
    text += "y[b,t] = M[t,s] * x[b,s] output y }"
    with pytest.raises(SpecError, match="E257") as caught:
        reference(text)
    assert caught.value.source.position(caught.value.faults[0].span.start) == (1, text.index("m[t,s]") + 1)


def test_used_layers_need_a_way_to_their_scopes() -> None:
    from ssdc.graph.scope import resolve
    from ssdc.runtime.reference import Reference
    from ssdc.source import Source
    from ssdc.syntax.parser import parse

    inner = "layer one() { time t axis b input x[b,t] y[b,t] = x[b,t] output y }"
    outer = "layer two() { time t axis b input x[b,t] use a = one() y[b,t] = a(x[b,t]) output y }"
    scope = resolve(parse(Source(inner + outer)).layers[1], {})
    with pytest.raises(EvaluationError, match="no way to its scope"):
        Reference(scope)
