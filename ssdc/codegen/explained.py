"""The explanation of a plan with the kernels that serve it: what `explain` shows, in Python and on the command line.

In: a graph, a plan, and the program's source for places. Out: an `Explanation`, or the kernels' sources. Torch is not
needed.
"""

from __future__ import annotations

from ssdc.codegen.triton.served import ELEMENT, launch, machine_of, served, told
from ssdc.codegen.triton.service import text_of
from ssdc.graph.graph import Graph
from ssdc.plan.candidate import Refusal
from ssdc.plan.explain.build import explanation
from ssdc.plan.explain.data import Device, Explanation
from ssdc.plan.planner import Plan
from ssdc.source import Source


def explained(graph: Graph, plan: Plan, source: Source | None = None) -> Explanation:
    """A plan explained, its kernels told for the plan's hardware (for an H200 where that is a CPU)."""
    machine = machine_of(plan)
    kernels = {name: told(one) for name, one in served(graph, plan).items()}
    return explanation(plan, graph, source, kernels, Device(machine.name, machine.processors, ELEMENT))


def kernels(graph: Graph, plan: Plan) -> str:
    """The sources of the Triton kernels that a CUDA device runs for a plan, each once, below what it is of."""
    calls: dict[str, list[str]] = {}
    rows = []
    for name, one in served(graph, plan).items():
        if isinstance(one, Refusal):
            rows.append(f"# {name}: no Triton kernels: {one.reason}")
            continue
        for place, kernel in one.kernels():
            calls.setdefault(text_of(kernel), []).append(f"# {name}, {place}: {launch(kernel).kernel}")
    parts = ["\n".join(rows)] if rows else []
    parts += ["\n".join((*dict.fromkeys(heads), text.rstrip())) for text, heads in calls.items()]
    return "\n\n\n".join(parts) + "\n" if parts else ""
