"""Every program in every legal order, at awkward lengths, cut anywhere, stepped, against the float64 reference."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from tests.support.compare import Report, check, fourier, tolerance
from tests.support.programs import (
    CASES,
    CAUSAL,
    CHUNK,
    ONLY_REFERENCE,
    ROOT,
    STEADY_PARTS,
    Case,
    at,
    compiled,
    cut,
    draw_inputs,
    joined,
    log_gate,
    orders,
    output_times,
    reference,
    tuple_of,
)  # fmt: skip

LENGTHS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 1000)
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_causal_case = pytest.mark.parametrize("case", CAUSAL, ids=str)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=8)
def expected(case: Case, length: int, b: int, products: bool, extreme: bool = False):  # type: ignore[no-untyped-def]
    """Inputs, the reference's outputs, and their magnitudes."""
    x = draw_inputs(case, length, b=b, extreme=extreme)
    wanted, magnitude = reference(case).bounds(**x, products=products)
    return x, tuple_of(wanted), tuple_of(magnitude)


def bounds(case: Case, order: str, length: int, b: int, *, dtype: torch.dtype = torch.float32, extreme: bool = False):
    """Inputs, wanted outputs and bounds for one order. Gates that do not change with time are multiplied up, each
    product rounded, by the orders that go step by step; see `ssdc.runtime.reference.bounds` on `products`."""
    products = (case.steady or case.name in STEADY_PARTS) and order in ("recurrent", "scan", "step", "auto")
    x, wanted, magnitude = expected(case, length, b, products, extreme)
    found = [tolerance(y, m, dtype) for y, m in zip(wanted, magnitude, strict=True)]
    if order in ("fft", "auto"):
        found = [f + fourier(m, d, case.grown) for f, m, d in zip(found, magnitude, output_times(case), strict=True)]
    return x, wanted, found


def test_every_program_has_a_row() -> None:
    have = {path.stem for folder in ("examples", "tests/programs") for path in (ROOT / folder).glob("*.ssd")}
    assert have == {case.name for case in CASES} | set(ONLY_REFERENCE)


@pytest.mark.parametrize("length", LENGTHS)
@each_case
def test_forward(case: Case, length: int) -> None:
    report, b = Report(), 1 if length == 1000 else 2
    for order, wanted_order in orders(case).items():
        x, wanted, bound = bounds(case, order, length, b)
        outputs = tuple_of(compiled(case, wanted_order)(**x))
        for k, (y, w, m) in enumerate(zip(outputs, wanted, bound, strict=True)):
            assert y.dtype == torch.float32
            report.check(y, w, m, f"{order}, output {k}")
    report.close()


@pytest.mark.parametrize("length", (CHUNK + 7, 3 * CHUNK + 1))
@each_causal_case
def test_cut_anywhere_and_stepped(case: Case, length: int) -> None:
    report = Report()
    for order, wanted_order in orders(case).items():
        layer = compiled(case, wanted_order)
        for at_place in (0, 1, 5, CHUNK - 1, CHUNK, CHUNK + 1, length - 3, length):
            stepped = 3 if at_place == length - 3 else 0
            x, wanted, bound = bounds(
                case, "step" if stepped and order not in ("scan", "recurrent", "fft", "auto") else order, length, 2
            )
            first, state = layer(**cut(case, x, 0, at_place), return_state=True)
            if stepped:
                parts = [tuple_of(first)]
                for place in range(at_place, length):
                    y, state = layer.step(state, **at(case, x, place))
                    parts.append(
                        tuple(
                            v.unsqueeze(d) if d is not None else v
                            for v, d in zip(tuple_of(y), output_times(case), strict=True)
                        )
                    )
            else:
                second, state = layer(**cut(case, x, at_place, length), state=state, return_state=True)
                parts = [tuple_of(first), tuple_of(second)]
            for k, (y, w, m) in enumerate(zip(joined(case, *parts), wanted, bound, strict=True)):
                report.check(y, w, m, f"{order}, cut at {at_place}{' and stepped' * bool(stepped)}, output {k}")
    report.close()


@each_causal_case
def test_steps_from_the_start(case: Case) -> None:
    x, wanted, bound = bounds(case, "step", 2 * CHUNK, 2)
    layer, parts = compiled(case), []
    state = layer.init_state(**{axis: 3 if axis == "m" else 2 for axis in layer.call_axes})
    for place in range(12):
        y, state = layer.step(state, **at(case, x, place))
        parts.append(tuple(v.unsqueeze(d) for v, d in zip(tuple_of(y), output_times(case), strict=True)))
    for y, w, m, d in zip(joined(case, *parts), wanted, bound, output_times(case), strict=True):
        check(y, w.narrow(d, 0, 12), m.narrow(d, 0, 12), "steps")


@each_case
def test_float64(case: Case) -> None:
    report, length = Report(), 2 * CHUNK + 5
    for order, wanted_order in orders(case).items():
        x, wanted, bound = bounds(case, order, length, 2, dtype=torch.float64)
        outputs = tuple_of(
            compiled(case, wanted_order, torch.float64)(
                **{k: v.double() if v.is_floating_point() else v for k, v in x.items()}
            )
        )
        for k, (y, w, m) in enumerate(zip(outputs, wanted, bound, strict=True)):
            assert y.dtype == torch.float64
            report.check(y, w, m, f"{order}, output {k}")
    report.close()


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@each_case
def test_low_precision(case: Case, dtype: torch.dtype) -> None:
    if case.name == "mamba2_grouped" and dtype == torch.float16:
        pytest.skip("rsqrt(power + 1e-5) of a power within float16's rounding of zero: no bound can be derived")
    report, length = Report(), CHUNK + 9
    x = draw_inputs(case, length, dtype=dtype)
    low = case.name in ("mamba2", "mamba2_grouped", "lookup_and_split")
    wanted, magnitude = (
        tuple_of(v)
        for v in reference(case, dtype if low else torch.float32).bounds(
            **x, dtype=dtype if low else torch.float32, products=True
        )
    )
    for order, wanted_order in orders(case).items():
        layer = compiled(case, wanted_order)
        if low:
            layer.load_state_dict({k: v.float() for k, v in reference(case, dtype).state_dict().items()})
        outputs = tuple_of(layer(**x))
        for k, (y, w, m) in enumerate(zip(outputs, wanted, magnitude, strict=True)):
            assert y.dtype == dtype
            bound = tolerance(w, m, dtype, low=low) + (
                fourier(m, output_times(case)[k], case.grown) if order in ("fft", "auto") else 0
            )
            report.check(y, w, bound, f"{order}, output {k}")
    report.close()


@pytest.mark.parametrize("case", [case for case in CASES if log_gate in case.draws.values()], ids=str)
def test_extreme_gates(case: Case) -> None:
    report = Report()
    for order, wanted_order in orders(case).items():
        x, wanted, bound = bounds(case, order, 2 * CHUNK + 3, 2, extreme=True)
        for k, (y, w, m) in enumerate(zip(tuple_of(compiled(case, wanted_order)(**x)), wanted, bound, strict=True)):
            report.check(y, w, m, f"{order}, output {k}")
    report.close()


@each_case
def test_views_of_any_stride(case: Case) -> None:
    report, b = Report(), 3
    x, wanted, bound = bounds(case, "auto", CHUNK + 2, b)
    for order, wanted_order in orders(case).items():
        x, wanted, bound = bounds(case, order, CHUNK + 2, b)
        for how, view in VIEWS.items():
            outputs = tuple_of(compiled(case, wanted_order)(**{name: view(value) for name, value in x.items()}))
            for k, (y, w, m) in enumerate(zip(outputs, wanted, bound, strict=True)):
                report.check(y, w, m, f"{order}, {how}, output {k}")
    report.close()


VIEWS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: torch.stack([x, torch.zeros_like(x)], -1)[..., 0],
    "offset": lambda x: torch.cat([x.new_zeros(5, *x.shape[1:]), x])[5:],
}


@each_case
def test_expanded_inputs(case: Case) -> None:
    report = Report()
    dims = {name: value.ndim for name, value in draw_inputs(case, 4).items()}
    x = {
        name: value.narrow(0, 0, 1).expand(value.shape) if dims[name] > 1 else value
        for name, value in draw_inputs(case, CHUNK + 2).items()
    }
    wanted, magnitude = (tuple_of(v) for v in reference(case).bounds(**x, products=True))
    for order, wanted_order in orders(case).items():
        for k, (y, w, m) in enumerate(zip(tuple_of(compiled(case, wanted_order)(**x)), wanted, magnitude, strict=True)):
            report.check(
                y,
                w,
                tolerance(w, m) + (fourier(m, output_times(case)[k], case.grown) if order in ("fft", "auto") else 0),
                f"{order}, output {k}",
            )
    report.close()
