"""Quadratic, chunked, and windows: the block terms of `ssdc.plan.orders.blocks` as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ssdc.codegen.decays import Decays, prepare, same
from ssdc.codegen.emit import Emitter, Value
from ssdc.codegen.kernel import Kernel, backwards, framed
from ssdc.codegen.operands import Operand, Operands
from ssdc.plan.problem import BLOCK, CHUNK, COLUMN, ROW, SUB, WITHIN

Section = Callable[[str], None]
"""Closes a section of statements under a name."""


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction in chunks, or over all of time at once."""
    candidate, problem = ops.choice.chosen, ops.problem
    window = ops.mask.width
    inside = problem.inside and window is None
    size = f"-(-length // {SUB}) * {SUB}" if inside and not candidate.chunk else str(candidate.chunk or "length")
    out = Emitter(sizes)
    sections: dict[str, tuple[str, ...]] = {}

    def section(title: str) -> None:
        sections[title] = tuple(out.lines)
        out.lines.clear()

    if window is not None:
        y = _window(out, ops, section)
    elif inside:
        y = _inside(out, ops, section)
    else:
        y = _plain(out, ops, section)
    if backwards(ops):
        y = out.new(f"{y.text}.flip({y.dim(problem.time)})", y.axes)
    section("result")
    return framed(
        ops,
        "window" if window is not None else "blocks",
        name,
        title,
        sizes,
        sections,
        size=size,
        inside=inside,
        result=y.text,
        whole=not candidate.chunk,
        before=(window or 1) - 1,
    )


def cut_operand(out: Emitter, op: Operand, time: str, places: tuple[str, ...], call: str) -> Value:
    """A timed operand cut along time by a call such as `chunk({}, {}, size)`."""
    if time not in op.axes:
        return op.value
    axes = tuple(new for axis in op.axes for new in (places if axis == time else (axis,)))
    return out.new(call.format(op.text, op.axes.index(time)), axes)


def _first_dim(axes: tuple[str, ...], place: str) -> int:
    return axes.index(place)


def _back(out: Emitter, y: Value, places: tuple[str, ...], time: str) -> Value:
    """Places put together to time again."""
    first = _first_dim(y.axes, places[0])
    axes = tuple(time if axis == places[0] else axis for axis in y.axes if axis not in places[1:])
    return out.new(f"merge({y.text}, {first}, {len(places)}, length)", axes)


def _plain(out: Emitter, ops: Operands, section: Section) -> Value:
    problem, terms = ops.problem, ops.choice.chosen.terms
    time = problem.time
    values = {op.text: cut_operand(out, op, time, (CHUNK, ROW), "chunk({}, {}, size)") for op in ops.readers}
    values |= {op.text: cut_operand(out, op, time, (CHUNK, COLUMN), "chunk({}, {}, size)") for op in ops.writers}
    decays = prepare(out, ops, _cut, None, "size", (CHUNK,))
    section("cut")
    values |= _within(out, ops, decays)
    section("mask")
    y = out.path(terms["diagonal"], values, problem.out(CHUNK, ROW))
    section("diagonal")
    _carry(out, ops, decays, values, section)
    read = out.path(terms["read"], values, problem.out(CHUNK, ROW))
    out.lines.append(f"{y.text} = {out.full(y, problem.out(CHUNK, ROW))} + {out.full(read, problem.out(CHUNK, ROW))}")
    section("read")
    return _back(out, Value(y.text, problem.out(CHUNK, ROW)), (CHUNK, ROW), time)


def _cut(text: str, padding: str) -> str:
    return f"chunk({text}, -1, size{padding})"


def _within(out: Emitter, ops: Operands, decays: Decays) -> dict[str, Value]:
    """The diagonal block of the mask, [gates, (chunk), row, column]."""
    values: dict[str, Value] = {}
    first = int(ops.mask.strict)
    out.lines.append(f"keep = lags(size, size, device) >= {first}")
    for text in decays.documents:
        out.lines.append(f"keep = keep & {same(text, text)}")
    axes = (*decays.lead, ROW, COLUMN)
    if decays.total:
        value = out.new(f"segment({decays.row}, {decays.total}, keep, dtype)", axes)
        if decays.plain:
            value = out.new(f"{value.text} * products({decays.plain}, {decays.exclusive}, keep)", axes)
    elif decays.plain:
        value = out.new(f"products({decays.plain}, {decays.exclusive}, keep)", axes)
    else:
        lead = decays.lead if decays.documents else ()
        value = out.new("keep.to(dtype)", (*lead, ROW, COLUMN))
        value = Value(out.full(value, axes), axes)
    values["L"] = value
    return values


def _carry(
    out: Emitter, ops: Operands, decays: Decays, values: dict[str, Value], section: Section, inside: bool = False
) -> None:
    """What each chunk leaves, the states that enter each chunk, and the decays at its borders."""
    problem, terms = ops.problem, ops.choice.chosen.terms
    gates = problem.gates
    leave, enter, across = _borders(out, ops, decays, inside)
    if leave:
        values["E"] = Value(leave, (*gates, CHUNK, COLUMN))
    section("leave")
    state_axes = (CHUNK, *problem.state)
    update = out.path(terms["write"], values, state_axes)
    out.lines.append(f"update = {out.expanded(update, state_axes).text}")
    section("write")
    if across:
        value = Value(across, (*gates, CHUNK))
        out.lines.append(f"states = linear_scan({out.full(value, state_axes)}, update, state)")
    else:
        out.lines.append("states = running_sum(update, state)")
    section("carry")
    values["S"] = Value("entering", state_axes)
    if enter:
        axes = (*gates, CHUNK, BLOCK, ROW) if inside else (*gates, *((CHUNK,) if problem.varying else ()), ROW)
        values["F"] = Value(enter, axes)
    section("enter")


def _borders(out: Emitter, ops: Operands, decays: Decays, inside: bool) -> tuple[str | None, str | None, str | None]:
    """Texts of the decays to a chunk's end, from its start to each reader, and over the whole chunk."""
    leave: list[str] = []
    enter: list[str] = []
    across: list[str] = []
    timed = any(
        ops.problem.time in op.axes for op in (*ops.logs, *ops.exclusive_logs, *ops.plain, *ops.exclusive_plain)
    )
    if not timed and (decays.total or decays.plain):  # a chunk that ends early has fewer gates
        out.lines.append(
            "counts = (length - torch.arange((length + size - 1) // size, device=device) * size).clamp(max=size)"
        )
        out.lines.append("steps = (counts[:, None] - 1 - torch.arange(size, device=device)).clamp(min=0)")
    first, alone = ("[..., :1]", "[..., 0]") if decays.varying else ("[..., :1].unsqueeze(-1)", "[..., :1]")
    if decays.total:
        enter.append(f"decay({decays.row}, dtype)")
        if timed:
            leave.append(f"decay({decays.total}[..., -1:] - {decays.total}, dtype)")
            across.append(f"decay({decays.total}[..., -1], dtype)")
        else:
            leave.append(f"decay({decays.total}{first} * steps, dtype)")
            across.append(f"decay({decays.total}{alone} * counts, dtype)")
    if decays.plain:
        full = decays.plain if decays.exclusive is None else f"({decays.plain} * {decays.exclusive})"
        enter.append(f"enter_products({decays.plain}, {decays.exclusive})")
        leave.append(f"leave_products({full})" if timed else f"{full}{first} ** steps")
        across.append(f"{full}.prod(-1)" if timed else f"{full}{alone} ** counts")
    for op, text in zip(ops.documents, decays.documents, strict=True):
        before = out.new(f"previous({text}[..., -1], {_history(out, ops, op)})[..., None]", ()).text
        leave.append(f"({text} == {text}[..., -1:])")
        enter.append(f"({text} == {before})")
        across.append(f"({before} == {text}[..., -1:])[..., 0]")
    if not leave:
        return None, None, None
    made = [" * ".join(one) for one in (leave, enter, across)]
    if not (decays.total or decays.plain):
        made = [f"({text}).to(dtype)" for text in made]
    if inside:
        made[1] = f"({made[1]}).unflatten(-1, (-1, {SUB}))"
    names = [out.new(text, ()).text for text in made]
    return names[0], names[1], names[2]


def _history(out: Emitter, ops: Operands, op: Operand) -> str:
    """The history of a documents operand, aligned; None in the text where there is none."""
    time = ops.problem.time
    value = Value(f"h_{op.text}", op.axes)
    aligned = out.full(value, (*ops.problem.gates, time))
    return f"None if h_{op.text} is None else {aligned}"


def _inside(out: Emitter, ops: Operands, section: Section) -> Value:
    """Gates within the score product: blocks of 16 rows, each with its anchor."""
    problem, candidate = ops.problem, ops.choice.chosen
    terms, time, gates = candidate.terms, problem.time, problem.gates
    rows = (CHUNK, BLOCK, ROW)
    split = f"chunk({{}}, {{}}, size).unflatten({{}}, (-1, {SUB}))"

    def blocks_of(op: Operand, places: tuple[str, ...]) -> Value:
        if time not in op.axes:
            return op.value
        dim = op.axes.index(time)
        axes = tuple(new for axis in op.axes for new in (places if axis == time else (axis,)))
        return out.new(split.format(op.text, dim, dim + 1), axes)

    ops = _timed_gates(out, ops)
    values = {op.text: blocks_of(op, rows) for op in ops.readers}
    local = dict(values) | {op.text: blocks_of(op, (CHUNK, BLOCK, WITHIN)) for op in ops.writers}
    values |= {op.text: cut_operand(out, op, time, (CHUNK, COLUMN), "chunk({}, {}, size)") for op in ops.writers}
    decays = prepare(out, ops, _cut, None, "size", (CHUNK,))
    section("cut")
    _within_block(out, ops, decays, local)
    section("mask")
    y = out.path(terms["within"], local, problem.out(*rows))
    y = out.new(out.full(y, problem.out(*rows)), problem.out(*rows))
    section("diagonal")
    if "before" in terms:
        _anchors(out, ops, decays, values)
        before = out.path(terms["before"], values, problem.out(*rows))
        out.lines.append(f"{y.text} = {y.text} + {out.full(before, y.axes)}")
    section("before")
    _carry(out, ops, decays, values, section, inside=True)
    read = out.path(terms["read"], values, problem.out(*rows))
    out.lines.append(f"{y.text} = {y.text} + {out.full(read, y.axes)}")
    section("read")
    del gates
    return _back(out, y, rows, time)


def _timed_gates(out: Emitter, ops: Operands) -> Operands:
    """The operands with every constant gate repeated over time, so that all decays vary."""
    time = ops.problem.time

    def over_time(found: tuple[Operand, ...]) -> tuple[Operand, ...]:
        made = []
        for op in found:
            if time not in op.axes:
                out.lines.append(f"{op.text} = {op.text}.unsqueeze(-1).expand(*{op.text}.shape, length)")
                op = Operand(op.text, op.node, (*op.axes, time))
            made.append(op)
        return tuple(made)

    return replace(
        ops,
        logs=over_time(ops.logs),
        exclusive_logs=over_time(ops.exclusive_logs),
        plain=over_time(ops.plain),
        exclusive_plain=over_time(ops.exclusive_plain),
    )


def _within_block(out: Emitter, ops: Operands, decays: Decays, values: dict[str, Value]) -> None:
    """The mask within each block of 16, from sums that start at the block."""
    axes = (*ops.problem.gates, CHUNK, BLOCK, ROW, WITHIN)
    out.lines.append(f"near = lags({SUB}, {SUB}, device) >= {int(ops.mask.strict)}")
    for text in decays.documents:
        cut = out.new(f"{text}.unflatten(-1, (-1, {SUB}))", ()).text
        out.lines.append(f"near = near & {same(cut, cut)}")
    parts: list[str] = []
    if decays.total:
        base = out.new(f"anchors({decays.total}, {SUB}).unsqueeze(-1)", ()).text
        total = out.new(f"{decays.total}.unflatten(-1, (-1, {SUB})) - {base}", ()).text
        row = total
        if decays.row != decays.total:
            row = out.new(f"{decays.row}.unflatten(-1, (-1, {SUB})) - {base}", ()).text
        parts.append(f"segment({row}, {total}, near, dtype)")
    if decays.plain:
        cuts = [f"{text}.unflatten(-1, (-1, {SUB}))" if text else "None" for text in (decays.plain, decays.exclusive)]
        parts.append(f"products({cuts[0]}, {cuts[1]}, near)")
    values["L"] = out.new(" * ".join(parts), axes)


def _anchors(out: Emitter, ops: Operands, decays: Decays, values: dict[str, Value]) -> None:
    """Decays from each writer to the anchor before a later block, and from there to each of the block's readers."""
    gates = ops.problem.gates
    late: list[str] = []
    early: list[str] = []
    out.lines.append(f"starts = torch.arange(size // {SUB}, device=device) * {SUB}")
    out.lines.append("ahead = torch.arange(size, device=device) < starts[:, None]")
    for text in decays.documents:
        at = out.new(f"torch.cat([{text}[..., :1], {text}[..., {SUB - 1}:-1:{SUB}]], -1)", ()).text
        out.lines.append(f"ahead = ahead & {same(at, text)}")
        late.append(f"({text}.unflatten(-1, (-1, {SUB})) == {at}.unsqueeze(-1))")
    if decays.total:
        base = out.new(f"anchors({decays.total}, {SUB})", ()).text
        late.insert(0, f"decay({decays.row}.unflatten(-1, (-1, {SUB})) - {base}.unsqueeze(-1), dtype)")
        early.append(f"segment({base}, {decays.total}, ahead, dtype)")
    if decays.plain:
        cuts = [f"{text}.unflatten(-1, (-1, {SUB}))" if text else "None" for text in (decays.plain, decays.exclusive)]
        late.insert(0, f"enter_products({cuts[0]}, {cuts[1]})")
        full = decays.plain if decays.exclusive is None else f"{decays.plain} * {decays.exclusive}"
        early.append(f"anchor_products({full}, {SUB}) * ahead")
    values["LF"] = out.new(" * ".join(late), (*gates, CHUNK, BLOCK, ROW))
    values["LE"] = out.new(" * ".join(early), (*gates, CHUNK, BLOCK, COLUMN))


def _window(out: Emitter, ops: Operands, section: Section) -> Value:
    """A mask of bounded width: each chunk reads the writers of a window."""
    problem, terms, time = ops.problem, ops.choice.chosen.terms, ops.problem.time
    width = ops.mask.width
    assert width is not None
    before = width - 1
    for op in ops.remembered():
        dim = op.axes.index(time)
        out.lines.append(f"{op.text} = extend({op.text}, {dim}, {before}, h_{op.text})")
    values = {op.text: cut_operand(out, op, time, (CHUNK, ROW), "chunk({}, {}, size)") for op in ops.readers}
    call = f"window({{}}, {{}}, size, {before})"
    values |= {op.text: cut_operand(out, op, time, (CHUNK, COLUMN), call) for op in ops.writers}

    def cut(text: str, padding: str) -> str:
        return f"window({text}, -1, size, {before}{padding})"

    def rows(text: str, padding: str) -> str:
        return f"{text}[..., {before}:]"

    decays = prepare(out, ops, cut, rows, f"(size + {before})", (CHUNK,), f"length + {before}")
    section("cut")
    out.lines.append(f"lag = lags(size, size + {before}, device)")
    for k, (op, found) in enumerate(ops.kernels):
        axes = tuple(axis for axis in op.axes if axis != found.axis)
        kernel_text = out.full(op.value, (*axes, found.axis))
        values[f"K{k}"] = out.new(
            f"by_lag({kernel_text}, lag, {width}, {found.newest_first}, {ops.mask.strict}).to(dtype)",
            (*axes, ROW, COLUMN),
        )
    _window_mask(out, ops, decays, values, before)
    section("mask")
    y = out.path(terms["diagonal"], values, problem.out(CHUNK, ROW))
    y = Value(out.full(y, problem.out(CHUNK, ROW)), problem.out(CHUNK, ROW))
    section("diagonal")
    return _back(out, y, (CHUNK, ROW), time)


def _window_mask(out: Emitter, ops: Operands, decays: Decays, values: dict[str, Value], before: int) -> None:
    problem = ops.problem
    if not (problem.gated or problem.reset or not problem.kernels):
        return
    axes = (*problem.gates, *((CHUNK,) if problem.varying else ()), ROW, COLUMN)
    out.lines.append(f"keep = (lag >= {int(ops.mask.strict)}) & (lag <= {before})")
    for text in decays.documents:
        out.lines.append(f"keep = keep & {same(f'{text}[..., {before}:]', text)}")
    parts: list[str] = []
    if decays.total:
        parts.append(f"segment({decays.row}, {decays.total}, keep, dtype)")
    if decays.plain:
        cuts = [text if text else "None" for text in (decays.plain, decays.exclusive)]
        seen = f"lags(size + {before}, size + {before}, device) >= 0"
        parts.append(f"products({cuts[0]}, {cuts[1]}, {seen})[..., {before}:, :] * keep")
    made = out.new(
        " * ".join(parts) if parts else "keep.to(dtype)", axes if parts or decays.documents else (ROW, COLUMN)
    )
    values["L"] = Value(out.full(made, axes), axes)
