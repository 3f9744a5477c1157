"""The kernel launches of a masked contraction forward. Tensors in, new tensors out."""

from __future__ import annotations

from torch import Tensor

from ssdc.codegen.triton import configuration, pricing
from ssdc.codegen.triton.configuration import Forward
from ssdc.errors import CallError
from ssdc.runtime import tuned
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.calls import Given
from ssdc.runtime.kernels.launch import launch, together
from ssdc.runtime.kernels.segments import chunk_states, hopper_starts, pieces, segment_starts


def forward_pass(given: Given, form: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state, and row sums [b, h, t] (of a norm), by the kernels that the cost model chooses (in this form,
    where one is given)."""
    given.check()
    facts, call = given.facts, given.call(True)
    if form not in configuration.FORMS:
        known = ", ".join(name for name in configuration.FORMS if name)
        raise ValueError(f"there is no form {form!r}; forms are {known}")
    wanted = configuration.FORMS[form]
    if wanted == "hopper" and not pricing.engine(facts, call):
        raise CallError("form 'hopper' walks 16-bit operands, in rows of 16 bytes, on Hopper GPUs; use form='auto'")
    return run_forward(tuned.forward(facts, call, given.query.device, wanted), given)


def run_forward(chosen: Forward, given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the kernels of a configuration."""
    with together():
        return _run(chosen, given)


def _run(chosen: Forward, given: Given) -> tuple[Tensor, Tensor, Tensor]:
    initial, heads, facts = given.initial, given.heads, chosen.outputs.facts
    (batch, length), columns = given.query.shape[:2], given.value.shape[-1]
    y, final, sums = given.results()
    row: tuple[Tensor, ...] = () if facts.norm is None else (sums,)
    if y.numel() == 0 or final.numel() == 0:
        return y, final.zero_() if initial is None else final.copy_(initial), sums
    operands = given.operands()
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
