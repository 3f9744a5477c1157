"""The walk for Hopper GPUs, in each of its roles, against float64 on the CPU: values, gradients, segments of time,
sizes of heads, layouts that the copy engine does not read."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import pytest
import torch

from ssdc.codegen.triton import configuration, hopper
from ssdc.runtime.kernels import calls, walks
from ssdc.runtime.kernels.masked import masked
from tests.gpu.test_masked import ALLOWED, LARGE, UNIT, on_device
from tests.support.masked import CASES, Case, operands, reference, units

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")]

LENGTHS = tuple(Case(length=length, states=64, columns=64) for length in (1, 63, 64, 65, 127, 128, 129, 700))
ROLES = ("outputs", "queries", "keys", "values")


def run(case: Case, leaves):  # type: ignore[no-untyped-def]
    *given, skip = leaves
    given[4] = "gate" if case.own == "gate" else given[4]
    return masked(*given, case.heads, case.strict, skip, case.maps)


def check(case: Case, dtype: torch.dtype, segments: int) -> None:
    """One case in the walk's form, forward and backward."""
    given = operands(case, dtype)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns).to(dtype)
    grad_final = torch.randn(case.batch, case.heads, case.states, case.columns)
    exact, magnitude = reference(case, given, grad, grad_final)
    leaves = on_device(given)
    forward = partial(configuration.forward, form="hopper", segments=segments)
    backward = partial(configuration.backward, form="hopper", segments=segments)
    ran = []
    real = walks._run
    with (
        patch.object(configuration, "forward", forward),
        patch.object(configuration, "backward", backward),
        patch.object(walks, "_run", lambda walk, *rest: (ran.append(walk.role), real(walk, *rest))),
    ):
        y, final = run(case, leaves)
        torch.autograd.backward((y, final), (grad.cuda(), grad_final.cuda()))
    assert tuple(ran) == ROLES
    found = units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, UNIT[dtype])
    assert max(found) <= ALLOWED[dtype], found


def served(case: Case, dtype: torch.dtype) -> bool:
    leaves = on_device(operands(case, dtype), grad=False)
    facts = calls.facts_of(
        leaves[0], leaves[2], leaves[3], leaves[5], case.strict, calls.OWN.index(case.own), leaves[7], case.maps
    )
    return hopper.fits(facts) and walks.readable(*leaves[:3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", (*CASES, *LARGE, *LENGTHS), ids=str)
def test_values_and_gradients_of_every_role(case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and case.rate > 100:
        pytest.skip("float16 has no numbers for what such gates leave")
    if not served(case, dtype):
        pytest.skip("served by the portable kernels")
    for segments in (1, 2, 3):
        check(case, dtype, segments)


@pytest.mark.parametrize("columns", [16, 24, 64, 80, 128, 256])
@pytest.mark.parametrize("states", [16, 24, 64, 80, 128, 256])
def test_every_pair_of_sizes(states: int, columns: int) -> None:
    for groups in ((0, 0, 0), (1, 1, 0)):
        case = Case(batch=1, length=130, states=states, columns=columns, groups=groups, scale=True, skip="head")
        check(case, torch.bfloat16, 1)


def test_large_calls_take_it_and_what_it_cannot_read_goes_elsewhere() -> None:
    case = Case(length=configuration.LARGE // 1024, states=64, columns=64)
    lead = (case.batch, case.length, case.heads, 64)
    query, key, value = (torch.zeros(lead, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    gate = torch.zeros(lead[:3], device="cuda")
    facts = calls.facts_of(query, value, gate, None, False, 0, None, "")

    def form(*tensors: torch.Tensor) -> str:
        return configuration.forward(facts, calls.call_of(case.heads, False, True, *tensors)).form

    assert form(query, key, value) == "hopper"
    assert form(*(x[:, :100] for x in (query, key, value))) != "hopper"  # too short to pay
    odd = torch.zeros(*lead[:3], 65, device="cuda", dtype=torch.bfloat16)[..., 1:]  # rows of 130 bytes
    assert form(odd, key, value) != "hopper"
    assert not walks.readable(query[:1].expand(2, -1, -1, -1))


def test_two_runs_give_the_same_bits_and_later_inputs_leave_earlier_outputs_alone() -> None:
    case = Case(batch=2, length=700, states=128, columns=64, scale=True)
    leaves = on_device(operands(case, torch.bfloat16), grad=False)
    walked = patch.object(configuration, "LARGE", 0)
    with walked:
        configuration.forward.cache_clear()
        first, again = run(case, leaves)[0], run(case, leaves)[0]
    assert torch.equal(first, again)
    changed = [x.clone() if x is not None else None for x in leaves]
    for x in changed[:3]:
        x[:, 333:] = 7.0
    with walked:
        assert torch.equal(run(case, changed)[0][:, :333], first[:, :333])
    configuration.forward.cache_clear()
