"""Recurrent: the writers as keys and values, the readers as queries, and one streaming primitive."""

from __future__ import annotations

from collections.abc import Sequence

from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.gates import reader_gate, transition
from ssdc.codegen.kernel import Kernel, backwards, framed
from ssdc.codegen.operands import Operands
from ssdc.codegen.orders import blocks
from ssdc.plan.roles import roles


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction evaluated position by position."""
    if ops.mask.width is not None:
        return blocks.kernel(ops, name, title, sizes)
    problem, terms = ops.problem, ops.choice.chosen.terms
    time, found = problem.time, roles(problem)
    out = Emitter({**sizes, time: "length"})
    values = {op.text: op.value for op in (*ops.readers, *ops.writers)} | {"one": Value("one", ())}
    for part, axes, groups in (
        ("query", found.query, (found.rows, found.inner)),
        ("key", found.key, (found.inner,)),
        ("value", found.value, (found.outer,)),
    ):
        value = out.path(terms[part], values, axes)
        _grouped(out, value, time, found.batch, groups, part)
    gate_inner = tuple(axis for axis in found.inner if axis in problem.gates)
    gate_axes = (time, *found.batch, *gate_inner)
    gate = transition(out, ops, gate_axes)
    inclusive = reader_gate(out, ops, gate_axes) if problem.mask.strict else None
    for label, one in (("gate", gate), ("reader_gate", inclusive)):
        if one is None:
            units = ", ".join("1" for _ in (time, *found.batch, 0))
            text = "None" if label == "reader_gate" and not problem.mask.strict else f"query.new_ones({units})"
            out.lines.append(f"{label} = {text}")
        elif len(found.inner) == len(gate_inner) == 1:
            out.lines.append(f"{label} = {one.text}")
        elif gate_inner:
            spread = Value(one.text, gate_axes)
            full = (
                out.expanded(spread, (time, *found.batch, *found.inner))
                if set(found.inner) - set(gate_inner)
                else spread
            )
            count = len(found.inner)
            counts = ", ".join(["-1"] * (1 + len(found.batch)) + [out.sizes[axis] for axis in found.inner])
            out.lines.append(
                f"{label} = {full.text}.expand({counts}).flatten({1 + len(found.batch)}, {len(found.batch) + count})"
            )
        else:
            out.lines.append(f"{label} = {one.text}.unsqueeze(-1)")
    prepare = tuple(out.lines)
    out.lines.clear()
    order = (*found.batch, *found.inner, *found.outer)
    back = Value("final", order)
    shape = ", ".join(sizes[axis] for axis in order)
    out.lines.append(f"final = final.reshape(({shape}))")
    final = out.full(back, problem.state)
    y_axes = (time, *found.batch, *found.rows, *found.outer)
    shape = ", ".join("length" if axis == time else sizes[axis] for axis in y_axes)
    out.lines.append(f"y = y.reshape({shape})")
    result = out.full(Value("y", y_axes), problem.axes)
    if backwards(ops):
        result += f".flip({problem.axes.index(time)})"
    initial = out.full(Value("state", problem.state), order)
    canonical = [*(sizes[axis] for axis in found.batch), _count(sizes, found.inner), _count(sizes, found.outer)]
    return framed(
        ops,
        "recurrent",
        name,
        title,
        sizes,
        {"prepare": prepare, "back": tuple(out.lines)},
        result=result,
        final=final,
        strict=problem.mask.strict,
        initial=f"{initial}.reshape({', '.join(canonical)})",
    )


def _count(sizes: dict[str, str], axes: Sequence[str]) -> str:
    return " * ".join(sizes[axis] for axis in axes) or "1"


def _grouped(
    out: Emitter, value: Value, time: str, batch: Sequence[str], groups: Sequence[Sequence[str]], name: str
) -> None:
    """A value as [time, *batch, *one dimension a group]; batch dimensions that it lacks have size one."""
    inner = tuple(axis for group in groups for axis in group)
    axes = (time, *batch, *inner)
    lacking = [axis for axis in inner if axis not in value.axes]
    if time not in value.axes:
        lacking.append(time)
    text = out.full(value, axes)
    if (lacking and any(len(group) > 0 for group in groups)) or time in lacking:
        sizes = ", ".join(out.sizes[axis] if axis in lacking else "-1" for axis in axes)
        text = f"{text}.expand({sizes})"
    place = 1 + len(batch)
    for group in groups:
        if not group:
            text += f".unsqueeze({place})"
        elif len(group) > 1:
            text += f".flatten({place}, {place + len(group) - 1})"
        place += 1
    out.lines.append(f"{name} = {text}")
