"""The arguments that commands share: the file, the layer, the sizes and the lengths.

In go strings of the command line; out come a `Source`, a layer's name, sizes and lengths, known to be well formed. What
is malformed is bad usage (`typer.BadParameter`, exit status 2); whether the program is right is not asked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ssdc import pipeline
from ssdc.cli.console import note
from ssdc.plan.candidate import Mode
from ssdc.plan.planner import Plan
from ssdc.source import Source
from ssdc.syntax import ast

LARGEST_SIZE = 2**31
SMALL = 32
Value = TypeVar("Value")

SMALL_BY_NAME = {"H": 4, "D": 128}

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The program; - reads stdin.")]
LayerOption = Annotated[
    str | None,
    typer.Option("--layer", metavar="NAME", help="Which layer of the file; the last one if not given."),
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="NAME=VALUE", help="A size, such as [bold]H=8[/bold]; repeatable."),
]
LengthOption = Annotated[int, typer.Option("-T", "--length", min=0, max=LARGEST_SIZE, help="Positions in time.")]
BatchOption = Annotated[int, typer.Option("-b", "--batch", min=1, max=LARGEST_SIZE, help="Sequences in a batch.")]
OrderOption = Annotated[
    list[str] | None,
    typer.Option("--order", metavar="ORDER", help="An ordering for the layer, or [bold]y=ORDER[/bold]; repeatable."),
]
ChunkOption = Annotated[
    list[str] | None,
    typer.Option("--chunk", metavar="N", help="Positions in a chunk, or [bold]y=N[/bold]; repeatable."),
]
FormOption = Annotated[
    list[str] | None,
    typer.Option("--form", metavar="FORM", help="A form of the Triton kernels, or [bold]y=FORM[/bold]; repeatable."),
]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", metavar="PLAN", help="A saved plan, instead of the planner's choice.")
]


@dataclass(frozen=True)
class Request:
    """What a command line asks to be compiled."""

    source: Source
    layer: str | None
    sizes: dict[str, int]


@dataclass(frozen=True)
class Overruled:
    """What a command line asks for instead of the planner's choice, as `ssdc.compile` takes it."""

    order: str | dict[str, str]
    chunk: int | dict[str, int] | None
    form: str | dict[str, str] | None
    plan: Path | None


def overruled(order: list[str] | None, chunk: list[str] | None, form: list[str] | None, plan: Path | None) -> Overruled:
    """What `--order`, `--chunk`, `--form` and `--plan` ask for."""
    numbers = by_equation(chunk, "--chunk")
    try:
        numbered = {name: int(number) for name, number in numbers.items()}
    except ValueError:
        raise typer.BadParameter(f"{chunk} are no numbers of positions", param_hint="--chunk") from None
    return Overruled(
        _one(by_equation(order, "--order")) or "auto", _one(numbered), _one(by_equation(form, "--form")), plan
    )


def planned(checked: pipeline.Checked, found: Overruled, *, T: int, b: int, mode: Mode = "forward") -> Plan:
    """The plan of a layer for a call, as the command line wants it."""
    return pipeline.plan(
        checked,
        pipeline.call_sizes(checked, b=b, T=T),
        order=found.order,
        chunk=found.chunk,
        form=found.form,
        saved=found.plan,
        mode=mode,
    )


def by_equation(entries: list[str] | None, option: str) -> dict[str, str]:
    """Values by the name of an equation, or one value for the layer under the name ''.

    >>> by_equation(["y=chunked", "num+den=scan"], "--order"), by_equation(["scan"], "--order")
    ({'y': 'chunked', 'num+den': 'scan'}, {'': 'scan'})
    """
    found: dict[str, str] = {}
    for entry in entries or []:
        name, _, value = entry.rpartition("=")
        if name in found:
            what = f"{name} is given twice" if name else f"{entry} is for the whole layer, and so is {found['']}"
            raise typer.BadParameter(what, param_hint=option)
        found[name] = value
    if "" in found and len(found) > 1:
        raise typer.BadParameter("either one value for the layer, or NAME=VALUE for each", param_hint=option)
    return found


def _one(found: dict[str, Value]) -> Value | dict[str, Value] | None:
    return found.get("", found or None)


def read(file: Path) -> Source:
    """The text of a file, or of stdin for `-`. Bytes that are no UTF-8 are left for the parser to refuse."""
    try:
        data = typer.get_binary_stream("stdin").read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from None
    return Source(data.decode("utf-8", errors="replace"), "<stdin>" if str(file) == "-" else str(file))


def request(file: Path, layer: str | None, size: list[str] | None, *, complete: bool = False) -> Request:
    """What the three shared arguments ask for.

    With `complete`, a size that has no default and was not given gets a small one (4 for `H`, 128 for `D`, 32 for any
    other), and a note on stderr says so.

    Raises `typer.BadParameter` for a layer or a size that the program does not have, and `SpecError` where it does not
    parse.
    """
    source, sizes = read(file), parse_sizes(size or [])
    if not (layer or sizes or complete):
        return Request(source, layer, sizes)
    chosen = find_layer(pipeline.parse(source), layer)
    known = [entry.name for entry in chosen.sizes]
    for name in sizes:
        if name not in known:
            message = f"layer {chosen.name} has no size {name}; its sizes: {', '.join(known) or 'none'}"
            raise typer.BadParameter(message, param_hint="--size")
    return Request(source, chosen.name, completed(chosen, sizes) if complete else sizes)


def completed(layer: ast.Layer, sizes: dict[str, int]) -> dict[str, int]:
    """Those of the sizes that a layer has, and a small one for each that it lacks, of which a note on stderr tells."""
    missing = [entry.name for entry in layer.sizes if entry.default is None and entry.name not in sizes]
    small = {name: SMALL_BY_NAME.get(name, SMALL) for name in missing}
    if small:
        listed = " ".join(f"{name}={value}" for name, value in small.items())
        note(f"sizes chosen for {layer.name}: {listed} (--size changes them)")
    return {name: size for name, size in sizes.items() if name in {entry.name for entry in layer.sizes}} | small


def find_layer(program: ast.Program, name: str | None) -> ast.Layer:
    """The layer of that name, or the last. Raises `typer.BadParameter` where there is none."""
    for layer in reversed(program.layers):
        if name is None or layer.name == name:
            return layer
    listed = ", ".join(layer.name for layer in program.layers) or "none"
    raise typer.BadParameter(f"no layer {name!r} in this file; its layers: {listed}", param_hint="--layer")


def parse_sizes(entries: list[str]) -> dict[str, int]:
    """Sizes from `NAME=VALUE` entries, at most 2^31 each.

    >>> parse_sizes(["H=8", "P = 64"])
    {'H': 8, 'P': 64}
    """
    sizes: dict[str, int] = {}
    for name, text in parse_entries(entries).items():
        if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= LARGEST_SIZE:
            message = f"{name}={text} is not NAME=VALUE with a value from 1 to 2^31"
            raise typer.BadParameter(message, param_hint="--size")
        sizes[name] = int(text)
    return sizes


def parse_entries(entries: Sequence[str]) -> dict[str, str]:
    """The texts of `NAME=TEXT` entries by name, each name once.

    >>> parse_entries(["H=8", "N = 16,32"])
    {'H': '8', 'N': '16,32'}
    """
    found: dict[str, str] = {}
    for entry in entries:
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*(\S+)\s*", entry, re.ASCII)
        if not match:
            message = f"{entry!r} is not NAME=VALUE with a value from 1 to 2^31"
            raise typer.BadParameter(message, param_hint="--size")
        if match[1] in found:
            raise typer.BadParameter(f"{match[1]} is given twice", param_hint="--size")
        found[match[1]] = match[2]
    return found


def parse_lengths(text: str) -> tuple[int, ...]:
    """Lengths, as `parse_values` takes them."""
    return parse_values(text, "-T")


def parse_values(text: str, option: str) -> tuple[int, ...]:
    """Values of an option from `256..65536` (doubling, the last included) or `100,200,300`, rising.

    >>> parse_values("256..1024", "-T"), parse_values("100..300", "-T"), parse_values("300,100", "-b")
    ((256, 512, 1024), (100, 200, 300), (100, 300))
    """
    match = re.fullmatch(r"([0-9]{1,10})\.\.([0-9]{1,10})", text)
    if match:
        low, high = int(match[1]), int(match[2])
        values = {high}
        while 0 < low < high:
            values.add(low)
            low *= 2
        malformed = not 1 <= int(match[1]) <= high
    else:
        malformed = not re.fullmatch(r"[0-9]{1,10}(,[0-9]{1,10})*", text)
        values = set() if malformed else {int(entry) for entry in text.split(",")}
    if malformed or not all(1 <= value <= LARGEST_SIZE for value in values):
        message = f"{text!r} is neither LOW..HIGH nor a list such as 256,1024, from 1 to 2^31"
        raise typer.BadParameter(message, param_hint=option)
    return tuple(sorted(values))
