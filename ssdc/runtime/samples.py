"""Random inputs for a layer, of any size, for which its masks stay bounded: what `compare` and `verify` feed it.

In go a compiled layer and the sizes of a call; out come tensors by name. Real inputs are normal, except where the sign
of one decides whether a gate is at most one: what is, or feeds through signs, products, sums and definitions into, the
logarithm of such a gate is drawn on the side that forgets. Its rate falls from 1 to 1/1000 along its entries other than
batch and time, so that some states remember a few positions and others thousands. Integers that number documents do not
decrease in time; those that a lookup reads are rows of its table. A longer call begins with what a shorter one has.

Not done: gates behind a projection, whose sign no input decides.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.runtime.module import Layer
from ssdc.runtime.signature import Signature

POSITIVE = frozenset({"exp", "sigmoid", "softplus", "relu", "abs", "sqrt", "rsqrt"})
NEGATIVE = frozenset({"logsigmoid"})
ODD = frozenset({"tanh", "sign", "silu", "gelu", "elu"})
"""Functions whose value has the sign of their argument."""
SLOWEST = 1e-3
NEW_DOCUMENT = 0.02
BLOCK = 256
"""Positions that are drawn at a time, and then cut, so that the first inputs are the same however many follow."""


def sample_inputs(
    layer: Layer, *, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: int
) -> dict[str, Tensor]:
    """Inputs of a call by name, the same for the same seed and sizes, on the layer's device.

    `sizes` are those that calls decide, the length as `T` (`b=2, T=100`); one that is left out is one, and names that
    the layer does not have do nothing. Real inputs have `dtype`, and are numbers that float32 holds.
    """
    graph = layer.graph
    signature = Signature(graph)
    length = sizes.get("T", 1)
    wanted, rows, documents = wanted_sides(layer), _lookups(graph), _documents(graph)
    device = next((parameter.device for parameter in layer.parameters()), None)
    found: dict[str, Tensor] = {}
    for place, node in enumerate(signature.inputs):
        time = signature.time(node.name)
        numbers = node.name in documents and time is not None
        draw = _choose(node, signature, wanted, rows, numbers)
        here = {**sizes, graph.reader: BLOCK}
        shape = [slot.fixed * (here.get(slot.open, 1) if slot.open else 1) for slot in signature.slots[node.name]]
        blocks = 1 if time is None else max(1, -(-length // BLOCK))
        seeds = [(seed * 1009 + place) * 1_000_003 + block for block in range(blocks)]
        parts = [draw(shape, torch.Generator().manual_seed(number)) for number in seeds]
        x = parts[0] if time is None else torch.cat(parts, time).narrow(time, 0, length).contiguous()
        if numbers and time is not None:
            x = x.cumsum(time).clamp(max=rows.get(node.name, length + 1) - 1)
        found[node.name] = (x.to(dtype) if x.is_floating_point() else x).to(device)
    return found


# ---- drawing ---------------------------------------------------------------------------------------------------------

Draw = Callable[[list[int], torch.Generator], Tensor]


def _choose(node: ir.Input, signature: Signature, wanted: dict[str, int], rows: dict[str, int], numbers: bool) -> Draw:
    """How an input is drawn; one that `numbers` documents, as the places where a new one begins."""
    match node.kind:
        case "int" if numbers:
            return lambda shape, draw: (torch.rand(shape, generator=draw) < NEW_DOCUMENT).long()
        case "int":
            return lambda shape, draw: torch.randint(rows.get(node.name, 4), shape, generator=draw)
        case "bool":
            return lambda shape, draw: torch.rand(shape, generator=draw) < 0.5
        case "complex":
            return lambda shape, draw: torch.randn(shape, generator=draw, dtype=torch.complex64)
        case "real" if node.name in wanted:
            fixed = [slot.fixed if slot.open is None else 1 for slot in signature.slots[node.name]]
            return lambda shape, draw: _gate(shape, fixed, wanted[node.name], draw)
        case "real":
            return lambda shape, draw: torch.randn(shape, generator=draw)


def _gate(shape: list[int], fixed: list[int], side: int, draw: torch.Generator) -> Tensor:
    """Numbers on a side of zero, or for side 0 gates below one, at rates that fall along the axes of fixed size."""
    count = prod(fixed)
    exponents = torch.linspace(0, 1, count) if count > 1 else torch.tensor([0.5])
    size = torch.rand(shape, generator=draw) * (SLOWEST**exponents).view(fixed)
    return torch.exp(-size) if side == 0 else side * size


# ---- what the graph says of inputs -----------------------------------------------------------------------------------


def wanted_sides(layer: Layer) -> dict[str, int]:
    """The inputs that decide whether a gate is at most one: 1 to be drawn positive, -1 negative, 0 as a gate itself."""
    graph = layer.graph
    walk = _Walk(graph, {name: _sign_of(value) for name, value in layer.named_parameters()})
    for mask in graph.nodes.values():
        if isinstance(mask, ir.Mask) and not mask.bounded:
            for name in mask.log_gates + mask.exclusive_log_gates:
                walk.want(ir.Ref(name), -1)
            for name in mask.gates + mask.exclusive_gates:
                walk.want(ir.Ref(name), 0)
    return walk.found


def _sign_of(value: Tensor) -> int:
    return 1 if bool((value >= 0).all()) else -1 if bool((value <= 0).all()) else 0


class _Walk:
    """Follows definitions from gates back to inputs. The first demand on an input stands."""

    def __init__(self, graph: Graph, parameters: dict[str, int]) -> None:
        self._graph, self._parameters = graph, parameters
        self.found: dict[str, int] = {}

    def want(self, expr: ir.Scalar, side: int) -> None:
        """Ask that `expr` be of a sign (1, -1), or a gate between zero and one (0)."""
        match expr:
            case ir.Ref(node=name):
                self._want_node(name, side)
            case ir.Apply(function="+", arguments=arguments) if side:
                for argument in arguments:
                    self.want(argument, side)
            case ir.Apply(function="-", arguments=(left, right)):
                self.want(left, side)
                self.want(right, -side)
            case ir.Apply(function="neg", arguments=(only,)) if side:
                self.want(only, -side)
            case ir.Apply(function="*" | "/", arguments=arguments):
                self._want_factors(arguments, side)
            case ir.Apply(function="exp", arguments=(only,)) if side == 0:
                self.want(only, -1)
            case ir.Apply(function="log", arguments=(only,)) if side < 0:
                self.want(only, 0)
            case ir.Apply(function=function, arguments=(only, *_)) if function in ODD:
                self.want(only, side)
            case _:
                pass

    def _want_node(self, name: str, side: int) -> None:
        match self._graph.nodes[name]:
            case ir.Input(kind="real"):
                self.found.setdefault(name, side)
            case ir.Map(expr=expr):
                self.want(expr, side)
            case ir.Rename(operand=operand) | ir.Shift(operand=operand) | ir.Part(operand=operand):
                self.want(ir.Ref(operand), side)
            case _:
                pass

    def _want_factors(self, factors: tuple[ir.Scalar, ...], side: int) -> None:
        """The first factor of unknown sign makes up for the others; the rest of these are asked to be positive."""
        signs = [self.sign(factor) for factor in factors]
        unknown = [factor for factor, sign in zip(factors, signs, strict=True) if sign == 0]
        needed = side * prod(sign for sign in signs if sign)
        for place, factor in enumerate(unknown):
            self.want(factor, needed if place == 0 or side == 0 else 1)

    def sign(self, expr: ir.Scalar) -> int:
        """The sign that an expression has whatever is fed in: 1, -1, or 0 where it depends."""
        match expr:
            case ir.Const(value=value):
                return 1 if value >= 0 else -1
            case ir.Index():
                return 1
            case ir.Ref(node=name):
                node = self._graph.nodes[name]
                if isinstance(node, ir.Map):
                    return self.sign(node.expr)
                return self._parameters.get(name, 0)
            case ir.Apply(function="neg", arguments=(only,)):
                return -self.sign(only)
            case ir.Apply(function="*" | "/", arguments=arguments):
                return prod(self.sign(argument) for argument in arguments)
            case ir.Apply(function="+", arguments=arguments):
                signs = {self.sign(argument) for argument in arguments}
                return signs.pop() if len(signs) == 1 else 0
            case ir.Apply(function=function, arguments=(only, *_)) if function in ODD:
                return self.sign(only)
            case ir.Apply(function=function):
                return 1 if function in POSITIVE else -1 if function in NEGATIVE else 0
            case ir.Fold():
                return 0


def _origin(graph: Graph, name: str) -> str:
    """The tensor that another is a renamed, shifted or cut copy of."""
    node = graph.nodes[name]
    while isinstance(node, ir.Rename | ir.Shift | ir.Part):
        node = graph.nodes[node.operand]
    return node.name


def _documents(graph: Graph) -> set[str]:
    """Inputs that number documents."""
    masks = (node for node in graph.nodes.values() if isinstance(node, ir.Mask | ir.Shift))
    return {_origin(graph, name) for mask in masks for name in mask.documents}


def _lookups(graph: Graph) -> dict[str, int]:
    """Inputs that name rows of tables, and how many rows the smallest of these has."""
    found: dict[str, int] = {}
    for node in graph.nodes.values():
        if isinstance(node, ir.Lookup):
            rows, name = graph.sizes[graph.nodes[node.table].axes[0]] or 1, _origin(graph, node.ids)
            found[name] = min(rows, found.get(name, rows))
    return found
