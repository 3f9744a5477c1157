"""The Triton kernels on a GPU, against float64 on the CPU: values, gradients, forms, layouts, graphs, compile,
determinism."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from unittest.mock import patch

import pytest
import torch

import ssdc
from ssdc.codegen.triton import choose, configuration
from ssdc.runtime.kernels import replay
from ssdc.runtime.kernels.masked import masked
from tests.support.launches import recorded
from tests.support.masked import CASES, Case, operands, reference, units
from tests.support.run_fused import layers

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-8}
ALLOWED = {torch.float32: 16, torch.bfloat16: 2, torch.float16: 2}
SUMMED = 7.5
"""Of 2**20 sums of up to 2**8 float32 numbers each, all err by less than this many units times the root of the count,
but for one try in a thousand (Higham and Mary 2019, theorem 2.4)."""
LARGE = (
    Case(length=200, states=64, columns=64),
    Case(length=200, states=128, columns=32, scale=True),
    Case(length=200, states=32, columns=128),
    Case(length=130, states=256, columns=64, heads=2),
    Case(length=130, states=64, columns=256, heads=2),
    Case(length=200, states=128, columns=128, scale=True),
    Case(batch=1, length=130, heads=2, states=256, columns=256),
    Case(batch=1, length=1000, heads=6, states=128, columns=64, groups=(1, 1, 0), scale=True),
    Case(length=200, states=128, columns=64, groups=(1, 1, 0), scale=True, skip="head"),
    Case(length=200, states=64, columns=128, skip="column", maps="*0.125;silu;"),
    Case(length=200, states=128, columns=128, gate="none", maps="elu_one;elu_one;;+1e-06"),
    Case(length=200, states=64, columns=64, scale=True, maps="sigmoid,*0.3;exp;;abs,>1.0"),
    Case(length=130, states=256, columns=256, heads=2, gate="none", maps="elu_one;elu_one;;+1e-06"),
)
FORMS = (("walk", 1), ("segments", 2), ("parallel", 1), ("parallel", 2))


def on_device(given, grad=True):  # type: ignore[no-untyped-def]
    return [None if x is None else x.cuda().requires_grad_(grad) for x in given]


def run(case, leaves, form=None, segments=None):  # type: ignore[no-untyped-def]
    query, key, value, gate, own, scale, initial, skip = leaves
    chosen = partial(choose.forward, form=form, segments=segments)
    with patch.object(choose, "forward", chosen):
        reader = "gate" if case.own == "gate" else own
        return masked(query, key, value, gate, reader, scale, initial, case.heads, case.strict, skip, case.maps)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("case", (*CASES, *LARGE), ids=str)
def test_values_and_gradients_of_every_form(case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and case.rate > 100:
        pytest.skip("float16 has no numbers for what such gates leave")
    given = operands(case, dtype)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns).to(dtype)
    grad_final = torch.randn(case.batch, case.heads, case.states, case.pitch)
    exact, magnitude = reference(case, given, grad, grad_final)
    for form, segments in FORMS:
        leaves = on_device(given)
        backward = partial(choose.backward, segments=segments, form="parallel")
        y, final = run(case, leaves, form, segments)
        with patch.object(choose, "backward", backward):
            torch.autograd.backward((y, final), (grad.cuda(), grad_final.cuda()))
        found = units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, UNIT[dtype])
        if dtype == torch.float32 and case.initial:  # a state's gradient is one sum over all positions
            place = 2 + sum(x is not None for x in leaves[:6])
            found[place] *= ALLOWED[dtype] / max(ALLOWED[dtype], SUMMED * case.length**0.5)
        assert max(found) <= ALLOWED[dtype], (form, segments, found)


@pytest.mark.parametrize("case", (*CASES[::3], *LARGE[::2]), ids=str)
def test_a_replayed_call_gives_the_bits_of_the_call(case: Case) -> None:
    for form, segments in (*FORMS, (None, None)):
        forward = partial(choose.forward, form=form, segments=segments)
        backward = partial(choose.backward, segments=segments, form="parallel" if form else None)

        def turn(seed: int) -> list[torch.Tensor]:
            leaves = on_device(operands(case, torch.bfloat16, seed))
            query, key, value, gate, own, scale, initial, skip = leaves
            ends = "gate" if case.own == "gate" else own
            given = (query, key, value, gate, ends, scale, initial, case.heads, case.strict, skip, case.maps)
            y, final = masked(*given)  # type: ignore[arg-type]
            return [
                y,
                final,
                *torch.autograd.grad((y, final), [x for x in leaves if x is not None], (y + 1, final + 1)),
            ]

        with patch.object(choose, "forward", forward), patch.object(choose, "backward", backward):
            for seed in range(4):
                found = turn(seed)
                with patch.object(replay, "_known", {}):
                    assert all(map(torch.equal, found, turn(seed)))
            mine = [script for kind, script in replay._known.items() if forward in kind]
        assert len(mine) == 2 and all(script is not None and script.steps for script in mine)


@pytest.mark.parametrize("columns", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("states", [16, 32, 64, 128, 256])
def test_every_pair_of_tile_sizes(states: int, columns: int) -> None:
    """Heads of their own, and four that share a query and key; the latter in the forms whose programs take several
    heads."""
    for groups, forms in (((0, 0, 0), FORMS[::3]), ((1, 1, 0), FORMS[2:3])):
        case = Case(batch=1, length=130, states=states, columns=columns, groups=groups, scale=True)
        given = operands(case, torch.bfloat16)
        grad = torch.randn(1, case.length, case.heads, columns).bfloat16()
        grad_final = torch.randn(1, case.heads, states, columns)
        exact, magnitude = reference(case, given, grad, grad_final)
        for form, segments in forms:
            leaves = on_device(given)
            backward = partial(choose.backward, form="parallel")
            with (
                patch.object(configuration, "share_of", lambda shared, most: shared),
                patch.object(choose, "backward", backward),
            ):
                forget()
                y, final = run(case, leaves, form, segments)
                torch.autograd.backward((y, final), (grad.cuda(), grad_final.cuda()))
            found = units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, 2.0**-8)
            assert max(found) <= 2, (groups, form, segments, found)
    forget()


def forget() -> None:
    """Configurations are made anew."""
    for known in (configuration.forward, configuration.backward):
        known.cache_clear()


@pytest.mark.parametrize("case", [case for case in CASES if case.length > 65], ids=str)
def test_a_step_is_one_position(case: Case) -> None:
    case = replace(case, length=1, initial=True)
    given = operands(case, torch.bfloat16)
    zero = torch.zeros(case.batch, 1, case.heads, case.columns)
    exact, magnitude = reference(case, given, zero, torch.zeros(case.batch, case.heads, case.states, case.pitch))
    one = [x[:, :1] if x is not None and x.ndim > 1 and k < 6 else x for k, x in enumerate(on_device(given, False))]
    query, key, value, gate, own, scale, state, skip = one
    reader = "gate" if case.own == "gate" else own
    y, after = masked(query, key, value, gate, reader, scale, state, case.heads, case.strict, skip, case.maps)
    assert max(units([y, after], exact[:2], magnitude[:2], UNIT[torch.bfloat16])) <= 2


def test_layouts_give_the_same_bits() -> None:
    case = Case(length=150, states=64, columns=64)
    given = on_device(operands(case, torch.bfloat16), False)
    plain = run(case, given)
    turned = [
        x if x is None or x.ndim != 4 or k == 6 else x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
        for k, x in enumerate(given)
    ]
    assert all(torch.equal(a, b) for a, b in zip(plain, run(case, turned), strict=True))
    wide = [
        None
        if x is None or x.ndim < 3 or k == 6
        else torch.cat([x, torch.full_like(x, torch.nan)], 1)[:, : case.length]
        for k, x in enumerate(given)
    ]
    wide[6] = given[6]
    assert all(torch.equal(a, b) for a, b in zip(plain, run(case, wide), strict=True))


def test_later_inputs_leave_earlier_outputs_alone_and_runs_repeat() -> None:
    case = Case(length=300, states=64, columns=64)
    given = on_device(operands(case, torch.bfloat16), False)
    for form, segments in FORMS:
        first = run(case, given, form, segments)[0]
        changed = [
            x if x is None or k == 6 else torch.cat([x[:, :137], -torch.rand_like(x[:, 137:])], 1)
            for k, x in enumerate(given)
        ]
        assert torch.equal(first[:, :137], run(case, changed, form, segments)[0][:, :137])
        assert all(torch.equal(first, run(case, given, form, segments)[0]) for _ in range(20))


def test_a_graph_replays_and_a_compiled_call_agrees() -> None:
    case = Case(length=300, states=64, columns=64)
    given = on_device(operands(case, torch.bfloat16), False)
    eager = run(case, given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(case, given)
    for x in captured:
        x.fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))
    compiled = torch.compile(
        lambda *x: masked(x[0], x[1], x[2], x[3], None, None, x[4], case.heads, False), fullgraph=True
    )
    query, key, value, gate, _, _, initial, _ = given
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled(query, key, value, gate, initial), strict=True))


FUSED = (
    Case(length=70, states=16, columns=32, scale=True, skip="column", maps="silu;;"),
    Case(length=70, states=16, columns=32, gate="none", skip="head"),
    Case(length=70, states=16, columns=32, maps="elu_one;elu_one;;+1.0"),
)


@pytest.mark.parametrize("case", FUSED, ids=str)
def test_fused_calls_compile_and_pass_opcheck(case: Case) -> None:
    query, key, value, gate, own, scale, initial, skip = given = on_device(operands(case, torch.float32))
    rest = (case.heads, case.strict, 0, skip, case.maps)
    torch.library.opcheck(torch.ops.ssdc.masked.default, (query, key, value, gate, own, scale, initial, *rest))
    plain = [None if x is None else x.detach() for x in given]

    def call(*operands: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        *first, skipped = operands
        return masked(*first, case.heads, case.strict, skipped, case.maps)  # type: ignore[arg-type]

    compiled = torch.compile(call, fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(call(*plain), compiled(*plain), strict=True))


def test_opcheck() -> None:
    case = Case(length=70, states=16, columns=32, scale=True)
    query, key, value, gate, _, scale, initial, _ = on_device(operands(case, torch.float32))
    torch.library.opcheck(
        torch.ops.ssdc.masked.default, (query, key, value, gate, None, scale, initial, case.heads, False, 0)
    )


SPEC = """
layer ssd(H, P, N, G) {
  time t, s
  axis b, h = H, p = P, n = N
  axis g = G groups h
  input x[b,t,h,p], dt[b,t,h], B[b,t,g,n], C[b,t,g,n]
  param A_log[h] ~ log(uniform(1, 16))
  mask L[b,h,t,s] = semiseparable(exp(-exp(A_log[h]) * dt[b,t,h]))
  y[b,t,h,p] = C[b,t,g,n] * L[b,h,t,s] * B[b,s,g,n] * dt[b,s,h] * x[b,s,h,p]
  output y
}
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_uses_the_kernels(dtype: torch.dtype) -> None:
    sizes = {"H": 4, "P": 32, "N": 16, "G": 2}
    torch.manual_seed(0)
    layer = ssdc.compile(SPEC, sizes=sizes, device="cuda")
    plain = ssdc.compile(SPEC, sizes=sizes, device="cuda", backend="torch")
    plain.load_state_dict(layer.state_dict())
    exact = ssdc.reference(SPEC, sizes=sizes)
    exact.load_state_dict({name: x.double().cpu() for name, x in layer.state_dict().items()})
    inputs = {
        "x": torch.randn(2, 100, 4, 32).to(dtype), "dt": torch.rand(2, 100, 4).to(dtype),
        "B": torch.randn(2, 100, 2, 16).to(dtype), "C": torch.randn(2, 100, 2, 16).to(dtype),
    }  # fmt: skip
    wanted, magnitude = exact.bounds(**{name: x.double() for name, x in inputs.items()})
    moved = {name: x.cuda() for name, x in inputs.items()}
    with recorded() as launched:
        y, _ = layer(**moved, return_state=True)
    assert launched
    assert max(units([y], [wanted], [magnitude], UNIT[dtype])) <= ALLOWED[dtype]
    first, at = layer(**{name: x[:, :37] for name, x in moved.items()}, return_state=True)
    rest, _ = layer(**{name: x[:, 37:] for name, x in moved.items()}, state=at, return_state=True)
    assert max(units([torch.cat([first, rest], 1)], [wanted], [magnitude], UNIT[dtype])) <= ALLOWED[dtype]
    with torch.no_grad():
        one, _ = layer.step(at, **{name: x[:, 37] for name, x in moved.items()})
    assert max(units([one], [wanted[:, 37]], [magnitude[:, 37]], UNIT[dtype])) <= ALLOWED[dtype]
    grads = []
    for model in (layer, plain):
        model.zero_grad()
        leaves = {name: x.float().requires_grad_() for name, x in moved.items()}
        model(**leaves).sin().sum().backward()
        grads.append([*(x.grad for x in leaves.values()), model.A_log.grad])
    for mine, other in zip(*grads, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("name", ["ssd", "retention", "linear_attention", "mlstm", "column", "maps", "norm", "strict"])
def test_layers_with_their_elementwise_work_in_the_kernels(name: str) -> None:
    """Float32 parameters and inputs of bfloat16: outputs within the bounds of 16 bits of the reference, gradients
    within five roundings to 16 bits, in the norm, of those in float32."""
    source, sizes = layers()[name]
    torch.manual_seed(0)
    layer = ssdc.compile(source, sizes=sizes, device="cuda")
    exact = ssdc.reference(source, sizes=sizes)
    exact.load_state_dict({key: x.double().cpu() for key, x in layer.state_dict().items()})
    known = {"b": 2, "t": 150, **{axis: size for axis, size in layer.graph.sizes.items() if size}}
    given = {
        node.name: torch.randn([prod(known[axis] for axis in axes) for axes in node.layout]).bfloat16()
        for node in layer.graph.inputs
        if not node.name.startswith("@")
    }
    given = {key: x.abs() if key == "dt" else x for key, x in given.items()}
    wanted, magnitude = exact.bounds(**{key: x.double() for key, x in given.items()})
    moved = {key: x.cuda() for key, x in given.items()}
    y = layer(**moved)
    assert y.dtype == torch.bfloat16
    assert max(units([y], [wanted], [magnitude], UNIT[torch.bfloat16])) <= ALLOWED[torch.bfloat16]
    plain = ssdc.compile(source, sizes=sizes, device="cuda", backend="torch")
    plain.load_state_dict(layer.state_dict())
    found, grad = [], torch.randn_like(y)
    for model, dtype in ((layer, torch.bfloat16), (plain, torch.float32)):
        leaves = {key: x.to(dtype, copy=True).requires_grad_() for key, x in moved.items()}
        model(**leaves).backward(grad.to(dtype))
        found.append([x.grad.double() for x in (*leaves.values(), *model.parameters()) if x.grad is not None])
    for mine, other in zip(*found, strict=True):
        assert (mine - other).norm() <= 5 * UNIT[torch.bfloat16] * other.norm()
