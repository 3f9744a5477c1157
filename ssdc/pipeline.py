"""The pipeline: one line a stage, from a program's text to a module.

`check` and `plan` import neither torch nor the templates' engine, `text` and `eject` no torch: each stage brings in
what it needs when it runs, so that checking a program takes tenths of a second.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdc import errors
from ssdc.errors import DtypeError, OrderError, PlanError, SpecError
from ssdc.graph.build import build
from ssdc.graph.directions import split_directions
from ssdc.graph.fuse import fuse
from ssdc.graph.graph import Graph
from ssdc.graph.members import members as find_members
from ssdc.graph.members import own_parameters
from ssdc.graph.scope import Scope, head_span, resolve
from ssdc.graph.verify import verify
from ssdc.plan.asked import Asked, Chunk, Form, Order
from ssdc.plan.candidate import Mode
from ssdc.plan.planner import ORDERINGS, Plan
from ssdc.plan.planner import plan as make_plan
from ssdc.source import Source
from ssdc.syntax import ast
from ssdc.syntax.limits import CHARACTERS
from ssdc.syntax.parser import parse

if TYPE_CHECKING:
    import torch

    from ssdc.plan.explain.data import Explanation
    from ssdc.runtime.module import Layer
    from ssdc.runtime.reference import Reference

Text = str | os.PathLike[str] | Source
BACKENDS = ("auto", "torch", "triton")


@dataclass(frozen=True)
class Checked:
    """A layer whose program has no fault: its tree, its names, its graph."""

    source: Source
    program: ast.Program
    scope: Scope
    graph: Graph


def read(text: Text) -> Source:
    """A program's source: from a path (a name that ends in `.ssd`, or a PathLike), or text as it is."""
    if isinstance(text, Source):
        return text
    if not isinstance(text, str | os.PathLike):
        raise TypeError(f"a program is a path or text, not {type(text).__name__}")
    if isinstance(text, os.PathLike) or (text.strip() and "\n" not in text and "{" not in text):
        path = Path(text)
        with path.open("rb") as file:
            data = file.read(8 * CHARACTERS)
        return Source(data.decode("utf-8", errors="replace"), str(text))
    return Source(text)


def check(
    text: Text, layer: str | None = None, sizes: Mapping[str, int] | None = None, *, lenient: bool = True
) -> Checked:
    """A program checked: every layer of it, and the graph of one (the last, or the one named).

    With `lenient`, a size without a value stays unknown. Raises SpecError with all faults found.
    """
    source = read(text)
    program = parse(source)
    chosen = _choose(source, program, layer)
    faults: list[errors.Fault] = []
    found = None
    for one in program.layers:
        scope = resolve(one, sizes if one is chosen else None, lenient=lenient or one is not chosen)
        graph = build(scope, {other.name: other for other in program.layers})
        faults.extend(fault for fault in scope.faults if one is chosen or not isinstance(fault, errors.NotLowered))
        if one is chosen:
            found = (scope, graph)
    if faults:
        raise SpecError(source, faults)
    assert found is not None and found[1] is not None
    graph = verify(fuse(verify(split_directions(verify(found[1])))))
    return Checked(source, program, found[0], graph)


def _choose(source: Source, program: ast.Program, name: str | None) -> ast.Layer:
    for place, one in enumerate(program.layers):
        if any(other.name == one.name for other in program.layers[:place]):
            raise SpecError(source, [errors.DuplicateName(head_span(one), what="layer", name=one.name)])
    if name is None:
        return program.layers[-1]
    for one in program.layers:
        if one.name == name:
            return one
    names = [one.name for one in program.layers]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"the file defines {', '.join(names)}"
    raise SpecError(source, [errors.UnknownLayer(head_span(program.layers[-1]), name=name, hint=hint)])


def members(
    text: Text, layer: str | None = None, sizes: Mapping[str, int] | None = None
) -> tuple[tuple[tuple[int, Checked], ...], int]:
    """The layers that a model is made of, each with how often it holds them, and the model's own parameters.

    A layer that uses no other is its own one member.
    """
    source = read(text)
    program = parse(source)
    scope = _scope(source, program, _choose(source, program, layer), sizes)
    layers = {one.name: one for one in program.layers}
    found = find_members(scope, layers)
    if not found:
        return ((1, check(source, layer, sizes, lenient=False)),), 0
    checked = tuple((one.count, check(source, one.layer, dict(one.sizes), lenient=False)) for one in found)
    return checked, own_parameters(scope, layers)


def plan(
    checked: Checked,
    sizes: Mapping[str, int],
    *,
    order: Order = "auto",
    chunk: Chunk = None,
    form: Form = None,
    saved: Path | None = None,
    mode: Mode = "forward",
    memory_limit: int | str | None = None,
) -> Plan:
    """The plan of a checked layer for a call's sizes: every per-call axis, and the reader for T.

    `saved` is the file of a plan to go by instead of `order`, `chunk` and `form`. `mode` is `forward`, `both` (with
    gradients) or `step`; `memory_limit` bounds temporaries and states. Raises OrderError and PlanError.
    """
    found = asked(checked, Asked(order, chunk, form), saved)
    return make_plan(
        checked.graph,
        sizes,
        order=found.order,
        chunk=found.chunk,
        form=found.form,
        mode=mode,
        memory_limit=memory_limit,
    )


def asked(checked: Checked, given: Asked, saved: str | os.PathLike[str] | None) -> Asked:
    """What is asked for: as given, or by a saved plan. Raises PlanError for both, or a plan that does not fit."""
    from ssdc.plan.saved import load

    if saved is None:
        return given
    if given != Asked():
        raise PlanError("a saved plan has the order, chunk and form of every equation; leave out order, chunk and form")
    return load(Path(saved), checked.graph)


def saved(checked: Checked, found: Plan) -> str:
    """The file of a plan, as `plan=` takes it back."""
    from ssdc.plan.saved import save

    return save(found, checked.graph)


def explain(checked: Checked, found: Plan) -> Explanation:
    """A plan explained: candidates priced by part, refusals with places, the kernels of a CUDA device, totals."""
    from ssdc.codegen.explained import explained

    return explained(checked.graph, found, checked.source)


def kernels(checked: Checked, found: Plan) -> str:
    """The Triton kernels that a CUDA device runs for a plan, as one text."""
    from ssdc.codegen.explained import kernels

    return kernels(checked.graph, found)


def call_sizes(checked: Checked, *, T: int, **sizes: int) -> dict[str, int]:
    """The sizes of a call by atom, as `plan` takes them: T, and the axes that calls decide (those left out count as
    one)."""
    graph = checked.graph
    free = dict.fromkeys(axis for node in graph.inputs for axis in node.axes if graph.sizes.get(axis) is None)
    return {axis: T if axis == graph.reader else sizes.get(axis, 1) for axis in (*free, graph.reader)}


def text(checked: Checked, found: Plan) -> str:
    """The generated module of a plan."""
    from ssdc.codegen.render import render

    return render(checked.graph, found)


def compile(
    source: Text,
    layer: str | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    order: Order = "auto",
    chunk: Chunk = None,
    form: Form = None,
    plan: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    memory_limit: int | str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Layer:
    """A torch module from a program.

    `source` is a path or text; `layer` names one of several definitions (the last is the default); `sizes` sets sizes
    by name. `order` is `auto`, `recurrent`, `quadratic`, `chunked`, `scan`, `fft` or `direct`; `chunk` fixes the chunk
    of chunked contractions; `form` is one of the Triton kernels (`walk`, `segments`, `parallel`, `recurrent`), `auto`,
    `order` or `torch`: each one value for the layer, or a dict from equation to value. `plan` is a saved plan's file.
    `backend` is `torch`, `triton` (kernels where they serve, refused for a layer where they serve nothing) or `auto`
    (kernels on a CUDA device). `memory_limit` (bytes, or such as "2GB") keeps PyTorch's orderings to those whose
    temporaries and states are predicted to fit. Parameters are made on `device` in `dtype` (float32). Raises SpecError
    for a program with faults, OrderError for an order that it does not admit, PlanError for a plan that does not fit
    it.
    """
    from ssdc.runtime.module import Layer

    if backend not in BACKENDS:
        raise OrderError(f"there is no backend {backend!r}; backends are {', '.join(BACKENDS)}")
    if backend == "triton" and chunk is not None and form is None:
        raise OrderError("the Triton kernels choose their own chunk; leave out chunk=, or use backend='torch'")
    if dtype is not None and not dtype.is_floating_point:
        raise DtypeError(
            f"parameters are learned, so their dtype is a floating-point one such as torch.float32, not {dtype}"
        )
    checked = check(source, layer, sizes, lenient=False)
    found = asked(checked, Asked(order, chunk, form), plan)
    return Layer(
        checked.source,
        checked.scope,
        checked.graph,
        order=found.order,
        chunk=found.chunk,
        form=found.form,
        backend=backend,
        memory_limit=memory_limit,
        device=device,
        dtype=dtype,
    )


def reference(source: Text, layer: str | None = None, sizes: Mapping[str, int] | None = None) -> Reference:
    """The same layer evaluated straight from its equations, in float64: what every ordering is tested against.

    Programs that are legal but not lowered yet have a reference too.
    """
    from ssdc.runtime.reference import Reference

    found = read(source)
    program = parse(found)
    chosen = _choose(found, program, layer)

    def scope_of(name: str, given: Mapping[str, int]) -> Scope:
        one = next((other for other in program.layers if other.name == name), None)
        if one is None:
            raise SpecError(found, [errors.UnknownLayer(chosen.span, name=name, hint="")])
        return _scope(found, program, one, given)

    return Reference(_scope(found, program, chosen, sizes), resolve=scope_of, source=found)


def _scope(source: Source, program: ast.Program, layer: ast.Layer, sizes: Mapping[str, int] | None) -> Scope:
    """A layer's scope; its faults, other than features that are not lowered yet, raised."""
    scope = resolve(layer, sizes)
    build(scope, {other.name: other for other in program.layers})
    faults = [fault for fault in scope.faults if not isinstance(fault, errors.NotLowered)]
    if faults:
        raise SpecError(source, faults)
    return scope


def eject(
    source: Text,
    layer: str | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    order: Order = "auto",
    chunk: Chunk = None,
    plan: str | os.PathLike[str] | None = None,
    length: int = 2048,
) -> str:
    """A Python file that holds one layer and needs torch alone; its orderings are planned for a call of `length`."""
    from ssdc import __version__
    from ssdc.codegen.eject import eject as make_file
    from ssdc.runtime.parameters import default_initialiser

    checked = check(source, layer, sizes, lenient=False)
    graph = checked.graph
    inits: dict[str, tuple[ast.Expr, int | None]] = {}
    for node in graph.parameters:
        default, fan_in = default_initialiser(checked.scope, node.name)
        inits[node.name] = (node.init or default, fan_in)
    free = {axis for node in graph.inputs for axis in node.axes if graph.sizes.get(axis) is None}
    wanted = asked(checked, Asked(order, chunk), plan)
    calls = {axis: length if axis == graph.reader else 1 for axis in free}
    found = make_plan(graph, calls, order=wanted.order, chunk=wanted.chunk)
    return make_file(graph, found, inits, checked.scope.sizes, __version__)


def orders() -> tuple[str, ...]:
    """Every ordering's name."""
    return tuple(ORDERINGS)


__all__ = [
    "Checked",
    "call_sizes",
    "check",
    "compile",
    "eject",
    "explain",
    "kernels",
    "members",
    "orders",
    "parse",
    "plan",
    "read",
    "reference",
    "saved",
    "text",
]
