"""`ssdc show`: a program at any stage of its way through the compiler, as text.

In goes a file and the name of a stage; out comes the tree, the contraction graph, the plan or the generated source on
stdout. Nothing is run and torch is not imported.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.options import (
    BatchOption,
    FileArgument,
    LayerOption,
    LengthOption,
    Request,
    SizeOption,
    find_layer,
    request,
)
from ssdc.syntax import ast
from ssdc.syntax.printer import print_program


class Stage(StrEnum):
    """How far to go."""

    ast = "ast"
    graph = "graph"
    plan = "plan"
    kernels = "kernels"


class Format(StrEnum):
    """How to draw a graph."""

    text = "text"
    mermaid = "mermaid"
    dot = "dot"


StageOption = Annotated[Stage, typer.Option("--stage", help="Which stage to show.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to draw the graph ([bold]--stage graph[/bold]).")]


def show(
    file: FileArgument,
    stage: StageOption = Stage.graph,
    layer: LayerOption = None,
    size: SizeOption = None,
    format: FormatOption = Format.text,
    length: LengthOption = 4096,
    batch: BatchOption = 1,
) -> None:
    """Show a program at a [bold]stage[/bold]: the tree, the contraction graph, the plan, or the generated source.

    The plan and the kernels depend on the shape of a call: [bold]-T[/bold] and [bold]-b[/bold].
    """
    if format is not Format.text and stage is not Stage.graph:
        raise typer.BadParameter(f"{format.value} draws a graph; use it with --stage graph", param_hint="--format")
    wanted = request(file, layer, size, complete=stage is not Stage.ast)
    typer.echo(_text(wanted, stage, format, length, batch).rstrip("\n"))


def _text(wanted: Request, stage: Stage, format: Format, length: int, batch: int) -> str:
    program = pipeline.parse(wanted.source)
    if stage is Stage.ast:
        return print_program(ast.Program((find_layer(program, wanted.layer),)) if wanted.layer else program)
    graph = pipeline.build(wanted.source, wanted.layer, wanted.sizes)
    match stage, format:
        case Stage.graph, Format.text:
            return str(graph)
        case Stage.graph, Format.mermaid:
            return graph.to_mermaid()
        case Stage.graph, Format.dot:
            return graph.to_dot()
        case Stage.plan, _:
            return str(pipeline.plan(graph, b=batch, T=length))
        case Stage.kernels, _:
            return pipeline.render(graph, pipeline.plan(graph, b=batch, T=length))
