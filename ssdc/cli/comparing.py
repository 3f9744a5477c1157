"""A comparison made: every subject planned and priced at every value of what varies, then measured.

In go subjects and what varies; out comes a `Comparison`. Each call runs in a process of its own (`ssdc.cli.measuring`).
What is predicted to be too slow or too large, or turns out to be, is a row with the reason instead of a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, isqrt
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ssdc import pipeline
from ssdc.cli.console import console, note
from ssdc.cli.measuring import Call, Failure, free_memory, measure, write_reference
from ssdc.cli.varied import Subject, Varied
from ssdc.errors import OrderError
from ssdc.graph.states import not_causal
from ssdc.pipeline import Checked
from ssdc.plan.comparison import Comparison, Row, Spec
from ssdc.plan.explain.totals import rest
from ssdc.plan.hardware import Hardware
from ssdc.plan.planner import Plan
from ssdc.plan.planner import plan as make_plan
from ssdc.plan.profiles import profile

if TYPE_CHECKING:
    from ssdc.runtime.measure import Measured

LONGEST = 20.0
"""Seconds that a call may be predicted to take."""
PATIENCE = 120.0
"""Seconds that a measurement may take."""
PREFIX = 1024
"""Positions of one sequence that are compared with the reference, which takes time and memory by their square."""


@dataclass(frozen=True)
class Point:
    """A row, and the call that it is of."""

    row: Row
    call: Call
    causal: bool


def compared(subjects: Sequence[Subject], over: Varied, *, backward: bool, threads: int | None) -> Comparison:
    """Predictions and measurements: of one subject in all its orderings, of several as the planner chooses.

    Raises SpecError for a layer that does not check at one of the values, before anything is measured.
    """
    machine = profile("cpu") if threads is None else profile("cpu").limited(threads)
    setting = Call(subjects[0].source, None, {}, backward=backward, threads=threads)
    specs, points = [], list[Point]()
    for subject in subjects:
        spec, found = _points(subject, over, setting, machine, every=len(subjects) == 1)
        specs.append(spec)
        points += found
    points.sort(key=lambda point: point.row.at)
    return Comparison(
        over.axis,
        None if over.axis == "T" else over.length,
        None if over.axis == "b" else over.batch,
        "both" if backward else "forward",
        threads,
        machine.name,
        tuple(specs),
        tuple(_measured(points, over.axis)),
    )


# ---- plans -----------------------------------------------------------------------------------------------------------


def _points(
    subject: Subject, over: Varied, setting: Call, machine: Hardware, *, every: bool
) -> tuple[Spec, list[Point]]:
    """A spec as data, and its rows with their calls: of `every` legal ordering, or the planner's choice alone."""
    names = [entry.name for entry in subject.layer.sizes]
    found: list[Point] = []
    refused: dict[str, str] = {}
    known: dict[str, int] = {}
    for value in over.values:
        length, batch, varying = over.call(value)
        sizes = {**subject.sizes, **{name: size for name, size in varying.items() if name in names}}
        checked = pipeline.check(subject.source, subject.layer.name, sizes, lenient=False)
        known = {name: checked.scope.sizes[name] for name in names if name != over.axis}
        call = replace(
            setting, source=subject.source, layer=subject.layer.name, layer_sizes=sizes, batch=batch, length=length
        )
        for plan, planned in _plans(checked, call, machine, refused, every=every):
            row = _row(checked, plan, subject.name, value, planned=planned)
            one = replace(call, order=plan.orders, chunk=_chunks(plan))
            found.append(Point(row, one, not_causal(checked.graph) is None))
    spec = Spec(subject.name, subject.source.name, subject.layer.name, known, subject.chosen, refused)
    return spec, found


def _plans(
    checked: Checked, call: Call, machine: Hardware, refused: dict[str, str], *, every: bool
) -> Iterator[tuple[Plan, bool]]:
    """The plans of a call, each with whether it is the planner's choice; reasons against others go to `refused`."""
    sizes = pipeline.call_sizes(checked, b=call.batch, T=call.length)
    make = partial(make_plan, checked.graph, sizes, hardware=machine, mode="both" if call.backward else "forward")
    best = make()
    found: dict[str, Plan] = {}
    for order in pipeline.orders() if every else ():
        try:
            plan = make(order=order)
        except OrderError as error:
            refused.setdefault(order, str(error))
        else:
            found.setdefault(_title(plan), plan)
    found.setdefault(_title(best), best)
    for name, plan in found.items():
        yield plan, name == _title(best)


def _title(plan: Plan) -> str:
    """The orderings of a plan, each once: `chunked(64)`, or `direct + chunked(64)`; `quadratic` for softmax alone."""
    chosen = [choice.chosen for choice in plan.choices.values()]
    names = (one.title if one.order == "chunked" else one.order for one in chosen)
    return " + ".join(dict.fromkeys(names)) or "quadratic"


def _chunks(plan: Plan) -> dict[str, int]:
    """The chunks of a plan's chunked orderings."""
    chosen = ((choice.problem.name, choice.chosen) for choice in plan.choices.values())
    return {name: one.chunk for name, one in chosen if one.order == "chunked" and one.chunk}


def _row(checked: Checked, plan: Plan, spec: str, value: int, *, planned: bool) -> Row:
    """A plan's price: its masked contractions and everything beside them."""
    costs = [choice.chosen.cost for choice in plan.choices.values()]
    costs.append(rest(checked.graph, plan.sizes, plan.hardware, gradient=plan.mode == "both"))
    held = [cost.workspace for cost in costs]
    return Row(
        spec,
        _title(plan),
        value,
        planned,
        flop=sum(cost.matrix + cost.vector for cost in costs),
        bytes=sum(cost.bytes for cost in costs),
        workspace=sum(held) if plan.mode == "both" else max(held),
        predicted=sum(cost.seconds for cost in costs),
    )


# ---- measurements ----------------------------------------------------------------------------------------------------


def _measured(points: Sequence[Point], axis: str) -> list[Row]:
    """The rows with what was measured, or why nothing was; a bar on stderr meanwhile."""
    from tempfile import TemporaryDirectory

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console(stderr=True)
    rows = [replace(point.row, skipped=_too_much(point.row)) for point in points]
    with TemporaryDirectory() as folder, Progress(*columns, console=shown, transient=True) as progress:
        bar = progress.add_task("float64 reference", total=len(rows))
        left = [point for point, row in zip(points, rows, strict=True) if row.skipped is None]
        exact = _references(Path(folder), left)
        for place, (point, row) in enumerate(zip(points, rows, strict=True)):
            progress.update(bar, description=f"{axis}={row.at:,} {row.order}")
            if row.skipped is None:
                rows[place] = _filled(row, measure(point.call, exact.get(_key(point)), PATIENCE))
            progress.advance(bar)
    return rows


def _too_much(row: Row) -> str | None:
    """Why a row is not to be measured, by its prediction."""
    most = free_memory() / 2
    if row.predicted > LONGEST:
        return f"it is predicted to take {row.predicted:,.0f} s, more than {LONGEST:.0f} s"
    if row.workspace > most:
        return f"it is predicted to need {row.workspace / 1e9:,.1f} GB, more than half of the free memory"
    return None


def _filled(row: Row, found: Measured | Failure) -> Row:
    if isinstance(found, Failure):
        return replace(row, skipped=found.reason)
    if found.error is not None and not isfinite(found.error):
        return replace(row, skipped="its outputs are not finite, and those of the reference are")
    return replace(row, seconds=found.seconds, peak=float(found.peak), error=found.error)


Key: TypeAlias = tuple[str, str | None, tuple[tuple[str, int], ...], int, int]
"""What makes a reference: the file, the layer, its sizes, the batch, and the length (0 for all lengths alike)."""


def _key(point: Point) -> Key:
    call = point.call
    length = 0 if point.causal else call.length
    return call.source.name, call.layer, tuple(call.layer_sizes.items()), call.batch, length


def _references(folder: Path, points: Sequence[Point]) -> dict[Key, Path]:
    """Files to compare with. One serves all lengths of a causal layer, whose outputs begin alike."""
    longest: dict[Key, Call] = {}
    for point in points:
        key = _key(point)
        if key not in longest or longest[key].length < point.call.length:
            longest[key] = point.call
    found: dict[Key, Path] = {}
    for key, call in longest.items():
        most = max(1, PREFIX // (isqrt(call.batch - 1) + 1))
        if key[-1] > most:
            continue
        file = folder / str(len(found))
        failure = write_reference(replace(call, length=min(call.length, most)), file, PATIENCE)
        if failure is None:
            found[key] = file
        else:
            note(f"errors are left out: the float64 reference of {call.layer}: {failure.reason}")
    return found


def warn_if_busy(threads: int | None) -> None:
    """A note where other work takes processors away: threads that wait for each other then wait long."""
    processors, load = os.cpu_count() or 1, os.getloadavg()[0]
    if load > processors / 2:
        advice = "" if threads == 1 else "; --threads 1 is steadier"
        note(f"the machine is busy (a load of {load:.1f} on {processors} processors), so times are too long{advice}")
