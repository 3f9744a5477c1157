"""Terms that sum over a writer position: masked contractions, chained ones from the innermost writer outwards.

In: the factors of a term. Out: a node a mask, with what stands at the reader and at the writer as its operands.
"""

from __future__ import annotations

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Context
from ssdc.graph.elementwise import ordered
from ssdc.graph.factors import (
    Factor,
    Left,
    as_node,
    ends_of,
    in_a_word,
    is_mask,
    mask_inside,
    multiplied,
    scalar,
    short,
    span_at,
    tensors,
    through_pairs,
)
from ssdc.graph.masks import multiply
from ssdc.graph.scope import index_span
from ssdc.syntax import ast

MOST_OPERANDS = 3
"""Factors a side of a contraction keeps apart; the exact search of pairwise orders takes seven in all."""


def summed_over_time(ctx: Context, factors: list[Factor], left: Left, name: str, summed: frozenset[str]) -> ir.Scalar:
    """The expression of a term that sums over writer positions; its contractions become nodes."""
    reader = ctx.scope.reader
    masks = [factor for factor in factors if is_mask(ctx, factor)]
    plain = [factor for factor in factors if not is_mask(ctx, factor)]
    for factor in plain:
        if len(factor.positions) > 1 and not isinstance(factor.expr, ast.TensorRef):
            for ref in tensors(factor.expr):
                if ref.name in ctx.scope.masks:
                    raise ctx.fail(mask_inside(ref, in_a_word(factor.expr)))
            one, other = sorted(factor.positions, key=lambda p: (p != reader, p))[:2]
            where = f"inside {in_a_word(factor.expr)}"
            what = f"the positions '{one}' and '{other}' meet {where}, which no mask can take apart"
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
        return through_pairs(ctx, factors, left, name)
    if not masks and reader not in left.positions:
        return through_pairs(ctx, plain, left, name)
    counter = 0
    while len(writers := sorted(_writers(ctx, masks, plain))) > 1:
        counter += 1
        leaf = _leaf(ctx, masks, writers, left)
        masks, plain = _peel(ctx, masks, plain, left, leaf, f"{name}.{leaf}{counter}")
    (writer,) = writers
    return _contract(ctx, masks, plain, left, reader, writer, name)


def _writers(ctx: Context, masks: list[Factor], plain: list[Factor]) -> set[str]:
    found = set().union(*(factor.positions for factor in (*masks, *plain)))
    return found - {ctx.scope.reader}


def _leaf(ctx: Context, masks: list[Factor], writers: list[str], left: Left) -> str:
    """A writer position from which no mask reads on."""
    readers = {ends_of(ctx, mask)[0] for mask in masks}
    for writer in writers:
        if writer not in readers:
            return writer
    span, path = masks[0].expr.span, " and ".join(f"[{','.join(ends_of(ctx, mask))}]" for mask in masks)
    what = f"the masks of this term read in a circle, {path}"
    raise ctx.fail(errors.BadPosition(span, what=what, hint="masks chain positions one way: M[t,s] * N[s,r]"))


def _peel(
    ctx: Context, masks: list[Factor], plain: list[Factor], left: Left, writer: str, name: str
) -> tuple[list[Factor], list[Factor]]:
    """The term with all that stands at one writer position contracted into a tensor at that mask's reader."""
    mine = [mask for mask in masks if ends_of(ctx, mask)[1] == writer]
    ends = {ends_of(ctx, mask)[0] for mask in mine}
    if len(ends) != 1:
        one = min(ends) if ends else ctx.scope.reader
        if ends:
            what = f"masks read '{writer}' from several positions, {' and '.join(sorted(ends))}"
            raise ctx.fail(
                errors.BadPosition(
                    mine[-1].expr.span, what=what, hint=f"give the sum over '{writer}' a line of its own"
                )
            )
        span = next((span_at(factor.expr, writer) for factor in plain if writer in factor.positions), left.span)
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
    done = Factor(mine[0].expr, False, kept, frozenset({reader}), inner.node)
    return others, [*outside, done]


def _contract(
    ctx: Context, masks: list[Factor], plain: list[Factor], left: Left, reader: str, writer: str, name: str
) -> ir.Scalar:
    if not masks:
        span = next((span_at(f.expr, writer) for f in plain if writer in f.positions), left.span)
        raise ctx.fail(errors.NeedsMask(span, reader=reader, writer=writer))
    for mask in masks:
        if mask.inverse:
            raise ctx.fail(
                errors.BadPosition(
                    mask.expr.span,
                    what=f"the term divides by the mask '{short(mask.expr)}', which is zero in places",
                    hint="a mask is a factor; to divide by its row sum, define that on a line of its own",
                )
            )
        if ends_of(ctx, mask) != (reader, writer):
            assert isinstance(mask.expr, ast.TensorRef)
            ends = f"[{','.join(ends_of(ctx, mask))}]"
            what = f"the mask '{mask.expr.name}' is read at {ends}, and this term reads from '{reader}' to '{writer}'"
            hint = f"write [...,{reader},{writer}], reader first; for time running backwards declare it with `reverse`"
            raise ctx.fail(errors.BadPosition(index_span(mask.expr, ends_of(ctx, mask)[0]), what=what, hint=hint))
    mask_node = ctx.tensor(short(masks[0].expr), left.span) if len(masks) == 1 else _product(ctx, masks, name)
    scale = [factor for factor in plain if not factor.atoms and not factor.positions]
    at_writer = [factor for factor in plain if writer in factor.positions]
    at_reader = [factor for factor in plain if factor not in at_writer and factor not in scale]
    readers = _merge(ctx, [as_node(ctx, factor, name) for factor in at_reader], name)
    writers = _merge(ctx, [as_node(ctx, factor, name) for factor in at_writer], name)
    if scale:
        expr = multiplied([(scalar(ctx, factor), factor.inverse) for factor in scale])
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
