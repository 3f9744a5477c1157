"""A plan in words: each masked contraction, its candidates with prices, the choice, and the refusals with reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdc.graph.graph import Graph
from ssdc.graph.states import Accumulator, Counter, History, grouped, not_causal, state_bytes, state_parts
from ssdc.plan.candidate import Candidate
from ssdc.plan.orders.fft import WHY_ASKED_ONLY
from ssdc.plan.pairs import over_pairs

if TYPE_CHECKING:
    from ssdc.plan.planner import Choice, Plan


def explain(plan: Plan, graph: Graph | None = None) -> str:
    """The plan as text, for people."""
    time = graph.reader if graph is not None else "t"
    sizes = ", ".join(f"{'T' if name == time else name} = {size:,}" for name, size in plan.sizes.items())
    rows = [f"layer {plan.layer} at {sizes}, on {plan.hardware.name}"]
    if graph is not None:
        rows.extend(_layer(graph, plan))
    for equation, reason in over_pairs(graph).items() if graph is not None else ():
        rows.extend(("", f"{equation}: quadratic, its one ordering: {reason}"))
    for choice in plan.choices.values():
        rows.append("")
        rows.extend(_choice(choice))
    return "\n".join(rows)


def _layer(graph: Graph, plan: Plan) -> list[str]:
    reason = not_causal(graph)
    if reason is not None:
        return [f"  not causal, so without a state: {reason}"]
    rows = ["  causal: it has a state and can step"]
    stacks = {name: size for choice in plan.choices.values() for name, size in choice.problem.sizes.items()}
    for part in state_parts(graph):
        match part:
            case Accumulator(name=name, axes=axes):
                text = f"{name}: [{_axes(graph, axes)}], accumulated, float32"
            case History(name=name, axes=axes, length=length):
                what = "all of the past" if length is None else f"the last {length} position{'s' * (length != 1)}"
                text = f"{name}: {what} of [{_axes(graph, axes)}]"
            case Counter():
                text = "the number of positions"
        rows.append(f"    {text}, {state_bytes(graph, part, {**stacks, **plan.sizes}):,} bytes")
    return rows


def _axes(graph: Graph, axes: tuple[str, ...]) -> str:
    names = {atoms: axis for axis, atoms in graph.atoms.items()}
    return ", ".join(names.get(atoms, atoms[0]) for atoms in grouped(graph, axes))


def _choice(choice: Choice) -> list[str]:
    found = choice.problem
    mask = found.mask
    rows = [f"{found.equation}: contraction over mask {mask.name.rstrip('<>')} ({_mask(choice)})"]
    if choice.forced:
        rows.append("  the order or the chunk was asked for")
    rows.append(f"  {'order':<16}{'predicted':>12}{'GFLOP':>10}{'MB moved':>10}{'workspace MB':>14}{'depth':>8}")
    rows.append(_row(choice.chosen, "-> "))
    best: dict[str, Candidate] = {}
    for rival in choice.rivals:
        best.setdefault(rival.order, rival)
    rows.extend(_row(rival, "   ") for rival in best.values())
    if "fft" in best and not choice.forced:
        rows.append(f"   fft is for asking: {WHY_ASKED_ONLY}")
    rows.extend(f"   {refusal.order:<13} no: {refusal.reason}" for refusal in choice.refused)
    parts = sorted(choice.chosen.parts.items(), key=lambda part: -part[1])
    rows.append("  time goes to " + ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in parts[:4]))
    rows.extend(
        f"  {doubt} is not shown to lie in [0, 1]: it is kept to forms that stay finite as long as the mask does"
        for doubt in mask.doubts
    )
    return rows


def _mask(choice: Choice) -> str:
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
    return ", ".join(words)


def _row(candidate: Candidate, mark: str) -> str:
    cost = candidate.cost
    name = candidate.order + (f"({candidate.chunk})" if candidate.chunk else "")
    return (
        f"{mark}{name:<15}{1e3 * cost.seconds:>9.3g} ms{(cost.matrix + cost.vector) / 1e9:>10.3g}"
        f"{cost.bytes / 1e6:>10.4g}{cost.workspace / 1e6:>14.4g}{candidate.depth:>8}"
    )
