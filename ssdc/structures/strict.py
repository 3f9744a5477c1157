"""`strict`: M[t,s] = 1 where s < t, or s > t in reverse. The mask of recursive equations."""

from __future__ import annotations

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, direction_of, no_arguments
from ssdc.syntax import ast


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """No arguments; may run in reverse."""
    no_arguments(structure, scope)
    check_flags(structure, scope, ("reverse",))
    return Facts(direction_of(structure), strict=True)
