"""Memory limits: which candidates to take so that a layer's temporaries and states fit, and cost least.

In: what each contraction could be, and a limit in bytes. Out: one candidate a contraction, or PlanError. Workspaces
are predictions: all temporaries of a contraction, and with gradients what is kept for the way back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ssdc.errors import PlanError
from ssdc.plan.candidate import Candidate

SCALES: Mapping[str, float] = {"": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20,
                               "GIB": 2**30, "TIB": 2**40}  # fmt: skip
"""Units of memory."""


@dataclass(frozen=True)
class Options:
    """The bytes of a contraction's state, and the candidates that may be chosen."""

    state: int
    candidates: tuple[Candidate, ...]


def bytes_of(limit: int | str) -> int:
    """A limit in bytes, from a number or a text with a unit. Raises PlanError.

    >>> bytes_of("2GB"), bytes_of("512 MiB"), bytes_of(4096)
    (2000000000, 536870912, 4096)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)\s*", str(limit).upper())
    unit = match[2] if match else "?"
    scale = SCALES.get(unit if unit.endswith("B") and unit != "B" else unit.removesuffix("B"))
    if match is None or scale is None or isinstance(limit, bool) or float(match[1]) <= 0:
        raise PlanError(f"memory_limit is {limit!r}, and needs to be bytes, or a text such as '2GB' or '512MiB'")
    return int(float(match[1]) * scale)


def within(layer: str, options: Mapping[str, Options], limit: int, *, together: bool) -> dict[str, Candidate]:
    """The candidates, by contraction, that cost least of those that fit into `limit` bytes.

    `together` tells that temporaries of all contractions are held at once, as they are when gradients follow. Raises
    PlanError with what the least needs where nothing fits.
    """
    states = sum(one.state for one in options.values())
    front: list[tuple[float, float, tuple[Candidate, ...]]] = [(0.0, 0.0, ())]
    for one in options.values():
        grown = []
        for held, seconds, picked in front:
            for candidate in one.candidates:
                workspace = candidate.cost.workspace
                total = held + workspace if together else max(held, workspace)
                grown.append((total, seconds + candidate.cost.seconds, (*picked, candidate)))
        front = _front(grown)
    fitting = [entry for entry in front if entry[0] + states <= limit]
    if not fitting:
        least = min(front, key=lambda entry: entry[0])
        forms = ", ".join(f"'{name}' {candidate.title}" for name, candidate in zip(options, least[2], strict=True))
        raise PlanError(
            f"{layer} does not fit into {limit:,} bytes in any of its orderings: the least needs "
            f"{int(least[0] + states):,} ({forms}), {states:,} of them states"
        )
    return dict(zip(options, min(fitting, key=lambda entry: entry[1])[2], strict=True))


def _front(
    entries: list[tuple[float, float, tuple[Candidate, ...]]],
) -> list[tuple[float, float, tuple[Candidate, ...]]]:
    """Those that no other entry beats in both memory and time."""
    kept: list[tuple[float, float, tuple[Candidate, ...]]] = []
    for entry in sorted(entries, key=lambda one: one[:2]):
        if not kept or entry[1] < kept[-1][1]:
            kept.append(entry)
    return kept
