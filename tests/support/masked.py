"""Masked contractions with one gate a head, in float64 by the quadratic form: results, gradients and sums of
magnitudes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ssdc.codegen.triton.maps import decoded

NAMES = ("query", "key", "value", "gate", "own", "scale", "initial", "skip")


@dataclass(frozen=True)
class Case:
    """Sizes and kinds of one contraction. `groups` are the heads of query, key, value (0: all); `rate` bounds gates;
    with `resets`, half of the gates are one and some are zero. `skip` is none, head or column; `maps` as the operator
    takes them."""

    batch: int = 2
    length: int = 100
    heads: int = 4
    states: int = 16
    columns: int = 16
    groups: tuple[int, int, int] = (0, 0, 0)
    gate: str = "varying"
    strict: bool = False
    own: str = "none"
    scale: bool = False
    initial: bool = True
    rate: float = 1.0
    resets: bool = False
    skip: str = "none"
    maps: str = ""

    @property
    def norm(self) -> tuple[str, ...] | None:
        """The function of row sums by which outputs are divided."""
        return decoded(self.maps)[1]

    @property
    def pitch(self) -> int:
        """The columns of a state."""
        return self.columns + (self.norm is not None)

    def __str__(self) -> str:
        default = Case()
        shown = [f"{name}={value}" for name, value in vars(self).items() if value != getattr(default, name)]
        return " ".join(shown) or "plain"


CASES = (
    Case(),
    Case(gate="none"),
    Case(gate="constant"),
    Case(gate="constant", strict=True),
    Case(strict=True),
    Case(strict=True, own="gate"),
    Case(strict=True, own="varying"),
    Case(scale=True),
    Case(groups=(1, 1, 0), scale=True),
    Case(groups=(2, 2, 1)),
    Case(groups=(4, 1, 0), gate="none", scale=True),
    Case(states=24, columns=80),
    Case(rate=10.0, resets=True),
    Case(rate=1000.0, resets=True),
    Case(initial=False),
    Case(length=1),
    Case(length=31),
    Case(length=32),
    Case(length=33),
    Case(length=65),
    Case(skip="head"),
    Case(skip="column", scale=True, states=24, columns=80),
    Case(skip="column", gate="none", groups=(1, 1, 2)),
    Case(skip="head", gate="constant", strict=True, groups=(2, 2, 1)),
    Case(maps="elu_one;elu_one;", gate="none", states=24),
    Case(maps="*0.3;;", gate="none"),
    Case(maps="*0.3,tanh,*-0.7,*1.5;silu;relu,>0.1,+0.5", scale=True, groups=(1, 1, 2), skip="column", columns=24),
    Case(maps="square,+1.0;sigmoid;softplus", strict=True, own="varying", length=70),
    Case(maps="*0.3,exp;elu;tanh,abs", gate="constant", length=70, skip="head"),
    Case(maps="expm1;<0.4;", gate="constant", length=33),
    Case(maps="elu_one;elu_one;;+1e-06", gate="none", states=24, columns=20),
    Case(maps="elu_one;elu_one;;+1e-06", gate="none", initial=False, length=33, groups=(1, 1, 0)),
    Case(maps="exp;sigmoid;;abs,>1.0", scale=True),
    Case(maps="elu_one,*0.3;elu_one;silu;", gate="constant", groups=(1, 1, 2), columns=80),
    Case(maps="square;square;;>0.5", strict=True, own="varying", scale=True, length=70),
    Case(maps="square;square;;>0.5", strict=True, own="gate", rate=10.0, resets=True),
)


def operands(case: Case, dtype: torch.dtype, seed: int = 0) -> list[Tensor | None]:
    """Random operands on the CPU, in the order of NAMES; query, key and value in `dtype`, the rest in float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def gates(*shape: int) -> Tensor:
        return -torch.rand(*shape, generator=generator) * case.rate

    lead = (case.batch, case.length)
    query, key, value = (
        normal(*lead, group or case.heads, size).to(dtype)
        for group, size in zip(case.groups, (case.states, case.states, case.columns), strict=True)
    )
    gate = None
    if case.gate != "none":
        gate = gates(case.heads) if case.gate == "constant" else gates(*lead, case.heads)
    if case.resets and gate is not None:
        gate = torch.where(torch.rand(gate.shape, generator=generator) < 0.5, 0.0, gate)
        gate = torch.where(torch.rand(gate.shape, generator=generator) < 0.03, -torch.inf, gate)
    own = gates(*lead, case.heads) if case.own == "varying" else None
    scale = torch.rand(*lead, case.heads, generator=generator) if case.scale else None
    initial = normal(case.batch, case.heads, case.states, case.columns) if case.initial else None
    if initial is not None and case.norm is not None:
        initial = torch.cat([initial, torch.rand(*initial.shape[:3], 1, generator=generator)], -1)
    skip = None if case.skip == "none" else normal(case.heads, *([case.columns] if case.skip == "column" else []))
    return [query, key, value, gate, own, scale, initial, skip]


def reference(
    case: Case, given: list[Tensor | None], grad: Tensor, grad_final: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Output, last state and the gradients of the given operands in float64, and for each the sum of its terms'
    magnitudes."""
    exact = _evaluated(case, given, grad, grad_final, lambda x: x)
    return exact, _evaluated(case, given, grad, grad_final, torch.abs)


def _evaluated(case: Case, given: list[Tensor | None], grad: Tensor, grad_final: Tensor, each) -> list[Tensor]:  # type: ignore[no-untyped-def]
    chains, _ = decoded(case.maps)
    maps = dict(zip(NAMES, chains, strict=False))
    asis = ("gate", "own", *(name for name, steps in maps.items() if steps))
    leaves = [
        None if x is None else (x.double() if name in asis else each(x.double())).requires_grad_()
        for name, x in zip(NAMES, given, strict=True)
    ]
    mapped = [
        _mapped(x, maps.get(name, ()), each is torch.abs) if x is not None else None
        for name, x in zip(NAMES, leaves, strict=True)
    ]
    y, final = _quadratic(case, each is torch.abs, *mapped)
    if case.norm is not None:
        exact = [x if x is None else x.detach() for x in mapped]
        sums = _quadratic(case, False, *exact)[0][..., -1]  # of positive terms
        y = _divided(y[..., :-1], y[..., -1], sums, case.norm, each is torch.abs)
    torch.autograd.backward((y, final), (each(grad.double()), each(grad_final.double())))
    return [y.detach(), final.detach(), *(x.grad for x in leaves if x is not None)]


def _divided(y: Tensor, row: Tensor, exact: Tensor, steps: tuple[str, ...], magnitude: bool) -> Tensor:
    """y / f(row); as a magnitude, what y, f and the quotient add to it by rounding, and to gradients by their terms."""
    if not magnitude:
        return y / _mapped(row, steps, False).unsqueeze(-1)
    exact = exact.requires_grad_()
    share = _mapped(exact, steps, False)
    (slope,) = torch.autograd.grad(share.sum(), exact) if steps else (torch.ones_like(exact),)
    share, slope = share.detach().unsqueeze(-1), slope.unsqueeze(-1)
    fixed = y.detach() / share
    return y / share + fixed * slope / share * (row - row.detach()).unsqueeze(-1) + 2 * fixed


FUNCTIONS = {
    "elu_one": lambda x: functional.elu(x) + 1,
    "softplus": lambda x: functional.softplus(x, 1.0, 40.0),
    "square": lambda x: x * x,
    "elu": functional.elu,
    "silu": functional.silu,
    "+": lambda x, c: x + c,
    "*": lambda x, c: x * c,
    ">": lambda x, c: x.clamp(min=c),
    "<": lambda x, c: x.clamp(max=c),
}


def _mapped(x: Tensor, steps: tuple[str, ...], magnitude: bool) -> Tensor:
    """A chain of steps; as a magnitude, of absolute value and slope, to which |x| times the slope's own slope is added:
    what rounding its argument does to it."""
    if not steps:
        return x
    inner = x.detach().requires_grad_() if magnitude else x
    y = inner
    for step in steps:
        sign = step[0] in "+*><"
        function = FUNCTIONS.get(step[0] if sign else step) or getattr(torch, step)
        y = function(y, float(step[1:])) if sign else function(y)
    if not magnitude:
        return y
    (slope,) = torch.autograd.grad(y.sum(), inner, create_graph=True)
    bend = torch.autograd.grad(slope.sum(), inner)[0] if slope.requires_grad else torch.zeros_like(slope)
    slope = slope.detach().abs() + (inner.detach() * bend).abs()
    return y.detach().abs() + slope * (x - x.detach())


def _decay(sums: Tensor, magnitude: bool) -> Tensor:
    """exp of a sum of log gates; for a magnitude, with what rounding the sum adds: |sum| times as much."""
    share = torch.where(sums == -torch.inf, 1.0, 1.0 - sums.detach()) if magnitude else 1.0
    return sums.exp() * share


def _quadratic(case, magnitude, query, key, value, gate, own, scale, initial, skip) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    query, key, value = (x.repeat_interleave(case.heads // x.shape[2], 2) for x in (query, key, value))
    shape = (case.batch, case.heads, case.length)
    gates = torch.zeros(shape, dtype=torch.float64)
    if gate is not None:
        gates = gate[None, :, None].expand(shape) if gate.ndim == 1 else gate.transpose(1, 2)
    place = torch.arange(case.length)
    after = place[:, None] > place[None, :]
    sums = torch.where(after, gates.unsqueeze(-1), 0.0).cumsum(-2)
    enter = gates.cumsum(-1)
    if case.strict:
        mine = (
            gates
            if case.own == "gate"
            else torch.zeros(shape, dtype=torch.float64)
            if own is None
            else own.transpose(1, 2)
        )
        sums = torch.cat([torch.zeros_like(sums[..., :1, :]), sums[..., :-1, :]], -2) + mine.unsqueeze(-1)
        enter = torch.cat([torch.zeros_like(enter[..., :1]), enter[..., :-1]], -1) + mine
    keep = after if case.strict else place[:, None] >= place[None, :]
    mask = _decay(torch.where(keep, sums, -torch.inf), magnitude)
    if scale is None:
        scale = torch.ones(case.batch, case.length, case.heads, dtype=torch.float64)
    if initial is None:
        initial = torch.zeros(case.batch, case.heads, case.states, case.pitch, dtype=torch.float64)
    if case.norm is not None:
        value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    scores = torch.einsum("bthn,bshn,bhts,bsh->bhts", query, key, mask, scale)
    y = torch.einsum("bhts,bshp->bthp", scores, value)
    y = y + torch.einsum("bthn,bhnp,bht->bthp", query, initial, _decay(enter, magnitude))
    if skip is not None:
        y = y + value * (skip if case.skip == "column" else skip[:, None])
    later = torch.cat([gates[..., 1:], torch.zeros_like(gates[..., :1])], -1).flip(-1).cumsum(-1).flip(-1)
    later = _decay(later, magnitude)
    final = torch.einsum("bhs,bsh,bshn,bshp->bhnp", later, scale, key, value)
    return y, final + _decay(gates.sum(-1), magnitude)[..., None, None] * initial


def units(found: list[Tensor], exact: list[Tensor], magnitude: list[Tensor], unit: float) -> list[float]:
    """The largest error of each tensor over unit * magnitude, to which underflow adds the least normal number of
    float32, or a unit of its type's; infinite for NaN."""
    worst = []
    for x, y, m in zip(found, exact, magnitude, strict=True):
        error = (x.detach().double().cpu() - y).abs()
        least = max(torch.finfo(torch.float32).tiny, unit * torch.finfo(x.dtype).tiny)  # float16 rounds its subnormals
        share = error / (unit * m + least)
        worst.append(float(share.nan_to_num(nan=torch.inf).max()) if share.numel() else 0.0)
    return worst
