"""The clock: medians of subjects that take turns, first calls, and the rate at which this machine copies memory.

In: subjects, each a set of calls. Out: a row a subject. A subject that cannot be imported or fails gives a row that
says so, and the others go on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from ssdc.runtime.devices import wait

Call = Callable[[], object]
Phase = Literal["forward", "both", "step"]
Part = Literal["layer", "contraction", "another function"]
PHASES: tuple[Phase, ...] = ("forward", "both", "step")
ROUNDS = 3
"""Turns of each subject; each turn gives a median."""
MOST = 20
"""Calls in a burst on a CPU."""


@dataclass(frozen=True)
class Bytes:
    """What must move: inputs once and outputs once; backwards inputs and gradients of outputs in, gradients out; in a
    step the state in and out."""

    forward: int
    both: int
    step: int | None = None


@dataclass(frozen=True)
class Subject:
    """Something to measure. `both` is forward and backward; `errors` gives the relative errors (norms) of output and
    gradient against float64, None where they are not known."""

    name: str
    part: Part
    forward: Call
    both: Call
    errors: Callable[[], tuple[float | None, float | None]]
    bytes: Callable[[], Bytes]
    """Asked for after the first calls."""
    step: Call | None = None


@dataclass(frozen=True)
class Row:
    """Medians in ms, the floors (bytes that must move over the copy rate) in ms, relative errors, seconds of the first
    forward and backward pass (compilation and tuning included); `note` tells why there are none."""

    name: str
    part: Part
    forward: float | None = None
    both: float | None = None
    step: float | None = None
    forward_floor: float | None = None
    both_floor: float | None = None
    step_floor: float | None = None
    error: float | None = None
    gradient_error: float | None = None
    first: float | None = None
    note: str = ""


@dataclass
class Clock:
    """Times calls on a device: by events with caches emptied on a GPU, by the wall on a CPU.

    `burst` is about how many ms of calls one median is taken over.
    """

    device: torch.device
    burst: int = 40
    _rate: list[float] = field(default_factory=list)

    def once(self, call: Call) -> float:
        """Seconds of one call."""
        wait(str(self.device))
        begin = time.perf_counter()
        call()
        wait(str(self.device))
        return time.perf_counter() - begin

    def median(self, call: Call) -> float:
        """Milliseconds of a call: the median of a burst, or one call that takes longer than that."""
        if self.device.type != "cuda":
            times = [self.once(call) * 1e3]
            while sum(times) < self.burst and len(times) < MOST:
                times.append(self.once(call) * 1e3)
            return statistics.median(times)
        from triton.testing import do_bench  # noqa: PLC0415  Triton is not installed everywhere

        return float(do_bench(call, warmup=max(1, self.burst // 4), rep=self.burst, return_mode="median"))

    def copy_rate(self) -> float:
        """Bytes a second, read and written, of a large copy within the device's memory, measured once a clock."""
        if not self._rate:
            size = 2**30 if self.device.type == "cuda" else 2**27
            source = torch.ones(size // 4, device=self.device)
            into = torch.empty_like(source)
            into.copy_(source)
            times = [self.median(lambda: into.copy_(source)) for _ in range(5)]
            self._rate.append(2 * size / (statistics.median(times) / 1e3))
        return self._rate[0]


def measure(subjects: Iterable[Subject | Row], clock: Clock, rounds: int = ROUNDS) -> tuple[Row, ...]:
    """A row a subject, in order; all first calls come before the rounds in which subjects take turns. What is a row
    already was left out for a reason, and stays as it is."""
    known = [_Turn(one, _first(one, clock)) if isinstance(one, Subject) else _Turn(None, one) for one in subjects]
    for _ in range(rounds):
        for turn in known:
            turn.take(clock)
    return tuple(turn.result(clock) for turn in known)


@dataclass
class _Turn:
    """A subject, what is known of it, and its times."""

    subject: Subject | None
    row: Row
    times: dict[Phase, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})

    def take(self, clock: Clock) -> None:
        """Times each call once more."""
        if self.subject is None or self.row.note:
            return
        try:
            for phase in PHASES:
                call: Call | None = getattr(self.subject, phase)
                if call is not None:
                    self.times[phase].append(clock.median(call))
        except Exception as fault:  # noqa: BLE001  whatever a library raises is that row's note
            self.row = replace(self.row, note=_said(fault))

    def result(self, clock: Clock) -> Row:
        """The row with medians and floors."""
        if self.subject is None or self.row.note:
            return self.row
        forward, both, step = (statistics.median(self.times[p]) if self.times[p] else None for p in PHASES)
        moved, rate = self.subject.bytes(), clock.copy_rate() / 1e3
        return replace(
            self.row, forward=forward, both=both, step=step,
            forward_floor=moved.forward / rate, both_floor=moved.both / rate,
            step_floor=None if moved.step is None else moved.step / rate,
        )  # fmt: skip


def _first(subject: Subject, clock: Clock) -> Row:
    """The row after the first calls."""
    row = Row(subject.name, subject.part)
    try:
        first = clock.once(subject.both)
        error, gradient_error = subject.errors()
    except ImportError as missing:
        return replace(row, note=f"not installed: {missing.name or missing}")
    except Exception as fault:  # noqa: BLE001  whatever a library raises is that row's note
        return replace(row, note=_said(fault))
    return replace(row, first=first, error=error, gradient_error=gradient_error)


def _said(fault: Exception) -> str:
    lines = str(fault).strip().splitlines()
    return f"failed: {type(fault).__name__}: {lines[0][:200] if lines else 'without a word'}"
