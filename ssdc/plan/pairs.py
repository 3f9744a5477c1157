"""Equations that are written over pairs of positions: they have one ordering, quadratic, and the reason why.

In: a graph. Out: by equation, why no other ordering exists. Such equations are no masked contractions, so no plan
chooses for them; `order=` may still name them.
"""

from __future__ import annotations

import networkx as nx

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph

SOFTMAX = "the exponential of a score has no finite feature map"
PAIRS = "it is written over pairs of positions, and its values there are no product of a reader's and a writer's"


def over_pairs(graph: Graph) -> dict[str, str]:
    """Why only the quadratic ordering exists, by the name of the equation, in order of evaluation.

    >>> from ssdc.pipeline import check
    >>> text = '''layer f(N = 4) { time t, s axis b, n = N input q[b,t,n], k[b,t,n], v[b,t] mask M[t,s] = causal
    ... c[b,t,s] = q[b,t,n] * k[b,s,n] w[b,t,s] = softmax(c[b,t,s] over s, mask = M)
    ... y[b,t] = w[b,t,s] * v[b,s] output y }'''
    >>> {name: reason == SOFTMAX for name, reason in over_pairs(check(text).graph).items()}
    {'w': True, 'y': True}
    """
    reasons: dict[str, str] = {}
    softmaxes: set[str] = set()
    for name in graph.order:
        node = graph.nodes[name]
        if isinstance(node, ir.Map) and _softmax(node.expr, graph.writers):
            softmaxes.add(name)
            reasons.setdefault(_equation(name), SOFTMAX)
        elif isinstance(node, ir.Linear) and _sums_pairs(graph, node):
            through = softmaxes & nx.ancestors(graph.net, name)
            reasons.setdefault(_equation(name), SOFTMAX if through else PAIRS)
    return reasons


def _equation(name: str) -> str:
    """The equation that a node comes from: `y` for the first term of it, `y:1`."""
    return name.partition(":")[0].partition("/")[0]


def _softmax(expr: ir.Scalar, writers: tuple[str, ...]) -> bool:
    match expr:
        case ir.Fold(function=function, operand=operand, over=over):
            return (function == "softmax" and bool(set(over) & set(writers))) or _softmax(operand, writers)
        case ir.Apply(arguments=arguments):
            return any(_softmax(argument, writers) for argument in arguments)
        case _:
            return False


def _sums_pairs(graph: Graph, node: ir.Linear) -> bool:
    """Whether an operand runs over a reader and a writer position, and the writer's is summed."""
    return any(
        graph.reader in axes and set(axes) & (set(graph.writers) - set(node.axes))
        for axes in (graph.nodes[operand].axes for operand in node.operands)
    )
