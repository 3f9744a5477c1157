"""`ssdc compare`: orderings of a layer, or several layers, over lengths, batches or sizes: predicted and measured.

In go files and the values of one size; out come a table and crossovers on stdout, and a picture, JSON or a page where
asked for. `ssdc.cli.comparing` plans and measures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.comparing import compared, warn_if_busy
from ssdc.cli.console import console
from ssdc.cli.options import LayerOption
from ssdc.cli.rows import lines_of, picture, table_of
from ssdc.cli.varied import Subject, Varied, subjects, varied
from ssdc.plan.comparison import Comparison, as_json

PICTURES = (".png", ".pdf", ".svg")

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="One program, or several; - reads stdin.")]
LengthsOption = Annotated[
    str | None,
    typer.Option(
        "-T",
        "--length",
        metavar="LOW..HIGH",
        help="Lengths: doubling from LOW to HIGH, or 300,1000. [dim]256..4096, or 1024 where something else varies[/]",
    ),
]
BatchesOption = Annotated[
    str, typer.Option("-b", "--batch", metavar="N", help="Sequences in a batch, or several values as for lengths.")
]
SizesOption = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="NAME=VALUE", help="A size, or several values: [bold]N=16..64[/bold]; repeatable."),
]
BackwardOption = Annotated[bool, typer.Option("--backward", help="Forward and backward.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads of torch; as many as processors if not given.")
]
PlotOption = Annotated[Path | None, typer.Option("--plot", metavar="PNG", dir_okay=False, help="Draw the crossovers.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write all numbers.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", dir_okay=False, help="Write a page to look at.")
]


def compare(
    files: FilesArgument,
    length: LengthsOption = None,
    layer: LayerOption = None,
    size: SizesOption = None,
    batch: BatchesOption = "1",
    backward: BackwardOption = False,
    threads: ThreadsOption = None,
    plot: PlotOption = None,
    json_file: JsonOption = None,
    html: HtmlOption = None,
) -> None:
    """Compare every legal ordering of a layer, or several layers as planned, and say where they cross.

    One of T, b and the sizes may have several values: [bold]-T 256..65536[/bold], [bold]--size N=16,32,64[/bold]. Sizes
    are for every layer that has them. [bold]Predicted[/bold] is the planner's price of the whole call.

    [bold]Time[/bold] is the median of several calls in float32 on the CPU, in a process of its own. [bold]Peak[/bold]
    is how far that process's high-water mark of resident memory (Linux's VmHWM) rises, in the first call, above what it
    held before: outputs count, inputs and parameters do not. [bold]Error[/bold] is the largest distance from the
    float64 reference over all elements of the first 1,024 positions (of b > 1 sequences 1,024 / sqrt(b)), in units of
    u * m: u = 2^-24, m the derived magnitude of rounding. A layer that is not causal is compared up to that length.

    [bold]Crossovers[/bold] lie on straight lines between two values, both axes logarithmic. A call is skipped, with a
    word why, if it is predicted to take more than 20 s or half of the free memory, or turns out to (or takes 120 s).
    """
    over, sizes = varied(length, batch, size or ())
    writable(plot, json_file, html)
    found = subjects(files, layer, over.axis, sizes)
    warn_if_busy(threads)
    comparison = compared(found, over, backward=backward, threads=threads)
    console().print(table_of(comparison))
    for line in lines_of(comparison):
        typer.echo(line)
    if json_file is not None:
        json_file.write_text(as_json(comparison), encoding="utf-8")
    if plot is not None:
        picture(plot, comparison)
    if html is not None:
        html.write_text(_report(comparison, found, over, backward=backward), encoding="utf-8")


def _report(comparison: Comparison, found: Sequence[Subject], over: Varied, *, backward: bool) -> str:
    """The page, on which each layer is planned for the largest call."""
    from ssdc.report.page import Shown, page

    length, batch, more = over.call(over.values[-1])
    shown = []
    for one in found:
        sizes = {name: size for name, size in more.items() if name in {entry.name for entry in one.layer.sizes}}
        checked = pipeline.check(one.source, one.layer.name, {**one.sizes, **sizes}, lenient=False)
        calls = pipeline.call_sizes(checked, T=length, b=batch)
        shown.append(Shown(checked, pipeline.plan(checked, calls, mode="both" if backward else "forward")))
    return page(comparison, shown)


def writable(plot: Path | None, json_file: Path | None, html: Path | None = None) -> None:
    """Complains of a file that cannot be written before anything is measured."""
    if plot is not None and plot.suffix not in PICTURES:
        raise typer.BadParameter(f"{plot} does not end in {', '.join(PICTURES)}", param_hint="--plot")
    for path, hint in ((plot, "--plot"), (json_file, "--json"), (html, "--html")):
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(f"cannot write {path}", param_hint=hint)
