"""`ssdc bench --planner`: every candidate that the planner chooses among, timed, beside its prediction.

In go programs and whether to be quick; out come regret (measured time of the planner's choice over that of the best
candidate), how many predictions are right within 1.5 times, the worst cells, and JSON where asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ssdc import pipeline
from ssdc.cli.console import console, note
from ssdc.cli.options import find_layer, read
from ssdc.errors import SpecError
from ssdc.source import Source

if TYPE_CHECKING:
    from rich.table import Table

    from ssdc.plan.candidate import Mode
    from ssdc.plan.hardware import Hardware
    from ssdc.runtime.regret import Cell

MODES: tuple[Mode, ...] = ("forward", "both")
QUICK = {
    "cpu": ((4, 32, 1, 512), (4, 32, 4, 64), (4, 64, 1, 1024)),
    "cuda": ((4, 32, 4, 64), (16, 64, 1, 1024), (16, 64, 2, 4096)),
}
FULL = tuple(
    (heads, width, batch, length)
    for heads, width in ((1, 16), (4, 32), (8, 64), (16, 128))
    for batch in (1, 8, 64)
    for length in (16, 128, 1024, 8192, 65536)
)
"""Calls of a program, quick ones by kind of device: heads (sizes named H), every other size without a default, the
batch, and the length."""
KERNEL_LENGTHS = {True: (64, 1024, 8192), False: (16, 64, 256, 1024, 4096, 16384, 65536, 262144)}
"""Lengths at which forms of the Triton kernels are compared, for a quick run and a full one."""
PATIENCE = {True: 0.15, False: 0.6}
"""Seconds that a candidate may take."""
ROWS = 12


def planner(
    files: Iterable[Path],
    *,
    quick: bool = False,
    device: str | None = None,
    threads: int | None = None,
    json_file: Path | None = None,
) -> None:
    """Prints how good the planner's choices are, for programs, and on a GPU first for the Triton kernels.

    A cell is one contraction of one call, forward, or forward and backward. Left out are layers that do not compile,
    and on a GPU those contractions of programs that the kernels serve.
    """
    from ssdc.plan.profiles import profile
    from ssdc.runtime import devices
    from ssdc.runtime.regret import summary

    processors = devices.threads(threads)
    wanted = devices.device_of(device)
    if wanted is None:
        raise typer.BadParameter(f"there is no device {device!r} here", param_hint="--device")
    gpu = wanted.startswith("cuda")
    machine = profile("cuda", devices.name_of(wanted)) if gpu else profile("cpu").limited(processors)
    found: list[Cell] = []
    with console(stderr=True).status("measuring") as status:
        kernels = _kernels(quick, machine, wanted) if gpu else ()
        for cell in chain(kernels, _programs(files, quick, machine, wanted)):
            found.append(cell)
            _write(json_file, found)
            status.update(f"{len(found)} cells; {cell.layer}, {cell.equation}: regret {cell.regret:.2f}")
    if not found:
        note("nothing was measured: give programs whose layers have masked contractions")
        raise typer.Exit(1)
    console().print(_table(found))
    figures = summary(found)
    near = f"{100 * figures.within:.0f}% within 1.25; predicted within 1.5 times in {100 * figures.accurate:.0f}%"
    typer.echo(
        f"{figures.cells} cells: regret {figures.mean:.3f} (geometric mean), {figures.worst:.2f} at worst, {near}"
    )


def _write(file: Path | None, found: list[Cell]) -> None:
    """All that is known so far, as JSON."""
    from ssdc.runtime.regret import summary

    if file is not None:
        cells = [asdict(cell) | {"regret": cell.regret, "accuracy": cell.accuracy} for cell in found]
        file.write_text(json.dumps({"summary": asdict(summary(found)), "cells": cells}, indent=1) + "\n")


def _programs(files: Iterable[Path], quick: bool, machine: Hardware, device: str) -> Iterator[Cell]:
    from ssdc.runtime.regret import measure

    for file in files:
        source = read(file)
        layer = find_layer(pipeline.parse(source), None)
        for heads, width, batch, length in QUICK[machine.device] if quick else FULL:
            free = {one.name: heads if one.name == "H" else width for one in layer.sizes if one.default is None}
            checked = _checked(source, layer.name, free)
            if checked is None:
                break
            sizes = pipeline.call_sizes(checked, T=length, b=batch)
            for mode in MODES:
                for cell in measure(checked.graph, sizes, mode, machine, device=device, patience=PATIENCE[quick]):
                    yield replace(cell, sizes={**free, **cell.sizes})


def _checked(source: Source, layer: str, sizes: dict[str, int]) -> pipeline.Checked | None:
    """A layer with its free sizes set; None for one that is not lowered."""
    try:
        return pipeline.check(source, layer, sizes, lenient=False)
    except SpecError as fault:
        note(f"{source.name} is left out: {fault.faults[0].text}")
        return None


def _kernels(quick: bool, machine: Hardware, device: str) -> Iterator[Cell]:
    from ssdc.runtime.kernel_regret import measure, shapes

    for shape in shapes(KERNEL_LENGTHS[quick]):
        yield from measure(shape, machine, device)


def _table(found: list[Cell]) -> Table:
    from rich.table import Table

    table = Table(
        "layer", "equation", "call", "", "chosen", "ms", "predicted", "best", "ms", "regret", title="worst cells"
    )
    for column in (5, 6, 8, 9):
        table.columns[column].justify = "right"
    for cell in sorted(found, key=lambda one: -one.regret)[:ROWS]:
        chosen, best = cell.timings[0], cell.best
        times = (chosen.seconds, chosen.predicted, best.seconds)
        measured, predicted, least = (f"{1e3 * (seconds or 0.0):.3g}" for seconds in times)
        call = " ".join(f"{name}={size}" for name, size in cell.sizes.items())
        mode = "forward" if cell.mode == "forward" else "and back"
        row = (cell.layer, cell.equation, call, mode, chosen.name, measured, predicted, best.name, least)
        table.add_row(*row, f"{cell.regret:.2f}")
    return table
