"""`semiseparable(a[b,t,h])`: the 1-semiseparable mask, M[t,s] = a[s+1] ... a[t] for s <= t (Dao and Gu 2024, eq. 6).

`strict` leaves out the reader's own gate and the diagonal: a[s+1] ... a[t-1] for s < t, the form of RWKV (Peng 2024).
`reverse` is what the same gives on the reversed sequence: a[t] ... a[s-1] for s >= t; with `strict`, a[t+1] ... a[s-1]
for s > t. Further axes of the gate become axes of the mask, a state axis among them makes it a diagonal SSM.

>>> [entry(3, s, [9, 2, 3, 5]) for s in range(4)], [entry(3, s, [9, 2, 3, 5], strict=True) for s in range(4)]
([30, 15, 5, 1], [6, 3, 1, 0])
>>> [entry(0, s, [9, 2, 3, 5], reverse=True) for s in range(4)]
[1, 9, 18, 54]
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, direction_of, one_argument, reads_writer
from ssdc.structures.loggate import gate_of
from ssdc.syntax import ast


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """One gate, taken at every position on the way from writer to reader; may be strict and run in reverse."""
    gate = one_argument(structure, scope, "semiseparable(a[b,t,h])")
    check_flags(structure, scope, ("strict", "reverse"))
    direction, strict = direction_of(structure), "strict" in structure.flags
    if gate is None or reads_writer(structure, gate, scope):
        return Facts(direction, strict)
    return Facts(direction, strict, gates=(gate_of(gate, scope, exclusive=strict),))


def entry(t: int, s: int, a: Sequence[float], strict: bool = False, reverse: bool = False) -> float:
    """M[t,s] for gates a[0..T-1]."""
    if reverse:
        last = len(a) - 1
        return entry(last - t, last - s, a[::-1], strict)
    if s > t or (strict and s == t):
        return 0
    return prod(a[s + 1 : t if strict else t + 1])
