"""The walks for Hopper without a GPU: run on the CPU against float64, and compiled ahead of time for what registers and
shared memory they take. A GPU runs them in tests/gpu/test_hopper.py."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton")

from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.hopper import Gates, Role, Walk, fits, source
from ssdc.runtime.kernels.calls import Given
from ssdc.runtime.kernels.forward import forward_pass
from ssdc.runtime.kernels.walks import cut
from tests.support import gluon
from tests.support.cubins import SHARED, usage_of_walk
from tests.support.interpreted import printed

ALLOWED = 2
"""Units of u * sum|terms| in bfloat16: one for products that are rounded on their way, one for the result."""
TWO_RESIDENT = 233_472 // 2 - 1024
"""Bytes of shared memory that let a multiprocessor hold two programs."""

CASES = (
    Facts("bfloat16", 128, 128, "varying"),
    Facts("bfloat16", 128, 128),
    Facts("bfloat16", 128, 64, "varying", scale=True, skip="head"),
    Facts("bfloat16", 64, 64, "constant", strict=True),
    Facts("float16", 24, 80, "varying", strict=True, own="varying", skip="column"),
    Facts("bfloat16", 128, 128, "varying", maps=(("*0.5",), (), ())),
)
ROLES: tuple[Role, ...] = ("outputs", "queries", "keys", "values", "states", "later")


def test_the_walks_agree_with_the_quadratic_form() -> None:
    """Every case that they serve, cut into one to three segments: outputs, states and all gradients."""
    found = printed("run_hopper")
    assert len(found) > 25
    assert {name: errors for name, errors in found.items() if not max(errors) <= ALLOWED} == {}


def walked(length: int = 200) -> torch.Tensor:
    """The outputs of one small call."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, length, 2, 64, generator=generator).bfloat16() for _ in range(3))
    gate = -torch.rand(1, length, 2, generator=generator)
    return forward_pass(Given(query, key, value, gate, None, None, None, 2, False, 0), "hopper")[0]


FAULTS = {
    "no fence": (r"\bfence\(\)", "pass", "without a fence"),
    "no barrier after a fence": (r"fence\(\)\n +barrier\(\)", "fence()", "without a fence and a barrier"),
    "an output not waited for": (r"\bstore_wait\(0\)", "pass", "written while"),
    "a tile not waited for": (r"\bwait\(arrived.*", "pass", "second phase"),
    "a wait for the wrong phase": (r"index // 2 & 1", "1 - (index // 2 & 1)", "nothing ends"),
    "too few bytes": (r"BYTES: gl.constexpr = (\d+)", r"BYTES = \1 - 2", "nothing ends"),
    "tiles fetched into those in use": (r"\.index\(then\), pred", ".index(now), pred", "written while"),
    "a product not waited for": (r"mma_wait\(0, deps=\[y, state\]\)", "mma_wait(1, deps=[y, state])", "was not waited"),
    "an address past the end": (r"mask=\(places < length", "mask=(places < 2 * length", "outside"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_would_be_undefined_on_the_device_is_found(what: str) -> None:
    pattern, instead, message = FAULTS[what]
    with gluon.emulated():
        walked()
    with gluon.emulated(lambda text: re.sub(pattern, instead, text)), pytest.raises(gluon.Fault, match=message):
        walked()


def test_a_wrong_walk_gives_other_values() -> None:
    with gluon.emulated():
        right = walked()
    with gluon.emulated(lambda text: text.replace("row >= column", "row > column")):
        assert not torch.equal(right, walked())


@pytest.mark.parametrize("facts", CASES, ids=str)
def test_every_role_compiles_and_two_programs_fit_a_multiprocessor(facts: Facts) -> None:
    for role in ROLES:
        gates = facts.gate != "none" and role in ("queries", "keys")
        found = usage_of_walk(Walk(role, facts, enters=True, gates=gates))
        assert found.stack <= 128, (role, found)  # bytes spilled, a few of the hundreds of thousands of registers
        # Pairs of float16 have too little range for sums: they take a tile of bfloat16 beside.
        room = SHARED[90] if gates and facts.dtype == "float16" else TWO_RESIDENT
        assert found.shared <= room, (role, found)


@pytest.mark.parametrize("role", ROLES)
def test_heads_of_256_fit_alone(role: Role) -> None:
    found = usage_of_walk(Walk(role, Facts("bfloat16", 256, 256), enters=True))
    assert found.stack <= 256 and found.shared <= SHARED[90], found


def test_what_the_walk_does_not_do() -> None:
    assert fits(Facts("bfloat16", 256, 16, "varying"))
    assert fits(Facts("bfloat16", 64, 64, maps=(("*0.5",), (), ())))  # a factor is no map of tiles
    assert not fits(Facts("float32", 64, 64))
    assert not fits(Facts("bfloat16", 257, 64))
    assert not fits(Facts("bfloat16", 64, 64, maps=(("relu",), (), ())))


def test_parts_of_a_gates_gradient_are_added_up_by_one_kernel() -> None:
    assert "def gates(" in source(Gates(Facts("bfloat16", 128, 64, "varying"), 2, 64))


def test_segments_are_whole_pairs_of_chunks() -> None:
    for length in (1, 64, 65, 1000, 65536):
        for segments in (1, 2, 3, 7):
            span, count = cut(length, segments)
            assert span * count * 64 >= length > span * (count - 1) * 64
            assert segments == 1 or span % 2 == 0
            assert cut(length, count)[1] == count, "what was cut is not cut again"
