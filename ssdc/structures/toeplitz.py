"""`toeplitz(k[c,j])`: M[t,s] = k[c, t-s] for 0 <= t - s < J, the kernel in lag order; in reverse with s - t.

>>> [entry(2, s, [7, 8, 9]) for s in range(4)]
[9, 8, 7, 0]
"""

from __future__ import annotations

from collections.abc import Sequence

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, direction_of
from ssdc.structures.kernel import kernel_of
from ssdc.syntax import ast


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """A tensor whose last axis is the lag; may run in reverse."""
    kernels = kernel_of(structure, scope, "toeplitz(k[c,j])", newest_first=True)
    check_flags(structure, scope, ("reverse",))
    return Facts(direction_of(structure), kernels=kernels)


def entry(t: int, s: int, k: Sequence[float]) -> float:
    """M[t,s]."""
    return k[t - s] if 0 <= t - s < len(k) else 0
