"""One pass for sums that share operands: contractions with equal masks and readers become one over stacked values.

A numerator `q k L v` and its row sum `q k L` differ in their writer values alone (`v` and one). Their values are laid
side by side along a new atom, so that scores, mask and state update are computed once.
"""

from __future__ import annotations

from collections import defaultdict

import networkx as nx

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph


def fuse(graph: Graph) -> Graph:
    """The graph with every group of contractions that share mask, readers and keys made one."""
    groups: dict[tuple[str, frozenset[str]], list[ir.Contraction]] = defaultdict(list)
    for node in graph.contractions:
        groups[node.mask, frozenset(node.readers)].append(node)
    for members in groups.values():
        if len(members) > 1 and not _depends(graph, members):
            graph = _fused(graph, members)
    return graph


def _depends(graph: Graph, members: list[ir.Contraction]) -> bool:
    """Whether one of the contractions feeds another."""
    names = {member.name for member in members}
    return any(names & nx.ancestors(graph.net, name) for name in names)


def _fused(graph: Graph, members: list[ir.Contraction]) -> Graph:
    common = tuple(name for name in members[0].writers if all(name in member.writers for member in members))
    if not common and not members[0].readers:
        return graph  # nothing is shared but the mask
    members = sorted(members, key=lambda member: set(member.writers) <= set(common))  # row sums last
    values = [tuple(name for name in member.writers if name not in common) for member in members]
    mask = graph.nodes[members[0].mask]
    base = {a for name in (mask.name, *members[0].readers, *common) for a in graph.nodes[name].axes} | {graph.reader}
    own = [_own(graph, value, base) for value in values]
    kept = [tuple(axis for axis in member.axes if axis not in own[k]) for k, member in enumerate(members)]
    if (
        any(not set(own[k]) <= set(member.axes) for k, member in enumerate(members))
        or len(set(map(frozenset, kept))) > 1
    ):
        return graph
    if not common and all(values):
        return graph
    column = "+".join(member.name for member in members)
    shared = {a for value in values for name in value for a in graph.nodes[name].axes if a in base}
    if not shared <= {*kept[0], graph.reader}:
        return graph
    stack_axes = (*(axis for axis in _order(graph) if axis in shared | {graph.reader}), column)
    stack = ir.Stack(f"{column}/values", stack_axes, tuple(values), tuple(own), span=members[0].span)
    fused = ir.Contraction(
        column, (*kept[0], column), mask.name, members[0].readers, (*common, stack.name), span=members[0].span
    )
    columns = {
        member.name: ir.Column(member.name, member.axes, fused.name, k, tuple(own), span=member.span)
        for k, member in enumerate(members)
    }
    counts = [_count(graph, atoms) for atoms in own]
    sizes = {**graph.sizes, column: None if None in counts else sum(count for count in counts if count)}
    made: list[ir.AnyNode] = []
    for node in graph.nodes.values():
        if node.name == members[0].name:
            made.extend((stack, fused))
        made.append(columns.get(node.name, node))
    equations = {**graph.equations, fused.name: graph.equations[members[0].name]}
    return graph.replace(made, sizes=sizes, equations=equations)


def _own(graph: Graph, value: tuple[str, ...], base: set[str]) -> tuple[str, ...]:
    """The atoms that only a value has."""
    return tuple(dict.fromkeys(axis for name in value for axis in graph.nodes[name].axes if axis not in base))


def _order(graph: Graph) -> tuple[str, ...]:
    """All atoms, per-call ones first, then the reader, then the rest as declared."""
    atoms = [atom for axis, found in graph.atoms.items() if axis != graph.reader for atom in found]
    free = [atom for atom in atoms if graph.sizes.get(atom) is None]
    return tuple(dict.fromkeys((*free, graph.reader, *atoms)))


def _count(graph: Graph, atoms: tuple[str, ...]) -> int | None:
    count = 1
    for atom in atoms:
        size = graph.sizes.get(atom)
        if size is None:
            return None
        count *= size
    return count
