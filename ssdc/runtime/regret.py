"""How good the planner's choices are: every candidate of a contraction timed, beside what was predicted.

In: a graph, the sizes of a call, and what is planned for. Out: a `Cell` a contraction: predicted and measured seconds
of each candidate that `auto` may choose. A contraction runs by itself, on random operands of its own, by PyTorch; what
Triton kernels serve on a GPU is left out (`ssdc.runtime.kernel_regret`). On a CPU with one thread, processor time is
measured, which what else the machine does inflates least. Nothing here changes a plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from ssdc.codegen.operands import Operands, operands
from ssdc.codegen.render import render
from ssdc.codegen.triton.served import Served, served
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.plan.candidate import Candidate, Mode
from ssdc.plan.hardware import INFINITE, RATES, Hardware
from ssdc.plan.planner import ASKED_ONLY, Choice, Plan, plan
from ssdc.runtime.devices import wait
from ssdc.runtime.loader import load
from ssdc.runtime.opaque import run

ROUNDS, BURST = 7, 3e-3
"""Times that candidates are measured in turn, and the least seconds of calls in each."""
DOUBTED, MOST = 1.15, 21
"""How much slower than the best the choice may seem; else all are measured further, so often at most: what disturbs a
measurement only adds."""
FAR = 8.0
"""Candidates predicted this many times slower than the cheapest, and to take long, are not measured."""
HOPELESS = 2.5
"""Candidates this many times slower than the best after one turn are measured no further."""
DISTURBED, SEEN = 1.15, 0.5
"""How much slower than at its best a host is that others use, too, and seconds over which its best is looked for."""
SETTLING, LONGEST, PATIENCE = 0.1, 3.0, 30.0
"""Seconds that a round waits for others to be done: these at least, and at most, and more than the least only until so
many are spent in all."""


OVERHEADS: tuple[tuple[str, str, Mode, int], ...] = (
    ("launch", "quadratic", "forward", 16),
    ("node", "quadratic", "both", 16),
    ("step", "scan", "forward", 256),
)
"""Figures of a profile that are overhead, each with a contraction that shows it: order, mode and length."""


@dataclass(frozen=True)
class Timing:
    """A candidate's name, its predicted seconds, and its measured ones (None where it was too large to run)."""

    name: str
    predicted: float
    seconds: float | None


@dataclass(frozen=True)
class Cell:
    """One contraction of one call: its candidates, of which the first is the planner's choice."""

    layer: str
    equation: str
    sizes: Mapping[str, int]
    mode: Mode
    timings: tuple[Timing, ...]

    @property
    def best(self) -> Timing:
        """The fastest candidate."""
        return min((one for one in self.timings if one.seconds is not None), key=lambda one: one.seconds or 0.0)

    @property
    def regret(self) -> float:
        """Measured time of the planner's choice over that of the best."""
        return (self.timings[0].seconds or float("nan")) / (self.best.seconds or float("nan"))

    @property
    def accuracy(self) -> float:
        """Predicted over measured time of the planner's choice."""
        return self.timings[0].predicted / (self.timings[0].seconds or float("nan"))


@dataclass(frozen=True)
class Summary:
    """Over cells: geometric mean and worst of regret, the share within 1.25, and of predictions within 1.5 times."""

    cells: int
    mean: float
    worst: float
    within: float
    accurate: float


def summary(cells: Sequence[Cell]) -> Summary:
    """The figures of cells, of which there is at least one."""
    regrets = [cell.regret for cell in cells]
    accurate = sum(1 / 1.5 <= cell.accuracy <= 1.5 for cell in cells)
    mean = exp(sum(log(regret) for regret in regrets) / len(regrets))
    near = sum(regret <= 1.25 for regret in regrets)
    return Summary(len(cells), mean, max(regrets), near / len(cells), accurate / len(cells))


def measure(
    graph: Graph,
    sizes: Mapping[str, int],
    mode: Mode,
    hardware: Hardware,
    *,
    device: str = "cpu",
    patience: float = 0.5,
) -> Iterator[Cell]:
    """The cells of a layer's contractions for one call. A candidate that takes more than `patience` seconds is run no
    more than twice, one predicted to take four times as long not at all, and a contraction whose cheapest is predicted
    to take twice as long is left out."""
    planned = plan(graph, sizes, hardware=hardware, mode=mode)
    kernels = served(graph, planned) if hardware.device == "cuda" else {}
    for place, node in enumerate(graph.contractions):
        if isinstance(kernels.get(node.name), Served):
            continue
        choice = planned.choices[node.name]
        offered = [c for c in (choice.chosen, *choice.rivals) if c.order not in ASKED_ONLY]
        offered.sort(key=lambda candidate: candidate.cost.seconds)
        most = min(max(patience / 10, FAR * offered[0].cost.seconds), 4 * patience)
        fair = [c for c in offered if c.cost.seconds <= most and c.cost.workspace <= hardware.memory / 2]
        if not fair or offered[0].cost.seconds > 2 * patience:
            continue
        try:
            calls = [_call(graph, planned, choice, candidate, place, mode, device) for candidate in fair]
        except torch.cuda.OutOfMemoryError:
            continue
        if any(call is None for call in calls):
            continue
        seconds = _alternating([call for call in calls if call is not None], device, patience)
        found = dict(zip(map(id, fair), seconds, strict=True))
        timings = tuple(Timing(c.title, c.cost.seconds, found.get(id(c))) for c in offered)
        if timings[0].seconds is not None:
            yield Cell(graph.layer, node.name, dict(sizes), mode, timings)


def _call(
    graph: Graph, planned: Plan, choice: Choice, candidate: Candidate, place: int, mode: Mode, device: str
) -> Callable[[], object] | None:
    """A call of one contraction in one of its candidates; None where gradients are wanted and nothing is learned."""
    picked = replace(choice, chosen=candidate)
    text = render(graph, replace(planned, choices={**planned.choices, choice.problem.name: picked}))
    function = getattr(load(text), f"contraction{place}")
    found = operands(graph, picked)
    given = _drawn(graph, found, device, gradient=mode == "both")
    tensors = (*given, *(None for _ in found.remembered()), None)

    def forward() -> object:
        with torch.no_grad():
            return run(function, tensors, False, torch.float32, [], [])

    def both() -> object:
        for tensor in given:
            tensor.grad = None
        y = run(function, tensors, False, torch.float32, [], [])[0]
        y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
        return y

    if mode == "forward":
        return forward
    return both if any(tensor.requires_grad for tensor in given) else None


def _drawn(graph: Graph, found: Operands, device: str, *, gradient: bool) -> list[Tensor]:
    """Random operands in the order in which the function takes them: gates that forget a little, documents that seldom
    begin, and normal values."""
    generator = torch.Generator().manual_seed(0)
    sizes, time_axis = found.problem.sizes, found.problem.time
    logs, plain = {*found.logs, *found.exclusive_logs}, {*found.plain, *found.exclusive_plain}
    made = []
    for op in found.all():
        shape = [sizes[axis] for axis in op.axes]
        if op in found.documents:
            starts = (torch.rand(shape, generator=generator) < 0.01).long()
            made.append((starts.cumsum(op.axes.index(time_axis)) if time_axis in op.axes else starts).to(device))
            continue
        if op in logs:
            value = -0.1 * torch.rand(shape, generator=generator)
        elif op in plain:
            value = 1.0 - 0.1 * torch.rand(shape, generator=generator)
        else:
            value = 0.1 * torch.randn(shape, generator=generator)
        made.append(value.to(device).requires_grad_(gradient and _learned(graph, op.node)))
    return made


def _learned(graph: Graph, name: str) -> bool:
    """Whether an input or a parameter takes part in a node."""
    nodes = (graph.nodes[one] for one in {name, *nx.ancestors(graph.net, name)} if one in graph.nodes)
    return any(isinstance(node, ir.Input | ir.Parameter) for node in nodes)


def overhead(graph: Graph, hardware: Hardware, device: str) -> tuple[float, float, float]:
    """Seconds that starting an operation takes, differentiating it, and a step of a loop over time: what makes the
    predictions right for the one contraction of a small layer, whose operands are too small for much else to count."""
    found = replace(_hosted(hardware), launch=0.0, node=0.0, step=0.0)
    for figure, order, mode, length in OVERHEADS:
        sizes = {**dict.fromkeys((axis for axis, size in graph.sizes.items() if size is None), 1), graph.reader: length}
        planned = plan(graph, sizes, order=order, hardware=found, mode=mode)
        (choice,) = planned.choices.values()
        counted = plan(graph, sizes, order=order, hardware=_with(found, figure, 1.0), mode=mode)
        call = _call(graph, planned, choice, choice.chosen, 0, mode, device)
        assert call is not None
        (seconds,) = _alternating([call], device, 1.0)
        rest = (seconds or 0.0) - planned.seconds
        found = _with(found, figure, max(rest, 0.0) / (counted.seconds - planned.seconds))
    return found.launch, found.node, found.step


def _hosted(hardware: Hardware) -> Hardware:
    """What a machine's host takes by itself: a GPU works while it goes on."""
    if hardware.device == "cpu":
        return hardware
    rates: dict[str, Any] = dict.fromkeys(RATES, INFINITE)
    return replace(hardware, bandwidth=((INFINITE, INFINITE),), begin=0.0, latency=0.0, **rates)


def _with(hardware: Hardware, figure: str, seconds: float) -> Hardware:
    """A profile with another figure."""
    changed: dict[str, Any] = {figure: seconds}
    return replace(hardware, **changed)


# ---- timing ----------------------------------------------------------------------------------------------------------


def _alternating(calls: Sequence[Callable[[], object]], device: str, patience: float) -> list[float | None]:
    """The least seconds of each call, the choice first, over several rounds in turn; None for one that does not fit
    into memory."""
    _warmed(calls[0], device, 0.0)  # what every call needs is loaded
    found = [_warmed(call, device, patience) for call in calls]
    for turn in range(MOST):
        best = min((seconds for seconds in found if seconds is not None), default=0.0)
        most = patience if turn == 0 else min(patience, HOPELESS * best)
        if turn >= ROUNDS and not DOUBTED * best < (found[0] or 0.0) <= most:
            break
        settle()
        for place in turned(len(calls), turn):
            call, seconds = calls[place], found[place]
            if seconds is not None and seconds <= most:
                found[place] = min(seconds, timed(call, device, max(1, min(50, int(BURST / max(seconds, 1e-6))))))
    return found


def _warmed(call: Callable[[], object], device: str, patience: float) -> float | None:
    """The less of a second and a third call, or the first where that took a CPU long; a GPU's first loads its code."""
    try:
        first = timed(call, device, 1)
        if device == "cpu" and first > 4 * patience:
            return first
        return min(timed(call, device, 1) for _ in range(2))
    except (MemoryError, RuntimeError) as fault:
        if isinstance(fault, MemoryError) or "allocate" in str(fault):
            return None
        raise


class _Settled:
    """Waits, for a while at most, until the host is about as fast as it has been at its best: others use it, too."""

    def __init__(self) -> None:
        self.best, self.patience = inf, PATIENCE

    def __call__(self) -> None:
        new, began = self.best == inf, time.perf_counter()
        until = began + (SEEN if new else max(SETTLING, min(LONGEST, self.patience)))
        while (now := time.perf_counter()) < until:
            sum(range(10000))  # a little work in Python
            pace = time.perf_counter() - now
            self.best = min(self.best, pace)
            if not new and pace <= DISTURBED * self.best:
                break
        if not new:
            self.patience -= now - began


settle = _Settled()


def turned(count: int, turn: int) -> Iterator[int]:
    """The places of so many, beginning with another one each turn: who comes first finds caches cold."""
    return ((place + turn) % count for place in range(count))


def clock_of(device: str) -> Callable[[], float]:
    """Processor time where one thread does all the work, else time."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def timed(call: Callable[[], object], device: str, count: int) -> float:
    """Seconds of each of so many calls, one upon another: on a GPU what the slower of it and its host takes."""
    clock = clock_of(device)
    wait(device)
    began = clock()
    for _ in range(count):
        call()
    wait(device)
    return (clock() - began) / count
