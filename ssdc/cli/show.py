"""`ssdc show`: a program at any stage of its way through the compiler, as text.

In goes a file and the name of a stage; out comes the tree, the contraction graph, the plan or the generated source (the
PyTorch module, then the Triton kernels that a CUDA device runs) on stdout. Nothing is run and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated

import typer

from ssdc import pipeline
from ssdc.cli.options import (
    BatchOption,
    ChunkOption,
    FileArgument,
    FormOption,
    LayerOption,
    LengthOption,
    OrderOption,
    PlanOption,
    SizeOption,
    find_layer,
    overruled,
    planned,
    request,
)
from ssdc.graph.draw import to_dot, to_mermaid, to_text
from ssdc.graph.graph import Graph
from ssdc.plan.planner import Plan
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


DEVICE = "# ---- what a CUDA device runs " + "-" * 91

DRAWINGS: Mapping[Format, Callable[[Graph], str]] = {
    Format.text: to_text,
    Format.mermaid: to_mermaid,
    Format.dot: to_dot,
}

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
    order: OrderOption = None,
    chunk: ChunkOption = None,
    form: FormOption = None,
    plan: PlanOption = None,
) -> None:
    """Show a program at a [bold]stage[/bold]: the tree, the contraction graph, the plan, or the generated source.

    The plan and the kernels depend on the shape of a call: [bold]-T[/bold] and [bold]-b[/bold]. The source is the
    PyTorch module and, below it, the Triton kernels that a CUDA device runs.
    """
    if format is not Format.text and stage is not Stage.graph:
        raise typer.BadParameter(f"{format.value} draws a graph; use it with --stage graph", param_hint="--format")
    wanted = request(file, layer, size, complete=stage is not Stage.ast)
    if stage is Stage.ast:
        program = pipeline.parse(wanted.source)
        text = print_program(ast.Program((find_layer(program, layer),)) if layer else program)
    else:
        checked = pipeline.check(wanted.source, wanted.layer, wanted.sizes, lenient=False)
        if stage is Stage.graph:
            text = DRAWINGS[format](checked.graph)
        else:
            text = _planned(checked, planned(checked, overruled(order, chunk, form, plan), T=length, b=batch), stage)
    typer.echo(text.rstrip("\n"))


def _planned(checked: pipeline.Checked, plan: Plan, stage: Stage) -> str:
    from ssdc.plan.explain.outline import in_words

    if stage is Stage.plan:
        return in_words(pipeline.explain(checked, plan))
    return f"{pipeline.text(checked, plan)}\n\n{DEVICE}\n\n{pipeline.kernels(checked, plan)}"
