"""Which contractions of a plan the Triton kernels serve on a CUDA device, and by which kernels, without a device.

In: a graph and a plan. Out: for each contraction its forward, backward
and step kernels, or why there are none. Sources are rendered only where they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssdc.codegen.forward import served as by_masked
from ssdc.codegen.operands import Operands, operands
from ssdc.codegen.triton import choose, configuration, streamed, window
from ssdc.codegen.triton.contraction import form_of, refusal
from ssdc.codegen.triton.facts import Element, Kernel
from ssdc.codegen.triton.fusion import fused
from ssdc.codegen.triton.hopper import CHUNK, WARPS, Gates, Walk
from ssdc.codegen.triton.pricing import candidate, candidates
from ssdc.codegen.triton.service import AnyKernel, backward_launches, call, facts, forward_launches
from ssdc.graph.graph import Graph
from ssdc.plan.candidate import Candidate, Refusal
from ssdc.plan.explain.build import priced
from ssdc.plan.explain.data import Kernels, Launch
from ssdc.plan.hardware import HARDWARE, Hardware
from ssdc.plan.planner import Plan

NOMINAL = HARDWARE["h200"]
"""The device for which kernels are told where a plan is for a CPU."""
ELEMENT: Element = "bfloat16"
"""The type of the operands of such a call."""
ROW = 8
"""Elements of 16 bits that the copy engine of a Hopper GPU reads at once: rows of dense operands are multiples."""


@dataclass(frozen=True)
class Served:
    """The kernels of one contraction, in the order in which they run; `step` are those of one position, where kernels
    take it. `prices` are those of the forms that have one, the form that runs first, and `token` that of one position.
    """

    form: str
    segments: int
    forward: tuple[AnyKernel, ...]
    backward: tuple[AnyKernel, ...]
    step: tuple[AnyKernel, ...] = ()
    prices: tuple[Candidate, ...] = ()
    token: float | None = None

    def kernels(self) -> tuple[tuple[str, AnyKernel], ...]:
        """Each kernel with the pass that it belongs to."""
        passes = (("forward", self.forward), ("backward", self.backward), ("step", self.step))
        return tuple((name, kernel) for name, kernels in passes for kernel in kernels)


def machine_of(plan: Plan) -> Hardware:
    """The device for which the kernels of a plan are told."""
    return plan.hardware if plan.hardware.device == "cuda" else NOMINAL


def served(graph: Graph, plan: Plan) -> dict[str, Served | Refusal]:
    """What serves each contraction of a plan."""
    graph = fused(graph, by_masked(graph, plan))
    machine, gradient = machine_of(plan), plan.mode == "both"
    return {name: _served(operands(graph, choice), machine, gradient) for name, choice in plan.choices.items()}


def _served(ops: Operands, machine: Hardware, gradient: bool) -> Served | Refusal:
    no = refusal(ops)
    if no is None:
        return _masked(ops, machine, gradient)
    other = window.refusal(ops)
    if other is None:
        return _streamed(ops)
    return no if ops.mask.width is None else other


def _masked(ops: Operands, machine: Hardware, gradient: bool) -> Served:
    kind = facts(ops, ELEMENT)
    sizes = call(ops, machine.processors, engine=hopper_like(machine) and not (kind.states | kind.columns) % ROW)
    gates = kind.gate != "none"
    chosen = choose.forward(kind, sizes, configuration.FORMS[form_of(ops)], hardware=machine)
    back = choose.backward(kind, sizes, gates, hardware=machine)
    after = back if gradient else None
    first = candidate(kind, sizes, chosen, machine, after)
    best = {one.form: one for one in reversed(candidates(kind, sizes, machine, after))}
    others = sorted((one for form, one in best.items() if form != chosen.form), key=lambda one: one.cost.seconds)
    single = replace(sizes, length=1, initial=True)
    step = choose.forward(kind, single, hardware=machine)
    token = candidate(kind, single, step, machine).cost.seconds
    return Served(
        chosen.form,
        chosen.segments,
        forward_launches(chosen),
        backward_launches(back),
        forward_launches(step),
        (first, *others),
        token,
    )


def _streamed(ops: Operands) -> Served:
    kind, band = facts(ops, ELEMENT), ops.mask.width is not None
    back = streamed.backward(kind, band, kind.gate != "none")
    after = (back.queries, back.keys, back.values, *((back.gates,) if back.gates is not None else ()))
    return Served("streamed", 1, (streamed.outputs(kind, band),), after)


def told(found: Served | Refusal) -> Kernels | Refusal:
    """The same as an explanation has it."""
    if isinstance(found, Refusal):
        return found
    passes = (tuple(map(launch, kernels)) for kernels in (found.forward, found.backward, found.step))
    forms = (f"{one.form}({one.segments})" if one.segments > 1 else str(one.form) for one in found.prices)
    named = zip(found.prices, forms, strict=True)
    prices = tuple(priced(one, place == 0, form) for place, (one, form) in enumerate(named))
    return Kernels(found.form, found.segments, prices, found.token, *passes)


def hopper_like(machine: Hardware) -> bool:
    """Whether a device is a Hopper GPU, by its name."""
    return any(name in machine.name.lower() for name in ("h100", "h200", "h800", "h20"))


def launch(kernel: AnyKernel) -> Launch:
    """A kernel as an explanation has it."""
    match kernel:
        case Gates():
            return Launch("hopper gates", CHUNK, kernel.inner, CHUNK, WARPS, 1, 1)
        case Walk(role=role, tiles=tiles):
            return Launch(f"hopper {role}", tiles.chunk, tiles.inner, tiles.outer, tiles.warps, tiles.stages, 1)
        case streamed.Streamed(template="streamed", role=role, tiles=tiles):
            return Launch(f"streamed {role}", tiles.chunk, tiles.inner, tiles.outer, tiles.warps, tiles.stages, 1)
        case Kernel(template=name, tiles=tiles, share=share):
            return Launch(name, tiles.chunk, tiles.inner, tiles.outer, tiles.warps, tiles.stages, share)
