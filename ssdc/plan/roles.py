"""The roles that a contraction's axes and operands play in a recurrence: batch, state (summed by the reader), value.

A contraction y[.., t, m, p] = q[.., t, m, n] h[.., n, p] with h = a h + k[.., t, n] v[.., t, p] needs its writers as
one key and one value. Axes that only the writers and the result have are value axes (p), axes that the result lacks are
state axes (n), axes that only the readers and the result have are rows (m), and all others are batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssdc.plan.problem import Problem
from ssdc.plan.search import Operands


@dataclass(frozen=True)
class Roles:
    """Axes by role, and the operands of query [t, batch, rows, inner], key [t, batch, inner], value [t, batch,
    outer]."""

    batch: tuple[str, ...]
    rows: tuple[str, ...]
    inner: tuple[str, ...]
    outer: tuple[str, ...]
    query: tuple[str, ...]
    key: tuple[str, ...]
    value: tuple[str, ...]
    query_operands: Operands
    key_operands: Operands
    value_operands: Operands


def roles(problem: Problem) -> Roles:
    """The roles of a problem's axes; a writer that mixes state and value axes makes its value axes batch."""
    read = {axis for _, axes in problem.readers for axis in axes}
    gates = set(problem.gates)
    inner = tuple(axis for axis in problem.state if axis not in problem.axes)
    outer = {axis for axis in problem.state if axis in problem.axes and axis not in read | gates}
    dropped = {a for _, axes in problem.writers for a in axes} - set(problem.state) - {problem.time}
    for _, axes in problem.writers:
        if set(axes) & outer and set(axes) & (set(inner) | dropped):
            outer -= set(axes)
    values = tuple((name, axes) for name, axes in problem.writers if set(axes) & outer)
    keys = tuple((name, axes) for name, axes in problem.writers if (name, axes) not in values)
    batch = tuple(axis for axis in problem.state if axis not in inner and axis not in outer)
    rows = tuple(axis for axis in problem.axes if axis != problem.time and axis not in problem.state)
    ordered_outer = tuple(axis for axis in problem.state if axis in outer)

    def over(operands: Operands, *axes: str) -> tuple[str, ...]:
        have = {axis for _, found in operands for axis in found}
        return tuple(axis for axis in (problem.time, *batch, *axes) if axis in have)

    return Roles(
        batch,
        rows,
        inner,
        ordered_outer,
        over(problem.readers, *rows, *inner),
        over(keys, *inner),
        over(values, *ordered_outer),
        problem.readers,
        keys,
        values,
    )
