"""Addressing: operands, results and states past 2^31 elements, a million positions, strides that 32 bits do not
hold.

There is no float64 reference of such a size. A call is held against itself cut into pieces, each small enough for
32-bit offsets and with the state handed on; both are off by at most ALLOWED units of their sums of magnitudes, which
the same kernels compute from absolute operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ssdc.runtime.kernels.masked import masked
from tests.support.compare import UNIT
from tests.support.device import DEVICE, example, marks, moved, on_device
from tests.support.programs import cut, draw_inputs

GIBIBYTES = 48
pytestmark = [
    *marks,
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < GIBIBYTES * 2**30,
        reason=f"needs {GIBIBYTES} GiB of device memory",
    ),
]
ALLOWED = {torch.float32: 16 * UNIT[torch.float32], torch.bfloat16: 2 * UNIT[torch.bfloat16]}
PIECE = 2**16
LIMIT = 2**31


@dataclass(frozen=True)
class Large:
    """One contraction of batch one; `shared` says that all heads read one query and key."""

    length: int
    heads: int
    states: int
    columns: int
    shared: bool = False
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"T={self.length} heads={self.heads} {self.states}x{self.columns} {self.dtype}"


WIDE_VALUE = Large(2**19 + 71, 32, 16, 128, shared=True)
WIDE_QUERY = Large(2**19 + 71, 32, 128, 16)
MANY_STATES = Large(2**18 + 135, 32, 256, 64, shared=True)
LONG = tuple(Large(2**20, 2, 16, 16, dtype=dtype) for dtype in ALLOWED)
Timed = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def room():
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def operands(case: Large) -> Timed:
    """Query, key, value and log gates that forget within some hundred positions."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    groups = 1 if case.shared else case.heads
    normal = partial(torch.randn, generator=draw, device=DEVICE, dtype=case.dtype)
    query, key = (normal(1, case.length, groups, case.states) for _ in range(2))
    gate = torch.rand(1, case.length, case.heads, generator=draw, device=DEVICE) * -0.02
    return query, key, normal(1, case.length, case.heads, case.columns), gate


def run(case: Large, timed: Timed, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    query, key, value, gate = timed
    return masked(query, key, value, gate, None, None, initial, case.heads, False)


def part(timed: Timed, start: int, end: int) -> Timed:
    query, key, value, gate = (x[:, start:end] for x in timed)
    return query, key, value, gate


def absolute(timed: Timed) -> Timed:
    """Operands whose terms are the magnitudes of others'; a gate is not a factor but an exponent."""
    query, key, value, gate = timed
    return query.abs(), key.abs(), value.abs(), gate


def close(case: Large, found: Tensor, other: Tensor, magnitude: Tensor, what: str) -> None:
    """Both within ALLOWED magnitudes of the exact; the magnitude itself is as inexact."""
    unit = ALLOWED[case.dtype]
    bound = 2 * unit * (1 + 2 * unit) * magnitude.float() + torch.finfo(torch.float32).tiny
    far = (found.float() - other.float()).abs()
    fine = (far <= bound) & found.isfinite()
    assert bool(fine.all()), f"{what}: {int((~fine).sum())} of {fine.numel()}, the worst {float((far / bound).max())}"


def differentiated(
    case: Large, timed: Timed, initial: Tensor | None, grad: Tensor, grad_final: Tensor
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Gradients of the operands, and of the first state."""
    leaves = [x.detach().requires_grad_() for x in timed]
    start = None if initial is None else initial.detach().requires_grad_()
    y, final = run(case, (leaves[0], leaves[1], leaves[2], leaves[3]), start)
    wanted = leaves if start is None else [*leaves, start]
    found = torch.autograd.grad((y, final), wanted, (grad, grad_final))
    return found[:4], None if start is None else found[4]


@pytest.mark.parametrize("case", (WIDE_VALUE, WIDE_QUERY, MANY_STATES, *LONG), ids=str)
def test_a_call_is_its_pieces(case: Large) -> None:
    """Outputs, last state and every gradient, element by element."""
    timed = operands(case)
    with torch.no_grad():
        y, final = run(case, timed, None)
    cuts = [*range(0, case.length, PIECE), case.length]
    states: list[tuple[Tensor | None, Tensor | None]] = [(None, None)]
    with torch.no_grad():
        for start, end in pairwise(cuts):
            piece = part(timed, start, end)
            other, state = run(case, piece, states[-1][0])
            magnitude, large = run(case, absolute(piece), states[-1][1])
            close(case, y[:, start:end], other, magnitude, f"outputs from {start}")
            states.append((state, large))
    close(case, final, *states.pop(), "the last state")  # type: ignore[arg-type]
    del other, magnitude
    grad, grad_final = torch.randn_like(y), torch.randn_like(final)
    del y
    found, _ = differentiated(case, timed, None, grad, grad_final)
    later, large_later = grad_final, grad_final.abs()
    for (start, end), (state, large) in zip(reversed(list(pairwise(cuts))), reversed(states), strict=True):
        piece, due = part(timed, start, end), grad[:, start:end]
        some, later = differentiated(case, piece, state, due, later)  # type: ignore[assignment]
        sizes, large_later = differentiated(case, absolute(piece), large, due.abs(), large_later)  # type: ignore[assignment]
        for name, whole, mine, size in zip(("query", "key", "value", "gate"), found, some, sizes, strict=True):
            close(case, whole[:, start:end], mine, size.abs(), f"gradient of the {name} from {start}")


def test_these_sizes_pass_the_limit() -> None:
    assert WIDE_VALUE.length * WIDE_VALUE.heads * WIDE_VALUE.columns > LIMIT
    assert WIDE_QUERY.length * WIDE_QUERY.heads * WIDE_QUERY.states > LIMIT
    chunks = -(-MANY_STATES.length // 64)
    assert chunks * MANY_STATES.heads * MANY_STATES.states * MANY_STATES.columns > LIMIT
    assert WIDE_VALUE.heads * PIECE * 128 < LIMIT


def test_a_wrong_element_is_seen() -> None:
    case = Large(200, 2, 16, 16)
    timed = operands(case)
    with torch.no_grad():
        y, (magnitude, _) = run(case, timed, None)[0], run(case, absolute(timed), None)
    close(case, y, y.clone(), magnitude, "the same")
    other = y.clone()
    other[0, 150, 1, 3] += 5 * ALLOWED[case.dtype] * magnitude[0, 150, 1, 3]
    with pytest.raises(AssertionError, match="1 of"):
        close(case, y, other, magnitude, "spoiled")


@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
def test_a_million_positions_of_a_layer(dtype: torch.dtype) -> None:
    """The scores of `ssd` through the layer: all at once, and prefilled piece by piece."""
    case, length = example("ssd"), 2**20
    layer = on_device(case)
    with torch.no_grad():
        layer.A_log.fill_(-3.0)
        block = moved(draw_inputs(case, 4096, b=1), dtype)
        x = {name: value.repeat(1, length // 4096, *[1] * (value.ndim - 2)) for name, value in block.items()}
        sizes = {name: value.abs() for name, value in x.items()}
        y, state, large = layer(**x), None, None
        for start, end in pairwise((0, 1000, 70_000, length // 2 + 13, length)):
            other, state = layer(**cut(case, x, start, end), state=state, return_state=True)
            magnitude, large = layer(**cut(case, sizes, start, end), state=large, return_state=True)
            close(Large(length, 4, 16, 20, dtype=dtype), y[:, start:end], other, magnitude, f"from {start}")


# ---- strides ---------------------------------------------------------------------------------------------------------

EDGE = LIMIT // 256
"""Strides below it are taken as they are: a tile has at most 256 rows or columns."""
STRIDES = {
    "positions, below the edge": (0, EDGE - 8, 128, 1),
    "positions, past the edge": (0, EDGE + 8, 128, 1),
    "columns, below the edge": (0, 1, 150, EDGE - 8),
    "columns, past the edge": (0, 1, 150, EDGE + 8),
    "heads": (0, 64, LIMIT // 2 + 8, 1),
    "batch": (LIMIT + 8, 64, 64 * 150, 1),
}


@pytest.mark.parametrize("what", STRIDES)
def test_strides_and_offsets_past_32_bits(what: str) -> None:
    """Bit for bit as on contiguous operands."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    shape = (2 if what == "batch" else 1, 130, 2, 64)
    strides, offset = STRIDES[what], LIMIT + 16
    reach = sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) + 1
    base = torch.empty(offset + reach, device=DEVICE, dtype=torch.bfloat16)
    far = torch.as_strided(base, shape, strides, offset)
    far.copy_(torch.randn(shape, generator=draw, device=DEVICE))
    near = [torch.randn(shape, generator=draw, device=DEVICE).bfloat16() for _ in range(3)]
    gate = -torch.rand(shape[:3], generator=draw, device=DEVICE)
    for place, name in enumerate(("query", "key", "value", "gradient of the output")):
        wanted, found = (_all([*near[:place], x, *near[place:]], gate) for x in (far.contiguous(), far))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), name


def _all(given: list[Tensor], gate: Tensor) -> tuple[Tensor, ...]:
    """Outputs, last state and gradients."""
    leaves = [x.detach().requires_grad_() for x in (*given[:3], gate)]
    y, final = masked(leaves[0], leaves[1], leaves[2], leaves[3], None, None, None, 2, False)
    return y, final, *torch.autograd.grad((y, final), leaves, (given[3], torch.ones_like(final)))
