"""The benchmark's runs: a layer over lengths, the suite of contractions, the headline against softmax attention.

In: a setting (device, type, clock) and what to measure. Out: entries, each the rows of subjects that were measured in
turn on the same operands, as they become known.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ssdc.errors import CallError
from ssdc.runtime.bench import shapes
from ssdc.runtime.bench.layers import Definition
from ssdc.runtime.bench.layers import layer as whole
from ssdc.runtime.bench.peers import PEERS
from ssdc.runtime.bench.shapes import Given, Shape, operands, program, shape_of
from ssdc.runtime.bench.subjects import by_layer, contraction, ours, peer, with_step
from ssdc.runtime.bench.times import Clock, Row, Subject, measure
from ssdc.runtime.kernels.launch import available
from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.samples import sample_inputs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Compile = Callable[[str], Layer]
"""A layer from the text of a program, on the device of a setting."""


@dataclass(frozen=True)
class Setting:
    """Where and in which type to measure."""

    device: torch.device
    dtype: torch.dtype
    clock: Clock

    @property
    def kernels(self) -> bool:
        """Whether the Triton kernels run here."""
        return self.device.type == "cuda" and available()

    @property
    def title(self) -> str:
        """The device and the type, for people."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Entry:
    """Rows that were measured in turn: of what, and the length and batch of its calls."""

    of: str
    length: int
    batch: int
    rows: tuple[Row, ...]


def setting(device: str | None, dtype: str | None, threads: int | None, burst: int) -> Setting:
    """Where to measure: a CUDA device in bfloat16 if there is one, else the CPU in float32. Raises CallError."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(chosen)
    except RuntimeError:
        raise CallError(f"there is no device {chosen!r}; devices are cpu, cuda, cuda:1, ..") from None
    if where.type not in ("cpu", "cuda"):
        raise CallError(f"the benchmark measures on cpu and cuda devices, not {chosen}")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise CallError(f"there is no CUDA device {chosen!r} here; leave out --device, or use --device cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    name = dtype or ("bf16" if where.type == "cuda" else "fp32")
    return Setting(where, DTYPES[name], Clock(where, burst))


def needs_kernels(given: Setting, what: str) -> None:
    """Raises CallError where the Triton kernels cannot run."""
    if not given.kernels:
        raise CallError(f"{what} measures the Triton kernels, which need a CUDA device and triton; there is none here")


# ---- a layer ---------------------------------------------------------------------------------------------------------


def layer_entry(
    given: Setting,
    layers: Mapping[str, Layer | str],
    definition: Reference,
    compile: Compile,
    sizes: Mapping[str, int],
) -> Entry:
    """A layer at one call's sizes (`T`, `b`): each of `layers` (or why it is left out) as a whole, the first of them as
    planned; then its contraction alone, beside the peers that compute it."""
    first = next(one for one in layers.values() if isinstance(one, Layer))
    inputs = {
        name: x.to(given.device) for name, x in sample_inputs(first, dtype=given.dtype, **sizes).items()
    }  # fmt: skip
    exact = Definition(definition)
    subjects: list[Subject | Row] = [
        Row(name, "layer", note=one) if isinstance(one, str) else whole(name, one, exact, inputs)
        for name, one in layers.items()
    ]
    try:
        subjects += contractions(given, shape_of(first, **sizes), compile)
    except ValueError as error:
        subjects.append(Row("ssdc", "contraction", note=f"the kernels serve none: {error}"))
    return Entry(first.graph.layer, sizes["T"], sizes["b"], measure(subjects, given.clock))


def contractions(given: Setting, shape: Shape, compile: Compile | None, *, another: bool = True) -> list[Subject | Row]:
    """Ours, through the operator where the kernels run and else through a layer, then each peer that serves the shape,
    with those that compute `another` function or without."""
    tensors = operands(shape, given.dtype, given.device)
    peers = [peer(one, shape, tensors) for one in PEERS if one.serves(shape) and (another or not one.another)]
    return [_ours(given, shape, tensors, compile), *peers]


def _ours(given: Setting, shape: Shape, tensors: Given, compile: Compile | None) -> Subject:
    if given.kernels or compile is None:
        return with_step(contraction("ssdc", ours, shape, tensors), tensors)
    return contraction("ssdc", by_layer(compile(program(shape))), shape, tensors)


# ---- shapes ----------------------------------------------------------------------------------------------------------


def suite(given: Setting, families: Mapping[str, Sequence[Shape]], compile: Compile | None = None) -> Iterator[Entry]:
    """An entry a shape of some families: ours first, then the peers."""
    for name, members in families.items():
        for shape in members:
            rows = measure(contractions(given, shape, compile, another=False), given.clock)
            yield Entry(f"{name} {_short(shape)}", shape.length, shape.batch, rows)


def _short(shape: Shape) -> str:
    head = f"N=P={shape.states}" if shape.states == shape.columns else f"N={shape.states} P={shape.columns}"
    return f"B={shape.batch} T={shape.length} H={shape.heads} {head}"


@dataclass(frozen=True)
class Summary:
    """Ours against the fastest peer of each shape that has one: `shapes` of them, geometric means of peer's time over
    ours, and on how many a peer is faster."""

    shapes: int
    forward: float
    both: float
    slower_forward: int
    slower_both: int


def summary(entries: Sequence[Entry]) -> Summary | None:
    """What a suite comes to; None where ours failed or no peer ran."""
    pairs = [(ours, peers) for ours, *peers in (entry.rows for entry in entries)]
    forward = [ratio for ours, peers in pairs if (ratio := _ratio(ours.forward, [p.forward for p in peers]))]
    both = [ratio for ours, peers in pairs if (ratio := _ratio(ours.both, [p.both for p in peers]))]
    if not forward or not both or any(ours.note for ours, _ in pairs):
        return None
    first, second = (math.exp(sum(map(math.log, ratios)) / len(ratios)) for ratios in (forward, both))
    slower, slower_both = (sum(ratio < 1 for ratio in ratios) for ratios in (forward, both))
    return Summary(len(forward), first, second, slower, slower_both)


def _ratio(ours: float | None, peers: Sequence[float | None]) -> float | None:
    """The fastest peer's time over ours."""
    known = [time for time in peers if time is not None]
    return min(known) / ours if known and ours is not None else None


def headline(given: Setting, lengths: Sequence[int] = shapes.LENGTHS) -> Iterator[Entry]:
    """An entry a length: ours with each number of states, and softmax attention of the same width."""
    attention = next(one for one in PEERS if one.another)
    for length in lengths:
        subjects: list[Subject | Row] = []
        for states in shapes.STATES:
            shape = shapes.headline(length, states)
            subjects.append(contraction(f"ssdc N={states}", ours, shape, operands(shape, given.dtype, given.device)))
        shape = shapes.headline(length, None)
        subjects.append(peer(attention, shape, operands(shape, given.dtype, given.device)))
        yield Entry("headline", length, shape.batch, measure(subjects, given.clock))
