"""Random programs: every legal order, a prefill cut and stepped, and the reference agree; gradients too.

SSDC_EXAMPLES sets how many: 800 take about two and a half minutes on two cores. Runs are seeded: shard k tries the same
programs every time. One in twenty as many is differentiated.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import Tensor

import ssdc
from ssdc.runtime.module import Layer
from tests.support.compare import check, fourier, tolerance
from tests.support.gradients import conditioned, gradients
from tests.support.programs import tuple_of
from tests.support.specs import STEADY, Spec, specs

SHARDS = 8
EXAMPLES = int(os.environ.get("SSDC_EXAMPLES", "800")) // SHARDS
QUIET = settings(deadline=None, database=None, print_blob=False, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_orders_agree(shard: int) -> None:
    @seed(shard)
    @settings(QUIET, max_examples=max(1, EXAMPLES))
    @given(specs())
    def run(spec: Spec) -> None:
        agree(spec)

    run()


@pytest.mark.parametrize("shard", range(2))
def test_gradients_agree(shard: int) -> None:
    @seed(100 + shard)
    @settings(QUIET, max_examples=max(1, EXAMPLES * SHARDS // 40))
    @given(specs())
    def run(spec: Spec) -> None:
        differentiate(spec)

    run()


def differentiate(spec: Spec) -> None:
    """In float64, the gradients of every order are the reference's."""
    torch.manual_seed(spec.seed)
    module = ssdc.reference(spec.text, sizes=spec.sizes)
    x = spec.draw(b=2, dtype=torch.float64)
    weights = [torch.randn(y.shape, dtype=torch.float64) for y in tuple_of(module(**x))]
    dims = dict.fromkeys(x, 1)
    wanted, condition = conditioned(lambda i, w: gradients(module, module, i, w), module, x, weights, dims)
    checked = ssdc.check(spec.text, sizes=spec.sizes, lenient=False)
    first = Layer(checked.source, checked.scope, checked.graph, dtype=torch.float64)
    for order, wanted_order in legal(first, spec.length).items():
        layer = Layer(checked.source, checked.scope, checked.graph, order=wanted_order, dtype=torch.float64)
        layer.load_state_dict(module.state_dict())
        largest = max((float(c.max()) for c in condition.values() if c.numel()), default=0.0)
        for name, g in gradients(layer, layer, x, weights).items():
            check(g, wanted[name], 1e-9 * condition[name] + 1e-13 * largest, f"{order}, gradient of {name}")


def agree(spec: Spec) -> None:
    """Every order, cut and stepped, is within the bound."""
    torch.manual_seed(spec.seed)
    module = ssdc.reference(spec.text, sizes=spec.sizes)
    for parameter in module.parameters():
        parameter.data = parameter.data.float().double()
    x = spec.draw(b=2)
    checked = ssdc.check(spec.text, sizes=spec.sizes, lenient=False)
    steady = any(gate in spec.text for gate in STEADY)
    wanted, magnitude = (tuple_of(v) for v in module.bounds(**x, products=steady))
    plain = [tolerance(w, m) for w, m in zip(wanted, magnitude, strict=True)]
    transformed = [p + fourier(m, 1) for p, m in zip(plain, magnitude, strict=True)]
    first = Layer(checked.source, checked.scope, checked.graph)
    first.load_state_dict({name: value.float() for name, value in module.state_dict().items()})
    for order, wanted_order in {"auto": {}, **legal(first, spec.length)}.items():
        layer = first
        if order != "auto":
            layer = Layer(
                checked.source,
                checked.scope,
                checked.graph,
                order=wanted_order,
                chunk=spec.chunk if order == "chunked" else None,
            )
            layer.load_state_dict(first.state_dict())
        bound = transformed if order in ("auto", "fft") else plain
        for k, y in enumerate(tuple_of(layer(**x))):
            check(y, wanted[k], bound[k], f"{order}, output {k}")
        if layer.causal:
            for k, y in enumerate(continued(layer, x, spec)):
                check(y, wanted[k], bound[k], f"{order}, cut at {spec.cut}, output {k}")


def legal(layer: Layer, length: int) -> dict[str, dict[str, str]]:
    """As `tests.support.programs.orders`."""
    choices = layer.plan(b=2, T=length).choices
    found = {name: {c.order for c in (choice.chosen, *choice.rivals)} for name, choice in choices.items()}
    names = sorted({order for orders in found.values() for order in orders})
    return {o: {name: o if o in orders else "recurrent" for name, orders in found.items()} for o in names}


def continued(layer: Layer, x: dict[str, Tensor], spec: Spec) -> list[Tensor]:
    """The outputs of a prefill, a second call up to two positions before the end, and two steps."""
    end = max(spec.cut, spec.length - 2)
    first, state = layer(**{k: v[:, : spec.cut] for k, v in x.items()}, return_state=True)
    second, state = layer(**{k: v[:, spec.cut : end] for k, v in x.items()}, state=state, return_state=True)
    parts = [tuple_of(first), tuple_of(second)]
    for place in range(end, spec.length):
        y, state = layer.step(state, **{k: v[:, place] for k, v in x.items()})
        parts.append(tuple(v.unsqueeze(1) for v in tuple_of(y)))
    return [torch.cat(one, 1) for one in zip(*parts, strict=True)]
