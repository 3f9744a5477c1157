"""Elementwise work beside a contraction, moved into its Triton kernels.

In: a graph, and the contractions that the kernels serve. Out: the graph in which these read inputs as they came,
through functions that kernels apply to tiles (`maps`), add a multiple of their value (`skip`: D * x in
y = contraction + D * x), and divide by their row sums (`norm`: y = num / (den + 1e-6)), which the expressions around
them no longer do. Whatever has no such form stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import networkx as nx

from ssdc.codegen.triton.maps import Chain, chain
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.plan.problem import Problem
from ssdc.plan.roles import roles


def fused(graph: Graph, problems: Iterable[Problem]) -> Graph:
    """The graph with what the kernels of these contractions can do moved into them."""
    for problem in problems:
        graph = _mapped(_skipping(_normalised(graph, problem), problem), problem)
    return graph


# ---- skip terms ------------------------------------------------------------------------------------------------------


def _skipping(graph: Graph, problem: Problem) -> Graph:
    """With the term of the contraction's value taken out of the sum that alone reads the contraction."""
    node = graph.nodes[problem.name]
    assert isinstance(node, ir.Contraction)
    value = _value(node, problem)
    readers = _readers(graph, node.name)
    total = readers[0] if len(readers) == 1 else None
    if value is None or not isinstance(total, ir.Map) or set(total.axes) != set(node.axes):
        return graph
    if any(result.node == node.name for result in graph.results):
        return graph
    terms = list(_terms(total.expr, 1))
    if [(sign, term) for sign, term in terms if node.name in ir.refs(term)] != [(1, ir.Ref(node.name))]:
        return graph
    for place, (sign, term) in enumerate(terms):
        factors = _factors(term, value)
        if factors is not None and all(_still(graph, problem, name) for factor in factors for name in ir.refs(factor)):
            return _with_skip(graph, node, total, _sum(terms[:place] + terms[place + 1 :]), sign, factors)
    return graph


def _value(node: ir.Contraction, problem: Problem) -> str | None:
    """The node that is all of a contraction's value."""
    found = roles(problem).value_operands
    return node.writers[problem.writers.index(found[0])] if len(found) == 1 else None


def _terms(expr: ir.Scalar, sign: int) -> Iterator[tuple[int, ir.Scalar]]:
    match expr:
        case ir.Apply(function="+" | "-" as function, arguments=(left, right)):
            yield from _terms(left, sign)
            yield from _terms(right, sign if function == "+" else -sign)
        case ir.Apply(function="neg", arguments=(inner,)):
            yield from _terms(inner, -sign)
        case _:
            yield sign, expr


def _sum(terms: list[tuple[int, ir.Scalar]]) -> ir.Scalar:
    (sign, total), *others = terms
    total = total if sign > 0 else ir.Apply("neg", (total,))
    for sign, term in others:
        total = ir.Apply("+" if sign > 0 else "-", (total, term))
    return total


def _factors(term: ir.Scalar, value: str) -> list[ir.Scalar] | None:
    """The other factors of a product that has `value` once; None for any other term."""
    match term:
        case ir.Ref(node=node) if node == value:
            return []
        case ir.Apply(function="*", arguments=(left, right)):
            for one, other in ((left, right), (right, left)):
                found = _factors(one, value)
                if found is not None and value not in ir.refs(other):
                    return [*found, other]
            return None
        case _:
            return None


def _still(graph: Graph, problem: Problem, name: str) -> bool:
    """Whether a tensor is one number a head, or one a head and value column: the same at all positions and calls."""
    node, found = graph.nodes[name], roles(problem)
    fixed = all(graph.sizes.get(axis) is not None for axis in node.axes)
    inside = set(node.axes) <= {*found.batch, *found.rows, *found.outer}
    return fixed and inside and node.kind == "real" and problem.name not in nx.ancestors(graph.net, name)


def _with_skip(
    graph: Graph, node: ir.Contraction, total: ir.Map, rest: ir.Scalar, sign: int, factors: list[ir.Scalar]
) -> Graph:
    product: ir.Scalar = factors[0] if factors else ir.Const(1.0)
    for factor in factors[1:]:
        product = ir.Apply("*", (product, factor))
    if sign < 0:
        product = ir.Apply("neg", (product,))
    have = {axis for name in ir.refs(product) for axis in graph.nodes[name].axes}
    axes = tuple(axis for axis in node.axes if axis in have)
    skip = ir.Map(f"{node.name}/skip", axes, product, span=total.span)
    made: dict[str, ir.AnyNode] = {
        node.name: replace(node, skip=(skip.name,)), total.name: replace(total, expr=rest)
    }  # fmt: skip
    return graph.replace(
        part
        for name, old in graph.nodes.items()
        for part in ((skip, made[name]) if name == node.name else (made.get(name, old),))
    )


# ---- row sums --------------------------------------------------------------------------------------------------------


def _normalised(graph: Graph, problem: Problem) -> Graph:
    """With the quotient of a numerator and a function of its row sum, which alone reads them, in the kernels."""
    node = graph.nodes[problem.name]
    assert isinstance(node, ir.Contraction)
    stack = graph.nodes.get(_value(node, problem) or "")
    if not isinstance(stack, ir.Stack) or roles(problem).outer != stack.axes[-1:]:
        return graph
    if len(stack.values) != 2 or len(stack.values[0]) != 1 or stack.values[1] or not stack.opened[0]:
        return graph
    found = {one.place: one for one in _readers(graph, node.name) if isinstance(one, ir.Column)}
    if set(found) != {0, 1} or len(_readers(graph, node.name)) != 2:
        return graph
    numerator, row = found[0], found[1]
    readers = [*_readers(graph, numerator.name), *_readers(graph, row.name)]
    named = {result.node for result in graph.results} & {node.name, numerator.name, row.name}
    total = readers[0] if readers else None
    if named or not isinstance(total, ir.Map) or any(one.name != total.name for one in readers):
        return graph
    if set(total.axes) != set(numerator.axes):
        return graph
    match total.expr:
        case ir.Apply(function="/", arguments=(ir.Ref(node=above), below)) if above == numerator.name:
            steps = chain(below)
            if steps is None or steps[0] != row.name:
                return graph
        case _:
            return graph
    made: dict[str, ir.AnyNode] = {
        node.name: replace(node, norm=steps[1]), total.name: replace(total, expr=ir.Ref(node.name))
    }  # fmt: skip
    return graph.replace(made.get(name, old) for name, old in graph.nodes.items())


def _readers(graph: Graph, name: str) -> list[ir.AnyNode]:
    """The nodes that read a tensor, of those that results need."""
    return [graph.nodes[other] for other in graph.order if name in ir.operands(graph.nodes[other])]


# ---- maps of operands ------------------------------------------------------------------------------------------------


def _mapped(graph: Graph, problem: Problem) -> Graph:
    """With functions of inputs that are all of the query, the key or the value applied by the kernels."""
    node = graph.nodes[problem.name]
    assert isinstance(node, ir.Contraction)
    found, time = roles(problem), problem.time
    flat = {*found.batch, time}
    keys = tuple(operand for operand in found.key_operands if not set(operand[1]) <= flat)
    alone = {group[0] for group in (found.query_operands, keys, found.value_operands) if len(group) == 1}
    names, chains = [], []
    for operand, name in zip((*problem.readers, *problem.writers), (*node.readers, *node.writers), strict=True):
        base, steps = _origin(graph, name) if operand in alone else (name, ())
        names.append(base)
        chains.append(steps)
    if not any(chains):
        return graph
    count = len(node.readers)
    made = replace(node, readers=tuple(names[:count]), writers=tuple(names[count:]), maps=tuple(chains))
    return graph.replace(made if name == node.name else old for name, old in graph.nodes.items())


def _origin(graph: Graph, name: str) -> tuple[str, Chain]:
    """The input that a tensor is a function of, and the function; the tensor itself where there is none."""
    steps: Chain = ()
    node = graph.nodes[name]
    while isinstance(node, ir.Map):
        found = chain(node.expr)
        if found is None or graph.nodes[found[0]].axes != node.axes or node.kind != "real":
            return name, ()
        steps, node = (*found[1], *steps), graph.nodes[found[0]]
    return (node.name, steps) if isinstance(node, ir.Input) and node.kind == "real" else (name, ())
