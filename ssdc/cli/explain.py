"""`ssdc explain`: the orderings of each masked contraction, priced, the choice, and the refusals with their reasons.

In goes a file and the shape of a call; out comes the plan on stdout: a tree on a terminal, plain text where it is
piped, JSON or Markdown where it is asked for. Nothing is run and torch is not imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdc import pipeline
from ssdc.cli.console import console
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
    completed,
    overruled,
    planned,
    request,
)

if TYPE_CHECKING:
    from rich.tree import Tree

    from ssdc.plan.explain.outline import Branch

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="As Markdown.")]
SaveOption = Annotated[Path | None, typer.Option("--save", metavar="PLAN", help="Write the plan to a file, to review.")]

BackwardOption = Annotated[bool, typer.Option("--backward", help="Plan for gradients, too.")]

TONES = {"title": "bold", "chosen": "green", "quiet": "dim"}


def explain(
    file: FileArgument,
    layer: LayerOption = None,
    size: SizeOption = None,
    length: LengthOption = 4096,
    batch: BatchOption = 1,
    backward: BackwardOption = False,
    order: OrderOption = None,
    chunk: ChunkOption = None,
    form: FormOption = None,
    plan: PlanOption = None,
    save: SaveOption = None,
    json: JsonOption = False,
    markdown: MarkdownOption = False,
) -> None:
    """Explain the plan for a call: what each ordering would cost, which is chosen, and why others are not legal.

    Of a file with several layers, all are explained, those of a model as often as it holds them; [bold]--layer[/bold]
    picks one.
    """
    from ssdc.plan.explain.data import Member, Program, as_json
    from ssdc.plan.explain.markdown import markdown as as_markdown
    from ssdc.plan.explain.outline import outline, plain

    if json and markdown:
        raise typer.BadParameter("--json and --markdown are two things; choose one", param_hint="--json")
    asked = overruled(order, chunk, form, plan)
    layers, own = _layers(file, layer, size)
    if (save or plan) and len(layers) > 1:
        names = ", ".join(checked.graph.layer for _, checked in layers)
        raise typer.BadParameter(f"a plan is of one layer; choose one of {names}", param_hint="--layer")
    members = []
    for count, checked in layers:
        made = planned(checked, asked, T=length, b=batch, mode="both" if backward else "forward")
        members.append(Member(count, pipeline.explain(checked, made)))
        if save:
            _write(save, pipeline.saved(checked, made))
    program = Program(tuple(members), own)
    if json:
        typer.echo(as_json(program), nl=False)
    elif markdown:
        typer.echo(as_markdown(program), nl=False)
    elif sys.stdout.isatty():
        for branch in outline(program):
            console().print(tree(branch), "")
    else:
        typer.echo(plain(outline(program)))


def _layers(
    file: Path, layer: str | None, size: list[str] | None
) -> tuple[tuple[tuple[int, pipeline.Checked], ...], int]:
    """The layers to explain, with how often a model holds each, and the model's own parameters."""
    wanted = request(file, layer, size, complete=True)
    found, own = pipeline.members(wanted.source, wanted.layer, wanted.sizes)
    if layer is not None or [checked.graph.layer for _, checked in found] != [wanted.layer]:
        return found, own
    others = pipeline.parse(wanted.source).layers[:-1]
    rest = [(one.name, completed(one, wanted.sizes)) for one in others]
    return (*((1, pipeline.check(wanted.source, *one, lenient=False)) for one in rest), *found), own


def tree(branch: Branch) -> Tree:
    """A tree as a terminal draws it."""
    from rich.text import Text
    from rich.tree import Tree

    def label(one: Branch) -> Text:
        return Text(one.text, TONES.get(one.tone, ""), overflow="fold")

    def grow(root: Tree, below: tuple[Branch, ...]) -> Tree:
        for one in below:
            grow(root.add(label(one)), one.below)
        return root

    return grow(Tree(label(branch), guide_style="dim"), branch.below)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}", param_hint="--save") from None
