"""`decay(gamma[h])`: M[t,s] = gamma^(t-s) for s <= t, in reverse gamma^(s-t) for s >= t.

The mask of retention (Sun 2023, eq. 5).

>>> [entry(2, s, 0.5) for s in range(4)]
[0.25, 0.5, 1.0, 0.0]
"""

from __future__ import annotations

from ssdc.errors import DecayVaries
from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, direction_of, one_argument, reads_writer
from ssdc.structures.loggate import gate_of
from ssdc.structures.walk import reads
from ssdc.syntax import ast


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """One gate, constant in time; may run in reverse."""
    gate = one_argument(structure, scope, "decay(gamma[h])")
    check_flags(structure, scope, ("reverse",))
    direction = direction_of(structure)
    if gate is None or reads_writer(structure, gate, scope):
        return Facts(direction)
    if reads(gate, (scope.reader,)):
        scope.report(DecayVaries(gate.span, reader=scope.reader))
    return Facts(direction, gates=(gate_of(gate, scope),))


def entry(t: int, s: int, gamma: float) -> float:
    """M[t,s]."""
    return gamma ** (t - s) if s <= t else 0.0
