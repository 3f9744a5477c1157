"""Which recursive equations are systems that can be solved: unit triangular, so linear in the tensor and one way.

In: a definition that reads its own tensor. Out: nothing, or the fault that says why it is no such system. How it is
solved is not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ssdc import errors
from ssdc.errors import Fault
from ssdc.graph.context import Context
from ssdc.graph.terms import Product
from ssdc.structures.facts import facts_of
from ssdc.structures.walk import walk
from ssdc.syntax import ast


def check_self_reads(ctx: Context, target: ast.TensorRef, terms: Iterable[Product]) -> None:
    """Report where a recursive equation does not read itself as a factor, at a writer position, under a strict mask."""
    directions: set[str] = set()
    for term in terms:
        own = [(ref, plain) for factor, inverse in term.factors for ref, plain in _reads(factor, target.name, inverse)]
        for place, (ref, plain) in enumerate(own):
            fault = _fault(ctx, target, term, ref, plain, place, directions)
            if fault is not None:
                ctx.scope.report(fault)


def _reads(factor: ast.Expr, name: str, inverse: bool) -> Iterator[tuple[ast.TensorRef, bool]]:
    """The reads of a tensor in a factor, each with whether it is the factor."""
    for part in walk(factor):
        if isinstance(part, ast.TensorRef) and part.name == name:
            yield part, part is factor and not inverse


def _fault(
    ctx: Context,
    target: ast.TensorRef,
    term: Product,
    ref: ast.TensorRef,
    plain: bool,
    place: int,
    directions: set[str],
) -> Fault | None:
    scope, name = ctx.scope, target.name
    reader, writer = scope.reader, (*scope.writers, "s")[0]
    times = ctx.times(scope.axes_of(ref))
    lagged = any(isinstance(index, ast.LagIndex) for index in ref.indices)
    path = f"{name} -> {name}"
    if reader not in ctx.times(scope.axes_of(target)) or len(times) != 1 or times[0] == reader or lagged:
        form = f"`S[{reader},{writer}] * {name}[...,{writer},...]`"
        hint = f"a tensor reads itself at a writer position under a strict mask, {form}"
        if lagged:
            hint = (
                f"a recurrence over time is a mask: `mask L[...,{reader},{writer}] = semiseparable(a[...])`, then "
                f"`{name}[...] = L[...,{reader},{writer}] * x[...,{writer},...]`"
            )
        return errors.Circular(ref.span, name=name, path=path, hint=hint)
    if not plain or place:
        what = f"the recursive equation of '{name}' is not linear in '{name}'"
        return errors.BadPosition(
            ref.span, what=what, hint=f"'{name}' may stand once in a term, as a factor of its own"
        )
    ways = [_way(ctx, factor, reader, times[0]) for factor, inverse in term.factors if not inverse]
    masks = [way for way in ways if way is not None]
    if not any(strict for _, strict in masks):
        hint = (
            f"multiply by a mask that leaves the diagonal out: `mask S[{reader},{writer}] = strict`, "
            f"`S[{reader},{times[0]}] * {name}[...,{times[0]},...]`"
        )
        return errors.Circular(ref.span, name=name, path=path, hint=hint)
    directions.update(way for way, _ in masks if way != "both")
    if len(directions) != 1:
        what = f"the recursive equation of '{name}' reads both earlier and later positions"
        return errors.BadPosition(ref.span, what=what, hint="such a system is not triangular; read one way only")
    return None


def _way(ctx: Context, factor: ast.Expr, reader: str, writer: str) -> tuple[str, bool] | None:
    """The direction of a mask factor between two positions, and whether it is strict."""
    if not isinstance(factor, ast.TensorRef) or factor.name not in ctx.scope.masks:
        return None
    if ctx.times(ctx.scope.axes_of(factor)) != (reader, writer):
        return None
    facts = [facts_of(structure, _Quiet(ctx)) for structure in ctx.scope.masks[factor.name].structures]
    ways = [each.direction for each in facts if each.direction != "both"]
    return ways[0] if ways else "both", any(each.strict for each in facts)


class _Quiet:
    """A scope that takes no note of faults: the mask's own lowering reports them."""

    def __init__(self, ctx: Context) -> None:
        self.scope = ctx.scope
        self.reader, self.writers = ctx.scope.reader, ctx.scope.writers

    def definition(self, ref: ast.TensorRef) -> ast.Expr | None:
        return self.scope.definition(ref)

    def kind(self, name: str) -> str:
        return self.scope.kind(name)

    def is_size(self, name: str) -> bool:
        return self.scope.is_size(name)

    def size(self, name: str) -> int | None:
        return self.scope.size(name)

    def report(self, fault: Fault) -> None:
        """Nothing."""
