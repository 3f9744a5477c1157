"""Runs the streamed and the recurrent kernels in Triton's interpreter (a process of its own: it is switched on before
Triton is imported), and prints errors in units of u * sum|terms|, by case, as one JSON object. What has no error to
measure (prefixes, the operator's contracts, which kernels ran) raises.

Argument: `windows`, `recurrences` or `layers`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch
from torch import Tensor

from ssdc.runtime.kernels.masked import masked
from ssdc.runtime.kernels.streamed import streamed
from tests.support import masked as chunked
from tests.support.launches import recorded
from tests.support.masked import units
from tests.support.streamed import CASES, Case, operands, reference
from tests.support.streamed_layers import LAYERS, WIRED, checked


def run(case: Case, given: list[Tensor | None]) -> Tensor:
    query, key, value, gate, own, scale = given
    ends = "gate" if case.own == "gate" else own
    return streamed(query, key, value, gate, ends, scale, case.heads, case.strict, case.width)


def errors(case: Case) -> list[float]:
    given = operands(case, torch.float32)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns)
    exact, magnitude = reference(case, given, grad)
    leaves = [None if x is None else x.requires_grad_() for x in given]
    y = run(case, leaves)
    y.backward(grad)
    return units([y, *(x.grad for x in leaves if x is not None)], exact, magnitude, 2.0**-24)


def prefixes(case: Case, at: int) -> None:
    """Later inputs leave earlier outputs alone, bit by bit; so does leaving them out."""
    given = operands(case, torch.float32)
    first = run(case, given)
    for cut in (True, False):
        kept = [at if k == 0 else at + case.past for k in range(6)]
        changed = [
            x if x is None or x.ndim == 1 else x[:, :n] if cut else torch.cat([x[:, :n], -x[:, n:].abs()], 1)
            for x, n in zip(given, kept, strict=True)
        ]
        assert torch.equal(first[:, :at], run(case, changed)[:, :at]), (case, cut)


def contracts() -> None:
    """The operator as torch wants it; a compiled call without a break."""
    case = Case(batch=1, length=40, past=9, width=10, scale=True)
    given = operands(case, torch.float32)
    leaves = [None if x is None else x.requires_grad_() for x in given]
    torch.library.opcheck(torch.ops.ssdc.streamed.default, (*leaves, case.heads, case.strict, 0, case.width))
    compiled = torch.compile(lambda *x: run(case, x), fullgraph=True, backend="aot_eager")
    assert torch.equal(run(case, given), compiled(*given))


def recurrent_errors(case: chunked.Case, form: str) -> list[float]:
    """Values position by position, gradients by chunks."""
    given = chunked.operands(case, torch.float32)
    grad = torch.randn(case.batch, case.length, case.heads, case.columns)
    grad_final = torch.randn(case.batch, case.heads, case.states, case.pitch)
    exact, magnitude = chunked.reference(case, given, grad, grad_final)
    leaves = [None if x is None else x.requires_grad_() for x in given]
    query, key, value, gate, own, scale, initial, skip = leaves
    ends = "gate" if case.own == "gate" else own
    rest = (case.heads, case.strict, skip, case.maps, form)
    with recorded() as launched:
        y, final = masked(query, key, value, gate, ends, scale, initial, *rest)
    assert launched == ["recurrent"]
    torch.autograd.backward((y, final), (grad, grad_final))
    return units([y, final, *(x.grad for x in leaves if x is not None)], exact, magnitude, 2.0**-24)


def windows() -> dict[str, list[float]]:
    prefixes(Case(batch=1, length=100), 37)
    prefixes(Case(batch=1, length=100, width=50, past=49, strict=True, own="gate"), 37)
    contracts()
    return {str(case): errors(case) for case in CASES}


def recurrences() -> dict[str, list[float]]:
    """Every case of the chunked kernels with 1 to 16 positions in turn, and one long call."""
    found = {}
    for place, case in enumerate(chunked.CASES):
        short = replace(case, length=place % 16 + 1)
        found[str(short)] = recurrent_errors(short, "")
    return found | {"long": recurrent_errors(chunked.Case(length=70), "recurrent")}


def layers() -> dict[str, list[float]]:
    found = {}
    for name, one in LAYERS.items():
        found[name], templates, gradients = checked(name, "cpu", torch.float32)
        assert templates == {one.template}, (name, templates)
        assert max(gradients) <= WIRED, (name, gradients)
    return found


PARTS = {"windows": windows, "recurrences": recurrences, "layers": layers}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps(PARTS[sys.argv[1]]()))


if __name__ == "__main__":
    main()
