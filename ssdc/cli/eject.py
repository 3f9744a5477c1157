"""`ssdc eject`: a Python file that holds one layer and needs torch alone.

In goes a file of programs; out comes `DIR/<layer>.py`, and its path on stdout. The file's orderings are those of one
plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.options import (
    ChunkOption,
    FileArgument,
    LayerOption,
    LengthOption,
    OrderOption,
    PlanOption,
    SizeOption,
    overruled,
    request,
)

FolderOption = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", file_okay=False, help="Where the file goes.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]


def eject(
    file: FileArgument,
    output: FolderOption,
    layer: LayerOption = None,
    size: SizeOption = None,
    length: LengthOption = 2048,
    order: OrderOption = None,
    chunk: ChunkOption = None,
    plan: PlanOption = None,
    force: ForceOption = False,
) -> None:
    """Write a module file that runs without ssdc, planned for calls of [bold]-T[/bold] positions."""
    wanted = request(file, layer, size, complete=True)
    asked = overruled(order, chunk, None, plan)
    text = pipeline.eject(
        wanted.source,
        wanted.layer,
        wanted.sizes,
        order=asked.order,
        chunk=asked.chunk,
        plan=asked.plan,
        length=max(1, length),
    )
    target = output / f"{wanted.layer}.py"
    if target.exists() and not force:
        raise typer.BadParameter(f"{target} is there already; --force overwrites it", param_hint="-o")
    try:
        output.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="ascii")
    except OSError as error:
        raise typer.BadParameter(f"cannot write {target}: {error.strerror}", param_hint="-o") from None
    typer.echo(str(target))
