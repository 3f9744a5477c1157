"""What `toeplitz` and `conv` share: a tensor of values by lag, checked."""

from __future__ import annotations

from ssdc.errors import KernelVaries
from ssdc.structures.algebra import Kernel, Scope
from ssdc.structures.arguments import axis_name, bad_form, one_tensor, reads_writer
from ssdc.structures.walk import reads
from ssdc.syntax import ast


def kernel_of(structure: ast.Structure, scope: Scope, form: str, *, newest_first: bool) -> tuple[Kernel, ...]:
    """The kernel as a tuple of one, or none after a fault."""
    tensor = one_tensor(structure, scope, form)
    if tensor is None or reads_writer(structure, tensor, scope):
        return ()
    if reads(tensor, (scope.reader,)):
        scope.report(KernelVaries(tensor.span, structure=structure.name, reader=scope.reader))
        return ()
    axis = axis_name(tensor.indices[-1], scope) if tensor.indices else None
    if axis is None:
        bad_form(structure, tensor, scope, "a tensor whose last index is the lag axis", form)
        return ()
    return (Kernel(tensor, axis, newest_first),)
