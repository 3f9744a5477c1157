"""`dense(m[t,s])`: M[t,s] = m[t,s], a learned or given T x T matrix. MLP-Mixer's; it fixes T."""

from __future__ import annotations

from ssdc.structures.algebra import Facts, Scope
from ssdc.structures.arguments import bad_form, check_flags, one_tensor
from ssdc.syntax import ast

MISSING = "a free T x T matrix fixes T and has no state that passes from position to position"


def facts(structure: ast.Structure, scope: Scope) -> Facts:
    """A tensor whose last two indices are a reader and a writer position; no flags."""
    form = f"dense(m[{scope.reader},{scope.writers[0] if scope.writers else 's'}])"
    tensor = one_tensor(structure, scope, form)
    check_flags(structure, scope)
    if tensor is None:
        return Facts("both", missing=MISSING)
    match tensor.indices[-2:]:
        case (ast.AxisIndex(name=reader), ast.AxisIndex(name=writer)) if (
            reader == scope.reader and writer in scope.writers
        ):
            return Facts("both", tables=(tensor,), missing=MISSING)
        case _:
            bad_form(structure, tensor, scope, "a tensor whose last two indices are reader and writer", form)
            return Facts("both", missing=MISSING)
