"""Masks that read both ways (`full`, and products of such) as a forward part and a strict reverse part.

Each part then has every ordering of a one-way mask; their sum is the contraction.
"""

from __future__ import annotations

from dataclasses import replace

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.masks import one_way


def split_directions(graph: Graph) -> Graph:
    """The graph with every contraction over a two-way mask written as the sum of two one-way contractions."""
    made: list[ir.AnyNode] = []
    equations = dict(graph.equations)
    parts_of: dict[str, tuple[ir.Mask, ...]] = {}
    for node in graph.nodes.values():
        if isinstance(node, ir.Mask) and node.direction == "both":
            parts_of[node.name] = one_way(node)
            made.extend((node, *parts_of[node.name]))
        elif isinstance(node, ir.Contraction) and node.mask in parts_of:
            parts = [replace(node, name=f"{node.name}{mask.name[-1]}", mask=mask.name) for mask in parts_of[node.mask]]
            made.extend(parts)
            equations.update({part.name: graph.equations[node.name] for part in parts})
            total = ir.Apply("+", tuple(ir.Ref(part.name) for part in parts))
            made.append(ir.Map(node.name, node.axes, total, span=node.span))
        else:
            made.append(node)
    return graph.replace(made, equations=equations)
