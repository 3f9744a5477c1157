"""`ssdc verify`: every legal ordering, step and gradient of a layer against its definition in float64.

In goes a file; out comes a table of checks on stdout, and exit status 1 if any of them failed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.console import console
from ssdc.cli.options import BatchOption, FileArgument, LayerOption, SizeOption, request

VerifyLength = Annotated[int, typer.Option("-T", "--length", min=3, max=4096, help="The longest length to check.")]
ChunkOption = Annotated[int, typer.Option("--chunk", min=16, max=256, help="The chunk round which lengths are taken.")]


def verify(
    file: FileArgument,
    layer: LayerOption = None,
    size: SizeOption = None,
    length: VerifyLength = 200,
    batch: BatchOption = 2,
    chunk: ChunkOption = 32,
) -> None:
    """Verify every legal ordering against the float64 reference.

    Outputs at lengths round the chunk, a prefill cut and continued, decoding step by step: each within the rounding
    bound 16 u sum|terms|. Gradients in float64 within 1e-9. Exit status 1 if a check fails.
    """
    from rich.table import Table

    from ssdc.plan.planner import legal_orders
    from ssdc.runtime.measure import seeded
    from ssdc.runtime.module import Layer
    from ssdc.runtime.verification import verify as findings

    wanted = request(file, layer, size, complete=True)
    checked = pipeline.check(wanted.source, wanted.layer, wanted.sizes, lenient=False)
    orders = legal_orders(checked.graph, pipeline.call_sizes(checked, T=length))
    reference = seeded(lambda: pipeline.reference(wanted.source, wanted.layer, wanted.sizes))

    def compiled(order: str) -> Layer:
        chunks = chunk if order == "chunked" else None
        return pipeline.compile(wanted.source, wanted.layer, wanted.sizes, order=order, chunk=chunks)

    table = Table(
        "order",
        "check",
        "error",
        "allowed",
        "",
        title=f"{checked.graph.layer}: {len(orders)} orderings",
        title_justify="left",
    )
    failed = 0
    with console(stderr=True).status("verifying"):
        for finding in findings(compiled, reference, orders, batch=batch, length=length, chunk=chunk):
            failed += not finding.passed
            mark = "ok" if finding.passed else "[bold red]FAILED[/bold red]"
            table.add_row(finding.order, finding.check, f"{finding.error:.3g}", f"{finding.allowed:g}", mark)
    console().print(table)
    if failed:
        typer.echo(f"{failed} check{'s' if failed > 1 else ''} failed", err=True)
        raise typer.Exit(1)
