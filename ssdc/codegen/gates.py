"""Text of a mask's gates one position at a time: the transition of a state, and what a strict reader applies to it."""

from __future__ import annotations

from collections.abc import Sequence

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.operands import Operand, Operands


def transition(out: Emitter, ops: Operands, axes: Sequence[str]) -> Value | None:
    """The gate from the position before to each position, aligned to `axes` (units where it does not vary)."""
    return _product(out, ops, (*ops.logs, *ops.exclusive_logs), (*ops.plain, *ops.exclusive_plain), axes)


def reader_gate(out: Emitter, ops: Operands, axes: Sequence[str]) -> Value | None:
    """The part of the transition that a strict reader applies to the state before it; None where that is one."""
    return _product(out, ops, ops.logs, ops.plain, axes)


def _product(
    out: Emitter, ops: Operands, logs: Sequence[Operand], plain: Sequence[Operand], axes: Sequence[str]
) -> Value | None:
    parts: list[str] = []
    if logs:
        exponent = " + ".join(out.full(op.value, axes) for op in logs)
        parts.append(f"torch.exp({exponent})")
    parts.extend(out.full(op.value, axes) for op in plain)
    time = ops.problem.time
    for op in ops.documents:
        if time not in op.axes:
            continue
        order = tuple(axis for axis in op.axes if axis != time)
        text = out.full(op.value, (*order, time))
        history = f"None if h_{op.text} is None else {out.full(Value(f'h_{op.text}', op.axes), (*order, time))}"
        alike = out.new(f"({text} == previous({text}, {history})).to(dtype)", (*order, time))
        parts.append(out.full(alike, axes))
    if not parts:
        return None
    return out.new(" * ".join(parts), axes)
