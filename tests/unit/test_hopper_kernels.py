"""The walks for Hopper, compiled ahead of time: no GPU is needed to see what registers and shared memory they take.

That they are right is shown on a GPU (tests/gpu/test_hopper.py): Triton's interpreter does not know Gluon.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.hopper import Gates, Role, Walk, fits, source
from ssdc.runtime.kernels.walks import cut
from tests.support.cubins import SHARED, usage_of_walk

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
