"""Times of masked contractions with one gate a head, beside libraries that have the same operation, where they are
installed.

In: the sizes of a contraction (`Shape`), or a layer that holds one. Out: rows of medians, in milliseconds, each with
its error against float64. All rows of a call are measured in one process on the same random operands. A library that
is missing or that fails gives a row that says so. Nothing is chosen by what is measured here.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.operands import operands as operands_of
from ssdc.codegen.triton.contraction import refusal
from ssdc.plan.roles import roles
from ssdc.runtime.kernels.masked import masked
from ssdc.runtime.module import Layer

CHECKED = 1024
"""Positions, of the first batch entry and head, whose output and query gradient are compared with float64: they
depend on no later ones."""


@dataclass(frozen=True)
class Shape:
    """A contraction: query and key [batch, length, groups, states], value [batch, length, heads, columns]; the gate
    is none, constant or varying; `scale` multiplies each value."""

    batch: int
    length: int
    heads: int
    states: int
    columns: int
    groups: int
    gate: str = "varying"
    scale: bool = False


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds of the forward pass and of forward and backward, and relative errors of output and query
    gradient; `note` tells why there are none."""

    name: str
    forward: float = float("nan")
    both: float = float("nan")
    error: float = float("nan")
    gradient_error: float = float("nan")
    first: float = float("nan")
    """Seconds of the first forward and backward pass: compilation and tuning included."""
    note: str = ""


Contraction = Callable[[Mapping[str, Any]], Tensor]


def _ours(given: Mapping[str, Any]) -> Tensor:
    return masked(
        given["query"], given["key"], given["value"], given["gate"], None, given["scale"], None, given["heads"], False
    )[0]


def _linear(given: Mapping[str, Any]) -> Tensor:
    call = importlib.import_module("fla.ops.linear_attn").chunk_linear_attn
    y: Tensor = call(given["query"], given["key"], given["value"], scale=1.0, normalize=False)[0]
    return y


def _retention(given: Mapping[str, Any]) -> Tensor:
    y: Tensor = importlib.import_module("fla.ops.retention").chunk_retention(
        given["query"], given["key"], given["value"], scale=1.0
    )[0]
    return y


def _simple_gla(given: Mapping[str, Any]) -> Tensor:
    call = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    y: Tensor = call(given["query"], given["key"], given["value"], g=given["gate"], scale=1.0)[0]
    return y


def _mamba(given: Mapping[str, Any]) -> Tensor:
    call = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    y: Tensor = call(given["value"], given["scale"], given["rate"], given["key"], given["query"], chunk_size=256)
    return y


@dataclass(frozen=True)
class Peer:
    """A library's operation, and the kinds of contraction that it computes."""

    name: str
    call: Contraction
    gate: str
    scale: bool


PEERS = (
    Peer("fla linear_attn", _linear, "none", False),
    Peer("fla retention", _retention, "constant", False),
    Peer("fla simple_gla", _simple_gla, "varying", False),
    Peer("mamba_ssm", _mamba, "varying", True),
)
"""Operations to compare with."""


def compare(shape: Shape, *, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> tuple[Row, ...]:
    """Rows for a contraction: ours first, then each peer that computes it."""
    given = _operands(shape, dtype, device)
    wanted = _exact(shape, given)
    rows = [_row("ssdc", _ours, given, wanted)]
    for peer in PEERS:
        if (peer.gate, peer.scale) == (shape.gate, shape.scale) and (shape.scale or shape.groups == shape.heads):
            rows.append(_row(peer.name, peer.call, given, wanted))
    return tuple(rows)


def compare_layer(layer: Layer, **sizes: int) -> tuple[Row, ...]:
    """Rows for the first contraction of a layer that the kernels serve, at a call's sizes. Raises ValueError where
    none is."""
    return compare(
        shape_of(layer, **sizes), device=str(next(iter(layer.parameters()), torch.empty(0, device="cuda")).device)
    )


def shape_of(layer: Layer, **sizes: int) -> Shape:
    """The contraction of a layer that `compare_layer` measures."""
    plan = layer.plan(**sizes)
    reasons = []
    for choice in plan.choices.values():
        ops, found = operands_of(layer.graph, choice), roles(choice.problem)
        reason = refusal(ops)
        if reason is None:
            count = choice.problem.count
            lead = tuple(axis for axis in found.batch[:1] if layer.graph.sizes.get(axis) is None)
            heads = (*found.batch[len(lead) :], *found.rows)
            shared = [axis for axis in heads if all(axis not in op.axes for op in ops.readers)]
            gated = [*ops.logs, *ops.exclusive_logs]
            timed = any(choice.problem.time in op.axes for op in gated) or bool(ops.documents)
            flat = {*found.batch, choice.problem.time}
            return Shape(
                count(lead), choice.problem.length, count(heads), count(found.inner), count(found.outer),
                count(heads) // count(tuple(shared)), "varying" if timed else "constant" if gated else "none",
                any(set(op.axes) <= flat for op in ops.writers),
            )  # fmt: skip
        reasons.append(f"'{choice.problem.equation}': {reason}")
    raise ValueError("the kernels serve no contraction of the layer: " + "; ".join(reasons or ["it has none"]))


def _operands(shape: Shape, dtype: torch.dtype, device: str) -> Mapping[str, Any]:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device, generator=generator).to(dtype).requires_grad_()

    lead = (shape.batch, shape.length)
    made: dict[str, Any] = {
        "query": normal(*lead, shape.groups, shape.states), "key": normal(*lead, shape.groups, shape.states),
        "value": normal(*lead, shape.heads, shape.columns), "gate": None, "scale": None, "heads": shape.heads,
    }  # fmt: skip
    made["grad"] = normal(*lead, shape.heads, shape.columns).detach()
    if shape.scale:
        made["scale"] = (torch.rand(*lead, shape.heads, device=device, generator=generator) * 0.1).requires_grad_()
        made["rate"] = -torch.rand(shape.heads, device=device, generator=generator)
        made["gate"] = (made["scale"].detach() * made["rate"]).requires_grad_()
    elif shape.gate == "varying":
        made["gate"] = (-torch.rand(*lead, shape.heads, device=device, generator=generator) * 0.1).requires_grad_()
    elif shape.gate == "constant":
        # The decays of retention (Sun et al. 2023, equation 8), which its peer has built in.
        made["gate"] = torch.log1p(-torch.exp2(-5.0 - torch.arange(shape.heads, device=device)))
    return MappingProxyType(made)


def _exact(shape: Shape, given: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Output and query gradient of head 0 (and those that share its query), in float64 by the quadratic form."""
    length = min(shape.length, CHECKED)
    share = shape.heads // shape.groups
    query, key = (given[name].detach()[0, :length, 0].double() for name in ("query", "key"))
    total = torch.zeros_like(query)
    first = torch.empty(0)
    places = torch.arange(length, device=query.device)
    for head in range(share):
        value, grad = (given[name].detach()[0, :length, head].double() for name in ("value", "grad"))
        gate = given["gate"]
        logs = torch.zeros(length, device=query.device, dtype=torch.float64)
        if gate is not None:
            logs = (
                gate.detach()[head].double().expand(length)
                if gate.ndim == 1
                else gate.detach()[0, :length, head].double()
            )
        sums = logs.cumsum(0)
        mask = torch.where(places[:, None] >= places, sums[:, None] - sums, -torch.inf).exp()
        if given["scale"] is not None:
            mask = mask * given["scale"].detach()[0, :length, head].double()
        total += ((grad @ value.T) * mask) @ key
        if head == 0:
            first = ((query @ key.T) * mask) @ value
    return first, total


def _row(name: str, call: Contraction, given: Mapping[str, Any], wanted: tuple[Tensor, Tensor]) -> Row:
    leaves = [x for x in given.values() if isinstance(x, Tensor) and x.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            call(given)

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        call(given).backward(given["grad"])  # type: ignore[no-untyped-call]

    try:
        begin = time.perf_counter()
        both()
        y, gradient = call(given).detach(), given["query"].grad
        _wait(y)
        first = time.perf_counter() - begin
        length = wanted[0].shape[0]
        errors = [_relative(y[0, :length, 0], wanted[0]), _relative(gradient[0, :length, 0], wanted[1])]
        return Row(name, _median(forward, y), _median(both, y), errors[0], errors[1], first)
    except ImportError as missing:
        return Row(name, note=f"not installed: {missing.name or missing}")
    except (RuntimeError, TypeError, ValueError) as fault:
        return Row(name, note=f"failed: {fault}")


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def _wait(like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)


def _median(call: Callable[[], None], like: Tensor) -> float:
    """Median milliseconds of a call, caches emptied between calls on a GPU."""
    if like.is_cuda:
        do_bench = importlib.import_module("triton.testing").do_bench
        return float(do_bench(call, warmup=25, rep=100, return_mode="median"))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)
