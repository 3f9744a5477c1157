"""The Triton kernels without a GPU: values in the interpreter, cubins of every configuration, the operators'
contracts."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from ssdc.codegen.triton import choose
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts, Kernel, Tiles
from ssdc.codegen.triton.text import source
from ssdc.runtime.kernels import masked as module
from tests.support.interpreted import printed
from tests.support.masked import Case, operands, reference, units

ALLOWED = 16
SPILL = 128
"""Bytes of local memory a thread, 32 numbers: `walk` and shared `values` use every register and up to 72 (Triton 3.6)
or 112 (3.9) bytes besides; tiles that need none were slower. A tile that does not fit takes thousands."""
SKIP_SPILL = 288
"""With a skip, whose tile of values stands in registers beside the rest."""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
def test_interpreted_kernels_agree_with_the_quadratic_form() -> None:
    """Every case, form, gradient and step in float32: within 16 u sum|terms| of float64, element by element."""
    found = printed("run_masked")
    assert len(found) > 40
    assert {name: errors for name, errors in found.items() if max(errors) > ALLOWED} == {}


def test_the_comparison_fails_for_a_wrong_result() -> None:
    case = Case(length=5)
    given = operands(case, torch.float32)
    grads = torch.randn(2, 5, 4, 16), torch.randn(2, 4, 16, 16)
    exact, magnitude = reference(case, given, *grads)
    assert max(units([x.float() for x in exact], exact, magnitude, 2.0**-24)) <= 1
    wrong = [x.float() for x in exact]
    wrong[0][1, 3, 2, 7] *= 1 + 1e-3
    assert max(units(wrong, exact, magnitude, 2.0**-24)) > ALLOWED


SIZES = ((24, 80), (64, 64), (128, 64), (128, 128), (256, 256))
FACTS = [
    *(Facts("bfloat16", *sizes, "varying", scale=True) for sizes in SIZES),
    *(Facts("float32", *sizes, "varying", scale=True) for sizes in SIZES[::2]),
    Facts("float16", 128, 128, "varying"),
    Facts("bfloat16", 128, 128, "none"),
    Facts("bfloat16", 128, 128, "constant"),
    Facts("bfloat16", 64, 64, "varying", strict=True, own="varying"),
    Facts("float32", 64, 64, "varying", strict=True, own="gate"),
]
ELU = ("elu_one",)
FUSED = [
    Facts("bfloat16", 128, 64, "varying", scale=True, skip="head"),
    Facts("bfloat16", 64, 64, "varying", strict=True, own="varying", skip="column", maps=((), (), ("silu",))),
    Facts("bfloat16", 128, 128, "constant", maps=(("*0.0883",), (), ()), skip="head"),
    Facts("bfloat16", 128, 128, "none", maps=(ELU, ELU, ()), norm=("+1e-06",)),
    Facts("bfloat16", 64, 64, "varying", scale=True, maps=(("*0.125",), (), ()), norm=("abs", ">1.0")),
    Facts("float16", 24, 80, "varying", scale=True, skip="column", maps=(("tanh",), ("softplus",), ())),
    Facts("float32", 64, 64, "none", maps=(ELU, ELU, ()), norm=("+1e-06",)),
]


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "facts", FACTS + FUSED, ids=lambda f: f"{f.dtype}-{f.states}x{f.columns}-{f.gate}{'-strict' * f.strict}"
)
def test_every_configuration_compiles_and_fits(facts: Facts, capability: int) -> None:
    """Shared memory within limits and, on the target that the tiles are made for, registers too, for all that can be
    chosen."""
    from tests.support.cubins import SHARED, configurations, usage

    for kernel in configurations(facts):
        if capability == 80 and kernel.template not in ("walk", "gradients", "values"):
            continue  # the others take less of everything
        found = usage(kernel, capability)
        assert found.shared <= SHARED[capability], (kernel, found)
        if capability == 90:
            assert found.stack <= (SPILL if facts.skip == "none" else SKIP_SPILL), (kernel, found)


def test_a_map_keeps_padding_zero_where_it_must() -> None:
    def masks(steps: tuple[str, ...]) -> int:
        return source(Kernel("walk", Facts("bfloat16", 64, 64, maps=((), steps, ())), Tiles(64, 64, 64))).count(
            "tl.where(inside"
        )

    assert masks(("elu_one",)) == masks(("relu", "+1.0")) == 1
    assert masks(("elu",)) == masks(("silu", "*2.0")) == masks(("abs", ">-1.0")) == 0


def test_text_has_no_name_that_a_fork_left_out() -> None:
    kernel = Kernel("walk", Facts("bfloat16", 64, 64), Tiles(64, 64, 64))
    text = source(kernel)
    assert "log_gate" not in text and "scale" not in text and "exp2" not in text
    assert 'input_precision="ieee"' in source(Kernel("walk", Facts("float32", 64, 64), Tiles(32, 64, 32)))
    assert text.count("tl.dot(") == text.count("input_precision=")


@pytest.mark.parametrize("shared", [1, 3, 80])
def test_the_rule_cuts_time_into_pieces_that_cover_it(shared: int) -> None:
    for lanes in (1, 48, 640):
        for length in (1, 63, 64, 65, 4096, 1_000_001):
            call = Call(lanes, length, shared, 132)
            facts = Facts("bfloat16", 128, 64, "varying")
            forward, backward = choose.forward(facts, call), choose.backward(facts, call, True)
            chunks = -(-length // forward.outputs.tiles.chunk)
            assert 1 <= forward.segments <= max(1, chunks) and 1 <= backward.segments <= max(1, chunks)
            assert shared % forward.outputs.share == 0 and shared % backward.values.share == 0


def test_fakes_have_the_shapes_of_results_and_shapes_are_checked() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query, value = torch.empty(2, 9, 3, 24, dtype=torch.bfloat16), torch.empty(2, 9, 6, 40, dtype=torch.bfloat16)
        gate = torch.empty(2, 9, 6, requires_grad=True)
        y, final = module.masked(query, query, value, gate, None, None, None, 6, False)
        assert y.shape == (2, 9, 6, 40) and y.dtype == torch.bfloat16 and y.is_contiguous()
        assert final.shape == (2, 6, 24, 40) and final.dtype == torch.float32
        (found,) = torch.autograd.grad(y.float().sum() + final.sum(), (gate,))
        assert found.shape == gate.shape
    query, value = torch.zeros(2, 9, 3, 24), torch.zeros(2, 9, 6, 40)
    with pytest.raises(ValueError, match="multiple"):
        module.masked(query, query, value, None, None, None, None, 5, False)
    with pytest.raises(ValueError, match="one dtype"):
        module.masked(query, query.bfloat16(), value, None, None, None, None, 6, False)
    with pytest.raises(ValueError, match="gate is"):
        module.masked(query, query, value, torch.zeros(2, 9, 3), None, None, None, 6, False)


@pytest.mark.parametrize("lanes", [0, 3])
@pytest.mark.parametrize("length", [0, 5])
def test_a_call_without_elements_is_none_too_small_to_choose_for(lanes: int, length: int) -> None:
    query, value = torch.zeros(lanes, length, 2, 16), torch.zeros(lanes, length, 2, 24)
    query, value = query.requires_grad_(), value.requires_grad_()
    call, facts = Call(lanes * 2, length, 1, 132, False, False), Facts("float32", 16, 24)
    assert choose.forward(facts, call).segments == choose.backward(facts, call, False).segments == 1
    if lanes and length:
        return
    y, final = module.masked(query, query, value, None, None, None, None, 2, False)
    assert y.shape == value.shape and not final.any()
    found = torch.autograd.grad(y.sum() + final.sum(), (query, value))
    assert [x.shape for x in found] == [query.shape, value.shape]
