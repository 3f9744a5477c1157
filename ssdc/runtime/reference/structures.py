"""Mask statements and the values of their arguments -> `Mask`: one builder a structure.

In: an `ast.Mask` and an evaluator of expressions. Out: rows by definition (language.md, "Masks"). For a structure with
`reverse`, its arguments are turned round in time here, and its rows in `masks.Factor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from ssdc.runtime.reference.masks import Factor, Lags, Mask, Plain, Products, Rows, Table
from ssdc.runtime.reference.terms import factors_of
from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Value
from ssdc.syntax import ast


class Evaluator(Protocol):
    """What a mask asks of the evaluation that it belongs to."""

    maths: Arithmetic
    length: int
    times: tuple[str, ...]

    def value(self, expr: ast.Expr) -> Value:
        """The value of an elementwise expression."""

    def whole_number(self, expr: ast.Expr) -> int:
        """The value of a size expression."""


def mask_of(ev: Evaluator, statement: ast.Mask) -> Mask:
    """The mask that a statement declares, with its arguments evaluated."""
    names = [index.name if isinstance(index, ast.AxisIndex) else "" for index in statement.tensor.indices]
    if "" in names or len(names) < 2 or not set(names[-2:]) <= set(ev.times) or set(names[:-2]) & set(ev.times):
        raise EvaluationError(f"the mask '{statement.tensor.name}' does not end with a reader and a writer position")
    front = tuple(names[:-2])
    factors = tuple(_factor(ev, structure, front) for structure in statement.structures)
    have = {label for factor in factors for label in factor.rows.front}
    if have != set(front):
        raise EvaluationError(f"the mask '{statement.tensor.name}' has the axes {front}, its arguments {sorted(have)}")
    return Mask(ev.maths, statement.tensor.name, front, factors, ev.length)


def _factor(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Factor:
    builder = STRUCTURES.get(structure.name)
    if builder is None or not set(structure.flags) <= {"strict", "reverse"}:
        raise EvaluationError(f"the structure '{structure.name}' with flags {structure.flags} is not defined")
    if "strict" in structure.flags and structure.name != "semiseparable":
        raise EvaluationError(f"'{structure.name}' takes no flag 'strict'")
    reverse = "reverse" in structure.flags
    if reverse and structure.name in ("full", "dense", "documents"):
        raise EvaluationError(f"'{structure.name}' takes no flag 'reverse'")
    strict = structure.name == "strict" or "strict" in structure.flags
    return Factor(builder(ev, structure, front), reverse, strict, structure.name in BINARY)


def _argument(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...] = ()) -> Value:
    """The only argument, its grouping axes gathered onto the mask's, its times turned round for a reversed one."""
    if len(structure.arguments) != 1:
        raise EvaluationError(f"'{structure.name}' takes one argument")
    value = ev.value(structure.arguments[0])
    return _turned(ev, ev.maths.gathered(value, front), structure)


def _turned(ev: Evaluator, value: Value, structure: ast.Structure) -> Value:
    places = [place for place, label in enumerate(value.labels) if label in ev.times]
    if "reverse" not in structure.flags or not places:
        return value
    return value.each(lambda tensor: tensor.flip(places), value.labels)


def _over_time(ev: Evaluator, value: Value, name: str) -> Value:
    """A value with its one time axis last; a value without one is the same at every position."""
    times = [label for label in value.labels if label in ev.times]
    if not times:
        return ev.maths.spread(value, (*value.labels, ev.times[0]))
    if len(times) > 1:
        raise EvaluationError(f"the argument of '{name}' varies along two time axes")
    return value.last(times[0])


def _timeless(ev: Evaluator, value: Value, name: str) -> Value:
    if set(value.labels) & set(ev.times):
        raise EvaluationError(f"the argument of '{name}' varies with time")
    return value


def _plain(ev: Evaluator, structure: ast.Structure, allowed: Callable[[Tensor, int], Tensor]) -> Rows:
    if structure.arguments and structure.name != "band":
        raise EvaluationError(f"'{structure.name}' takes no argument")
    positions = torch.arange(ev.length)
    return Plain(lambda t: allowed(positions, t))


def _full(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    return _plain(ev, structure, lambda s, t: s >= 0)


def _causal(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    return _plain(ev, structure, lambda s, t: s <= t)


def _strict(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    return _plain(ev, structure, lambda s, t: s < t)


def _band(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    width = ev.whole_number(structure.arguments[0])
    return _plain(ev, structure, lambda s, t: (s <= t) & (t - s < width))


def _documents(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    doc = _over_time(ev, _argument(ev, structure, front), structure.name)
    return Plain(lambda t: doc.data == doc.data[..., t : t + 1], doc.labels[:-1])


def _semiseparable(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    gate = _over_time(ev, _gate(ev, structure, front), structure.name)
    floor = 0.0 if ev.maths.rounding is None else ev.maths.rounding.floor
    return Products(gate.labels[:-1], gate.data, gate.bound, "strict" in structure.flags, floor)


def _decay(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    gate = _timeless(ev, _gate(ev, structure, front), structure.name)
    powers, errors = [torch.ones_like(gate.data)], [torch.zeros_like(gate.data.real)]
    for _ in range(1, ev.length):
        if gate.bound is not None:
            errors.append(gate.data.abs() * errors[-1] + gate.bound * powers[-1].abs())
        powers.append(powers[-1] * gate.data)
    bound = None
    if ev.maths.rounding is not None:
        bound = torch.stack(errors, -1)[..., : ev.length] + ev.maths.rounding.floor
    return Lags(gate.labels, torch.stack(powers, -1)[..., : ev.length], bound, ev.length)


def _gate(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Value:
    if len(structure.arguments) != 1:
        raise EvaluationError(f"'{structure.name}' takes one argument")
    return _turned(ev, ev.maths.gathered(gate_value(ev, structure.arguments[0]), front), structure)


def gate_value(ev: Evaluator, expr: ast.Expr) -> Value:
    """A gate a with the magnitude that one step adds: |a| (m(log a) + |log a|), and |a| if gates are multiplied."""
    gate, rounding = ev.value(expr), ev.maths.rounding
    if rounding is None:
        return gate
    log = _logarithm(ev, expr)
    assert log.bound is not None
    step = ev.maths.exact(log.labels, log.bound + log.data.abs())
    scaled = ev.maths.pointwise(lambda a, extra: torch.where(a == 0, 0, a.abs() * extra), gate, step).data
    data = gate.data.expand(scaled.shape)
    return Value(gate.labels, data, scaled + (data.abs() if rounding.products else 0))


def _logarithm(ev: Evaluator, expr: ast.Expr) -> Value:
    """log|a| with its magnitude, by the rules that keep a gate in log space."""
    match expr:
        case ast.Call(function="exp", arguments=(exponent,)):
            return ev.value(exponent)
        case ast.Call(function="sigmoid", arguments=(operand,)):
            return ev.value(ast.Call("logsigmoid", (operand,)))
        case ast.Binary(op="*" | "/"):
            _, factors = factors_of(expr)
            signs = [-1 if inverse else 1 for _, inverse in factors]
            return ev.maths.plus([_logarithm(ev, factor) for factor, _ in factors], signs)
        case ast.Binary(op="^", left=base, right=exponent):
            return ev.maths.pointwise(torch.mul, _logarithm(ev, base), ev.value(exponent))
        case _:
            return ev.maths.pointwise(lambda a: a.abs().log(), ev.value(expr))


def _kernel(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Value:
    """A kernel with its lag axis last: the one axis that the mask does not have."""
    kernel = _timeless(ev, ev.maths.gathered(ev.value(structure.arguments[0]), front), structure.name)
    lags = [label for label in kernel.labels if label not in front]
    if len(lags) != 1:
        raise EvaluationError(f"the argument of '{structure.name}' has no single axis of lags, but {lags}")
    return kernel.last(lags[0])


def _toeplitz(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    kernel = _kernel(ev, structure, front)
    return Lags(kernel.labels[:-1], kernel.data, kernel.bound, ev.length)


def _conv(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    kernel = _kernel(ev, structure, front)
    kernel = kernel.each(lambda tensor: tensor.flip(-1), kernel.labels)
    return Lags(kernel.labels[:-1], kernel.data, kernel.bound, ev.length)


def _fenwick(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    """Levels count positions from zero; in reverse, from the end."""
    value = _argument(ev, structure, front)
    levels = [label for label in value.labels if label not in front and label not in ev.times]
    if len(levels) != 1:
        raise EvaluationError(f"the argument of 'fenwick' has no single axis of levels, but {levels}")
    value = _over_time(ev, value, structure.name).last(levels[0])
    deepest = max(ev.length - 1, 0).bit_length()
    if value.data.shape[-1] <= deepest:
        have = value.data.shape[-1]
        raise EvaluationError(f"{ev.length} positions have {deepest + 1} levels, the argument of 'fenwick' has {have}")

    def pick(tensor: Tensor, t: int) -> Tensor:
        level = torch.tensor([(t ^ s).bit_length() if s <= t else 0 for s in range(ev.length)], dtype=torch.long)
        return tensor[..., t, :].index_select(-1, level)

    positions = torch.arange(ev.length)
    return Table(value.labels[:-2], pick, lambda t: positions <= t, value.data, value.bound)


def _dense(ev: Evaluator, structure: ast.Structure, front: tuple[str, ...]) -> Rows:
    value = _argument(ev, structure, front)
    times = [label for label in value.labels if label in ev.times]
    if len(times) != 2:
        raise EvaluationError("the argument of 'dense' has no reader and writer position")
    value = value.last(times[0]).last(times[1])
    everywhere = torch.ones(ev.length, dtype=torch.bool)
    return Table(value.labels[:-2], lambda tensor, t: tensor[..., t, :], lambda t: everywhere, value.data, value.bound)


STRUCTURES: Mapping[str, Callable[[Evaluator, ast.Structure, tuple[str, ...]], Rows]] = {
    "full": _full, "causal": _causal, "strict": _strict, "decay": _decay, "semiseparable": _semiseparable,
    "band": _band, "toeplitz": _toeplitz, "conv": _conv, "documents": _documents, "fenwick": _fenwick, "dense": _dense,
}  # fmt: skip

BINARY = frozenset({"full", "causal", "strict", "band", "documents"})
"""Structures of zeros and ones."""
