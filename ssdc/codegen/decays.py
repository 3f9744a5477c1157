"""Text of a mask's decays: within a chunk, from each writer to the chunk's end, from the chunk's start to each reader.

Log gates are summed in float64 and exponentiated as differences; plain gates (of any sign) are multiplied up; documents
cut both. Every decay has the gates' atoms in front, of size one where none varies, then the chunk, then places within
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssdc.codegen.emit import Emitter
from ssdc.codegen.operands import Operand, Operands

Cut = Callable[[str, str], str]
"""The text that cuts the last dimension (time) of an expression into places; the second argument says how it is
padded."""
ZEROS, EDGE, ONES = "", ", edge=True", ", value=1.0"


@dataclass(frozen=True)
class Decays:
    """Values of one layout: running log sums at each place (`total`), at readers (`row`), plain factors, documents.

    `lead` are the axes in front of the places.
    """

    lead: tuple[str, ...]
    total: str | None
    row: str | None
    plain: str | None
    exclusive: str | None
    documents: tuple[str, ...]
    varying: bool


def gathered(
    out: Emitter, operands: Sequence[Operand], axes: tuple[str, ...], operator: str, wrap: str, time: str, length: str
) -> str | None:
    """Several gates combined into one variable over `axes`, each wrapped in a call; time is there in full where it is
    there."""
    if not operands:
        return None
    texts = []
    for operand in operands:
        text = out.full(operand.value, axes)
        texts.append(f"{wrap}({text})" if wrap else text)
    made = out.new(f" {operator} ".join(texts), axes).text
    if time in axes and not any(time in operand.axes for operand in operands):
        made = out.new(f"{made}.expand(*{made}.shape[:-1], {length})", axes).text
    return made


def prepare(
    out: Emitter,
    ops: Operands,
    cut: Cut,
    cut_rows: Cut | None,
    count: str,
    chunk_axis: tuple[str, ...],
    length: str = "length",
) -> Decays:
    """The gates cut into places. `cut_rows` cuts readers where they are fewer than writers (windows); `count` is the
    number of places of writers, which constant gates need, and `length` the number of positions that are cut."""
    problem = ops.problem
    gated = (*ops.logs, *ops.exclusive_logs, *ops.plain, *ops.exclusive_plain)
    timed = any(problem.time in operand.axes for operand in gated)
    axes = (*problem.gates, problem.time) if timed else problem.gates
    lead = (*problem.gates, *chunk_axis) if timed or ops.documents else problem.gates
    total = row = plain = exclusive = None
    logs = gathered(out, ops.logs, axes, "+", "floored", problem.time, length)
    without = gathered(out, ops.exclusive_logs, axes, "+", "floored", problem.time, length)
    if logs or without:
        both = " + ".join(text for text in (logs, without) if text)
        if timed:
            total = out.new(f"sums({cut(both if not (logs and without) else f'({both})', ZEROS)})", lead).text
            row = total if cut_rows is None else out.new(cut_rows(total, ZEROS), lead).text
            if without:
                rows = cut(without, ZEROS)
                row = out.new(f"{row} - {rows if cut_rows is None else cut_rows(rows, ZEROS)}", lead).text
        else:
            total = out.new(f"steady({both}, {count})", problem.gates).text
            row = total if cut_rows is None else out.new(cut_rows(total, ZEROS), problem.gates).text
            if without:
                row = out.new(f"{row} - {without}[..., None]", problem.gates).text
            if ops.documents and not timed:
                total, row = (out.new(f"{text}.unsqueeze(-2)", lead).text for text in (total, row))
    if ops.plain or ops.exclusive_plain:
        plain = gathered(out, ops.plain, axes, "*", "", problem.time, length)
        exclusive = gathered(out, ops.exclusive_plain, axes, "*", "", problem.time, length)
        if plain is None:
            plain = out.new(f"torch.ones_like({exclusive})", axes).text
        still = ".unsqueeze(-2)" if ops.documents else ""
        spread = cut if timed else (lambda text, _: f"{text}.unsqueeze(-1).expand(*{text}.shape, {count}){still}")
        plain = out.new(spread(plain, ONES), lead).text
        exclusive = out.new(spread(exclusive, ONES), lead).text if exclusive else None
    documents = []
    for operand in ops.documents:
        text = out.full(operand.value, (*problem.gates, problem.time))
        documents.append(out.new(cut(text, EDGE), lead).text)
    return Decays(lead, total, row, plain, exclusive, tuple(documents), timed or bool(ops.documents))


def same(row: str, column: str) -> str:
    """Whether documents agree, [.., row, column]."""
    return f"({row}.unsqueeze(-1) == {column}.unsqueeze(-2))"
