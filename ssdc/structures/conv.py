"""`conv(w[c,j])`: M[t,s] = w[c, J-1-(t-s)] for 0 <= t - s < J, the kernel in torch.nn.Conv1d's order.

In reverse the same with s - t.

>>> [entry(2, s, [7, 8, 9]) for s in range(4)]
[7, 8, 9, 0]
"""

from __future__ import annotations

from collections.abc import Sequence

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, direction_of
from ssdc.structures.kernel import kernel_of
from ssdc.syntax import ast


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """A tensor whose last axis is the lag, oldest first; may run in reverse."""
    kernels = kernel_of(structure, scope, "conv(w[c,j])", newest_first=False)
    check_flags(structure, scope, ("reverse",))
    return Facts(direction_of(structure), kernels=kernels)


def entry(t: int, s: int, w: Sequence[float]) -> float:
    """M[t,s]."""
    return w[len(w) - 1 - (t - s)] if 0 <= t - s < len(w) else 0
