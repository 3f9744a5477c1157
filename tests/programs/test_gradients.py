"""Gradients of generated code against those of the float64 reference: inputs, parameters, states, in every order."""

from __future__ import annotations

import pytest
import torch

from ssdc.runtime.module import Layer
from ssdc.runtime.state import State
from tests.support.compare import Report
from tests.support.gradients import conditioned, cotangents, expected, gradients, tolerance
from tests.support.programs import (
    CASES,
    CAUSAL,
    CHUNK,
    Case,
    at,
    compiled,
    cut,
    draw_inputs,
    joined,
    orders,
    output_times,
    reference,
    time_dims,
    tuple_of,
)  # fmt: skip

LENGTH = CHUNK + 7


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs_and_parameters(case: Case, dtype: torch.dtype) -> None:
    x, weights, wanted, condition = expected(case, LENGTH)
    report = Report()
    for order, wanted_order in orders(case).items():
        layer = compiled(case, wanted_order, dtype)
        found = gradients(layer, layer, {k: v.to(dtype) if v.is_floating_point() else v for k, v in x.items()}, weights)
        assert set(found) == set(wanted)
        for name, g in found.items():
            assert g.dtype == dtype
            report.check(
                g,
                wanted[name],
                tolerance(case, name, condition[name], dtype, order, LENGTH),
                f"{order}, gradient of {name}",
            )
    report.close()


@pytest.mark.parametrize("case", CAUSAL, ids=str)
def test_through_the_state(case: Case) -> None:
    """Outputs after a cut alone have a cotangent, so that all that reaches inputs before it came through the state."""
    report, place = Report(), CHUNK + 2
    x = {k: v.double() if v.is_floating_point() else v for k, v in draw_inputs(case, LENGTH).items()}
    module = reference(case)
    weights = cotangents(case, tuple_of(module(**x)))
    for w, d in zip(weights, output_times(case), strict=True):
        w.narrow(d, 0, place).zero_()
    wanted, condition = conditioned(lambda i, w: gradients(module, module, i, w), module, x, weights, time_dims(case))
    for order, wanted_order in orders(case).items():
        layer = compiled(case, wanted_order, torch.float64)

        def cut_call(layer: Layer = layer, **given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            first, state = layer(**cut(case, given, 0, place), return_state=True)
            second, state = layer(**cut(case, given, place, LENGTH - 1), state=state, return_state=True)
            last, _ = layer.step(state, **at(case, given, LENGTH - 1))
            stepped = tuple(y.unsqueeze(d) for y, d in zip(tuple_of(last), output_times(case), strict=True))
            return tuple(joined(case, tuple_of(first), tuple_of(second), stepped))

        found = gradients(cut_call, layer, x, weights)
        for name, g in found.items():
            report.check(
                g,
                wanted[name],
                tolerance(case, name, condition[name], torch.float64, order, LENGTH),
                f"{order}, gradient of {name}",
            )
    report.close()


@pytest.mark.parametrize("name", ("ssd", "gla", "rwkv6", "linear_attention", "plain_gates", "windows", "retention"))
def test_gradcheck(name: str) -> None:
    """Against finite differences, initial state and final state included: the reference has no part in this."""
    case = next(case for case in CASES if case.name == name)
    x = {k: v.double() if v.is_floating_point() else v for k, v in draw_inputs(case, 5, b=1).items()}
    names = [k for k, v in x.items() if v.is_floating_point()]
    for order, wanted_order in orders(case).items():
        layer = compiled(case, wanted_order, torch.float64)
        _, start = layer(**draw_double(case, 3), return_state=True)
        real = [t.detach() for t in start.tensors if t.is_floating_point()]

        def call(*given: torch.Tensor, layer: Layer = layer, start: State = start) -> tuple[torch.Tensor, ...]:
            rest = iter(given[len(names) :])
            tensors = [next(rest) if t.is_floating_point() else t for t in start.tensors]
            state = type(start)(start.layer, start.names, tensors)
            y, after = layer(**{**x, **dict(zip(names, given, strict=False))}, state=state, return_state=True)
            return (*tuple_of(y), *(t for t in after.tensors if t.is_floating_point()))

        leaves = [x[k].clone().requires_grad_() for k in names] + [t.clone().requires_grad_() for t in real]
        assert torch.autograd.gradcheck(call, leaves, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True), order


def draw_double(case: Case, length: int) -> dict[str, torch.Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in draw_inputs(case, length, b=1, seed=3).items()}
