"""What the tests on a GPU share: marks, example layers at sizes that the kernels serve, inputs, and bounds.

Bounds are those of `compare` and `gradients`, and where Triton's kernels compute in 16 bits, KERNEL units more: every
product of two 16-bit operands is exact in float32, and scores, states and results are rounded to 16 bits once each, so
that an element is off by at most 2 * 2^-8 of the sum of its terms' magnitudes (the score-card's bound). A gradient is
allowed four times an output's units, as in float32: twice for the values that the forward pass leaves, twice for the
estimate of its condition; where gates do not change with time, they are multiplied up, and each of `length` products
is rounded alike. A float16 number below 2^-14 has an absolute error, half a subnormal: a chunk of 64 such
scores and the states of a head, times the largest numbers they meet, are what `underflow` adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache

import pytest
import torch
from torch import Tensor

import ssdc
from ssdc.codegen.render import render
from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.state import State
from tests.support import gradients
from tests.support.compare import UNIT, tolerance
from tests.support.programs import CASES, CAUSAL, Case, cut, draw_inputs, reference, time_dims, tuple_of

DEVICE = torch.device("cuda", 0)
marks = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNEL = 2 * UNIT[torch.bfloat16]
"""What a 16-bit kernel may be off by, in sums of terms' magnitudes."""
GRADIENT = 4 * KERNEL
PARAMETRIC = ("mamba2",)
"""Examples that contract with a parameter: in the dtype of low-precision inputs."""
ABSOLUTE = ("rglru",)
"""Examples with 1 - exp(z): torch takes the derivative of its expm1 as the result plus one, which is exact to u, not to
u times exp(z)."""

SERVED = {"N": 16, "P": 20}
OWN = {"mamba2": {"D": 16, "P": 8, "N": 8, "G": 1}, "mamba": {"C": 3, "N": 4}}


def _sized(case: Case) -> Case:
    sizes = {name: SERVED.get(name, size) for name, size in case.sizes.items()}
    return replace(case, sizes=OWN.get(case.name, sizes))


EXAMPLES = tuple(_sized(case) for case in CASES if case.folder == "examples")
_CAUSAL = {case.name for case in CAUSAL}
CAUSAL_EXAMPLES = tuple(case for case in EXAMPLES if case.name in _CAUSAL)


def example(name: str) -> Case:
    """The example of that name."""
    return next(case for case in EXAMPLES if case.name == name)


@cache
def definition(case: Case, low: bool = False) -> Reference:
    """The float64 reference on the CPU; with `low`, its parameters are numbers that bfloat16 and float16 both hold."""
    if not low:
        return reference(case)
    found = ssdc.reference(case.path, sizes=dict(case.sizes))
    found.load_state_dict({name: held(value).double() for name, value in reference(case).state_dict().items()})
    return found


def held(x: Tensor) -> Tensor:
    """Numbers that bfloat16 and float16 both hold, in float32."""
    return x.to(torch.bfloat16).half().bfloat16().float() if x.is_floating_point() else x


def inputs(
    case: Case, length: int, *, low: bool = False, b: int = 2, seed: int = 0, extreme: bool = False
) -> dict[str, Tensor]:
    """Inputs on the CPU, in float32; with `low`, of numbers that the 16-bit types hold."""
    given = draw_inputs(case, length, b=b, seed=seed, extreme=extreme)
    return {name: held(x) for name, x in given.items()} if low else given


def moved(given: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | None = None) -> dict[str, Tensor]:
    """Inputs on the device, real ones in `dtype`."""
    where = device or DEVICE
    return {name: x.to(where, dtype) if x.is_floating_point() else x.to(where) for name, x in given.items()}


def on_device(
    case: Case,
    dtype: torch.dtype = torch.float32,
    *,
    low: bool = False,
    backend: str = "auto",
    device: torch.device | None = None,
) -> Layer:
    """The compiled layer with the reference's parameters, kept in `dtype`."""
    layer = ssdc.compile(case.path, sizes=dict(case.sizes), dtype=dtype, device=device or DEVICE, backend=backend)
    layer.load_state_dict(definition(case, low).state_dict())
    return layer


@cache
def served(case: Case) -> bool:
    """Whether Triton's kernels serve a contraction of the layer."""
    layer = ssdc.compile(case.path, sizes=dict(case.sizes), backend="torch", device="cpu")
    return "from ssdc.runtime.kernels." in render(layer.graph, layer.plan(), backend="triton")


def underflow(case: Case, dtype: torch.dtype, given: Mapping[str, Tensor], power: int = 1) -> float:
    """What float16 adds where numbers are subnormal; `power` is how many other operands they meet."""
    if dtype != torch.float16 or not served(case):
        return 0.0
    largest = max(
        (float(x.abs()[x.isfinite()].max()) for x in given.values() if x.is_floating_point() and x.numel()), default=1.0
    )
    return 2.0**-25 * (64 + case.sizes.get("N", 64)) * max(1.0, largest) ** power


def bound(case: Case, wanted: Tensor, magnitude: Tensor, dtype: torch.dtype, given: Mapping[str, Tensor]) -> Tensor:
    """How far each element of an output in `dtype` may be off."""
    found = tolerance(wanted, magnitude, dtype, low=dtype != torch.float32 and case.name in PARAMETRIC)
    if dtype == torch.float32 or not served(case):
        return found
    return found + KERNEL * magnitude + underflow(case, dtype, given)


def gradient_bound(
    case: Case,
    name: str,
    wanted: Tensor,
    condition: Tensor,
    dtype: torch.dtype,
    length: int,
    given: Mapping[str, Tensor],
) -> Tensor:
    """How far each element of a gradient may be off, in a computation whose inputs are of `dtype`."""
    found = gradients.tolerance(case, name, condition, torch.float32, "auto", length)
    if case.steady:
        found = found * max(1.0, length / gradients.FACTOR)
    if case.name in ABSOLUTE:
        found = found + gradients.FACTOR * UNIT[torch.float32] * condition.max()
    if dtype == torch.float32:
        return found
    rounded = UNIT[dtype] * wanted.abs() + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    if case.name in PARAMETRIC:
        rounded = rounded + gradients.FACTOR * UNIT[dtype] * condition
    if served(case):
        rounded = rounded + GRADIENT * condition + underflow(case, dtype, given, 2)
    return found + rounded


@lru_cache(maxsize=64)
def expected(
    case: Case, length: int, dtype: torch.dtype, extreme: bool = False, offsets: tuple[int, ...] | None = None
):  # type: ignore[no-untyped-def]
    """Inputs on the CPU, the reference's outputs, and bounds, those of a layer whose inputs are of `dtype`.

    The 16-bit types share inputs, and but for contractions with a parameter the reference's magnitudes.
    """
    low = dtype != torch.float32
    x = inputs(case, length, low=low, b=1 if offsets or length == 1000 else 2, extreme=extreme)
    wanted, magnitude = _magnitudes(case, length, low, extreme, offsets)
    if low and case.name in PARAMETRIC:
        wanted, magnitude = (
            tuple_of(v) for v in definition(case, True).bounds(**x, dtype=dtype, products=True, cu_seqlens=offsets)
        )
    return x, wanted, [bound(case, y, m, dtype, x) for y, m in zip(wanted, magnitude, strict=True)]


@lru_cache(maxsize=64)
def _magnitudes(case: Case, length: int, low: bool, extreme: bool, offsets: tuple[int, ...] | None):  # type: ignore[no-untyped-def]
    x = inputs(case, length, low=low, b=1 if offsets or length == 1000 else 2, extreme=extreme)
    found = definition(case, low).bounds(**x, products=True, cu_seqlens=offsets)
    return tuple(tuple_of(v) for v in found)


# ---- gradients ------------------------------------------------------------------------------------------------------

Call = Callable[..., tuple[Tensor, ...]]


def through_a_state(layer: Layer, start: State | None) -> Call:
    """The layer's outputs and its last state, from inputs and the real tensors of its first state, all by name."""

    def call(**given: Tensor) -> tuple[Tensor, ...]:
        if start is None:
            return tuple_of(layer(**given))
        names = [f"state {k}" for k in range(len(start.tensors))]
        tensors = [given.pop(name, kept) for name, kept in zip(names, start.tensors, strict=True)]
        y, after = layer(**given, state=State(start.layer, start.names, tensors), return_state=True)
        return (*tuple_of(y), *(t for t in after.tensors if t.is_floating_point()))

    return call


BEFORE = 7
"""Positions before a first state."""


@lru_cache(maxsize=32)
def wanted_gradients(case: Case, length: int, low: bool):  # type: ignore[no-untyped-def]
    """Inputs and first state (float64, on the device), cotangents, gradients in float64 and their conditions."""
    exact = on_device(case, torch.float64, low=low, backend="torch")
    whole = moved(inputs(case, BEFORE + length, low=low, b=1 if length == 1000 else 2), torch.float64)
    x, start = cut(case, whole, BEFORE, BEFORE + length), None
    if case in CAUSAL_EXAMPLES:
        with torch.no_grad():
            _, start = exact(**cut(case, whole, 0, BEFORE), return_state=True)
        start = start.to(torch.float32).to(torch.float64)
        x |= {f"state {k}": t for k, t in enumerate(start.tensors) if t.is_floating_point()}
    with torch.no_grad():
        outputs = through_a_state(exact, start)(**x)
    weights = [w.to(DEVICE) for w in gradients.cotangents(case, tuple(held(y.cpu().float()) for y in outputs))]
    weights = [held(w.cpu().float()).to(DEVICE, torch.float64) for w in weights] if low else weights

    def evaluate(given: Mapping[str, Tensor], cotangents: list[Tensor]) -> gradients.Gradients:
        return gradients.gradients(through_a_state(exact, start), exact, given, cotangents)

    step = UNIT[torch.bfloat16] if low else gradients.STEP
    found = gradients.conditioned(evaluate, exact, x, weights, time_dims(case), step)
    return x, start, weights, *found
