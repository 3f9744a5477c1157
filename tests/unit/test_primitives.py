"""`linear_scan`, `running_sum` and `recurrent` against their definitions, and torch's contracts for operators."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssdc.runtime import primitives
from ssdc.runtime.primitives import linear_scan, recurrent, running_sum

LENGTHS = [0, 1, 2, 63, 64, 65, 256, 257, 1000]
SEED = 20


def scan_by_definition(gate: Tensor, update: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    states, h = [initial] * update.shape[0], initial
    for i in sorted(range(update.shape[0]), reverse=reverse):
        h = gate[i] * h + update[i]
        states[i] = h
    return torch.stack(states) if states else update.clone()


def recurrent_by_definition(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, reader_gate: Tensor | None, h: Tensor, strict: bool
) -> tuple[Tensor, Tensor]:
    steps = query.shape[0]
    outputs = []
    for t in range(steps):
        before = h
        h = gate[t % gate.shape[0]].unsqueeze(-1) * h + key[t].unsqueeze(-1) * value[t].unsqueeze(-2)
        if strict:
            assert reader_gate is not None
            outputs.append(query[t] @ (reader_gate[t % reader_gate.shape[0]].unsqueeze(-1) * before))
        else:
            outputs.append(query[t] @ h)
    empty = query.new_zeros((0, *h.shape[:-2], query.shape[-2], h.shape[-1]))
    return torch.stack(outputs) if outputs else empty, h


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(SEED)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 steps: a scan of 1,000 then nests four deep."""
    monkeypatch.setattr(primitives, "BLOCK", 4)


def random(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=grad)


def gates_of(kind: str, *shape: int) -> Tensor:
    gate = torch.rand(shape, dtype=torch.float64)
    match kind:
        case "unit":
            return gate
        case "zeros":
            return gate * (torch.rand_like(gate) < 0.7)
        case "negative":
            return 1 - 2 * gate
        case "tiny":
            return torch.where(gate < 0.5, 1e-30, gate)
        case "one":
            return torch.ones_like(gate)
    raise AssertionError(kind)


def assert_scan(actual: Tensor, gate: Tensor, update: Tensor, initial: Tensor, reverse: bool) -> None:
    """Within 16 u of the sum of absolute terms, element by element; that sum is itself a scan."""
    wide = torch.complex128 if update.is_complex() else torch.float64
    expected = scan_by_definition(gate.to(wide), update.to(wide), initial.to(wide), reverse)
    terms = scan_by_definition(gate.to(wide).abs(), update.to(wide).abs(), initial.to(wide).abs(), reverse)
    unit = torch.finfo(actual.dtype).eps / 2
    assert actual.shape == expected.shape and actual.is_contiguous()
    assert bool(((actual - expected).abs() <= 16 * unit * terms).all())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (1,), (3, 4), (1, 4), (3, 1)], ids=str)
@pytest.mark.parametrize("steps", LENGTHS)
def test_scan_is_its_definition(steps: int, shape: tuple[int, ...], reverse: bool) -> None:
    state = (3, 4) if len(shape) == 2 else (5,) * len(shape)
    for dtype in (torch.float64, torch.float32):
        gate, update, initial = (
            gates_of("unit", steps, *shape).to(dtype),
            random(steps, *state, dtype=dtype),
            random(*state, dtype=dtype),
        )
        assert_scan(linear_scan(gate, update, initial, reverse), gate, update, initial, reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["unit", "zeros", "negative", "tiny", "one"])
def test_nested_blocks_are_the_definition(kind: str, reverse: bool, short_blocks: None) -> None:
    for steps in (*range(18), 63, 64, 65, 1000):
        gate, update, initial = gates_of(kind, steps, 3, 1), random(steps, 3, 2), random(3, 2)
        assert_scan(linear_scan(gate, update, initial, reverse), gate, update, initial, reverse)


@pytest.mark.parametrize("kind", ["zeros", "negative", "tiny", "one"])
def test_gates_of_every_size(kind: str) -> None:
    for dtype in (torch.float32, torch.float64):
        gate, update, initial = gates_of(kind, 1000, 7).to(dtype), random(1000, 7, dtype=dtype), random(7, dtype=dtype)
        assert_scan(linear_scan(gate, update, initial), gate, update, initial, False)


def test_big_state_takes_no_blocks_and_agrees() -> None:
    gate, update, initial = gates_of("unit", 300, 1, 100), random(300, 90, 100), random(90, 100)
    assert initial.numel() >= primitives.BLOCKED_STATE
    for reverse in (False, True):
        assert_scan(linear_scan(gate, update, initial, reverse), gate, update, initial, reverse)


def test_complex_scan() -> None:
    for dtype in (torch.complex64, torch.complex128):
        phase = torch.polar(torch.rand(700, 4), torch.rand(700, 4)).to(dtype)
        update, initial = random(700, 4, dtype=dtype), random(4, dtype=dtype)
        assert_scan(linear_scan(phase, update, initial), phase, update, initial, False)


def test_views_of_every_kind() -> None:
    gate = gates_of("unit", 1, 3, 1).expand(700, 3, 1)
    update, initial = random(2, 3, 700).permute(2, 1, 0), random(1, 1).expand(3, 2)
    assert_scan(linear_scan(gate, update, initial), gate, update, initial, False)
    update = random(1400, 6)[::2, ::3]
    gate, initial = gates_of("unit", 700, 4)[:, 1:3], random(4)[2:]
    assert_scan(linear_scan(gate, update, initial), gate, update, initial, False)
    assert linear_scan(torch.rand(5, 0), torch.rand(5, 0), torch.rand(0)).shape == (5, 0)


def test_only_operands_whose_steps_lie_apart_are_copied() -> None:
    """A loop over time reads a step at a time: 1,024 entries far from one another took it twice as long."""
    apart = random(3, 700).T
    assert primitives._time_first(apart).is_contiguous() and not apart.is_contiguous()
    assert torch.equal(primitives._time_first(apart), apart)
    for kept in (random(700, 3), random(3).expand(700, 3), random(700, 1).expand(700, 3), random(700, 6)[:, ::2]):
        assert primitives._time_first(kept) is kept


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["unit", "zeros", "tiny"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_poison_reaches_what_it_reaches_by_definition(
    poison: float, kind: str, reverse: bool, short_blocks: None
) -> None:
    steps, lanes = 50, 60
    for dtype in (torch.float32, torch.float64):
        for where in ("gate", "update", "initial", "zero state and gate"):
            gate, update, initial = (
                gates_of(kind, steps, lanes).to(dtype),
                random(steps, lanes, dtype=dtype),
                random(lanes, dtype=dtype),
            )
            if where.startswith("zero"):
                initial, update = torch.zeros_like(initial), torch.zeros_like(update)
            if where == "initial":
                initial[::3] = poison
            else:
                target = update if where == "update" else gate
                target[torch.arange(steps), torch.arange(steps)] = poison
            actual, expected = (
                linear_scan(gate, update, initial, reverse),
                scan_by_definition(gate, update, initial, reverse),
            )
            assert not expected.isfinite().all()
            assert torch.equal(actual.isfinite(), expected.isfinite()), where


@pytest.mark.parametrize("growth", [2.0, -3.0, 1e30])
def test_a_zero_state_stays_zero_under_gates_that_overflow(growth: float, short_blocks: None) -> None:
    for dtype in (torch.float32, torch.float64):
        gate, update, initial = (
            torch.full((4000, 2), growth, dtype=dtype),
            torch.zeros(4000, 2, dtype=dtype),
            torch.zeros(2, dtype=dtype),
        )
        update[2000, 1] = 1e-3
        actual, expected = linear_scan(gate, update, initial), scan_by_definition(gate, update, initial)
        assert not expected.isfinite().all() and not expected[:, 0].any()
        assert torch.equal(actual.isfinite(), expected.isfinite())
        assert torch.equal(actual[:2000], expected[:2000])


def test_products_below_the_range_of_float32_still_count(short_blocks: None) -> None:
    gate = torch.full((9, 1), 1e-15)
    initial = torch.full((1,), 1e38)
    expected = scan_by_definition(gate.double(), torch.zeros(9, 1).double(), initial.double())
    actual = linear_scan(gate, torch.zeros(9, 1), initial)
    torch.testing.assert_close(actual[:5].double(), expected[:5], rtol=1e-5, atol=0.0)
    assert float(actual[4, 0]) > 0


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_bits_depend_on_nothing_else(reverse: bool) -> None:
    """Not on the run, on what comes later, on how much comes later, or on the other lanes of a small state."""
    gate = 1 - torch.rand(1500, 7) / 100  # long memory: a state that is summed otherwise shows
    update, initial = torch.randn(1500, 7), torch.randn(7)
    whole = linear_scan(gate, update, initial, reverse)
    assert torch.equal(whole, linear_scan(gate, update, initial, reverse))
    assert torch.equal(whole[:, 2:4], linear_scan(gate[:, 2:4], update[:, 2:4], initial[2:4], reverse))
    for steps in (1, 2, 255, 256, 257, 511, 600, 1499):
        past = slice(1500 - steps, 1500) if reverse else slice(0, steps)
        later = slice(0, 1500 - steps) if reverse else slice(steps, 1500)
        assert torch.equal(whole[past], linear_scan(gate[past], update[past], initial, reverse))
        changed = update.clone()
        changed[later] = math.nan
        assert torch.equal(whole[past], linear_scan(gate, changed, initial, reverse)[past])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 1), (1, 1)], ids=str)
def test_scan_gradients(shape: tuple[int, ...], reverse: bool, short_blocks: None) -> None:
    gate, update, initial = random(11, *shape, grad=True), random(11, 2, 3, grad=True), random(2, 3, grad=True)
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, reverse), (gate, update, initial))
    assert torch.autograd.gradgradcheck(lambda *x: linear_scan(*x, reverse), (gate, update, initial))


def test_complex_scan_gradients() -> None:
    operands = (random(5, 1, dtype=torch.complex128, grad=True), random(5, 2, dtype=torch.complex128, grad=True))
    initial = random(2, dtype=torch.complex128, grad=True)
    assert torch.autograd.gradcheck(linear_scan, (*operands, initial))
    assert torch.autograd.gradgradcheck(linear_scan, (*operands, initial))


@pytest.mark.parametrize("steps", LENGTHS)
def test_scan_gradients_at_every_length(steps: int) -> None:
    operands = (gates_of("zeros", steps, 3, 1), random(steps, 3, 2), random(3, 2))
    for wanted in range(1, 8):
        inputs = [x.clone().requires_grad_(bool(wanted >> i & 1)) for i, x in enumerate(operands)]
        needing = [x for x in inputs if x.requires_grad]
        weight = random(steps, 3, 2)
        actual = torch.autograd.grad((linear_scan(*inputs) * weight).sum(), needing)
        if steps == 0:
            assert all(not x.any() for x in actual)
            continue
        expected = torch.autograd.grad((scan_by_definition(*inputs) * weight).sum(), needing)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def recurrent_operands(
    steps: int, gate_shape: tuple[int, ...], strict: bool, rows: int = 2, grad: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, bool]:
    """Batch (2, 3), N = 4, P = 5; the operands broadcast over different batch dims."""
    gate = gates_of("zeros", *gate_shape).requires_grad_(grad)
    reader = gates_of("negative", *gate_shape).requires_grad_(grad) if strict else None
    query, key, value = (
        random(steps, 2, 1, rows, 4, grad=grad),
        random(steps, 1, 3, 4, grad=grad),
        random(steps, 2, 3, 5, grad=grad),
    )
    return query, key, value, gate, reader, random(2, 3, 4, 5, grad=grad), strict


GATE_SHAPES = [(None, 2, 3, 4), (None, 1, 3, 1), (1, 2, 1, 4), (1, 1, 1, 1)]
"""None for the time axis."""


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("shape", GATE_SHAPES, ids=str)
@pytest.mark.parametrize("steps", [0, 1, 2, 63, 64, 65, 200, 1000])
def test_recurrent_is_its_definition_with_its_gradients(
    steps: int, shape: tuple[int | None, ...], strict: bool
) -> None:
    gate_shape = tuple(steps if n is None else n for n in shape)
    for rows in (1, 2):
        operands = recurrent_operands(steps, gate_shape, strict, rows, grad=True)
        actual, expected = recurrent(*operands), recurrent_by_definition(*operands)
        weights = [torch.randn_like(x) for x in expected]
        inputs = [x for x in operands[:6] if isinstance(x, Tensor)]
        for a, e in zip(actual, expected, strict=True):
            assert a.is_contiguous()
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)
        gradients = [
            torch.autograd.grad(
                sum((x * w).sum() for x, w in zip(out, weights, strict=True)), inputs, materialize_grads=True
            )
            for out in (actual, expected)
        ]
        for a, e in zip(*gradients, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strict", [False, True])
def test_recurrent_gradcheck(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "SLAB_STEPS", 2)
    operands = recurrent_operands(7, (7, 1, 3, 4), strict, grad=True)
    assert torch.autograd.gradcheck(recurrent, operands)
    phases = [
        torch.polar(x.detach(), torch.rand_like(x)).requires_grad_() if isinstance(x, Tensor) else x for x in operands
    ]
    assert torch.autograd.gradcheck(recurrent, tuple(phases), fast_mode=True)


@pytest.mark.parametrize("strict", [False, True])
def test_recurrent_computes_only_the_gradients_asked_for(strict: bool) -> None:
    everything = recurrent_operands(70, (70, 1, 3, 1), strict, grad=True)
    inputs = [x for x in everything[:6] if isinstance(x, Tensor)]
    full = dict(zip(map(id, inputs), torch.autograd.grad(recurrent(*everything)[0].sum(), inputs), strict=True))
    for chosen in inputs:
        some = [x.detach().requires_grad_(x is chosen) if isinstance(x, Tensor) else x for x in everything]
        (only,) = [x for x in some if isinstance(x, Tensor) and x.requires_grad]
        assert torch.equal(torch.autograd.grad(recurrent(*some)[0].sum(), only)[0], full[id(chosen)])


@pytest.mark.parametrize("strict", [False, True])
def test_recurrent_poison_and_prefixes(strict: bool) -> None:
    query, key, value, gate, reader, initial, _ = recurrent_operands(200, (200, 2, 3, 4), strict)
    whole, _ = recurrent(query, key, value, gate, reader, initial, strict)
    assert torch.equal(whole, recurrent(query, key, value, gate, reader, initial, strict)[0])
    for steps in (1, 2, 63, 64, 65, 199):
        cut = [x if x is None else x[:steps] for x in (query, key, value, gate, reader)]
        assert torch.equal(whole[:steps], recurrent(*cut, initial, strict)[0])
    for poison in (math.nan, math.inf):
        value[100, 0, 1, 2], query[50, 1], key[150, 0, 2, 1] = poison, poison, poison
        operands = (query, key, value, gate, reader, initial, strict)
        for a, e in zip(recurrent(*operands), recurrent_by_definition(*operands), strict=True):
            assert not e.isfinite().all() and e.isfinite().any()
            assert torch.equal(a.isfinite(), e.isfinite())


def test_recurrent_takes_views_and_leaves_its_inputs() -> None:
    query, key, value, gate, _, initial, _ = recurrent_operands(90, (90, 2, 3, 4), False)
    views = (
        query.mT.contiguous().mT,
        key.flip(0).flip(0)[:, :, ::1],
        value[:1].expand_as(value),
        gate.transpose(0, 2).contiguous().transpose(0, 2),
    )
    spread = initial[:1, :1].expand_as(initial)
    kept = [x.clone() for x in (*views, spread)]
    for a, e in zip(
        recurrent(*views, None, spread, False), recurrent_by_definition(*views, None, spread, False), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*views, spread), strict=True))
    plain = recurrent(query[:, 0, 0], key[:, 0, 0], value[:, 0, 0], gate[:, 0, 0], None, initial[0, 0], False)
    assert plain[0].shape == (90, 2, 5) and plain[1].shape == (4, 5)


MEMORY = """
import resource, torch
from ssdc.runtime.primitives import recurrent
def run(steps):
    q, k, v = torch.randn(steps, 1, 1, 128), torch.randn(steps, 1, 128), torch.randn(steps, 1, 128, requires_grad=True)
    recurrent(q, k, v, torch.full((1, 1, 1), 0.9), None, torch.zeros(1, 128, 128), False)[0].sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = run(64)
print((run(8192) - small) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_recurrent_never_holds_all_states() -> None:
    root = Path(primitives.__file__).parents[2]
    grown = int(
        subprocess.run([sys.executable, "-c", MEMORY], cwd=root, capture_output=True, text=True, check=True).stdout
    )
    every_state = 8192 * 128 * 128 * 4
    assert grown < every_state / 6


@pytest.mark.parametrize("steps", [1, 9, 600])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_opcheck(steps: int, reverse: bool) -> None:
    for gate in ((steps, 3, 1), (steps, 3, 2)):
        operands = (random(*gate, grad=True), random(2, 3, steps, grad=True).permute(2, 1, 0), random(3, 2))
        torch.library.opcheck(torch.ops.ssdc.linear_scan.default, (*operands, reverse))


@pytest.fixture(params=["step by step", "at once"])
def summing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a running sum, for any size of state."""
    monkeypatch.setattr(primitives, "SUMMED_STATE", 0 if request.param == "step by step" else 2**60)


@pytest.mark.parametrize("steps", [*LENGTHS, 1024, 1025, 2100])
def test_running_sum(steps: int, summing: None) -> None:
    update, initial = random(2, 3, steps, grad=True).permute(2, 1, 0), random(3, 2, grad=True)
    found, one = running_sum(update, initial), torch.ones(steps, 1, 1, dtype=torch.float64)
    expected = scan_by_definition(one, update, initial)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if steps:
        weight = random(steps, 3, 2)
        grads = [torch.autograd.grad((x * weight).sum(), (update, initial)) for x in (found, expected)]
        for a, e in zip(*grads, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)
    empty = torch.autograd.grad(running_sum(update[:0], initial).sum(), initial, allow_unused=True)[0]
    assert empty is None or not empty.any()


def test_running_sum_gradients(summing: None) -> None:
    operands = random(7, 2, dtype=torch.complex128, grad=True), random(2, dtype=torch.complex128, grad=True)
    assert torch.autograd.gradcheck(running_sum, operands)
    assert torch.autograd.gradgradcheck(running_sum, operands)


def test_running_sums_of_a_prefix_have_the_bits_of_the_whole(summing: None) -> None:
    update, initial = random(2100, 6, dtype=torch.float32), random(6, dtype=torch.float32)
    whole = running_sum(update, initial)
    for steps in (1, 63, 1024, 1500):
        assert torch.equal(running_sum(update[:steps], initial), whole[:steps])


def test_large_states_are_added_step_by_step_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *_: pytest.fail("cumsum"))
    assert running_sum(torch.ones(3, 1024), torch.zeros(1024)).sum() == 6 * 1024


@pytest.mark.parametrize("steps", [1, 9, 1100])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_sum_opcheck(steps: int, reverse: bool, summing: None) -> None:
    operands = random(2, 3, steps, grad=True).permute(2, 1, 0), random(3, 2, grad=True)
    torch.library.opcheck(torch.ops.ssdc.running_sum.default, (*operands, reverse))
    rows = [x.detach() for x in operands[0].unbind(0)]
    after = [rows[k:] if reverse else rows[: k + 1] for k in range(steps)]
    expected = torch.stack([operands[1].detach() + sum(some) for some in after])
    torch.testing.assert_close(torch.ops.ssdc.running_sum(*operands, reverse), expected)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("shape", GATE_SHAPES, ids=str)
def test_recurrent_opcheck(shape: tuple[int | None, ...], strict: bool) -> None:
    gate_shape = tuple(9 if n is None else n for n in shape)
    operands = recurrent_operands(9, gate_shape, strict, grad=True)
    torch.library.opcheck(torch.ops.ssdc.recurrent.default, operands)
    plain = [x.detach() if isinstance(x, Tensor) else x for x in operands]
    for needs in ([True] * 4 + [strict, True], [False, True, False, True, False, False]):
        grads = (random(9, 2, 3, 2, 5), random(2, 3, 4, 5))
        torch.library.opcheck(torch.ops.ssdc.recurrent_backward.default, (*grads, *plain, needs))


def both(gate: Tensor, update: Tensor, initial: Tensor, query: Tensor) -> tuple[Tensor, ...]:
    states = running_sum(linear_scan(gate.sigmoid(), update, initial), initial)
    output, final = recurrent(query, update, states, gate, gate, initial[:, None] * initial[None, :], True)
    return states, output * 2, final


def test_compile() -> None:
    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps in (7, 600, 1, 0, 2):
        operands = [random(steps, 4, grad=True), random(steps, 4, grad=True), random(4, grad=True), random(steps, 1, 4)]
        for a, e in zip(compiled(*operands), both(*operands), strict=True):
            torch.testing.assert_close(a, e)
        gradients = [torch.autograd.grad(sum(x.sum() for x in f(*operands)), operands[:3]) for f in (compiled, both)]
        for a, e in zip(*gradients, strict=True):
            torch.testing.assert_close(a, e)


class Both(torch.nn.Module):
    def forward(self, gate: Tensor, update: Tensor, initial: Tensor, query: Tensor) -> tuple[Tensor, ...]:
        return both(gate, update, initial, query)


def test_export_with_a_free_length() -> None:
    def operands(steps: int) -> tuple[Tensor, ...]:
        return random(steps, 4), random(steps, 4), random(4), random(steps, 1, 4)

    time = {0: torch.export.Dim("T")}
    program = torch.export.export(Both(), operands(9), dynamic_shapes=(time, time, None, time))
    for steps in (2, 9, 600):
        fresh = operands(steps)
        for a, e in zip(program.module()(*fresh), both(*fresh), strict=True):
            torch.testing.assert_close(a, e)


def test_fakes_are_contiguous() -> None:
    with torch._subclasses.FakeTensorMode():
        update = torch.empty(3, 2, 9).permute(2, 1, 0)
        assert linear_scan(torch.empty(9, 1, 3), update, torch.empty(2, 3)).is_contiguous()
        key = torch.empty(4, 6, 9).permute(2, 1, 0)
        output, final = recurrent(key[:, :, None], key, key, key, None, torch.empty(4, 4, 6).permute(2, 0, 1), False)
        assert output.shape == (9, 6, 1, 4) and output.is_contiguous() and final.is_contiguous()


def test_forward_mode_is_refused_not_zero() -> None:
    gate, update, initial = random(5, 2), random(5, 2), random(2)
    square = random(2, 2)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(linear_scan, (gate, update, initial), (gate, update, initial))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(update, update)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            linear_scan(gate, dual, initial)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            recurrent(update[:, None], dual, update, gate, None, square, False)
        large = forward_ad.make_dual(random(3, 1024), random(3, 1024))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            running_sum(large, random(1024))
        assert linear_scan(gate, update, initial).shape == (5, 2)


def test_second_derivative_of_recurrent_is_refused() -> None:
    operands = recurrent_operands(5, (5, 1, 1, 1), True, grad=True)
    (grad,) = torch.autograd.grad(recurrent(*operands)[0].pow(2).sum(), operands[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        grad.sum().backward()


def test_operands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="gate must"):
        linear_scan(torch.rand(4, 2), torch.rand(5, 2), torch.rand(2))
    with pytest.raises(ValueError, match="broadcast"):
        linear_scan(torch.rand(5, 3), torch.rand(5, 2), torch.rand(2))
    with pytest.raises(ValueError, match="update must"):
        linear_scan(torch.rand(5, 2), torch.rand(5, 2), torch.rand(3))
    with pytest.raises(ValueError, match="dtype"):
        linear_scan(torch.rand(5, 2).double(), torch.rand(5, 2), torch.rand(2))
    query, key, value, gate, _, initial, _ = recurrent_operands(5, (5, 1, 1, 1), False)
    with pytest.raises(ValueError, match="if and only if strict"):
        recurrent(query, key, value, gate, gate, initial, False)
    with pytest.raises(ValueError, match=r"key .* must broadcast"):
        recurrent(query, key[:4], value, gate, None, initial, False)
    with pytest.raises(ValueError, match=r"value .* must broadcast"):
        recurrent(query, key, value[..., :4], gate, None, initial, False)


def test_the_text_runs_alone_under_another_namespace() -> None:
    text = Path(primitives.__file__).read_text()
    assert text.count('"ssdc"') == 1
    names: dict[str, object] = {"__name__": "ejected"}
    for _ in range(2):  # an ejected module may be loaded twice
        exec(compile(text.replace('"ssdc"', '"ssdc_ejected"'), "ejected.py", "exec"), names)
    gate, update, initial = torch.rand(9, 2), torch.rand(9, 2, requires_grad=True), torch.rand(2)
    states = names["linear_scan"](gate, update, initial)  # type: ignore[operator]
    states.sum().backward()
    assert torch.equal(states, linear_scan(gate, update, initial))
    assert "ssdc_ejected" in str(torch.ops.ssdc_ejected.linear_scan.default)
