"""What an ordering offers for a contraction: a priced candidate, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ssdc.plan.hardware import Hardware
from ssdc.plan.problem import Problem
from ssdc.plan.search import Cost, Operands, Path, search


@dataclass(frozen=True)
class Refusal:
    """An ordering that a contraction does not admit, and why."""

    order: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A legal ordering: its terms with the cheapest pairwise order of each, and what it costs.

    `chunk` is the number of positions in a chunk (None where there are no chunks, 0 where one chunk holds all of time),
    `depth` the number of steps that wait for one another.
    """

    order: str
    chunk: int | None
    terms: Mapping[str, Path]
    cost: Cost
    depth: int
    parts: Mapping[str, float] = field(default_factory=dict)
    """Predicted seconds by part."""


@dataclass
class Pricing:
    """Adds up the terms of a candidate, each priced by the exact search."""

    problem: Problem
    hardware: Hardware
    sizes: Mapping[str, int]
    terms: dict[str, Path] = field(default_factory=dict)
    parts: dict[str, Cost] = field(default_factory=dict)

    def term(self, name: str, operands: Operands, axes: tuple[str, ...], repeat: int = 1) -> None:
        """A product of operands, evaluated `repeat` times."""
        path = search(operands, axes, self.sizes, self.hardware)
        self.terms[name] = path
        self.parts[name] = path.cost.times(repeat)

    def elementwise(
        self, name: str, elements: float, passes: float, transcendental: float = 0.0, launches: int = 1
    ) -> None:
        """Work on `elements` float32 entries in `launches` operations: passes over them, and exponentials an entry."""
        moved = 4.0 * elements * passes
        count = elements * transcendental
        machine = self.hardware
        seconds = launches * (machine.moving(moved / launches) + machine.launch) + count / machine.transcendental
        self.parts[name] = Cost(
            0.0, elements * passes, count, moved, launches, seconds, 4.0 * elements * min(passes, 3.0)
        )

    def candidate(self, order: str, chunk: int | None, depth: int) -> Candidate:
        """All of it as a candidate."""
        total = sum(self.parts.values(), Cost())
        parts = {name: cost.seconds for name, cost in self.parts.items()}
        return Candidate(order, chunk, self.terms, total, depth, parts)
