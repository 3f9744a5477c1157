"""The layers that a model is made of: which, with what sizes, how often.

In: a layer's scope and the layers of its file. Out: a `Member` for each submodule that uses no others, submodules of
submodules counted through; equal ones are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from ssdc.graph.scope import Scope, evaluate, resolve
from ssdc.syntax import ast


@dataclass(frozen=True)
class Member:
    """A layer with its sizes, and how many of it there are."""

    layer: str
    sizes: tuple[tuple[str, int], ...]
    count: int


def own_parameters(scope: Scope, layers: Mapping[str, ast.Layer]) -> int:
    """The learned numbers of a model and of the models within it, without those of their members."""
    declared = [symbol for symbol in scope.symbols.values() if symbol.role == "param"]
    count = sum(prod(scope.axes[axis].size or 1 for axis in symbol.axes) for symbol in declared)
    for use in scope.models.values():
        for instance, times in _instances(scope, use.model, 1):
            inner = _inner(scope, instance, layers)
            count += times * own_parameters(inner, layers) if inner.models else 0
    return count


def members(scope: Scope, layers: Mapping[str, ast.Layer]) -> tuple[Member, ...]:
    """The layers that a layer uses, in order of first use; none for a layer that uses none.

    >>> from ssdc.syntax.parser import parse
    >>> from ssdc.source import Source
    >>> text = '''layer f(D) { time t axis d = D input x[t,d] y[t,d] = 2 * x[t,d] output y }
    ... layer g(D = 4) { time t axis d = D input x[t,d] use u = chain(f(D = D) * 2, f(D = 2 * D / 2)) * 3
    ... y[t,d] = u(x[t,d]) output y }'''
    >>> program = parse(Source(text))
    >>> members(resolve(program.layers[1]), {one.name: one for one in program.layers})
    (Member(layer='f', sizes=(('D', 4),), count=9),)
    """
    found: dict[tuple[str, tuple[tuple[str, int], ...]], int] = {}
    for use in scope.models.values():
        for instance, count in _instances(scope, use.model, 1):
            inner = _inner(scope, instance, layers)
            sizes = tuple((name, evaluate(value, scope) or 1) for name, value in instance.sizes)
            for one in members(inner, layers) or (Member(instance.layer, tuple(sorted(sizes)), 1),):
                key = one.layer, one.sizes
                found[key] = found.get(key, 0) + one.count * count
    return tuple(Member(layer, sizes, count) for (layer, sizes), count in found.items())


def _inner(scope: Scope, instance: ast.Instance, layers: Mapping[str, ast.Layer]) -> Scope:
    return resolve(layers[instance.layer], {name: evaluate(value, scope) or 1 for name, value in instance.sizes})


def _instances(scope: Scope, model: ast.Model, count: int) -> Iterator[tuple[ast.Instance, int]]:
    match model:
        case ast.Instance():
            yield model, count
        case ast.Repeat(member=member, count=times):
            yield from _instances(scope, member, count * (evaluate(times, scope) or 1))
        case ast.Chain(members=several):
            for one in several:
                yield from _instances(scope, one, count)
