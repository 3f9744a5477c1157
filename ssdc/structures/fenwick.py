"""`fenwick(lam[b,t,h,l])`: M[t,s] = lam[t, level(t,s)] for s <= t; log-linear attention (Guo 2025).

level(t,s) is the bit length of t XOR s: 0 on the diagonal, and otherwise at which power of two they part.

>>> [entry(5, s, [10, 11, 12, 13]) for s in range(7)]
[13, 13, 13, 13, 11, 10, 0]
"""

from __future__ import annotations

from collections.abc import Sequence

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import axis_name, bad_form, check_flags, direction_of, one_tensor, reads_writer
from ssdc.structures.walk import reads
from ssdc.syntax import ast

FORM = "fenwick(lam[b,t,h,l])"
MISSING = "a state a level, merged as in a Fenwick tree, is kept by no ordering yet"


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """A tensor over the reader position whose last axis is the level; may run in reverse."""
    tensor = one_tensor(structure, scope, FORM)
    check_flags(structure, scope, ("reverse",))
    direction = direction_of(structure)
    if tensor is None or reads_writer(structure, tensor, scope):
        return Facts(direction, missing=MISSING)
    if not reads(tensor, (scope.reader,)) or axis_name(tensor.indices[-1], scope) is None:
        bad_form(structure, tensor, scope, f"a tensor over '{scope.reader}' whose last index is the level", FORM)
        return Facts(direction, missing=MISSING)
    return Facts(direction, tables=(tensor,), missing=MISSING)


def entry(t: int, s: int, lam: Sequence[float]) -> float:
    """M[t,s] for the weights of reader t, one a level."""
    return lam[(t ^ s).bit_length()] if s <= t else 0
