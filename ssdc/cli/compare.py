"""`ssdc compare`: every legal ordering of a layer, timed over a range of lengths, beside what the planner predicted.

In goes a file and lengths; out come a table on stdout, and a picture or JSON where asked for. Each ordering runs in a
process of its own (`ssdc.cli.measuring`). What is too large to run, too slow, or not legal is listed with the reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.console import console, note
from ssdc.cli.measuring import Call, Failure, measure, write_reference
from ssdc.cli.options import BatchOption, FileArgument, LayerOption, SizeOption, parse_lengths, request
from ssdc.cli.rows import Row, absent, picture, table_of
from ssdc.errors import OrderError
from ssdc.graph.states import not_causal
from ssdc.pipeline import Checked
from ssdc.plan.planner import Plan

LONGEST = 20.0
"""Seconds that an ordering may be predicted to take."""
PATIENCE = 120.0
"""Seconds that a measurement may take."""
PREFIX = 1024
"""Positions that are compared with the reference, which takes time and memory by the square of them."""
PICTURES = (".png", ".pdf", ".svg")

LengthsOption = Annotated[
    str, typer.Option("-T", "--length", metavar="LOW..HIGH", help="Lengths: doubling from LOW to HIGH, or 300,1000.")
]
BackwardOption = Annotated[bool, typer.Option("--backward", help="Time the gradient, too.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads of torch; as many as processors if not given.")
]
PlotOption = Annotated[Path | None, typer.Option("--plot", metavar="PNG", dir_okay=False, help="Draw the crossovers.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write all numbers.")]


def compare(
    file: FileArgument,
    length: LengthsOption = "256..4096",
    layer: LayerOption = None,
    size: SizeOption = None,
    batch: BatchOption = 1,
    backward: BackwardOption = False,
    threads: ThreadsOption = None,
    plot: PlotOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare every legal ordering: time, memory and error, measured, beside the planner's prediction.

    [bold]Time[/bold] is the median of several calls in float32 on the CPU, in a process of its own. [bold]Peak[/bold]
    is how far that process's high-water mark of resident memory (Linux's VmHWM) rises, in the first call, above what it
    held before: outputs count, inputs and parameters do not. [bold]Error[/bold] is the largest distance from the
    float64 reference over all elements of the first 1,024 positions, in units of u * m: u = 2^-24, m the derived
    magnitude of rounding. A layer that is not causal is compared only up to that length.

    An ordering is skipped, with a word why, if it is predicted to take more than 20 s, takes more than 120 s, or asks
    for more than half of the free memory.
    """
    lengths = parse_lengths(length)
    writable(plot, json_file)
    wanted = request(file, layer, size, complete=True)
    checked = pipeline.check(wanted.source, wanted.layer, wanted.sizes, lenient=False)
    planned, refused = _rows(checked, lengths, batch)
    warn_if_busy(threads)
    base = Call(wanted.source, wanted.layer, wanted.sizes, batch=batch, backward=backward, threads=threads)
    rows = _measured(planned, base, not_causal(checked.graph) is None)
    title = ", ".join([f"{wanted.layer}, float32, b={batch}", *(f"{k}={v}" for k, v in checked.scope.sizes.items())])
    title += f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    title += ", forward and backward" if backward else ""
    console().print(table_of(rows, title))
    for line in absent(rows, refused):
        typer.echo(line)
    if json_file is not None:
        found = {"layer": wanted.layer, "sizes": dict(checked.scope.sizes), "batch": batch, "backward": backward}
        text = json.dumps({**found, "rows": [asdict(row) for row in rows], "refused": refused}, indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
    if plot is not None:
        picture(plot, title, rows)


def writable(plot: Path | None, json_file: Path | None) -> None:
    """Complains of a file that cannot be written before anything is measured."""
    if plot is not None and plot.suffix not in PICTURES:
        raise typer.BadParameter(f"{plot} does not end in {', '.join(PICTURES)}", param_hint="--plot")
    for path, hint in ((plot, "--plot"), (json_file, "--json")):
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(f"cannot write {path}", param_hint=hint)


# ---- plans -----------------------------------------------------------------------------------------------------------

Planned = tuple[Row, Plan]


def _rows(checked: Checked, lengths: Iterable[int], batch: int) -> tuple[list[Planned], dict[str, str]]:
    """A row, with its plan, for every length and legal ordering; and the other orderings with the reason."""
    rows: list[Planned] = []
    refused: dict[str, str] = {}
    for length in lengths:
        sizes = pipeline.call_sizes(checked, b=batch, T=length)
        best = pipeline.plan(checked, sizes)
        found: dict[str, Plan] = {}
        for order in pipeline.orders():
            try:
                plan = pipeline.plan(checked, sizes, order=order)
            except OrderError as error:
                refused.setdefault(order, str(error))
            else:
                found.setdefault(_label(plan), plan)
        found.setdefault(_label(best), best)
        rows.extend((_row(plan, length, planned=name == _label(best)), plan) for name, plan in found.items())
    return rows, refused


def _row(plan: Plan, length: int, *, planned: bool) -> Row:
    costs = [choice.chosen.cost for choice in plan.choices.values()]
    row = Row(length, _label(plan), planned)
    if not costs:
        return row
    return replace(
        row,
        gflop=sum(cost.matrix + cost.vector for cost in costs) / 1e9,
        moved=sum(cost.bytes for cost in costs) / 1e6,
        workspace=max(cost.workspace for cost in costs) / 1e6,
        predicted=plan.seconds,
    )


def _label(plan: Plan) -> str:
    """The orderings of a plan, each once: `chunked(64)`, or `direct + chunked(64)`; `quadratic` for softmax alone."""
    chosen = [choice.chosen for choice in plan.choices.values()]
    names = (c.order + (f"({c.chunk})" if c.chunk and c.order == "chunked" else "") for c in chosen)
    return " + ".join(dict.fromkeys(names)) or "quadratic"


# ---- measurements ----------------------------------------------------------------------------------------------------


def _measured(rows: list[Planned], base: Call, causal: bool) -> list[Row]:
    """The rows with what was measured, or why nothing was; a bar on stderr meanwhile."""
    from tempfile import TemporaryDirectory

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console(stderr=True)
    with TemporaryDirectory() as folder, Progress(*columns, console=shown, transient=True) as progress:
        bar = progress.add_task("float64 reference", total=len(rows))
        exact = _references(Path(folder), [row.length for row, _ in rows], base, causal)
        found = []
        for row, plan in rows:
            progress.update(bar, description=f"T={row.length:,} {row.order}")
            call = replace(base, order=plan.orders, chunk=_chunk(plan), length=row.length)
            found.append(_filled(row, call, exact.get(row.length)))
            progress.advance(bar)
    return found


def _chunk(plan: Plan) -> int | None:
    """The chunk of a plan's chunked orderings, where they share one; else each has what is planned for the call."""
    chunks = {choice.chosen.chunk for choice in plan.choices.values() if choice.chosen.order == "chunked"}
    return next(iter(chunks)) if len(chunks) == 1 else None


def _references(folder: Path, lengths: list[int], call: Call, causal: bool) -> dict[int, Path]:
    """For each length a file to compare with. One serves all lengths of a causal layer, whose outputs begin alike."""
    if causal:
        wanted = {length: min(max(lengths), PREFIX) for length in lengths}
    else:
        wanted = {length: length for length in lengths if length <= PREFIX}
    found: dict[int, Path] = {}
    for length in set(wanted.values()):
        failure = write_reference(replace(call, length=length), folder / str(length), PATIENCE)
        if failure is None:
            found |= {long: folder / str(length) for long, short in wanted.items() if short == length}
        else:
            note(f"errors are left out: the float64 reference of {length:,} positions: {failure.reason}")
    return found


def _filled(row: Row, call: Call, exact: Path | None) -> Row:
    """The row with what its call measured, or the reason why it was left out."""
    if row.predicted is not None and row.predicted > LONGEST:
        return replace(row, skipped=f"it is predicted to take {row.predicted:,.0f} s, more than {LONGEST:.0f} s")
    found = measure(call, exact, PATIENCE)
    if isinstance(found, Failure):
        return replace(row, skipped=found.reason)
    return replace(row, seconds=found.seconds, peak=found.peak / 1e6, error=found.error)


def warn_if_busy(threads: int | None) -> None:
    """A note where other work takes processors away: threads that wait for each other then wait long."""
    processors, load = os.cpu_count() or 1, os.getloadavg()[0]
    if load > processors / 2:
        advice = "" if threads == 1 else "; --threads 1 is steadier"
        note(f"the machine is busy (a load of {load:.1f} on {processors} processors), so times are too long{advice}")
