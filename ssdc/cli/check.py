"""`ssdc check`: are these programs right? Says so for each file, or reports every fault in it.

Parses and checks only: nothing is planned, emitted or run, and torch is not imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.console import complain
from ssdc.cli.options import LayerOption, SizeOption, request
from ssdc.errors import SsdcError

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Programs; - reads stdin.")]


def check(files: Files, layer: LayerOption = None, size: SizeOption = None) -> None:
    """Check that programs are [bold]well formed[/bold]; report every error with its place and a remedy.

    Exit status 1 if any of them is not.
    """
    bad = 0
    for file in files:
        try:
            wanted = request(file, layer, size)
            pipeline.check(wanted.source, wanted.layer, wanted.sizes)
        except SsdcError as error:
            complain(error)
            bad += 1
        else:
            typer.echo(f"{file}: ok")
    if bad:
        raise typer.Exit(1)
