"""`ssdc compare`: every legal ordering of a layer, timed over a range of lengths, beside what the planner predicted.

In goes a file and lengths; out come a table on stdout, and a picture or JSON where asked for. Each ordering runs in a
process of its own (`ssdc.cli.measuring`). What is too large to run, too slow, or not legal is listed with the reason.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdc import pipeline
from ssdc.cli.console import console, note
from ssdc.cli.measuring import Call, Failure, measure, write_reference
from ssdc.cli.options import BatchOption, FileArgument, LayerOption, SizeOption, parse_lengths, request
from ssdc.cli.plot import draw
from ssdc.errors import OrderError
from ssdc.graph.states import not_causal
from ssdc.pipeline import Checked
from ssdc.plan.planner import Plan

if TYPE_CHECKING:
    from rich.table import Table

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


@dataclass(frozen=True)
class Row:
    """One ordering at one length: what the planner predicts, and what was measured, or why nothing was.

    Counts and predictions are of masked contractions, forward only; `moved`, `workspace` and `peak` in MB, times in s.
    """

    length: int
    order: str
    planned: bool
    gflop: float
    moved: float
    workspace: float
    predicted: float
    seconds: float | None = None
    peak: float | None = None
    error: float | None = None
    skipped: str | None = None


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
    _writable(plot, json_file)
    wanted = request(file, layer, size, complete=True)
    checked = pipeline.check(wanted.source, wanted.layer, wanted.sizes, lenient=False)
    planned, refused = _rows(checked, lengths, batch)
    _warn_if_busy(threads)
    base = Call(wanted.source, wanted.layer, wanted.sizes, batch=batch, backward=backward, threads=threads)
    rows = _measured(planned, base, not_causal(checked.graph) is None)
    title = ", ".join([f"{wanted.layer}, float32, b={batch}", *(f"{k}={v}" for k, v in checked.scope.sizes.items())])
    title += f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    title += ", forward and backward" if backward else ""
    console().print(_table(rows, title))
    for line in _absent(rows, refused):
        typer.echo(line)
    if json_file is not None:
        found = {"layer": wanted.layer, "sizes": dict(checked.scope.sizes), "batch": batch, "backward": backward}
        text = json.dumps({**found, "rows": [asdict(row) for row in rows], "refused": refused}, indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
    if plot is not None:
        _draw(plot, title, rows)


def _writable(plot: Path | None, json_file: Path | None) -> None:
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
    return Row(
        length=length,
        order=_label(plan),
        planned=planned,
        gflop=sum(cost.matrix + cost.vector for cost in costs) / 1e9,
        moved=sum(cost.bytes for cost in costs) / 1e6,
        workspace=max((cost.workspace for cost in costs), default=0.0) / 1e6,
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
    long = row.predicted > LONGEST
    reason = f"it is predicted to take {row.predicted:,.0f} s, more than {LONGEST:.0f} s"
    found = Failure(reason) if long else measure(call, exact, PATIENCE)
    if isinstance(found, Failure):
        return replace(row, skipped=found.reason)
    return replace(row, seconds=found.seconds, peak=found.peak / 1e6, error=found.error)


def _warn_if_busy(threads: int | None) -> None:
    """A note where other work takes processors away: threads that wait for each other then wait long."""
    processors, load = os.cpu_count() or 1, os.getloadavg()[0]
    if load > processors / 2:
        advice = "" if threads == 1 else "; --threads 1 is steadier"
        note(f"the machine is busy (a load of {load:.1f} on {processors} processors), so times are too long{advice}")


# ---- results ---------------------------------------------------------------------------------------------------------


def _table(rows: list[Row], title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption="-> the planner's choice", caption_justify="left")
    for heading in ("T", "ordering", "time ms", "predicted ms", "peak MB", "error u*m", "GFLOP", "MB moved"):
        table.add_column(heading, justify="left" if heading == "ordering" else "right", no_wrap=True)
    last = 0
    for row in rows:
        if last and row.length != last:
            table.add_section()
        mark, style = ("-> ", "bold") if row.planned else ("   ", None)
        table.add_row(
            f"{row.length:,}" if row.length != last else "",
            mark + row.order,
            _number(row.seconds, 1e3) if row.skipped is None else "skipped",
            _number(row.predicted, 1e3),
            _number(row.peak),
            _number(row.error),
            _number(row.gflop),
            _number(row.moved),
            style=style,
        )
        last = row.length
    return table


def _number(value: float | None, scale: float = 1.0) -> str:
    """Three digits, with separators.

    >>> _number(0.0123456, 1e3), _number(12345.6), _number(0.0), _number(None)
    ('12.3', '12,346', '0', '')
    """
    if value is None:
        return ""
    scaled = value * scale
    return f"{scaled:,.0f}" if scaled >= 100 or scaled == 0 else f"{scaled:.3g}"


def _absent(rows: list[Row], refused: dict[str, str]) -> list[str]:
    """A line for each ordering that was not run."""
    lines = [f"skipped at T={row.length:,}: {row.order}: {row.skipped}" for row in rows if row.skipped]
    return lines + [f"not legal: {order}: {reason}" for order, reason in refused.items()]


def _draw(file: Path, title: str, rows: list[Row]) -> None:
    """Writes the picture. Chunks change with the length, and share a line; peaks below 1 MB tell little."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {"time (ms)": {}, "peak memory (MB)": {}}
    for row in rows:
        name = re.sub(r"\(\d+\)", "", row.order)
        if row.seconds is not None:
            panels["time (ms)"].setdefault(name, []).append((row.length, 1e3 * row.seconds))
        if row.peak is not None and row.peak >= 1:
            panels["peak memory (MB)"].setdefault(name, []).append((row.length, row.peak))
    if not panels["time (ms)"]:
        note("nothing was measured, so there is nothing to draw")
        return
    try:
        draw(file, title, [(label, series) for label, series in panels.items() if series])
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="--plot") from None
