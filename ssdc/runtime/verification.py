"""Every legal ordering of a layer held against its definition in float64.

In: a program. Out: one `Finding` an ordering and a check: outputs at lengths round the chunk, a prefill cut and
continued, decoding step by step, and gradients. Errors are in units of the bound u * sum|terms| that `Reference.bounds`
derives; 16 are allowed. Gradients are compared in float64, relative to the largest entry of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.samples import sample_inputs

UNITS = 16.0
"""Roundings that an output may be off, in units of u * sum|terms|."""
GRADIENTS = 1e-9
"""Relative error of float64 gradients."""
UNIT = 2.0**-24


@dataclass(frozen=True)
class Finding:
    """The worst error of one check of one ordering, and how much of it is allowed."""

    order: str
    check: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.error <= self.allowed


def verify(
    compiled: Callable[[str], Layer],
    reference: Reference,
    orders: tuple[str, ...],
    *,
    batch: int,
    length: int,
    chunk: int,
) -> Iterator[Finding]:
    """Findings as they are made. `compiled` makes the layer in one order; `reference` has the parameters that count."""
    lengths = sorted({0, 1, max(1, chunk - 1), chunk, chunk + 1, length})
    with torch.no_grad():  # what float32 holds of the parameters is the same in both
        for parameter in reference.parameters():
            parameter.copy_(parameter.float())
    for order in orders:
        layer = compiled(order)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                parameter.copy_(reference.get_parameter(name))
        yield from _outputs(layer, reference, order, batch, lengths)
        if layer.causal:
            yield Finding(order, "prefill, cut and continued", _cut(layer, reference, batch, length), UNITS)
            yield Finding(order, "step by step", _steps(layer, reference, batch, min(length, 40)), UNITS)
        yield Finding(
            order,
            "gradients, float64",
            _gradients(layer.double(), reference, batch, min(length, 2 * chunk + 1)),
            GRADIENTS,
        )


def _outputs(layer: Layer, reference: Reference, order: str, batch: int, lengths: list[int]) -> Iterator[Finding]:
    for length in lengths:
        inputs = _inputs(layer, batch, length)
        values, magnitudes = _bounds(reference, inputs, products=order in ("recurrent", "scan"))
        with torch.no_grad():
            error = _units(layer(**inputs), values, magnitudes)
        yield Finding(order, f"outputs, T = {length}", error, UNITS)


def _inputs(layer: Layer, batch: int, length: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    sizes = dict.fromkeys(layer.call_axes, batch)
    return sample_inputs(layer, seed=length, dtype=dtype, T=length, **sizes)


def _bounds(reference: Reference, inputs: Mapping[str, Tensor], *, products: bool) -> tuple[Any, Any]:
    """Values and error magnitudes; `products` for orderings that multiply gates step by step."""
    ordered = [inputs[entry.tensor.name] for entry in reference.inputs]
    return reference.bounds(*ordered, products=products)


def _units(found: Any, values: Any, magnitudes: Any) -> float:
    """The largest error in units of the bound; an error where the bound is zero is infinite."""
    worst = 0.0
    for y, value, magnitude in zip(_several(found), _several(values), _several(magnitudes), strict=True):
        error = (y.double() - value).abs()
        allowed = magnitude * UNIT
        units = torch.where(error == 0, torch.zeros_like(error), error / allowed)
        if units.numel():
            worst = max(worst, float("nan") if bool(units.isnan().any()) else float(units.max()))
    return worst


def _several(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _slices(layer: Layer, inputs: Mapping[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {
        name: x if (dim := layer.time_of(name)) is None else x.narrow(dim, start, end - start)
        for name, x in inputs.items()
    }


def _cut(layer: Layer, reference: Reference, batch: int, length: int) -> float:
    """A prefill of a third, continued over the rest."""
    inputs = _inputs(layer, batch, length)
    values, magnitudes = _bounds(reference, inputs, products=True)
    at = length // 3
    with torch.no_grad():
        first, state = layer(**_slices(layer, inputs, 0, at), return_state=True)
        second = layer(**_slices(layer, inputs, at, length), state=state)
    joined = []
    for place, (one, two) in enumerate(zip(_several(first), _several(second), strict=True)):
        dim = layer.output_time(place)
        joined.append(two if dim is None else torch.cat([one, two], dim))
    return _units(tuple(joined), values, magnitudes)


def _steps(layer: Layer, reference: Reference, batch: int, length: int) -> float:
    """Position by position from the empty state."""
    inputs = _inputs(layer, batch, length)
    values, magnitudes = _bounds(reference, inputs, products=True)
    state = layer.init_state(device=None, dtype=torch.float32, **dict.fromkeys(layer.call_axes, batch))
    rows: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for t in range(length):
            now = {name: x if (dim := layer.time_of(name)) is None else x.select(dim, t) for name, x in inputs.items()}
            y, state = layer.step(state, **now)
            rows.append(_several(y))
    joined = []
    for place in range(len(rows[0])):
        at = layer.output_time(place)
        parts = [row[place] for row in rows]
        joined.append(parts[-1] if at is None else torch.stack(parts, at))
    return _units(tuple(joined), values, magnitudes)


def _gradients(layer: Layer, reference: Reference, batch: int, length: int) -> float:
    """The largest error of a gradient with respect to any input or parameter, relative to that gradient's largest
    entry."""
    inputs = _inputs(layer, batch, length, torch.float64)
    found, wanted = (_gradient(module, inputs) for module in (layer, reference))
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        if one is None or other is None:
            continue
        scale = float(other.abs().max()) if other.numel() else 0.0
        error = float((one - other).abs().max()) if other.numel() else 0.0
        worst = max(worst, error / scale if scale else error)
    return worst


def _gradient(module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor | None]:
    leaves = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    outputs = _several(module(**leaves))
    generator = torch.Generator().manual_seed(1)
    total = sum((y * torch.randn(y.shape, generator=generator, dtype=torch.float64)).sum() for y in outputs)
    targets = [x for x in leaves.values() if x.requires_grad] + [
        parameter for _, parameter in sorted(module.named_parameters())
    ]
    assert isinstance(total, Tensor)
    return list(torch.autograd.grad(total, targets, allow_unused=True))
