"""The text of `step`: every node at one position, each state brought forward by one."""

from __future__ import annotations

from ssdc.codegen.emit import Value
from ssdc.codegen.forward import _size_lines, casting, computed_with, masked_argument, served
from ssdc.codegen.operands import operands
from ssdc.codegen.triton import contraction as masked
from ssdc.codegen.triton.fusion import fused
from ssdc.codegen.writer import Writer
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.states import Accumulator, Counter, History, not_causal, state_axes
from ssdc.plan.planner import Plan
from ssdc.plan.problem import COLUMN


def step(graph: Graph, plan: Plan, backend: str = "torch") -> dict[str, object] | None:
    """The context of the `step` template; None for a layer that cannot step, or steps through `forward`.

    With the backend `triton`, contractions that its kernels serve step by them.
    """
    pairs = any(isinstance(graph.nodes[name], ir.Rename | ir.DenseMask) for name in graph.order)
    if not_causal(graph) is not None or pairs:
        return None
    if backend == "triton":
        graph = fused(graph, served(graph, plan))
    writer = Writer(graph, plan, step=True)
    opened = []
    for part in writer.parts:
        name = writer.states[type(part), part.name]
        if isinstance(part, Accumulator | History):
            text = writer.stored(part.axes, name, opening=True)
            if text != name:
                opened.append(f"{name} = {text}")
    finals: dict[str, str] = {}
    for name in graph.order:
        node = graph.nodes[name]
        writer.write(node)
        if isinstance(node, ir.Contraction):
            writer.values[name] = _contraction(writer, node, finals, backend)
    context: dict[str, object] = {
        "inputs": [f"i{k}" for k in range(len(graph.inputs))],
        "parameters": [f"p{k}" for k in range(len(graph.parameters))],
        "states": list(writer.states.values()),
        "sizes": _size_lines(writer),
        "opened": opened,
        "body": list(writer.out.lines),
        "results": writer.results(),
        "finals": [_final(writer, part, finals) for part in writer.parts],
    }
    return casting(graph, context) if backend == "triton" else context


def _contraction(writer: Writer, node: ir.Contraction, finals: dict[str, str], backend: str) -> Value:
    if writer.graph.mask(node).width is not None:
        return _window(writer, node)
    if backend == "triton" and masked.refusal(operands(writer.graph, writer.plan.choices[node.name])) is None:
        return _masked(writer, node, finals)
    return _accumulate(writer, node, finals)


def _masked(writer: Writer, node: ir.Contraction, finals: dict[str, str]) -> Value:
    """One step by the contraction's own function, over a time of one: a single launch."""
    graph, time = writer.graph, writer.graph.reader
    ops = operands(graph, writer.plan.choices[node.name])
    arguments = []
    for op in ops.all():
        text = masked_argument(writer, ops, op)
        arguments.append(f"{text}.unsqueeze({op.axes.index(time)})" if time in op.axes else text)
    histories = [writer.states.get((History, op.node), "None") for op in ops.remembered()]
    place = [one.name for one in graph.contractions].index(node.name)
    call = ", ".join((*arguments, *histories, writer.states[Accumulator, node.name], "True", "dtype", "low"))
    name, finals[node.name] = f"y{place}", f"final{place}"
    writer.out.lines.append(f"{name}, final{place} = contraction{place}({call})")
    cast = ".to(dtype)" if computed_with(graph, node.name) else ""
    writer.out.lines.append(f"{name} = {name}.squeeze({node.axes.index(time)}){cast}")
    return Value(name, writer.axes(masked.result_axes(ops)))


def _final(writer: Writer, part: Accumulator | History | Counter, finals: dict[str, str]) -> str:
    name = writer.states[type(part), part.name]
    match part:
        case Accumulator():
            return writer.stored(part.axes, finals[part.name], opening=False)
        case History():
            time = part.axes.index(writer.graph.reader)
            later = writer.out.full(writer.values[part.name], tuple(a for a in part.axes if a != writer.graph.reader))
            text = f"torch.cat([{name}.narrow({time}, 1, {(part.length or 1) - 1}), {later}.unsqueeze({time})], {time})"
            return writer.stored(part.axes, text, opening=False)
        case Counter():
            return f"{name} + 1"


def _gate(
    writer: Writer, logs: tuple[str, ...], plain: tuple[str, ...], documents: tuple[str, ...], axes: tuple[str, ...]
) -> str | None:
    """A product of gates at this position, aligned to `axes`."""
    out = writer.out
    parts = []
    if logs:
        have = {axis for name in logs for axis in writer.values[name].axes}
        inner = tuple(axis for axis in axes if axis in have)
        value = out.new(f"torch.exp({' + '.join(out.full(writer.values[name], inner) for name in logs)})", inner)
        parts.append(out.full(value, axes))
    parts.extend(out.full(writer.values[name], axes) for name in plain)
    for name in documents:
        value = writer.values[name]
        if (History, name) not in writer.states:
            continue
        time = writer.graph.nodes[name].axes.index(writer.graph.reader)
        alike = out.new(f"({value.text} == {writer.states[History, name]}.select({time}, -1)).to(dtype)", value.axes)
        parts.append(out.full(alike, axes))
    return " * ".join(parts) if parts else None


def _accumulate(writer: Writer, node: ir.Contraction, finals: dict[str, str]) -> Value:
    """One step of a state: multiply by the gate, add what this position writes, read."""
    graph, out, mask = writer.graph, writer.out, writer.graph.mask(node)
    axes = state_axes(graph, node)
    state = writer.states[Accumulator, node.name]
    update = writer.product(node.writers, axes) if node.writers else Value("1.0", ())
    gate = _gate(
        writer, (*mask.log_gates, *mask.exclusive_log_gates), (*mask.gates, *mask.exclusive_gates), mask.documents, axes
    )
    later = f"torch.addcmul({update.text}, {gate}, {state})" if gate else f"{state} + {update.text}"
    finals[node.name] = out.new(later, axes).text
    seen = finals[node.name]
    if mask.strict:
        own = _gate(writer, mask.log_gates, mask.gates, mask.documents, axes)
        seen = out.new(f"{own} * {state}", axes).text if own else state
    values = {f"r{k}": writer.values[name] for k, name in enumerate(node.readers)} | {"S": Value(seen, axes)}
    out_axes = writer.axes(node.axes)
    return _all(writer, writer.path(values, out_axes), out_axes)


def _all(writer: Writer, made: Value, axes: tuple[str, ...]) -> Value:
    if set(made.axes) == set(axes):
        return Value(writer.out.full(made, axes), axes)
    return writer.out.new(writer.out.expanded(made, axes).text, axes)


def _window(writer: Writer, node: ir.Contraction) -> Value:
    """This position and the stretch of history that its mask reaches."""
    graph, out, mask = writer.graph, writer.out, writer.graph.mask(node)
    width, time = mask.width, graph.reader
    assert width is not None

    def stretch(name: str) -> Value:
        value, axes = writer.values[name], graph.nodes[name].axes
        if time not in axes:
            return value
        dim = axes.index(time)
        windowed = tuple(COLUMN if axis == time else axis for axis in axes)
        if width == 1:
            return out.new(f"{out.full(value, tuple(a for a in axes if a != time))}.unsqueeze({dim})", windowed)
        history = writer.states[History, name]
        last = f"{history}.narrow({dim}, {history}.shape[{dim}] - {width - 1}, {width - 1})"
        return out.new(f"torch.cat([{last}, {value.text}.unsqueeze({dim})], {dim})", windowed)

    values = {f"r{k}": writer.values[name] for k, name in enumerate(node.readers)}
    values |= {f"w{k}": stretch(name) for k, name in enumerate(node.writers)}
    for k, kernel in enumerate(mask.kernels):
        found = writer.values[kernel.node]
        inner = tuple(axis for axis in found.axes if axis != kernel.axis)
        text = out.full(found, (*inner, kernel.axis))
        text += f"[..., :{width}].flip(-1)" if kernel.newest_first else f"[..., -{width}:]"
        values[f"K{k}"] = out.new(text, (*inner, COLUMN))
    values |= _window_gate(writer, mask, stretch, width)
    out_axes = writer.axes(node.axes)
    return _all(writer, writer.path(values, out_axes), out_axes)


def _window_gate(writer: Writer, mask: ir.Mask, stretch, width: int) -> dict[str, Value]:  # type: ignore[no-untyped-def]
    """The mask from each position of the window to this one."""
    graph, out, time = writer.graph, writer.out, writer.graph.reader
    names = (*mask.all_gates, *mask.documents)
    have = {axis for name in names for axis in graph.nodes[name].axes} - {time}
    gates = tuple(axis for axis in out.sizes if axis in have)
    axes = (*gates, COLUMN)
    parts = []
    logs = [f"floored({out.full(stretch(name), axes)})" for name in (*mask.log_gates, *mask.exclusive_log_gates)]
    own = [f"floored({out.full(stretch(name), axes)})" for name in mask.exclusive_log_gates]
    if logs:
        gate = out.new(f"({' + '.join(logs)}).expand(*{_lead(out, gates)}{width})", axes)
        total = out.new(f"{gate.text}.cumsum(-1)", axes)
        row = f"{total.text}[..., -1:]" + (f" - ({' + '.join(own)})[..., -1:]" if own else "")
        keep = (
            f".masked_fill(torch.arange({width}, device=device) == {width - 1}, -torch.inf)"
            if mask.strict and own
            else ""
        )
        parts.append(f"decay(({row} - {total.text}){keep}, dtype)")
    if mask.gates or mask.exclusive_gates:

        def combined(found: tuple[str, ...]) -> str | None:
            if not found:
                return None
            text = " * ".join(out.full(stretch(name), axes) for name in found)
            return out.new(f"({text}).expand(*{_lead(out, gates)}{width})", axes).text

        exclusive = combined(mask.exclusive_gates)
        inclusive = combined(mask.gates) or f"torch.ones_like({exclusive})"
        parts.append(f"products({inclusive}, {exclusive}, lags({width}, {width}, device) >= 0)[..., -1, :]")
    for name in mask.documents:
        text = out.full(stretch(name), axes)
        parts.append(f"({text}[..., -1:] == {text}).to(dtype)")
    if mask.strict:
        parts.append(f"(torch.arange({width}, device=device) < {width - 1}).to(dtype)")
    if not parts:
        return {}
    return {"L": out.new(" * ".join(parts), axes if names else (COLUMN,))}


def _lead(out: object, gates: tuple[str, ...]) -> str:
    return f"({'-1, ' * len(gates)}), " if gates else "(), "
