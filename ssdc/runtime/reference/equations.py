"""Definitions -> values: the summation rule, recursive equations and split.

In: a definition and what its names stand for. Out: the value of the left side over its axes. In each term an axis that
is not on the left is summed over the product of the term's factors; a term that lacks a left axis is the same along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import prod

import torch

from ssdc.runtime.reference.contract import Term, add_terms, contract
from ssdc.runtime.reference.expressions import Names, axes_of, value_of
from ssdc.runtime.reference.masks import View
from ssdc.runtime.reference.recursion import Recursion, solve
from ssdc.runtime.reference.terms import factors_of, terms_of
from ssdc.runtime.reference.value import EvaluationError, Value
from ssdc.syntax import ast


def define(names: Names, target: ast.TensorRef, expr: ast.Expr) -> Value:
    """The value of `target = expr`, over the axes of the target in their order."""
    left = axes_of(target.indices)
    terms = terms_of(expr)
    own = [pair for pair in terms if _reads(pair[1], target.name)]
    base = _sum(names, left, [pair for pair in terms if pair not in own], bool(own))
    if not own:
        return base
    return solve(names, left, base, [_recursive(names, sign, term, target.name, left) for sign, term in own])


def _sum(names: Names, left: tuple[str, ...], terms: Sequence[tuple[int, ast.Expr]], recursive: bool) -> Value:
    maths = names.maths
    if not terms:
        shape = [maths.sizes[label] for label in left]
        return maths.exact(left, torch.zeros(shape, dtype=torch.float64))
    done = [_term(names, sign, term, left) for sign, term in terms]
    missing = [label for label in left if all(label not in term.value.labels for term in done)]
    if missing and not recursive:
        raise EvaluationError(f"nothing on the right has the axis '{missing[0]}' of the left")
    return add_terms(maths, done, left)


def _term(names: Names, sign: int, term: ast.Expr, left: tuple[str, ...]) -> Term:
    inner, factors = _factors(names, term)
    done = contract(names.maths, factors, left, names.reader)
    return Term(replace(done.value, data=done.value.data * (sign * inner)), done.absolute)


def _factors(names: Names, term: ast.Expr) -> tuple[int, list[Value | View]]:
    """The sign and the factors of a term; numbers are multiplied first, masks stay rows."""
    sign, factors = factors_of(term)
    numbers: list[Value] = []
    found: list[Value | View] = []
    for factor, inverse in factors:
        view = names.view(factor) if isinstance(factor, ast.TensorRef) and not inverse else None
        if view is not None:
            found.append(view)
            continue
        value = value_of(names, factor)
        value = names.maths.pointwise(torch.reciprocal, value) if inverse else value
        (found if value.labels else numbers).append(value)
    if numbers:
        number = reduce(lambda one, two: names.maths.pointwise(torch.mul, one, two), numbers)
        found.insert(0, number)
    return sign, found


def _recursive(names: Names, sign: int, term: ast.Expr, name: str, left: tuple[str, ...]) -> Recursion:
    """A term that reads what is being defined, once and at a writer position."""
    inner, factors = factors_of(term)
    own = [
        factor
        for factor, inverse in factors
        if isinstance(factor, ast.TensorRef) and factor.name == name and not inverse
    ]
    rest = [(factor, inverse) for factor, inverse in factors if factor not in own]
    if len(own) != 1 or any(_reads(factor, name) for factor, _ in rest):
        raise EvaluationError(f"a term reads '{name}', which it defines, otherwise than once as a factor")
    axes = axes_of(own[0].indices)
    pairs = [(old, new) for old, new in zip(left, axes, strict=False) if old != new]
    if len(axes) != len(left) or len(pairs) != 1 or pairs[0][0] != names.reader or pairs[0][1] not in names.times:
        raise EvaluationError(f"'{name}' reads itself otherwise than at a writer position")
    if any(isinstance(index, ast.LagIndex) for index in own[0].indices):
        raise EvaluationError(f"'{name}' reads itself at a lag")
    others = _product(rest) if rest else ast.Number(1)
    more, values = _factors(names, others)
    return Recursion(sign * inner * more, values, pairs[0][1])


def _product(factors: Sequence[tuple[ast.Expr, bool]]) -> ast.Expr:
    one: ast.Expr = ast.Number(1)
    return reduce(lambda left, pair: ast.Binary("/" if pair[1] else "*", left, pair[0]), factors, one)


def _reads(expr: ast.Expr, name: str) -> bool:
    todo: list[object] = [expr]
    while todo:
        node = todo.pop()
        match node:
            case ast.TensorRef(name=found, indices=indices):
                if found == name:
                    return True
                todo += [index.tensor for index in indices if isinstance(index, ast.LookupIndex)]
            case ast.Binary(left=left, right=right) | ast.Compare(left=left, right=right):
                todo += [left, right]
            case ast.Negate(operand=operand) | ast.Reduce(operand=operand):
                todo.append(operand)
            case ast.Call(arguments=arguments):
                todo += arguments
            case _:
                pass
    return False


def split(names: Names, targets: Sequence[ast.TensorRef], argument: ast.Expr) -> list[Value]:
    """The last axis of the argument, cut into the last axes of the targets in order."""
    whole = value_of(names, argument)
    lead = axes_of(targets[0].indices[:-1])
    if any(axes_of(target.indices[:-1]) != lead for target in targets):
        raise EvaluationError("the parts of a split differ in more than their last axis")
    rest = tuple(label for label in whole.labels if label not in lead)
    if isinstance(argument, ast.TensorRef):
        last = axes_of(argument.indices[-1:])
        if set(last) != set(rest):
            raise EvaluationError(f"the last axis of what is split is {last}, the parts leave {rest}")
        rest = last
    elif len(rest) != 1:
        raise EvaluationError(f"the parts of a split leave the axes {rest}, not one")
    sizes = names.maths.sizes
    ordered = names.maths.spread(whole, (*lead, *rest))
    cuts = [axes_of(target.indices[-1:]) for target in targets]
    widths = [prod(sizes[label] for label in cut) for cut in cuts]
    if sum(widths) != prod(sizes[label] for label in rest):
        raise EvaluationError(f"parts of {widths} do not add up to the axis {rest} that is split")
    return [_cut(names, ordered, lead, cut, sum(widths[:place])) for place, cut in enumerate(cuts)]


def _cut(names: Names, whole: Value, lead: tuple[str, ...], part: tuple[str, ...], start: int) -> Value:
    """The axes `part` out of the axes of `whole` after `lead`, flattened, from `start` on."""
    sizes = names.maths.sizes
    shape, cut = [sizes[label] for label in lead], [sizes[label] for label in part]

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.reshape(*shape, prod(tensor.shape[len(lead) :]))
        return flat[..., start : start + prod(cut)].reshape(*shape, *cut)

    return whole.each(taken, (*lead, *part))
