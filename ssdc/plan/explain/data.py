"""An explanation as data: what a plan holds, why, and where in the source the reasons stand.

Names, reasons and places are text, times are seconds, sizes bytes, work floating-point operations. `as_json` gives it
as a JSON document; its keys are the fields of these classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from ssdc.plan.candidate import Mode

SCHEMA = 1
"""The version of the JSON document; it rises when a key changes its meaning or goes."""


@dataclass(frozen=True)
class Place:
    """A place in the source: its line and column, both counted from one, the line's text and the marks under it."""

    file: str
    line: int
    column: int
    rows: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class State:
    """One part of the state: `length` positions of a tensor (None: all of the past), or what is accumulated."""

    name: str
    kind: str
    axes: tuple[str, ...]
    length: int | None
    bytes: int


@dataclass(frozen=True)
class Part:
    """A part of a candidate's work: its predicted time, and what bounds it."""

    name: str
    seconds: float
    bound: str


@dataclass(frozen=True)
class Priced:
    """A legal ordering (of Triton kernels where it has a `form`), and its predicted cost. `left` says why `auto` leaves
    it alone, where it does."""

    order: str
    chunk: int | None
    form: str | None
    name: str
    chosen: bool
    seconds: float
    bound: str
    flop: float
    bytes: float
    workspace: float
    depth: int
    parts: tuple[Part, ...]
    left: str | None


@dataclass(frozen=True)
class Refused:
    """What a contraction does not admit, why, and the place in the source that causes it."""

    what: str
    reason: str
    place: Place | None


@dataclass(frozen=True)
class Launch:
    """One Triton kernel of a call, with its tiles: positions, states, value columns, warps, pipeline stages."""

    kernel: str
    chunk: int
    states: int
    columns: int
    warps: int
    stages: int
    heads: int
    """Heads that a program takes together."""


@dataclass(frozen=True)
class Kernels:
    """The Triton kernels that serve a contraction on a CUDA device: the form, the pieces of time, the launches.

    `candidates` are the forms that can be priced, the one that runs first (none where it has no price).
    """

    form: str
    segments: int
    candidates: tuple[Priced, ...]
    token_seconds: float | None
    forward: tuple[Launch, ...]
    backward: tuple[Launch, ...]
    step: tuple[Launch, ...]


@dataclass(frozen=True)
class Doubt:
    """A gate that is not shown to lie in [0, 1]."""

    gate: str
    place: Place | None


@dataclass(frozen=True)
class Equation:
    """One masked contraction: its candidates (the choice first, then the cheapest), refusals, and kernels.

    `equation` is the left-hand name that `order=` takes, `name` the contraction's own.
    """

    equation: str
    name: str
    place: Place | None
    mask: str
    facts: tuple[str, ...]
    asked: bool
    candidates: tuple[Priced, ...]
    refused: tuple[Refused, ...]
    kernels: Kernels | Refused | None
    doubts: tuple[Doubt, ...]

    @property
    def chosen(self) -> Priced:
        """The ordering that is used."""
        return self.candidates[0]

    def runs(self, device: str) -> Priced:
        """What a call on a device ("cpu" or "cuda") goes by: kernels where they serve it there and have a price."""
        if device == "cuda" and isinstance(self.kernels, Kernels) and self.kernels.candidates:
            return self.kernels.candidates[0]
        return self.chosen


@dataclass(frozen=True)
class Device:
    """The CUDA device and the element type for which kernels are told."""

    name: str
    processors: int
    dtype: Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Totals:
    """All of a layer: learned numbers, the state's bytes, and what a call (its prefill) and one position take."""

    parameters: int
    state_bytes: int | None
    flop: float
    prefill_seconds: float
    token_seconds: float | None

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.parameters + other.parameters,
            None if self.state_bytes is None or other.state_bytes is None else self.state_bytes + other.state_bytes,
            self.flop + other.flop,
            self.prefill_seconds + other.prefill_seconds,
            None
            if self.token_seconds is None or other.token_seconds is None
            else self.token_seconds + other.token_seconds,
        )

    def times(self, count: int) -> Totals:
        """So many layers alike."""
        one = self
        for _ in range(count - 1):
            one = one + self
        return one


@dataclass(frozen=True)
class Explanation:
    """A layer's plan for one call. `pairs` are equations over pairs of positions, whose one ordering is quadratic."""

    layer: str
    sizes: Mapping[str, int]
    hardware: str
    mode: Mode
    not_causal: str | None
    state: tuple[State, ...]
    pairs: tuple[Refused, ...]
    equations: tuple[Equation, ...]
    device: Device | None
    totals: Totals
    rest_seconds: float
    """The predicted time of everything but the masked contractions: projections and elementwise work."""


@dataclass(frozen=True)
class Member:
    """A layer of a program, and how often its model holds it."""

    count: int
    layer: Explanation

    @property
    def totals(self) -> Totals:
        """Of all its copies."""
        return self.layer.totals.times(self.count)


@dataclass(frozen=True)
class Program:
    """The layers of a program. `own_parameters` are those of a model itself, beside its members'."""

    members: tuple[Member, ...]
    own_parameters: int = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one layer to add up."""
        return len(self.members) != 1 or self.members[0].count != 1

    @property
    def totals(self) -> Totals:
        """Of all layers, called one after another."""
        start = Totals(self.own_parameters, 0, 0.0, 0.0, 0.0)
        return sum((member.totals for member in self.members), start)


def as_json(program: Program) -> str:
    """The explanations of a program as a JSON document: `{"schema": 1, "totals": .., "members": [..]}`."""
    document = {"schema": SCHEMA, "totals": asdict(program.totals), **asdict(program)}
    return json.dumps(_rounded(document), indent=2) + "\n"


def _rounded(value: object) -> object:
    """A document whose predictions have six digits."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case dict():
            return {key: _rounded(one) for key, one in value.items()}
        case list() | tuple():
            return [_rounded(one) for one in value]
        case _:
            return value
