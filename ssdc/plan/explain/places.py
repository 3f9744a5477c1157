"""From the cause of a refusal to the place in the source that shows it.

In: a graph, a contraction and a cause, as `Refusal` names it. Out: a span, then a `Place` with its line and marks.
"""

from __future__ import annotations

from typing import assert_never

from ssdc.errors import excerpt
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.plan.candidate import Cause
from ssdc.plan.explain.data import Place
from ssdc.source import NOWHERE, Source, Span


def place(source: Source | None, span: Span) -> Place | None:
    """The place of a span; None without a source, and for what the program does not say."""
    if source is None or span == NOWHERE:
        return None
    return Place(source.name, *source.position(span.start), excerpt(source, span))


def span_of(graph: Graph, node: ir.Contraction, cause: Cause) -> Span:
    """Where the program says what causes a refusal: in the mask's declaration, or else the equation."""
    mask = graph.mask(node)

    def first(what: str, nodes: tuple[str, ...] | None = None) -> Span:
        found = (o.span for o in mask.origins if o.what == what and (nodes is None or o.node in nodes))
        return next(found, mask.span)

    match cause:
        case "equation":
            return node.span
        case "mask":
            return mask.span
        case "varying":
            return first("gate", tuple(one for one in mask.all_gates if graph.reader in graph.nodes[one].axes))
        case "documents" | "reach":
            return first(cause)
        case "plain":
            return first("gate", (*mask.gates, *mask.exclusive_gates))
        case "inside":
            summed = tuple(one for one in mask.all_gates if set(graph.nodes[one].axes) - {*node.axes, graph.reader})
            return first("gate", summed)
        case "gates":
            most = max(mask.all_gates, key=lambda one: len(graph.nodes[one].axes), default="")
            return first("gate", (most,))
        case "width":
            return first("kernel" if mask.kernels else "width")
        case _:
            assert_never(cause)
