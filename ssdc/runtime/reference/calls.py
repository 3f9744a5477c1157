"""Calls of a reference: arguments by place or name, checked, cast and measured; documents; and the state.

In: a scope, the declared inputs, and what the user gave. Out: a `Bound` call with every size known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from ssdc.errors import CallError, DtypeError, StateError
from ssdc.runtime.reference.evaluation import ScopeLike
from ssdc.runtime.reference.expressions import axes_of
from ssdc.syntax import ast


@dataclass(frozen=True)
class Bound:
    """A call: inputs by name as they are stored, the sizes of axes other than time, and the number of positions.

    `places` says which dimension of each input is time, if one is.
    """

    tensors: Mapping[str, Tensor]
    places: Mapping[str, int | None]
    sizes: Mapping[str, int]
    length: int


@dataclass(frozen=True)
class State:
    """All inputs so far, by name, and the sizes of axes."""

    past: Mapping[str, Tensor]
    sizes: Mapping[str, int]

    def followed_by(self, call: Bound) -> tuple[Bound, int]:
        """Past and present as one call, and the number of positions that are past. Raises StateError."""
        for name, size in self.sizes.items():
            if call.sizes.get(name, size) != size:
                raise StateError(f"the state has {size} positions along '{name}', the call {call.sizes[name]}")
        if not self.past:
            return call, 0
        if set(self.past) != set(call.tensors):
            raise StateError("the state belongs to a layer with other inputs")
        joined: dict[str, Tensor] = {}
        before = 0
        for name, at in call.places.items():
            old, new = self.past[name], call.tensors[name]
            if at is None and not (old.shape == new.shape and bool((old == new).all())):
                raise StateError(f"'{name}' has no time axis and differs from the one that the state was made with")
            joined[name] = new if at is None else torch.cat([old, new], at)
            before = before if at is None else old.shape[at]
        return Bound(joined, call.places, call.sizes, before + call.length), before


def time_axis(ref: ast.TensorRef, reader: str) -> int | None:
    """The dimension of a stored tensor that is the reader position."""
    for place, index in enumerate(ref.indices):
        if isinstance(index, ast.AxisIndex) and index.name == reader:
            return place
    return None


def bind(
    scope: ScopeLike,
    inputs: Sequence[ast.Input],
    args: Sequence[Tensor],
    kwargs: Mapping[str, Tensor],
    cast: bool = True,
) -> Bound:
    """The arguments of a call by input. `cast` turns them into float64 (complex128) and refuses what does not fit.

    Raises CallError for a missing, surplus or repeated input or a shape that does not fit, DtypeError for a dtype.
    """
    names = [entry.tensor.name for entry in inputs]
    if len(args) > len(names):
        raise CallError(f"'{scope.layer.name}' takes {len(names)} inputs, {len(args)} are given")
    given = dict(zip(names, args, strict=False))
    for name, tensor in kwargs.items():
        if name not in names:
            raise CallError(f"'{scope.layer.name}' has no input '{name}'; it takes {', '.join(names) or 'none'}")
        if name in given:
            raise CallError(f"the input '{name}' is given twice")
        given[name] = tensor
    missing = [name for name in names if name not in given]
    if missing:
        raise CallError(f"the input '{missing[0]}' is missing")
    sizes = _sizes(scope, inputs, given)
    tensors = {
        entry.tensor.name: _cast(entry, given[entry.tensor.name]) if cast else given[entry.tensor.name]
        for entry in inputs
    }
    places = {entry.tensor.name: time_axis(entry.tensor, scope.reader) for entry in inputs}
    length = sizes.pop(scope.reader, 0)
    return Bound(tensors, places, sizes, length)


def _sizes(scope: ScopeLike, inputs: Sequence[ast.Input], given: Mapping[str, Tensor]) -> dict[str, int]:
    """The size of every axis of the inputs. The writer positions count as the reader's."""
    sizes = {name: axis.size for name, axis in scope.axes.items() if axis.size is not None}
    for entry in inputs:
        ref, tensor = entry.tensor, given[entry.tensor.name]
        if not isinstance(tensor, Tensor) or tensor.dim() != len(ref.indices):
            found = f"{tensor.dim()} dimensions" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CallError(f"the input '{ref.name}' has {len(ref.indices)} dimensions, found {found}")
        for index, have in zip(ref.indices, tensor.shape, strict=True):
            labels = [scope.reader if label in scope.writers else label for label in axes_of((index,))]
            unknown = [label for label in labels if label not in sizes]
            rest = prod(sizes[label] for label in labels if label in sizes)
            if len(unknown) == 1 and rest and have % rest == 0:
                sizes[unknown[0]] = have // rest
            elif unknown or rest != have:
                want = f"{rest}" if not unknown else f"a multiple of {rest}"
                raise CallError(
                    f"the input '{ref.name}' has {have} positions along ({' '.join(labels)}), expected {want}"
                )
    return sizes


def _cast(entry: ast.Input, tensor: Tensor) -> Tensor:
    name, kind = entry.tensor.name, entry.kind
    fits = {
        "real": not tensor.is_complex() and tensor.dtype != torch.bool,
        "complex": tensor.dtype != torch.bool,
        "int": not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool,
        "bool": tensor.dtype == torch.bool,
    }[kind]
    if not fits:
        raise DtypeError(f"the input '{name}' is {kind}, found {str(tensor.dtype).removeprefix('torch.')}")
    return tensor.to(torch.complex128 if kind == "complex" else torch.float64)


def pick(tensor: Tensor, at: int | None, span: slice) -> Tensor:
    """A range of positions of a stored tensor; all of it if it has no time axis."""
    return tensor if at is None else tensor[(slice(None),) * at + (span,)]


def cut(call: Bound, span: slice) -> Bound:
    """The part of a call between two positions."""
    tensors = {name: pick(tensor, call.places[name], span) for name, tensor in call.tensors.items()}
    return Bound(tensors, call.places, call.sizes, span.stop - span.start)


def documents(offsets: Tensor | Sequence[int], length: int) -> list[slice]:
    """The ranges between offsets. Raises CallError unless they lead from 0 to `length` and never back."""
    flat = offsets.tolist() if isinstance(offsets, Tensor) else list(offsets)
    if not (len(flat) > 1 and flat[0] == 0 and flat[-1] == length) or any(a > b for a, b in pairwise(flat)):
        raise CallError(f"cu_seqlens leads from 0 to the number of positions, {length}, and never back; found {flat}")
    return [slice(start, end) for start, end in pairwise(flat)]
