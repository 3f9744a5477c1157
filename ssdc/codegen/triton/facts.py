"""What the Triton templates fork on: facts of a contraction, tiles, and the context of each kernel.

In: sizes and kinds, from the planner or from tensors at a call. Out: frozen contexts, which `text.source` renders.
Nothing here knows torch or Triton.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Literal

from ssdc.codegen.triton.maps import Chain

Gate = Literal["none", "constant", "varying"]
Own = Literal["none", "gate", "varying"]
Skip = Literal["none", "head", "column"]
Element = Literal["float32", "bfloat16", "float16"]
Template = Literal[
    "states", "carry", "walk", "outputs", "rows", "gradients", "values", "recurrent",
    "streamed", "streamed_gates",
]  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A contraction: element type, sizes, gates.

    `gate` is none, constant [h], or varying [b, t, h]. `own` is what a strict reader applies to the state before it:
    nothing, the gate, or a log gate of its own. `scale` tells of a factor [b, t, h] on each value. `precision` is
    that of float32 dots. `skip` tells of a factor [h] or [h, p] whose product with the value is added to the output.
    `maps` are functions of query, key and value, applied to what lies in memory. With a `norm`, outputs are divided by
    that function of their row sums (of the result for values of one), and a state has one more column, of those.
    """

    dtype: Element
    states: int
    columns: int
    gate: Gate = "none"
    strict: bool = False
    own: Own = "none"
    scale: bool = False
    precision: Literal["ieee", "tf32"] = "ieee"
    skip: Skip = "none"
    maps: tuple[Chain, Chain, Chain] = ((), (), ())
    norm: Chain | None = None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: kernels are chosen by facts at every call."""
        return hash(tuple(getattr(self, one.name) for one in fields(self)))

    @cached_property
    def factor(self) -> float:
        """The number that the query's map ends with as a factor: scores are multiplied by it, not tiles."""
        trailing = self.maps[0][self._plain_steps :]
        return prod(float(step[1:]) for step in trailing)

    @cached_property
    def _plain_steps(self) -> int:
        """The steps of the query's map before its last factors."""
        steps = self.maps[0]
        return max((place + 1 for place, step in enumerate(steps) if not step.startswith("*")), default=0)

    @cached_property
    def tile_maps(self) -> dict[str, Chain]:
        """The functions that tiles are loaded through, by operand."""
        query, key, value = self.maps
        chains = {"query": query[: self._plain_steps], "key": key, "value": value}
        return {name: steps for name, steps in chains.items() if steps}

    @property
    def pitch(self) -> int:
        """The columns of a state."""
        return self.columns + (self.norm is not None)

    @property
    def element(self) -> str:
        return f"tl.{self.dtype}"

    @property
    def before(self) -> bool:
        """Whether a reader leaves out the gate at its own position."""
        return self.strict and self.own != "gate"

    @property
    def wide(self) -> str:
        """The type of running sums of log gates within a chunk.

        A difference of two errs by u times the sums, not by u times their difference: at most chunk * 173 * 2^-24 =
        7e-4 in float32, which 16-bit elements (u >= 5e-4) hide; float32 elements take float64 sums.
        """
        return "tl.float64" if self.dtype == "float32" else "tl.float32"

    @property
    def floor(self) -> float:
        """The least logarithm (base 2) of a gate: below 2^-173 a gate is zero in float32, whatever it is multiplied
        by."""
        return -173.0

    @property
    def sums(self) -> str:
        """The type of summed pairs in the gradient of gates; float16 has too little range for them."""
        return "tl.float32" if self.dtype == "float32" else "tl.bfloat16"

    @property
    def gates(self) -> tuple[str, ...]:
        """The operands besides query, key, value."""
        found = [] if self.gate == "none" else ["gate"]
        if self.own == "varying":
            found.append("own")
        if self.scale:
            found.append("scale")
        return tuple(found)


@dataclass(frozen=True)
class Tiles:
    """Sizes of one kernel's tiles (powers of two, at least 16), its warps and pipeline stages."""

    chunk: int
    inner: int
    outer: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class Limits:
    """Upper bounds that a load of states or of value columns needs: its size's name, or nothing where tiles fit
    exactly."""

    inner: str
    outer: str


@dataclass(frozen=True)
class Kernel:
    """The context of one template."""

    template: Template
    facts: Facts
    tiles: Tiles
    reverse: bool = False
    enters: bool = True
    """Whether a state enters (zero otherwise)."""
    keeps: Literal["totals", "chunks"] = "chunks"
    """What `states` stores besides the last state: logarithms of decays, or the state at each chunk."""
    share: int = 1
    """Heads a program, of one query and key."""
    gates: bool = True
    """Whether gradients of gates are wanted."""
    stretch: int = 1024

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: kernels are looked up at every launch."""
        return hash(tuple(getattr(self, one.name) for one in fields(self)))

    @cached_property
    def limits(self) -> Limits:
        return Limits(
            "STATES" if self.facts.states % self.tiles.inner else "",
            "COLUMNS" if self.facts.columns % self.tiles.outer else "",
        )

    @property
    def learned(self) -> bool:
        """Whether there are gates whose gradients are wanted."""
        return self.gates and self.facts.gate != "none"

    @property
    def whole(self) -> bool:
        """Whether one tile holds all states, so that scores are complete."""
        return self.tiles.inner >= self.facts.states

    @property
    def valued(self) -> bool:
        """Whether the gradient of values reads values: for that of a factor, a gate or a map."""
        facts = self.facts
        return facts.scale or self.learned or facts.skip != "none" or "value" in facts.tile_maps

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The operands with strides, in the order of the kernel's parameters."""
        timed, skip = self.facts.gates, () if self.facts.skip == "none" else ("skip",)
        late = () if self.facts.norm is None else ("inverse", "push")
        match self.template:
            case "states":
                pair = ("query", "grad") if self.reverse else ("key", "value")
                drop = {"scale"} if self.reverse else {"own"}
                return (*pair, *(name for name in timed if name not in drop), *(late if self.reverse else ()))
            case "rows":
                return ("grad", "output")
            case "gradients":
                return ("query", "key", "value", "grad", *timed, *late)
            case "values":
                return ("query", "key", *(("value",) if self.valued else ()), "grad", *timed, *late, *skip)
            case "carry":
                return ()
            case _:
                return ("query", "key", "value", *timed, *skip)
