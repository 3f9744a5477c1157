"""The inputs of a compiled layer: bound by name or position, and checked against their declarations.

A check names the tensor, what it had and what it needs. Nothing here depends on the values of tensors.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


class Signature:
    """The inputs that a layer declares, in order, and the dimensions (`slots`) of each.

    All is made at once: a cached property takes a lock in Python 3.11, which torch.compile cannot trace.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inputs: tuple[Input, ...] = tuple(node for node in graph.inputs if not node.name.startswith("@"))
        self.names = tuple(node.name for node in self.inputs)
        self.slots = {node.name: tuple(self._slot(atoms) for atoms in node.layout) for node in self.inputs}

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
                f"{self.graph.layer} takes {len(self.names)} inputs ({', '.join(self.names)}), "
                f"and {len(args)} were given"
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
            shown = ", ".join(f"{name}{_axes(self.slots[name])}" for name in missing)
            many = "s" * (len(missing) > 1)
            raise CallError(
                f"{self.graph.layer} needs the input{many} {shown} besides; pass by name or in declared order"
            )
        return [bound[name] for name in self.names]

    def check(self, inputs: Sequence[object], device: torch.device | None, *, step: bool) -> Sizes:
        """The sizes that the inputs decide, per-call atoms and (but in a step) the reader.

        Raises CallError for a wrong number of dimensions, a wrong or contradicting size, or a wrong device, DtypeError
        for a dtype that the declaration does not allow.
        """
        sizes: Sizes = {}
        owners: dict[str, str] = {}
        given = device is not None
        for node, tensor in zip(self.inputs, inputs, strict=True):
            if not isinstance(tensor, Tensor):
                what = f"the input '{node.name}' is a {type(tensor).__name__}, and needs to be a torch.Tensor"
                raise CallError(f"{what}; make one with torch.as_tensor()")
            slots = self.slots[node.name]
            if step:
                slots = tuple(slot for slot in slots if slot.open != self.graph.reader)
            if tensor.ndim != len(slots):
                what = f"the input '{node.name}' has {tensor.ndim} dimensions {_shape(tensor)}, and needs {len(slots)}"
                raise CallError(f"{what}, {_axes(slots)}; {_reshaping(tensor.ndim - len(slots), step)}")
            for dim, slot in enumerate(slots):
                self._dimension(node.name, tensor, dim, slot, slots, sizes, owners)
            self._dtype(node, tensor)
            if device is not None and tensor.device != device:
                where = "the layer is" if given else f"'{self.inputs[0].name}' is"
                what = f"the input '{node.name}' is on {tensor.device}, and {where} on {device}, where it needs to be"
                raise CallError(f"{what}; move one of them with .to()")
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
                what = f"the input '{name}' has {_shape(tensor)}: size {size} along {slot.shown} of {_axes(slots)}"
                raise CallError(f"{what}, which needs {slot.fixed}; that size was fixed when the layer was compiled")
            return
        if slot.fixed != 1:
            if size % slot.fixed:
                what = f"the input '{name}' has {_shape(tensor)}: size {size} along {slot.shown} of {_axes(slots)}"
                raise CallError(f"{what}, which needs a multiple of {slot.fixed}; pad it, or lay it out as declared")
            size = size // slot.fixed
        if slot.open not in sizes:
            sizes[slot.open], owners[slot.open] = size, name
        elif sizes[slot.open] != size:
            what = f"the input '{name}' has {_shape(tensor)}: size {size} along {slot.shown} of {_axes(slots)}"
            other = f"'{owners[slot.open]}' has {sizes[slot.open]} there"
            raise CallError(f"{what}, and {other}; inputs need to agree, so expand or cut one of them")

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
            want, cast = {
                "real": ("a floating-point dtype", "torch.float32"),
                "bool": ("torch.bool", "torch.bool"),
                "int": ("an integer dtype", "torch.int64"),
                "complex": ("a complex dtype", "torch.complex64"),
            }[node.kind]
            what = f"the input '{node.name}' is {dtype}, and is declared {node.kind}, which needs {want}"
            raise DtypeError(f"{what}; cast it with .to({cast})")


def _reshaping(surplus: int, step: bool) -> str:
    """What to do about a tensor with so many dimensions too many."""
    if step and surplus == 1:
        return "a step takes one position, without the time axis: x.select(dim, 0)"
    return (
        "add the others with unsqueeze() or view()"
        if surplus < 0
        else "join or drop the others with flatten() or squeeze()"
    )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def _axes(slots: Sequence[Slot]) -> str:
    return f"[{', '.join(slot.shown for slot in slots)}]"
