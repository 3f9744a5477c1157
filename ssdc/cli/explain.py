"""`ssdc explain`: the orderings of each masked contraction, priced, the choice, and the refusals with their reasons.

In goes a file and the shape of a call; out comes the plan in words, on stdout. Nothing is run and torch is not
imported.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.options import BatchOption, FileArgument, LayerOption, LengthOption, SizeOption, request
from ssdc.plan.explain import explain as in_words

OrderOption = Annotated[
    str, typer.Option("--order", help="One ordering for the layer, instead of the planner's choice.")
]
ChunkOption = Annotated[int | None, typer.Option("--chunk", min=1, help="Positions in a chunk.")]


def explain(
    file: FileArgument,
    layer: LayerOption = None,
    size: SizeOption = None,
    length: LengthOption = 4096,
    batch: BatchOption = 1,
    order: OrderOption = "auto",
    chunk: ChunkOption = None,
) -> None:
    """Explain the plan for a call: what each ordering would cost, which is chosen, and why others are not legal."""
    wanted = request(file, layer, size, complete=True)
    checked = pipeline.check(wanted.source, wanted.layer, wanted.sizes, lenient=False)
    plan = pipeline.plan(checked, pipeline.call_sizes(checked, b=batch, T=length), order=order, chunk=chunk)
    typer.echo(in_words(plan, checked.graph))
