"""The walk for Hopper GPUs: which contraction each of its four roles is, and its Gluon text.

With C, B, X the queries, keys and values and dY the gradient of the outputs, under a mask L of one gate a head:

    outputs   Y[t]  = sum over s of L[t,s] (C[t] . B[s]) X[s]          left C,  right B,  columns X,  time forwards
    queries   dC[t] = sum over s of L[t,s] (dY[t] . X[s]) B[s]         left dY, right X,  columns B,  time forwards
    keys      dB[s] = sum over t of L[t,s] (X[s] . dY[t]) C[t]         left X,  right dY, columns C,  time backwards
    values    dX[s] = sum over t of L[t,s] (B[s] . C[t]) dY[t]         left B,  right C,  columns dY, time backwards

    states    the state after a segment, decay * S + sum over s of B[s] X[s]     right B, columns X, time forwards
    later     its gradient before a segment, decay * D + sum of C[t] dY[t]       right C, columns dY, time backwards

so one kernel walks the first four, another the last two, and no state goes to memory but, for gradients of gates, those
that meet in a product.
Nothing here knows torch or Triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Literal

from ssdc.codegen.render import environment
from ssdc.codegen.triton.facts import Facts, Tiles

Role = Literal["outputs", "queries", "keys", "values", "states", "later"]

CHUNK = 64
"""Positions in a chunk, and columns in a tile: one tile of Hopper's matrix units."""

LONG = 128
"""Positions in a chunk of the roles that give states alone, whose steps wait for little else."""

WARPS = 4
"""One warpgroup. On an H200 two are slower for heads of 256, too, where one spills (.76, not .66 ms)."""


def padded(size: int) -> int:
    """What a size that is contracted over is padded to: 64, 128 or 256."""
    return max(64, 1 << (size - 1).bit_length())


READS: Mapping[Role, tuple[str, ...]] = {
    "outputs": ("query", "key", "value"),
    "queries": ("grad", "value", "key", "query"),
    "keys": ("value", "grad", "query", "key"),
    "values": ("key", "query", "grad", "value"),
    "states": ("key", "value"),
    "later": ("query", "grad"),
}
"""The tiles that a role reads: left, right, columns, and what further gradients need; right and columns for states."""


@dataclass(frozen=True)
class Walk:
    """The context of the template: a role, and what it reads and writes besides."""

    role: Role
    facts: Facts
    enters: bool = False
    """Whether a state enters (zero otherwise)."""
    gates: bool = False
    """Whether the roles `queries` and `keys` give the parts of a gate's gradient, too."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, one.name) for one in fields(self)))

    @property
    def inner(self) -> int:
        """What left and right are contracted over."""
        return self.facts.states if self.straight else self.facts.columns

    @property
    def columns(self) -> int:
        return self.facts.columns if self.straight else self.facts.states

    @property
    def straight(self) -> bool:
        """Whether states are [n, p], and not transposed."""
        return self.role not in ("queries", "keys")

    @property
    def backwards(self) -> bool:
        """Whether time goes backwards."""
        return self.role in ("keys", "values", "later")

    @property
    def walks(self) -> bool:
        """Whether outputs or gradients are written, and not states alone."""
        return self.role not in ("states", "later")

    @cached_property
    def outers(self) -> int:
        """Tiles of columns."""
        return -(-self.columns // CHUNK)

    @cached_property
    def tiles(self) -> Tiles:
        inner = padded(self.inner)
        if self.walks:
            return Tiles(CHUNK, inner, CHUNK, WARPS, 2)
        return Tiles(LONG, inner, CHUNK, WARPS, 2)

    @property
    def dotted(self) -> bool:
        """Whether the role `values` gives, a position, the gradients of factors of values, too."""
        return self.role == "values" and (self.facts.scale or self.facts.skip == "head")

    @property
    def other(self) -> bool:
        """Whether a fourth tile is read: what the result is multiplied by for further gradients."""
        return self.dotted or (self.gates and self.role in ("queries", "keys"))

    @cached_property
    def reads(self) -> tuple[tuple[str, int, int], ...]:
        """The operands that are read in tiles: name, rows and columns of a tile."""
        wide, narrow = (self.tiles.chunk, self.tiles.inner), (self.tiles.chunk, CHUNK)
        names = READS[self.role][: 4 if self.other else 3]
        sizes = (wide, wide, narrow, narrow) if self.walks else (wide, narrow)
        return tuple((name, *size) for name, size in zip(names, sizes, strict=False))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The operands of one number a position."""
        dropped = {"states": "own", "later": "scale"}.get(self.role)
        return tuple(name for name in self.facts.gates if name != dropped)

    @property
    def skips(self) -> bool:
        return self.facts.skip != "none" and self.role in ("outputs", "values")


@lru_cache(maxsize=1024)
def walk_of(role: Role, facts: Facts, enters: bool = False, gates: bool = False) -> Walk:
    """A walk, made once: calls ask for it every time."""
    return Walk(role, facts, enters, gates)


@dataclass(frozen=True)
class Gates:
    """The context of what adds up the gradients of gates: `parts` tiles of states, `inner` numbers of each."""

    facts: Facts
    parts: int
    inner: int


SUMMARIES = {
    "outputs": "Outputs: (query key^T * mask) value within a chunk, query state from before it.",
    "queries": "Gradients of queries: (grad value^T * mask) key within a chunk, grad state^T from before it.",
    "keys": "Gradients of keys: (value grad^T * mask^T) query within a chunk, from after it by the state's gradient.",
    "states": "The state that each segment but the last adds: the sum of decayed key value^T.",
    "later": "The gradient of the state that each segment but the first adds: the sum of decayed query grad^T.",
    "values": "Gradients of values: (key query^T * mask^T) grad within a chunk, from after it by the state's gradient.",
}


WIDEST = 256
"""States, or value columns, that a program contracts over at most."""


def fits(facts: Facts) -> bool:
    """Whether the walk does a contraction: 16-bit, of heads that fit, without maps and norm."""
    plain = not facts.tile_maps and facts.norm is None
    return facts.dtype != "float32" and max(facts.states, facts.columns) <= WIDEST and plain


@lru_cache(maxsize=1024)
def source(walk: Walk | Gates) -> str:
    """The module that defines one walk, as the function `hopper`, or what adds up gradients of gates, as `gates`.

    >>> "def hopper(" in source(Walk("outputs", Facts("bfloat16", 64, 64)))
    True
    """
    if isinstance(walk, Gates):
        return _rendered("gates", {"facts": walk.facts, "parts": walk.parts, "inner": walk.inner, "chunk": CHUNK})
    sign = ">" if walk.facts.strict else ">="
    names = (
        "role",
        "facts",
        "enters",
        "gates",
        "inner",
        "columns",
        "outers",
        "tiles",
        "dotted",
        "other",
        "numbers",
        "backwards",
    )
    context = {name: getattr(walk, name) for name in (*names, "skips")}
    context |= {
        "gates": walk.gates and walk.role in ("queries", "keys"),
        "summary": SUMMARIES[walk.role],
        "ends": walk.straight,
        "keep": f"column {sign} row" if walk.backwards else f"row {sign} column",
        "place": "{} * {} + {}".format(
            *(
                ("inner_place", walk.columns, "outer_place")
                if walk.straight
                else ("outer_place", walk.inner, "inner_place")
            )
        ),
    }
    return _rendered("hopper" if walk.walks else "hopper_states", context)


def _rendered(template: str, context: Mapping[str, object]) -> str:
    text = environment().get_template(f"triton/{template}.jinja").render(context)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
