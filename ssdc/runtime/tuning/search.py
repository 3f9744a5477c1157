"""The search: rounds of candidates from the best so far, each in a process of its own, then the best in turn with the
cost model's.

In: a case, and a way to run a function apart. Out: what was tried, and what wins, if it is faster by more than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ssdc.runtime.tuned import Choice, hardware
from ssdc.runtime.tuning.candidates import ROUNDS, Round
from ssdc.runtime.tuning.trial import Case, Rejected, Timed, duel, trial

WORTH = 0.98
"""The share of the rule's time that a winner may take at most."""
FINALISTS = 3

Apart = Callable[[Callable[..., object], tuple[object, ...]], object]
"""Runs a function in a process of its own: what it returns, or Rejected where the process ended or took too long."""


@dataclass(frozen=True)
class Tried:
    """A candidate and what came of it."""

    choice: Choice
    result: Timed | Rejected


@dataclass(frozen=True)
class Outcome:
    """What a search found: the rule's choice, all that was tried (the rule first), and the winner, with times in ms
    from calls in turn, or None where the rule's choice stays."""

    rule: Choice
    tried: tuple[Tried, ...]
    winner: Choice | None = None
    ms: float | None = None
    rule_ms: float | None = None

    @property
    def rejected(self) -> tuple[tuple[Choice, str], ...]:
        """Candidates that do not count, and why."""
        found = ((one.choice, one.result) for one in self.tried)
        return tuple((choice, result.reason) for choice, result in found if isinstance(result, Rejected))


def search(case: Case, apart: Apart, most: int, rounds: Sequence[Round] | None = None) -> Iterator[Tried | Outcome]:
    """Each candidate as it is tried, at most `most` of them in turn over the rounds, and last the outcome."""
    rule = case.request.rule(hardware(case.torch_device))
    tried = [_tried(case, rule, apart)]
    yield tried[0]
    known, left = {rule}, most
    moves = ROUNDS[case.request.kind] if rounds is None else rounds
    for place, move in enumerate(moves):
        share = max(1, left // (len(moves) - place))
        for choice in move(case.request, _best(tried) or rule):
            if choice in known or not share or not left:
                continue
            known.add(choice)
            tried.append(_tried(case, choice, apart))
            yield tried[-1]
            share, left = share - 1, left - 1
    yield _decided(case, rule, tried, apart)


def _tried(case: Case, choice: Choice, apart: Apart) -> Tried:
    found = apart(trial, (case, choice))
    assert isinstance(found, Timed | Rejected)
    return Tried(choice, found)


def _ranked(tried: Sequence[Tried]) -> list[Choice]:
    """Candidates that count, fastest first."""
    right = [(one.result.ms, place) for place, one in enumerate(tried) if isinstance(one.result, Timed)]
    return [tried[place].choice for _, place in sorted(right)]


def _best(tried: Sequence[Tried]) -> Choice | None:
    return next(iter(_ranked(tried)), None)


def _decided(case: Case, rule: Choice, tried: Sequence[Tried], apart: Apart) -> Outcome:
    """The outcome, by the times of the rule's choice and the best others in turn."""
    finalists = [choice for choice in _ranked(tried) if choice != rule][:FINALISTS]
    if not finalists:
        return Outcome(rule, tuple(tried))
    right = isinstance(tried[0].result, Timed)
    times = apart(duel, (case, [*([rule] if right else []), *finalists]))
    if not isinstance(times, tuple):
        return Outcome(rule, tuple(tried))
    rule_ms = times[0] if right else float("inf")
    ms, place = min((ms, place) for place, ms in enumerate(times[1:] if right else times))
    if ms > WORTH * rule_ms:
        return Outcome(rule, tuple(tried), rule_ms=rule_ms)
    return Outcome(rule, tuple(tried), finalists[place], ms, rule_ms if right else None)
