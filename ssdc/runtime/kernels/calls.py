"""What a call of a masked contraction is to its kernels: facts, sizes, operands that fit, new tensors for results.

In: operands as `ssdc.runtime.kernels.masked` describes them; `own` is an index into OWN, told apart from the tensor
of a gate of its own. Not done here: launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

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


def facts_of(
    query: Tensor,
    value: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    strict: bool,
    own: int,
    skip: Tensor | None,
    maps: str,
) -> Facts:
    """What the templates fork on. Raises ValueError for maps that do not exist."""
    kind = "none" if gate is None else "constant" if gate.ndim == 1 else "varying"
    tf32 = query.dtype is torch.float32 and query.is_cuda and torch.backends.cuda.matmul.allow_tf32
    dims = 0 if skip is None else skip.ndim
    return _made(query.dtype, query.shape[-1], value.shape[-1], kind, strict, own, scale is not None, tf32, dims, maps)


@lru_cache(maxsize=4096)
def _made(
    dtype: torch.dtype,
    states: int,
    columns: int,
    gate: Gate,
    strict: bool,
    own: int,
    scale: bool,
    tf32: bool,
    skip: int = 0,
    maps: str = "",
) -> Facts:
    """Raises ValueError for maps that do not exist."""
    chains, norm = decoded(maps)
    precision: Literal["ieee", "tf32"] = "tf32" if tf32 else "ieee"
    kind = SKIPS[skip]
    return Facts(NAMES[dtype], states, columns, gate, strict, OWN[own], scale, precision, kind, chains, norm)


def check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    heads: int,
    *,
    past: bool = False,
) -> None:
    """Raises ValueError, with the shapes, for operands that do not fit each other; `past`: writers may come before the
    first reader."""
    shapes = _shapes(query, key, value, heads)
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4 or query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must be [b, t, g, n], value [b, t, v, p]: {shapes}")
    if past:
        if key.shape[:2] != value.shape[:2] or query.shape[0] != key.shape[0] or query.shape[1] > key.shape[1]:
            raise ValueError(f"query, key and value must agree in batch, key and value in time: {shapes}")
    elif query.shape[:2] != value.shape[:2] or key.shape[:2] != value.shape[:2]:
        raise ValueError(f"query, key and value must agree in batch and time: {shapes}")
    if any(heads % x.shape[2] for x in (query, key, value)):
        raise ValueError(f"the heads must be a multiple of each operand's: {shapes}")
    if not query.dtype == key.dtype == value.dtype or query.dtype not in NAMES:
        found = f"{query.dtype}, {key.dtype}, {value.dtype}"
        raise ValueError(f"query, key and value must have one dtype of {', '.join(NAMES.values())}: {found}")
    wanted = [key.shape[0], key.shape[1], heads]
    for name, x in (("gate", gate), ("own", own), ("scale", scale)):
        if x is not None and list(x.shape) != wanted and not (name == "gate" and list(x.shape) == [heads]):
            raise ValueError(f"{name} is {list(x.shape)} and must be {wanted}")


def check_rest(
    query: Tensor, key: Tensor, value: Tensor, initial: Tensor | None, heads: int, skip: Tensor | None, maps: str
) -> None:
    """Raises ValueError for a skip factor or an initial state that does not fit the operands."""
    if skip is not None and list(skip.shape) not in ([heads], [heads, value.shape[-1]]):
        raise ValueError(f"skip is {list(skip.shape)} and must be {[heads]} or {[heads, value.shape[-1]]}")
    columns = value.shape[-1] + normed(maps)
    if initial is not None and list(initial.shape) != [query.shape[0], heads, query.shape[-1], columns]:
        shapes = _shapes(query, key, value, heads)
        raise ValueError(f"the initial state {list(initial.shape)} does not fit: {shapes}")


def _shapes(query: Tensor, key: Tensor, value: Tensor, heads: int) -> str:
    return f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}, {heads} heads"


def kind_of(own: Tensor | str | None) -> int:
    """What a strict reader applies to the state before it, as an index into OWN."""
    return OWN.index("gate" if isinstance(own, str) else "none" if own is None else "varying")


def operands_of(**given: Tensor | None) -> dict[str, Tensor]:
    """The operands that there are, by name, as launches take them."""
    return {name: fitting(x) for name, x in given.items() if x is not None}


def call_of(heads: int, initial: bool, gradient: bool, query: Tensor, key: Tensor, *rest: Tensor) -> Call:
    """What the cost rule asks of a call; `initial`, `gradient`: whether a state, and the gradient of one, enter."""
    shared = heads // query.shape[2] if query.shape[2] == key.shape[2] else 1
    lanes, length = query.shape[0] * heads, query.shape[1]
    return Call(lanes, length, shared, processors(query.device), initial, gradient, walks.readable(query, key, *rest))


def result_tensors(query: Tensor, value: Tensor, heads: int, norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """New tensors for output, last state and row sums; of no elements for sums that nothing asks for."""
    batch, length, _, states = query.shape
    columns = value.shape[-1]
    return (
        value.new_empty((batch, length, heads, columns)),
        value.new_empty((batch, heads, states, columns + norm), dtype=torch.float32),
        value.new_empty((batch, heads, length) if norm else (0,), dtype=torch.float32),
    )


def gradient_tensors(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    gates: bool,
    skip: Tensor | None,
) -> tuple[Tensor, ...]:
    """New tensors for the gradients, of no elements where none is due."""

    def like(x: Tensor | None) -> Tensor:
        return query.new_empty((0,)) if x is None else x.new_empty(x.shape)  # contiguous, whatever the strides of x

    return (
        like(query),
        like(key),
        like(value),
        like(gate if gates else None),
        like(own if gates else None),
        like(scale),
        like(initial),
        like(skip),
    )


def by_head(into: Tensor, heads: int) -> Tensor:
    """Where the gradient of an operand goes head by head: itself, unless heads share it."""
    batch, length, groups, size = into.shape
    return into if groups == heads else into.new_empty((batch, length, heads, size))


def gathered(made: tuple[Tensor, ...], *by_head: Tensor) -> None:
    """Sum the gradients of heads that share an operand."""
    for into, found in zip(made, by_head, strict=False):
        if found is not into:
            torch.sum(found.view((*found.shape[:2], into.shape[2], -1, found.shape[3])), 3, out=into)
