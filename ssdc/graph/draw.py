"""A graph as text, as Mermaid and as DOT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from ssdc.graph import nodes as ir

if TYPE_CHECKING:
    import networkx as nx


class Drawn(Protocol):
    """What a picture shows of a graph; `ssdc.graph.graph.Graph` is one."""

    @property
    def layer(self) -> str:
        """The layer's name."""

    @property
    def nodes(self) -> Mapping[str, ir.AnyNode]:
        """The tensors by name."""

    @property
    def order(self) -> tuple[str, ...]:
        """Those that the results need, operands before their readers."""

    @property
    def results(self) -> tuple[ir.Result, ...]:
        """The outputs."""

    @property
    def net(self) -> nx.DiGraph[str]:
        """An edge from each operand to its reader."""


def to_text(graph: Drawn) -> str:
    """One line a node, in order of evaluation."""
    rows = [f"graph {graph.layer}"]
    for name in graph.order:
        node = graph.nodes[name]
        rows.append(f"  {name}[{','.join(node.axes)}] = {describe(node)}")
    results = ", ".join(
        result.name if result.name == result.node else f"{result.name} = {result.node}" for result in graph.results
    )
    return "\n".join([*rows, f"  output {results}"])


def describe(node: ir.AnyNode) -> str:
    """What a node is, in one line."""
    match node:
        case ir.Input(kind=kind):
            return f"input {kind}"
        case ir.Parameter():
            return "param"
        case ir.Map(expr=expr):
            return f"map {show(expr)}"
        case ir.Linear(operands=operands):
            return f"linear {' * '.join(operands)}"
        case ir.Shift(operand=operand, steps=steps, documents=documents):
            return f"shift {operand} by {steps}" + (f" within {', '.join(documents)}" if documents else "")
        case ir.Part(operand=operand, offset=offset):
            before = " + ".join("*".join(atoms) for atoms in offset)
            return f"part of {operand}" + (f" after {before}" if before else "")
        case ir.Lookup(table=table, ids=ids):
            return f"rows of {table} at {ids}"
        case ir.Rename(operand=operand, names=names):
            return f"{operand} with {', '.join(f'{old} as {new}' for old, new in names)}"
        case ir.Stack(values=values):
            return "stack " + " | ".join(" * ".join(value) or "1" for value in values)
        case ir.Column(operand=operand, place=place):
            return f"value {place} of {operand}"
        case ir.Mask():
            return f"mask {_mask(node)}"
        case ir.Contraction(mask=mask, readers=readers, writers=writers):
            return f"contract ({' * '.join(readers) or '1'}) @ {mask} @ ({' * '.join(writers) or '1'})"
        case ir.DenseMask(mask=mask):
            return f"all of {mask}"


def _mask(node: ir.Mask) -> str:
    words = [node.direction, *(["strict"] if node.strict else [])]
    words += [f"exp({name})" for name in node.log_gates] + [
        f"exp({name}) exclusive" for name in node.exclusive_log_gates
    ]
    words += [*node.gates, *(f"{name} exclusive" for name in node.exclusive_gates)]
    words += [
        f"kernel {kernel.node} over {kernel.axis}{'' if kernel.newest_first else ' oldest first'}"
        for kernel in node.kernels
    ]
    words += [f"width {node.width}"] if node.width is not None else []
    words += [f"documents {name}" for name in node.documents]
    return ", ".join([*words, "in [0, 1]" if node.bounded else "not shown to lie in [0, 1]"])


def show(expr: ir.Scalar) -> str:
    """An elementwise expression."""
    match expr:
        case ir.Const(value=value):
            return f"{value:g}"
        case ir.Ref(node=node):
            return node
        case ir.Index(atoms=atoms):
            return f"index({','.join(atoms)})"
        case ir.Apply(function="neg", arguments=(operand,)):
            return f"-{show(operand)}"
        case ir.Apply(function=function, arguments=(left, right)) if not function.isalnum():
            return f"({show(left)} {function} {show(right)})"
        case ir.Apply(function=function, arguments=arguments):
            return f"{function}({', '.join(show(argument) for argument in arguments)})"
        case ir.Fold(function=function, operand=operand, over=over, eps=eps, where=where):
            options = ([f"eps={eps:g}"] if eps is not None else []) + (
                [f"mask={show(where)}"] if where is not None else []
            )
            inner = f"{show(operand)} over {','.join(over)}"
            return f"{function}({', '.join([inner, *options])})"


def to_mermaid(graph: Drawn) -> str:
    """The graph as a Mermaid flowchart: masks and contractions stand out, names are quoted."""
    shapes = {ir.Input: ("([", "])"), ir.Parameter: ("[(", ")]"), ir.Mask: ("{{", "}}"), ir.Contraction: ("[[", "]]")}
    ids = {name: f"n{place}" for place, name in enumerate(graph.order)}
    rows = ["flowchart TD"]
    for name, short in ids.items():
        node = graph.nodes[name]
        left, right = shapes.get(type(node), ("[", "]"))
        label = f"{name} [{','.join(node.axes)}]".replace('"', "'")
        rows.append(f'  {short}{left}"{label}"{right}')
    rows += [
        f"  {ids[source]} --> {ids[target]}" for source, target in graph.net.edges if source in ids and target in ids
    ]
    return "\n".join(rows)


def to_dot(graph: Drawn) -> str:
    """The graph in Graphviz's language."""
    shapes = {ir.Input: "ellipse", ir.Parameter: "cylinder", ir.Mask: "hexagon", ir.Contraction: "box3d"}
    ids = {name: f"n{place}" for place, name in enumerate(graph.order)}
    rows = ["digraph {", "  rankdir=TB;"]
    for name, short in ids.items():
        node = graph.nodes[name]
        label = f"{name} [{','.join(node.axes)}]".replace('"', "'")
        rows.append(f'  {short} [label="{label}", shape={shapes.get(type(node), "box")}];')
    rows += [
        f"  {ids[source]} -> {ids[target]};" for source, target in graph.net.edges if source in ids and target in ids
    ]
    return "\n".join([*rows, "}"])
