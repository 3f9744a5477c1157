"""From a structure as written to its facts: the door to this room.

In: `ast.Structure` and the `Scope` around it. Out: `Facts`, faults reported to the scope. Each structure has a file of
its own, named in `STRUCTURES`.
"""

from __future__ import annotations

from difflib import get_close_matches

from ssdc.errors import UnknownStructure
from ssdc.structures import STRUCTURES
from ssdc.structures.algebra import Direction, Facts, Gate, Kernel, Scope
from ssdc.structures.bounds import Interval
from ssdc.syntax import ast

__all__ = ["Direction", "Facts", "Gate", "Interval", "Kernel", "Scope", "facts_of"]


def facts_of(structure: ast.Structure, scope: Scope) -> Facts:
    """What one factor of a mask is in algebra. A bad structure is reported, never raised; the rest comes back."""
    rule = STRUCTURES.get(structure.name)
    if rule is not None:
        return rule(structure, scope)
    close = get_close_matches(structure.name, STRUCTURES, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "there are " + ", ".join(STRUCTURES)
    scope.report(UnknownStructure(structure.span, name=structure.name, hint=hint))
    return Facts("both")
