"""Compiled layers as torch modules: compile, export, autocast, packing, determinism, causality, saving, copying."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ssdc
from tests.support.compare import FACTOR, UNIT, Report, check, fourier, tolerance
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

SEVERAL = (
    "ssd",
    "gla",
    "mamba2",
    "linear_attention",
    "rwkv6",
    "rglru",
    "windows",
    "lags_and_places",
    "attention",
    "retention",
)
TRACED = ("ssd", "gla", "linear_attention", "windows", "attention", "lags_and_places")
some = pytest.mark.parametrize("case", [case for case in CASES if case.name in SEVERAL], ids=str)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def within(case: Case, inputs: dict[str, Tensor], outputs: object, what: str) -> None:
    wanted, magnitude = (tuple_of(v) for v in reference(case).bounds(**inputs, products=True))
    for y, w, m, d in zip(tuple_of(outputs), wanted, magnitude, output_times(case), strict=True):
        check(y, w, tolerance(w, m) + fourier(m, d, case.grown), what)


# ---- tracing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dynamic"), [*((name, True) for name in TRACED), ("ssd", False), ("windows", False)])
def test_compile(name: str, dynamic: bool) -> None:
    case = named(name)
    layer = torch.compile(compiled(case), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (CHUNK + 3, 2 * CHUNK + 1):
        x = draw_inputs(case, length)
        within(case, x, layer(**x), f"T = {length}")


@pytest.mark.parametrize("name", ("ssd", "lags_and_places", "attention"))
def test_compile_with_state_and_gradients(name: str) -> None:
    case = named(name)
    eager, x = compiled(case), draw_inputs(case, CHUNK + 3)
    layer = torch.compile(eager, fullgraph=True, backend="aot_eager", dynamic=True)
    first, state = layer(**cut(case, x, 0, 11), return_state=True)
    second, _ = layer(**cut(case, x, 11, CHUNK + 3), state=state, return_state=True)
    within(case, x, tuple(joined(case, tuple_of(first), tuple_of(second))), "a cut call")
    real = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in x.items()}
    leaves = [v for v in real.values() if v.requires_grad]
    compiled_grads, eager_grads = (
        torch.autograd.grad(sum(y.sum() for y in tuple_of(f(**real))), leaves, allow_unused=True)
        for f in (layer, eager)
    )
    for one, other in zip(compiled_grads, eager_grads, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("name", "order"),
    (("ssd", "recurrent"), ("ssd", "quadratic"), ("gla", "chunked"), ("rwkv6", "scan"), ("hyena", "fft")),
)
def test_compile_of_each_order(name: str, order: str) -> None:
    case = named(name)
    layer = torch.compile(compiled(case, orders(case)[order]), fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (5, 2 * CHUNK + 1):
        x = draw_inputs(case, length)
        within(case, x, layer(**x), f"T = {length}")


EXPORTED = ("ssd", "gla", "mamba2", "retention", "linear_attention", "windows", "attention", "lags_and_places", "rglru")


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_a_dynamic_length(name: str) -> None:
    """Every length, multiples of the chunk and less than one chunk among them; inputs by position, for torch cannot
    describe the sizes of keyword arguments that a signature does not name."""
    case = named(name)
    layer, x = compiled(case), draw_inputs(case, 300)
    time = torch.export.Dim("T")
    shapes = tuple({dim: time} if dim is not None else {} for dim in time_dims(case).values())
    program = torch.export.export(layer, tuple(x.values()), dynamic_shapes=(shapes,))
    for length in (300, 1, 7, CHUNK, CHUNK + 1, 4 * CHUNK):
        x = draw_inputs(case, length)
        within(case, x, program.module()(*x.values()), f"T = {length}")


@pytest.mark.parametrize("order", ("recurrent", "quadratic", "chunked", "scan"))
def test_export_of_each_order_and_gradients_through_it(order: str) -> None:
    case = named("ssd")
    layer, x = compiled(case, order), draw_inputs(case, 2 * CHUNK + 3)
    time = torch.export.Dim("T")
    shapes = tuple({dim: time} for dim in time_dims(case).values())
    program = torch.export.export(layer, tuple(x.values()), dynamic_shapes=(shapes,)).module()
    x = draw_inputs(case, CHUNK + 5)
    leaves = [value.requires_grad_() for value in x.values()]
    ours, eager = (torch.autograd.grad(run(*leaves).square().sum(), leaves) for run in (program, layer))
    for one, other in zip(ours, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_the_operator_of_an_exported_contraction() -> None:
    """opcheck, all four: schema, autograd registration, fake tensors, tracing."""
    layer = ssdc.compile("examples/ssd.ssd", sizes={"H": 2, "P": 4, "N": 4}, order="chunked", chunk=16)
    x = [torch.randn(2, 20, 2, 4), torch.rand(2, 20, 2), torch.randn(2, 20, 1, 4), torch.randn(2, 20, 1, 4)]
    time = torch.export.Dim("T")
    program = torch.export.export(layer, tuple(x), dynamic_shapes=(tuple({1: time} for _ in x),))
    (node,) = [node for node in program.graph.nodes if "ssdc.contraction" in str(node.target)]
    text, name = node.args[0], node.args[1]
    given = [torch.randn(2, 20, 1, 4), torch.randn(2, 20, 1, 4), torch.rand(2, 20, 1, 2), torch.randn(2, 20, 1, 2, 4)]
    given = [value.requires_grad_() for value in (*given, -torch.rand(2, 20, 1, 2))]
    arguments = (text, name, given, [True] * 5 + [False], True, False, [2, 20, 1, 2, 4], [2, 1, 2, 4, 4])
    torch.library.opcheck(torch.ops.ssdc.contraction.default, arguments)


# ---- precision -----------------------------------------------------------------------------------------------------


@some
def test_autocast_leaves_states_and_decays_alone(case: Case) -> None:
    """Only contractions with a parameter are in bfloat16; the rest is bit for bit what it is without autocast."""
    layer, x = compiled(case), draw_inputs(case, CHUNK + 3)
    plain, state = layer(**x, return_state=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_state = layer(**x, return_state=True)
    assert [t.dtype for t in cast_state.tensors] == [t.dtype for t in state.tensors]
    assert all(t.dtype in (torch.float32, torch.int64) for t in cast_state.tensors)
    learned = case.name == "mamba2"
    for y, z in zip(tuple_of(plain), tuple_of(cast), strict=True):
        assert y.dtype == z.dtype
        assert torch.equal(y, z) != learned
    if learned:
        wanted, magnitude = reference(case).bounds(**x, dtype=torch.bfloat16)
        rounded = FACTOR * UNIT[torch.bfloat16] * (magnitude + wanted.abs())
        check(tuple_of(cast)[0], wanted, rounded, "autocast")


def test_double_and_other_default_dtypes() -> None:
    for case in CASES:
        x = {k: v.double() if v.is_floating_point() else v for k, v in draw_inputs(case, 9).items()}
        wanted = tuple_of(compiled(case, "auto", torch.float64)(**x))
        for y, w in zip(tuple_of(compiled(case).double()(**x)), wanted, strict=True):
            assert torch.equal(y, w), case.name
        torch.set_default_dtype(torch.float64)
        try:
            narrow = {k: v.float() if v.is_floating_point() else v for k, v in x.items()}
            within(case, narrow, compiled(case)(**narrow), f"{case}, default dtype float64")
        finally:
            torch.set_default_dtype(torch.float32)


# ---- packed documents ----------------------------------------------------------------------------------------------
PACKED = tuple(case for case in CASES if case.name != "odd_shapes")


@pytest.mark.parametrize("case", PACKED, ids=str)
def test_packed_documents(case: Case) -> None:
    offsets, length = [0, 1, 1, CHUNK, CHUNK + 5, 2 * CHUNK + 6], 2 * CHUNK + 6
    x, report = draw_inputs(case, length, b=1), Report()
    wanted, magnitude = (tuple_of(v) for v in reference(case).bounds(**x, products=True, cu_seqlens=offsets))
    for order, wanted_order in orders(case).items():
        layer = compiled(case, wanted_order)
        for how, given in {"list": offsets, "int32": torch.tensor(offsets, dtype=torch.int32)}.items():
            try:
                outputs = tuple_of(layer(**x, cu_seqlens=given))
            except ssdc.OrderError as error:
                assert "fft" in (order, *wanted_order.values()) or order == "auto", error
                continue
            for k, (y, w, m) in enumerate(zip(outputs, wanted, magnitude, strict=True)):
                report.check(y, w, tolerance(w, m), f"{order}, {how}, output {k}")
        if case in CAUSAL:
            outputs, states = layer(**x, cu_seqlens=offsets, return_state=True)
            assert len(states) == len(offsets) - 1
            for k, (y, w, m, d) in enumerate(
                zip(tuple_of(outputs), wanted, magnitude, output_times(case), strict=True)
            ):
                report.check(y, w, tolerance(w, m) + fourier(m, d, case.grown), f"{order}, with states, output {k}")
            last = cut(case, x, offsets[-2], offsets[-1])
            _, alone = layer(**last, return_state=True)
            assert all(torch.equal(a, b) for a, b in zip(states[-1].tensors, alone.tensors, strict=True))
    report.close()


# ---- determinism and causality -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_calls_give_the_same_bits(case: Case) -> None:
    x = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in draw_inputs(case, CHUNK + 5).items()}
    leaves = [v for v in x.values() if v.requires_grad]
    for order, wanted_order in orders(case).items():
        runs = []
        for _ in range(2):
            outputs = tuple_of(compiled(case, wanted_order)(**x))
            total = sum(y.square().sum() for y in outputs)
            runs.append(
                (*outputs, *(g for g in torch.autograd.grad(total, leaves, allow_unused=True) if g is not None))
            )
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True)), order


@pytest.mark.parametrize("case", CAUSAL, ids=str)
def test_later_inputs_change_no_bit_of_earlier_outputs(case: Case) -> None:
    """Forwards and backwards. The order fft mixes all positions in its transform: there, only to within its bound."""
    length = 2 * CHUNK + 5
    x, other, dims = draw_inputs(case, length), draw_inputs(case, length, seed=9), time_dims(case)
    for order, wanted_order in orders(case).items():
        if order == "fft":
            continue
        layer = compiled(case, wanted_order)
        for place in (1, 17, CHUNK, CHUNK + 9):
            mixed = {}
            for name, value in x.items():
                dim, late = dims[name], value if name == "doc" else other[name]  # documents stay in order
                mixed[name] = torch.cat([value.narrow(dim, 0, place), late.narrow(dim, place, length - place)], dim)
            for y, z, d in zip(tuple_of(layer(**x)), tuple_of(layer(**mixed)), output_times(case), strict=True):
                assert torch.equal(y.narrow(d, 0, place), z.narrow(d, 0, place)), (order, place)
            leaves = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in x.items()}
            early = sum(
                y.narrow(d, 0, place).square().sum()
                for y, d in zip(tuple_of(layer(**leaves)), output_times(case), strict=True)
            )
            early.backward()
            for name, leaf in leaves.items():
                if leaf.requires_grad and leaf.grad is not None:
                    assert not leaf.grad.narrow(dims[name], place, length - place).any(), (order, place, name)


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "odd_shapes"], ids=str)
def test_a_part_of_the_batch_gives_the_same_values(case: Case) -> None:
    x = draw_inputs(case, CHUNK + 1, b=3)
    for y in (compiled(case, order)(**{k: v[1:2] for k, v in x.items()}) for order in orders(case).values()):
        part = {k: v[1:2] for k, v in x.items()}
        within(case, part, y, "row 1 alone")


# ---- saving, copying, states as trees ------------------------------------------------------------------------------


@some
def test_saving_copying_and_states(case: Case) -> None:
    layer, x = compiled(case), draw_inputs(case, CHUNK + 1)
    y, state = layer(**x, return_state=True)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    other = ssdc.compile(case.path, sizes=dict(case.sizes))
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    twin = copy.deepcopy(layer)
    for one in (other, twin):
        assert all(torch.equal(a, b) for a, b in zip(tuple_of(y), tuple_of(one(**x)), strict=True))
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert all(torch.equal(a, b) for a, b in zip(tuple_of(y), tuple_of(layer(**x)), strict=True))
    leaves, spec = pytree.tree_flatten(state)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    again = pytree.tree_unflatten([leaf.clone() for leaf in leaves], spec)
    one = at(case, x, 0)
    first, second = layer.step(state, **one)[0], other.step(again, **one)[0]
    assert all(torch.equal(a, b) for a, b in zip(tuple_of(first), tuple_of(second), strict=True))
