"""Mask declarations -> `Mask` nodes: the facts of `ssdc.structures` with their expressions lowered onto the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ssdc import errors
from ssdc.graph import nodes as ir
from ssdc.graph.context import Context
from ssdc.graph.elementwise import check_functions, free_axes, lower, ordered
from ssdc.graph.scope import evaluate
from ssdc.source import Span
from ssdc.structures.facts import Facts, Gate, Kernel, facts_of
from ssdc.structures.product import product
from ssdc.syntax import ast
from ssdc.syntax.printer import print_expr


def lower_mask(ctx: Context, mask: ast.Mask) -> str:
    """The node of a mask declaration."""
    name, scope = mask.tensor.name, ctx.scope
    axes = _declared(ctx, mask)
    before = len(scope.faults)
    for structure in mask.structures:
        for argument in structure.arguments:
            check_functions(ctx, argument)
    if len(scope.faults) > before:
        raise ctx.fail_silently()
    each = [facts_of(structure, scope) for structure in mask.structures]
    facts = product(each, mask.tensor.span, scope)
    if len(scope.faults) > before:
        raise ctx.fail_silently()
    for structure, one in zip(mask.structures, each, strict=True):
        if one.missing:
            hint = f"{one.missing}; it has a reference (ssdc.reference)"
            raise ctx.fail(errors.NotLowered(structure.span, what=f"the mask structure `{structure.name}`", hint=hint))
    made = [(gate, _gate(ctx, gate, name)) for gate in sorted(facts.gates, key=lambda gate: gate.log is None)]

    def gates(*, log: bool, exclusive: bool) -> tuple[str, ...]:
        return tuple(n for gate, n in made if (gate.log is not None) == log and gate.exclusive == exclusive)

    kernels = tuple(_kernel(ctx, kernel) for kernel in facts.kernels)
    documents = tuple(_documents(ctx, ref) for ref in facts.documents)
    node = ir.Mask(
        name,
        ctx.atoms_of(axes),
        direction=facts.direction,
        strict=facts.strict,
        log_gates=gates(log=True, exclusive=False),
        exclusive_log_gates=gates(log=True, exclusive=True),
        gates=gates(log=False, exclusive=False),
        exclusive_gates=gates(log=False, exclusive=True),
        kernels=kernels,
        width=_width(ctx, facts, kernels),
        documents=documents,
        bounded=facts.bounded,
        doubts=tuple(print_expr(gate.expr) for gate in facts.gates if not gate.bounded),
        span=mask.tensor.span,
        origins=(
            *(ir.Origin("gate", gate.expr.span, node) for gate, node in made),
            *(ir.Origin("kernel", k.tensor.span, node.node) for k, node in zip(facts.kernels, kernels, strict=True)),
            *(ir.Origin("documents", ref.span, node) for ref, node in zip(facts.documents, documents, strict=True)),
            *(ir.Origin("doubt", gate.expr.span) for gate in facts.gates if not gate.bounded),
            *(ir.Origin("width", width.span) for width in facts.widths),
            *(ir.Origin("reach", s.span) for s, one in zip(mask.structures, each, strict=True) if not one.windowed),
        ),
    )
    _check_axes(ctx, mask, node, axes)
    return ctx.add(node)


def _declared(ctx: Context, mask: ast.Mask) -> tuple[str, ...]:
    """The declared axes without the two positions, which must come last, reader first."""
    axes, scope = ctx.scope.axes_of(mask.tensor), ctx.scope
    ends = axes[-2:]
    if len(ends) < 2 or ends[0] != scope.reader or ends[1] not in scope.writers or any(map(scope.is_time, axes[:-2])):
        raise ctx.fail(
            errors.MaskPositions(
                mask.tensor.span, name=mask.tensor.name, reader=scope.reader, writer=(*scope.writers, "s")[0]
            )
        )
    return axes[:-2]


def _gate(ctx: Context, gate: Gate, name: str) -> str:
    expr = gate.log if gate.log is not None else gate.expr
    lowered = lower(ctx, expr)
    if isinstance(lowered, ir.Ref):
        return lowered.node
    axes = ordered(ctx, ctx.atoms_of(free_axes(ctx, expr)))
    what = "log_gate" if gate.log is not None else "gate"
    return ctx.add(ir.Map(f"{name}/{what}", axes, lowered, span=gate.expr.span))


def _kernel(ctx: Context, kernel: Kernel) -> ir.LagKernel:
    return ir.LagKernel(ctx.read(kernel.tensor), kernel.axis, kernel.newest_first)


def _documents(ctx: Context, ref: ast.TensorRef) -> str:
    node = ctx.read(ref)
    if ctx.nodes[node].kind != "int":
        what = f"'{ref.name}' numbers documents and is not an int tensor"
        raise ctx.fail(errors.BadType(ref.span, what=what, hint=f"declare it as `{ref.name}[...] : int`"))
    return node


def _width(ctx: Context, facts: Facts, kernels: Sequence[ir.LagKernel]) -> int | None:
    sizes = ctx.sizes()
    widths = [sizes.get(kernel.axis) for kernel in kernels] + [
        evaluate(width, ctx.scope, True) for width in facts.widths
    ]
    known = [width for width in widths if width is not None]
    return min(known) if known else (1 if widths else None)


def _check_axes(ctx: Context, mask: ast.Mask, node: ir.Mask, axes: tuple[str, ...]) -> None:
    """The axes in front of the positions are exactly those of the arguments, lags aside."""
    lags = {kernel.axis for kernel in node.kernels}
    have = {a for name in node.operands() for a in ctx.nodes[name].axes if not ctx.scope.is_time(a)} - lags
    if set(ctx.atoms_of(axes)) != have:
        used = {ctx.axis_of(atom) for atom in have}
        shown = [axis for axis in ctx.scope.axes if axis in used]
        ends = ctx.scope.axes_of(mask.tensor)[-2:]
        raise ctx.fail(
            errors.MaskAxes(
                mask.tensor.span,
                name=mask.tensor.name,
                declared=_listed(axes),
                found=_listed(shown),
                want=f"{mask.tensor.name}[{','.join((*shown, *ends))}]",
            )
        )


def _listed(axes: Sequence[str]) -> str:
    return f"the ax{'e' if len(axes) > 1 else 'i'}s {', '.join(axes)}" if axes else "no axes"


def multiply(name: str, masks: Sequence[ir.Mask], span: Span) -> ir.Mask | None:
    """Several masks multiplied elementwise; None where a forward one meets a reverse one."""
    directions = {mask.direction for mask in masks} - {"both"}
    if len(directions) > 1:
        return None
    widths = [mask.width for mask in masks if mask.width is not None]
    return ir.Mask(
        name,
        tuple(dict.fromkeys(axis for mask in masks for axis in mask.axes)),
        direction=min(directions) if directions else "both",
        strict=any(mask.strict for mask in masks),
        log_gates=sum((mask.log_gates for mask in masks), ()),
        exclusive_log_gates=sum((mask.exclusive_log_gates for mask in masks), ()),
        gates=sum((mask.gates for mask in masks), ()),
        exclusive_gates=sum((mask.exclusive_gates for mask in masks), ()),
        kernels=sum((mask.kernels for mask in masks), ()),
        width=min(widths) if widths else None,
        documents=tuple(dict.fromkeys(name for mask in masks for name in mask.documents)),
        bounded=all(mask.bounded for mask in masks),
        doubts=sum((mask.doubts for mask in masks), ()),
        span=span,
        origins=sum((mask.origins for mask in masks), ()),
    )


def one_way(mask: ir.Mask) -> tuple[ir.Mask, ...]:
    """A mask that reads both ways, as a forward one and a strict reverse one; any other mask as it is."""
    if mask.direction != "both":
        return (mask,)
    forward = replace(mask, name=f"{mask.name}>", direction="forward")
    return forward, replace(mask, name=f"{mask.name}<", direction="reverse", strict=True)
