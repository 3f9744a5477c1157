"""Memory on a GPU: every element of a result is written, nothing else is, and nothing unwritten is read."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from ssdc.codegen.triton.facts import Template
from ssdc.codegen.triton.hopper import Role
from tests.support.canaries import MARGIN, Guarded
from tests.support.device import DEVICE, example, inputs, marks, moved, on_device
from tests.support.launches import CHUNKED, FORMS, both_ways, recorded, runs, walked
from tests.support.programs import at, tuple_of

pytestmark = marks
LAUNCHES = 1000
each_type = pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)


def to_device(x: Tensor) -> Tensor:
    return x.to(DEVICE)


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(found, wanted, strict=True))


def test_every_template_is_launched() -> None:
    """What the other tests here, and compute-sanitizer, run is all there is."""
    with recorded() as found:
        for _, run in runs(torch.bfloat16, to_device):
            run()
    hopper = torch.cuda.get_device_capability()[0] == 9
    assert set(found) == {*get_args(Template), *((*get_args(Role), "gates") if hopper else ())}


@pytest.fixture
def poisoned():
    """Unwritten memory begins as NaN: torch fills what it hands out, and the allocator's cache is full of it."""
    blocks = [torch.full((2**size,), torch.nan, device=DEVICE) for size in range(7, 26) for _ in range(3)]
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    del blocks
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(False)


@each_type
def test_every_element_of_a_result_is_written(dtype: torch.dtype, poisoned: None) -> None:
    assert bool(torch.zeros(3, device=DEVICE, dtype=dtype).new_empty((500,)).isnan().all()), "poison does its work"
    first = {name: run() for name, run in runs(dtype, to_device)}
    torch.utils.deterministic.fill_uninitialized_memory = False
    for name, run in runs(dtype, to_device):
        assert same(first[name], run()), name


@each_type
def test_nothing_but_the_results_is_written(dtype: torch.dtype) -> None:
    """Operands, results and everything in between lie between margins: a thousand launches touch none of them, and
    read none, for a margin is NaN."""
    plain = {name: run() for name, run in runs(dtype, to_device)}
    launches, made = 0, 0
    with recorded() as found:
        while launches < LAUNCHES:
            for name, _ in runs(dtype, to_device):
                guard = Guarded()
                guarded = dict(runs(dtype, lambda x, guard=guard: guard.like(x.to(DEVICE))))[name]
                with guard:
                    results = guarded()
                assert same(results, plain[name]), name
                made += guard.made
                assert guard.intact(), name
            assert len(found) > launches
            launches = len(found)
    assert made > launches


def test_a_canary_sings() -> None:
    guard = Guarded()
    with guard:
        x = torch.zeros(3, device=DEVICE).new_empty((5,))
    assert bool(x.isnan().all()) and guard.made == 1
    torch.as_strided(x, (1,), (1,), x.storage_offset() + 5).zero_()
    assert not guard.intact()
    with guard:
        x = torch.empty(7, device=DEVICE, dtype=torch.bfloat16)
    torch.as_strided(x, (1,), (1,), MARGIN // 2 - 1).zero_()
    assert not guard.intact()
    guard.like(torch.ones(3, device=DEVICE)).zero_()
    assert guard.intact()


@each_type
def test_a_layer_under_poison(dtype: torch.dtype, poisoned: None) -> None:
    """Forward, backward and step of whole layers, what PyTorch computes included."""
    for name in ("ssd", "linear_attention", "retention", "mamba2"):
        case = example(name)
        layer, x = on_device(case), moved(inputs(case, 130), dtype)
        leaves = {k: v.requires_grad_() for k, v in x.items()}

        def run() -> list[Tensor]:
            y, state = layer(**leaves, return_state=True)  # noqa: B023
            grads = torch.autograd.grad(tuple_of(y)[0].float().square().sum(), [*leaves.values(), *layer.parameters()])  # noqa: B023
            with torch.no_grad():
                one, state = layer.step(state, **at(case, x, 3))  # noqa: B023
            return [*tuple_of(y), *grads, *tuple_of(one), *state.tensors]

        torch.utils.deterministic.fill_uninitialized_memory = True
        first = run()
        torch.utils.deterministic.fill_uninitialized_memory = False
        assert same(first, run()), name


def test_no_launch_touches_its_operands() -> None:
    for case in CHUNKED:
        for form, segments in FORMS:
            if form == "hopper" and not walked(case, torch.bfloat16):
                continue
            kept: list[tuple[Tensor, Tensor]] = []

            def place(x: Tensor, kept: list[tuple[Tensor, Tensor]] = kept) -> Tensor:
                kept.append((x.to(DEVICE), x.to(DEVICE)))
                return kept[-1][0]

            both_ways(case, torch.bfloat16, form, segments, place)
            assert all(torch.equal(a, b) for a, b in kept), (case, form, segments)
