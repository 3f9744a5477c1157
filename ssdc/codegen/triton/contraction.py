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
from ssdc.codegen.triton.maps import Chain, encoded
from ssdc.plan.asked import KERNEL_FORMS
from ssdc.plan.candidate import Cause, Refusal
from ssdc.plan.hardware import CPU
from ssdc.plan.roles import Roles, roles
from ssdc.plan.search import search

LEAST, MOST_STATES, MOST_COLUMNS = 4, 256, 1024
"""Sizes of a head that the kernels are made for: states and value columns at least, states at most, columns at most."""
WALKED = 128
"""States that the forms `walk` and `segments` keep in registers, at most."""


def refusal(ops: Operands) -> Refusal | None:
    """Why the Triton kernels do not serve a contraction; None where they do."""
    if ops.mask.width is not None or ops.mask.kernels:
        return _no("its mask is not a recurrence", "width")
    order = ops.choice.chosen.order
    if ops.choice.form == "order" and order not in ("chunked", "recurrent"):
        return _no(f"its order is fixed to {order}", "equation")
    return unfit(ops)


def unfit(ops: Operands) -> Refusal | None:
    """What keeps a contraction from query, key and value with one gate a head, whatever its order; None where nothing
    does."""
    problem, mask = ops.problem, ops.mask
    if ops.choice.form == "torch":
        return _no("PyTorch is asked for, by form= or by chunk=", "equation")
    if mask.direction == "both":
        return _no("its mask is not causal, forwards or backwards", "mask")
    if not problem.logarithmic:
        return _no("its gates are plain factors, not logarithms", "plain")
    if ops.exclusive_logs and not mask.strict:
        return _no("its reader leaves out a gate but reads its own position", "mask")
    if any(ops.graph.nodes[op.node].kind != "real" for op in (*ops.readers, *ops.writers)):
        return _no("its operands are not real", "equation")
    found = roles(problem)
    if set(problem.gates) - set(found.batch):
        return _no("its gates vary along states or value columns", "gates")
    if not found.inner or not found.outer:
        return _no("it has no state axis that readers and writers share, beside value columns", "equation")
    known = ops.graph.sizes
    axes = (*heads_of(ops, found), *found.inner, *found.outer)
    if any(known.get(axis) is None and "+" not in axis for axis in axes):
        return _no("the size of a head is known at calls only", "equation")
    sizes = problem.sizes
    states, columns = prod(sizes[axis] for axis in found.inner), prod(sizes[axis] for axis in found.outer)
    if not LEAST <= states <= MOST_STATES or not LEAST <= columns <= MOST_COLUMNS:
        return _no(f"a head has {states} states and {columns} value columns", "equation")
    if ops.choice.form in ("walk", "segments") and states > WALKED:
        return _no(f"a head has {states} states, and {ops.choice.form} keeps at most {WALKED} in registers", "equation")
    return None


def _no(reason: str, cause: Cause) -> Refusal:
    return Refusal("triton", reason, cause)


def form_of(ops: Operands) -> str:
    """The form that kernels are to have: as asked for, or of an order that was; empty where the cost model chooses."""
    choice = ops.choice
    if choice.form in KERNEL_FORMS:
        return choice.form
    return "recurrent" if choice.form == "order" and choice.chosen.order == "recurrent" else ""


def lead_of(ops: Operands, found: Roles) -> tuple[str, ...]:
    """The batch axis that calls decide, in front of all others."""
    return tuple(axis for axis in found.batch[:1] if ops.graph.sizes.get(axis) is None)


def heads_of(ops: Operands, found: Roles) -> tuple[str, ...]:
    """The axes that make up the heads, rows last."""
    return (*found.batch[len(lead_of(ops, found)) :], *found.rows)


def scales(ops: Operands) -> list[Operand]:
    """The writers that are one number a position and head."""
    found = roles(ops.problem)
    flat = {*found.batch, ops.problem.time}
    return [op for op in ops.writers if (op.text, op.axes) in found.key_operands and set(op.axes) <= flat]


def values_of(ops: Operands) -> list[Operand]:
    """The writers whose product is the value."""
    names = {name for name, _ in roles(ops.problem).value_operands}
    return [op for op in ops.writers if op.text in names]


def result_axes(ops: Operands) -> tuple[str, ...]:
    """The axes of the result: those of the contraction, a norm's columns in place of the stack's."""
    if not ops.columns:
        return ops.problem.axes
    (stacked,) = roles(ops.problem).outer
    return tuple(one for axis in ops.problem.axes for one in (ops.columns if axis == stacked else (axis,)))


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction, for `refusal(ops) is None`."""
    problem, found = ops.problem, roles(ops.problem)
    time, lead, heads = problem.time, lead_of(ops, found), heads_of(ops, found)
    sizes = {**sizes, time: "length"}
    out = Emitter(sizes)
    layout = _Layout(out, lead, time, heads)
    factors = scales(ops)
    keys = [op for op in ops.writers if (op.text, op.axes) in found.key_operands and op not in factors]
    columns, outer = values_of(ops), ops.columns or found.outer
    for label, operands, tail in (
        ("query", ops.readers, found.inner),
        ("key", keys, found.inner),
        ("value", columns, outer),
    ):
        value = _product(out, ops, operands, (*lead, time, *heads, *tail))
        out.lines.append(f"{label} = {layout.tensor(value, tail)}.to(element)")
    maps = encoded(tuple(chain_of(ops, operands) for operands in (ops.readers, keys, columns)), ops.norm)
    if factors:
        value = _product(out, ops, factors, (*lead, time, *heads))
        out.lines.append(f"scale = {layout.numbers(value)}")
    prepare = tuple(out.lines)
    out.lines.clear()
    own = _gates(out, ops, layout)
    gates = tuple(out.lines)
    out.lines.clear()
    final = _final(out, ops, found, heads)
    last = tuple(out.lines)
    out.lines.clear()
    result = _result(out, ops, found, lead, heads)
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
        {"prepare": prepare, "gates": gates, "final": last, "back": tuple(out.lines)},
        initial=initial,
        own=own,
        scale="scale" if factors else "None",
        skip=f", skip={_skip(out, ops, heads, found.outer)}" if ops.skip else "",
        maps=f', maps="{maps}"' if maps else "",
        form=f', form="{form}"' if (form := form_of(ops)) else "",
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


def chain_of(ops: Operands, operands: Sequence[Operand]) -> Chain:
    """The function that kernels apply to an operand."""
    return ops.maps.get(operands[0].text, ()) if len(operands) == 1 else ()


def _skip(out: Emitter, ops: Operands, heads: tuple[str, ...], outer: tuple[str, ...]) -> str:
    """The factor of the values that outputs add: [heads], or [heads, columns] where it varies with them."""
    (factor,) = ops.skip
    axes = (*heads, *outer) if set(factor.axes) & set(outer) else heads
    sizes = ", ".join(out.sizes[axis] for axis in axes) or "1"
    shape = _count(out.sizes, heads) + (f", {_count(out.sizes, outer)}" if axes != heads else "")
    text = out.full(factor.value, axes)
    if set(axes) != set(factor.axes) or not axes:
        text += f".expand({sizes})"
    return f"{text}.reshape({shape})" if len(axes) != 1 + (axes != heads) else text


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


def _final(out: Emitter, ops: Operands, found: Roles, heads: tuple[str, ...]) -> str:
    """Statements that give `final` its axes again; the text of the final state."""
    sizes = out.sizes
    order = (*found.batch, *found.inner, *found.outer)
    if found.rows:
        own = _count(sizes, heads[: len(heads) - len(found.rows)])
        out.lines.append(f"final = final.unflatten(1, ({own}, {_count(sizes, found.rows)})).select(2, 0)")
    out.lines.append(f"final = final.reshape(({', '.join(sizes[axis] for axis in order)},))")
    return out.full(Value("final", order), ops.problem.state)


def _result(out: Emitter, ops: Operands, found: Roles, lead: tuple[str, ...], heads: tuple[str, ...]) -> str:
    """Statements that give `y` its axes again; the text of the result."""
    problem, sizes = ops.problem, out.sizes
    axes = (*lead, problem.time, *heads, *(ops.columns or found.outer))
    out.lines.append(f"y = y.reshape(({', '.join(sizes[axis] for axis in axes)},))")
    result = out.full(Value("y", axes), result_axes(ops))
    if backwards(ops):
        result += f".flip({problem.axes.index(problem.time)})"
    return result


def _count(sizes: Mapping[str, str], axes: Sequence[str]) -> str:
    texts = [sizes[axis] for axis in axes]
    if all(text.isdigit() for text in texts):
        return str(prod(int(text) for text in texts))
    return " * ".join(texts)
