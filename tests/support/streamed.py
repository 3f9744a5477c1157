"""Windows and quadratic contractions with one gate a head, in float64 pair by pair: results, gradients and sums of
magnitudes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("query", "key", "value", "gate", "own", "scale")


@dataclass(frozen=True)
class Case:
    """Sizes and kinds of one contraction. `past` counts writers before the first reader; `rate` bounds gates, and with
    `resets` half of them are one and some are zero. `groups` are the heads of query, key, value (0: all)."""

    batch: int = 2
    length: int = 100
    heads: int = 2
    states: int = 16
    columns: int = 16
    groups: tuple[int, int, int] = (0, 0, 0)
    width: int | None = None
    past: int = 0
    gate: str = "varying"
    strict: bool = False
    own: str = "none"
    scale: bool = False
    rate: float = 1.0
    resets: bool = False

    def __str__(self) -> str:
        default = Case()
        shown = [f"{name}={value}" for name, value in vars(self).items() if value != getattr(default, name)]
        return " ".join(shown) or "plain"


CASES = (
    Case(),
    Case(gate="none"),
    Case(gate="none", strict=True, width=40, past=20),
    Case(gate="constant"),
    Case(gate="constant", strict=True),
    Case(gate="constant", width=33, past=32, scale=True),
    Case(strict=True),
    Case(strict=True, own="gate"),
    Case(strict=True, own="varying"),
    Case(strict=True, own="varying", width=70, past=69, scale=True),
    Case(scale=True),
    Case(groups=(1, 1, 0), scale=True, heads=4),
    Case(groups=(2, 1, 2), heads=4),
    Case(states=24, columns=80),
    Case(states=80, columns=24, width=50),
    Case(rate=10.0, resets=True),
    Case(rate=1000.0, resets=True),
    Case(rate=1000.0, resets=True, width=90, past=50),
    Case(length=0),
    Case(length=1),
    Case(length=31),
    Case(length=32),
    Case(length=33, past=1, width=2),
    Case(length=200, batch=1),
    Case(length=200, batch=1, width=1),
    Case(length=200, batch=1, width=1, strict=True),
    Case(length=200, batch=1, width=32),
    Case(length=200, batch=1, width=34),
    Case(length=200, batch=1, width=100, past=99),
    Case(length=200, batch=1, width=5, past=4, strict=True, own="gate"),
    Case(length=3, width=150, past=149),
)


def operands(case: Case, dtype: torch.dtype, seed: int = 0) -> list[Tensor | None]:
    """Random operands on the CPU, in the order of NAMES; query, key and value in `dtype`, the rest in float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    span = (case.batch, case.past + case.length)
    lead = ((case.batch, case.length), span, span)
    query, key, value = (
        normal(*first, group or case.heads, size).to(dtype)
        for first, group, size in zip(lead, case.groups, (case.states, case.states, case.columns), strict=True)
    )

    def gates(*shape: int) -> Tensor:
        found = -torch.rand(*shape, generator=generator) * case.rate
        if case.resets:
            found = torch.where(torch.rand(shape, generator=generator) < 0.5, 0.0, found)
            found = torch.where(torch.rand(shape, generator=generator) < 0.03, -torch.inf, found)
        return found

    gate = None if case.gate == "none" else gates(case.heads) if case.gate == "constant" else gates(*span, case.heads)
    own = gates(*span, case.heads) if case.own == "varying" else None
    scale = torch.rand(*span, case.heads, generator=generator) if case.scale else None
    return [query, key, value, gate, own, scale]


def reference(case: Case, given: list[Tensor | None], grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and the gradients of the given operands in float64, and for each the sum of its terms' magnitudes."""
    return _evaluated(case, given, grad, False), _evaluated(case, given, grad, True)


def _evaluated(case: Case, given: list[Tensor | None], grad: Tensor, magnitude: bool) -> list[Tensor]:
    leaves = [
        None
        if x is None
        else (x.double().abs() if magnitude and name not in ("gate", "own") else x.double()).requires_grad_()
        for name, x in zip(NAMES, given, strict=True)
    ]
    y = pair_by_pair(case, magnitude, *leaves)
    due = grad.double().abs() if magnitude else grad.double()
    grads = torch.autograd.grad(y, [x for x in leaves if x is not None], due)
    return [y.detach(), *grads]


def pair_by_pair(case: Case, magnitude: bool, query, key, value, gate, own, scale) -> Tensor:  # type: ignore[no-untyped-def]
    """y[t] = sum over s of (query[t] . key[s]) mask[t, s] scale[s] value[s], every mask entry a sum of its own gates.

    For a magnitude, each entry counts 1 + |its logarithm| times: what rounding the logarithm adds.
    """
    query, key, value = (x.repeat_interleave(case.heads // x.shape[2], 2) for x in (query, key, value))
    span = case.past + case.length
    place = torch.arange(span)
    reader, writer = place[case.past :, None], place[None, :]
    keep = (reader > writer) if case.strict else (reader >= writer)
    if case.width is not None:
        keep = keep & (reader - writer < case.width)
    gates = torch.zeros(case.batch, case.heads, span, dtype=torch.float64)
    if gate is not None:
        gates = gate[None, :, None].expand_as(gates) if gate.ndim == 1 else gate.transpose(1, 2)
    logs = torch.where(place[:, None] > place[None, :], gates.unsqueeze(-1), 0.0).cumsum(-2)
    if case.strict:
        ends = gates if case.own == "gate" else torch.zeros_like(gates) if own is None else own.transpose(1, 2)
        logs = torch.cat([torch.zeros_like(logs[..., :1, :]), logs[..., :-1, :]], -2) + ends.unsqueeze(-1)
    logs = logs[..., case.past :, :]
    mask = torch.where(keep, logs, -torch.inf)
    entries = mask.exp() * (torch.where(mask == -torch.inf, 1.0, 1.0 - mask.detach()) if magnitude else 1.0)
    if scale is not None:
        entries = entries * scale.transpose(1, 2).unsqueeze(2)
    return torch.einsum("bthn,bshn,bhts,bshp->bthp", query, key, entries, value)
