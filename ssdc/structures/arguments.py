"""The checks that the structures share: how many arguments, which flags, tensors where tensors are due.

In: a structure as written and its scope. Out: its arguments, or None after a fault was reported. The structure then
goes on with what it has, so that one run shows every fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from ssdc.errors import ArgumentReadsWriter, RepeatedFlag, StructureArguments, StructureFlag, StructureForm
from ssdc.structures.algebra import Direction, Scope
from ssdc.structures.walk import index_names, reads
from ssdc.syntax import ast


def direction_of(structure: ast.Structure) -> Direction:
    """Backwards if the flag says so."""
    return "reverse" if "reverse" in structure.flags else "forward"


def check_flags(structure: ast.Structure, scope: Scope, allowed: tuple[str, ...] = ()) -> None:
    """Reports flags that the structure does not take, and any that stands twice."""
    for place, flag in enumerate(structure.flags):
        if flag not in allowed:
            scope.report(StructureFlag(structure.span, structure=structure.name, flag=flag, hint=_flags(flag, allowed)))
        elif flag in structure.flags[:place]:
            scope.report(RepeatedFlag(structure.span, flag=flag))


def _flags(flag: str, allowed: tuple[str, ...]) -> str:
    if not allowed:
        return "it takes none"
    close = get_close_matches(flag, allowed, n=1)
    return f"did you mean '{close[0]}'?" if close else "it takes " + " and ".join(f"'{name}'" for name in allowed)


def no_arguments(structure: ast.Structure, scope: Scope) -> None:
    """Reports arguments of a structure that takes none."""
    if structure.arguments and not _misspelt(structure.arguments, structure, scope):
        _count(structure, scope, "no arguments", structure.name)


def one_argument(structure: ast.Structure, scope: Scope, form: str) -> ast.Expr | None:
    """The only argument. `form` is how the structure is written, for the remedy."""
    if not structure.arguments or (
        len(structure.arguments) > 1 and not _misspelt(structure.arguments[1:], structure, scope)
    ):
        _count(structure, scope, "one argument", form)
    return structure.arguments[0] if structure.arguments else None


def _count(structure: ast.Structure, scope: Scope, expected: str, form: str) -> None:
    found = len(structure.arguments)
    given = "none" if found == 0 else str(found)
    scope.report(
        StructureArguments(structure.span, structure=structure.name, expected=expected, found=given, form=form)
    )


def _misspelt(surplus: Sequence[ast.Expr], structure: ast.Structure, scope: Scope) -> bool:
    """Reports surplus bare names that are no size: flags with a slip of the pen. False if there is anything else."""
    flags = [argument for argument in surplus if isinstance(argument, ast.Name) and not scope.is_size(argument.name)]
    if len(flags) < len(surplus):
        return False
    for flag in flags:
        hint = _flags(flag.name, ("strict", "reverse"))
        scope.report(StructureFlag(flag.span, structure=structure.name, flag=flag.name, hint=hint))
    return True


def one_tensor(structure: ast.Structure, scope: Scope, form: str) -> ast.TensorRef | None:
    """The only argument, which must be a tensor as declared, not an expression."""
    argument = one_argument(structure, scope, form)
    if argument is None or isinstance(argument, ast.TensorRef):
        return argument
    bad_form(structure, argument, scope, "a tensor with its indices", form)
    return None


def bad_form(structure: ast.Structure, argument: ast.Expr, scope: Scope, expected: str, form: str) -> None:
    """Reports an argument of the wrong form."""
    scope.report(
        StructureForm(argument.span, structure=structure.name, expected=expected, found=describe(argument), form=form)
    )


def describe(expr: ast.Expr) -> str:
    """What an expression is, in two words."""
    match expr:
        case ast.Number(value=value):
            return f"the number {value:.12g}"
        case ast.Name(name=name):
            return f"the name '{name}'"
        case ast.TensorRef(name=name):
            return f"the tensor '{name}'"
        case _:
            return "an expression"


def reads_writer(structure: ast.Structure, argument: ast.Expr, scope: Scope) -> bool:
    """Reports an argument taken at a writer position."""
    for writer in scope.writers:
        if reads(argument, (writer,)):
            scope.report(
                ArgumentReadsWriter(argument.span, structure=structure.name, writer=writer, reader=scope.reader)
            )
            return True
    return False


def axis_name(index: ast.Index, scope: Scope) -> str | None:
    """The axis that an index runs along, if it is one axis, whole, and not time."""
    plain = isinstance(index, ast.AxisIndex) and index.name not in (scope.reader, *scope.writers)
    return index_names(index)[0] if plain else None
