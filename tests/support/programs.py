"""Every program that the numeric tests run: its sizes, how its inputs are drawn, and its legal orders.

A program of `examples/` or `tests/programs/` without a row here fails `test_orders.test_every_program_has_a_row`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

import ssdc
from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.reference.expressions import axes_of
from ssdc.syntax import ast

ROOT = Path(__file__).parents[2]
CHUNK = 32
"""The chunk of chunked orders: two blocks of sixteen rows where gates sit within the score product."""

Draw = Callable[[Generator, list[int]], Tensor]


def normal(draw: Generator, shape: list[int]) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def log_gate(draw: Generator, shape: list[int]) -> Tensor:
    """Logarithms of gates over four decades, one in eight exactly zero."""
    size = torch.exp(2 * torch.randn(shape, generator=draw, dtype=torch.float64) - 2)
    return -size * (torch.rand(shape, generator=draw) < 0.875)


def extreme_gate(draw: Generator, shape: list[int]) -> Tensor:
    """Logarithms of gates from none to complete forgetting."""
    choices = torch.tensor([0.0, -0.0, -1e-30, -1e-4, -0.5, -10.0, -100.0, -1e3, -1e4, -torch.inf], dtype=torch.float64)
    return choices[torch.randint(len(choices), shape, generator=draw)]


def plain_gate(draw: Generator, shape: list[int]) -> Tensor:
    """Gates of either sign, some above one, one in eight zero; products of them shrink in the long run."""
    gate = 2.4 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1.2
    return gate * (torch.rand(shape, generator=draw) < 0.875)


def step_size(draw: Generator, shape: list[int]) -> Tensor:
    return normal(draw, shape).sigmoid()


@dataclass(frozen=True, eq=False)
class Case:
    """A program. `draws` says how inputs are drawn that are not normal, `steady` that gates do not change with time,
    `grown` by how much the errors of a contraction grow at most (a normaliser divides by little)."""

    name: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    draws: Mapping[str, Draw] = field(default_factory=dict)
    steady: bool = False
    folder: str = "examples"
    grown: float = 1.0

    @property
    def path(self) -> Path:
        return ROOT / self.folder / f"{self.name}.ssd"

    def __str__(self) -> str:
        return self.name


HNP = {"H": 2, "N": 4, "P": 3}
GATED = {
    "a": log_gate,
    "g": log_gate,
    "w": log_gate,
    "r": plain_gate,
    "rn": plain_gate,
    "dt": step_size,
    "beta": step_size,
}


def _odd(name: str, sizes: Mapping[str, int] = HNP) -> Case:
    return Case(name, sizes, GATED, folder="tests/programs")


CASES = (
    Case("attention", HNP),
    Case("based", HNP),
    Case("cosformer", {**HNP, "M": 1024}, grown=1e6),
    Case("gateloop", HNP),
    Case("gla", HNP, {"g": log_gate}),
    Case("gsa", {**HNP, "M": 5}, {"g": log_gate}),
    Case("h3", {**HNP, "S": 5}, steady=True),
    Case("hgrn2", HNP),
    Case("hydra", HNP, {"a": log_gate}),
    Case("hyena", {"C": 4, "J": 70}),
    Case("linear_attention", HNP),
    Case("mamba", {"C": 5, "N": 4}, {"dt": step_size}),
    Case("mamba2", {"D": 8, "P": 4, "N": 5, "G": 2}),
    Case("mlstm", HNP),
    Case("multi_query_retention", {**HNP, "H": 4, "G": 2}, steady=True),
    Case("packed_window", {**HNP, "W": 20}, steady=True),
    Case("qrnn", {"C": 4}),
    Case("retention", HNP, steady=True),
    Case("rglru", {"C": 5}),
    Case("rwkv4", {"C": 5}, steady=True),
    Case("rwkv5", HNP, steady=True),
    Case("rwkv6", HNP, {"w": log_gate}),
    Case("s4d", {"C": 4, "N": 5}, steady=True),
    Case("sliding_window_attention", {**HNP, "W": 20}),
    Case("ssd", {"H": 4, "P": 3, "N": 5, "G": 2}, {"dt": step_size}),
    _odd("exclusive_products"),
    _odd("full_mix"),
    Case("functions", {"C": 3, "N": 4}, folder="tests/programs"),
    _odd("lags_and_places", {"H": 2, "P": 3}),
    _odd("lookup_and_split", {"V": 7, "D": 4, "H": 2, "N": 3}),
    Case("mamba2_grouped", {"D": 8, "P": 4, "N": 5, "G": 2}, folder="tests/programs"),
    _odd("mask_chain"),
    _odd("masks_in_a_term"),
    _odd("odd_shapes"),
    _odd("per_state", {"C": 3, "N": 4}),
    _odd("plain_gates"),
    _odd("reversed"),
    _odd("row_sums", {"H": 2, "N": 4}),
    _odd("softmax_masks"),
    _odd("two_groupings", {"H": 8, "N": 3, "P": 2}),
    _odd("windows"),
)
CAUSAL = tuple(case for case in CASES if case.name not in ("full_mix", "hydra", "reversed"))
ONLY_REFERENCE = ("deltanet",)
"""Programs that are not lowered yet."""

STEADY_PARTS = ("exclusive_products", "masks_in_a_term", "per_state", "plain_gates", "reversed", "row_sums", "windows")
"""Programs with a gate that does not change with time beside others that do."""


@cache
def reference(case: Case, dtype: torch.dtype = torch.float32) -> Reference:
    """The reference, its parameters from a fixed seed and numbers that `dtype` holds."""
    torch.manual_seed(len(case.name))
    found = ssdc.reference(case.path, sizes=dict(case.sizes))
    for parameter in found.parameters():
        parameter.data = parameter.data.to(dtype).double()
    return found


def compiled(case: Case, order: Mapping[str, str] | str = "auto", dtype: torch.dtype = torch.float32) -> Layer:
    """The compiled layer with the reference's parameters; chunks of CHUNK positions where an order is chunked."""
    names = order.values() if isinstance(order, Mapping) else (order,)
    chunk = CHUNK if "chunked" in names else None
    layer = ssdc.compile(case.path, sizes=dict(case.sizes), order=order, chunk=chunk, dtype=dtype)
    layer.load_state_dict({name: value.to(dtype) for name, value in reference(case).state_dict().items()})
    return layer


@cache
def orders(case: Case) -> dict[str, dict[str, str]]:
    """Every legal order of every contraction: for each name, that order wherever it is legal, `recurrent` elsewhere.

    And `auto`: what the planner chooses for a length.
    """
    choices = compiled(case).plan(T=4 * CHUNK).choices
    legal = {name: {c.order for c in (choice.chosen, *choice.rivals)} for name, choice in choices.items()}
    names = sorted({order for found in legal.values() for order in found})
    forced = {
        order: {name: order if order in found else "recurrent" for name, found in legal.items()} for order in names
    }
    return {**forced, "auto": {}}


def draw_inputs(
    case: Case, length: int, *, b: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32, extreme: bool = False
) -> dict[str, Tensor]:
    """Inputs of a call that `dtype` holds exactly. Per-call axes other than `b` have one position more than it."""
    module, draw = reference(case), torch.Generator().manual_seed(1000 * seed + length)
    found: dict[str, Tensor] = {}
    for entry in module.inputs:
        name = entry.tensor.name
        shape = [_count(module, index, length, b) for index in entry.tensor.indices]
        how = case.draws.get(name, normal)
        if entry.kind == "int":
            found[name] = _integers(module, name, shape, draw)
        elif entry.kind == "bool":
            found[name] = torch.rand(shape, generator=draw) < 0.5
        else:
            found[name] = (extreme_gate if extreme and how is log_gate else how)(draw, shape).to(dtype)
    return found


def _count(module: Reference, index: ast.Index, length: int, b: int) -> int:
    count = 1
    for axis in axes_of((index,)):
        known = module.scope.axes[axis].size if axis in module.scope.axes else length
        count *= known if known is not None else b + (axis != "b")
    return count


def _integers(module: Reference, name: str, shape: list[int], draw: Generator) -> Tensor:
    """Numbers of documents, that do not decrease along the last axis; row numbers of a table otherwise."""
    if name == "ids":
        return torch.randint(module.scope.sizes["V"], shape, generator=draw)
    return (torch.rand(shape, generator=draw) < 0.15).long().cumsum(-1)


def time_dims(case: Case) -> dict[str, int | None]:
    """The dimension of time of each input."""
    signature = compiled_signature(case)
    return {name: signature.time(name) for name in signature.names}


@cache
def compiled_signature(case: Case):  # type: ignore[no-untyped-def]
    return compiled(case)._signature


def cut(case: Case, inputs: Mapping[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    """The inputs between two positions."""
    dims = time_dims(case)
    return {name: x if dims[name] is None else x.narrow(dims[name], start, end - start) for name, x in inputs.items()}


def at(case: Case, inputs: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """The inputs at one position, without their time axis."""
    dims = time_dims(case)
    return {name: x if dims[name] is None else x.select(dims[name], place) for name, x in inputs.items()}


@cache
def output_times(case: Case) -> tuple[int | None, ...]:
    """The dimension of time of each output."""
    graph = compiled(case).graph
    return tuple(next((d for d, a in enumerate(r.layout) if a == (graph.reader,)), None) for r in graph.results)


def tuple_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs of a call as a tuple, however many there are."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def joined(case: Case, *parts: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs of calls one after another, side by side in time."""
    return [
        p[0] if d is None else torch.cat(p, d)
        for p, d in zip(zip(*parts, strict=True), output_times(case), strict=True)
    ]
