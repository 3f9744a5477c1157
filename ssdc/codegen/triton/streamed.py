"""Quadratic order by streaming, as contexts of templates: facts and sizes of a call -> kernels, with their tiles.

Four roles share one template. `outputs` and `queries` (gradients) run over earlier blocks of writers, `keys` and
`values` (gradients) over later blocks of readers: each is weights of a pair of blocks, sums over `depth`, times a tile
of the other side, `wide`. One number a pair of blocks is kept, and that for gradients of gates alone. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from ssdc.codegen.triton.configuration import chunk_of, head
from ssdc.codegen.triton.facts import Facts, Kernel, Limits, Tiles

Role = Literal["outputs", "queries", "keys", "values"]

OPERANDS: Mapping[Role, tuple[str, str, str]] = {
    "outputs": ("query", "key", "value"),
    "queries": ("grad", "value", "key"),
    "keys": ("value", "grad", "query"),
    "values": ("key", "query", "grad"),
}
"""What a role multiplies: rows, the other side of the scores, and what the scores weigh."""

OWN: Mapping[Role, str] = {"queries": "query", "keys": "key", "values": "value"}
"""The rows that a gradient belongs to, which gradients of gates and scales need besides."""


@dataclass(frozen=True)
class Streamed(Kernel):
    """The context of `streamed`; with `band`, pairs are within a width, and writers may have a past before the first
    reader. `parts` are the tiles of queries and of keys that `streamed_gates` sums over."""

    role: Role = "outputs"
    band: bool = False
    parts: tuple[int, int] = (1, 1)

    __hash__ = Kernel.__hash__

    @property
    def depth(self) -> int:
        """Terms of a score."""
        return self.facts.states if self.role in ("outputs", "values") else self.facts.columns

    @property
    def wide(self) -> int:
        """Columns of the result."""
        return self.facts.columns if self.role in ("outputs", "values") else self.facts.states

    @property
    def outers(self) -> int:
        """Tiles of the result's columns."""
        return -(-self.wide // self.tiles.outer)

    @cached_property
    def limits(self) -> Limits:
        return Limits("DEPTH" if self.depth % self.tiles.inner else "", "WIDE" if self.wide % self.tiles.outer else "")

    @property
    def whole(self) -> bool:
        return self.tiles.inner >= self.depth

    @cached_property
    def operands(self) -> tuple[str, ...]:
        if self.template == "streamed_gates":
            return ()
        own = (self.gates and self.facts.gate != "none") if self.role != "values" else self.facts.scale
        mine = (OWN[self.role],) if own and self.role != "outputs" else ()
        return (*OPERANDS[self.role], *mine, *self.facts.gates)


@dataclass(frozen=True)
class Backward:
    """The kernels of one backward call; `gates` where gradients of gates are wanted."""

    queries: Streamed
    keys: Streamed
    values: Streamed
    gates: Streamed | None


def reach(width: int | None, chunk: int, blocks: int) -> int:
    """How many blocks of writers before its own a block of readers may have, of `blocks` in all.

    >>> [reach(width, 64, 32) for width in (1, 2, 65, 66, 100_000, None)]
    [0, 1, 1, 2, 31, 31]
    """
    return min(blocks - 1, blocks if width is None else (width + chunk - 2) // chunk)


def tiles(facts: Facts, role: Role, gates: bool = False) -> Tiles:
    """Tiles of a role: the rows of a block whole up to 128 terms of a score, and as many columns of its result as
    registers hold beside them (fewer where gradients of gates take what each block adds)."""
    states, columns = head(facts)
    depth, wide = (states, columns) if role in ("outputs", "values") else (columns, states)
    if facts.dtype == "float32":
        return Tiles(chunk_of(facts), min(32, depth), min(32, wide), 4, 1)
    most = 64 if gates and role == "queries" else 128
    return Tiles(chunk_of(facts), depth if depth <= 128 else 64, min(most, wide), 4, 2)


@lru_cache(maxsize=4096)
def outputs(facts: Facts, band: bool) -> Streamed:
    """The kernel of a forward call."""
    return Streamed("streamed", facts, tiles(facts, "outputs"), role="outputs", band=band)


@lru_cache(maxsize=4096)
def backward(facts: Facts, band: bool, gates: bool) -> Backward:
    """The kernels of a backward call; `gates` tells whether gradients of gates are wanted."""
    gates = gates and facts.gate != "none"

    def of(role: Role) -> Streamed:
        wanted = gates and role in ("queries", "keys")
        return Streamed("streamed", facts, tiles(facts, role, wanted), role=role, band=band, gates=wanted)

    queries, keys = of("queries"), of("keys")
    sums = Tiles(queries.tiles.chunk, 64, 16, 4, 1)
    parts = queries.outers, keys.outers
    last = Streamed("streamed_gates", facts, sums, band=band, parts=parts) if gates else None
    return Backward(queries, keys, of("values"), last)
