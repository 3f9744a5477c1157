"""What a call of a masked contraction is to its kernels: facts, sizes, operands that fit, new tensors for results.

In: operands as `ssdc.runtime.kernels.masked` describes them. Not done here: launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Element, Facts, Gate, Own, Skip
from ssdc.codegen.triton.maps import decoded, normed
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.launch import fitting, processors

NAMES: Mapping[torch.dtype, Element] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
OWN: tuple[Own, ...] = ("none", "gate", "varying")
SKIPS: tuple[Skip, ...] = ("none", "head", "column")
"""The kinds of a skip factor, by its dimensions."""


class Given(NamedTuple):
    """The operands of a masked contraction, as its operators take them."""

    query: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor | None
    own: Tensor | None
    scale: Tensor | None
    initial: Tensor | None
    heads: int
    strict: bool
    kind: int
    """What a strict reader applies to the state before it, as an index into OWN."""
    skip: Tensor | None = None
    maps: str = ""

    @property
    def facts(self) -> Facts:
        """What the templates fork on. Raises ValueError for maps that do not exist."""
        query, gate = self.query, self.gate
        kind = "none" if gate is None else "constant" if gate.ndim == 1 else "varying"
        tf32 = query.dtype is torch.float32 and query.is_cuda and torch.backends.cuda.matmul.allow_tf32
        return _facts(
            query.dtype,
            query.shape[-1],
            self.value.shape[-1],
            kind,
            self.strict,
            self.kind,
            self.scale is not None,
            tf32,
            0 if self.skip is None else self.skip.ndim,
            self.maps,
        )

    def call(self, gradient: bool, *more: Tensor) -> Call:
        """What the cost model asks of a call; `gradient`: whether one of the last state enters; `more` is read, too."""
        (batch, length, groups, _), heads = self.query.shape, self.heads
        shared = heads // groups if groups == self.key.shape[2] else 1
        engine = walks.readable(self.query, self.key, self.value, *more)
        processed = processors(self.query.device)
        return Call(batch * heads, length, shared, processed, self.initial is not None, gradient, engine)

    def operands(self, **more: Tensor) -> dict[str, Tensor]:
        """The operands that there are but for the initial state, by name, as launches take them."""
        found = {name: getattr(self, name) for name in ("query", "key", "value", "gate", "own", "scale", "skip")}
        return {name: fitting(x) for name, x in (found | more).items() if x is not None}

    def check(self, *, past: bool = False) -> None:
        """Raises ValueError, with the shapes, for operands that do not fit each other; `past`: writers may come before
        the first reader."""
        query, key, value, heads = self.query, self.key, self.value, self.heads
        if query.ndim != 4 or key.ndim != 4 or value.ndim != 4 or query.shape[-1] != key.shape[-1]:
            raise ValueError(f"query and key must be [b, t, g, n], value [b, t, v, p]: {self._shapes}")
        if past:
            if key.shape[:2] != value.shape[:2] or query.shape[0] != key.shape[0] or query.shape[1] > key.shape[1]:
                raise ValueError(f"query, key and value must agree in batch, key and value in time: {self._shapes}")
        elif query.shape[:2] != value.shape[:2] or key.shape[:2] != value.shape[:2]:
            raise ValueError(f"query, key and value must agree in batch and time: {self._shapes}")
        if any(heads % x.shape[2] for x in (query, key, value)):
            raise ValueError(f"the heads must be a multiple of each operand's: {self._shapes}")
        if not query.dtype == key.dtype == value.dtype or query.dtype not in NAMES:
            found = f"{query.dtype}, {key.dtype}, {value.dtype}"
            raise ValueError(f"query, key and value must have one dtype of {', '.join(NAMES.values())}: {found}")
        wanted = [key.shape[0], key.shape[1], heads]
        for name, x in (("gate", self.gate), ("own", self.own), ("scale", self.scale)):
            if x is not None and list(x.shape) != wanted and not (name == "gate" and list(x.shape) == [heads]):
                raise ValueError(f"{name} is {list(x.shape)} and must be {wanted}")
        columns, skip, initial = value.shape[-1], self.skip, self.initial
        if skip is not None and list(skip.shape) not in ([heads], [heads, columns]):
            raise ValueError(f"skip is {list(skip.shape)} and must be {[heads]} or {[heads, columns]}")
        if initial is not None:
            state = [query.shape[0], heads, query.shape[-1], columns + normed(self.maps)]
            if list(initial.shape) != state:
                raise ValueError(f"the initial state {list(initial.shape)} does not fit: {self._shapes}")

    @property
    def _shapes(self) -> str:
        query, key, value = (list(x.shape) for x in (self.query, self.key, self.value))
        return f"query {query}, key {key}, value {value}, {self.heads} heads"

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """New tensors for output, last state and row sums; of no elements for sums that nothing asks for."""
        (batch, length, _, states), columns = self.query.shape, self.value.shape[-1]
        new, heads, norm = self.value.new_empty, self.heads, normed(self.maps)
        return (
            new((batch, length, heads, columns)),
            new((batch, heads, states, columns + norm), dtype=torch.float32),
            new((batch, heads, length) if norm else (0,), dtype=torch.float32),
        )

    def gradients(self, gates: bool) -> tuple[Tensor, ...]:
        """New tensors for the gradients of query, key, value, gate, own, scale, initial state and skip; of no elements
        where none is due."""

        def like(x: Tensor | None) -> Tensor:
            # contiguous, whatever the strides of x
            return self.query.new_empty((0,)) if x is None else x.new_empty(x.shape)

        of_gates = (self.gate, self.own) if gates else (None, None)
        return tuple(map(like, (*self[:3], *of_gates, self.scale, self.initial, self.skip)))


@lru_cache(maxsize=4096)
def _facts(
    dtype: torch.dtype,
    states: int,
    columns: int,
    gate: Gate,
    strict: bool,
    own: int,
    scale: bool,
    tf32: bool,
    skip: int,
    maps: str,
) -> Facts:
    """Raises ValueError for maps that do not exist."""
    chains, norm = decoded(maps)
    precision: Literal["ieee", "tf32"] = "tf32" if tf32 else "ieee"
    kind = SKIPS[skip]
    return Facts(NAMES[dtype], states, columns, gate, strict, OWN[own], scale, precision, kind, chains, norm)


def kind_of(own: Tensor | str | None) -> int:
    """What a strict reader applies to the state before it, as an index into OWN."""
    return OWN.index("gate" if isinstance(own, str) else "none" if own is None else "varying")


def by_head(into: Tensor, heads: int) -> Tensor:
    """Where the gradient of an operand goes head by head: itself, unless heads share it."""
    batch, length, groups, size = into.shape
    return into if groups == heads else into.new_empty((batch, length, heads, size))


def gathered(made: tuple[Tensor, ...], *by_head: Tensor) -> None:
    """Sum the gradients of heads that share an operand."""
    for into, found in zip(made, by_head, strict=False):
        if found is not into:
            torch.sum(found.view((*found.shape[:2], into.shape[2], -1, found.shape[3])), 3, out=into)
