"""Equations: a definition's right side -> maps, linear contractions and masked contractions (language.md, "Equations").

Each term is a product of factors. One that sums over a writer position becomes a `Contraction` with the term's mask; one
that sums over other axes a `Linear`; what remains is elementwise. Terms that chain positions through several masks are
peeled from the innermost writer outwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Broken, Context
from ssdc.graph.elementwise import check_functions, direct_axes, free_axes, lower, ordered, positions
from ssdc.graph.scope import index_span
from ssdc.graph.selfreads import check_self_reads
from ssdc.graph.terms import Product, addends, sum_of_products
from ssdc.source import Span
from ssdc.structures.walk import walk
from ssdc.syntax import ast

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST_TERMS = 256
"""Terms of one equation, multiplied out."""
MOST_AT_ONCE = 6
"""Operands of one einsum: the exact search of pairwise orders grows as 3^n."""
MOST_OPERANDS = 3
"""Factors a side of a contraction keeps apart; the exact search of pairwise orders takes seven in all."""


@dataclass(frozen=True)
class Factor:
    """A factor of a term: an expression, or a node that an inner contraction left."""

    expr: ast.Expr
    inverse: bool
    atoms: tuple[str, ...]
    """Without positions."""
    positions: frozenset[str]
    node: str | None = None


@dataclass(frozen=True)
class Left:
    """The left side: its name, and its atoms and positions in order."""

    name: str
    axes: tuple[str, ...]
    positions: frozenset[str]
    ref: ast.TensorRef
    """As written, for diagnostics."""

    @property
    def span(self) -> Span:
        return self.ref.span


def lower_equation(ctx: Context, target: ast.TensorRef, value: ast.Expr) -> str:
    """The node of a definition with one target."""
    axes = ctx.scope.axes_of(target)
    times = frozenset(ctx.times(axes))
    before = len(ctx.scope.faults)
    check_functions(ctx, value)
    if times and ctx.scope.reader not in times:
        what = f"'{target.name}' is defined at the writer position '{min(times)}'"
        hint = f"define it at the reader position '{ctx.scope.reader}'; it may be read at any position"
        raise ctx.fail(errors.BadPosition(target.span, what=what, hint=hint))
    left = Left(target.name, ctx.atoms_of(axes), times, target)
    terms = sum_of_products(value, lambda expr: _mixed(ctx, expr, left), MOST_TERMS + 1)
    if len(terms) > MOST_TERMS:
        what = f"the expression has more than {MOST_TERMS} terms when multiplied out"
        raise ctx.fail(
            errors.BadCall(value.span, what=what, hint="give sums a line of their own: `e[...] = a[...] + b[...]`")
        )
    if target.name in {ref.name for ref in _tensors(value)}:
        check_self_reads(ctx, target, terms)
        others = [ref for ref in _tensors(value) if ref.name != target.name]
        _every(lambda ref: ctx.tensor(ref.name, ref.span) if ref.name in ctx.scope.masks else ctx.read(ref), others)
        what = f"the recursive equation of '{target.name}'"
        hint = "it has a reference (ssdc.reference), and no generated code so far"
        if len(ctx.scope.faults) == before:
            ctx.scope.report(errors.NotLowered(target.span, what=what, hint=hint))
    if len(ctx.scope.faults) > before:
        raise Broken
    factors = _every(lambda product: _factors(ctx, product), terms)
    lowered = _every(
        lambda pair: _term(ctx, pair[1][0], pair[1][1], left, pair[0]),
        list(enumerate(zip(terms, factors, strict=True))),
    )
    _check_left(ctx, left, [axis for term in lowered for axis in _axes(ctx, term)])
    if len(lowered) == 1 and isinstance(lowered[0], ir.Ref) and ctx.nodes[lowered[0].node].axes == left.axes:
        return ctx.name(lowered[0].node, f"{left.name}:1", left.name)
    total = lowered[0]
    for term in lowered[1:]:
        negative = isinstance(term, ir.Apply) and term.function == "neg"
        total = ir.Apply("-", (total, term.arguments[0])) if negative else ir.Apply("+", (total, term))  # type: ignore[union-attr]
    return ctx.add(ir.Map(target.name, left.axes, total, kind=_kind(total), span=target.span))


def _every(do: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What `do` makes of each item; all are tried before the statement is given up."""
    made: list[Made] = []
    broken = False
    for item in items:
        try:
            made.append(do(item))
        except Broken:
            broken = True
    if broken:
        raise Broken
    return made


def _kind(expr: ir.Scalar) -> ir.Kind:
    comparison = isinstance(expr, ir.Apply) and expr.function in ("<", "<=", ">", ">=", "==", "!=")
    return "bool" if comparison else "real"


def _tensors(expr: ast.Expr) -> list[ast.TensorRef]:
    match expr:
        case ast.TensorRef(indices=indices):
            inner = [index.tensor for index in indices if isinstance(index, ast.LookupIndex)]
            return [expr, *inner]
        case ast.Negate(operand=operand) | ast.Reduce(operand=operand):
            return _tensors(operand)
        case ast.Binary(left=left, right=right) | ast.Compare(left=left, right=right):
            return _tensors(left) + _tensors(right)
        case ast.Call(arguments=arguments):
            return [ref for argument in arguments for ref in _tensors(argument)]
        case ast.Number() | ast.Name() | ast.Position():
            return []


def _mixed(ctx: Context, expr: ast.Expr, left: Left) -> bool:
    """Whether a sum among the factors must be multiplied out: it holds a mask, or positions that meet inside it.

    Multiplying out is right where every addend has the axes that the term sums over; anything else is a fault.
    """
    masks = any(ref.name in ctx.scope.masks for ref in _tensors(expr))
    if not masks and (len(positions(ctx, expr)) < 2 or len(left.positions) > 1):
        return False
    summed = [
        frozenset(ctx.atoms_of(free_axes(ctx, addend))) - set(left.axes) - left.positions for addend in addends(expr)
    ]
    if len(set(summed)) > 1:
        what = "this sum mixes positions, and its terms are summed over different axes"
        raise ctx.fail(errors.BadPosition(expr.span, what=what, hint="multiply it out: write the terms one by one"))
    return True


def _axes(ctx: Context, expr: ir.Scalar) -> tuple[str, ...]:
    match expr:
        case ir.Index(atoms=atoms):
            return atoms
        case ir.Apply(arguments=arguments):
            return tuple(axis for argument in arguments for axis in _axes(ctx, argument))
        case ir.Fold(function=function, operand=operand, over=over):
            inner = _axes(ctx, operand)
            return inner if function.endswith(("norm", "softmax")) else tuple(a for a in inner if a not in over)
        case _:
            return tuple(axis for name in ir.refs(expr) for axis in ctx.nodes[name].axes)


def _check_left(ctx: Context, left: Left, have: list[str]) -> None:
    missing = list(dict.fromkeys(ctx.axis_of(axis) for axis in left.axes if axis not in have))
    if missing:
        axes = f"axis '{missing[0]}'" if len(missing) == 1 else "axes " + ", ".join(f"'{axis}'" for axis in missing)
        raise ctx.fail(errors.MissingLeftAxis(index_span(left.ref, missing[0]), name=left.name, axes=axes))


def _factors(ctx: Context, product: Product) -> list[Factor]:
    return _every(lambda factor: _factor(ctx, *factor), product.factors)


def _term(ctx: Context, product: Product, factors: list[Factor], left: Left, place: int) -> ir.Scalar:
    """One term as an expression over nodes; the contractions in it become nodes of their own."""
    _check_summed(ctx, factors, left)
    summed = frozenset().union(*(factor.positions for factor in factors)) - left.positions
    name = f"{left.name}:{place + 1}"
    if len(left.positions) > 1:
        expr = _over_pairs(ctx, factors, left, name)
    elif summed - {ctx.scope.reader}:
        expr = _summed_over_time(ctx, factors, left, name, summed)
    else:
        expr = _at_one_position(ctx, factors, left.axes, name)
    return ir.Apply("neg", (expr,)) if product.sign < 0 else expr


def _factor(ctx: Context, expr: ast.Expr, inverse: bool) -> Factor:
    _every(lambda ref: ctx.tensor(ref.name, ref.span) if ref.name in ctx.scope.masks else ctx.read(ref), _tensors(expr))
    axes = free_axes(ctx, expr)
    for part in walk(expr):
        if isinstance(part, ast.Position) and part.axis not in ctx.scope.axes and not ctx.scope.is_time(part.axis):
            raise ctx.fail(errors.UnknownAxis(part.span, name=part.axis))
        if isinstance(part, ast.Reduce):
            _every(lambda index: _known_axis(ctx, index), part.over)
    atoms = ctx.atoms_of(tuple(axis for axis in axes if not ctx.scope.is_time(axis)))
    return Factor(expr, inverse, tuple(dict.fromkeys(atoms)), positions(ctx, expr))


def _known_axis(ctx: Context, index: ast.AxisIndex | ast.FlatIndex) -> None:
    for name in (index.name,) if isinstance(index, ast.AxisIndex) else index.names:
        if name not in ctx.scope.axes and not ctx.scope.is_time(name):
            raise ctx.fail(errors.UnknownAxis(index.span, name=name))


def _check_summed(ctx: Context, factors: list[Factor], left: Left) -> None:
    """An axis that is summed must occur outside functions; positions inside them are told of by name."""
    direct = {atom for factor in factors for axis in direct_axes(ctx, factor.expr) for atom in ctx.atoms(axis)}
    for factor in factors:
        for axis in free_axes(ctx, factor.expr):
            atoms = set(ctx.atoms(axis))
            if not atoms <= set(left.axes) | direct and not (ctx.scope.is_time(axis) and axis in left.positions):
                raise ctx.fail(_hidden(ctx, factor.expr, axis))


def _mask_inside(ref: ast.TensorRef, where: str) -> errors.Fault:
    hint = "a mask is a factor of a term, beside the tensors that it is multiplied by"
    return errors.BadPosition(ref.span, what=f"the mask '{ref.name}' stands inside {where}", hint=hint)


def _hidden(ctx: Context, expr: ast.Expr, axis: str) -> errors.Fault:
    """The fault of an axis that is summed and stands inside a function only."""
    function, span = "a function", expr.span
    for part in walk(expr):
        if isinstance(part, ast.Call | ast.Reduce) and axis in free_axes(ctx, part):
            function = part.function
            if isinstance(part, ast.Reduce):
                lower(ctx, part)  # a fold over time is a fault of its own
        elif isinstance(part, ast.TensorRef) and axis in ctx.scope.axes_of(part):
            span = index_span(part, axis)
            if part.name in ctx.scope.masks:
                return _mask_inside(part, f"`{function}`")
            break
    if ctx.scope.is_time(axis):
        what = f"the position '{axis}' is summed, but occurs only inside '{function}'"
        reader = ctx.scope.reader
        hint = f"give the inner expression a line of its own at '{reader}', and multiply what it defines by a mask at '{axis}'"
        return errors.BadPosition(span, what=what, hint=hint)
    if function == "a function":  # a power, a divisor, a sum in brackets
        function = "^" if isinstance(expr, ast.Binary) and expr.op == "^" else function
    return errors.SummedInsideFunction(span, axis=axis, function=function)


# ---- terms at one position -------------------------------------------------------------------------------------------


def _scalar(ctx: Context, factor: Factor, pairs: bool = False) -> ir.Scalar:
    if factor.node is not None:
        return ir.Ref(factor.node)
    return lower(ctx, factor.expr, pairs=pairs)


def _multiply(factors: list[tuple[ir.Scalar, bool]]) -> ir.Scalar:
    """A product of expressions, those marked dividing."""
    total: ir.Scalar | None = None
    for expr, inverse in sorted(factors, key=lambda pair: pair[1]):
        if total is None:
            total = ir.Apply("/", (ir.Const(1.0), expr)) if inverse else expr
        else:
            total = ir.Apply("/" if inverse else "*", (total, expr))
    return total if total is not None else ir.Const(1.0)


def _as_node(ctx: Context, factor: Factor, name: str, pairs: bool = False) -> str:
    """A factor as a node of its own."""
    expr = _scalar(ctx, factor, pairs)
    if isinstance(expr, ir.Ref) and not factor.inverse:
        return expr.node
    expr = ir.Apply("/", (ir.Const(1.0), expr)) if factor.inverse else expr
    axes = tuple(dict.fromkeys(_axes(ctx, expr)))
    return ctx.add(ir.Map(f"{name}/{_short(factor.expr)}", ordered(ctx, axes), expr, span=factor.expr.span))


def _what(expr: ast.Expr) -> str:
    """An expression in a word, for diagnostics."""
    match expr:
        case ast.Call(function=function) | ast.Reduce(function=function):
            return f"`{function}`"
        case ast.Binary(op="^"):
            return "a power"
        case _:
            return "a divisor or a sum in brackets"


def _at(expr: ast.Expr, position: str) -> Span:
    """The first index of an expression that is this position."""
    for ref in _tensors(expr):
        span = index_span(ref, position)
        if span != ref.span:
            return span
    return expr.span


def _short(expr: ast.Expr) -> str:
    names = [ref.name for ref in _tensors(expr)]
    return names[0] if names else "const"


def _at_one_position(
    ctx: Context, factors: list[Factor], left: tuple[str, ...], name: str, pairs: bool = False
) -> ir.Scalar:
    """A term without a summed position: elementwise, or einsum over the factors that share summed atoms."""

    def summed(factor: Factor) -> set[str]:
        return set(factor.atoms) - set(left)

    inner = [factor for factor in factors if summed(factor)]
    outer = [(_scalar(ctx, factor, pairs), factor.inverse) for factor in factors if not summed(factor)]
    if inner:
        operands = _fewer(ctx, [_as_node(ctx, factor, name, pairs) for factor in inner], left, name)
        have = {axis for operand in operands for axis in ctx.nodes[operand].axes}
        axes = tuple(axis for axis in left if axis in have)
        outer.insert(0, (ir.Ref(ctx.add(ir.Linear(name, axes, operands, span=inner[0].expr.span))), False))
    return _multiply(outer)


def _fewer(ctx: Context, operands: list[str], left: tuple[str, ...], name: str) -> tuple[str, ...]:
    """At most `MOST_AT_ONCE` operands: of more, the first ones are contracted in a node of their own."""
    while len(operands) > MOST_AT_ONCE:
        first, rest = operands[:MOST_AT_ONCE], operands[MOST_AT_ONCE:]
        wanted = set(left).union(*(ctx.nodes[operand].axes for operand in rest))
        axes = tuple(dict.fromkeys(axis for operand in first for axis in ctx.nodes[operand].axes if axis in wanted))
        operands = [ctx.add(ir.Linear(f"{name}/product", ordered(ctx, axes), tuple(first))), *rest]
    return tuple(operands)


# ---- terms over pairs of positions -----------------------------------------------------------------------------------


def _over_pairs(ctx: Context, factors: list[Factor], left: Left, name: str) -> ir.Scalar:
    """A term of a tensor that has a reader and a writer position: both stay, and memory is quadratic."""
    extra = frozenset().union(*(factor.positions for factor in factors)) - left.positions
    if extra:
        what = f"'{left.name}' runs over pairs of positions, and '{min(extra)}' would be summed besides"
        raise ctx.fail(errors.BadPosition(left.span, what=what, hint="give the inner sum a line of its own"))
    for factor in factors:
        if _is_mask(ctx, factor):
            _ends(ctx, factor)
    return _at_one_position(ctx, factors, left.axes, name, pairs=True)


def _through_pairs(ctx: Context, factors: list[Factor], left: Left, name: str) -> ir.Scalar:
    """A sum over a writer position through a tensor over pairs (softmax weights): einsum over time."""
    operands = _fewer(ctx, [_as_node(ctx, factor, name, pairs=True) for factor in factors], left.axes, name)
    have = {axis for operand in operands for axis in ctx.nodes[operand].axes}
    axes = tuple(axis for axis in left.axes if axis in have)
    return ir.Ref(ctx.add(ir.Linear(name, axes, operands, span=left.span)))


# ---- terms that sum over a writer position -----------------------------------------------------------------------------


def _summed_over_time(ctx: Context, factors: list[Factor], left: Left, name: str, summed: frozenset[str]) -> ir.Scalar:
    reader = ctx.scope.reader
    masks = [factor for factor in factors if _is_mask(ctx, factor)]
    plain = [factor for factor in factors if not _is_mask(ctx, factor)]
    for factor in plain:
        if len(factor.positions) > 1 and not isinstance(factor.expr, ast.TensorRef):
            for ref in _tensors(factor.expr):
                if ref.name in ctx.scope.masks:
                    raise ctx.fail(_mask_inside(ref, _what(factor.expr)))
            one, other = sorted(factor.positions, key=lambda p: (p != reader, p))[:2]
            what = f"the positions '{one}' and '{other}' meet inside {_what(factor.expr)}, which no mask can take apart"
            hint = (
                f"multiply it out; or, at quadratic cost, define it over pairs of positions on a line of its own, "
                f"`e[...,{one},{other}] = ...`"
            )
            raise ctx.fail(errors.BadPosition(factor.expr.span, what=what, hint=hint))
    if reader in summed:
        what = f"the reader position '{reader}' is summed: '{left.name}' does not have it"
        hint = f"give '{left.name}' the index '{reader}', and sum that over time on a line of its own"
        raise ctx.fail(errors.BadPosition(left.span, what=what, hint=hint))
    if any(len(factor.positions) > 1 for factor in plain):
        return _through_pairs(ctx, factors, left, name)
    if not masks and reader not in left.positions:
        return _through_pairs(ctx, plain, left, name)
    counter = 0
    while len(writers := sorted(_writers(ctx, masks, plain))) > 1:
        counter += 1
        leaf = _leaf(ctx, masks, writers, left)
        masks, plain = _peel(ctx, masks, plain, left, leaf, f"{name}.{leaf}{counter}")
    (writer,) = writers
    return _contract(ctx, masks, plain, left, reader, writer, name)


def _is_mask(ctx: Context, factor: Factor) -> bool:
    return factor.node is None and isinstance(factor.expr, ast.TensorRef) and factor.expr.name in ctx.scope.masks


def _ends(ctx: Context, mask: Factor) -> tuple[str, str]:
    """The reader and the writer position of a mask factor."""
    assert isinstance(mask.expr, ast.TensorRef)
    axes = ctx.scope.axes_of(mask.expr)
    ctx.check_mask_read(mask.expr)
    return axes[-2], axes[-1]


def _writers(ctx: Context, masks: list[Factor], plain: list[Factor]) -> set[str]:
    found = set().union(*(factor.positions for factor in (*masks, *plain)))
    return found - {ctx.scope.reader}


def _leaf(ctx: Context, masks: list[Factor], writers: list[str], left: Left) -> str:
    """A writer position from which no mask reads on."""
    readers = {_ends(ctx, mask)[0] for mask in masks}
    for writer in writers:
        if writer not in readers:
            return writer
    span, path = masks[0].expr.span, " and ".join(f"[{','.join(_ends(ctx, mask))}]" for mask in masks)
    what = f"the masks of this term read in a circle, {path}"
    raise ctx.fail(errors.BadPosition(span, what=what, hint="masks chain positions one way: M[t,s] * N[s,r]"))


def _peel(
    ctx: Context, masks: list[Factor], plain: list[Factor], left: Left, writer: str, name: str
) -> tuple[list[Factor], list[Factor]]:
    """The term with all that stands at one writer position contracted into a tensor at that mask's reader."""
    mine = [mask for mask in masks if _ends(ctx, mask)[1] == writer]
    ends = {_ends(ctx, mask)[0] for mask in mine}
    if len(ends) != 1:
        one = min(ends) if ends else ctx.scope.reader
        if ends:
            what = f"masks read '{writer}' from several positions, {' and '.join(sorted(ends))}"
            raise ctx.fail(
                errors.BadPosition(
                    mine[-1].expr.span, what=what, hint=f"give the sum over '{writer}' a line of its own"
                )
            )
        span = next((_at(factor.expr, writer) for factor in plain if writer in factor.positions), left.span)
        raise ctx.fail(errors.NeedsMask(span, reader=one, writer=writer))
    (reader,) = ends
    inside = [factor for factor in plain if writer in factor.positions]
    others = [factor for factor in masks if factor not in mine]
    outside = [factor for factor in plain if factor not in inside]
    used = set(left.axes).union(*(factor.atoms for factor in (*others, *outside)))
    have = dict.fromkeys(atom for factor in (*mine, *inside) for atom in factor.atoms)
    kept = tuple(atom for atom in have if atom in used)
    axes = ordered(ctx, (*kept, ctx.scope.reader))
    inner = _contract(ctx, mine, inside, Left(left.name, axes, frozenset({reader}), left.ref), reader, writer, name)
    assert isinstance(inner, ir.Ref)
    done = Factor(left_expr(mine), False, kept, frozenset({reader}), inner.node)
    return others, [*outside, done]


def left_expr(masks: list[Factor]) -> ast.Expr:
    """The expression that stands for an inner contraction in diagnostics: its mask."""
    return masks[0].expr


def _contract(
    ctx: Context, masks: list[Factor], plain: list[Factor], left: Left, reader: str, writer: str, name: str
) -> ir.Scalar:
    if not masks:
        span = next((_at(f.expr, writer) for f in plain if writer in f.positions), left.span)
        raise ctx.fail(errors.NeedsMask(span, reader=reader, writer=writer))
    for mask in masks:
        if mask.inverse:
            raise ctx.fail(
                errors.BadPosition(
                    mask.expr.span,
                    what=f"the term divides by the mask '{_short(mask.expr)}', which is zero in places",
                    hint="a mask is a factor; to divide by its row sum, define that on a line of its own",
                )
            )
        if _ends(ctx, mask) != (reader, writer):
            assert isinstance(mask.expr, ast.TensorRef)
            what = f"the mask '{mask.expr.name}' is read at [{','.join(_ends(ctx, mask))}], and this term reads from '{reader}' to '{writer}'"
            hint = f"write [...,{reader},{writer}], the reader first; for time running backwards declare the mask with `reverse`"
            raise ctx.fail(errors.BadPosition(index_span(mask.expr, _ends(ctx, mask)[0]), what=what, hint=hint))
    mask = masks[0].expr.name if len(masks) == 1 else None  # type: ignore[union-attr]
    mask_node = ctx.tensor(mask, left.span) if mask else _product(ctx, masks, name)
    scale = [factor for factor in plain if not factor.atoms and not factor.positions]
    at_writer = [factor for factor in plain if writer in factor.positions]
    at_reader = [factor for factor in plain if factor not in at_writer and factor not in scale]
    readers = _merge(ctx, [_as_node(ctx, factor, name) for factor in at_reader], name)
    writers = _merge(ctx, [_as_node(ctx, factor, name) for factor in at_writer], name)
    if scale:
        expr = _multiply([(_scalar(ctx, factor), factor.inverse) for factor in scale])
        side = readers or writers
        if not side:
            writers = [ctx.add(ir.Map(f"{name}/scale", (ctx.scope.reader,), expr))]
        else:
            least = min(range(len(side)), key=lambda k: len(ctx.nodes[side[k]].axes))
            node = ctx.nodes[side[least]]
            side[least] = ctx.add(ir.Map(f"{side[least]}*", node.axes, ir.Apply("*", (expr, ir.Ref(node.name)))))
    if not writers:  # a row sum of the mask: every position writes one
        writers = [ctx.add(ir.Map(f"{name}/one", (ctx.scope.reader,), ir.Const(1.0)))]
    have = {axis for node in (mask_node, *readers, *writers) for axis in ctx.nodes[node].axes} | {ctx.scope.reader}
    canonical = tuple(ctx.scope.reader if ctx.scope.is_time(axis) else axis for axis in left.axes)
    axes = tuple(axis for axis in canonical if axis in have)
    made = ctx.add(ir.Contraction(name, axes, mask_node, tuple(readers), tuple(writers), span=left.span))
    ctx.equations.setdefault(made, left.name)
    return ir.Ref(made)


def _product(ctx: Context, masks: list[Factor], name: str) -> str:
    """The node of several masks multiplied elementwise."""
    from ssdc.graph.masks import multiply

    nodes = [ctx.nodes[ctx.tensor(mask.expr.name, mask.expr.span)] for mask in masks]  # type: ignore[union-attr]
    made = multiply(f"{name}/mask", [node for node in nodes if isinstance(node, ir.Mask)], masks[0].expr.span)
    if made is None:
        strict = any(isinstance(node, ir.Mask) and node.strict for node in nodes)
        raise ctx.fail(errors.OpposedMasks(masks[-1].expr.span, left="nothing" if strict else "only the diagonal"))
    return ctx.add(made)


def _merge(ctx: Context, nodes: list[str], name: str) -> list[str]:
    """At most `MOST_OPERANDS` factors: those whose axes another one has are multiplied into it."""
    nodes = sorted(nodes, key=lambda node: len(ctx.nodes[node].axes))
    while len(nodes) > MOST_OPERANDS:
        small = nodes.pop(0)
        inside = [k for k, node in enumerate(nodes) if set(ctx.nodes[small].axes) <= set(ctx.nodes[node].axes)]
        k = inside[0] if inside else 0
        axes = ordered(ctx, tuple(dict.fromkeys(ctx.nodes[small].axes + ctx.nodes[nodes[k]].axes)))
        product = ir.Apply("*", (ir.Ref(small), ir.Ref(nodes[k])))
        nodes[k] = ctx.add(ir.Map(f"{name}/product", axes, product))
        nodes.sort(key=lambda node: len(ctx.nodes[node].axes))
    return nodes


__all__ = ["Broken", "lower_equation"]
