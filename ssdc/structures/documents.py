"""`documents(doc[b,t])`: M[t,s] = 1 where doc[t] == doc[s]. Packed sequences; `doc` does not decrease in t.

That `doc` holds integers is checked where types are.
"""

from __future__ import annotations

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import bad_form, check_flags, one_tensor, reads_writer
from ssdc.syntax import ast

FORM = "documents(doc[b,t])"


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """A tensor over the reader position; no flags: reversed it is the same."""
    tensor = one_tensor(structure, scope, FORM)
    check_flags(structure, scope)
    if tensor is None or reads_writer(structure, tensor, scope):
        return Facts("both")
    if not any(isinstance(index, ast.AxisIndex) and index.name == scope.reader for index in tensor.indices):
        bad_form(structure, tensor, scope, f"an integer tensor over the reader position '{scope.reader}'", FORM)
        return Facts("both")
    return Facts("both", documents=(tensor,))
