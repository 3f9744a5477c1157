"""`ssdc bench`: times of a layer and of its contraction beside other libraries, with errors and byte floors.

In goes a file and lengths, or `--suite`, or `--headline`; out come a table on stdout, and a picture or JSON where asked
for. All rows of a call are measured in one process, in turn, on the same operands (`ssdc.runtime.bench`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdc import pipeline
from ssdc.cli.benching import Report, picture, table_of
from ssdc.cli.compare import JsonOption, PlotOption, ThreadsOption, writable
from ssdc.cli.comparing import warn_if_busy
from ssdc.cli.console import console
from ssdc.cli.options import BatchOption, LayerOption, Request, SizeOption, parse_lengths, request
from ssdc.cli.regret import planner as choices
from ssdc.errors import OrderError
from ssdc.plan.comparison import crossovers

if TYPE_CHECKING:
    from ssdc.pipeline import Checked
    from ssdc.runtime.bench.runs import Entry, Setting
    from ssdc.runtime.module import Layer

LONGEST = 1.0
"""Seconds that one forward pass of an ordering may be predicted to take."""


class Dtype(StrEnum):
    """Types of the inputs."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


FilesArgument = Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Programs; - reads stdin.")]
LengthsOption = Annotated[
    str, typer.Option("-T", "--length", metavar="LOW..HIGH", help="Lengths: doubling from LOW to HIGH, or 300,1000.")
]
DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Of the inputs; bf16 on a GPU and fp32 on a CPU if not given.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ..; a GPU if there is one.")
]
SuiteOption = Annotated[bool, typer.Option("--suite", help="Nineteen shapes of known layers, beside the libraries.")]
OnlyOption = Annotated[
    str | None, typer.Option("--only", metavar="NAMES", help="Of the suite: linear,gated,retention,mamba2.")
]
HeadlineOption = Annotated[
    bool, typer.Option("--headline", help="The contraction against softmax attention, 512 to 128K positions.")
]
PlannerOption = Annotated[
    bool, typer.Option("--planner", help="Every candidate of the planner for FILEs (on a GPU, of the kernels, too).")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Of --planner: a small grid of calls.")]
BurstOption = Annotated[int, typer.Option("--burst", min=1, max=10_000, help="ms of calls that a median is over.")]


def bench(
    files: FilesArgument = None,
    length: LengthsOption = "512,2048",
    layer: LayerOption = None,
    size: SizeOption = None,
    batch: BatchOption = 1,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    suite: SuiteOption = False,
    only: OnlyOption = None,
    headline: HeadlineOption = False,
    planner: PlannerOption = False,
    quick: QuickOption = False,
    burst: BurstOption = 40,
    plot: PlotOption = None,
    json_file: JsonOption = None,
) -> None:
    """Benchmark layers and contractions: times, errors against float64, and how far from the least possible.

    For each length: the [bold]layer[/bold] as a whole, on a CPU in every ordering; its [bold]contraction[/bold] alone,
    beside the installed libraries that compute the same one; and softmax attention of the same size, which is
    [bold]another function[/bold]. Times are medians in ms of calls in turn; forward, forward and backward, one step.

    The [bold]floor[/bold] is the time that a plain copy takes, in this run, for the bytes that must move: inputs once,
    outputs once, backwards inputs and gradients once, in a step the state in and out. [bold]Errors[/bold] are relative
    norms against float64, of the output and of one gradient, over the first 1,024 positions (256 of a layer).

    Exit status 1 if something of ssdc's own failed.
    """
    if planner:
        choices(files or (), quick=quick, device=device, threads=threads, json_file=json_file)
        return
    if (bool(files) + suite + headline) != 1:
        raise typer.BadParameter("give FILEs, or --suite, or --headline", param_hint="FILE")
    lengths = parse_lengths(length)
    writable(plot, json_file)
    requests = [request(file, layer, size, complete=True) for file in files or ()]
    checked = [pipeline.check(one.source, one.layer, one.sizes, lenient=False) for one in requests]

    from ssdc.runtime.bench import runs, shapes

    where = runs.setting(device, dtype.value if dtype else None, threads, burst)
    if where.device.type == "cpu":
        warn_if_busy(threads)
    if suite:
        runs.needs_kernels(where, "--suite")
        wanted = _families(only, shapes.FAMILIES)
        report = _run(
            where, "the suite", runs.suite(where, {name: shapes.FAMILIES[name] for name in wanted}), json_file
        )
        found = runs.summary(report.entries)
        report.extra = {"summary": found and asdict(found)}
    elif headline:
        runs.needs_kernels(where, "--headline")
        width = f"{shapes.HEADS} heads of {shapes.COLUMNS}, {shapes.TOKENS:,} tokens a call"
        report = _run(where, f"ssdc and softmax attention, {width}", runs.headline(where), json_file)
        report.extra = {"crossovers": _crossovers(report.entries)}
    else:
        parts = (_layer(where, one, two, lengths, batch) for one, two in zip(requests, checked, strict=True))
        title = ", ".join(one.graph.layer for one in checked)
        report = _run(where, title, (entry for part in parts for entry in part), json_file)
    console().print(table_of(report))
    for line in report.lines():
        typer.echo(line)
    report.write(json_file)
    if plot is not None:
        picture(plot, report)
    if report.failed:
        raise typer.Exit(1)


def _families(only: str | None, known: Iterable[str]) -> list[str]:
    wanted = only.split(",") if only else list(known)
    for name in wanted:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint="--only")
    return wanted


def _run(where: Setting, title: str, entries: Iterator[Entry], json_file: Path | None) -> Report:
    """The report of a run; what is known so far is written after every entry."""
    from ssdc.runtime.bench.peers import versions

    report = Report(title, where.title, where.clock.copy_rate(), versions())
    with console(stderr=True).status("measuring") as status:
        for entry in entries:
            report.entries.append(entry)
            report.write(json_file)
            status.update(f"measured {entry.of}, T={entry.length:,}")
    return report


def _crossovers(entries: list[Entry]) -> dict[str, str]:
    """For each line of ours and each pass, from which length on it is faster than softmax attention."""
    found = {}
    for phase, title in (("forward", "forward"), ("both", "forward + backward")):
        lines: dict[str, list[tuple[int, float]]] = {}
        softmax = ""
        for entry in entries:
            for row in entry.rows:
                softmax = row.name if row.part == "another function" else softmax
                if (time := getattr(row, phase)) is not None:
                    lines.setdefault(row.name, []).append((entry.length, time))
        other = lines.pop(softmax, [])
        for name, line in lines.items():
            if other:
                found[f"{name}, {title}"] = _from_when(name, line, softmax, other)
    return found


def _from_when(name: str, line: list[tuple[int, float]], softmax: str, other: list[tuple[int, float]]) -> str:
    """From which length on a line is below another, in words."""
    if line[-1][1] >= other[-1][1]:
        return "at no length"
    crossings = crossovers({name: line, softmax: other})
    return f"from T = {crossings[-1].at:,.0f} on" if crossings else "at every length"


# ---- a file ----------------------------------------------------------------------------------------------------------


def _layer(where: Setting, wanted: Request, checked: Checked, lengths: tuple[int, ...], batch: int) -> Iterator[Entry]:
    """An entry a length."""
    from ssdc.runtime.bench import runs
    from ssdc.runtime.measure import seeded

    backend = "auto" if where.kernels else "torch"
    device = str(where.device)
    definition = pipeline.reference(wanted.source, wanted.layer, wanted.sizes)
    compiled: dict[str, Layer] = {}

    def layer_of(order: str) -> Layer:
        if order not in compiled:
            make = partial(pipeline.compile, wanted.source, wanted.layer, wanted.sizes, order=order)
            compiled[order] = seeded(lambda: make(backend=backend, device=device))
        return compiled[order]

    def contraction(text: str) -> Layer:
        return pipeline.compile(text, backend=backend, device=device)

    for length in lengths:
        layers: dict[str, Layer | str] = {"ssdc": layer_of("auto")}
        if not where.kernels:
            layers |= {
                f"ssdc {order}": one or layer_of(order) for order, one in _orders(checked, length, batch).items()
            }
        yield runs.layer_entry(where, layers, definition, contraction, {"T": length, "b": batch})


def _orders(checked: Checked, length: int, batch: int) -> dict[str, str]:
    """The legal orders but for the planned one, each with the reason to leave it out, or nothing."""
    sizes = pipeline.call_sizes(checked, b=batch, T=length)
    planned = pipeline.plan(checked, sizes).orders
    found = {}
    for order in pipeline.orders():
        try:
            plan = pipeline.plan(checked, sizes, order=order)
        except OrderError:
            continue
        if plan.orders != planned:
            slow = plan.seconds > LONGEST
            found[order] = f"predicted to take {plan.seconds:,.0f} s a forward pass" if slow else ""
    return found
