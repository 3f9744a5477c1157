"""The sequential primitives of generated PyTorch text: `linear_scan`, `running_sum` and `recurrent`.

In: tensors with time as dim 0, on any device, of one dtype (float32, float64, complex64 or complex128). Out: new
contiguous tensors. They are `torch.library` custom operators with fakes and gradients, so they trace, compile and
export with any T >= 0; the functions below only add a guard and call them.

Not done here: casts and autocast (the caller's), forward-mode gradients (refused, see `_refuse_tangents`), vmap, and a
second derivative of `recurrent` (refused; the others have all derivatives).

Only torch and the standard library are imported: the text of this file is also pasted into ejected modules, which
replace NAMESPACE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

NAMESPACE = "ssdc"

BLOCK = 256
"""Steps in a block of the blocked scan. Fixed, so that a prefix of the input gives the same bits as the whole."""

BLOCKED_STATE = 8192
"""Elements of state from which a step costs more in arithmetic than in its call; then no blocks are cut."""

SUMMED_STATE = 512
"""Elements of state from which a CPU adds step by step faster than `torch.cumsum` walks along the first axis."""

SLAB_ELEMENTS = 1 << 20
"""Elements of state that `recurrent` holds at once, if one state is smaller (4 MiB in float32: it stays in cache)."""

SLAB_STEPS = 64
"""The most steps that `recurrent` holds at once."""

_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
"""Dtypes in which a product of gates can neither under- nor overflow where the state itself would not."""


def linear_scan(gate: Tensor, update: Tensor, initial: Tensor, reverse: bool = False) -> Tensor:
    """All states of h[i] = gate[i] * h[i-1] + update[i] with h[-1] = initial; in reverse, h[i+1] with h[T] = initial.

    Shapes: update [T, *state], initial [*state], gate [T, *g] where g has the dims of state, or 1; result [T, *state].
    Gates may be any numbers, zero included: only products of gates are formed, no quotients or logarithms.

    Up to BLOCK steps, or from BLOCKED_STATE elements of state on, it is one `addcmul` a step. Longer scans of smaller
    states run blocks of BLOCK steps side by side: once to sum each block up (its last state from zero, and the product
    of its gates), then over the blocks in the same way for the state that each begins with, then again from that state.
    So within a block it is the sequential definition, and only the states at block edges round differently. A prefix
    of the input gives the same bits as the whole, and so does a part of the lanes on the same side of BLOCKED_STATE.

    A NaN or Inf in an input makes the same elements not finite as in the sequential definition (an Inf may come out as
    NaN, past a block edge, if the product of a block's gates underflows). Where all inputs are finite and yet a state
    overflows and comes back within one block, which needs gates beyond 1, the blocked form may be finite again after
    that block; where a block's sum alone overflows, it may not be finite though the sum and the carried state cancel.

    Raises ValueError for shapes or dtypes that do not fit, NotImplementedError under forward-mode differentiation.

    >>> linear_scan(torch.tensor([0.5, 0.5, 0.0]), torch.ones(3), torch.tensor(4.0))
    tensor([3.0000, 2.5000, 1.0000])
    """
    _refuse_tangents("linear_scan", gate, update, initial)
    states: Tensor = getattr(torch.ops, NAMESPACE).linear_scan(gate, update, initial, reverse)
    return states


def running_sum(update: Tensor, initial: Tensor) -> Tensor:
    """All states of h[i] = h[i-1] + update[i] with h[-1] = initial: `linear_scan` where no gate forgets.

    Shapes: update [T, *state], initial [*state]; result [T, *state]. On a CPU, large states are added step by step.

    Raises ValueError for shapes or dtypes that do not fit, NotImplementedError under forward-mode differentiation of
    large states on a CPU.

    >>> running_sum(torch.ones(3), torch.tensor(4.0))
    tensor([5., 6., 7.])
    """
    if update.device.type != "cpu" or (not torch.compiler.is_compiling() and initial.numel() < SUMMED_STATE):
        _check_sum(update, initial)
        return initial + update.cumsum(0)
    _refuse_tangents("running_sum", update, initial)
    states: Tensor = getattr(torch.ops, NAMESPACE).running_sum(update, initial, False)
    return states


def recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    reader_gate: Tensor | None,
    initial: Tensor,
    strict: bool,
) -> tuple[Tensor, Tensor]:
    """A linear recurrence read at every step: (output, final state), with a bounded number of states in memory.

    h = gate[t] * h + key[t] value[t]^T and output[t] = query[t] h; if strict, output[t] = query[t] (reader_gate[t] * h)
    with the h from before step t.

    Shapes: query [T, *batch, M, N], key [T, *batch, N], value [T, *batch, P], gate and reader_gate [T or 1, *batch,
    N or 1], initial [*batch, N, P]; results [T, *batch, M, P] and [*batch, N, P]. Each operand but `initial` may have
    1 for any of the batch dims. `reader_gate` is given if and only if strict.

    Forward holds as many states as fit in SLAB_ELEMENTS (at most SLAB_STEPS, at least two) and multiplies them by
    their queries at once. The gradient holds three times that and about 2 sqrt(T) more: it keeps one state in sqrt(T)
    and recomputes those between. A reader gate is multiplied into its query, not into the state.

    Raises ValueError for shapes or dtypes that do not fit, NotImplementedError under forward-mode differentiation and
    for a second derivative.

    >>> one = torch.ones(3, 1)
    >>> output, final = recurrent(one[..., None], one, one, torch.full((1, 1), 0.5), None, torch.zeros(1, 1), False)
    >>> output.flatten(), final
    (tensor([1.0000, 1.5000, 1.7500]), tensor([[1.7500]]))
    """
    _refuse_tangents("recurrent", query, key, value, gate, reader_gate, initial)
    output: Tensor
    final: Tensor
    operator = getattr(torch.ops, NAMESPACE).recurrent
    output, final = operator(query, key, value, gate, reader_gate, initial, strict)
    return output, final


def _refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Raise if an input carries a forward-mode tangent: a custom operator would drop it without a word.

    Two ways past this remain, both torch's: calling `torch.ops` directly, and handing dual tensors (`make_dual`) to a
    function compiled by `torch.compile`. `torch.func.jvp` is caught, compiled or not.
    """
    if forward_ad._current_level < 0:
        return
    unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual
    if any(x is not None and unpack(x).tangent is not None for x in tensors):
        raise NotImplementedError(f"{NAMESPACE}.{name} has no forward-mode derivative; use reverse mode")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# ---- linear_scan ----------------------------------------------------------------------------------------------------


def _check_scan(gate: Tensor, update: Tensor, initial: Tensor) -> None:
    shapes = f"gate {list(gate.shape)}, update {list(update.shape)}, initial {list(initial.shape)}"
    _require(update.dim() >= 1 and update.shape[1:] == initial.shape, f"update must be [T, *initial]: {shapes}")
    _require(gate.dim() == update.dim() and gate.shape[0] == update.shape[0], f"gate must be [T, ...]: {shapes}")
    fits = all(g == 1 or g == s for g, s in zip(gate.shape[1:], initial.shape, strict=True))
    _require(fits, f"gate must broadcast to update: {shapes}")
    _require(gate.dtype == update.dtype == initial.dtype, "gate, update and initial must have one dtype")


@torch.library.custom_op(
    f"{NAMESPACE}::linear_scan",
    mutates_args=(),
    schema="(Tensor gate, Tensor update, Tensor initial, bool reverse) -> Tensor",
)
def _linear_scan(gate: Tensor, update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    _check_scan(gate, update, initial)
    states = update.new_empty(update.shape)
    _scan(_time_first(gate), None, _time_first(update), initial, states, reverse)
    return states


def _time_first(x: Tensor) -> Tensor:
    """The same with time slowest in memory, copied where it is not: a step then reads neighbours."""
    apart = max((step for step, size in zip(x.stride()[1:], x.shape[1:], strict=True) if size > 1), default=0)
    return x.contiguous() if 0 < x.stride(0) < apart else x


@_linear_scan.register_fake
def _(gate: Tensor, update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    _check_scan(gate, update, initial)
    return update.new_empty(update.shape)


def _scan(gate: Tensor, first: Tensor | None, update: Tensor, start: Tensor, out: Tensor, reverse: bool) -> None:
    """Write all states to `out`, sequentially or by blocks; `first` as in `_step`."""
    steps = out.shape[0]
    if steps <= BLOCK or start.numel() >= BLOCKED_STATE:
        _loop(gate, first, update, start, out, reverse)
        return
    count = steps // BLOCK
    whole, rest = slice(0, count * BLOCK), slice(count * BLOCK, steps)
    if reverse:
        whole, rest = slice(steps - count * BLOCK, steps), slice(0, steps - count * BLOCK)
    gates, updates, states = (_by_step(x[whole]) for x in (gate, update, out))
    firsts = None if first is None else _by_step(first[whole])
    products, sums = _totals(gates, firsts, updates, reverse)
    entry = (gates if firsts is None else firsts)[-1 if reverse else 0]
    ends = torch.empty_like(sums)
    _scan(products, entry, sums, start, ends, reverse)
    starts = torch.cat((ends[1:], start[None]) if reverse else (start[None], ends[:-1]))
    _loop(gates, firsts, updates, starts, states, reverse)
    after = None if first is None else first[rest]
    _loop(gate[rest], after, update[rest], ends[0 if reverse else -1], out[rest], reverse)


def _by_step(x: Tensor) -> Tensor:
    """View [count * BLOCK, ...] as [BLOCK, count, ...]: one step of every block in each row."""
    return x.view(x.shape[0] // BLOCK, BLOCK, *x.shape[1:]).transpose(0, 1)


def _totals(gate: Tensor, first: Tensor | None, update: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Each block as one step, from [BLOCK, count, ...]: the product of its gates, and its last state from zero."""
    order = range(BLOCK - 1, -1, -1) if reverse else range(BLOCK)
    product = gate[order[0]].to(_WIDE.get(gate.dtype, gate.dtype), copy=True).contiguous()
    total = update[order[0]].clone(memory_format=torch.contiguous_format)
    gates, updates = gate.unbind(0), update.unbind(0)
    firsts = None if first is None else first.unbind(0)
    for i in order[1:]:
        torch.mul(product, gates[i], out=product)
        _step(gates[i], None if firsts is None else firsts[i], updates[i], total, total)
    return product, total


def _loop(gate: Tensor | None, first: Tensor | None, update: Tensor, start: Tensor, out: Tensor, reverse: bool) -> None:
    """The sequential definition, time in dim 0 of all but `start`. Views are made for 1024 steps at a time."""
    steps = out.shape[0]
    state = start
    for low in range(0, steps, 1024):
        part = slice(max(0, steps - low - 1024), steps - low) if reverse else slice(low, low + 1024)
        updates, states = update[part].unbind(0), out[part].unbind(0)
        gates = None if gate is None else gate[part].unbind(0)
        firsts = None if first is None else first[part].unbind(0)
        for i in reversed(range(len(states))) if reverse else range(len(states)):
            if gates is None:
                torch.add(updates[i], state, out=states[i])
            else:
                _step(gates[i], None if firsts is None else firsts[i], updates[i], state, states[i])
            state = states[i]


def _step(gate: Tensor, first: Tensor | None, update: Tensor, state: Tensor, out: Tensor) -> None:
    """out = gate * state + update; `out` may be `state`.

    If `gate` is the product of a block's gates, it may have overflowed; a zero state is then taken through the `first`
    of these gates alone, which leaves it zero unless that gate is itself not finite (a later one that is not finite
    shows in `update`).
    """
    if first is None:
        torch.addcmul(update, gate, state, out=out)
    else:
        out.copy_(torch.where(state == 0, first * state, gate * state) + update)


def _scan_context(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor
) -> None:
    gate, _, initial, reverse = inputs
    ctx.save_for_backward(gate, initial, output)
    ctx.reverse = reverse  # type: ignore[attr-defined]


def _scan_backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    """The adjoint is a scan the other way: a[i] = gate[i+1] * a[i+1] + grad[i]."""
    gate, initial, states = ctx.saved_tensors  # type: ignore[attr-defined]
    reverse: bool = ctx.reverse  # type: ignore[attr-defined]
    need_gate, need_update, need_initial, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
    zero = gate.new_zeros((1, *gate.shape[1:]))
    later = torch.cat((zero, gate))[:-1] if reverse else torch.cat((gate, zero))[1:]
    operator = getattr(torch.ops, NAMESPACE).linear_scan
    adjoint = operator(later.conj_physical(), grad, initial.new_zeros(initial.shape), not reverse)
    grad_gate = grad_initial = None
    if need_gate:
        edge = initial[None]
        before = torch.cat((states, edge))[1:] if reverse else torch.cat((edge, states))[:-1]
        grad_gate = (adjoint * before.conj_physical()).sum_to_size(gate.shape)
    if need_initial:
        entry = slice(-1, None) if reverse else slice(0, 1)
        grad_initial = (adjoint[entry] * gate[entry].conj_physical()).sum(0)
    return grad_gate, adjoint if need_update else None, grad_initial, None


_linear_scan.register_autograd(_scan_backward, setup_context=_scan_context)


# ---- running_sum ----------------------------------------------------------------------------------------------------


def _check_sum(update: Tensor, initial: Tensor) -> None:
    shapes = f"update {list(update.shape)}, initial {list(initial.shape)}"
    _require(update.dim() >= 1 and update.shape[1:] == initial.shape, f"update must be [T, *initial]: {shapes}")
    _require(update.dtype == initial.dtype, "update and initial must have one dtype")


@torch.library.custom_op(
    f"{NAMESPACE}::running_sum",
    mutates_args=(),
    schema="(Tensor update, Tensor initial, bool reverse) -> Tensor",
)
def _running_sum(update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    """In reverse, h[i] = h[i+1] + update[i] with h[T] = initial."""
    _check_sum(update, initial)
    if initial.numel() < SUMMED_STATE:
        sums = update.flip(0).cumsum(0).flip(0) if reverse else update.cumsum(0)
        return (initial + sums).contiguous()
    states = update.new_empty(update.shape)
    _loop(None, None, update, initial, states, reverse)
    return states


@_running_sum.register_fake
def _(update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    _check_sum(update, initial)
    return update.new_empty(update.shape)


def _sum_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.reverse = inputs[2]  # type: ignore[attr-defined]


def _sum_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    """The adjoint is the sum the other way."""
    reverse: bool = ctx.reverse  # type: ignore[attr-defined]
    zero = grad.new_zeros(grad.shape[1:])
    adjoint = getattr(torch.ops, NAMESPACE).running_sum(grad, zero, not reverse)
    return adjoint, grad.sum(0) if grad.shape[0] else zero, None


_running_sum.register_autograd(_sum_backward, setup_context=_sum_context)


# ---- recurrent ------------------------------------------------------------------------------------------------------


def _check_recurrent(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, reader_gate: Tensor | None, initial: Tensor, strict: bool
) -> None:
    _require(strict == (reader_gate is not None), "reader_gate must be given if and only if strict")
    fits = query.dim() >= 3 and initial.dim() == query.dim() - 1
    _require(fits, f"query {list(query.shape)} must be [T, *batch, M, N], initial {list(initial.shape)} [*batch, N, P]")
    steps, rows = query.shape[0], query.shape[-2]
    *batch, states, columns = initial.shape
    wanted: tuple[tuple[str, Tensor | None, list[int], bool], ...] = (
        ("query", query, [steps, *batch, rows, states], False),
        ("key", key, [steps, *batch, states], False),
        ("value", value, [steps, *batch, columns], False),
        ("gate", gate, [steps, *batch, states], True),
        ("reader_gate", reader_gate, [steps, *batch, states], True),
    )
    for name, x, full, is_gate in wanted:
        if x is None:
            continue
        shapes = f"{name} {list(x.shape)} must broadcast to {full}"
        _require(x.dim() == len(full), shapes)
        free = range(len(full)) if is_gate else range(1, 1 + len(batch))
        _require(all(x.shape[d] == n or (d in free and x.shape[d] == 1) for d, n in enumerate(full)), shapes)
        _require(x.dtype == initial.dtype, "all operands must have one dtype")


@torch.library.custom_op(
    f"{NAMESPACE}::recurrent",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor gate, Tensor? reader_gate, Tensor initial, bool strict)"
    " -> (Tensor, Tensor)",
)
def _recurrent(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, reader_gate: Tensor | None, initial: Tensor, strict: bool
) -> tuple[Tensor, Tensor]:
    _check_recurrent(query, key, value, gate, reader_gate, initial, strict)
    operands = _Operands(query, key, value, gate, reader_gate, initial)
    steps, slab = query.shape[0], operands.slab
    output = initial.new_empty((steps, *operands.batch, query.shape[-2], initial.shape[-1]))
    states = operands.empty(min(slab, steps) + 1)
    states[0].copy_(operands.start)
    flat = output.view(steps, operands.lanes, query.shape[-2], initial.shape[-1])
    last = 0
    for low in range(0, steps, slab):
        high = min(low + slab, steps)
        states[0].copy_(states[last])
        last = high - low
        operands.advance(low, high, states)
        read = states[:last] if strict else states[1 : last + 1]
        torch.bmm(operands.readers(low, high).flatten(0, 1), read.flatten(0, 1), out=flat[low:high].flatten(0, 1))
    return output, states[last].clone().view(initial.shape)


@_recurrent.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, reader_gate: Tensor | None, initial: Tensor, strict: bool
) -> tuple[Tensor, Tensor]:
    _check_recurrent(query, key, value, gate, reader_gate, initial, strict)
    batch, columns = initial.shape[:-2], initial.shape[-1]
    return initial.new_empty((query.shape[0], *batch, query.shape[-2], columns)), initial.new_empty(initial.shape)


class _Operands:
    """The operands of `recurrent`, cut from step to step and with the batch dims broadcast and flattened to one."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, gate: Tensor, reader_gate: Tensor | None, initial: Tensor
    ) -> None:
        self.query, self.key, self.value, self.gate, self.reader_gate = query, key, value, gate, reader_gate
        self.batch = tuple(initial.shape[:-2])
        self.lanes = math.prod(self.batch)
        self.start = initial.reshape(self.lanes, *initial.shape[-2:])
        self.slab = max(1, min(SLAB_STEPS, SLAB_ELEMENTS // max(1, initial.numel())))

    def empty(self, count: int) -> Tensor:
        """Room for `count` states."""
        return self.start.new_empty((count, *self.start.shape))

    def cut(self, x: Tensor, low: int, high: int, dims: int) -> Tensor:
        """[T or 1, *batch or 1, *own] to [high - low, lanes, *own]; `dims` is how many dims are the operand's own."""
        own = x.shape[x.dim() - dims :]
        part = x if x.shape[0] == 1 else x[low:high]
        return part.expand(high - low, *self.batch, *own).reshape(high - low, self.lanes, *own)

    def rows(self, x: Tensor, low: int, high: int, dims: int = 1) -> Tensor:
        """The same of an operand whose rows are read many times each: neighbours in a row lie beside each other."""
        part = self.cut(x, low, high, dims)
        return part if part.stride(-1) == 1 else part.contiguous()

    def readers(self, low: int, high: int) -> Tensor:
        """[steps, lanes, M, N]: what multiplies a state to give an output; the reader gate is part of it."""
        query = self.cut(self.query, low, high, 2)
        return query if self.reader_gate is None else query * self.cut(self.reader_gate, low, high, 1)[:, :, None, :]

    def advance(self, low: int, high: int, states: Tensor) -> None:
        """Fill states[1:] with those after steps low to high, from states[0], the one before."""
        key, value = self.rows(self.key, low, high), self.rows(self.value, low, high)
        torch.mul(key[..., :, None], value[..., None, :], out=states[1 : high - low + 1])
        rows = states[: high - low + 1].unbind(0)
        for i, gate in enumerate(self.cut(self.gate, low, high, 1)[..., None].unbind(0)):
            rows[i + 1].addcmul_(gate, rows[i])

    def retreat(self, low: int, high: int, adjoints: Tensor) -> None:
        """Fill adjoints so that [i] is that of the state before step low + i, from [high - low] and what is there."""
        rows = adjoints[: high - low + 1].unbind(0)
        gates = self.cut(self.gate, low, high, 1)[..., None].conj_physical().unbind(0)
        for i in range(high - low - 1, -1, -1):
            rows[i].addcmul_(gates[i], rows[i + 1])


_GRADIENTS = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"


@torch.library.custom_op(
    f"{NAMESPACE}::recurrent_backward",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor grad_final, Tensor query, Tensor key, Tensor value, Tensor gate,"
    f" Tensor? reader_gate, Tensor initial, bool strict, bool[] needs) -> {_GRADIENTS}",
)
def _recurrent_backward(
    grad_output: Tensor,
    grad_final: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    reader_gate: Tensor | None,
    initial: Tensor,
    strict: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Gradients of the six operands of `recurrent`, in order; an empty tensor for each that `needs` does not name."""
    operands = _Operands(query, key, value, gate, reader_gate, initial)
    steps, slab = query.shape[0], operands.slab
    segment = max(1, math.ceil(math.isqrt(steps) / slab)) * slab
    edges = range(0, steps, segment)
    kept = operands.empty(len(edges) + 1)
    kept[0].copy_(operands.start)
    states = operands.empty(min(slab, steps) + 1)
    for j, low in enumerate(edges[:-1]):
        states[0].copy_(kept[j])
        for at in range(low, low + segment, slab):
            operands.advance(at, at + slab, states)
            states[0].copy_(states[slab])
        kept[j + 1].copy_(states[0])
    grads = _Gradients(operands, needs)
    adjoint = grad_final.reshape(operands.start.shape)
    states = operands.empty(min(segment, steps) + 1)
    for j in reversed(range(len(edges))):
        low, high = edges[j], min(edges[j] + segment, steps)
        states[0].copy_(kept[j])
        slabs = range(low, high, slab)
        for at in slabs:
            operands.advance(at, min(at + slab, high), states[at - low :])
        for at in reversed(slabs):
            end = min(at + slab, high)
            adjoint = grads.add(at, end, states[at - low : end - low + 1], adjoint, grad_output, strict)
    return grads.results(adjoint.reshape(initial.shape))


class _Gradients:
    """The gradients of `recurrent`, collected from the last steps to the first."""

    def __init__(self, operands: _Operands, needs: Sequence[bool]) -> None:
        o = self.operands = operands
        self.needs = tuple(needs)
        given = (o.query, o.key, o.value, o.gate, o.reader_gate)
        shapes = [() if x is None or not need else x.shape for x, need in zip(given, self.needs[:5], strict=True)]
        self.grads = [o.start.new_zeros(shape or (0,)) for shape in shapes]
        self.adjoints, self.scratch = o.empty(o.slab + 1), o.empty(o.slab)

    def put(self, which: int, low: int, high: int, grad: Tensor, dims: int) -> None:
        """Write or add `grad` [steps, lanes, *own] to a result, summed over what that operand broadcasts."""
        result = self.grads[which]
        own = result.shape[result.dim() - dims :]
        grad = grad.reshape(high - low, *self.operands.batch, *grad.shape[2:])
        if result.shape[0] == self.operands.query.shape[0]:
            result[low:high] = grad.sum_to_size((high - low, *result.shape[1:-dims], *own))
        else:
            result += grad.sum_to_size(result.shape)

    def add(self, low: int, high: int, states: Tensor, later: Tensor, grad_output: Tensor, strict: bool) -> Tensor:
        """Take steps low to high; states [steps + 1] from before low, `later` the adjoint of the last of them.

        Returns the adjoint of the state before `low`.
        """
        o, steps = self.operands, high - low
        query, key, value = o.readers(low, high), o.rows(o.key, low, high), o.rows(o.value, low, high)
        arriving = o.rows(grad_output, low, high, 2)
        adjoints = self.adjoints[: steps + 1]
        reads = slice(0, steps) if strict else slice(1, steps + 1)
        outer = torch.mul if query.shape[2] == 1 else torch.bmm  # M = 1: four times as fast as a product over one term
        outer(query.flatten(0, 1).mH, arriving.flatten(0, 1), out=adjoints[reads].flatten(0, 1))
        if strict:
            adjoints[steps].copy_(later)
        else:
            adjoints[0].zero_()
            adjoints[steps] += later
        o.retreat(low, high, adjoints)
        after, before = adjoints[1:], states[:steps]
        if self.needs[0] or self.needs[4]:
            self.add_reader(low, high, torch.matmul(arriving, states[reads].mH))
        if self.needs[1]:
            self.put(1, low, high, torch.matmul(value[..., None, :].conj(), after.mT).squeeze(-2), 1)
        if self.needs[2]:
            self.put(2, low, high, torch.matmul(key[..., None, :].conj(), after).squeeze(-2), 1)
        if self.needs[3]:
            self.put(3, low, high, torch.mul(after, before.conj(), out=self.scratch[:steps]).sum(-1), 1)
        return adjoints[0].clone()

    def add_reader(self, low: int, high: int, grad: Tensor) -> None:
        """Split the gradient of `readers` [steps, lanes, M, N] between query and reader gate."""
        o = self.operands
        if o.reader_gate is None:
            self.put(0, low, high, grad, 2)
            return
        if self.needs[0]:
            self.put(0, low, high, grad * o.cut(o.reader_gate, low, high, 1)[:, :, None, :].conj(), 2)
        if self.needs[4]:
            self.put(4, low, high, (grad * o.cut(o.query, low, high, 2).conj()).sum(-2), 1)

    def results(self, initial: Tensor) -> tuple[Tensor, ...]:
        """All six, that of `initial` as given."""
        return (*self.grads, initial.clone() if self.needs[5] else initial.new_empty((0,)))


@_recurrent_backward.register_fake
def _(
    grad_output: Tensor,
    grad_final: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    reader_gate: Tensor | None,
    initial: Tensor,
    strict: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    given = (query, key, value, gate, reader_gate, initial)
    shapes = [(0,) if x is None or not need else x.shape for x, need in zip(given, needs, strict=True)]
    return tuple(initial.new_empty(shape) for shape in shapes)


def _recurrent_context(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, bool],
    output: tuple[Tensor, Tensor],
) -> None:
    *operands, strict = inputs
    ctx.save_for_backward(*operands)  # type: ignore[arg-type]
    ctx.strict = strict  # type: ignore[attr-defined]


def _recurrent_gradient(
    ctx: torch.autograd.function.FunctionCtx, grad_output: Tensor, grad_final: Tensor
) -> tuple[Tensor | None, ...]:
    needs = [bool(need) for need in ctx.needs_input_grad[:6]]  # type: ignore[attr-defined]
    operator = getattr(torch.ops, NAMESPACE).recurrent_backward
    saved = ctx.saved_tensors  # type: ignore[attr-defined]
    grads = operator(grad_output, grad_final, *saved, ctx.strict, needs)  # type: ignore[attr-defined]
    return (*(grad if need else None for grad, need in zip(grads, needs, strict=True)), None)


def _refuse_second_derivative(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> None:
    raise NotImplementedError(f"{NAMESPACE}.recurrent has no second derivative; use order='quadratic' or 'chunked'")


_recurrent.register_autograd(_recurrent_gradient, setup_context=_recurrent_context)
_recurrent_backward.register_autograd(_refuse_second_derivative)
