"""A masked contraction in quadratic order, or over a window, as a call of the streaming Triton operator.

In: a contraction's operands. Out: why the kernels do not serve it, or its function: operands as those of
`ssdc.codegen.triton.contraction`, after the writers of earlier calls that a window still reaches, then `streamed`. An
order that is free stays chunked where there is no window: as many launches, and less work from a few chunks on.
"""

from __future__ import annotations

from dataclasses import replace

from ssdc.codegen.kernel import Kernel
from ssdc.codegen.operands import Operands
from ssdc.codegen.triton import contraction
from ssdc.plan.candidate import Refusal

SERVED = ("quadratic", "chunked")
"""The orders of a window that streaming is: all pairs in reach, blocks of readers beside blocks of writers."""


def refusal(ops: Operands) -> Refusal | None:
    """Why the streaming kernels do not serve a contraction; None where they do."""
    order, fixed = ops.choice.chosen.order, ops.choice.form == "order"
    if ops.mask.kernels:
        return Refusal("triton", "its mask is a kernel over lags", "width")
    if ops.mask.width is None and not (fixed and order == "quadratic"):
        return Refusal("triton", "its order is not quadratic", "equation")
    if fixed and order not in SERVED:
        return Refusal("triton", f"its order is fixed to {order}", "equation")
    return contraction.unfit(ops)


def kernel(ops: Operands, name: str, title: str, sizes: dict[str, str]) -> Kernel:
    """The function of a contraction, for `refusal(ops) is None`."""
    plain = contraction.kernel(ops, name, title, sizes)
    width, time = ops.mask.width, ops.problem.time
    past = ops.remembered() if width is not None else ()
    extend = [f"{op.text} = extend({op.text}, {op.axes.index(time)}, {(width or 1) - 1}, h_{op.text})" for op in past]
    extend += [f"h_{op.text} = None" for op in past if op in ops.documents]
    span = f"{past[0].text}.shape[{past[0].axes.index(time)}]" if past else ""
    values = {**plain.values, "width": width, "extend": extend, "span": span}
    return replace(plain, template="streamed", values=values)
