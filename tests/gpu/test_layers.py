"""Every example as a whole layer on a GPU: outputs and gradients in each dtype, cut, stepped, packed, moved, repeated.

Outputs are held against the float64 reference on the CPU; gradients against the layer's own PyTorch text in float64 on
the device, which a test of its own holds against the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import ssdc
from ssdc import CallError, OrderError, StateError
from ssdc.runtime.module import Layer
from tests.support import gradients
from tests.support.compare import UNIT, Report, check
from tests.support.device import (
    CAUSAL_EXAMPLES,
    DEVICE,
    DTYPES,
    EXAMPLES,
    example,
    expected,
    gradient_bound,
    held,
    inputs,
    marks,
    moved,
    on_device,
    through_a_state,
    wanted_gradients,
)
from tests.support.programs import (
    Case,
    at,
    cut,
    draw_inputs,
    joined,
    log_gate,
    output_times,
    time_dims,
    tuple_of,
)  # fmt: skip

pytestmark = marks
LENGTHS = (0, 1, 63, 64, 65, 1000)
LEARNED = (1, 65, 1000)
"""Lengths of the gradients; all kernels of the backward pass are parallel over chunks."""
OFFSETS = (0, 1, 1, 64, 69, 130)
each = pytest.mark.parametrize("case", EXAMPLES, ids=str)
each_causal = pytest.mark.parametrize("case", CAUSAL_EXAMPLES, ids=str)


@pytest.fixture(autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(min(4, before))
    yield
    torch.set_num_threads(before)


def compare(report: Report, outputs: object, wanted, bounds, what: str, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    for k, (y, w, m) in enumerate(zip(tuple_of(outputs), wanted, bounds, strict=True)):
        assert y.dtype == dtype and y.device == DEVICE
        report.check(y.cpu(), w, m, f"{what}, output {k}")


# ---- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@each
def test_forward(case: Case, length: int) -> None:
    report = Report()
    for dtype in DTYPES if length in LEARNED else DTYPES[:2]:
        x, wanted, bounds = expected(case, length, dtype)
        layer = on_device(case, low=dtype != torch.float32)
        compare(report, layer(**moved(x, dtype)), wanted, bounds, str(dtype), dtype)
    report.close()


@pytest.mark.parametrize("case", [case for case in EXAMPLES if log_gate in case.draws.values()], ids=str)
def test_extreme_gates(case: Case) -> None:
    """From none to complete forgetting, minus infinity among the logarithms."""
    report = Report()
    for dtype in DTYPES[:2]:
        x, wanted, bounds = expected(case, 130, dtype, extreme=True)
        compare(
            report, on_device(case, low=dtype != torch.float32)(**moved(x, dtype)), wanted, bounds, str(dtype), dtype
        )
    report.close()


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@each_causal
def test_cut_and_stepped(case: Case, dtype: torch.dtype) -> None:
    report, length = Report(), 130
    x, wanted, bounds = expected(case, length, dtype)
    x, layer = moved(x, dtype), on_device(case, low=dtype != torch.float32)
    for place in (0, 1, 63, 64, 65, length):
        first, state = layer(**cut(case, x, 0, place), return_state=True)
        assert all(t.dtype in (torch.float32, torch.int64) and t.device == DEVICE for t in state.tensors)
        second, _ = layer(**cut(case, x, place, length), state=state, return_state=True)
        found = joined(case, tuple_of(first), tuple_of(second))
        compare(report, tuple(found), wanted, bounds, f"cut at {place}", dtype)
    first, state = layer(**cut(case, x, 0, length - 4), return_state=True)
    parts = [tuple_of(first)]
    for place in range(length - 4, length):
        with torch.set_grad_enabled(place % 2 == 0):
            y, state = layer.step(state, **at(case, x, place))
        parts.append(tuple(v.unsqueeze(d) for v, d in zip(tuple_of(y), output_times(case), strict=True)))
    compare(report, tuple(joined(case, *parts)), wanted, bounds, "stepped", dtype)
    report.close()


@each_causal
def test_steps_from_the_start(case: Case) -> None:
    x, wanted, bounds = expected(case, 65, torch.float32)
    given, layer, parts = moved(x, torch.float32), on_device(case), []
    state = layer.init_state(**{axis: 3 if axis == "m" else 2 for axis in layer.call_axes})
    for place in range(6):
        y, state = layer.step(state, **at(case, given, place))
        parts.append(tuple(v.unsqueeze(d) for v, d in zip(tuple_of(y), output_times(case), strict=True)))
    for y, w, m, d in zip(joined(case, *parts), wanted, bounds, output_times(case), strict=True):
        check(y.cpu(), w.narrow(d, 0, 6), m.narrow(d, 0, 6), "steps")


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@each
def test_packed_documents(case: Case, dtype: torch.dtype) -> None:
    """Offsets on either device; with states, documents run one by one."""
    report = Report()
    x, wanted, bounds = expected(case, OFFSETS[-1], dtype, offsets=OFFSETS)
    layer, x = on_device(case, low=dtype != torch.float32), moved(x, dtype)
    for how, offsets in {
        "a list": list(OFFSETS),
        "int32, on the device": torch.tensor(OFFSETS, dtype=torch.int32, device=DEVICE),
    }.items():
        compare(report, layer(**x, cu_seqlens=offsets), wanted, bounds, how, dtype)
    if case in CAUSAL_EXAMPLES:
        y, states = layer(**x, cu_seqlens=list(OFFSETS), return_state=True)
        assert len(states) == len(OFFSETS) - 1
        compare(report, y, wanted, bounds, "with states", dtype)
    report.close()


@each
def test_the_cpu_gives_the_same(case: Case) -> None:
    """The same layer, moved: both within their bounds of the reference, so within twice these of each other."""
    x, _, bounds = expected(case, 65, torch.float32)
    layer = on_device(case, device=torch.device("cpu"))
    here = tuple_of(layer(**x))
    there = tuple_of(layer.to(DEVICE)(**moved(x, torch.float32)))
    for y, z, m in zip(there, here, bounds, strict=True):
        check(y.cpu(), z.double(), 2 * m, "cuda against cpu")


@each_causal
def test_a_state_moves_between_devices(case: Case) -> None:
    x, wanted, bounds = expected(case, 130, torch.float32)
    layer = on_device(case, device=torch.device("cpu"))
    first, state = layer(**cut(case, x, 0, 70), return_state=True)
    second, _ = layer.to(DEVICE)(
        **moved(cut(case, x, 70, 130), torch.float32), state=state.to(DEVICE), return_state=True
    )
    found = joined(case, tuple_of(first), tuple(y.cpu() for y in tuple_of(second)))
    for y, w, m in zip(found, wanted, bounds, strict=True):
        check(y, w, m, "begun on the cpu")


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LEARNED)
@each
def test_gradients(case: Case, length: int) -> None:
    """Of inputs, parameters and first state, through outputs and last state."""
    report = Report()
    for dtype in DTYPES if length == 65 else DTYPES[:2]:
        low = dtype != torch.float32
        x, start, weights, wanted, condition = wanted_gradients(case, length, low)
        layer = on_device(case, low=low)
        given = {
            k: v.to(torch.float32 if "state" in k or not low else dtype) if v.is_floating_point() else v
            for k, v in x.items()
        }
        begin = None if start is None else start.to(torch.float32)
        found = gradients.gradients(through_a_state(layer, begin), layer, given, weights)
        assert set(found) == set(wanted)
        for name, g in found.items():
            allowed = gradient_bound(case, name, wanted[name], condition[name], dtype, length, given)
            report.check(g, wanted[name], allowed, f"{dtype}, gradient of {name}")
    report.close()


@each
def test_gradients_in_float64_are_the_references(case: Case) -> None:
    """What the gradients of the other dtypes are held against."""
    length = 33
    x, weights, wanted, condition = gradients.expected(case, length)
    layer = on_device(case, torch.float64)
    found = gradients.gradients(layer, layer, moved(x, torch.float64), [w.to(DEVICE) for w in weights])
    for name, g in found.items():
        allowed = gradients.tolerance(case, name, condition[name], torch.float64, "auto", length)
        check(g.cpu(), wanted[name], allowed, name)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("name", ("ssd", "linear_attention", "retention", "mamba2", "hydra", "gla", "rwkv6"))
def test_gradients_of_packed_documents(name: str, dtype: torch.dtype) -> None:
    """Those of documents that run one by one."""
    case, low, length = example(name), dtype != torch.float32, OFFSETS[-1]
    exact = on_device(case, torch.float64, low=low, backend="torch")
    x = moved(inputs(case, length, low=low, b=1), torch.float64)

    def split(**given: Tensor) -> tuple[Tensor, ...]:
        parts = [tuple_of(exact(**cut(case, given, a, b))) for a, b in pairwise(OFFSETS) if a < b]
        return tuple(joined(case, *parts))

    weights = gradients.cotangents(case, tuple(y.cpu() for y in split(**x)))
    weights = [(held(w.float()) if low else w).to(DEVICE, torch.float64) for w in weights]
    wanted, condition = gradients.conditioned(
        lambda i, w: gradients.gradients(split, exact, i, w),
        exact,
        x,
        weights,
        time_dims(case),
        UNIT[torch.bfloat16] if low else gradients.STEP,
    )
    layer = on_device(case, low=low)
    given = {k: v.to(dtype) for k, v in x.items()}
    offsets = torch.tensor(OFFSETS, device=DEVICE)
    found = gradients.gradients(partial(layer, cu_seqlens=offsets), layer, given, weights)
    for key, g in found.items():
        check(g, wanted[key], gradient_bound(case, key, wanted[key], condition[key], dtype, length, given), key)


# ---- determinism and causality ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@each
def test_two_runs_give_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    x, runs = moved(inputs(case, 130), dtype), []
    leaves = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in x.items()}
    wanted = [v for v in leaves.values() if v.requires_grad]
    for _ in range(2):
        layer = on_device(case)
        causal = case in CAUSAL_EXAMPLES
        y, state = layer(**leaves, return_state=True) if causal else (layer(**leaves), None)
        total = torch.stack([v.float().square().sum() for v in tuple_of(y)]).sum()
        found = torch.autograd.grad(total, [*wanted, *layer.parameters()], allow_unused=True)
        kept = () if state is None else state.tensors
        runs.append([*tuple_of(y), *kept, *(g for g in found if g is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@each_causal
def test_later_inputs_change_no_bit_of_earlier_outputs(case: Case, dtype: torch.dtype) -> None:
    length, layer, dims = 200, on_device(case), time_dims(case)
    x, other = moved(draw_inputs(case, length), dtype), moved(draw_inputs(case, length, seed=9), dtype)
    first = tuple_of(layer(**x))
    for place in (1, 64, 137):
        mixed = {}
        for name, value in x.items():
            dim, late = dims[name], value if name == "doc" else other[name]  # documents stay in order
            mixed[name] = torch.cat([value.narrow(dim, 0, place), late.narrow(dim, place, length - place)], dim)
        for y, z, d in zip(first, tuple_of(layer(**mixed)), output_times(case), strict=True):
            assert torch.equal(y.narrow(d, 0, place), z.narrow(d, 0, place)), place


# ---- errors ----------------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")
MISTAKES: dict[str, tuple[type[Exception], Callable[[Layer, dict[str, Tensor]], object], tuple[str, ...]]] = {
    "inputs on the cpu": (
        CallError,
        lambda layer, x: layer(**{k: v.cpu() for k, v in x.items()}),
        ("'x' is on cpu", "the layer is on cuda:0", ".to()"),
    ),
    "one input on the cpu": (
        CallError,
        lambda layer, x: layer(**{**x, "B": x["B"].cpu()}),
        ("'B' is on cpu", "cuda:0"),
    ),
    "a layer on the cpu": (
        CallError,
        lambda layer, x: on_device(example("ssd"), device=CPU)(**x),
        ("'x' is on cuda:0", "the layer is on cpu"),
    ),
    "a state on the cpu": (
        StateError,
        lambda layer, x: layer(**x, state=layer.init_state(b=2, device="cpu")),
        ("is on cpu", "need it on cuda:0", "state.to()"),
    ),
    "a 16-bit state": (
        StateError,
        lambda layer, x: layer(**x, state=layer.init_state(b=2).to(torch.bfloat16)),
        ("is torch.bfloat16", "needs torch.float32", "state.to(torch.float32)"),
    ),
    "a wide state": (
        StateError,
        lambda layer, x: layer(**x, state=layer.init_state(b=2, dtype=torch.float64)),
        ("is torch.float64", "needs torch.float32"),
    ),
    "a state of another layer": (
        StateError,
        lambda layer, x: layer(**x, state=on_device(example("retention")).init_state(b=2)),
        ("belongs to a layer 'retention'", "this is 'ssd'"),
    ),
    "a state of another batch": (
        StateError,
        lambda layer, x: layer(**x, state=layer.init_state(b=3)),
        ("the batch that made it",),
    ),
    "a step on the cpu": (
        CallError,
        lambda layer, x: layer.step(layer.init_state(b=2), **{k: v[:, 0].cpu() for k, v in x.items()}),
        ("is on cpu", "cuda:0"),
    ),
    "kernels asked for on the cpu": (
        CallError,
        lambda layer, x: on_device(example("ssd"), device=CPU, backend="triton")(**{k: v.cpu() for k, v in x.items()}),
        ("backend='triton'", "are on cpu", "backend='auto'"),
    ),
    "kernels asked for where they serve nothing": (
        OrderError,
        lambda layer, x: ssdc.compile(
            example("attention").path, sizes=dict(example("attention").sizes), backend="triton"
        ),
        ("serve nothing of attention", "no masked contraction", "backend='auto'"),
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told(what: str) -> None:
    kind, call, words = MISTAKES[what]
    layer, x = on_device(example("ssd")), moved(inputs(example("ssd"), 5), torch.float32)
    with pytest.raises(kind) as caught:
        call(layer, x)
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert bool(layer(**x).isfinite().all()), "a mistake leaves the layer as it was"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@each
def test_on_a_device_that_is_not_the_current_one(case: Case) -> None:
    """Values and gradients are those of the current device, bit for bit."""
    other = torch.device("cuda", 1)
    found = []
    for device in (DEVICE, other):
        layer = on_device(case, low=True, device=device)
        x = moved(inputs(case, 65), torch.bfloat16, device)
        x = {name: one.requires_grad_() if one.is_floating_point() else one for name, one in x.items()}
        y = tuple_of(layer(**x))
        assert torch.cuda.current_device() == 0 and all(one.device == device for one in y)
        sum(one.float().sum() for one in y).backward()
        grads = [leaf.grad for leaf in (*x.values(), *layer.parameters()) if leaf.grad is not None]
        found.append([one.detach().cpu() for one in (*y, *grads)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_bound_on_the_device_can_fail() -> None:
    case = example("ssd")
    for dtype in DTYPES:
        x, wanted, bounds = expected(case, 65, dtype)
        y = on_device(case, low=dtype != torch.float32)(**moved(x, dtype)).cpu()
        assert float(bounds[0].max()) < 0.5 * float(wanted[0].abs().max())
        y[1, 40, 2, 3] += 2 * float(bounds[0][1, 40, 2, 3])
        with pytest.raises(AssertionError, match=r"1 of \d+ elements"):
            check(y, wanted[0], bounds[0], "spoiled")
