"""The text of `forward`: every node over all of time, each contraction a function of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ssdc.codegen.decays import prepare, same
from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.kernel import Kernel
from ssdc.codegen.operands import Operand, Operands, operands
from ssdc.codegen.orders import blocks, direct, fft, recurrent, scan
from ssdc.codegen.triton import contraction as masked
from ssdc.codegen.triton import window
from ssdc.codegen.triton.fusion import fused
from ssdc.codegen.writer import Writer
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.states import Accumulator, Counter, History
from ssdc.plan.candidate import Candidate
from ssdc.plan.cost import Cost
from ssdc.plan.planner import Choice, Plan
from ssdc.plan.problem import Problem, mask_problem

Form = Callable[[Operands, str, str, dict[str, str]], Kernel]

FORMS: Mapping[str, Form] = {
    "recurrent": recurrent.kernel,
    "quadratic": blocks.kernel,
    "chunked": blocks.kernel,
    "scan": scan.kernel,
    "fft": fft.kernel,
    "direct": direct.kernel,
}
"""Every ordering's text."""

NAMES = re.compile(r"\b[a-z]\w*\b")
"""Names in a statement."""


def forward(graph: Graph, plan: Plan, backend: str = "torch") -> tuple[tuple[Kernel, ...], dict[str, object]]:
    """The contraction functions, and the context of the `forward` template.

    With the backend `triton`, contractions that its kernels serve call them, and inputs come in the type that they
    have.
    """
    if backend == "triton":
        graph = fused(graph, served(graph, plan))
    writer = Writer(graph, plan, step=False)
    out = writer.out
    kernels: list[Kernel] = []
    opened: list[str] = []
    for part in writer.parts:
        if isinstance(part, Accumulator | History):
            name = writer.states[type(part), part.name]
            text = writer.stored(part.axes, name, opening=True)
            if text != name:
                opened.append(f"{name} = None if {name} is None else {text}")
    for name in graph.order:
        node = graph.nodes[name]
        writer.write(node)
        match node:
            case ir.Contraction():
                kernels.append(_contraction(writer, plan.choices[name], len(kernels), backend))
            case ir.DenseMask():
                writer.values[name] = _dense(writer, node)
            case _:
                pass
    context = {
        "inputs": [f"i{k}" for k in range(len(graph.inputs))],
        "parameters": [f"p{k}" for k in range(len(graph.parameters))],
        "states": list(writer.states.values()),
        "sizes": _size_lines(writer),
        "opened": opened,
        "body": list(out.lines),
        "results": writer.results(),
        "finals": _finals(writer, backend),
        "spans": bool(graph.writers),
    }
    return tuple(kernels), casting(graph, context) if backend == "triton" else context


def casting(graph: Graph, context: dict[str, Any]) -> dict[str, Any]:
    """A context whose inputs come in the type that they have: those that its text computes with are brought to the
    computing type, and what nothing reads is left out."""
    shapes = [re.sub(r"\bi(\d+)\b", r"given\1", line) for line in context["sizes"]]
    needed = set(NAMES.findall(" ".join((*context["results"], *context["finals"]))))
    body: list[str] = []
    for line in reversed(context["body"]):
        left, _, right = line.partition(" = ")
        if needed & set(NAMES.findall(left)):
            needed |= set(NAMES.findall(right))
            body.insert(0, line)
    casts = [
        f"i{place} = given{place}.to(dtype)" if node.kind == "real" else f"i{place} = given{place}"
        for place, node in enumerate(graph.inputs)
        if f"i{place}" in needed
    ]
    inputs = [f"given{place}" for place in range(len(graph.inputs))]
    return context | {"inputs": inputs, "sizes": [*shapes, *casts], "body": body}


def _size_lines(writer: Writer) -> list[str]:
    """Statements that set the sizes a call decides."""
    lines, done = [], set()
    time = writer.graph.reader
    for place, node in enumerate(writer.graph.inputs):
        for dim, atoms in enumerate(node.layout):
            if atoms == (time,) and time not in done and not writer.step:
                lines.append(f"length = i{place}.shape[{dim}]")
                done.add(time)
            unknown = [atom for atom in atoms if atom in writer.free() and atom not in done]
            if unknown and time not in atoms:
                at = dim - sum(1 for one in node.layout[:dim] if one == (time,) and writer.step)
                known = [writer.out.sizes[atom] for atom in atoms if atom not in unknown]
                text = f"i{place}.shape[{at}]" + (f" // ({' * '.join(known)})" if known else "")
                lines.append(f"{writer.out.sizes[unknown[0]]} = {text}")
                done.add(unknown[0])
    return lines


def _contraction(writer: Writer, choice: Choice, place: int, backend: str) -> Kernel:
    ops = operands(writer.graph, choice)
    candidate = choice.chosen
    if backend == "triton" and masked.refusal(ops) is None:
        return _masked(writer, ops, place, masked.kernel, masked.form_of(ops) or "chunked")
    if backend == "triton" and window.refusal(ops) is None:
        return _masked(writer, ops, place, window.kernel, "quadratic" if ops.mask.width is None else "window")
    size = f", chunks of {candidate.chunk}" if candidate.chunk else ""
    sizes = _local_sizes(writer, ops)
    made = FORMS[candidate.order](ops, f"contraction{place}", f"Contraction {place}: {candidate.order}{size}.", sizes)
    arguments = [writer.values[op.node].text for op in ops.all()]
    histories = [writer.history(op.node) for op in ops.remembered()]
    state = writer.states.get((Accumulator, choice.problem.name), "None")
    reverse = choice.problem.mask.direction == "reverse"
    if reverse:
        histories, state = ["None"] * len(histories), "None"
    problem = choice.problem
    want = "False" if reverse or problem.mask.width is not None else "want_state"
    given = ", ".join((*arguments, *histories, state))
    shapes = [", ".join(writer.out.sizes[axis] for axis in axes) for axes in (problem.axes, problem.state)]
    name = f"y{place}"
    call = f"run(contraction{place}, ({given}), {want}, dtype, [{shapes[0]}], [{shapes[1]}])"
    writer.out.lines.append(f"{name}, final{place} = {call}")
    writer.values[problem.name] = Value(name, problem.axes)
    return made


def _masked(writer: Writer, ops: Operands, place: int, make: Form, order: str) -> Kernel:
    """A contraction by the Triton kernels. Operands that are inputs go in as they came; a result that other nodes read
    is brought to the computing type."""
    graph, problem = writer.graph, ops.problem
    title = f"Contraction {place}: {order}, by Triton kernels."
    made = make(ops, f"contraction{place}", title, _local_sizes(writer, ops))
    arguments = [masked_argument(writer, ops, op) for op in ops.all()]
    histories = [writer.history(op.node) for op in ops.remembered()]
    state = writer.states.get((Accumulator, problem.name), "None")
    if problem.mask.direction == "reverse":
        histories, state = ["None"] * len(histories), "None"
    call = ", ".join((*arguments, *histories, state, "want_state", "dtype", "low"))
    name = f"y{place}"
    writer.out.lines.append(f"{name}, final{place} = contraction{place}({call})")
    if computed_with(graph, problem.name):
        writer.out.lines.append(f"{name} = {name}.to(dtype)")
    writer.values[problem.name] = Value(name, masked.result_axes(ops))
    return made


def served(graph: Graph, plan: Plan) -> tuple[Problem, ...]:
    """The contractions that the Triton kernels serve."""
    choices = (plan.choices[node.name] for node in graph.contractions)
    return tuple(choice.problem for choice in choices if masked.refusal(operands(graph, choice)) is None)


def masked_argument(writer: Writer, ops: Operands, op: Operand) -> str:
    """What a Triton kernel takes for an operand: a factor as it came, unless it is one number a position and head that
    other nodes compute with, or are multiplied by."""
    if op not in (*ops.readers, *ops.writers):
        return writer.values[op.node].text
    scales = masked.scales(ops)
    if op in scales and (len(scales) > 1 or _readers(writer.graph, op.node) > 1):
        return writer.values[op.node].text
    return writer.given(op.node)


def _readers(graph: Graph, name: str) -> int:
    return sum(name in ir.operands(graph.nodes[other]) for other in graph.order)


def computed_with(graph: Graph, name: str) -> bool:
    """Whether other nodes compute with a result, rather than pass it on."""
    readers = (graph.nodes[other] for other in graph.order if name in ir.operands(graph.nodes[other]))
    return any(
        computed_with(graph, node.name) if isinstance(node, ir.Map) and node.expr == ir.Ref(name) else True
        for node in readers
    )


def _local_sizes(writer: Writer, ops: Operands) -> dict[str, str]:
    """Sizes as a contraction's function can tell them: from its own operands, before time is cut."""
    sizes: dict[str, str] = {}
    for atom, text in writer.out.sizes.items():
        if not text.isdigit():
            owner = next((op for op in ops.all() if atom in op.axes), None)
            text = f"{owner.text}.shape[{owner.axes.index(atom)}]" if owner else text
        sizes[atom] = text
    return sizes


def _finals(writer: Writer, backend: str) -> list[str]:
    """The state after the last position; with the backend `triton`, inputs are remembered before they are cast."""
    texts = []
    contractions = {node.name: place for place, node in enumerate(writer.graph.contractions)}
    for part in writer.parts:
        name = writer.states[type(part), part.name]
        match part:
            case Accumulator(name=contraction, axes=axes):
                texts.append(writer.stored(axes, f"final{contractions[contraction]}", opening=False))
            case History(name=node, axes=axes, length=length):
                value, time = writer.values[node], axes.index(writer.graph.reader)
                text = writer.out.full(value, axes)
                if backend == "triton" and length is not None and writer.graph.nodes[node].kind == "real":
                    given = writer.out.full(Value(writer.given(node), value.axes), axes)
                    text = f"tail({given}, {time}, {length}, {name}).to(dtype)"
                elif length is None:
                    text = f"whole({text}, {time}, {name})"
                else:
                    text = f"tail({text}, {time}, {length}, {name})"
                texts.append(writer.stored(axes, text, opening=False))
            case Counter():
                texts.append(
                    f"(torch.zeros((), dtype=torch.int64, device=device) if {name} is None else {name}) + length"
                )
    return texts


def _dense(writer: Writer, node: ir.DenseMask) -> Value:
    """A mask over all pairs of positions, the writers' past included."""
    graph, out = writer.graph, writer.out
    mask = graph.nodes[node.mask]
    assert isinstance(mask, ir.Mask)
    choice = Choice(
        mask_problem(graph, mask, writer.plan.sizes), Candidate("quadratic", 0, {}, Cost(), 1), (), (), False
    )
    found = operands(graph, choice)
    time, writer_axis = node.axes[-2:]
    flip = mask.direction == "reverse"
    local = Emitter({**out.sizes}, out.lines, out.count)
    made: dict[str, str] = {}
    for op in found.timed():
        dim = op.axes.index(time)
        text = writer.values[op.node].text
        text = f"{text}.flip({dim})" if flip else f"whole({text}, {dim}, {writer.history(op.node)})"
        made[op.node] = local.new(text, op.axes).text
    found = _renamed(found, {op.node: made.get(op.node, writer.values[op.node].text) for op in found.all()})
    timed = found.timed()
    span = f"{timed[0].text}.shape[{timed[0].axes.index(time)}]" if timed else f"{_span(writer)}"
    local.lines.append(f"span = {span}")
    decays = prepare(
        local, found, lambda text, _: text, lambda text, _: f"{text}[..., span - length :]", "span", (), "span"
    )
    both = mask.direction == "both"
    local.lines.append("lag = lags(length, span, device)")
    limit = "" if mask.width is None else f" & (lag < {mask.width})"
    local.lines.append(
        "keep = torch.ones_like(lag, dtype=torch.bool)" if both else f"keep = (lag >= {int(mask.strict)}){limit}"
    )
    for text in decays.documents:
        local.lines.append(f"keep = keep & {same(f'{text}[..., span - length :]', text)}")
    parts = []
    axes = (*choice.problem.gates, time, writer_axis)
    if decays.total:
        parts.append(f"segment({decays.row}, {decays.total}, keep, dtype)")
    if decays.plain:
        seen = "lags(span, span, device) >= 0"
        parts.append(f"products({decays.plain}, {decays.exclusive}, {seen})[..., span - length :, :] * keep")
    for op, kernel in found.kernels:
        inner = tuple(axis for axis in op.axes if axis != kernel.axis)
        text = local.full(op.value, (*inner, kernel.axis))
        value = local.new(
            f"by_lag({text}, lag, {mask.width}, {kernel.newest_first}, {mask.strict}).to(dtype)",
            (*inner, time, writer_axis),
        )
        axes = tuple(dict.fromkeys((*inner, *axes)))
        parts.append(local.full(value, axes))
    value = local.new(
        " * ".join(parts) if parts else "keep.to(dtype)", axes if parts or decays.documents else (time, writer_axis)
    )
    if flip:
        value = local.new(f"{value.text}.flip(-1, -2)", value.axes)
    out.count = local.count
    wanted = tuple(axis for axis in node.axes if axis in value.axes)
    return Value(out.full(value, wanted), wanted) if wanted != value.axes else value


def _span(writer: Writer) -> str:
    """The number of positions so far where no gate tells: from a history, or the call's own."""
    for part in writer.parts:
        if isinstance(part, History) and part.length is None:
            name = writer.states[History, part.name]
            return f"length + (0 if {name} is None else {name}.shape[{part.axes.index(writer.graph.reader)}])"
    return "length"


def _renamed(found: Operands, names: Mapping[str, str]) -> Operands:
    def each(group: tuple[Operand, ...]) -> tuple[Operand, ...]:
        return tuple(Operand(names[op.node], op.node, op.axes) for op in group)

    return Operands(
        found.graph,
        found.choice,
        (),
        (),
        each(found.logs),
        each(found.exclusive_logs),
        each(found.plain),
        each(found.exclusive_plain),
        each(found.documents),
        tuple((Operand(names[op.node], op.node, op.axes), kernel) for op, kernel in found.kernels),
    )
