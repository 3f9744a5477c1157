"""A layer as a notebook shows it: a line of what goes in and out, its parameters, its graph folded away.

In go a graph, a title and parameters by name; out comes markup that works without network.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ssdc.graph.graph import Graph
from ssdc.graph.nodes import Layout
from ssdc.graph.picture import to_svg
from ssdc.graph.states import grouped
from ssdc.markup import Html, element, table

HEADINGS = ("parameter", "shape", "dtype", "device")


def shown(graph: Graph, title: str, parameters: Mapping[str, Tensor]) -> Html:
    """A compact description, escaped."""
    taken = ", ".join(_stored(graph, node.name, node.layout) for node in graph.inputs)
    given = ", ".join(_stored(graph, result.name, result.layout) for result in graph.results)
    rows = [
        (name, " x ".join(map(str, one.shape)), str(one.dtype).removeprefix("torch."), one.device)
        for name, one in parameters.items()
    ]
    count = sum(one.numel() for one in parameters.values())
    picture = element("div", to_svg(graph), style="overflow-x: auto")
    learned = element("details", element("summary", f"{count:,} parameters"), table(HEADINGS, rows)) if rows else None
    return element(
        "div",
        element("p", element("b", title), element("br"), element("code", f"{taken} -> {given}")),
        learned,
        element("details", element("summary", "contraction graph"), picture),
    )


def _stored(graph: Graph, name: str, layout: Layout) -> str:
    """A tensor as it is stored, dimensions of several axes in parentheses, of none as 1."""
    axes = {atoms: axis for axis, atoms in graph.atoms.items()}
    held = [[axes.get(one, one[0]) for one in grouped(graph, atoms)] for atoms in layout]
    dimensions = (names[0] if len(names) == 1 else f"({' '.join(names)})" if names else "1" for names in held)
    return f"{name}[{','.join(dimensions)}]"
