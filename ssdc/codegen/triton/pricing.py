"""What the forms of the Triton kernels cost: facts and sizes of a call -> work of each kernel, and candidates.

A kernel is a grid of programs, each a chain of steps over chunks: its time is that of the chain, as often as programs
take turns on the multiprocessors, or that of what moves, whichever is longer. The longest of both kinds is the
price; every kernel started adds its start. The constants are counts of the kernels as they are, fitted to measured
times; a machine's figures are its profile's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from math import ceil

from ssdc.codegen.triton import configuration
from ssdc.codegen.triton.configuration import Backward, BackwardForm, Call, Form, Forward
from ssdc.codegen.triton.facts import Facts, Kernel
from ssdc.codegen.triton.hopper import Role, Walk, fits
from ssdc.plan.candidate import TURN, Candidate, priced
from ssdc.plan.cost import Work
from ssdc.plan.hardware import Hardware

SLOTS: Mapping[str, int] = {
    "walk": 2, "states": 3, "carry": 8, "outputs": 3, "gradients": 2, "values": 2, "recurrent": 8,
    "hopper": 2, "hopper, wide": 1,
}  # fmt: skip
"""Programs of each kernel that a multiprocessor holds at once, by registers and shared memory."""
SEGMENTS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32)
"""Pieces of time that are tried."""
ROOM = 2.3e-13
"""Seconds that a byte of temporaries is worth: about what moving it once takes."""
FILLED = 8
"""Programs a multiprocessor from which further ones only wait."""
CALL, CALL_BACK = 1.6, 3.0 + TURN["cuda"]
"""Operations that the host's work on a call is worth, forward and backward."""
AHEAD, SPILLED = 0.62, 2.6
"""Operations of a step of Hopper's walk that wait for one another, over those of a portable one, whose loads do not go
ahead of it; and how many more steps are worth where the gradient of gates does not fit the registers."""
WEIGHTED: Mapping[str, float] = {
    "walk": 5.4, "states": 2.6, "outputs": 6.6, "gradients": 11.3, "values": 17.7, "learned": 1.4,
    "hopper": 3.5, "hopper, learned": 4.2,
}  # fmt: skip
"""What gates that vary add to a step of each kernel, which weights pairs of positions by them, in products of a chunk's
pairs with as many columns; to a program, where all chunks are worked on side by side. And what their gradient adds."""
PAIR = 9.0
"""Elementwise operations on each of the pairs that one of these is."""
BACKWARD = ("gradients", "values")
"""The kernels that take part in the gradient of gates."""
SIDE_BY_SIDE = ("outputs", *BACKWARD)
"""The kernels whose programs go over the tiles of one chunk."""
SCALED = 1.66
"""How much longer a step takes whose values are scaled."""
CROWDED = 0.38
"""How much longer a step takes that no other program hides, where all multiprocessors wait for memory, and not one or
for the cache."""
DESCRIBED = 0.08
"""Starts of a kernel that the descriptor of an operand is worth, which the host makes."""
POSITION, CARRIED = 3.2, 2.4
"""Steps of a chain that a position by itself takes, and that carrying the state over a piece of time takes."""


def forms(facts: Facts, call: Call) -> tuple[Forward, ...]:
    """Every forward configuration that may be chosen for a call."""
    found = [
        configuration.forward(facts, call, form, segments)
        for form in _admitted(facts, call)
        for segments in (pieces(facts, call) if form in ("segments", "parallel", "hopper") else (1,))
        if form != "segments" or segments > 1
    ]
    return tuple(found)


def backs(facts: Facts, call: Call, gates: bool) -> tuple[Backward, ...]:
    """Every backward configuration that may be chosen for a call."""
    admitted: tuple[BackwardForm, ...] = ("parallel", "hopper") if engine(facts, call) else ("parallel",)
    pairs = product(admitted, pieces(facts, call))
    return tuple(configuration.backward(facts, call, gates, form, segments) for form, segments in pairs)


def pieces(facts: Facts, call: Call) -> tuple[int, ...]:
    """Pieces of time that are tried: of four chunks at least, and no more than bring the machine its programs."""
    chunks = -(-call.length // configuration.chunk_of(facts))
    most = max(1, min(chunks // 4, FILLED * call.processors // max(1, call.lanes)))
    return tuple(count for count in SEGMENTS if count <= most)


def engine(facts: Facts, call: Call) -> bool:
    """Whether Hopper's walk serves a call."""
    return call.engine and fits(facts)


def _admitted(facts: Facts, call: Call) -> tuple[Form, ...]:
    """The forms whose tiles fit: more states than the walk's registers hold go through memory, or by Hopper's walk."""
    wide = facts.states > 128 or (facts.dtype == "float32" and facts.states > 64)
    portable: tuple[Form, ...] = ("recurrent", "parallel") if wide else ("recurrent", "walk", "segments", "parallel")
    return (*portable, "hopper") if engine(facts, call) else portable


def candidates(facts: Facts, call: Call, hardware: Hardware, after: Backward | None = None) -> tuple[Candidate, ...]:
    """The forms of a call as candidates, cheapest first; each with the backward pass `after` it, if there is one."""
    return tuple(sorted((candidate(facts, call, one, hardware, after) for one in forms(facts, call)), key=order))


def order(found: Candidate) -> float:
    """What the choice is by: the time of a call, which the host's work may be, and a fifth of the device's, which is
    all there is where a graph is replayed or the host is faster; and what a byte of temporaries is worth."""
    return found.cost.seconds + found.cost.busy / 5 + ROOM * found.cost.workspace


def back(facts: Facts, call: Call, chosen: Backward, hardware: Hardware) -> Candidate:
    """A backward configuration as a candidate."""
    parts = backward_works(facts, call, chosen, hardware) | {"call": [Work(launches=CALL_BACK)]}
    return priced(parts, hardware, "chunked", configuration.chunk_of(facts), {}, 1, chosen.form, chosen.segments)


def candidate(
    facts: Facts, call: Call, chosen: Forward, hardware: Hardware, after: Backward | None = None
) -> Candidate:
    """A configuration as a candidate, with the backward pass `after` it if there is one."""
    parts = forward_works(facts, call, chosen, hardware)
    parts["call"] = [Work(launches=CALL)]
    if after is not None:
        parts["call"].append(Work(launches=CALL_BACK))
        parts |= {f"{name}, back": works for name, works in backward_works(facts, call, after, hardware).items()}
    if chosen.form == "recurrent":
        return priced(parts, hardware, "recurrent", None, {}, call.length, chosen.form)
    chunk = configuration.chunk_of(facts)
    depth = ceil(ceil(call.length / chunk) / chosen.segments)
    return priced(parts, hardware, "chunked", chunk, {}, depth, chosen.form, chosen.segments)


def forward_works(facts: Facts, call: Call, chosen: Forward, hardware: Hardware) -> dict[str, list[Work]]:
    """The kernels of a forward call, in order."""
    size = _Sizes(facts, call, hardware)
    parts: dict[str, list[Work]] = {}
    if chosen.form == "hopper":
        if chosen.segments > 1:
            parts["sums"] = [size.hopper("states", chosen.segments)]
            parts["carry"] = [size.carry(chosen.carry, chosen.segments)]
        parts["walk"] = [size.hopper("outputs", chosen.segments)]
        return parts
    if chosen.segments > 1 and chosen.form != "recurrent":
        parts["sums"] = [size.states(chosen.sums, chosen.segments, kept=False)]
        parts["carry"] = [size.carry(chosen.carry, chosen.segments)]
    if chosen.form == "parallel":
        parts["states"] = [size.states(chosen.states, chosen.segments, kept=True)]
        parts["outputs"] = [size.chunkwise(chosen.outputs, products=1, states=1)]
    elif chosen.form == "recurrent":
        parts["recurrent"] = [size.positions(chosen.outputs)]
    else:
        parts["walk"] = [size.walk(chosen.outputs, chosen.segments)]
    return parts


def backward_works(facts: Facts, call: Call, chosen: Backward, hardware: Hardware) -> dict[str, list[Work]]:
    """The kernels of a backward call, in order."""
    size = _Sizes(facts, call, hardware)
    if chosen.form == "hopper":
        return _walked_back(facts, call, chosen, size)
    parts: dict[str, list[Work]] = {"states": [], "later": []}
    if chosen.segments > 1:
        for name, sums, carry in (
            ("states", chosen.sums, chosen.carry),
            ("later", chosen.later_sums, chosen.later_carry),
        ):
            parts[name] += [size.states(sums, chosen.segments, kept=False), size.carry(carry, chosen.segments)]
    parts["states"].append(size.states(chosen.states, chosen.segments, kept=True))
    parts["later"].append(size.states(chosen.later, chosen.segments, kept=True))
    parts["gradients"] = [size.chunkwise(chosen.gradients, products=3, states=2)]
    parts["values"] = [size.chunkwise(chosen.values, products=2, states=1)]
    if chosen.gradients.learned:
        parts["gates"] = [Work(bytes=8.0 * size.tokens, launches=2.0)]
    return parts | size.groups()


def _walked_back(facts: Facts, call: Call, chosen: Backward, size: _Sizes) -> dict[str, list[Work]]:
    """The walks of a backward call on a Hopper GPU."""
    parts: dict[str, list[Work]] = {}
    both: tuple[tuple[Role, Kernel], ...] = (("states", chosen.carry), ("later", chosen.later_carry))
    for role, carry in both:
        if chosen.segments > 1:
            parts[role] = [size.hopper(role, chosen.segments), size.carry(carry, chosen.segments)]
    gates = chosen.gradients.learned
    for role in WALKS_BACK:
        parts[role] = [size.hopper(role, chosen.segments, gates and role != "values")]
    if gates:
        parts["gates"] = [Work(bytes=20.0 * size.tokens, kernels=1.0)]
    return parts | size.groups()


WALKS_BACK: tuple[Role, ...] = ("queries", "keys", "values")
"""The walks that give gradients."""


class _Sizes:
    """The counts that works of one call share."""

    def __init__(self, facts: Facts, call: Call, hardware: Hardware) -> None:
        self.facts, self.call, self.hardware = facts, call, hardware
        self.item = 4.0 if facts.dtype == "float32" else 2.0
        self.chunk = configuration.chunk_of(facts)
        self.chunks = -(-call.length // self.chunk)
        self.inner, self.outer = configuration.head(facts)
        self.tokens = float(call.lanes * call.length)
        self.ends = 4.0 * facts.states * facts.columns * call.lanes
        """Bytes of the last states."""

    def rows(self) -> float:
        """Bytes of two operands of states, two of columns, two numbers a position. What is read again is in cache."""
        sizes = 2.0 * self.facts.states / self.call.shared + 2.0 * self.facts.columns
        return self.item * self.tokens * sizes + 8.0 * self.tokens

    def walk(self, kernel: Kernel, segments: int) -> Work:
        """One pass with the state in registers."""
        tiles, chunk = kernel.tiles, self.chunk
        parts = -(-self.outer // tiles.outer)
        flops = 2.0 * chunk * (chunk * (tiles.inner + tiles.outer) + 2 * tiles.inner * tiles.outer)
        moved = self.rows() + self.ends
        return self._work(kernel, self.call.lanes * segments * parts, -(-self.chunks // segments), flops, moved)

    def states(self, kernel: Kernel, segments: int, *, kept: bool) -> Work:
        """States of all segments but one, or (`kept`) of every chunk, into memory."""
        tiles, summed = kernel.tiles, segments if kept else segments - 1
        rows, columns = -(-self.inner // tiles.inner), -(-self.outer // tiles.outer)
        flops = 2.0 * self.chunk * tiles.inner * tiles.outer
        size = self.facts.states * self.facts.columns
        written = (self.item * self.chunks if kept else 4.0 * summed) * self.call.lanes * size
        moved = self.rows() / 2 * summed / segments + written + (self.ends if kept else 0.0)
        programs = self.call.lanes * summed * rows * columns
        return self._work(kernel, programs, -(-self.chunks // segments), flops, moved, held=written)

    def hopper(self, role: Role, segments: int, gates: bool = False) -> Work:
        """One of Hopper's walks; `gates`: with the parts of a gate's gradient."""
        walk = Walk(role, self.facts, gates=gates)
        tiles, chunk = walk.tiles, walk.tiles.chunk
        flops = 2.0 * chunk * (tiles.inner * tiles.outer)
        if walk.walks:
            flops += 2.0 * chunk * (chunk * (tiles.inner + tiles.outer) + tiles.inner * tiles.outer)
        steps = ceil(ceil(self.call.length / chunk) / segments)
        pieces = segments if walk.walks else segments - 1
        programs = self.call.lanes * pieces * walk.outers
        moved = self.rows() + self.ends if walk.walks else self.rows() / 2 * pieces / segments
        states = self.item * self.facts.states * self.facts.columns * self.call.lanes * self.chunks
        kept = states if walk.gates and role == "queries" else 0.0  # before every chunk, for the walk of keys
        described = len(walk.reads) + (1 if walk.walks else 0)
        work = self._work(walk, programs, steps, flops, moved)
        return replace(work, kernels=1.0 + DESCRIBED * described, workspace=kept)

    def groups(self) -> dict[str, list[Work]]:
        """The sum of gradients over the heads that share a query and key."""
        if self.call.shared == 1:
            return {}
        numbers = 2.0 * self.tokens * self.facts.states
        return {"groups": [Work(bytes=self.item * numbers * 1.5, launches=2.0)]}

    def carry(self, kernel: Kernel, segments: int) -> Work:
        """The state that enters each segment."""
        size = float(self.facts.states * self.facts.columns * self.call.lanes)
        programs = self.call.lanes * -(-self.facts.states * self.facts.columns // kernel.stretch)
        moved, held = 4.0 * size * (2 * segments - 1), 4.0 * size * segments
        return self._work(kernel, programs, CARRIED * (segments - 1), 0.0, moved, held=held)

    def chunkwise(self, kernel: Kernel, *, products: int, states: int) -> Work:
        """All chunks side by side: `products` between positions and `states` read back for each tile."""
        tiles, chunk = kernel.tiles, self.chunk
        gradients = kernel.template == "gradients"
        parts = -(-self.inner // tiles.inner) if gradients else -(-self.outer // tiles.outer)
        steps = -(-self.outer // tiles.outer) if gradients else -(-self.inner // tiles.inner)
        pair = 2.0 * chunk * chunk * (tiles.inner + tiles.outer)
        flops = products * pair + states * 2.0 * chunk * tiles.inner * tiles.outer
        size = float(self.facts.states * self.facts.columns * self.call.lanes * self.chunks)
        moved = self.item * states * size + (1.5 if gradients else 1.0) * self.rows()
        programs = self.call.lanes // kernel.share * self.chunks * parts
        return self._work(kernel, programs, steps * kernel.share, flops, moved)

    def positions(self, kernel: Kernel) -> Work:
        """One pass position by position."""
        parts = -(-self.facts.columns // kernel.tiles.outer)
        steps = POSITION * self.call.length
        return self._work(kernel, self.call.lanes * parts, steps, 0.0, self.rows() + 2 * self.ends)

    def _weighted(self, kernel: Kernel | Walk, steps: float) -> float:
        """What gates cost a step of a kernel, as `WEIGHTED` counts it."""
        varying = self.facts.gate == "varying"
        if isinstance(kernel, Walk):
            return varying * WEIGHTED["hopper"] + kernel.gates * WEIGHTED["hopper, learned"]
        name = kernel.template
        weighted = varying * WEIGHTED.get(name, 0.0) + (kernel.learned and name in BACKWARD) * WEIGHTED["learned"]
        return weighted * kernel.share / steps if name in SIDE_BY_SIDE else weighted

    def _work(
        self, kernel: Kernel | Walk, programs: float, steps: float, flops: float, moved: float, held: float = 0.0
    ) -> Work:
        """A grid of programs, each of `steps` steps of `flops` operations; `moved` bytes over all."""
        tiles, name = kernel.tiles, _name(kernel)
        rows = 2 * tiles.chunk * (tiles.inner + tiles.outer)
        on_chip = self.item * tiles.stages * rows + 4.0 * tiles.inner * tiles.outer
        resident = max(1, min(SLOTS[name], int(self.hardware.on_chip // on_chip)))
        turns = -(-programs // (resident * self.call.processors))
        slower = SCALED if self.facts.scale and flops else 1.0
        cached, _ = self.hardware.bandwidth[0]
        if resident == 1 or programs <= self.call.processors:
            slower *= 1.0 + CROWDED * min(1.0, programs / self.call.processors) * min(1.0, moved / cached)
        weighted = self._weighted(kernel, steps)
        ahead, spilled = 1.0, 1.0
        if isinstance(kernel, Walk):
            ahead, spilled = AHEAD, SPILLED if kernel.gates and tiles.inner > 128 else 1.0
        return Work(
            matrix=programs * steps * flops,
            vector=PAIR * programs * steps * weighted * self.chunk**2,
            half=self.item == 2.0,
            bytes=moved,
            touched=moved,
            kernels=1.0,
            depth=turns * steps * slower,
            chain=spilled * (ahead * flops + weighted * 2.0 * self.chunk**3),
            entries=programs * self.hardware.grain,
            fresh=held,
            workspace=held,
        )


def _name(kernel: Kernel | Walk) -> str:
    """A kernel as `SLOTS` calls it."""
    if isinstance(kernel, Kernel):
        return kernel.template
    return "hopper" if max(kernel.facts.states, kernel.facts.columns) <= 128 else "hopper, wide"
