"""The planner's choices, and its predictions, against times that were measured once (`measured/*.json`).

Of programs: [program, layer, sizes, batch, length, contraction, mode, {candidate: milliseconds}], as `ssdc bench
--planner` measures them; of the Triton kernels: [[batch, length, heads, states, columns, heads that share a query and
key], {form(pieces of time): microseconds of the device}, the same of backward passes].
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import exp, inf, log
from pathlib import Path
from typing import Any

import pytest

from ssdc import pipeline
from ssdc.codegen.triton import choose, pricing
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts
from ssdc.graph.graph import Graph
from ssdc.plan.hardware import CPU, H200, Hardware
from ssdc.plan.planner import ASKED_ONLY, plan

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Found:
    """Of one call: regret, and predicted over measured time of the choice and of all that is near the best."""

    regret: float
    accuracy: float
    near: tuple[float, ...]


@dataclass(frozen=True)
class Bounds:
    """Of a record: the geometric mean and the worst of regret, and the least shares of regrets within 1.25 and of
    predictions within 1.5 times."""

    mean: float
    worst: float
    within: float
    accurate: float

    def check(self, found: list[Found]) -> None:
        regrets = [one.regret for one in found]
        assert exp(sum(map(log, regrets)) / len(regrets)) <= self.mean
        assert max(regrets) <= self.worst
        assert sum(regret <= 1.25 for regret in regrets) >= self.within * len(regrets)
        assert sum(1 / 1.5 <= one.accuracy <= 1.5 for one in found) >= self.accurate * len(found)


def record(name: str) -> list[Any]:
    text: list[Any] = json.loads((Path(__file__).parent / "measured" / f"{name}.json").read_text())
    return text


@cache
def graph(program: str, layer: str, sizes: tuple[tuple[str, int], ...]) -> Graph:
    return pipeline.check(EXAMPLES / f"{program}.ssd", layer, dict(sizes), lenient=False).graph


@cache
def programs(name: str, machine: Hardware) -> list[Found]:
    found = []
    for program, layer, sizes, batch, length, equation, mode, times in record(name):
        made = graph(program, layer, tuple(sizes.items()))
        choice = plan(made, {"b": batch, made.reader: length}, hardware=machine, mode=mode).choices[equation]
        offered = [one for one in (choice.chosen, *choice.rivals) if one.order not in ASKED_ONLY]
        ratios = {one.title: 1e3 * one.cost.seconds / times.get(one.title, inf) for one in offered}
        best, chosen = min(times.values()), choice.chosen.title
        near = tuple(ratios[title] for title, time in times.items() if time < 3 * best and title in ratios)
        found.append(Found(times.get(chosen, inf) / best, ratios[chosen], near))
    return found


RECORDS = {
    "cpu": (CPU.limited(1), Bounds(1.05, 1.8, 0.98, 0.9)),
    "cpu_1": (CPU.limited(1), Bounds(1.05, 1.25, 1.0, 0.9)),
    "cpu_2": (CPU.limited(2), Bounds(1.05, 1.25, 1.0, 0.9)),
    "cpu_wide": (CPU.limited(1), Bounds(1.05, 1.7, 0.96, 0.9)),
    "h200": (H200, Bounds(1.05, 1.25, 1.0, 0.9)),
}
"""A grid of its own on one core of the machine of the shipped CPU profile; on another such machine the quick grid on
one core and on two, and the full grid of five programs on one; the quick grid on an H200, of what the kernels do not
serve."""


@pytest.mark.parametrize("name", RECORDS)
def test_programs_run_in_nearly_their_fastest_orders(name: str) -> None:
    machine, bounds = RECORDS[name]
    found = programs(name, machine)
    assert len(found) > 100
    bounds.check(found)


@pytest.mark.parametrize("name", RECORDS)
def test_candidates_near_the_best_take_about_what_is_predicted(name: str) -> None:
    near = sorted(ratio for one in programs(name, RECORDS[name][0]) for ratio in one.near)
    assert 0.85 <= near[len(near) // 2] <= 1.15
    assert sum(0.5 <= ratio <= 2 for ratio in near) >= 0.9 * len(near)


HOST = {
    "walk": (30, 30), "recurrent": (31, 31), "parallel": (43, 60), "segments": (51, 51), "hopper": (41, 67)
}  # fmt: skip
HOST_BACK = {"parallel": (109, 139), "hopper": (114, 154)}
SHARED, TURN = 40, 400
"""Microseconds of the H200's host, the median over all shapes: of a form, in one piece of time and in
several; backward; more where heads share a query and key; and of differentiation besides."""


def test_kernels_run_in_nearly_their_fastest_forms() -> None:
    """A call takes what the slower of device and host does. Where gradients are wanted, the sum of both passes."""
    found = []
    for (batch, length, heads, states, columns, shared), forward, backward in record("kernels_h200"):
        facts = Facts("bfloat16", states, columns, "varying")
        call = Call(batch * heads, length, shared, 132, initial=False, gradient=False, engine=True)
        chosen, after = choose.forward(facts, call), choose.backward(facts, call, True)
        hosts = {name: _host(name, HOST) for name in forward}
        backs = {name: _host(name, HOST_BACK) + (SHARED if shared > 1 else 0) for name in backward}
        times = {name: max(device, hosts[name]) for name, device in forward.items()}
        taken = times[f"{chosen.form}({chosen.segments})"]
        predicted = 1e6 * pricing.candidate(facts, call, chosen, H200).cost.seconds
        found.append(Found(taken / min(times.values()), predicted / taken, ()))
        pairs = {
            (one, two): max(forward[one] + backward[two], hosts[one] + backs[two] + TURN)
            for one in forward
            for two in backward
        }
        taken = pairs[f"{chosen.form}({chosen.segments})", f"{after.form}({after.segments})"]
        predicted = 1e6 * pricing.candidate(facts, call, chosen, H200, after).cost.seconds
        found.append(Found(taken / min(pairs.values()), predicted / taken, ()))
    assert len(found) > 100
    Bounds(1.05, 1.25, 1.0, 0.95).check(found)


def _host(name: str, table: dict[str, tuple[int, int]]) -> int:
    form, pieces = name[:-1].split("(")
    return table[form][int(pieces) > 1]
