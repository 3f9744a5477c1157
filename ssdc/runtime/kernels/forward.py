"""The kernel launches of a masked contraction forward. Tensors in, new tensors out."""

from __future__ import annotations

from torch import Tensor

from ssdc.codegen.triton import configuration
from ssdc.codegen.triton.configuration import Forward
from ssdc.codegen.triton.hopper import fits
from ssdc.errors import CallError
from ssdc.runtime import tuned
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.calls import call_of, check, check_rest, facts_of, operands_of, result_tensors
from ssdc.runtime.kernels.launch import launch, together
from ssdc.runtime.kernels.segments import chunk_states, hopper_starts, pieces, segment_starts


def forward_pass(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    kind: int,
    skip: Tensor | None = None,
    maps: str = "",
    form: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state, and row sums [b, h, t] (of a norm), by the kernels that the cost rule chooses (in this form,
    where one is given)."""
    check(query, key, value, gate, own, scale, heads)
    check_rest(query, key, value, initial, heads, skip, maps)
    facts = facts_of(query, value, gate, scale, strict, kind, skip, maps)
    call = call_of(heads, initial is not None, True, query, key, value)
    if form not in configuration.FORMS:
        known = ", ".join(name for name in configuration.FORMS if name)
        raise ValueError(f"there is no form {form!r}; forms are {known}")
    wanted = configuration.FORMS[form]
    if wanted == "hopper" and not (call.engine and fits(facts)):
        raise CallError("form 'hopper' walks 16-bit operands, in rows of 16 bytes, on Hopper GPUs; use form='auto'")
    chosen = configuration.forward(facts, call, form=wanted) if wanted else tuned.forward(facts, call, query.device)
    with together():
        return run_forward(chosen, query, key, value, gate, own, scale, initial, heads, skip)


def run_forward(
    chosen: Forward,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels of a configuration, in order."""
    batch, length = query.shape[:2]
    columns, facts = value.shape[-1], chosen.outputs.facts
    y, final, sums = result_tensors(query, value, heads, facts.norm is not None)
    row: tuple[Tensor, ...] = () if facts.norm is None else (sums,)
    if y.numel() == 0 or final.numel() == 0:
        return y, final.zero_() if initial is None else final.copy_(initial), sums
    operands = operands_of(query=query, key=key, value=value, gate=gate, own=own, scale=scale, skip=skip)
    start = None if initial is None else initial.float().contiguous()
    if chosen.form == "hopper":
        segments = walks.cut(length, chosen.segments)[1]
        starts = hopper_starts(facts, chosen.carry, segments, operands, start, final, heads)
        walks.outputs(facts, segments, operands, starts, y, final, heads)
        return y, final, sums
    starts = segment_starts(chosen.sums, chosen.carry, chosen.segments, operands, start, final, heads, length)
    kernel = chosen.outputs
    lanes, parts = batch * heads, -(-columns // kernel.tiles.outer)
    if chosen.form == "parallel":
        chunks = chunk_states(chosen.states, chosen.segments, operands, starts, final, heads, length)
        count = chunks.shape[2]
        launch(kernel, batch * (heads // kernel.share) * count * parts, operands, heads, chunks, y, *row, length, heads)
        return y, final, sums
    if chosen.form == "recurrent":
        launch(kernel, lanes * parts, operands, heads, final if start is None else start, y, final, *row, length, heads)
        return y, final, sums
    _, span, segments = pieces(length, kernel.tiles.chunk, chosen.segments)
    launch(
        kernel,
        lanes * segments * parts,
        operands,
        heads,
        final if starts is None else starts,
        y,
        final,
        *row,
        length,
        span,
        segments,
        heads,
    )
    return y, final, sums
