"""The context of a template: what every ordering's function has, as typed text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ssdc.codegen.operands import Operands


@dataclass(frozen=True)
class Kernel:
    """One function of the generated module. `sections` are lists of statements that the template sets between its own.

    `values` holds what all templates use (`length`, `like`: the operand that gives device and shapes, `reverse`:
    statements that turn time round, `state`: the shape of an empty state) and what one of them asks for besides.
    """

    template: str
    name: str
    title: str
    parameters: tuple[str, ...]
    histories: tuple[str, ...]
    sections: Mapping[str, tuple[str, ...]]
    values: Mapping[str, object] = field(default_factory=dict)


def framed(
    ops: Operands,
    template: str,
    name: str,
    title: str,
    sizes: Mapping[str, str],
    sections: Mapping[str, tuple[str, ...]],
    **values: object,
) -> Kernel:
    """The context of one contraction's function; `values` is what its template asks for besides the common part."""
    time, timed = ops.problem.time, ops.timed()
    shape = [sizes[axis] for axis in ops.problem.state]
    common = {
        "length": f"{timed[0].text}.shape[{timed[0].axes.index(time)}]",
        "like": (ops.writers or ops.readers)[0].text,
        "reverse": tuple(f"{op.text} = {op.text}.flip({op.axes.index(time)})" for op in timed)
        if backwards(ops)
        else (),
        "state": ", ".join(shape) + ("," if len(shape) == 1 else ""),
    }
    return Kernel(
        template,
        name,
        title,
        parameters=tuple(op.text for op in ops.all()),
        histories=tuple(f"h_{op.text}" for op in ops.remembered()),
        sections=sections,
        values=common | values,
    )


def backwards(ops: Operands) -> bool:
    """Whether the mask reads later positions: its function then turns time round, and turns the result back."""
    return ops.mask.direction == "reverse"
