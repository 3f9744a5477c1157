"""Direct: one shifted product a lag, for masks of bounded width."""

from __future__ import annotations

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.kernel import Kernel
from ssdc.codegen.operands import Operands


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction that adds up its lags."""
    problem, terms, time = ops.problem, ops.choice.chosen.terms, ops.problem.time
    width = ops.mask.width
    assert width is not None
    before = width - 1
    gates = (*problem.gates, time)
    out = Emitter({**sizes, time: "length"})
    for op in ops.remembered():
        out.lines.append(f"{op.text} = extend({op.text}, {op.axes.index(time)}, {before}, h_{op.text})")
    logs = [f"floored({out.full(op.value, gates)})" for op in (*ops.logs, *ops.exclusive_logs)]
    own = [f"floored({out.full(op.value, gates)})" for op in ops.exclusive_logs]
    varying = any(time in op.axes for op in (*ops.logs, *ops.exclusive_logs))
    if logs:
        out.lines.append(f"gate = {' + '.join(logs)}")
        if varying:
            out.lines.append("total = gate.cumsum(-1)")
            out.lines.append(f"row = total.narrow(-1, {before}, length)")
            if own:
                now = f".narrow(-1, {before}, length)" if any(time in op.axes for op in ops.exclusive_logs) else ""
                out.lines.append(f"row = row - ({' + '.join(own)}){now}")
    if ops.plain or ops.exclusive_plain:
        for label, found in (("own", ops.plain), ("factor", (*ops.plain, *ops.exclusive_plain))):
            text = " * ".join(out.full(op.value, gates) for op in found) or "torch.ones((), dtype=dtype, device=device)"
            out.lines.append(f"{label} = {text}")
            out.lines.append(f"{label} = {label}.expand(*{label}.shape[:-1], length + {before})")
        out.lines.append(f"own = own.narrow(-1, {before}, length)")
        out.lines.append("between = torch.ones_like(own)")
    prepare = tuple(out.lines)
    out.lines.clear()
    values: dict[str, Value] = {op.text: op.value for op in ops.readers}
    for op in ops.writers:
        text = f"{op.text}.narrow({op.axes.index(time)}, {before} - lag, length)" if time in op.axes else op.text
        values[op.text] = out.new(text, op.axes)
    parts: list[str] = []
    if logs and varying:
        parts.append(f"decay(row - total.narrow(-1, {before} - lag, length), dtype)")
    elif logs:
        shift = f" - ({' + '.join(own)})" if own else ""
        parts.append(f"decay(gate * lag{shift}, dtype)")
    if ops.plain or ops.exclusive_plain:
        parts.append("(between * own if lag else torch.ones_like(between))")
    for op in ops.documents:
        text = out.full(op.value, gates)
        parts.append(f"({text}.narrow(-1, {before}, length) == {text}.narrow(-1, {before} - lag, length)).to(dtype)")
    if problem.gated or problem.reset:
        made = out.new(" * ".join(parts), gates)
        values["L"] = Value(made.text, gates) if problem.varying else Value(f"{made.text}[..., 0]", problem.gates)
    for k, (op, found) in enumerate(ops.kernels):
        axes = tuple(axis for axis in op.axes if axis != found.axis)
        place = "lag" if found.newest_first else f"{sizes[found.axis]} - 1 - lag"
        dim = op.axes.index(found.axis)
        value = Value(f"{op.text}.select({dim}, {place})", axes)
        values[f"K{k}"] = out.new(value.text, axes)
    y = out.path(terms["lag"], values, problem.axes)
    result = out.full(y, problem.axes)
    timed = ops.timed()[0]
    flips = tuple(f"{op.text} = {op.text}.flip({op.axes.index(time)})" for op in ops.timed())
    return Kernel(
        template="direct",
        name=name,
        title=title,
        parameters=tuple(op.text for op in ops.all()),
        histories=tuple(f"h_{op.text}" for op in ops.remembered()),
        sections={"prepare": prepare, "lag": tuple(out.lines)},
        values={
            "length": f"{timed.text}.shape[{timed.axes.index(time)}]",
            "term": result,
            "width": width,
            "first": int(ops.mask.strict),
            "before": before,
            "plain": bool(ops.plain or ops.exclusive_plain),
            "reverse": flips if problem.mask.direction == "reverse" else (),
            "flip": problem.axes.index(time),
            "shape": ", ".join("length" if axis == time else sizes[axis] for axis in problem.axes),
            "like": ops.writers[0].text,
        },
    )
