"""What a layer must remember, and whether it is causal, derived from its graph alone.

A layer that reads no later position can go on where it stopped. Its state is then, for each contraction over an
unbounded mask, what it has accumulated; for each tensor that is read a bounded number of steps back, that stretch of
history; and the count of positions where index(t) is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.packing import POSITION


@dataclass(frozen=True)
class Accumulator:
    """The state of a contraction: writers folded over time, [*axes], in float32 (float64 for float64 inputs)."""

    name: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """The last `length` positions of a tensor (all of them: None), time at the place where the tensor has it."""

    name: str
    axes: tuple[str, ...]
    length: int | None


@dataclass(frozen=True)
class Counter:
    """The number of positions so far: a single int64."""

    name: str
    axes: tuple[str, ...] = ()


StatePart: TypeAlias = Accumulator | History | Counter


def state_axes(graph: Graph, contraction: ir.Contraction) -> tuple[str, ...]:
    """The atoms of a contraction's accumulated state, in the order in which the layer declares its axes."""
    mask = graph.mask(contraction)
    read = {a for name in contraction.readers for a in graph.nodes[name].axes} | set(contraction.axes) | set(mask.axes)
    written = {a for name in contraction.writers for a in graph.nodes[name].axes} | gate_axes(graph, mask)
    kept = (written & read) - {graph.reader}
    declared = dict.fromkeys(atom for found in graph.atoms.values() for atom in found)
    return (
        *(atom for atom in declared if atom in kept),
        *(a for a in contraction.axes if a in kept and a not in declared),
    )


def grouped(graph: Graph, axes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Atoms put together to the declared axes that they make up where they stand side by side."""
    wholes = sorted((atoms for atoms in graph.atoms.values()), key=len, reverse=True)
    layout: list[tuple[str, ...]] = []
    place = 0
    while place < len(axes):
        whole = next((atoms for atoms in wholes if axes[place : place + len(atoms)] == atoms), (axes[place],))
        layout.append(whole)
        place += len(whole)
    return tuple(layout)


def gate_axes(graph: Graph, mask: ir.Mask) -> set[str]:
    """The atoms over which a mask's gates and documents vary, without time."""
    names = (*mask.all_gates, *mask.documents)
    return {a for name in names for a in graph.nodes[name].axes} - {graph.reader}


def not_causal(graph: Graph) -> str | None:
    """Why an output at t may depend on inputs after t; None for a causal layer."""
    for name in graph.order:
        node = graph.nodes[name]
        match node:
            case ir.Contraction():
                mask = graph.mask(node)
                if mask.direction != "forward":
                    return f"the mask '{mask.name.rstrip('<>')}' of '{graph.equations[name]}' reads later positions"
            case ir.Linear(operands=operands, axes=axes):
                summed = {a for operand in operands for a in graph.nodes[operand].axes} - set(axes)
                ahead = all(not _looks_back(graph, operand) for operand in operands)
                if summed & {graph.reader, *graph.writers} and (ahead or graph.reader in summed):
                    return f"'{name}' sums over all positions"
            case ir.Map(expr=ir.Fold(over=over, where=where)) if set(over) & set(graph.writers):
                if where is None or not _looks_back(graph, where.node if isinstance(where, ir.Ref) else ""):
                    return f"'{name}' runs over all positions without a causal mask"
            case _:
                pass
    return None


def _looks_back(graph: Graph, name: str) -> bool:
    """Whether a tensor over pairs is zero where the writer comes after the reader."""
    match graph.nodes.get(name):
        case ir.DenseMask(mask=mask):
            found = graph.nodes[mask]
            return isinstance(found, ir.Mask) and found.direction == "forward"
        case ir.Map(expr=expr):
            return _vanishes(graph, expr)
        case _:
            return False


def _vanishes(graph: Graph, expr: ir.Scalar) -> bool:
    match expr:
        case ir.Ref(node=node):
            return _looks_back(graph, node)
        case ir.Apply(function="*", arguments=arguments):
            return any(_vanishes(graph, argument) for argument in arguments)
        case ir.Apply(function="/" | "neg", arguments=arguments):
            return _vanishes(graph, arguments[0])
        case ir.Fold(function="softmax", where=ir.Ref(node=node)):
            return _looks_back(graph, node)
        case _:
            return False


def state_parts(graph: Graph) -> tuple[StatePart, ...]:
    """The parts of a causal layer's state, in order of evaluation; a layer that remembers nothing has none."""
    accumulators: list[StatePart] = []
    lengths: dict[str, int | None] = {}

    def keep(name: str, length: int | None) -> None:
        if graph.reader in graph.nodes[name].axes:
            known = lengths.get(name, 0)
            lengths[name] = None if length is None or known is None else max(known, length)

    for name in graph.order:
        node = graph.nodes[name]
        match node:
            case ir.Contraction():
                mask = graph.mask(node)
                if mask.width is None:
                    accumulators.append(Accumulator(name, state_axes(graph, node)))
                    for document in mask.documents:
                        keep(document, 1)
                else:
                    for operand in (*node.writers, *mask.all_gates, *mask.documents):
                        keep(operand, mask.width - 1)
            case ir.Shift(operand=operand, steps=steps, documents=documents):
                for one in (operand, *documents):
                    keep(one, steps)
            case ir.Rename(operand=operand, names=names) if any(old == graph.reader for old, _ in names):
                keep(operand, None)
            case ir.DenseMask(mask=mask_name):
                found = graph.nodes[mask_name]
                assert isinstance(found, ir.Mask)
                for operand in (*found.all_gates, *found.documents):
                    keep(operand, None)
            case _:
                pass
    histories = [
        History(name, graph.nodes[name].axes, lengths[name]) for name in graph.order if lengths.get(name, 0) != 0
    ]
    counters = [Counter(POSITION)] if POSITION in graph.order else []
    return (*accumulators, *histories, *counters)


def state_bytes(graph: Graph, part: StatePart, sizes: Mapping[str, int]) -> int:
    """The memory of a state part for a call of these sizes: four bytes a number in float32, eight an integer.

    All of the past counts the positions of that call.
    """
    known = {atom: size for atom, size in graph.sizes.items() if size is not None} | dict(sizes)
    match part:
        case Accumulator(axes=axes):
            return 4 * prod(known[atom] for atom in axes)
        case History(name=name, axes=axes, length=length):
            rows = known[graph.reader] if length is None else length
            width = {"int": 8, "bool": 1}.get(graph.nodes[name].kind, 4)
            return width * rows * prod(known[atom] for atom in axes if atom != graph.reader)
        case Counter():
            return 8
