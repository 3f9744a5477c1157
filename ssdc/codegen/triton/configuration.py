"""The kernels of a form: facts and sizes of a call, a form and pieces of time -> which kernels run, with which tiles.

Forward, five forms: `hopper` (the walk in Gluon, on Hopper GPUs), `recurrent` (position by position, state in
registers), `walk` (the same chunk by chunk), `segments` (states of segments first, then the walk of each), and
`parallel` (the state before every chunk in memory, then all chunks side by side). Backward, two: `hopper`, and
`parallel` over chunks. Not done here: the choice among them (`ssdc.codegen.triton.choose`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ssdc.codegen.triton.facts import Facts, Kernel, Tiles

Form = Literal["recurrent", "walk", "segments", "parallel", "hopper"]
BackwardForm = Literal["parallel", "hopper"]
FORMS: Mapping[str, Form | None] = {
    "": None, "recurrent": "recurrent", "walk": "walk", "segments": "segments", "parallel": "parallel",
    "hopper": "hopper",
}  # fmt: skip
"""The forms of a forward call, by what operators take for them; none where the cost model chooses."""


@dataclass(frozen=True)
class Call:
    """What a call's sizes are to the cost model: batch * heads, positions, heads that share one query and key,
    multiprocessors; and whether a state (in the backward pass, the gradient of one) enters."""

    lanes: int
    length: int
    shared: int
    processors: int
    initial: bool = True
    gradient: bool = True
    engine: bool = False
    """Whether the copy engine of a Hopper GPU reads the operands."""


@dataclass(frozen=True)
class Forward:
    """The kernels of one forward call; `segments` is how many pieces time is cut into for states."""

    form: Form
    segments: int
    sums: Kernel
    states: Kernel
    carry: Kernel
    outputs: Kernel


@dataclass(frozen=True)
class Backward:
    """The kernels of one backward call."""

    segments: int
    sums: Kernel
    carry: Kernel
    states: Kernel
    later_sums: Kernel
    later_carry: Kernel
    later: Kernel
    gradients: Kernel
    values: Kernel
    form: BackwardForm = "parallel"


def padded(size: int, least: int = 16) -> int:
    """The power of two, at least `least`, that a size is padded to.

    >>> padded(24), padded(80), padded(3), padded(3, 64)
    (32, 128, 16, 64)
    """
    return max(least, 1 << (size - 1).bit_length())


def head(facts: Facts) -> tuple[int, int]:
    """States and value columns of a head, padded so that a row of a tile fills the 128 bytes of the widest swizzle.

    On narrower rows Triton 3.6 makes wrong code for Hopper's matrix units (seen in `outputs` and `values`, 16 and 32
    columns of 16 bits, results off by hundreds of units; the GPU tests have every pair of sizes).
    """
    least = 64 if facts.dtype != "float32" else 32 if facts.precision == "tf32" else 16
    return padded(facts.states, least), padded(facts.columns, least)


def chunk_of(facts: Facts) -> int:
    """Positions in a chunk. Float32 has no tensor cores, so small chunks cost least and keep sums in registers."""
    return 32 if facts.dtype == "float32" else 64


def state_tiles(facts: Facts) -> Tiles:
    """Tiles of the states kernel."""
    most = 32 if facts.dtype == "float32" else 64
    inner, outer = head(facts)
    return Tiles(chunk_of(facts), min(most, inner), min(most, outer), 4, 3)


def share_of(shared: int, most: int) -> int:
    """The largest divisor of `shared` up to `most`.

    >>> share_of(80, 8), share_of(24, 5), share_of(7, 4)
    (8, 4, 1)
    """
    return max(share for share in range(1, most + 1) if shared % share == 0)


@lru_cache(maxsize=4096)
def forward(facts: Facts, call: Call, form: Form, segments: int = 1) -> Forward:
    """The kernels of a forward call in a form."""
    chunk = chunk_of(facts)
    chunks = -(-call.length // chunk)
    inner, outer = head(facts)
    walk, of_states = walk_tiles(facts), state_tiles(facts)
    sums = Kernel("states", facts, of_states, enters=False, keeps="totals")
    enters = call.initial or segments > 1
    states = Kernel("states", facts, of_states, keeps="chunks", enters=enters)
    carry = Kernel("carry", facts, Tiles(chunk, inner, outer, 4, 1), enters=call.initial)
    if form == "parallel":
        share = share_of(call.shared, 8 if call.lanes * chunks >= 16 * call.processors else 1)
        share = share if outputs_tiles(facts, share).inner >= inner else 1
        outputs = Kernel("outputs", facts, outputs_tiles(facts, share), share=share)
    elif form == "recurrent":
        outputs = Kernel("recurrent", facts, recurrent_tiles(facts), enters=enters)
    else:
        outputs = Kernel("walk", facts, walk, enters=enters)
    return Forward(form, segments, sums, states, carry, outputs)


def walk_tiles(facts: Facts) -> Tiles:
    """Tiles of the walk: all states, and as many value columns as registers hold beside them."""
    inner, outer = head(facts)
    if facts.dtype == "float32":
        return Tiles(chunk_of(facts), inner, min(32, outer), 4 if inner <= 32 else 8, 1)
    large = inner > (64 if facts.norm is not None else 128)
    return Tiles(chunk_of(facts), inner, min(64, outer), 8 if large else 4, 2)


def outputs_tiles(facts: Facts, share: int) -> Tiles:
    """Tiles of `outputs`, and of `values` for few columns.

    Heads that share scores take all states at once; one head takes them in tiles of 64, which pipeline.
    """
    inner, outer = head(facts)
    if facts.dtype == "float32":
        return Tiles(chunk_of(facts), min(32, inner), min(32, outer), 4, 1)
    if inner > 128:
        return Tiles(chunk_of(facts), 64, min(128, outer), 4, 2)
    return Tiles(chunk_of(facts), inner if share > 1 else min(64, inner), min(64, outer), 4, 2)


def values_tiles(facts: Facts, share: int) -> Tiles:
    """Tiles of `values`: all columns, so that scores are computed once."""
    inner, outer = head(facts)
    if facts.dtype == "float32" or outer <= 64:
        return outputs_tiles(facts, share)
    return Tiles(chunk_of(facts), min(64, inner), 128, 4, 2)


def gradient_tiles(facts: Facts) -> Tiles:
    """Tiles of `gradients`: 64 states."""
    inner, outer = head(facts)
    if facts.dtype == "float32":
        return Tiles(chunk_of(facts), min(32, inner), min(32, outer), 4, 1)
    return Tiles(chunk_of(facts), min(64, inner), min(64, outer), 4, 2)


@lru_cache(maxsize=4096)
def backward(facts: Facts, call: Call, gates: bool, form: BackwardForm, segments: int = 1) -> Backward:
    """The kernels of a backward call in a form; `gates` tells whether gradients of gates are wanted."""
    chunk = chunk_of(facts)
    chunks = -(-call.length // chunk)
    inner, outer = head(facts)
    of_states = state_tiles(facts)
    share = share_of(call.shared, 8 if call.lanes * chunks >= 16 * call.processors else 1)
    sums = Kernel("states", facts, of_states, enters=False, keeps="totals")
    carry = Kernel("carry", facts, Tiles(chunk, inner, outer, 4, 1), enters=call.initial)
    later = replace(sums, reverse=True)
    share = share if outer <= 64 and facts.norm is None and values_tiles(facts, share).inner >= inner else 1
    return Backward(
        segments,
        sums,
        carry,
        replace(sums, enters=call.initial or segments > 1, keeps="chunks"),
        later,
        replace(carry, reverse=True, enters=call.gradient),
        replace(later, enters=call.gradient or segments > 1, keeps="chunks"),
        Kernel("gradients", facts, gradient_tiles(facts), gates=gates),
        Kernel("values", facts, values_tiles(facts, share), share=share, gates=gates),
        form,
    )


def recurrent_tiles(facts: Facts) -> Tiles:
    """Tiles of what goes position by position: all states, and few enough columns for registers."""
    return Tiles(16, padded(facts.states), min(32, padded(facts.columns)), 4, 1)


@lru_cache(maxsize=4096)
def rows(facts: Facts) -> Kernel:
    """The kernel that prepares the gradient of a norm."""
    return Kernel("rows", facts, Tiles(chunk_of(facts), 16, min(128, head(facts)[1]), 4, 1))
