"""What the Triton kernels do for one contraction of a plan: its facts, its call, and the launches, without a tensor.

In: operands, an element type and a device's multiprocessors. Out: `Facts` and `Call` as the runtime derives them from
the tensors of a call at the plan's sizes, and the kernels that the cost model then runs. Nothing is rendered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeAlias

from ssdc.codegen.operands import Operand, Operands
from ssdc.codegen.triton import hopper
from ssdc.codegen.triton.configuration import Backward, Call, Forward
from ssdc.codegen.triton.contraction import chain_of, heads_of, lead_of, scales, values_of
from ssdc.codegen.triton.facts import Element, Facts, Gate, Kernel, Own, Skip
from ssdc.codegen.triton.hopper import Gates, Walk
from ssdc.codegen.triton.text import source
from ssdc.plan.roles import Roles, roles

AnyKernel: TypeAlias = Kernel | Walk | Gates


def facts(ops: Operands, dtype: Element) -> Facts:
    """The facts of a contraction that the kernels serve."""
    found, sizes = roles(ops.problem), ops.problem.sizes
    states, columns = (prod(sizes[axis] for axis in axes) for axes in (found.inner, ops.columns or found.outer))
    factors = scales(ops)
    keys = [op for op in ops.writers if (op.text, op.axes) in found.key_operands and op not in factors]
    return Facts(
        dtype,
        states,
        columns,
        _gate(ops, found),
        ops.problem.mask.strict,
        _own(ops),
        bool(factors),
        skip=_skip(ops, found),
        maps=(chain_of(ops, ops.readers), chain_of(ops, keys), chain_of(ops, values_of(ops))),
        norm=ops.norm,
    )


def _skip(ops: Operands, found: Roles) -> Skip:
    if not ops.skip:
        return "none"
    return "column" if set(ops.skip[0].axes) & set(found.outer) else "head"


def call(ops: Operands, processors: int, *, engine: bool = False) -> Call:
    """A call without a state before it, at the plan's sizes; `engine` on a Hopper GPU."""
    found, sizes = roles(ops.problem), ops.problem.sizes
    axes, scale = heads_of(ops, found), scales(ops)
    keys = [op for op in ops.writers if (op.text, op.axes) in found.key_operands and op not in scale]
    query, key = (_groups(axes, operands, sizes) for operands in (ops.readers, keys))
    count, batch = (prod(sizes[axis] for axis in some) for some in (axes, lead_of(ops, found)))
    shared = count // query if query == key else 1
    return Call(batch * count, ops.problem.length, shared, processors, initial=False, engine=engine)


def _groups(axes: Sequence[str], operands: Sequence[Operand], sizes: Mapping[str, int]) -> int:
    """The groups of heads for each of which a product of operands has an entry."""
    varying = {axis for op in operands for axis in op.axes}
    last = max((place + 1 for place, axis in enumerate(axes) if axis in varying), default=0)
    return prod(sizes[axis] for axis in axes[:last])


def _cut(ops: Operands) -> bool:
    """Whether documents cut the sequence."""
    return any(ops.problem.time in op.axes for op in ops.documents)


def _gate(ops: Operands, found: Roles) -> Gate:
    logs = (*ops.logs, *ops.exclusive_logs)
    if not logs and not _cut(ops):
        return "none"
    varying = _cut(ops) or any({ops.problem.time, *lead_of(ops, found)} & set(op.axes) for op in logs)
    return "varying" if varying or _own(ops) == "varying" else "constant"


def _own(ops: Operands) -> Own:
    if not ops.mask.strict or not (ops.logs or _cut(ops)):
        return "none"
    return "varying" if ops.exclusive_logs else "gate"


def forward_launches(chosen: Forward) -> tuple[AnyKernel, ...]:
    """The kernels of a forward call in the order in which they run."""
    kind, carried = chosen.outputs.facts, chosen.segments > 1
    if chosen.form == "hopper":
        first = (Walk("states", kind), chosen.carry) if carried else ()
        return (*first, Walk("outputs", kind, chosen.outputs.enters))
    sums = (chosen.sums, chosen.carry) if carried else ()
    return (*sums, *((chosen.states,) if chosen.form == "parallel" else ()), chosen.outputs)


def backward_launches(chosen: Backward) -> tuple[AnyKernel, ...]:
    """The kernels of a backward call in the order in which they run."""
    if chosen.form == "hopper":
        return _walks_back(chosen)
    first = (chosen.sums, chosen.carry) if chosen.segments > 1 else ()
    later = (chosen.later_sums, chosen.later_carry) if chosen.segments > 1 else ()
    return (*first, chosen.states, *later, chosen.later, chosen.gradients, chosen.values)


def _walks_back(chosen: Backward) -> tuple[AnyKernel, ...]:
    kind, gates = chosen.values.facts, chosen.values.gates
    states: tuple[AnyKernel, ...] = ()
    if chosen.segments > 1:
        states = (Walk("states", kind), chosen.carry, Walk("later", kind), chosen.later_carry)
    enters, leaves = chosen.states.enters, chosen.later.enters
    queries = Walk("queries", kind, enters, gates)
    walks = (queries, Walk("keys", kind, leaves, gates), Walk("values", kind, leaves))
    return (*states, *walks, *((Gates(kind, queries.outers, queries.tiles.inner),) if gates else ()))


def text_of(kernel: AnyKernel) -> str:
    """The module that defines a kernel."""
    return source(kernel) if isinstance(kernel, Kernel) else hopper.source(kernel)
