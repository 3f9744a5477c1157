"""Masks multiplied elementwise: the facts of several structures as the facts of one mask.

In: the facts of each factor. Out: their product's. Not done: simplification; `causal * decay(g)` keeps what each says.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssdc.errors import OpposedMasks
from ssdc.source import Span
from ssdc.structures.algebra import Direction, Facts, Scope


def product(facts: Sequence[Facts], span: Span, scope: Scope) -> Facts:
    """Gates, kernels, widths and documents side by side; strict if any is.

    `both` gives way to a direction. Forward times reverse leaves at most the diagonal, which is reported as a fault at
    `span`; the result then has the direction of the first.
    """
    directions: list[Direction] = [each.direction for each in facts if each.direction != "both"]
    strict = any(each.strict for each in facts)
    if "forward" in directions and "reverse" in directions:
        scope.report(OpposedMasks(span, left="nothing" if strict else "only the diagonal"))
    return Facts(
        direction=directions[0] if directions else "both",
        strict=strict,
        gates=tuple(gate for each in facts for gate in each.gates),
        kernels=tuple(kernel for each in facts for kernel in each.kernels),
        widths=tuple(width for each in facts for width in each.widths),
        documents=tuple(tensor for each in facts for tensor in each.documents),
        tables=tuple(tensor for each in facts for tensor in each.tables),
        missing=next((each.missing for each in facts if each.missing is not None), None),
    )
