"""Checks that hold of every graph: run after each pass, they catch a pass that broke something."""

from __future__ import annotations

import networkx as nx

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph


def verify(graph: Graph) -> Graph:
    """The graph itself. Raises AssertionError, naming the node, where operands, axes or order do not fit."""
    for name, node in graph.nodes.items():
        assert node.name == name, f"{name} is bound as {node.name}"
        assert len(set(node.axes)) == len(node.axes), f"{name} repeats an axis"
        for operand in ir.operands(node):
            assert operand in graph.nodes, f"{name} reads {operand}, which is not there"
        _axes(graph, node)
    assert nx.is_directed_acyclic_graph(graph.net), "the graph has a circle"
    for result in graph.results:
        stored = {atom for atoms in result.layout for atom in atoms}
        assert stored == set(graph.nodes[result.node].axes), (
            f"the output {result.name} is stored with other axes than it has"
        )
    return graph


def _axes(graph: Graph, node: ir.AnyNode) -> None:
    """A node has no axis that its operands lack, and a contraction's operands stand at the reader."""
    have = {axis for operand in ir.operands(node) for axis in graph.nodes[operand].axes}
    match node:
        case ir.Contraction():
            assert isinstance(graph.nodes[node.mask], ir.Mask), f"{node.name} has no mask"
            assert set(node.axes) <= have | {graph.reader}, f"{node.name} has an axis that no operand has"
        case ir.Linear():
            assert set(node.axes) <= have, f"{node.name} has an axis that no operand has"
        case ir.Shift():
            assert node.axes == graph.nodes[node.operand].axes, f"{node.name} changes axes"
        case _:
            pass
