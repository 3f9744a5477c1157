"""Direct: one shifted product a lag, for masks of bounded width."""

from __future__ import annotations

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.kernel import Kernel, framed
from ssdc.codegen.operands import Operand, Operands


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
    _sums(out, ops, gates, before)
    prepare = tuple(out.lines)
    out.lines.clear()
    values: dict[str, Value] = {op.text: op.value for op in ops.readers}
    for op in ops.writers:
        text = f"{op.text}.narrow({op.axes.index(time)}, {before} - lag, length)" if time in op.axes else op.text
        values[op.text] = out.new(text, op.axes)
    if problem.gated or problem.reset:
        made = out.new(" * ".join(_decays(out, ops, gates, before)), gates)
        values["L"] = Value(made.text, gates) if problem.varying else Value(f"{made.text}[..., 0]", problem.gates)
    for k, (op, found) in enumerate(ops.kernels):
        axes = tuple(axis for axis in op.axes if axis != found.axis)
        place = "lag" if found.newest_first else f"{sizes[found.axis]} - 1 - lag"
        dim = op.axes.index(found.axis)
        value = Value(f"{op.text}.select({dim}, {place})", axes)
        values[f"K{k}"] = out.new(value.text, axes)
    y = out.path(terms["lag"], values, problem.axes)
    result = out.full(y, problem.axes)
    return framed(
        ops,
        "direct",
        name,
        title,
        sizes,
        {"prepare": prepare, "lag": tuple(out.lines)},
        term=result,
        width=width,
        first=int(ops.mask.strict),
        before=before,
        plain=bool(ops.plain or ops.exclusive_plain),
        flip=problem.axes.index(time),
        shape=", ".join("length" if axis == time else sizes[axis] for axis in problem.axes),
    )


def _logs(out: Emitter, gates: tuple[str, ...], found: tuple[Operand, ...]) -> str:
    """A sum of log gates, as text; empty where there are none."""
    return " + ".join(f"floored({out.full(op.value, gates)})" for op in found)


def _sums(out: Emitter, ops: Operands, gates: tuple[str, ...], before: int) -> None:
    """Running sums of log gates, and plain gates over all positions that the window reaches."""
    logs = _logs(out, gates, (*ops.logs, *ops.exclusive_logs))
    own = _logs(out, gates, ops.exclusive_logs)
    if logs:
        out.lines.append(f"gate = {logs}")
    if logs and _varying(ops):
        out.lines.append("total = gate.cumsum(-1)")
        out.lines.append(f"row = total.narrow(-1, {before}, length)")
        if own:
            time = ops.problem.time
            now = f".narrow(-1, {before}, length)" if any(time in op.axes for op in ops.exclusive_logs) else ""
            out.lines.append(f"row = row - ({own}){now}")
    if ops.plain or ops.exclusive_plain:
        for label, found in (("factor", (*ops.plain, *ops.exclusive_plain)), ("own", ops.plain)):
            text = " * ".join(out.full(op.value, gates) for op in found) or "torch.ones_like(factor)"
            out.lines.append(f"{label} = {text}")
            out.lines.append(f"{label} = {label}.expand(*{label}.shape[:-1], length + {before})")
        out.lines.append(f"own = own.narrow(-1, {before}, length)")
        out.lines.append("between = torch.ones_like(own)")


def _varying(ops: Operands) -> bool:
    return any(ops.problem.time in op.axes for op in (*ops.logs, *ops.exclusive_logs))


def _decays(out: Emitter, ops: Operands, gates: tuple[str, ...], before: int) -> list[str]:
    """The factors of the mask at one lag, at every reader."""
    parts: list[str] = []
    if _varying(ops):
        parts.append(f"decay(row - total.narrow(-1, {before} - lag, length), dtype)")
    elif ops.logs or ops.exclusive_logs:
        own = _logs(out, gates, ops.exclusive_logs)
        parts.append(f"decay(gate * lag{f' - ({own})' if own else ''}, dtype)")
    if ops.plain or ops.exclusive_plain:
        parts.append("(between * own if lag else torch.ones_like(between))")
    for op in ops.documents:
        text = out.full(op.value, gates)
        parts.append(f"({text}.narrow(-1, {before}, length) == {text}.narrow(-1, {before} - lag, length)).to(dtype)")
    return parts
