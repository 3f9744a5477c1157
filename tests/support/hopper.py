"""One case of a masked contraction through the walks for Hopper, forward and backward, against float64."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import torch

from ssdc.codegen.triton import choose, hopper
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.calls import OWN, Given
from ssdc.runtime.kernels.masked import masked
from tests.support.masked import Case, operands, reference, units

UNIT = 2.0**-8
"""That of bfloat16; float16 has sums of as many bits."""
ROLES = ("outputs", "queries", "keys", "values")


def errors(case: Case, dtype: torch.dtype, segments: int, device: str) -> list[float]:
    """Errors of output, last state and gradients, in units of u * sum|terms|, time cut into `segments`."""
    given = operands(case, dtype)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns).to(dtype)
    grad_final = torch.randn(case.batch, case.heads, case.states, case.pitch)
    exact, magnitude = reference(case, given, grad, grad_final)
    leaves = [None if x is None else x.to(device).requires_grad_() for x in given]
    forward = partial(choose.forward, form="hopper", segments=segments)
    backward = partial(choose.backward, form="hopper", segments=segments)
    ran = []
    real = walks._run
    with (
        patch.object(choose, "forward", forward),
        patch.object(choose, "backward", backward),
        patch.object(walks, "_run", lambda walk, *rest: (ran.append(walk.role), real(walk, *rest))),
    ):
        *first, skip = leaves
        first[4] = "gate" if case.own == "gate" else first[4]  # type: ignore[call-overload]
        y, final = masked(*first, case.heads, case.strict, skip, case.maps)  # type: ignore[arg-type]
        torch.autograd.backward((y, final), (grad.to(device), grad_final.to(device)))
    assert tuple(ran) == ROLES
    return units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, UNIT)


def served(case: Case, dtype: torch.dtype, device: str) -> bool:
    """Whether the walks do a case: the copy engine reads its operands, and the maps are not those of tiles."""
    given = [None if x is None else x.to(device) for x in operands(case, dtype)]
    *first, skip = given
    call = Given(*first, case.heads, case.strict, OWN.index(case.own), skip, case.maps)  # type: ignore[arg-type]
    return hopper.fits(call.facts) and call.call(gradient=True).engine
