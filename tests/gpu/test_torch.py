"""Layers on a GPU as torch modules: compile, export, CUDA graphs, autocast, dtypes, sharding, copies; and no
call that waits for the device."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import ssdc
from ssdc.runtime.module import Layer
from ssdc.runtime.state import State
from tests.support import gradients
from tests.support.compare import check
from tests.support.device import (
    CAUSAL_EXAMPLES,
    DEVICE,
    EXAMPLES,
    example,
    expected,
    gradient_bound,
    inputs,
    marks,
    moved,
    on_device,
    served,
    through_a_state,
    wanted_gradients,
)
from tests.support.programs import Case, at, cut, output_times, time_dims, tuple_of

pytestmark = marks
NAMES = ("ssd", "linear_attention", "retention", "mamba2")
each_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


def within(case: Case, length: int, dtype: torch.dtype, outputs: object) -> None:
    """Outputs of a call with `expected`'s inputs, against the reference."""
    _, wanted, bounds = expected(case, length, dtype)
    for y, w, m in zip(tuple_of(outputs), wanted, bounds, strict=True):
        assert y.dtype == dtype
        check(y.cpu(), w, m, f"{case}, T = {length}")


# ---- compile and export ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), [*((n, torch.float32) for n in NAMES), ("ssd", torch.bfloat16)], ids=str)
def test_compile(name: str, dtype: torch.dtype) -> None:
    """Outputs at several lengths; gradients through the first and the last state."""
    case, low = example(name), dtype != torch.float32
    eager = on_device(case, low=low)
    layer = torch.compile(eager, fullgraph=True)
    x, start, weights, wanted, condition = wanted_gradients(case, 65, low)
    given = {k: v.to(torch.float32 if "state" in k else dtype) for k, v in x.items()}
    begin = None if start is None else start.to(torch.float32)
    found = gradients.gradients(through_a_state(layer, begin), eager, given, weights)
    for key, g in found.items():
        check(g, wanted[key], gradient_bound(case, key, wanted[key], condition[key], dtype, 65, given), key)
    for length in (65, 130):
        within(case, length, dtype, layer(**moved(expected(case, length, dtype)[0], dtype)))


@each_name
def test_compile_of_a_step(name: str) -> None:
    case = example(name)
    layer, length = on_device(case), 65
    x = moved(expected(case, length, torch.float32)[0], torch.float32)
    step = torch.compile(layer.step, fullgraph=True)
    with torch.no_grad():
        _, state = layer(**cut(case, x, 0, length - 2), return_state=True)
        for place in range(length - 2, length):
            y, state = step(state, **at(case, x, place))
            _, wanted, bounds = expected(case, length, torch.float32)
            for one, w, m, d in zip(tuple_of(y), wanted, bounds, output_times(case), strict=True):
                check(one.cpu(), w.select(d, place), m.select(d, place), f"position {place}")


@each_name
def test_export_with_a_dynamic_length(name: str) -> None:
    case = example(name)
    layer, time = on_device(case), torch.export.Dim("T")
    x = moved(inputs(case, 300), torch.float32)
    shapes = tuple({dim: time} if dim is not None else {} for dim in time_dims(case).values())
    program = torch.export.export(layer, tuple(x.values()), dynamic_shapes=(shapes,)).module()
    for length in (1, 63, 64, 65, 130):
        x = moved(expected(case, length, torch.float32)[0], torch.float32)
        within(case, length, torch.float32, program(*x.values()))


# ---- CUDA graphs -----------------------------------------------------------------------------------------------------


def captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of a call that was warmed up on a stream of its own, and what the graph writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run()
    return graph, made


def fill(into: dict[str, Tensor], new: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, x in into.items():
            x.copy_(new[name])


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("what", ("forward", "forward and backward", "packed"))
@each_name
def test_a_graph_of_a_call(name: str, what: str, dtype: torch.dtype) -> None:
    """A replay computes with what its inputs hold by then, bit for bit as without a graph."""
    case, b = example(name), 1 if what == "packed" else 2
    layer = on_device(case)
    x, new = (moved(inputs(case, 130, b=b, seed=seed), dtype) for seed in (0, 1))
    offsets = torch.tensor([0, 5, 5, 64, 130], device=DEVICE) if what == "packed" else None

    def run() -> tuple[Tensor, ...]:
        if what != "forward and backward":
            with torch.no_grad():
                return tuple_of(layer(**x, cu_seqlens=offsets))
        leaves = [*x.values(), *layer.parameters()]
        y = tuple_of(layer(**x))
        return (*y, *torch.autograd.grad(y, leaves, [torch.ones_like(one) for one in y]))

    for leaf in x.values():
        leaf.requires_grad_()
    graph, made = captured(run)
    before = [one.clone() for one in run()]
    fill(x, new)
    eager = run()
    for one in made:
        one.detach().fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(made, eager, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(made[:1], before[:1], strict=True))


@each_name
def test_a_graph_of_a_step(name: str) -> None:
    """The state in place: each replay is one position further."""
    case = example(name)
    layer, given = on_device(case), moved(inputs(case, 8), torch.bfloat16)
    static = {k: v.clone() for k, v in at(case, given, 0).items()}
    state = layer.init_state(b=2)

    @torch.no_grad()
    def run() -> Tensor:
        y, after = layer.step(state, **static)
        for old, new in zip(state.tensors, after.tensors, strict=True):
            old.copy_(new)
        return tuple_of(y)[0]

    graph, made = captured(run)
    for tensor in state.tensors:
        tensor.zero_()
    plain = layer.init_state(b=2)
    for place in range(8):
        fill(static, at(case, given, place))
        graph.replay()
        with torch.no_grad():
            y, plain = layer.step(plain, **at(case, given, place))
        assert torch.equal(made, tuple_of(y)[0])
        assert all(torch.equal(a, b) for a, b in zip(state.tensors, plain.tensors, strict=True))


# ---- nothing waits for the device ------------------------------------------------------------------------------------


@pytest.fixture
def no_waiting():
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def test_a_wait_is_seen(no_waiting: Callable[[], None]) -> None:
    x = torch.ones(3, device=DEVICE)
    no_waiting()
    with pytest.raises(RuntimeError, match="synchronizing"):
        x.sum().item()


@pytest.mark.parametrize("case", EXAMPLES, ids=str)
def test_no_call_waits_for_the_device(case: Case, no_waiting: Callable[[], None]) -> None:
    """Forward, backward, step, and with documents; the second time, when all is compiled."""
    layer = on_device(case)
    given = moved(inputs(case, 70, b=1), torch.bfloat16)
    x = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in given.items()}
    leaves = [v for v in x.values() if v.requires_grad]
    offsets = torch.tensor([0, 5, 5, 64, 70], device=DEVICE)
    causal = case in CAUSAL_EXAMPLES
    start = layer.init_state(**{axis: 2 if axis == "m" else 1 for axis in layer.call_axes}) if causal else None
    one = {k: v.detach().contiguous() for k, v in at(case, x, 0).items()}

    def run() -> None:
        for outputs in (
            layer(**x, state=start, return_state=True)[0] if causal else layer(**x),
            layer(**x, cu_seqlens=offsets),
        ):
            y = [v for v in tuple_of(outputs) if v.requires_grad]
            if served(case):  # PyTorch's own gradient of a product counts zeros on the host
                torch.autograd.grad(y, leaves, [torch.ones_like(v) for v in y], allow_unused=True)
        if start is not None:
            with torch.no_grad():
                layer.step(layer.step(start, **one)[1], **one)

    run()
    torch.cuda.synchronize()
    no_waiting()
    run()


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CAUSAL_EXAMPLES, ids=str)
def test_autocast(case: Case) -> None:
    """float32 inputs under autocast: outputs keep their type and are within the bounds of 16-bit inputs; states and
    gradients are float32."""
    layer = on_device(case, low=True)
    x, wanted, bounds = expected(case, 130, torch.bfloat16)
    leaves = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in moved(x, torch.float32).items()}
    with torch.autocast("cuda", torch.bfloat16):
        outputs, state = layer(**leaves, return_state=True)
    assert all(t.dtype in (torch.float32, torch.int64) for t in state.tensors)
    for y, w, m in zip(tuple_of(outputs), wanted, bounds, strict=True):
        assert y.dtype == torch.float32
        check(y.cpu(), w, m, "autocast")
    torch.stack([y.sum() for y in tuple_of(outputs)]).sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in (*leaves.values(), *layer.parameters()))


@each_name
def test_a_layer_in_bfloat16_keeps_its_states_wide(name: str) -> None:
    """Parameters take the dtype that they are given, as FSDP gives it; they are read in float32, and states stay so."""
    case = example(name)
    x = moved(inputs(case, 70), torch.bfloat16)
    narrow, wide = on_device(case, low=True).bfloat16(), on_device(case, low=True)
    assert all(value.dtype == torch.bfloat16 for value in narrow.state_dict().values())
    assert all(value.dtype == torch.float32 for value in wide.state_dict().values())
    found = [layer(**x, return_state=True) for layer in (narrow, wide)]
    states = [state.tensors for _, state in found]
    assert all(t.dtype == torch.float32 for t in (*states[0], *narrow.init_state(b=2).tensors))
    assert torch.equal(found[0][0], found[1][0]) and all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    with torch.no_grad():
        steps = [layer.step(state, **at(case, x, 3)) for layer, (_, state) in zip((narrow, wide), found, strict=True)]
    assert torch.equal(steps[0][0], steps[1][0]) and all(t.dtype == torch.float32 for t in steps[0][1].tensors)


@pytest.fixture
def one_rank():
    dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ("ssd", "mamba2"))
def test_fully_sharded(name: str, one_rank: None) -> None:
    """FSDP2 with parameters in bfloat16, on one rank: the values and gradients of a plain layer, float32 states that go
    on, `step` as a registered method."""
    case = example(name)
    x = moved(inputs(case, 70), torch.bfloat16)
    plain, sharded = on_device(case, low=True), on_device(case, low=True)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False)
    fully_shard(sharded, mp_policy=policy)
    dist.fsdp.register_fsdp_forward_method(sharded, "step")
    runs = []
    for layer in (plain, sharded):
        with torch.no_grad():
            _, state = layer(**cut(case, x, 0, 30), return_state=True)
        y, state = layer(**cut(case, x, 30, 70), state=state, return_state=True)
        y.float().square().sum().backward()
        grads = [_whole(p.grad) for p in layer.parameters()]
        with torch.no_grad():
            one, state = layer.step(state, **at(case, x, 3))
        assert all(t.dtype == torch.float32 for t in state.tensors)
        runs.append([y, one, *state.tensors, *grads])
    for place, (a, b) in enumerate(zip(*runs, strict=True)):
        if place < len(runs[0]) - len(list(plain.parameters())):
            assert torch.equal(a, b)
        else:  # gradients come back in bfloat16
            assert (a - b.float()).norm() <= 2.0**-7 * a.norm()


def _whole(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad.full_tensor() if hasattr(grad, "full_tensor") else grad


# ---- copies ----------------------------------------------------------------------------------------------------------


def _loaded(case: Case, layer: Layer) -> Layer:
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    twin = ssdc.compile(case.path, sizes=dict(case.sizes), device=DEVICE)
    twin.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    return twin


COPIES: dict[str, Callable[[Case, Layer], Layer]] = {
    "deepcopy": lambda case, layer: copy.deepcopy(layer),
    "pickle": lambda case, layer: pickle.loads(pickle.dumps(layer)),
    "state_dict": _loaded,
    "through the cpu": lambda case, layer: copy.deepcopy(layer).cpu().to(DEVICE),
}


@pytest.mark.parametrize("how", COPIES)
@each_name
def test_copies_compute_the_same(name: str, how: str) -> None:
    case = example(name)
    layer, x = on_device(case), moved(inputs(case, 70), torch.bfloat16)
    wanted, state = layer(**x, return_state=True)
    twin = COPIES[how](case, layer)
    y, after = twin(**x, return_state=True)
    assert torch.equal(y, wanted) and all(torch.equal(a, b) for a, b in zip(after.tensors, state.tensors, strict=True))
    again = pickle.loads(pickle.dumps(state.detach()))
    assert isinstance(again, State)
    with torch.no_grad():
        assert torch.equal(twin.step(again, **at(case, x, 0))[0], layer.step(state, **at(case, x, 0))[0])
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert torch.equal(layer(**x), wanted)
