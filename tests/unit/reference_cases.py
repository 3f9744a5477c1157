"""Programs, their references and random inputs, for the tests of the float64 reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssdc.graph.scope import resolve
from ssdc.runtime.reference import Reference
from ssdc.source import Source
from ssdc.syntax.parser import parse

EXAMPLES = Path(__file__).parents[2] / "examples"

SIZES: Mapping[str, Mapping[str, int]] = {
    "attention": {"H": 2, "N": 4, "P": 3}, "deltanet": {"H": 2, "N": 4, "P": 3}, "gla": {"H": 2, "N": 4, "P": 3},
    "hydra": {"H": 2, "N": 4, "P": 3}, "linear_attention": {"H": 2, "N": 4, "P": 3}, "mamba": {"C": 5, "N": 4},
    "mamba2": {"D": 8, "P": 4, "N": 5, "G": 2}, "mlstm": {"H": 2, "N": 4, "P": 3},
    "packed_window": {"H": 2, "N": 4, "P": 3, "W": 4}, "retention": {"H": 2, "N": 4, "P": 3}, "rglru": {"C": 5},
    "rwkv6": {"H": 2, "N": 4, "P": 3}, "ssd": {"H": 4, "P": 3, "N": 5, "G": 2},
}  # fmt: skip

BOTH_WAYS = ("hydra",)
"""Examples that no state can carry on."""


def reference(text: str, **sizes: int) -> Reference:
    """The reference of the last layer of a program."""
    program = parse(Source(text))
    layers = {layer.name: layer for layer in program.layers}
    scope = resolve(program.layers[-1], sizes)
    assert not scope.faults, [fault.text for fault in scope.faults]
    return Reference(scope, resolve=lambda name, given: resolve(layers[name], given), source=Source(text))


def example(name: str, **sizes: int) -> Reference:
    """The reference of an example, parameters from a fixed seed."""
    torch.manual_seed(1)
    return reference((EXAMPLES / f"{name}.ssd").read_text(), **{**SIZES[name], **sizes})


def inputs_of(
    module: Reference, length: int, b: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Random inputs that suit their names: positive step sizes, log decays below zero, documents of uneven length."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for entry in module.inputs:
        sizes = {"b": b, "t": length, **{name: axis.size for name, axis in module.scope.axes.items() if axis.size}}
        shape = [sizes[index.name] for index in entry.tensor.indices]
        name = entry.tensor.name
        if entry.kind == "int":
            steps = torch.rand(shape, generator=draw) < 0.2
            found[name] = steps.long().cumsum(-1)
            continue
        x = torch.randn(shape, generator=draw, dtype=torch.float64)
        if name in ("dt", "beta"):
            x = x.sigmoid()
        if name in ("g", "w", "a"):
            x = -x.abs()
        found[name] = x.to(dtype)
    return found
