"""Whether a layer can go on from a state: no position reads a later one. From the syntax tree, on the safe side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from ssdc.runtime.reference.evaluation import ScopeLike
from ssdc.syntax import ast

CAUSAL = frozenset({"causal", "strict", "decay", "semiseparable", "band", "toeplitz", "conv", "fenwick"})
"""Structures that reach back only, unless reversed."""


def streams(scope: ScopeLike, used: Mapping[str, nn.Module]) -> bool:
    """True if every mask reaches back only, every softmax over positions has such a mask, and so in every used layer.

    A position is reached through a mask, or a softmax; other folds over positions, and masks over an input of T x T,
    are not carried on.
    """
    masks = [part for part in scope.layer.statements if isinstance(part, ast.Mask)]
    causal = {mask.tensor.name for mask in masks if any(_causal(structure) for structure in mask.structures)}
    times = {scope.reader, *scope.writers}
    folds = [fold for part in scope.layer.statements if isinstance(part, ast.Define) for fold in _folds(part.value)]
    inner = (member for module in used.values() for member in _references(module))
    return (
        len(causal) == len(masks)
        and not any(structure.name == "dense" for mask in masks for structure in mask.structures)
        and all(
            _masked(fold, causal) for fold in folds if times & {name for index in fold.over for name in _names(index)}
        )
        and all(streams(scope_, used_) for scope_, used_ in inner)
    )


def _references(module: nn.Module) -> Iterable[tuple[ScopeLike, Mapping[str, nn.Module]]]:
    members = module if isinstance(module, nn.ModuleList) else [module]
    return [(member.scope, member.used) for member in members]  # type: ignore[misc]


def _causal(structure: ast.Structure) -> bool:
    return structure.name in CAUSAL and "reverse" not in structure.flags


def _masked(fold: ast.Reduce, causal: set[str]) -> bool:
    masks = [option.value for option in fold.options if option.name == "mask"]
    return bool(masks) and all(isinstance(mask, ast.Name | ast.TensorRef) and mask.name in causal for mask in masks)


def _folds(expr: ast.Expr) -> list[ast.Reduce]:
    found: list[ast.Reduce] = []
    todo = [expr]
    while todo:
        node = todo.pop()
        match node:
            case ast.Reduce(operand=operand):
                found.append(node)
                todo.append(operand)
            case ast.Binary(left=left, right=right) | ast.Compare(left=left, right=right):
                todo += [left, right]
            case ast.Negate(operand=operand):
                todo.append(operand)
            case ast.Call(arguments=arguments):
                todo += arguments
            case _:
                pass
    return found


def _names(index: ast.AxisIndex | ast.FlatIndex) -> tuple[str, ...]:
    return (index.name,) if isinstance(index, ast.AxisIndex) else index.names
