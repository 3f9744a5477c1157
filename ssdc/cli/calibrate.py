"""`ssdc calibrate`: measures this machine, and keeps its profile for the planner.

In goes a device; out come its figures beside those of the profile that ships, on stdout, and a file in the user's
settings, which every later plan for such a device uses. Takes well under a minute.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.console import console, note
from ssdc.plan.hardware import Hardware
from ssdc.plan.profiles import shipped, store

SMALL = """layer small(N = 4, P = 4) {
  time t, s
  axis b, n = N, p = P
  input q[b,t,n], k[b,t,n], v[b,t,p], a[b,t]
  mask L[b,t,s] = semiseparable(sigmoid(a[b,t]))
  y[b,t,p] = q[b,t,n] * k[b,s,n] * L[b,t,s] * v[b,s,p]
  output y
}"""
"""A layer so small that nothing but the cost of starting operations counts."""

DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ..; a GPU if there is one.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads of torch; as many as processors if not given.")
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Measure and print, but keep nothing.")]


def calibrate(device: DeviceOption = None, threads: ThreadsOption = None, dry_run: DryOption = False) -> None:
    """Measure this machine, so that the planner's predictions are about it.

    The profile is kept in your settings, one for the CPU and one for GPUs, and used from then on; removing the file
    brings the shipped one back, and so does [bold]SSDC_PROFILE=cpu[/bold] (a100, h100, h200, b200) for one run.
    """
    from ssdc.runtime import calibration, devices

    devices.threads(threads)
    wanted = devices.device_of(device)
    if wanted is None:
        raise typer.BadParameter(f"there is no device {device!r} here", param_hint="--device")
    found = calibration.measured(wanted, pipeline.check(SMALL).graph)
    _table(found, shipped(found.device, devices.name_of(wanted)))
    if not dry_run:
        note(f"kept in {store(found)}")


def _table(found: Hardware, beside: Hardware) -> None:
    from rich.table import Table

    table = Table("figure", "measured", f"shipped ({beside.name})", title=found.source)
    for name in table.columns[1:]:
        name.justify = "right"
    for figure, text, other in zip(LABELS, _texts(found), _texts(beside), strict=True):
        table.add_row(figure, text, other)
    console().print(table)


LABELS = (
    "processors", "matrix products, GFLOP/s", "matrix products of 16 bits, GFLOP/s", "matrix times column, GFLOP/s",
    "exponentials, G/s", "copies by working set, GB/s", "copies against memory's order, GB/s",
    "start of an operation, us", "step of a loop over time, us", "derivative of an operation, us",
    "start of a kernel, us", "step within a kernel, us", "memory, GB",
)  # fmt: skip


def _texts(one: Hardware) -> tuple[str, ...]:
    rates = (one.matrix, one.half, one.thin, one.transcendental)
    waits = (one.launch, one.step, one.node, one.kernel, one.latency)
    return (
        str(one.processors),
        *(f"{rate / 1e9:,.3g}" for rate in rates),
        ", ".join(f"{rate / 1e9:.3g}" for _, rate in one.bandwidth),
        f"{one.scattered / 1e9:.3g}",
        *(f"{1e6 * wait:.3g}" for wait in waits),
        f"{one.memory / 1e9:.3g}",
    )
