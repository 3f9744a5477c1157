"""`full`: M[t,s] = 1. Every position reads every other; a layer with it is not causal."""

from __future__ import annotations

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import check_flags, no_arguments
from ssdc.syntax import ast


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """No arguments, no flags: reversed it is the same."""
    no_arguments(structure, scope)
    check_flags(structure, scope)
    return Facts("both")
