"""The operands of one contraction's function: parameters by role, in the order in which calls pass them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ssdc.codegen.emit import Value
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.plan.planner import Choice
from ssdc.plan.problem import Problem


@dataclass(frozen=True)
class Operand:
    """A parameter: its name in the text, the node that is passed for it, and its axes."""

    text: str
    node: str
    axes: tuple[str, ...]

    @property
    def value(self) -> Value:
        return Value(self.text, self.axes)


@dataclass(frozen=True)
class Operands:
    """Everything a contraction reads. Log gates and plain gates come as those the reader includes, and those it does
    not."""

    graph: Graph
    choice: Choice
    readers: tuple[Operand, ...]
    writers: tuple[Operand, ...]
    logs: tuple[Operand, ...]
    exclusive_logs: tuple[Operand, ...]
    plain: tuple[Operand, ...]
    exclusive_plain: tuple[Operand, ...]
    documents: tuple[Operand, ...]
    kernels: tuple[tuple[Operand, ir.LagKernel], ...]
    skip: tuple[Operand, ...] = ()
    maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Functions that a kernel applies to readers and writers, by their text."""
    norm: tuple[str, ...] | None = None
    """The function of row sums by which a kernel divides; the value is then the first of the stack's alone."""
    columns: tuple[str, ...] = ()
    """The value's own axes, where there is a norm."""

    @property
    def problem(self) -> Problem:
        return self.choice.problem

    @property
    def mask(self) -> ir.Mask:
        return self.problem.mask

    def all(self) -> Iterator[Operand]:
        """Every operand, as the function takes them."""
        yield from (*self.readers, *self.writers, *self.logs, *self.exclusive_logs, *self.plain, *self.exclusive_plain)
        yield from self.documents
        yield from (operand for operand, _ in self.kernels)
        yield from self.skip

    def timed(self) -> tuple[Operand, ...]:
        """The operands that vary with time."""
        return tuple(operand for operand in self.all() if self.problem.time in operand.axes)

    def remembered(self) -> tuple[Operand, ...]:
        """The operands whose history is passed as well: all that a window reads, documents alone otherwise."""
        if self.mask.width is None:
            return tuple(operand for operand in self.documents if self.problem.time in operand.axes)
        return tuple(operand for operand in self.timed() if operand not in self.readers)


def operands(graph: Graph, choice: Choice) -> Operands:
    """The operands of a contraction, or of a mask alone (one that is written out), which has neither readers nor
    writers."""
    node, mask = graph.nodes[choice.problem.name], choice.problem.mask
    alone = ir.Contraction("", (), mask.name, (), ())
    found = node if isinstance(node, ir.Contraction) else alone

    def named(letter: str, names: tuple[str, ...]) -> tuple[Operand, ...]:
        return tuple(Operand(f"{letter}{k}", name, graph.nodes[name].axes) for k, name in enumerate(names))

    kernels = named("k", tuple(kernel.node for kernel in mask.kernels))
    reading, writing = named("r", found.readers), named("w", found.writers)
    columns: tuple[str, ...] = ()
    if found.norm is not None:
        (stack,) = (one for one in map(graph.nodes.__getitem__, found.writers) if isinstance(one, ir.Stack))
        ((value,), columns) = stack.values[0], stack.opened[0]
        writing = tuple(
            Operand(op.text, value, graph.nodes[value].axes) if op.node == stack.name else op for op in writing
        )
    return Operands(
        graph,
        choice,
        reading,
        writing,
        named("g", mask.log_gates),
        named("x", mask.exclusive_log_gates),
        named("a", mask.gates),
        named("e", mask.exclusive_gates),
        named("d", mask.documents),
        tuple(zip(kernels, mask.kernels, strict=True)),
        named("u", found.skip),
        {op.text: steps for op, steps in zip((*reading, *writing), found.maps, strict=False) if steps},
        found.norm,
        columns,
    )
