"""What a layer takes in all: its parameters, and the predicted work of a call and of one position.

Masked contractions are priced by the plan; here everything else is: products without a mask, elementwise expressions,
copies, each a pass over memory of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.states import not_causal
from ssdc.plan.cost import Cost, Work, costing
from ssdc.plan.explain.data import Equation, Kernels, State, Totals
from ssdc.plan.hardware import Hardware
from ssdc.plan.planner import Plan
from ssdc.plan.planner import plan as make_plan
from ssdc.plan.products import pointwise, works
from ssdc.plan.search import search

ROOTS = {"exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "silu", "softplus", "gelu", "elu", "^"}
ROOTS |= {"logsigmoid", "rmsnorm", "layernorm", "l2norm", "softmax"}
"""Functions that cost an exponential or the like for each entry."""


def parameters(graph: Graph) -> int:
    """The learned numbers of a layer.

    >>> from ssdc.pipeline import check
    >>> parameters(check("examples/ssd.ssd", sizes={"H": 8}).graph)
    16
    """
    return sum(prod(graph.sizes[atom] or 1 for atom in node.axes) for node in graph.parameters)


def totals(graph: Graph, plan: Plan, state: tuple[State, ...], equations: tuple[Equation, ...], others: Cost) -> Totals:
    """All of a layer for a plan's call, and for one position after it (None where it has no state). `others` is the
    work beside the equations."""
    device = plan.hardware.device
    runs = [one.runs(device) for one in equations]
    flop = others.matrix + others.vector + sum(one.flop for one in runs)
    seconds = others.seconds + sum(one.seconds for one in runs)
    if not_causal(graph) is not None:
        return Totals(parameters(graph), None, flop, seconds, None)
    return Totals(parameters(graph), sum(part.bytes for part in state), flop, seconds, _token(graph, plan, equations))


def _token(graph: Graph, plan: Plan, equations: tuple[Equation, ...]) -> float:
    """The predicted seconds of one position."""
    sizes, machine = {**plan.sizes, graph.reader: 1}, plan.hardware
    seconds = rest(graph, {**sizes, **dict.fromkeys(graph.writers, plan.sizes[graph.reader])}, machine).seconds
    steps = make_plan(graph, plan.sizes, hardware=machine, mode="step").choices
    for one in equations:
        kernels = one.kernels.token_seconds if isinstance(one.kernels, Kernels) and machine.device == "cuda" else None
        seconds += steps[one.name].chosen.cost.seconds if kernels is None else kernels
    return seconds


def rest(graph: Graph, sizes: Mapping[str, int], machine: Hardware, *, gradient: bool = False) -> Cost:
    """Everything but masked contractions, at the sizes of a call: per-call atoms, and the reader for T (also for
    writers, unless given). With `gradient`, their derivatives too."""
    known = {atom: size for atom, size in graph.sizes.items() if size is not None}
    known |= {atom: max(1, size) for atom, size in sizes.items()}
    known = {**dict.fromkeys(graph.writers, known[graph.reader]), **known}
    for node in graph.nodes.values():
        if isinstance(node, ir.Stack):
            known[node.axes[-1]] = sum(prod(known[atom] for atom in opened) for opened in node.opened)
    nodes = (graph.nodes[name] for name in graph.order)
    return costing([work for node in nodes for work in _node(graph, node, known, machine, gradient)], machine)


def _node(
    graph: Graph, node: ir.AnyNode, sizes: Mapping[str, int], machine: Hardware, gradient: bool
) -> tuple[Work, ...]:
    entries = prod(sizes[atom] for atom in node.axes)

    def passes(count: int, launches: int, roots: int) -> tuple[Work, ...]:
        """So many elementwise operations, each of which reads and writes its entries."""
        moved = 2.0 * launches
        return (pointwise(count, moved, gradient=gradient, exponentials=roots, launches=launches),)

    match node:
        case ir.Linear(operands=names):
            operands = tuple((f"{name}#{k}", graph.nodes[name].axes) for k, name in enumerate(names))
            return works(search(operands, node.axes, sizes, machine), operands, sizes, gradient=gradient)
        case ir.Map(expr=expr):
            found = tuple(functions(expr))
            read = max((prod(sizes[a] for a in graph.nodes[name].axes) for name in ir.refs(expr)), default=0)
            return passes(max(entries, read), max(1, len(found)), sum(one in ROOTS for one in found))
        case ir.DenseMask():
            return passes(entries, 6, 1)
        case ir.Stack() | ir.Shift() | ir.Lookup():
            return passes(entries, 1, 0)
        case _:
            return ()


def functions(expr: ir.Scalar) -> Iterator[str]:
    """The functions and operators of an elementwise expression."""
    match expr:
        case ir.Apply(function=function, arguments=arguments):
            yield function
            for argument in arguments:
                yield from functions(argument)
        case ir.Fold(function=function, operand=operand):
            yield function
            yield from functions(operand)
        case _:
            pass
