"""The streamed and the recurrent kernels on a GPU, against float64 on the CPU: values, gradients, layouts, graphs,
compile, determinism, layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssdc.runtime.kernels.masked import masked
from ssdc.runtime.kernels.streamed import streamed
from tests.support import masked as chunked
from tests.support.launches import recorded
from tests.support.masked import units
from tests.support.streamed import CASES, Case, operands, reference
from tests.support.streamed_layers import LAYERS, WIRED, checked

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-8}
ALLOWED = {torch.float32: 16, torch.bfloat16: 2, torch.float16: 2}
LARGE = (
    Case(length=300, states=64, columns=64),
    Case(length=300, states=128, columns=64, scale=True, width=100, past=99),
    Case(length=200, states=32, columns=128, strict=True, own="varying"),
    Case(length=200, states=128, columns=128, scale=True, groups=(1, 1, 0)),
    Case(length=200, states=128, columns=128, scale=True, width=64, past=63),
    Case(batch=1, length=200, states=256, columns=256, width=130, past=129),
    Case(batch=1, length=63, states=64, columns=64),
    Case(batch=1, length=64, states=64, columns=64, width=64, past=63),
    Case(batch=1, length=65, states=64, columns=64, width=66, past=65),
    Case(batch=1, length=1000, states=64, columns=64, width=300),
)


def on_device(given, grad=True):  # type: ignore[no-untyped-def]
    return [None if x is None else x.cuda().requires_grad_(grad) for x in given]


def run(case, given):  # type: ignore[no-untyped-def]
    query, key, value, gate, own, scale = given
    ends = "gate" if case.own == "gate" else own
    return streamed(query, key, value, gate, ends, scale, case.heads, case.strict, case.width)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("case", (*CASES, *LARGE), ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and case.rate > 100:
        pytest.skip("float16 has no numbers for what such gates leave")
    if dtype == torch.float16 and case.past:
        case = replace(case, rate=min(case.rate, 0.1))  # nor for what they leave at the far end of a window
    given = operands(case, dtype)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns).to(dtype)
    exact, magnitude = reference(case, given, grad)
    leaves = on_device(given)
    y = run(case, leaves)
    y.backward(grad.cuda())
    found = units([y, *(x.grad for x in leaves if x is not None)], exact, magnitude, UNIT[dtype])
    assert max(found) <= ALLOWED[dtype], found


@pytest.mark.parametrize("columns", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("states", [16, 32, 64, 128, 256])
def test_every_pair_of_tile_sizes(states: int, columns: int) -> None:
    for case in (
        Case(batch=1, length=200, states=states, columns=columns, scale=True),
        Case(batch=1, length=200, states=states, columns=columns, width=70, past=69),
        Case(batch=1, length=200, states=states, columns=columns, gate="none"),
    ):
        given = operands(case, torch.bfloat16)
        grad = torch.randn(1, case.length, case.heads, columns).bfloat16()
        exact, magnitude = reference(case, given, grad)
        leaves = on_device(given)
        y = run(case, leaves)
        y.backward(grad.cuda())
        found = units([y, *(x.grad for x in leaves if x is not None)], exact, magnitude, 2.0**-8)
        assert max(found) <= 2, (case, found)


@pytest.mark.parametrize("width", [None, 1, 50, 64])
def test_later_inputs_leave_earlier_outputs_alone_and_runs_repeat(width: int | None) -> None:
    case = Case(length=300, states=64, columns=64, width=width, scale=True)
    given = on_device(operands(case, torch.bfloat16), False)
    first = run(case, given)
    changed = [None if x is None else torch.cat([x[:, :137], -torch.rand_like(x[:, 137:])], 1) for x in given]
    assert torch.equal(first[:, :137], run(case, changed)[:, :137])
    assert torch.equal(first[:, :137], run(case, [None if x is None else x[:, :137] for x in given]))
    grad = torch.randn_like(first)
    once = None
    for _ in range(10):
        leaves = [None if x is None else x.detach().requires_grad_() for x in given]
        y = run(case, leaves)
        y.backward(grad)
        found = [y, *(x.grad for x in leaves if x is not None)]
        once = once or found
        assert all(torch.equal(a, b) for a, b in zip(once, found, strict=True))


def test_layouts_give_the_same_bits() -> None:
    case = Case(length=150, past=30, width=31, states=64, columns=64)
    given = on_device(operands(case, torch.bfloat16), False)
    plain = run(case, given)
    turned = [x if x is None or x.ndim != 4 else x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2) for x in given]
    assert torch.equal(plain, run(case, turned))
    wide = [None if x is None else torch.cat([x, torch.full_like(x, torch.nan)], 1)[:, : x.shape[1]] for x in given]
    assert torch.equal(plain, run(case, wide))
    early = [None if x is None else torch.cat([torch.full_like(x, torch.nan), x], 1)[:, x.shape[1] :] for x in given]
    assert torch.equal(plain, run(case, early))


def test_a_graph_replays_and_a_compiled_call_agrees() -> None:
    case = Case(length=300, states=64, columns=64, width=100)
    given = on_device(operands(case, torch.bfloat16), False)
    eager = run(case, given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(case, given)
    captured.fill_(torch.nan)
    graph.replay()
    assert torch.equal(eager, captured)
    compiled = torch.compile(lambda *x: run(case, x), fullgraph=True)
    assert torch.equal(eager, compiled(*given))


def test_opcheck() -> None:
    case = Case(length=70, past=9, width=10, states=16, columns=32, scale=True)
    leaves = on_device(operands(case, torch.float32))
    torch.library.opcheck(torch.ops.ssdc.streamed.default, (*leaves, case.heads, case.strict, 0, case.width))


def test_offsets_past_two_to_the_31() -> None:
    """The last positions of a call of 2.4 thousand million elements, beside a call of these positions alone."""
    length, heads, size, width = 300_000, 64, 128, 60
    query, key, value = (torch.randn(1, length, heads, size, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    gate = -torch.rand(1, length, heads, device="cuda")
    y = streamed(query, key, value, gate, None, None, heads, False, width)
    tail = (key[:, -200:], value[:, -200:], gate[:, -200:])
    alone = streamed(query[:, -100:], *tail, None, None, heads, False, width)
    assert float((y[:, -100:].float() - alone.float()).abs().max()) <= 2.0**-7 * float(alone.float().abs().max())


# ---- position by position ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("case", chunked.CASES, ids=str)
def test_a_short_call_goes_position_by_position(case: chunked.Case, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and case.rate > 100:
        pytest.skip("float16 has no numbers for what such gates leave")
    for length, form in ((1, ""), (7, ""), (16, ""), (100, "recurrent")):
        short = replace(case, length=length)
        given = chunked.operands(short, dtype)
        grad = torch.randn(short.batch, length, short.heads, short.columns).to(dtype)
        grad_final = torch.randn(short.batch, short.heads, short.states, short.pitch)
        exact, magnitude = chunked.reference(short, given, grad, grad_final)
        leaves = on_device(given)
        query, key, value, gate, own, scale, initial, skip = leaves
        ends = "gate" if short.own == "gate" else own
        with recorded() as launched:
            y, final = masked(
                query, key, value, gate, ends, scale, initial, short.heads, short.strict, skip, short.maps, form
            )
        assert launched == ["recurrent"]
        torch.autograd.backward((y, final), (grad.cuda(), grad_final.cuda()))
        found = units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, UNIT[dtype])
        assert max(found) <= ALLOWED[dtype], (length, found)


# ---- layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_against_its_equations(name: str, dtype: torch.dtype) -> None:
    found, templates, gradients = checked(name, "cuda", dtype)
    assert templates == {LAYERS[name].template}
    assert max(found) <= ALLOWED[dtype], found
    assert max(gradients, default=0.0) <= WIRED
