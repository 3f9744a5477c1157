"""One masked contraction as the orderings see it: operands, axes, the mask's facts, and sizes for one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.states import gate_axes, state_axes
from ssdc.plan.search import Operands

CHUNK, ROW, COLUMN, BLOCK, WITHIN = "#chunk", "#row", "#column", "#block", "#within"
"""Places in time: the chunk, the reader and the writer within it; where gates vary with a summed axis, the block of
rows within the chunk, and the writer within the block."""

SUB = 16
"""Rows of a block that share an anchor."""


@dataclass(frozen=True)
class Problem:
    """A contraction to be ordered. `sizes` holds every atom, and the time axis under the reader's name."""

    name: str
    equation: str
    time: str
    mask: ir.Mask
    readers: Operands
    writers: Operands
    axes: tuple[str, ...]
    state: tuple[str, ...]
    gates: tuple[str, ...]
    """Atoms of gates and documents together, without time."""
    kernels: tuple[tuple[str, ...], ...]
    """Atoms of each kernel, without its lag axis."""
    varying: bool
    """Whether gates change with time (documents count)."""
    gates_vary: bool
    """Whether gates change with time, documents left out."""
    sizes: Mapping[str, int]

    @property
    def inside(self) -> bool:
        """Whether a gate varies along an axis that is summed, so that it sits within the score product."""
        return bool(set(self.gates) - set(self.axes))

    @property
    def convolved(self) -> tuple[str, ...]:
        """The state's atoms and those of kernels besides: what a convolution of the writers with the mask runs over."""
        return tuple(dict.fromkeys((*self.state, *(atom for kernel in self.kernels for atom in kernel))))

    @property
    def gated(self) -> bool:
        return bool(self.mask.all_gates)

    @property
    def reset(self) -> bool:
        return bool(self.mask.documents)

    @property
    def reader_gated(self) -> bool:
        """Whether a strict reader applies a gate of its own to the state before it."""
        return self.mask.strict and bool(self.mask.log_gates or self.mask.gates or self.mask.documents)

    @property
    def length(self) -> int:
        return self.sizes[self.time]

    @property
    def logarithmic(self) -> bool:
        """Whether all gates are kept as logarithms."""
        return not (self.mask.gates or self.mask.exclusive_gates)

    def count(self, axes: tuple[str, ...] | set[str]) -> int:
        """The number of entries along some axes, time left out."""
        return prod(self.sizes[axis] for axis in set(axes) if axis != self.time)

    def at(self, operands: Operands, *places: str) -> Operands:
        """Operands with time replaced by places within chunks."""
        return tuple(
            (name, tuple(new for axis in axes for new in (places if axis == self.time else (axis,))))
            for name, axes in operands
        )

    def out(self, *places: str) -> tuple[str, ...]:
        """The result's axes with time replaced by places within chunks."""
        return tuple(new for axis in self.axes for new in (places if axis == self.time else (axis,)))


def problem(graph: Graph, node: ir.Contraction, sizes: Mapping[str, int]) -> Problem:
    """The problem of one contraction. `sizes` gives every per-call atom and the reader (T); none counts as one."""
    mask = graph.mask(node)
    known = {atom: size for atom, size in graph.sizes.items() if size is not None}
    known |= {atom: max(1, size) for atom, size in sizes.items()}
    for name in (*node.writers,):
        found = graph.nodes[name]
        if isinstance(found, ir.Stack) and found.axes[-1] not in known:
            known[found.axes[-1]] = sum(prod(known[atom] for atom in opened) for opened in found.opened)
    declared = dict.fromkeys(atom for found in graph.atoms.values() for atom in found)
    gates = gate_axes(graph, mask)
    return Problem(
        name=node.name,
        equation=graph.equations.get(node.name, node.name),
        time=graph.reader,
        mask=mask,
        readers=tuple((f"r{k}", graph.nodes[name].axes) for k, name in enumerate(node.readers)),
        writers=tuple((f"w{k}", graph.nodes[name].axes) for k, name in enumerate(node.writers)),
        axes=node.axes,
        state=state_axes(graph, node),
        gates=tuple(atom for atom in declared if atom in gates),
        kernels=tuple(tuple(a for a in graph.nodes[k.node].axes if a != k.axis) for k in mask.kernels),
        varying=any(graph.reader in graph.nodes[name].axes for name in (*mask.all_gates, *mask.documents)),
        gates_vary=any(graph.reader in graph.nodes[name].axes for name in mask.all_gates),
        sizes=known,
    )


def mask_problem(graph: Graph, mask: ir.Mask, sizes: Mapping[str, int]) -> Problem:
    """The problem of a mask alone, for one that is written out over pairs of positions."""
    gates = gate_axes(graph, mask)
    declared = dict.fromkeys(atom for found in graph.atoms.values() for atom in found)
    return Problem(
        name=mask.name,
        equation=mask.name,
        time=graph.reader,
        mask=mask,
        readers=(),
        writers=(),
        axes=(*mask.axes, graph.reader),
        state=(),
        gates=tuple(atom for atom in declared if atom in gates),
        kernels=(),
        varying=any(graph.reader in graph.nodes[name].axes for name in (*mask.all_gates, *mask.documents)),
        gates_vary=any(graph.reader in graph.nodes[name].axes for name in mask.all_gates),
        sizes={atom: size for atom, size in graph.sizes.items() if size is not None} | dict(sizes),
    )
