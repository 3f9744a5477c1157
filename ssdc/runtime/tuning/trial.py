"""One candidate, checked and timed: what `ssdc tune` runs in a process of its own.

In: a request, and kernels for it. Out: the time of a call, or why they do not count. They are checked on a short call
with all heads, and on some heads over the whole length, results and gradients element by element against float64:
within 16 u sum|terms| for float32 and 2 u sum|terms| for 16-bit elements (u = 2^-24 and 2^-8).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.maps import Chain, encoded
from ssdc.runtime.bench.exact import evaluate, widened
from ssdc.runtime.bench.times import Clock
from ssdc.runtime.kernels.backward import backward_pass
from ssdc.runtime.kernels.calls import NAMES, OWN, Given
from ssdc.runtime.kernels.forward import forward_pass
from ssdc.runtime.kernels.masked import configured
from ssdc.runtime.tuned import Choice, Request, session

Drawn = dict[str, Tensor | None]
INPUTS = ("query", "key", "value", "gate", "own", "scale", "initial", "skip")
BURST = 50
"""ms of calls that one median is taken over."""


@dataclass(frozen=True)
class Timed:
    """Milliseconds of a call, and the largest error in units of u sum|terms|."""

    ms: float
    error: float


@dataclass(frozen=True)
class Rejected:
    """Why a candidate does not count."""

    reason: str


@dataclass(frozen=True)
class Case:
    """A request, and how its lanes are batch entries and heads; `shifted`, its operands start off the 16 bytes that a
    Hopper GPU's copy engine asks for."""

    request: Request
    batch: int
    device: str
    shifted: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The device of its calls."""
        return torch.device(self.device)

    @property
    def heads(self) -> int:
        """Heads of a batch entry."""
        return self.request.call.lanes // self.batch


KNOWN = frozenset(
    {"dtype", "states", "columns", "gate", "strict", "own", "scale", "precision", "skip", "maps", "norm"}
)  # fmt: skip
"""Facts that trials can check; of others only what they are by default."""


def unknown(facts: Facts) -> tuple[str, ...]:
    """The facts of a request that trials cannot check."""
    if facts.norm is not None and facts.skip != "none":
        return ("norm", "skip")
    return tuple(one.name for one in fields(facts) if one.name not in KNOWN and getattr(facts, one.name) != one.default)


def trial(case: Case, choice: Choice) -> Timed | Rejected:
    """The candidate's time, if its results are right."""
    try:
        length = case.request.call.length
        short = min(length, 3 * choice.states.tiles.chunk + 7)
        error = _checked(case, choice, short, every=True)
        if length > short or case.batch > 2:
            error = max(error, _checked(case, choice, length, every=False))
        allowed = _bound(case.request.facts)[1]
        if not error <= allowed:
            return Rejected(f"it disagrees with float64 by {error:.3g} u sum|terms|, and {allowed} are allowed")
        return Timed(_timed(case, [choice], rounds=3)[0], error)
    except Exception as fault:  # noqa: BLE001  whatever a candidate does wrong is why it does not count
        lines = str(fault).strip().splitlines()
        return Rejected(f"{type(fault).__name__}: {lines[0][:200] if lines else 'without a word'}")


def duel(case: Case, choices: Sequence[Choice]) -> tuple[float, ...]:
    """Times of several candidates that take turns."""
    return tuple(_timed(case, choices, rounds=7))


def _timed(case: Case, choices: Sequence[Choice], rounds: int) -> list[float]:
    length, device = case.request.call.length, case.torch_device
    given, grads = _operands(case, case.batch, length), _grads(case, case.batch, length)
    burst, rounds = (BURST, rounds) if device.type == "cuda" else (1, 1)  # the interpreter's times say nothing
    clock = Clock(device, burst)
    times: list[list[float]] = [[] for _ in choices]
    with session() as asked:
        _caller(case.request, given, grads, case.heads)()
    if asked.requests[-1] != case.request:
        raise ValueError("the call asks for other kernels than the request")
    calls = [_caller(case.request, given, grads, case.heads, choice) for choice in choices]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            found.append(clock.median(call))
    return [statistics.median(found) for found in times]


# ---- operands and calls ----------------------------------------------------------------------------------------------


def _operands(case: Case, batch: int, length: int, rate: float = 0.1) -> Drawn:
    """Random operands of a call, the same each time; log gates between -rate and 0."""
    facts, call = case.request.facts, case.request.call
    heads, groups = case.heads, case.heads // call.shared
    dtype = next(kind for kind, name in NAMES.items() if name == facts.dtype)
    device = case.torch_device
    torch.backends.cuda.matmul.allow_tf32 = facts.precision == "tf32"
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device, generator=generator)

    def gates(*sizes: int) -> Tensor:
        return -rate * torch.rand(*sizes, device=device, generator=generator)

    flat = (batch, length, heads)
    query = normal(batch, length, groups, facts.states).to(dtype)
    if case.shifted:
        query = torch.cat([query.new_zeros(1), query.view(-1)])[1:].view(query.shape)
    return {
        "query": query,
        "key": normal(batch, length, groups, facts.states).to(dtype),
        "value": normal(*flat, facts.columns).to(dtype),
        "gate": None if facts.gate == "none" else gates(heads) if facts.gate == "constant" else gates(*flat),
        "own": gates(*flat) if facts.own == "varying" else None,
        "scale": gates(*flat).neg() if facts.scale else None,
        "initial": normal(batch, heads, facts.states, facts.pitch).abs() if call.initial else None,
        "skip": None if facts.skip == "none" else normal(heads, *((facts.columns,) if facts.skip == "column" else ())),
    }


def _grads(case: Case, batch: int, length: int) -> tuple[Tensor, Tensor | None]:
    """Random gradients of the output, and of the last state where the request has one."""
    facts, call = case.request.facts, case.request.call
    device = case.torch_device
    dtype = next(kind for kind, name in NAMES.items() if name == facts.dtype)
    generator = torch.Generator(device).manual_seed(1)
    grad = torch.randn(batch, length, case.heads, facts.columns, device=device, generator=generator).to(dtype)
    if not call.gradient:
        return grad, None
    return grad, torch.randn(batch, case.heads, facts.states, facts.pitch, device=device, generator=generator)


def _caller(
    request: Request, given: Drawn, grads: tuple[Tensor, Tensor | None], heads: int, choice: Choice | None = None
) -> Callable[[], tuple[Tensor, ...]]:
    """The pass of a request on operands; of a choice, replayed as users' calls are."""
    facts = request.facts
    maps = encoded(facts.maps, facts.norm)
    fixed: tuple[Any, ...] = (heads, facts.strict, OWN.index(facts.own), given["skip"], maps)
    operands = Given(*(given[name] for name in INPUTS[:7]), *fixed)  # type: ignore[arg-type]
    if request.kind == "forward":
        return partial(forward_pass, operands) if choice is None else partial(configured(choice), *operands)
    row: tuple[Tensor, ...] = ()
    if facts.norm is not None:
        with session():
            y, _, sums = forward_pass(operands)
        row = (y, sums)
    if choice is None:
        return partial(backward_pass, *grads, operands, request.gates, *row)
    return partial(configured(choice), *grads, *operands, request.gates, *row)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _bound(facts: Facts) -> tuple[float, int]:
    """The unit of errors, and how many are allowed."""
    if facts.dtype != "float32":
        return 2.0**-8, 2
    return (2.0**-11, 2) if facts.precision == "tf32" else (2.0**-24, 16)


def _checked(case: Case, choice: Choice, length: int, *, every: bool) -> float:
    """The largest error of a call's results in its units: with two batch entries in `every` lane, or in the first and
    last of batch and heads (gradients of the others' outputs are zero there)."""
    request, heads = case.request, case.heads
    batch = min(2, case.batch) if every else case.batch
    given = _operands(case, batch, length, rate=1.0 if every else 0.1)
    entries = list(range(batch)) if every else sorted({0, batch - 1})
    lanes = list(range(heads)) if every else sorted({0, heads - 1})
    grad, last = (_only(x, entries, lanes, place) for x, place in zip(_grads(case, batch, length), (2, 1), strict=True))
    assert grad is not None
    with session(choice):
        found = _caller(request, given, (grad, last), heads)()
    cut = _cut(given, entries, lanes, request)
    exact = _evaluated(request, cut, grad, last, entries, lanes)
    magnitude = _evaluated(request, cut, grad, last, entries, lanes, bound=exact)
    mine = _cut(_named(request, found), entries, lanes, request)
    unit = _bound(request.facts)[0]
    return max(_units(x, exact[name], magnitude[name], unit, length) for name, x in mine.items() if x is not None)


def _named(request: Request, found: Sequence[Tensor]) -> Drawn:
    """Results by name; gradients by that of their operand."""
    names = ("y", "final", "sums") if request.kind == "forward" else INPUTS
    return {name: x if x.numel() else None for name, x in zip(names, found, strict=True)}


def _only(x: Tensor | None, entries: Sequence[int], lanes: Sequence[int], place: int) -> Tensor | None:
    """A tensor with zeros in all other batch entries and heads (its dimension `place`)."""
    if x is None:
        return None
    kept = torch.zeros_like(x)
    for entry in entries:
        for lane in lanes:
            kept[entry].select(place - 1, lane).copy_(x[entry].select(place - 1, lane))
    return kept


def _cut(given: Drawn, entries: Sequence[int], lanes: Sequence[int], request: Request) -> Drawn:
    """Some batch entries and heads, and the groups that these read."""
    groups = sorted({lane // request.call.shared for lane in lanes})
    found: Drawn = {}
    for name, x in given.items():
        if x is None:
            found[name] = None
        elif name == "skip" or (name == "gate" and x.ndim == 1):
            found[name] = x[list(lanes)]
        elif name in ("initial", "final", "sums"):
            found[name] = x[list(entries)][:, list(lanes)]
        else:
            found[name] = x[list(entries)][:, :, groups if name in ("query", "key") else list(lanes)]
    return found


def _evaluated(
    request: Request,
    given: Drawn,
    grad: Tensor,
    last: Tensor | None,
    entries: Sequence[int],
    lanes: Sequence[int],
    *,
    bound: Drawn | None = None,
) -> Drawn:
    """Results of a pass in float64; given those as `bound`, the sums of their terms' magnitudes."""
    facts, shared = request.facts, request.call.shared
    groups = sorted({lane // shared for lane in lanes})
    chains: Mapping[str, Chain] = dict(zip(INPUTS, facts.maps, strict=False))
    leaves: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    for name, x in given.items():
        if x is None:
            continue
        wide = x.double()
        if bound is not None and name not in ("gate", "own"):
            wide, slopes[name] = _magnitude(wide, chains.get(name, ()))
        leaves[name] = wide.requires_grad_()
    used = {
        name: mapped(x, chains.get(name, ())) if bound is None else x  # as a bound, mapped already
        for name, x in leaves.items()
    }
    for name in ("query", "key"):
        used[name] = used[name][:, :, [groups.index(lane // shared) for lane in lanes]]
    if facts.norm is not None:
        used["value"] = torch.cat([used["value"], torch.ones_like(used["value"][..., :1])], -1)
    y, final = evaluate(
        used["query"], used["key"], used["value"], used.get("gate"),
        "gate" if facts.own == "gate" else used.get("own"), used.get("scale"), used.get("initial"), len(lanes),
        facts.strict, decay=torch.exp if bound is None else widened(_bound(facts)[0]),
    )  # fmt: skip
    if facts.skip != "none":
        y = y + used["value"] * (used["skip"] if facts.skip == "column" else used["skip"][:, None])
    sums = y[..., -1].transpose(1, 2)
    if facts.norm is not None:
        y = _divided(y[..., :-1], y[..., -1], facts.norm, None if bound is None else bound["sums"])
    found: Drawn = {"y": y.detach(), "final": final.detach(), "sums": sums.detach()}
    if request.kind == "forward":
        return found
    rows, columns = list(entries), list(lanes)
    down = [grad[rows][:, :, columns].double(), None if last is None else last[rows][:, columns].double()]
    weights = [torch.zeros_like(final) if g is None else g if bound is None else g.abs() for g in down]
    torch.autograd.backward((y, final), weights)
    for name, leaf in leaves.items():
        slope = slopes.get(name)
        found[name] = leaf.grad if slope is None or leaf.grad is None else leaf.grad * slope
    return found


def _divided(y: Tensor, row: Tensor, steps: Chain, exact: Tensor | None) -> Tensor:
    """y over a function of its row sums. For magnitudes, given the exact sums: what y, the sums and the quotient's own
    rounding add to it, and as gradients the terms of a quotient's."""
    if exact is None:
        return y / mapped(row, steps).unsqueeze(-1)
    inner = exact.transpose(1, 2).detach().requires_grad_()
    divisor = mapped(inner, steps)
    slope = torch.autograd.grad(divisor.sum(), inner)[0] if steps else torch.ones_like(inner)
    share = slope.abs().unsqueeze(-1) / divisor.detach().abs().unsqueeze(-1)
    quotient = y / divisor.detach().abs().unsqueeze(-1)
    return quotient + quotient.detach() * (1 + share * row.unsqueeze(-1))


def _magnitude(x: Tensor, steps: Chain) -> tuple[Tensor, Tensor]:
    """What a chain gives, and its slope, as magnitudes; to the slope what rounding x does to it is added."""
    if not steps:
        return x.abs(), torch.ones_like(x)
    inner = x.detach().requires_grad_()
    y = mapped(inner, steps)
    (slope,) = torch.autograd.grad(y.sum(), inner, create_graph=True)
    bend = torch.autograd.grad(slope.sum(), inner)[0] if slope.requires_grad else torch.zeros_like(x)
    return y.detach().abs(), slope.detach().abs() + (x * bend).abs()


FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "elu": functional.elu,
    "elu_one": lambda x: functional.elu(x) + 1.0,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": lambda x: functional.softplus(x, 1.0, 40.0),
    "square": torch.square,
    "tanh": torch.tanh,
}
NUMBERED: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "+": lambda x, number: x + number,
    "*": lambda x, number: x * number,
    ">": lambda x, number: x.clamp(min=number),
    "<": lambda x, number: x.clamp(max=number),
}


def mapped(x: Tensor, steps: Chain) -> Tensor:
    """A chain of the steps of `ssdc.codegen.triton.maps`."""
    for step in steps:
        x = FUNCTIONS[step](x) if step in FUNCTIONS else NUMBERED[step[0]](x, float(step[1:]))
    return x


def _units(found: Tensor, exact: Tensor | None, magnitude: Tensor | None, unit: float, length: int) -> float:
    """The largest error over unit * magnitude; infinite where a number is missing or not finite.

    Sums over `length` positions round in float64, too: where terms cancel (the first gate's gradient), all of the
    difference may be the reference's.
    """
    if exact is None or magnitude is None or found.shape != exact.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    own = length * torch.finfo(torch.float64).eps * magnitude.max()
    error = (found.double() - exact).abs() / (unit * magnitude + own + torch.finfo(torch.float32).tiny)
    return float(error.nan_to_num(nan=torch.inf).max())
