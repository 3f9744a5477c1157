"""FFT: the mask as a convolution over time of every entry of the state, float64 throughout."""

from __future__ import annotations

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.kernel import Kernel, backwards, framed
from ssdc.codegen.operands import Operands


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction whose mask depends on the lag alone."""
    problem, terms, time = ops.problem, ops.choice.chosen.terms, ops.problem.time
    width, strict = ops.mask.width, ops.mask.strict
    out = Emitter({**sizes, time: "length"})
    before = (width or 1) - 1
    state_axes = (time, *problem.convolved)
    for op in ops.remembered():
        if op in ops.writers:
            out.lines.append(f"{op.text} = extend({op.text}, {op.axes.index(time)}, {before}, h_{op.text})")
    values = {op.text: op.value for op in (*ops.readers, *ops.writers)} | {"one": Value("one", ())}
    update = out.path(terms["write"], values, (time, *problem.state))
    out.lines.append(f"update = {out.full(update, state_axes)}.double()")
    write = tuple(out.lines)
    out.lines.clear()
    count = "length" if width is None else str(width)
    out.lines.append(f"lag = torch.arange({count}, device=device)")
    exponent = _exponent(out, ops, "lag")
    mask = out.new(f"(lag >= {int(strict)}).double()", (time,))
    parts = [out.full(mask, state_axes)]
    if exponent:
        kept = f"{exponent}.masked_fill(lag < {int(strict)}, -torch.inf)"
        parts.append(f"torch.exp({out.full(Value(kept, (*problem.gates, time)), state_axes)})")
    for op, found in ops.kernels:
        axes = tuple(axis for axis in op.axes if axis != found.axis)
        one = (
            f"by_lag({out.full(op.value, (*axes, found.axis))}, lag, {width}, {found.newest_first}, {strict}).double()"
        )
        value = out.new(one, (*axes, time))
        parts.append(out.full(value, state_axes))
    out.lines.append(f"kernel = {' * '.join(parts)}")
    section_kernel = tuple(out.lines)
    out.lines.clear()
    values["S"] = Value("states", state_axes)
    y = out.path(terms["read"], values, problem.axes)
    result = out.full(y, problem.axes)
    if backwards(ops):
        result += f".flip({problem.axes.index(time)})"
    return framed(
        ops,
        "fft",
        name,
        title,
        sizes,
        {"write": write, "kernel": section_kernel, "read": tuple(out.lines)},
        result=result,
        before=before,
        carries=width is None,
        enter=_border(out, ops, "torch.arange(1, length + 1, device=device)", state_axes, reader=True),
        leave=_border(out, ops, "torch.arange(length, device=device).flip(0)", state_axes, reader=False),
        across=_border(out, ops, "torch.full((1,), length, device=device)", state_axes, reader=False),
    )


def _exponent(out: Emitter, ops: Operands, lag: str, reader: bool = True) -> str | None:
    """The text of lag * log gate, less the reader's own part, [gates, lag]."""
    gates = ops.problem.gates
    logs = [f"floored({out.full(op.value, gates)})" for op in (*ops.logs, *ops.exclusive_logs)]
    own = [f"floored({out.full(op.value, gates)})" for op in ops.exclusive_logs]
    if not logs:
        return None
    text = f"({' + '.join(logs)}).unsqueeze(-1) * {lag}"
    return f"({text} - ({' + '.join(own)}).unsqueeze(-1))" if own and reader else f"({text})"


def _border(out: Emitter, ops: Operands, lag: str, state_axes: tuple[str, ...], reader: bool) -> str:
    exponent = _exponent(out, ops, lag, reader)
    if exponent is None:
        return "1.0"
    value = Value(exponent, (*ops.problem.gates, ops.problem.time))
    return f"torch.exp({out.full(value, state_axes)})"
