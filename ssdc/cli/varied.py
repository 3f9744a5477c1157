"""What `ssdc compare` compares: files and sizes, one of them (T, b or a size of a layer) with several values.

In go strings of the command line; out come subjects, each a layer with its sizes, and the values of what varies. What
is malformed, or given for a layer that has no such size, is bad usage (`typer.BadParameter`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ssdc import pipeline
from ssdc.cli.options import completed, find_layer, parse_entries, parse_values, read
from ssdc.source import Source
from ssdc.syntax import ast

LENGTHS = "256..4096"
"""Lengths where nothing else varies."""
LENGTH = "1024"
"""The length where something else does."""


@dataclass(frozen=True)
class Subject:
    """A layer and its sizes but for the one that varies; `chosen` were not given and have no default."""

    name: str
    source: Source
    layer: ast.Layer
    sizes: Mapping[str, int]
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Varied:
    """The size that varies, and its values, rising; and the length and batch (where one of them varies, its first)."""

    axis: str
    values: tuple[int, ...]
    length: int
    batch: int

    def call(self, value: int) -> tuple[int, int, dict[str, int]]:
        """The length, the batch, and the size of the layer, if it is one that varies."""
        if self.axis == "T":
            return value, self.batch, {}
        if self.axis == "b":
            return self.length, value, {}
        return self.length, self.batch, {self.axis: value}


def varied(length: str | None, batch: str, size: Sequence[str]) -> tuple[Varied, dict[str, int]]:
    """What varies, and the sizes that do not.

    >>> varied(None, "1", ["N=16,32", "H=4"])
    (Varied(axis='N', values=(16, 32), length=1024, batch=1), {'H': 4})
    """
    sizes = {name: parse_values(text, "--size") for name, text in parse_entries(size).items()}
    batches = parse_values(batch, "-b")
    several = [name for name, values in {"b": batches, **sizes}.items() if len(values) > 1]
    lengths = parse_values(length or (LENGTH if several else LENGTHS), "-T")
    several = (["T"] if len(lengths) > 1 else []) + several
    if len(several) > 1:
        raise typer.BadParameter(f"only one size can vary, and {' and '.join(several)} do", param_hint="-T, -b, --size")
    axis = several[0] if several else "T"
    values = {"T": lengths, "b": batches}.get(axis) or sizes[axis]
    fixed = {name: one[0] for name, one in sizes.items() if name != axis}
    return Varied(axis, values, lengths[0], batches[0]), fixed


def subjects(files: Sequence[Path], layer: str | None, axis: str, sizes: Mapping[str, int]) -> tuple[Subject, ...]:
    """The layers to compare: of one file the layer asked for, of several the last of each.

    Sizes are for every layer that has them; one that none has is bad usage. Sizes without a value get small ones, of
    which a note on stderr tells. Raises SpecError where a file does not parse.
    """
    if layer is not None and len(files) > 1:
        raise typer.BadParameter("--layer goes with one file", param_hint="--layer")
    twice = [str(file) for file, count in Counter(files).items() if count > 1]
    if twice:
        raise typer.BadParameter(f"{twice[0]} is given twice", param_hint="FILE")
    sources = [read(file) for file in files]
    layers = [find_layer(pipeline.parse(source), layer) for source in sources]
    varying = set() if axis in ("T", "b") else {axis}
    for name in (*sizes, *varying):
        if not any(name in _sizes(one) for one in layers):
            raise typer.BadParameter(_unknown(name, layers), param_hint="--size")
    found = []
    for source, one, name in zip(sources, layers, _names(layers, sources), strict=True):
        given = {**sizes, **dict.fromkeys(varying, 1)}
        whole = completed(one, given)
        chosen = tuple(size for size in whole if size not in given)
        found.append(Subject(name, source, one, {k: v for k, v in whole.items() if k not in varying}, chosen))
    return tuple(found)


def _sizes(layer: ast.Layer) -> tuple[str, ...]:
    return tuple(entry.name for entry in layer.sizes)


def _unknown(name: str, layers: Sequence[ast.Layer]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0].name} has no size {name}; its sizes: {', '.join(_sizes(layers[0])) or 'none'}"
    known = "; ".join(f"{one.name} has {', '.join(_sizes(one)) or 'none'}" for one in layers)
    return f"none of the layers has a size {name}: {known}"


def _names(layers: Sequence[ast.Layer], sources: Sequence[Source]) -> list[str]:
    """A name for each layer that no other has: its own, with its file's where layers share one."""
    counts = Counter(one.name for one in layers)
    return [
        one.name if counts[one.name] == 1 else f"{one.name} ({source.name})"
        for one, source in zip(layers, sources, strict=True)
    ]
