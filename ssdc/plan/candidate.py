"""What an ordering offers for a contraction: a priced candidate, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ssdc.plan.cost import Cost, Price, Work, prices, total
from ssdc.plan.hardware import Hardware
from ssdc.plan.problem import Problem
from ssdc.plan.products import laid
from ssdc.plan.search import Operands, Path, search

Cause = Literal["equation", "mask", "varying", "documents", "plain", "inside", "gates", "width", "reach"]
"""What in a program causes a refusal: the equation, its mask, or of the mask a gate that varies with time, documents, a
gate of unknown sign, a gate that varies along a summed axis, the gate with most axes, a bounded width, or a reach
without bound."""


@dataclass(frozen=True)
class Refusal:
    """An ordering that a contraction does not admit, why, and what in the program causes it."""

    order: str
    reason: str
    cause: Cause = "mask"

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Candidate:
    """A legal ordering: its terms with the cheapest pairwise order of each, and what it costs.

    `chunk` is the number of positions in a chunk (None where there are no chunks, 0 where one chunk holds all of time),
    `depth` the number of steps that wait for one another. `form` names a form of the Triton kernels (None: PyTorch),
    `segments` the pieces that it cuts time into.
    """

    order: str
    chunk: int | None
    terms: Mapping[str, Path]
    cost: Cost
    depth: int
    parts: Mapping[str, float] = field(default_factory=dict)
    """Predicted seconds by part."""
    bounds: Mapping[str, str] = field(default_factory=dict)
    """What each part waits for most, one of `ssdc.plan.cost.UNITS`."""
    bound: str = "launches"
    """What the whole waits for most."""
    form: str | None = None
    segments: int = 1

    @property
    def title(self) -> str:
        """The order and its chunk; of kernels the form, and the pieces of time if there are several."""
        if self.form is not None:
            return f"{self.form}({self.segments})" if self.segments > 1 else self.form
        return f"{self.order}({self.chunk})" if self.chunk else self.order


CALLED: Mapping[str, float] = {"cpu": 2.0, "cuda": 0.0}
"""Operations, by device, that a call is worth besides those that it starts."""
TURN: Mapping[str, float] = {"cpu": 15.0, "cuda": 35.0}
"""Those that differentiation is worth before it begins; where a GPU runs, PyTorch hands it to another thread."""

Mode = Literal["forward", "both", "step"]
"""What is planned for: a call without gradients, forward and backward, or one position."""


@dataclass
class Pricing:
    """Adds up the work of a candidate, part by part."""

    problem: Problem
    hardware: Hardware
    sizes: Mapping[str, int]
    gradient: bool = False
    terms: dict[str, Path] = field(default_factory=dict)
    parts: dict[str, list[Work]] = field(default_factory=dict)

    def term(self, name: str, operands: Operands, axes: tuple[str, ...], repeat: int = 1) -> tuple[str, ...]:
        """A product of operands that lie as their axes say, evaluated `repeat` times; the search orders it. Returns how
        the result lies."""
        path = search(operands, axes, self.sizes, self.hardware)
        self.terms[name] = path
        found, memory = laid(path, operands, self.sizes, gradient=self.gradient)
        self.add(name, *(work.times(repeat, kept=self.gradient) for work in found))
        return memory

    def anew(self) -> Pricing:
        """The same facts, without work yet."""
        return Pricing(self.problem, self.hardware, self.sizes, self.gradient)

    def add(self, name: str, *found: Work) -> None:
        """Further work of a part."""
        self.parts.setdefault(name, []).extend(found)

    def candidate(self, order: str, chunk: int | None, depth: int) -> Candidate:
        """All of it as a candidate."""
        device = self.hardware.device
        self.add("call", Work(launches=CALLED[device] + (TURN[device] if self.gradient else 0.0)))
        return priced(self.parts, self.hardware, order, chunk, self.terms, depth)


def priced(
    parts: Mapping[str, Sequence[Work]],
    hardware: Hardware,
    order: str,
    chunk: int | None,
    terms: Mapping[str, Path],
    depth: int,
    form: str | None = None,
    segments: int = 1,
) -> Candidate:
    """A candidate from the work of its parts."""
    every = [(name, work) for name, found in parts.items() for work in found]
    works = [work for _, work in every]
    by_part = dict.fromkeys(parts, Price())
    for (name, _), price in zip(every, prices(works, hardware), strict=True):
        by_part[name] += price
    whole = sum(by_part.values(), Price())
    seconds = {name: price.seconds for name, price in by_part.items()}
    bounds = {name: price.bound for name, price in by_part.items()}
    return Candidate(order, chunk, terms, total(works, whole), depth, seconds, bounds, whole.bound, form, segments)
