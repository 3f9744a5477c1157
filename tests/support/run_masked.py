"""Runs kernels in Triton's interpreter (a process of its own: it is switched on before Triton is imported), and
prints errors.

Arguments: nothing. Output: one JSON object, from case and form to the errors in units of u * sum|terms|.
"""

from __future__ import annotations

import json
from functools import partial
from unittest.mock import patch

import torch

from ssdc.codegen.triton import choose
from ssdc.runtime.kernels.masked import masked
from tests.support.masked import CASES, Case, operands, reference, units

FORMS = (("walk", 1), ("segments", 2), ("parallel", 1), ("parallel", 2))


def gradients(case: Case, form: str, segments: int) -> list[float]:
    given = operands(case, torch.float32)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns)
    grad_final = torch.randn(case.batch, case.heads, case.states, case.pitch)
    exact, magnitude = reference(case, given, grad, grad_final)
    leaves = [None if x is None else x.requires_grad_() for x in given]
    forward = partial(choose.forward, form=form, segments=segments)
    backward = partial(choose.backward, segments=segments)
    with patch.object(choose, "forward", forward), patch.object(choose, "backward", backward):
        query, key, value, gate, own, scale, initial, skip = leaves
        reader = "gate" if case.own == "gate" else own
        rest = (case.heads, case.strict, skip, case.maps)
        y, final = masked(query, key, value, gate, reader, scale, initial, *rest)
        torch.autograd.backward((y, final), (grad, grad_final))
    return units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, 2.0**-24)


def step(case: Case) -> list[float]:
    given = operands(case, torch.float32)
    one = [x[:, :1] if x is not None and x.ndim > 1 and k < 6 else x for k, x in enumerate(given)]
    exact, magnitude = reference(
        case, given, torch.zeros(case.batch, 1, case.heads, case.columns), torch.zeros_like(given[6])
    )
    query, key, value, gate, own, scale, state, skip = one
    reader = "gate" if case.own == "gate" else own
    y, after = masked(query, key, value, gate, reader, scale, state, case.heads, case.strict, skip, case.maps)
    return units([y, after], exact[:2], magnitude[:2], 2.0**-24)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {}
    for place, case in enumerate(CASES):
        # Every case in one form, in turn; the first in all of them.
        for form, segments in FORMS if place == 0 else (FORMS[place % len(FORMS)],):
            found[f"{case} {form} {segments}"] = gradients(case, form, segments)
        if case.initial:
            first = Case(**{**vars(case), "length": 1})
            found[f"{case} step"] = step(first)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
