"""Scan: every state at once by the scan primitive, then one read."""

from __future__ import annotations

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.gates import reader_gate, transition
from ssdc.codegen.kernel import Kernel, backwards, framed
from ssdc.codegen.operands import Operands


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction that holds the state of every position."""
    problem, terms = ops.problem, ops.choice.chosen.terms
    time = problem.time
    out = Emitter({**sizes, time: "length"})
    values = {op.text: op.value for op in (*ops.readers, *ops.writers)} | {"one": Value("one", ())}
    state_axes = (time, *problem.state)
    update = out.path(terms["write"], values, state_axes)
    out.lines.append(f"update = {out.expanded(update, state_axes).text}")
    gate = transition(out, ops, state_axes)
    if gate is None:
        out.lines.append("states = running_sum(update, state)")
    else:
        out.lines.append(
            f"states = linear_scan({gate.text}.expand(length, {_dims(len(problem.state))}), update, state)"
        )
    write = tuple(out.lines)
    out.lines.clear()
    seen = "states"
    if problem.mask.strict:
        out.lines.append("before = torch.cat([state.unsqueeze(0), states[:-1]])")
        seen = "before"
    values["S"] = Value(seen, state_axes)
    if problem.reader_gated:
        axes = (*problem.gates, *((time,) if problem.varying else ()))
        found = reader_gate(out, ops, axes)
        assert found is not None
        values["F"] = found
    y = out.path(terms["read"], values, problem.axes)
    result = out.full(y, problem.axes)
    if backwards(ops):
        result += f".flip({problem.axes.index(time)})"
    return framed(
        ops,
        "scan",
        name,
        title,
        sizes,
        {"write": write, "read": tuple(out.lines)},
        result=result,
    )


def _dims(count: int) -> str:
    return ", ".join(["-1"] * count)
