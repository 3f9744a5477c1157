"""Elementwise expressions of the syntax tree -> values: reading of tensors, functions, reductions and norms.

Sums over an axis that no reduction names happen in `equations.py` only; here every operation is elementwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Protocol, assert_never

import torch
from torch import Tensor

from ssdc.runtime.reference.contract import contract
from ssdc.runtime.reference.functions import COMPARISONS, EPS, EXACT, FUNCTIONS, extreme, norm, softmax, total
from ssdc.runtime.reference.masks import READER, WRITER, View
from ssdc.runtime.reference.terms import factors_of, terms_of
from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Support, Value
from ssdc.syntax import ast


class Names(Protocol):
    """What the names of a program stand for."""

    maths: Arithmetic
    length: int
    reader: str
    times: tuple[str, ...]

    def declared(self, name: str) -> ast.TensorRef:
        """How a tensor or mask was declared."""

    def tensor(self, name: str) -> Value:
        """The value of a tensor over its declared axes."""

    def view(self, ref: ast.TensorRef) -> View | None:
        """A mask as a reference reads it; None if the name is no mask."""

    def number(self, name: str) -> int:
        """A size."""


def axes_of(indices: Sequence[ast.Index]) -> tuple[str, ...]:
    """The axes of an index list, flattened ones opened and units left out; a lookup counts as the axis ``""``."""
    names: list[str] = []
    for index in indices:
        match index:
            case ast.AxisIndex(name=name) | ast.LagIndex(name=name):
                names.append(name)
            case ast.FlatIndex(names=several):
                names.extend(several)
            case ast.LookupIndex():
                names.append("")
            case ast.UnitIndex():
                pass
            case _:
                assert_never(index)
    return tuple(names)


def value_of(names: Names, expr: ast.Expr) -> Value:
    """The value of an expression with every operation taken elementwise. Raises EvaluationError."""
    maths = names.maths
    match expr:
        case ast.Number(value=number):
            return maths.constant(number)
        case ast.Name(name=name):
            return maths.constant(names.number(name))
        case ast.Position(axis=axis):
            return maths.fixed((axis,), torch.arange(maths.sizes[axis], dtype=torch.float64))
        case ast.TensorRef():
            return read(names, expr)
        case ast.Binary(op="+" | "-") | ast.Negate():
            terms = terms_of(expr)
            return maths.plus([value_of(names, term) for _, term in terms], [sign for sign, _ in terms])
        case ast.Binary(op="*" | "/"):
            return _product(names, expr)
        case ast.Binary(op="^", left=base, right=exponent):
            return maths.pointwise(torch.pow, value_of(names, base), value_of(names, exponent))
        case ast.Compare(op=op, left=left, right=right):
            sides = value_of(names, left), value_of(names, right)
            return maths.pointwise(
                _as_number(op), *(replace(side, bound=_none(side.bound)) for side in sides), exact=True
            )
        case ast.Call(function=function, arguments=arguments) if function in FUNCTIONS:
            values = [value_of(names, argument) for argument in arguments]
            return maths.pointwise(FUNCTIONS[function], *values, exact=function in EXACT)
        case ast.Reduce():
            return _reduce(names, expr)
        case ast.Call(function=function) | ast.Binary(op=function):
            raise EvaluationError(f"'{function}' is no elementwise function")
        case _:
            assert_never(expr)


def _none(bound: Tensor | None) -> Tensor | None:
    """No magnitude: a comparison is taken to fall the same way."""
    return None if bound is None else torch.zeros_like(bound)


def _as_number(op: str) -> FunctionOfTwo:
    return lambda left, right: COMPARISONS[op](left, right).to(torch.float64)


class FunctionOfTwo(Protocol):
    """An elementwise function of two tensors."""

    def __call__(self, left: Tensor, right: Tensor, /) -> Tensor:
        """The tensor of results."""


def _product(names: Names, expr: ast.Expr) -> Value:
    sign, factors = factors_of(expr)
    (first, inverse), *rest = factors
    result = _factor(names, first, inverse)
    for factor, inverse in rest:
        result = names.maths.pointwise(torch.div if inverse else torch.mul, result, value_of(names, factor))
    return result if sign > 0 else names.maths.plus([result], [sign])


def read(names: Names, ref: ast.TensorRef) -> Value:
    """A tensor as a reference reads it: at a writer position, some steps back, or at the rows another one names."""
    view = names.view(ref)
    if view is not None:
        return view.whole()
    value = names.tensor(ref.name)
    have, want = axes_of(names.declared(ref.name).indices), axes_of(ref.indices)
    atoms = [index for index in ref.indices if not isinstance(index, ast.UnitIndex | ast.FlatIndex)]
    if len(have) != len(want):
        raise EvaluationError(f"'{ref.name}' has {len(have)} axes and is read with {len(want)}")
    for old, new in zip(have, want, strict=True):
        sizes = names.maths.sizes
        if new and old != new and not (old in names.times and new in names.times) and sizes.get(old) != sizes.get(new):
            raise EvaluationError(f"'{ref.name}' is declared along '{old}' and read along '{new}'")
    for index in atoms:
        if isinstance(index, ast.LagIndex):
            value = _back(value, have[want.index(index.name)], index.steps)
    if "" in want:
        return _look_up(names, value, ref, have, want)
    return value.renamed(dict(zip(have, want, strict=True)))


def _back(value: Value, label: str, steps: int) -> Value:
    """The value so many positions before; zero before the start."""

    def shifted(tensor: Tensor) -> Tensor:
        at = value.labels.index(label)
        kept = tensor.narrow(at, 0, max(tensor.shape[at] - steps, 0))
        room = tensor.narrow(at, 0, min(steps, tensor.shape[at]))
        return torch.cat([torch.zeros_like(room), kept], at)

    return value.each(shifted, value.labels)


def _look_up(names: Names, value: Value, ref: ast.TensorRef, have: tuple[str, ...], want: tuple[str, ...]) -> Value:
    lookups = [index for index in ref.indices if isinstance(index, ast.LookupIndex)]
    if len(lookups) != 1:
        raise EvaluationError(f"'{ref.name}' is read with {len(lookups)} lookups")
    rows, place = read(names, lookups[0].tensor), want.index("")
    at, size = rows.data.long(), value.data.shape[place]
    if at.numel() and not (0 <= int(at.min()) and int(at.max()) < size):
        raise EvaluationError(f"'{lookups[0].tensor.name}' names rows outside of the {size} of '{ref.name}'")
    labels = (*want[:place], *rows.labels, *want[place + 1 :])
    if len(set(labels)) < len(labels):
        raise EvaluationError(f"an axis stands twice in the lookup in '{ref.name}'")
    return value.each(lambda tensor: tensor[(slice(None),) * place + (at,)], labels)


def _reduce(names: Names, expr: ast.Reduce) -> Value:
    over = axes_of(expr.over)
    options = {option.name: option.value for option in expr.options}
    if not set(options) <= {"eps", "mask"} or ("eps" in options) > (expr.function in EPS):
        raise EvaluationError(f"'{expr.function}' takes no option {sorted(options)}")
    support = _support(names, options["mask"]) if "mask" in options else None
    if expr.function == "sum" and support is None:
        return _sum(names, expr.operand, over)
    value = _having(names.maths, value_of(names, expr.operand), over)
    if expr.function == "softmax":
        return softmax(names.maths, value, over, support)
    if support is not None:
        raise EvaluationError(f"'{expr.function}' takes no mask")
    if expr.function in ("max", "min"):
        return extreme(value, over, expr.function == "max")
    if expr.function == "mean":
        count = reduce(lambda so_far, label: so_far * names.maths.sizes[label], over, 1)
        return names.maths.pointwise(torch.div, total(names.maths, value, over), names.maths.constant(count))
    if expr.function not in EPS:
        raise EvaluationError(f"there is no reduction '{expr.function}'")
    eps = value_of(names, options["eps"]).data.item() if "eps" in options else EPS[expr.function]
    return norm(names.maths, expr.function, value, over, eps)


def _having(maths: Arithmetic, value: Value, over: tuple[str, ...]) -> Value:
    missing = set(over) - set(value.labels)
    if missing:
        raise EvaluationError(f"a reduction runs over '{min(missing)}', which its argument does not have")
    return value


def _sum(names: Names, operand: ast.Expr, over: tuple[str, ...]) -> Value:
    """sum(e over axes): a product among the terms is contracted, not written out."""
    terms = [(*factors_of(term), outer) for outer, term in terms_of(operand)]
    if len(terms) != 1 or len(terms[0][1]) == 1:
        return total(names.maths, _having(names.maths, value_of(names, operand), over), over)
    inner, factors, outer = terms[0]
    values = [_factor(names, factor, inverse) for factor, inverse in factors]
    present = {label for value in values for label in value.labels}
    values = [names.maths.gathered(value, present) for value in values]
    labels = tuple(dict.fromkeys(label for value in values for label in value.labels))
    if not set(over) <= set(labels):
        raise EvaluationError(f"a sum runs over {over}, its argument over {labels}")
    kept = tuple(label for label in labels if label not in over)
    term = contract(names.maths, values, kept, names.reader)
    value = term.value
    if value.bound is not None and term.absolute is not None:
        value = replace(value, bound=value.bound + term.absolute)
    return replace(value, data=value.data * (inner * outer))


def _factor(names: Names, factor: ast.Expr, inverse: bool) -> Value:
    value = value_of(names, factor)
    return names.maths.pointwise(torch.reciprocal, value) if inverse else value


def _support(names: Names, option: ast.Expr) -> Support:
    """The allowed positions of a mask of zeros and ones."""
    match option:
        case ast.Name(name=name):
            view = names.view(names.declared(name))
        case ast.TensorRef():
            view = names.view(option)
        case _:
            view = None
    if view is None or not view.mask.binary:
        raise EvaluationError("the option `mask` takes a mask of zeros and ones")
    support = view.mask.whole.support
    assert support is not None
    names_of = {READER: view.reader, WRITER: view.writer}
    return Support(tuple(names_of.get(label, label) for label in support.labels), support.allowed)
