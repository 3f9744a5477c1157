"""A plan and its graph -> an `Explanation`: candidates by order, refusals with their places, states, totals."""

from __future__ import annotations

from collections.abc import Mapping

from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.states import Accumulator, Counter, History, StatePart, grouped, not_causal, state_bytes, state_parts
from ssdc.plan.candidate import Candidate, Refusal
from ssdc.plan.explain.data import Device, Doubt, Equation, Explanation, Kernels, Part, Priced, Refused, State
from ssdc.plan.explain.places import place, span_of
from ssdc.plan.explain.totals import rest, totals
from ssdc.plan.orders.fft import WHY_ASKED_ONLY
from ssdc.plan.pairs import over_pairs
from ssdc.plan.planner import Choice, Plan
from ssdc.source import Source


def explanation(
    plan: Plan,
    graph: Graph,
    source: Source | None = None,
    kernels: Mapping[str, Kernels | Refusal] | None = None,
    device: Device | None = None,
) -> Explanation:
    """What a plan holds and why. `kernels` tells, by contraction, what Triton kernels do on `device`."""
    sizes = {"T" if name == graph.reader else name: size for name, size in plan.sizes.items()}
    known = {**{name: size for one in plan.choices.values() for name, size in one.problem.sizes.items()}, **plan.sizes}
    reason = not_causal(graph)
    state = () if reason is not None else tuple(_state(graph, part, known) for part in state_parts(graph))
    pairs = tuple(Refused(name, why, place(source, graph.nodes[name].span)) for name, why in over_pairs(graph).items())
    served = kernels or {}
    equations = tuple(_equation(graph, one, source, served.get(name)) for name, one in plan.choices.items())
    others = rest(graph, plan.sizes, plan.hardware, gradient=plan.mode == "both")
    return Explanation(
        plan.layer,
        sizes,
        plan.hardware.name,
        plan.mode,
        reason,
        state,
        pairs,
        equations,
        device,
        totals(graph, plan, state, equations, others),
        others.seconds,
    )


def _state(graph: Graph, part: StatePart, sizes: Mapping[str, int]) -> State:
    names = {atoms: axis for axis, atoms in graph.atoms.items()}
    axes = tuple(names.get(atoms, atoms[0]) for atoms in grouped(graph, part.axes))
    count = state_bytes(graph, part, sizes)
    match part:
        case Accumulator():
            return State(part.name, "accumulated", axes, None, count)
        case History(length=length):
            return State(part.name, "history", axes, length, count)
        case Counter():
            return State(part.name, "counter", (), None, count)


def _equation(graph: Graph, choice: Choice, source: Source | None, kernels: Kernels | Refusal | None) -> Equation:
    problem, mask = choice.problem, choice.problem.mask
    node = graph.nodes[problem.name]
    assert isinstance(node, ir.Contraction)

    def refused(one: Refusal) -> Refused:
        return Refused(one.order, one.reason, place(source, span_of(graph, node, one.cause)))

    def told(one: Candidate, chosen: bool) -> Priced:
        return priced(one, chosen, left=WHY_ASKED_ONLY if one.order == "fft" and not choice.forced else None)

    best: dict[tuple[str, str | None], Candidate] = {}
    for rival in choice.rivals:
        best.setdefault((rival.order, rival.form), rival)
    doubts = zip(mask.doubts, (one.span for one in mask.origins if one.what == "doubt"), strict=True)
    return Equation(
        problem.equation,
        problem.name,
        place(source, node.span),
        mask.name.rstrip("<>"),
        tuple(_facts(choice)),
        choice.forced,
        (told(choice.chosen, True), *(told(one, False) for one in best.values())),
        tuple(refused(one) for one in choice.refused),
        refused(kernels) if isinstance(kernels, Refusal) else kernels,
        tuple(Doubt(gate, place(source, span)) for gate, span in doubts),
    )


def _facts(choice: Choice) -> list[str]:
    problem, mask = choice.problem, choice.problem.mask
    words = [mask.direction, *(["strict"] if mask.strict else [])]
    if mask.width is not None:
        words.append(f"width {mask.width}")
    if problem.gated:
        wholes = {atom.partition("%")[2] for atom in problem.gates}
        names = dict.fromkeys(atom.partition("%")[0] for atom in problem.gates if atom not in wholes)
        words.append("gates per " + (", ".join(names) or "layer"))
        words.append("changing with time" if problem.varying else "constant in time")
        if problem.inside:
            words.append("within the score product")
    if problem.reset:
        words.append("cut at documents")
    return words


def priced(one: Candidate, chosen: bool, name: str = "", left: str | None = None) -> Priced:
    """A candidate as an explanation has it."""
    parts = [Part(name, seconds, one.bounds[name]) for name, seconds in one.parts.items() if seconds > 0]
    cost = one.cost
    return Priced(
        one.order,
        one.chunk,
        one.form,
        name or one.title,
        chosen,
        cost.seconds,
        one.bound,
        cost.matrix + cost.vector,
        cost.bytes,
        cost.workspace,
        one.depth,
        tuple(sorted(parts, key=lambda part: -part.seconds)),
        left,
    )
