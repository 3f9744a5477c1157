"""The contraction graph of one layer: typed nodes on a networkx graph, with the sizes of their atoms.

A graph is never changed; a pass makes a new one. `order` is a topological order, the one in which the program was
written where that is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import networkx as nx

from ssdc.graph.draw import to_mermaid, to_text
from ssdc.graph.nodes import AnyNode, Contraction, Input, Mask, Parameter, Result, operands
from ssdc.graph.picture import to_svg
from ssdc.markup import element


@dataclass(frozen=True, eq=False)
class Graph:
    """A layer's tensors (`nodes`, by name), its results, and the sizes of atoms (None: known at each call)."""

    layer: str
    reader: str
    writers: tuple[str, ...]
    nodes: Mapping[str, AnyNode]
    results: tuple[Result, ...]
    sizes: Mapping[str, int | None]
    atoms: Mapping[str, tuple[str, ...]]
    """Each declared axis, in order of declaration, and the atoms that it is made of."""
    equations: Mapping[str, str] = field(default_factory=dict)
    """Contraction nodes and the equation (left-hand name) that each comes from."""

    @cached_property
    def net(self) -> nx.DiGraph[str]:
        """The graph as networkx sees it: an edge from each operand to its reader."""
        net: nx.DiGraph[str] = nx.DiGraph()
        for name, node in self.nodes.items():
            net.add_node(name, node=node)
        for name, node in self.nodes.items():
            for place, operand in enumerate(operands(node)):
                net.add_edge(operand, name, place=place)
        return net

    @cached_property
    def order(self) -> tuple[str, ...]:
        """A topological order of the nodes that the results need, stable in the order of `nodes`."""
        rank = {name: place for place, name in enumerate(self.nodes)}
        needed: set[str] = set()
        for result in self.results:
            needed |= {result.node} | nx.ancestors(self.net, result.node)
        net = self.net.subgraph(needed)
        return tuple(nx.lexicographical_topological_sort(net, key=lambda name: rank[name]))

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs in declared order."""
        return tuple(node for node in self.nodes.values() if isinstance(node, Input))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in declared order."""
        return tuple(node for node in self.nodes.values() if isinstance(node, Parameter))

    @property
    def contractions(self) -> tuple[Contraction, ...]:
        """The masked contractions that the results need, in order of evaluation."""
        found = (self.nodes[name] for name in self.order)
        return tuple(node for node in found if isinstance(node, Contraction))

    def mask(self, contraction: Contraction) -> Mask:
        """The mask of a contraction."""
        mask = self.nodes[contraction.mask]
        assert isinstance(mask, Mask)
        return mask

    def replace(self, nodes: Iterable[AnyNode], **changes: object) -> Graph:
        """This graph with other nodes (and other fields, by keyword)."""
        fields: dict[str, object] = {
            "layer": self.layer,
            "reader": self.reader,
            "writers": self.writers,
            "results": self.results,
            "sizes": self.sizes,
            "atoms": self.atoms,
            "equations": self.equations,
        }
        fields.update(changes)
        return Graph(nodes={node.name: node for node in nodes}, **fields)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return to_text(self)

    def _repr_html_(self) -> str:
        """How a notebook shows it: drawn, in a box that scrolls."""
        return element("div", to_svg(self), style="overflow-x: auto")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The same as Mermaid, for notebooks that draw it themselves."""
        return {"text/vnd.mermaid": to_mermaid(self)}
