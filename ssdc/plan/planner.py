"""Graph -> plan: for every masked contraction the cheapest legal ordering, its rivals, and the refusals with reasons.

Nothing is timed here; predicted seconds come from counts and a `Hardware` profile.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ssdc.errors import OrderError
from ssdc.graph.graph import Graph
from ssdc.plan.candidate import Candidate, Refusal
from ssdc.plan.explain import explain
from ssdc.plan.hardware import CPU, Hardware
from ssdc.plan.orders import chunked, direct, fft, quadratic, recurrent, scan
from ssdc.plan.pairs import over_pairs
from ssdc.plan.problem import Problem, problem

Ordering = Callable[[Problem, Hardware, int | None], tuple[Candidate | Refusal, ...]]

ORDERINGS: Mapping[str, Ordering] = {
    "recurrent": recurrent.candidates,
    "quadratic": quadratic.candidates,
    "chunked": chunked.candidates,
    "scan": scan.candidates,
    "fft": fft.candidates,
    "direct": direct.candidates,
}
"""Every ordering that is asked for candidates."""

ASKED_ONLY: Mapping[str, str] = {"fft": fft.WHY_ASKED_ONLY}
"""Orderings that `auto` leaves alone, and why."""

Order = str | Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """The ordering of one contraction: what was chosen, what else was legal (cheapest first), what was refused."""

    problem: Problem
    chosen: Candidate
    rivals: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]
    forced: bool


@dataclass(frozen=True)
class Plan:
    """The orderings of a layer for one call's sizes, by contraction."""

    layer: str
    hardware: Hardware
    sizes: Mapping[str, int]
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def orders(self) -> dict[str, str]:
        """The order of each equation, as `order=` takes it."""
        return {choice.problem.name: choice.chosen.order for choice in self.choices.values()}

    @property
    def seconds(self) -> float:
        """The predicted time of all masked contractions."""
        return sum(choice.chosen.cost.seconds for choice in self.choices.values())

    def __str__(self) -> str:
        return explain(self)


def plan(
    graph: Graph, sizes: Mapping[str, int], *, order: Order = "auto", chunk: int | None = None, hardware: Hardware = CPU
) -> Plan:
    """The plan for one call. `sizes` gives every per-call atom and T under the reader's name.

    `order` names one ordering for the layer, or one an equation; an ordering that an equation does not admit raises
    OrderError with the reason. One name for the layer leaves masks of bounded width that stand alone on `direct`.
    """
    _check(graph, order, chunk)
    choices: dict[str, Choice] = {}
    for node in graph.contractions:
        found = problem(graph, node, sizes)
        choices[node.name] = _choose(found, _wanted(graph, found, order), chunk, hardware)
    if chunk is not None and not any(choice.chosen.order == "chunked" for choice in choices.values()):
        refusal = next(
            (r.reason for c in choices.values() for r in c.refused if r.order == "chunked"), "it has no chunks"
        )
        raise OrderError(f"chunk is {chunk}, and no equation of {graph.layer} is chunked: {refusal}")
    return Plan(graph.layer, hardware, dict(sizes), choices)


def _check(graph: Graph, order: Order, chunk: int | None) -> None:
    """Raise OrderError for an order or chunk that does not exist, or that the layer cannot take."""
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise OrderError(f"chunk is {chunk!r}, and needs to be a number of positions, at least 1")
    wanted = dict(order) if isinstance(order, Mapping) else {"": order}
    for name in wanted.values():
        if not isinstance(name, str) or (name not in ORDERINGS and name != "auto"):
            close = difflib.get_close_matches(str(name), [*ORDERINGS, "auto"], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"orders are auto, {', '.join(ORDERINGS)}"
            raise OrderError(f"there is no order {name!r}; {hint}")
    if chunk is not None and not set(wanted.values()) <= {"auto", "chunked"} and not isinstance(order, Mapping):
        raise OrderError(f"chunk goes with the order 'chunked', and the order is {order!r}; leave one of them out")
    fixed = over_pairs(graph)
    for equation, reason in fixed.items():
        name = wanted.get(equation, wanted.get("", "auto"))
        if name not in ("auto", "quadratic"):
            raise OrderError(f"'{equation}' does not admit the order {name!r}: {reason}; its one ordering is quadratic")
    if isinstance(order, Mapping):
        equations = {part for node in graph.contractions for part in names_of(graph, node.name)} | set(fixed)
        for equation in order:
            if equation not in equations:
                known = ", ".join(sorted(equations)) or "none"
                raise OrderError(f"order names the equation {equation!r}; equations with an order to choose: {known}")


def names_of(graph: Graph, contraction: str) -> tuple[str, ...]:
    """The names by which `order=` may call a contraction: its own, its equation's, those it was fused from."""
    return tuple(dict.fromkeys((contraction, graph.equations.get(contraction, contraction), *contraction.split("+"))))


def _wanted(graph: Graph, found: Problem, order: Order) -> str:
    if isinstance(order, Mapping):
        for name in names_of(graph, found.name):
            if name in order:
                return order[name]
        return "auto"
    alone = found.mask.width is not None and not found.gated and not found.readers
    if alone and order != "auto" and order != "fft":
        return "direct"
    return order


def _choose(found: Problem, order: str, chunk: int | None, hardware: Hardware) -> Choice:
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    for offer in ORDERINGS.values():
        for made in offer(found, hardware, chunk if order in ("auto", "chunked") else None):
            (candidates if isinstance(made, Candidate) else refused).append(made)  # type: ignore[arg-type]
    asked = [c for c in candidates if (c.order not in ASKED_ONLY if order == "auto" else c.order == order)]
    legal = [c for c in asked if c.cost.workspace <= hardware.memory] or asked
    if order == "auto" and chunk is not None and found.mask.width is None:
        legal = [c for c in legal if c.order == "chunked"] or legal
    if not legal:
        reason = next((r.reason for r in refused if r.order == order), "it has none")
        raise OrderError(f"'{found.equation}' does not admit the order {order!r}: {reason}")
    chosen = min(legal, key=lambda c: c.cost.seconds)
    rivals = tuple(sorted((c for c in candidates if c is not chosen), key=lambda c: c.cost.seconds))
    return Choice(found, chosen, rivals, tuple(refused), forced=order != "auto" or chunk is not None)


def legal_orders(graph: Graph, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The names that `order=` takes for the whole layer: those that every contraction admits."""
    names: list[str] = []
    for name in ORDERINGS:
        try:
            plan(graph, sizes, order=name)
        except OrderError:
            continue
        names.append(name)
    return tuple(names)


__all__ = ["ASKED_ONLY", "ORDERINGS", "Choice", "Plan", "legal_orders", "plan"]
