"""Parameters of a module under the names that a program declares: dots nest, so state_dict keys are those very names.

In: a module, dotted names, tensors. Out: the parameters registered and found again; and, from the syntax tree, the
initialiser that a parameter has if its declaration gives none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Protocol

from torch import nn

from ssdc.errors import SsdcError
from ssdc.syntax import ast


class ParameterNameError(SsdcError, ValueError):
    """Two declared names that cannot both be keys: one is a tensor, the other lies below it."""


class Holder(nn.Module):
    """The part of a name before a dot."""


class Sized(Protocol):
    """What the defaults ask of a scope; `ssdc.graph.scope.Scope` is one."""

    @property
    def layer(self) -> ast.Layer:
        """The tree."""

    @property
    def axes(self) -> Mapping[str, _Axis]:
        """Every axis by name."""


class _Axis(Protocol):
    @property
    def size(self) -> int | None: ...

    @property
    def groups(self) -> str | None: ...


def declare(module: nn.Module, name: str, tensor: nn.Parameter) -> None:
    """Registers a parameter so that its state_dict key is `name`.

    Names that a module uses itself, such as `forward` or `training`, are legal keys too. Raises ParameterNameError if
    the name is taken, or is a prefix of one that is, or the other way round.

    >>> import torch
    >>> module = nn.Module()
    >>> declare(module, "in_proj.weight", nn.Parameter(torch.zeros(2)))
    >>> list(module.state_dict())
    ['in_proj.weight']
    >>> declare(module, "in_proj", nn.Parameter(torch.zeros(2)))
    Traceback (most recent call last):
    ssdc.runtime.parameters.ParameterNameError: the parameter 'in_proj' cannot stand beside 'in_proj.weight'
    """
    *path, leaf = name.split(".")
    place = module
    for depth, part in enumerate(path):
        prefix = ".".join(path[: depth + 1])
        if part in place._parameters:
            raise ParameterNameError(f"the parameter '{name}' cannot stand beside the parameter '{prefix}'")
        if part not in place._modules:
            place._modules[part] = Holder()
        below = place._modules[part]
        if not isinstance(below, Holder):
            raise ParameterNameError(f"the parameter '{name}' cannot stand beside the submodule '{prefix}'")
        place = below
    if leaf in place._parameters:
        raise ParameterNameError(f"the parameter '{name}' is declared twice")
    if leaf in place._modules:
        taken = place._modules[leaf]
        below_it = next(iter(taken.state_dict()), "") if taken is not None else ""
        raise ParameterNameError(f"the parameter '{name}' cannot stand beside '{name}.{below_it}'")
    place._parameters[leaf] = tensor


def lookup(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter of that name. Raises KeyError."""
    *path, leaf = name.split(".")
    place: nn.Module | None = module
    for part in path:
        place = place._modules.get(part) if place is not None else None
    found = place._parameters.get(leaf) if place is not None else None
    if found is None:
        raise KeyError(name)
    return found


def default_initialiser(scope: Sized, name: str) -> tuple[ast.Expr, int | None]:
    """The initialiser of a parameter that declares none, and its fan-in.

    `linear` if a contraction, a `sum` or a convolution sums it over some axes, and for `x.bias` beside such an
    `x.weight` (torch.nn.Linear, torch.nn.Conv1d); `normal(1)` if it is looked up by row (torch.nn.Embedding);
    otherwise `zeros`.
    """
    for candidate in (name, name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name):
        fan = fan_in(scope, candidate)
        if fan is not None:
            return ast.Name("linear"), fan
        if candidate == name and _looked_up(scope.layer, name):
            return ast.Call("normal", (ast.Number(1),)), None
    return ast.Name("zeros"), None


def fan_in(scope: Sized, name: str) -> int | None:
    """The number of values over which a parameter is summed where it is first summed; None if it is not."""
    for ref, left in _direct_reads(scope.layer):
        if ref.name != name:
            continue
        seen = set(left)
        summed = [axis for axis in _axes(ref) if axis not in seen and _group(scope, axis) not in seen]
        sizes = [scope.axes[axis].size for axis in summed if axis in scope.axes]
        if summed and len(sizes) == len(summed) and None not in sizes:
            return prod(size for size in sizes if size is not None)
    return None


def _group(scope: Sized, axis: str) -> str | None:
    return scope.axes[axis].groups if axis in scope.axes else None


def _direct_reads(layer: ast.Layer) -> Iterator[tuple[ast.TensorRef, tuple[str, ...]]]:
    """Tensors that are factors of a term, each with the axes that are not summed there."""
    for statement in layer.statements:
        match statement:
            case ast.Define(targets=(target,), value=value):
                yield from ((ref, _axes(target)) for ref in _factors(value))
                for reduce in _sums(value):
                    over = {name for index in reduce.over for name in _names(index)}
                    for ref in _factors(reduce.operand):
                        yield ref, tuple(axis for axis in _axes(ref) if axis not in over)
            case ast.Mask(tensor=tensor, structures=structures):
                for structure in structures:
                    if structure.name in ("conv", "toeplitz"):
                        yield from ((ref, _axes(tensor)) for part in structure.arguments for ref in _factors(part))
            case _:
                pass


def _factors(expr: ast.Expr) -> Iterator[ast.TensorRef]:
    for node in _walk(expr, inside=False):
        if isinstance(node, ast.TensorRef):
            yield node


def _sums(expr: ast.Expr) -> Iterator[ast.Reduce]:
    for node in _walk(expr, inside=True):
        if isinstance(node, ast.Reduce) and node.function == "sum":
            yield node


def _walk(expr: ast.Expr, *, inside: bool) -> Iterator[ast.Expr]:
    """An expression and its parts; those within functions and reductions only if `inside`."""
    todo = [expr]
    while todo:
        node = todo.pop()
        yield node
        match node:
            case ast.Binary(op="^"):
                todo += [node.left, node.right] if inside else []
            case ast.Binary(left=left, right=right):
                todo += [right, left]
            case ast.Negate(operand=operand):
                todo.append(operand)
            case ast.Call(arguments=arguments) if inside:
                todo += arguments
            case ast.Reduce(operand=operand) if inside:
                todo.append(operand)
            case ast.Compare(left=left, right=right) if inside:
                todo += [left, right]
            case _:
                pass


def _looked_up(layer: ast.Layer, name: str) -> bool:
    reads = (
        node
        for statement in layer.statements
        if isinstance(statement, ast.Define)
        for node in _walk(statement.value, inside=True)
        if isinstance(node, ast.TensorRef) and node.name == name
    )
    return any(isinstance(index, ast.LookupIndex) for ref in reads for index in ref.indices)


def _axes(ref: ast.TensorRef) -> tuple[str, ...]:
    return tuple(name for index in ref.indices for name in _names(index))


def _names(index: ast.Index) -> tuple[str, ...]:
    match index:
        case ast.AxisIndex(name=name) | ast.LagIndex(name=name):
            return (name,)
        case ast.FlatIndex(names=names):
            return names
        case _:
            return ()
