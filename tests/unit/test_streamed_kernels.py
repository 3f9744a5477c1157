"""The streamed kernels without a GPU: values in the interpreter, cubins of every configuration, fakes and faults."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from ssdc.codegen.triton import streamed as rule
from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.text import source
from ssdc.runtime.kernels.streamed import streamed
from tests.support.interpreted import printed
from tests.support.masked import units
from tests.support.streamed import Case, operands, reference

ALLOWED = 16
SPILL = 96
"""Bytes of local memory a thread, 24 numbers: tiles of 128 columns take up to 32 (Triton 3.9) or 72 (3.6)."""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("part", "least"), [("windows", 30), ("recurrences", 30), ("layers", 8)])
def test_interpreted_kernels_agree_with_pairs_of_positions(part: str, least: int) -> None:
    """Every case and gradient in float32: within 16 u sum|terms| of float64, element by element. Prefixes, the
    operator's contracts, a compiled call, and which kernels ran, besides."""
    found = printed("run_streamed", part)
    assert len(found) >= least
    assert {name: errors for name, errors in found.items() if max(errors) > ALLOWED} == {}


@pytest.mark.parametrize("place", range(5))
def test_the_comparison_fails_for_a_wrong_result(place: int) -> None:
    case = Case(length=20, width=7, past=3)
    given, grad = operands(case, torch.float32), torch.randn(2, 20, 2, 16)
    exact, magnitude = reference(case, given, grad)
    assert max(units([x.float() for x in exact], exact, magnitude, 2.0**-24)) <= 1
    wrong = [x.float() for x in exact]
    wrong[place][1, 4, 1] += 1e-4 * magnitude[place][1, 4, 1].float()
    assert max(units(wrong, exact, magnitude, 2.0**-24)) > ALLOWED


def test_a_window_is_the_whole_mask_where_it_is_wide_and_leaves_out_what_is_further_back() -> None:
    """The reference itself: a width as long as time changes nothing; width 1 reads a position's own writer alone."""
    wide, whole, one = Case(length=9, width=9), Case(length=9), Case(length=9, width=1)
    given, grad = operands(whole, torch.float32), torch.ones(2, 9, 2, 16)
    results = {case: reference(case, given, grad)[0] for case in (wide, whole, one)}
    assert all(torch.equal(a, b) for a, b in zip(results[wide], results[whole], strict=True))
    query, key, value = (x.double() for x in given[:3])
    assert torch.allclose(results[one][0], (query * key).sum(-1, keepdim=True) * value, rtol=1e-12)


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


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "facts", FACTS, ids=lambda f: f"{f.dtype}-{f.states}x{f.columns}-{f.gate}{'-strict' * f.strict}"
)
def test_every_configuration_compiles_and_fits(facts: Facts, capability: int) -> None:
    """Shared memory within limits and, on the target that the tiles are made for, registers too. A band takes more of
    both than none."""
    from tests.support.cubins import SHARED, usage

    backward = rule.backward(facts, True, True)
    for kernel in (rule.outputs(facts, True), backward.queries, backward.keys, backward.values, backward.gates):
        if kernel is None:
            continue
        found = usage(kernel, capability)
        assert found.shared <= SHARED[capability], (kernel, found)
        if capability == 90:
            assert found.stack <= SPILL, (kernel, found)


def test_text_has_no_name_that_a_fork_left_out() -> None:
    facts = Facts("bfloat16", 64, 64)
    plain = source(rule.outputs(facts, False))
    assert not any(name in plain for name in ("exp2", "_log", "factor", "ahead", "mine"))
    banded = source(rule.outputs(facts, True))
    assert "ahead" in banded and "exp2" not in banded
    for kernel in (rule.backward(facts, True, True).queries, rule.backward(facts, False, False).keys):
        text = source(kernel)
        assert text.count("tl.dot(") == text.count("input_precision=") and "pairs_at" not in text
    assert rule.backward(facts, True, True).gates is None
    gated = Facts("bfloat16", 64, 64, "varying")
    assert "pairs_at" in source(rule.backward(gated, True, True).queries)
    assert "pairs_at" not in source(rule.backward(gated, True, False).queries)


def test_fakes_have_the_shapes_of_results_and_shapes_are_checked() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query = torch.empty(2, 9, 3, 24, dtype=torch.bfloat16)
        key = torch.empty(2, 13, 1, 24, dtype=torch.bfloat16)
        value = torch.empty(2, 13, 6, 40, dtype=torch.bfloat16)
        gate = torch.empty(2, 13, 6, requires_grad=True)
        y = streamed(query, key, value, gate, None, None, 6, False, 5)
        assert y.shape == (2, 9, 6, 40) and y.dtype == torch.bfloat16 and y.is_contiguous()
        (found,) = torch.autograd.grad(y.float().sum(), (gate,))
        assert found.shape == gate.shape
    query, value = torch.zeros(2, 9, 3, 24), torch.zeros(2, 9, 6, 40)
    with pytest.raises(ValueError, match="multiple"):
        streamed(query, query, value, None, None, None, 5, False, 3)
    with pytest.raises(ValueError, match="one dtype"):
        streamed(query, query.bfloat16(), value, None, None, None, 6, False, 3)
    with pytest.raises(ValueError, match="gate is"):
        streamed(query, query, value, torch.zeros(2, 9, 3), None, None, 6, False, 3)
    with pytest.raises(ValueError, match="in time"):
        streamed(query, query[:, 1:], value[:, 1:], None, None, None, 6, False, 3)
    with pytest.raises(ValueError, match="only where there are gates"):
        streamed(query, query, value, None, torch.zeros(2, 9, 6), None, 6, True, 3)
