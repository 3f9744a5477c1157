"""Graph -> plan: for every masked contraction the cheapest legal ordering, its rivals, and the refusals with reasons.

Nothing is timed here; predicted seconds come from counts of work and a `Hardware` profile. A call without gradients,
one with them, and a step are planned apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ssdc.errors import OrderError
from ssdc.graph.graph import Graph
from ssdc.markup import element, table
from ssdc.plan.asked import Asked, Chunk, Form, Order, Wish
from ssdc.plan.candidate import Candidate, Mode, Pricing, Refusal
from ssdc.plan.hardware import Hardware
from ssdc.plan.memory import Options, bytes_of, within
from ssdc.plan.orders import chunked, direct, fft, quadratic, recurrent, scan
from ssdc.plan.problem import Problem, problem
from ssdc.plan.profiles import profile

Ordering = Callable[[Pricing, int | None], tuple[Candidate | Refusal, ...]]

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


@dataclass(frozen=True)
class Choice:
    """The ordering of one contraction: what was chosen, what else was legal (cheapest first), what was refused.

    `form` is what was asked for of the Triton kernels, one of `ssdc.plan.asked.FORMS`.
    """

    problem: Problem
    chosen: Candidate
    rivals: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]
    forced: bool
    form: str = "auto"


@dataclass(frozen=True)
class Plan:
    """The orderings of a layer for one call's sizes, by contraction, and what they are planned for."""

    layer: str
    hardware: Hardware
    sizes: Mapping[str, int]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    mode: Mode = "forward"
    memory_limit: int | None = None

    @property
    def orders(self) -> dict[str, str]:
        """The order of each equation, as `order=` takes it."""
        return {choice.problem.name: choice.chosen.order for choice in self.choices.values()}

    @property
    def seconds(self) -> float:
        """The predicted time of all masked contractions."""
        return sum(choice.chosen.cost.seconds for choice in self.choices.values())

    def __str__(self) -> str:
        chosen = {name: choice.chosen for name, choice in self.choices.items()}
        rows = (f"{name}: {one.title}, {_milliseconds(one)}" for name, one in chosen.items())
        return "\n".join((f"layer {self.layer} on {self.hardware.name}", *rows))

    def _repr_html_(self) -> str:
        """How a notebook shows it: the choice for each contraction, and what else was legal, cheapest first."""
        rows = [
            (
                choice.problem.name,
                element("b", choice.chosen.title),
                _milliseconds(choice.chosen),
                choice.chosen.bound,
                ", ".join(f"{one.title} {_milliseconds(one)}" for one in choice.rivals),
                ", ".join(one.order for one in choice.refused),
            )
            for choice in self.choices.values()
        ]
        sizes = ", ".join(f"{name} = {size:,}" for name, size in self.sizes.items())
        head = element("p", element("b", self.layer), f" at {sizes}, on {self.hardware.name}")
        headings = ("equation", "order", "predicted", "bound by", "rivals", "not legal")
        return element("div", head, table(headings, rows), style="overflow-x: auto")


def _milliseconds(one: Candidate) -> str:
    return f"{1e3 * one.cost.seconds:.3g} ms"


def plan(
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    order: Order = "auto",
    chunk: Chunk = None,
    form: Form = None,
    hardware: Hardware | None = None,
    mode: Mode = "forward",
    memory_limit: int | str | None = None,
) -> Plan:
    """The plan for one call. `sizes` gives every per-call atom and T under the reader's name.

    `order` names one ordering for the layer, or one an equation; an ordering that an equation does not admit raises
    OrderError with the reason. One name for the layer leaves masks of bounded width that stand alone on `direct`.
    `hardware` is this process's own profile if not given. With `mode` "both" gradients are planned for, with "step" one
    position. `memory_limit` (bytes, or such as "2GB") bounds temporaries and states; PlanError tells where none fits.
    """
    machine = profile() if hardware is None else hardware
    asked = Asked(order, chunk, form)
    asked.check(graph, ORDERINGS)
    limit = None if memory_limit is None else bytes_of(memory_limit)
    if mode == "step":
        sizes = {**sizes, graph.reader: 1}
    choices: dict[str, Choice] = {}
    options: dict[str, Options] = {}
    for node in graph.contractions:
        found = problem(graph, node, sizes)
        choices[node.name], options[node.name] = _choose(found, asked.of(graph, found), machine, mode)
    if isinstance(chunk, int) and not any(choice.chosen.order == "chunked" for choice in choices.values()):
        refusal = next(
            (r.reason for c in choices.values() for r in c.refused if r.order == "chunked"), "it has no chunks"
        )
        raise OrderError(f"chunk is {chunk}, and no equation of {graph.layer} is chunked: {refusal}")
    if limit is not None and mode != "step":
        picked = within(graph.layer, options, limit, together=mode == "both")
        choices = {name: _pick(choice, picked[name]) for name, choice in choices.items()}
    return Plan(graph.layer, machine, dict(sizes), choices, mode, limit)


def _choose(found: Problem, wish: Wish, hardware: Hardware, mode: Mode) -> tuple[Choice, Options]:
    """The choice for a contraction, and all that could be chosen instead."""
    pricing = Pricing(found, hardware, found.sizes, gradient=mode == "both")
    if mode == "step":
        made = recurrent.step(pricing)
        return Choice(found, made, (), (), forced=False, form=wish.form), Options(0, (made,))
    offers = [one for offer in ORDERINGS.values() for one in offer(pricing.anew(), wish.chunk)]
    candidates = [one for one in offers if isinstance(one, Candidate)]
    refused = tuple(one for one in offers if isinstance(one, Refusal))
    asked = [c for c in candidates if (c.order not in ASKED_ONLY if wish.order == "auto" else c.order == wish.order)]
    legal = [c for c in asked if c.cost.workspace <= hardware.memory] or asked
    if wish.order == "auto" and wish.chunk is not None and found.mask.width is None:
        legal = [c for c in legal if c.order == "chunked"] or legal
    if not legal:
        reason = next((r.reason for r in refused if r.order == wish.order), "it has none")
        raise OrderError(f"'{found.equation}' does not admit the order {wish.order!r}: {reason}")
    chosen = min(legal, key=lambda c: c.cost.seconds)
    rivals = tuple(sorted((c for c in candidates if c is not chosen), key=lambda c: c.cost.seconds))
    state = 4 * found.count(found.state) if found.mask.width is None else 0
    return Choice(found, chosen, rivals, refused, forced=wish.overrules, form=wish.form), Options(state, tuple(legal))


def _pick(choice: Choice, chosen: Candidate) -> Choice:
    """A choice with another of its candidates."""
    others = (c for c in (choice.chosen, *choice.rivals) if c is not chosen)
    return replace(choice, chosen=chosen, rivals=tuple(sorted(others, key=lambda c: c.cost.seconds)))


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
