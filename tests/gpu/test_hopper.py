"""The walk for Hopper GPUs, in each of its roles, against float64 on the CPU: values, gradients, segments of time,
sizes of heads, layouts that the copy engine does not read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ssdc.codegen.triton import choose
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.calls import Given
from ssdc.runtime.kernels.forward import run_forward
from ssdc.runtime.kernels.masked import configured
from tests.gpu.test_masked import ALLOWED, LARGE, on_device, run
from tests.support.hopper import errors, served
from tests.support.masked import CASES, Case, operands

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")]

LENGTHS = tuple(Case(length=length, states=64, columns=64) for length in (1, 63, 64, 65, 127, 128, 129, 700))


def check(case: Case, dtype: torch.dtype, segments: int) -> None:
    """One case in the walk's form, forward and backward."""
    found = errors(case, dtype, segments, "cuda")
    assert max(found) <= ALLOWED[dtype], found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", (*CASES, *LARGE, *LENGTHS), ids=str)
def test_values_and_gradients_of_every_role(case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and case.rate > 100:
        pytest.skip("float16 has no numbers for what such gates leave")
    if not served(case, dtype, "cuda"):
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
    case = Case(length=2**15, states=64, columns=64)
    lead = (case.batch, case.length, case.heads, 64)
    query, key, value = (torch.zeros(lead, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    gate = torch.zeros(lead[:3], device="cuda")

    def form(*tensors: torch.Tensor) -> str:
        given = Given(*tensors, gate, None, None, None, case.heads, False, 0)
        return choose.forward(given.facts, given.call(gradient=True)).form

    assert form(query, key, value) == "hopper"
    assert form(*(x[:, :100] for x in (query, key, value))) != "hopper"  # too short to pay
    odd = torch.zeros(*lead[:3], 65, device="cuda", dtype=torch.bfloat16)[..., 1:]  # rows of 130 bytes
    assert form(odd, key, value) != "hopper"
    assert not walks.readable(query[:1].expand(2, -1, -1, -1))


def test_two_runs_give_the_same_bits_and_later_inputs_leave_earlier_outputs_alone() -> None:
    case = Case(batch=2, length=700, states=128, columns=64, scale=True)
    leaves = on_device(operands(case, torch.bfloat16), grad=False)
    first, again = run(case, leaves, "hopper")[0], run(case, leaves, "hopper")[0]
    assert torch.equal(first, again)
    changed = [x.clone() if x is not None else None for x in leaves]
    for x in changed[:3]:
        x[:, 333:] = 7.0
    assert torch.equal(run(case, changed, "hopper")[0][:, :333], first[:, :333])


def test_a_thread_that_has_no_context_yet() -> None:
    """Its first call makes descriptors, in memory that the allocator has."""
    query, key, value = (torch.randn(1, 300, 2, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    given = Given(query, key, value, torch.zeros(1, 300, 2, device="cuda"), None, None, None, 2, False, 0)
    moved = given._replace(query=query.clone())
    chosen = choose.forward(given.facts, given.call(gradient=True), form="hopper")
    again = configured(chosen)
    want = [again(*given)[0] for _ in range(4)].pop()
    for call, tensors in ((again, moved), (lambda *given: run_forward(chosen, Given(*given)), given)):
        with ThreadPoolExecutor(1) as threads:
            found = threads.submit(call, *tensors).result()[0]
        assert torch.equal(found, want)
