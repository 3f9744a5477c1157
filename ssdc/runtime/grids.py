"""The masks of a layer as small grids of their true values, for pictures.

In go ways to a compiled layer and its float64 reference; out comes, for each mask, M for a few entries of its other
axes, made from random inputs (`samples`) by the definition. Complex masks are shown by their magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.samples import sample_inputs


@dataclass(frozen=True)
class Grid:
    """A mask at one entry of its other axes (`at`, such as `h = 3`): `rows[t][s]`."""

    mask: str
    at: str
    rows: tuple[tuple[float, ...], ...]


def grids(
    compiled: Callable[[], Layer], defined: Callable[[], Reference], length: int, most: int = 3
) -> tuple[Grid, ...]:
    """M [length, length] of every mask that a call reads, for at most so many entries spread over its other axes.

    The batch and other axes that calls decide have one entry, and are not told. Values are the same each time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layer, reference = compiled(), defined()
    learned = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(learned[name])
    found = []
    for name, (axes, values) in reference.masks(**sample_inputs(layer, T=length)).items():
        real = values.abs() if values.is_complex() else values
        flat = real.reshape(-1, length, length)
        count = len(flat)
        for place in dict.fromkeys(round(one * (count - 1) / max(1, most - 1)) for one in range(most)):
            found.append(Grid(name, _entry(axes, real, place), tuple(tuple(row) for row in flat[place].tolist())))
    return tuple(found)


def _entry(axes: tuple[str, ...], values: Tensor, place: int) -> str:
    """Where an entry of the flattened axes stands, axes of size one left out."""
    sizes = values.shape[:-2]
    places = torch.unravel_index(torch.tensor(place), sizes) if sizes else ()
    told = zip(axes, sizes, places, strict=True)
    return ", ".join(f"{axis} = {int(at)}" for axis, size, at in told if size > 1)
