"""Packed calls: every mask and lag of a layer made to stop at document boundaries.

`cu_seqlens` becomes a hidden input that numbers the document of each position; multiplying every mask by
`documents(...)` of it is all that packing means.
"""

from __future__ import annotations

from dataclasses import replace

from ssdc.errors import OrderError
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph

DOCUMENTS = "@documents"
"""The hidden input [t]: int, non-decreasing."""
POSITION = "@position"
"""The hidden input [t]: int, the position in the document, present where a layer reads index(t)."""


def pack(graph: Graph) -> Graph:
    """The graph of a packed call; raises OrderError where positions meet without a mask."""
    made: list[ir.AnyNode] = [
        ir.Input(DOCUMENTS, (graph.reader,), ((graph.reader,),), kind="int"),
    ]
    for node in graph.nodes.values():
        match node:
            case ir.Mask(documents=documents):
                made.append(replace(node, documents=(*documents, DOCUMENTS)))
            case ir.Shift(documents=documents):
                made.append(replace(node, documents=(*documents, DOCUMENTS)))
            case ir.Map(expr=ir.Fold(over=over, where=None)) if set(over) & set(graph.writers):
                raise OrderError(
                    f"'{node.name}' runs over all positions without a mask, so packed documents would mix; "
                    "give the softmax a mask (mask = M)"
                )
            case _:
                made.append(node)
    return graph.replace(made)
