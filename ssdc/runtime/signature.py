"""The inputs of a compiled layer: bound by name or position, and checked against their declarations.

A check names the tensor, what it had and what it needs. Nothing here depends on the values of tensors.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ssdc.errors import CallError, DtypeError
from ssdc.graph.graph import Graph
from ssdc.graph.nodes import Input

Sizes = dict[str, int]


@dataclass(frozen=True)
class Slot:
    """One dimension of an input: the axes it stores, the product of their fixed sizes, and the one axis left open."""

    axes: tuple[str, ...]
    fixed: int
    open: str | None

    @property
    def shown(self) -> str:
        return "1" if not self.axes else self.axes[0] if len(self.axes) == 1 else f"({' '.join(self.axes)})"


@dataclass(frozen=True, eq=False)
class Signature:
    """The inputs that a layer declares, in order."""

    graph: Graph

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(node for node in self.graph.inputs if not node.name.startswith("@"))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.inputs)

    @cached_property
    def slots(self) -> dict[str, tuple[Slot, ...]]:
        """The dimensions of each input."""
        return {node.name: tuple(self._slot(atoms) for atoms in node.layout) for node in self.inputs}

    def _slot(self, atoms: tuple[str, ...]) -> Slot:
        names: list[str] = []
        rest = atoms
        while rest:
            wholes = [(axis, found) for axis, found in self.graph.atoms.items() if rest[: len(found)] == found]
            axis, found = max(wholes, key=lambda whole: len(whole[1]))
            names.append(axis)
            rest = rest[len(found) :]
        unknown = [atom for atom in atoms if atom == self.graph.reader or self.graph.sizes.get(atom) is None]
        fixed = prod(self.graph.sizes[atom] or 1 for atom in atoms if atom not in unknown)
        return Slot(tuple(names), fixed, unknown[0] if unknown else None)

    def time(self, name: str) -> int | None:
        """The dimension of an input that is time."""
        return next((dim for dim, slot in enumerate(self.slots[name]) if slot.open == self.graph.reader), None)

    def bind(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> list[Tensor]:
        """The inputs in declared order. Raises CallError for missing, surplus and unknown ones."""
        if len(args) > len(self.names):
            raise CallError(
                f"{self.graph.layer} takes {len(self.names)} inputs ({', '.join(self.names)}), and {len(args)} were given"
            )
        bound = dict(zip(self.names, args, strict=False))
        for name, tensor in kwargs.items():
            if name not in self.names:
                close = difflib.get_close_matches(name, self.names, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"its inputs are {', '.join(self.names)}"
                raise CallError(f"{self.graph.layer} has no input '{name}'; {hint}")
            if name in bound:
                raise CallError(f"the input '{name}' was given twice, by position and by name")
            bound[name] = tensor
        missing = [name for name in self.names if name not in bound]
        if missing:
            raise CallError(
                f"{self.graph.layer} needs the input{'s' * (len(missing) > 1)} {', '.join(missing)} besides"
            )
        return [bound[name] for name in self.names]

    def check(self, inputs: Sequence[Tensor], device: torch.device | None, *, step: bool) -> Sizes:
        """The sizes that the inputs decide, per-call atoms and (but in a step) the reader.

        Raises CallError for a wrong number of dimensions, a wrong or contradicting size, or a wrong device, DtypeError
        for a dtype that the declaration does not allow.
        """
        sizes: Sizes = {}
        owners: dict[str, str] = {}
        for node, tensor in zip(self.inputs, inputs, strict=True):
            if not isinstance(tensor, Tensor):
                raise CallError(f"the input '{node.name}' is a {type(tensor).__name__}, and needs to be a torch.Tensor")
            slots = self.slots[node.name]
            if step:
                slots = tuple(slot for slot in slots if slot.open != self.graph.reader)
            if tensor.ndim != len(slots):
                raise CallError(
                    f"the input '{node.name}' has {tensor.ndim} dimensions {_shape(tensor)}, and needs {len(slots)}: {_axes(slots)}"
                )
            for dim, slot in enumerate(slots):
                self._dimension(node.name, tensor, dim, slot, slots, sizes, owners)
            self._dtype(node, tensor)
            if device is not None and tensor.device != device:
                raise CallError(
                    f"the input '{node.name}' is on {tensor.device}, and the layer is on {device}; move one of them with .to()"
                )
            device = device or tensor.device
        return sizes

    def _dimension(
        self,
        name: str,
        tensor: Tensor,
        dim: int,
        slot: Slot,
        slots: Sequence[Slot],
        sizes: Sizes,
        owners: dict[str, str],
    ) -> None:
        size = tensor.shape[dim]
        if slot.open is None:
            if size != slot.fixed:
                raise CallError(
                    f"the input '{name}' has {_shape(tensor)}; its axis {slot.shown} in {_axes(slots)} has size {slot.fixed}, not {size}"
                )
            return
        if slot.fixed != 1:
            if size % slot.fixed:
                raise CallError(
                    f"the input '{name}' has {_shape(tensor)}; its axis {slot.shown} in {_axes(slots)} is a multiple of {slot.fixed}, not {size}"
                )
            size = size // slot.fixed
        if slot.open not in sizes:
            sizes[slot.open], owners[slot.open] = size, name
        elif sizes[slot.open] != size:
            raise CallError(
                f"the input '{name}' has {_shape(tensor)}: size {size} along {slot.shown} of {_axes(slots)}, and "
                f"'{owners[slot.open]}' has {sizes[slot.open]} there; inputs must agree"
            )

    def _dtype(self, node: Input, tensor: Tensor) -> None:
        dtype = tensor.dtype
        if node.kind == "real":
            fits = dtype.is_floating_point
        elif node.kind == "bool":
            fits = dtype == torch.bool
        elif node.kind == "int":
            fits = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        else:
            fits = dtype.is_complex
        if not fits:
            want = {
                "real": "a floating-point dtype",
                "bool": "torch.bool",
                "int": "an integer dtype",
                "complex": "a complex dtype",
            }
            raise DtypeError(
                f"the input '{node.name}' is {tensor.dtype}, and is declared {node.kind}: it needs {want[node.kind]}"
            )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def _axes(slots: Sequence[Slot]) -> str:
    return f"[{', '.join(slot.shown for slot in slots)}]"
