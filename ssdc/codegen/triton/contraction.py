"""A masked contraction with one gate a head as a call of the Triton operator: operands as they lie in memory, without
copies.

In: a contraction's operands. Out: the function that brings them to query, key [b, t, groups, n], value [b, t, groups,
p], log gate and scale [b, t, h], calls `masked`, and brings results back. Batch axes that calls decide come first;
all others are heads, and an operand that lacks the last of them is shared by groups of heads. Documents become gates
of zero at their starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.kernel import Kernel, backwards, framed
from ssdc.codegen.operands import Operand, Operands
from ssdc.plan.hardware import CPU
from ssdc.plan.roles import Roles, roles
from ssdc.plan.search import search

LEAST, MOST_STATES, MOST_COLUMNS = 4, 256, 1024
"""Sizes of a head that the kernels are made for: states and value columns at least, states at most, columns at most."""


def refusal(ops: Operands) -> str | None:
    """Why the Triton kernels do not serve a contraction; None where they do."""
    problem, mask = ops.problem, ops.mask
    if mask.direction == "both" or mask.width is not None or mask.kernels:
        return "its mask is not a recurrence"
    if not problem.logarithmic:
        return "its gates are plain factors, not logarithms"
    if ops.exclusive_logs and not mask.strict:
        return "its reader leaves out a gate but reads its own position"
    if ops.choice.forced and ops.choice.chosen.order != "chunked":
        return f"its order is fixed to {ops.choice.chosen.order}"
    if any(ops.graph.nodes[op.node].kind != "real" for op in (*ops.readers, *ops.writers)):
        return "its operands are not real"
    found = roles(problem)
    if set(problem.gates) - set(found.batch):
        return "its gates vary along states or value columns"
    if not found.inner or not found.outer:
        return "it has no state axis that readers and writers share, beside value columns"
    known = ops.graph.sizes
    axes = (*_heads(ops, found), *found.inner, *found.outer)
    if any(known.get(axis) is None and "+" not in axis for axis in axes):
        return "the size of a head is known at calls only"
    sizes = problem.sizes
    states, columns = prod(sizes[axis] for axis in found.inner), prod(sizes[axis] for axis in found.outer)
    if not LEAST <= states <= MOST_STATES or not LEAST <= columns <= MOST_COLUMNS:
        return f"a head has {states} states and {columns} value columns"
    return None


def _lead(ops: Operands, found: Roles) -> tuple[str, ...]:
    """The batch axis that calls decide, in front of all others."""
    return tuple(axis for axis in found.batch[:1] if ops.graph.sizes.get(axis) is None)


def _heads(ops: Operands, found: Roles) -> tuple[str, ...]:
    return (*found.batch[len(_lead(ops, found)) :], *found.rows)


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction, for `refusal(ops) is None`."""
    problem, found = ops.problem, roles(ops.problem)
    time, lead, heads = problem.time, _lead(ops, found), _heads(ops, found)
    sizes = {**sizes, time: "length"}
    out = Emitter(sizes)
    layout = _Layout(out, lead, time, heads)
    flat = {*found.batch, time}
    scales = [op for op in ops.writers if (op.text, op.axes) in found.key_operands and set(op.axes) <= flat]
    keys = [op for op in ops.writers if (op.text, op.axes) in found.key_operands and op not in scales]
    columns = [op for op in ops.writers if (op.text, op.axes) in found.value_operands]
    for label, operands, tail in (
        ("query", ops.readers, found.inner),
        ("key", keys, found.inner),
        ("value", columns, found.outer),
    ):
        value = _product(out, ops, operands, (*lead, time, *heads, *tail))
        out.lines.append(f"{label} = {layout.tensor(value, tail)}.to(element)")
    if scales:
        value = _product(out, ops, scales, (*lead, time, *heads))
        out.lines.append(f"scale = {layout.numbers(value)}")
    prepare = tuple(out.lines)
    out.lines.clear()
    own = _gates(out, ops, layout)
    gates = tuple(out.lines)
    out.lines.clear()
    final, result = _back(out, ops, found, lead, heads)
    order = (*found.batch, *found.inner, *found.outer)
    shape = [sizes[lead[0]] if lead else "1", _count(sizes, heads[: len(heads) - len(found.rows)])]
    initial = f"{out.full(Value('state', problem.state), order)}.reshape({', '.join(shape)}, "
    initial += f"{_count(sizes, found.inner)}, {_count(sizes, found.outer)})"
    if found.rows:
        initial += f".unsqueeze(2).expand(-1, -1, {_count(sizes, found.rows)}, -1, -1).flatten(1, 2)"
    return framed(
        ops,
        "masked",
        name,
        title,
        sizes,
        {"prepare": prepare, "gates": gates, "back": tuple(out.lines)},
        initial=initial,
        own=own,
        scale="scale" if scales else "None",
        heads=_count(sizes, heads),
        strict=problem.mask.strict,
        final=final,
        result=result,
    )


class _Layout:
    """Texts that bring values to [b, t, groups, tail] and [b, t, heads]."""

    def __init__(self, out: Emitter, lead: tuple[str, ...], time: str, heads: tuple[str, ...]) -> None:
        self.out, self.lead, self.time, self.heads = out, lead, time, heads

    def tensor(self, value: Value, tail: Sequence[str]) -> str:
        """[b, t, groups, tail]: the heads up to the last one that the value varies with."""
        count = max((k + 1 for k, axis in enumerate(self.heads) if axis in value.axes), default=0)
        text = self._spread(value, (*self.lead, self.time, *self.heads[:count], *tail))
        text = self._grouped(text, count)
        return f"{text}.flatten(3)" if len(tail) > 1 else text

    def numbers(self, value: Value) -> str:
        """[b, t, heads]."""
        return self._grouped(self._spread(value, (*self.lead, self.time, *self.heads)), len(self.heads))

    def _spread(self, value: Value, axes: Sequence[str]) -> str:
        text = self.out.full(value, axes)
        if set(axes) <= set(value.axes):
            return text
        return f"{text}.expand({', '.join('-1' if axis in value.axes else self.out.sizes[axis] for axis in axes)})"

    def _grouped(self, text: str, count: int) -> str:
        """Heads as the third dimension, behind the batch and time."""
        if not self.lead:
            text += ".unsqueeze(0)"
        return f"{text}.unsqueeze(2)" if count == 0 else f"{text}.flatten(2, {1 + count})" if count > 1 else text


def _product(out: Emitter, ops: Operands, operands: Sequence[Operand], axes: Sequence[str]) -> Value:
    """The product of operands, summed over axes that `axes` lacks."""
    have = {axis for op in operands for axis in op.axes}
    wanted = tuple(axis for axis in axes if axis in have)
    if len(operands) == 1 and set(wanted) == set(operands[0].axes):
        return operands[0].value
    path = search(tuple((op.text, op.axes) for op in operands), wanted, ops.problem.sizes, CPU)
    return out.path(path, {op.text: op.value for op in operands}, wanted)


def _gates(out: Emitter, ops: Operands, layout: _Layout) -> str:
    """Statements that set `gate` (and `own`); the text of the reader's own gate."""
    time = ops.problem.time
    documents = [op for op in ops.documents if time in op.axes]
    alike = [_starts(out, op, time) for op in documents]
    every = (*ops.logs, *ops.exclusive_logs)
    out.lines.append(f"gate = {_gate(out, layout, every, alike)}")
    if not ops.mask.strict:
        return "None"
    if not ops.logs and not alike:
        return "None"
    if not ops.exclusive_logs:
        return '"gate"'
    # The own gate of a strict reader is one a position, whatever it is made of.
    out.lines.append(f"own = {_gate(out, layout, ops.logs, alike, each=True)}")
    if not any(time in op.axes or set(op.axes) & set(layout.lead) for op in every) and not alike:
        out.lines.append(f"gate = {_gate(out, layout, every, alike, each=True)}")
    return "own"


def _starts(out: Emitter, op: Operand, time: str) -> Value:
    """Whether each position is in the document of the one before it."""
    order = tuple(axis for axis in op.axes if axis != time)
    text = out.full(op.value, (*order, time))
    history = f"None if h_{op.text} is None else {out.full(Value(f'h_{op.text}', op.axes), (*order, time))}"
    return out.new(f"{text} == previous({text}, {history})", (*order, time))


def _gate(out: Emitter, layout: _Layout, logs: Sequence[Operand], alike: Sequence[Value], *, each: bool = False) -> str:
    """The sum of log gates, minus infinity where a document starts: [heads] where all are constant (unless `each`)."""
    if not logs and not alike:
        return "None"
    full = (*layout.lead, layout.time, *layout.heads)
    constant = not alike and not each and not any({layout.time, *layout.lead} & set(op.axes) for op in logs)
    axes = layout.heads if constant else full
    have = {axis for value in (*(op.value for op in logs), *alike) for axis in value.axes}
    inner = tuple(axis for axis in axes if axis in have)
    text = " + ".join(out.full(op.value, inner) for op in logs) or "torch.zeros((), device=device, dtype=dtype)"
    value = out.new(text, inner if logs else ())
    if alike:
        conditions = " & ".join(out.full(one, inner) for one in alike)
        sums = out.full(value, inner) if logs else value.text
        value = out.new(f"torch.where({conditions}, {sums}, -torch.inf)", inner)
    if not constant:
        return layout.numbers(value)
    sizes = ", ".join(out.sizes[axis] for axis in layout.heads) or "1"
    return f"({out.full(value, layout.heads)}).expand({sizes}).reshape({_count(out.sizes, layout.heads)})"


def _back(out: Emitter, ops: Operands, found: Roles, lead: tuple[str, ...], heads: tuple[str, ...]) -> tuple[str, str]:
    """Statements that give `y` and `final` their axes again; the texts of the final state and of the result."""
    problem, sizes = ops.problem, out.sizes
    order = (*found.batch, *found.inner, *found.outer)
    if found.rows:
        own = _count(sizes, heads[: len(heads) - len(found.rows)])
        out.lines.append(f"final = final.unflatten(1, ({own}, {_count(sizes, found.rows)})).select(2, 0)")
    out.lines.append(f"final = final.reshape(({', '.join(sizes[axis] for axis in order)},))")
    axes = (*lead, problem.time, *heads, *found.outer)
    out.lines.append(f"y = y.reshape(({', '.join(sizes[axis] for axis in axes)},))")
    result = out.full(Value("y", axes), problem.axes)
    if backwards(ops):
        result += f".flip({problem.axes.index(problem.time)})"
    return out.full(Value("final", order), problem.state), result


def _count(sizes: Mapping[str, str], axes: Sequence[str]) -> str:
    texts = [sizes[axis] for axis in axes]
    if all(text.isdigit() for text in texts):
        return str(prod(int(text) for text in texts))
    return " * ".join(texts)
