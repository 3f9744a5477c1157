"""The planner's choices, and its predictions, against times that were measured once (`measured/*.json`).

Of programs: [program, layer, sizes, batch, length, contraction, mode, {candidate: milliseconds}], as `ssdc bench
--planner` measures them; of the Triton kernels: [[batch, length, heads, states, columns, heads that share a query and
key], {form(pieces of time): microseconds of the device}, the same of backward passes].
"""

from __future__ import annotations

import json
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import pytest

from ssdc import pipeline
from ssdc.codegen.triton import choose, pricing
from ssdc.codegen.triton.configuration import Backward, Call, Forward
from ssdc.codegen.triton.facts import Facts
from ssdc.graph.graph import Graph
from ssdc.plan.candidate import Candidate
from ssdc.plan.hardware import CPU, H200, Hardware
from ssdc.plan.planner import ASKED_ONLY, plan
from ssdc.runtime.regret import Cell, Summary, Timing, summary

EXAMPLES = Path(__file__).parents[2] / "examples"


def check(cells: list[Cell], bounds: Summary) -> None:
    """At least as many cells as `bounds` has, and figures as good."""
    found = summary(cells)
    assert found.cells >= bounds.cells
    assert found.mean <= bounds.mean
    assert found.worst <= bounds.worst
    assert found.within >= bounds.within
    assert found.accurate >= bounds.accurate


def record(name: str) -> list[Any]:
    text: list[Any] = json.loads((Path(__file__).parent / "measured" / f"{name}.json").read_text())
    return text


@cache
def graph(program: str, layer: str, sizes: tuple[tuple[str, int], ...]) -> Graph:
    return pipeline.check(EXAMPLES / f"{program}.ssd", layer, dict(sizes), lenient=False).graph


@cache
def programs(name: str, machine: Hardware) -> list[Cell]:
    """The cells of a record as planned for a machine, the choice first, in ms; what is not offered any more comes last,
    without a prediction."""
    found = []
    for program, layer, sizes, batch, length, equation, mode, times in record(name):
        made = graph(program, layer, tuple(sizes.items()))
        choice = plan(made, {"b": batch, made.reader: length}, hardware=machine, mode=mode).choices[equation]
        offered = [one for one in (choice.chosen, *choice.rivals) if one.order not in ASKED_ONLY]
        predicted = {one.title: 1e3 * one.cost.seconds for one in offered}
        timings = [Timing(title, price, times.get(title)) for title, price in predicted.items()]
        timings += [Timing(title, inf, time) for title, time in times.items() if title not in predicted]
        assert timings[0].seconds is not None, (name, program, equation, sizes, timings[0].name)
        found.append(Cell(layer, equation, sizes, mode, tuple(timings)))
    return found


RECORDS = {
    "cpu": (CPU.limited(1), Summary(101, 1.05, 1.8, 0.98, 0.9)),
    "cpu_1": (CPU.limited(1), Summary(101, 1.05, 1.25, 1.0, 0.9)),
    "cpu_2": (CPU.limited(2), Summary(101, 1.05, 1.25, 1.0, 0.9)),
    "cpu_wide": (CPU.limited(1), Summary(101, 1.05, 1.7, 0.96, 0.9)),
    "h200": (H200, Summary(101, 1.05, 1.25, 1.0, 0.9)),
}
"""A grid of its own on one core of the machine of the shipped CPU profile; on another such machine the quick grid on
one core and on two, and the full grid of five programs on one; the quick grid on an H200, of what the kernels do not
serve."""


@pytest.mark.parametrize("name", RECORDS)
def test_programs_run_in_nearly_their_fastest_orders(name: str) -> None:
    machine, bounds = RECORDS[name]
    check(programs(name, machine), bounds)


@pytest.mark.parametrize("name", RECORDS)
def test_candidates_near_the_best_take_about_what_is_predicted(name: str) -> None:
    near = sorted(
        one.predicted / one.seconds
        for cell in programs(name, RECORDS[name][0])
        for one in cell.timings
        if one.seconds is not None and one.predicted < inf and one.seconds < 3 * (cell.best.seconds or 0.0)
    )
    assert 0.85 <= near[len(near) // 2] <= 1.15
    assert sum(0.5 <= ratio <= 2 for ratio in near) >= 0.9 * len(near)


HOST = {
    "walk": (24, 24), "recurrent": (24, 24), "parallel": (32, 44), "segments": (39, 39), "hopper": (27, 43)
}  # fmt: skip
HOST_BACK = {"parallel": (86, 104), "hopper": (64, 93)}
SHARED, TURN = 45, 430
"""Microseconds of the H200's host while it is quiet, about the median of four of them: of a form, in one piece of time
and in several; backward; more where heads share a query and key; and of differentiation besides."""
SPEEDS = (0.75, 1.0, 1.25)
"""How long a host takes, over that: some took as little, and most of them, most of the time, no longer."""


@pytest.mark.parametrize("speed", SPEEDS)
def test_kernels_run_in_nearly_their_fastest_forms(speed: float) -> None:
    """A call takes what the slower of device and host does. Where gradients are wanted, the sum of both passes."""
    cells = []
    for (batch, length, heads, states, columns, shared), forward, backward in record("kernels_h200"):
        facts = Facts("bfloat16", states, columns, "varying")
        call = Call(batch * heads, length, shared, 132, initial=False, gradient=False, engine=True)
        chosen, after = choose.forward(facts, call), choose.backward(facts, call, True)
        hosts = {name: speed * _host(name, HOST) for name in forward}
        backs = {name: speed * (_host(name, HOST_BACK) + (SHARED if shared > 1 else 0)) for name in backward}
        times = {name: max(device, hosts[name]) for name, device in forward.items()}
        cells.append(_cell(times, _name(chosen), pricing.candidate(facts, call, chosen, H200)))
        pairs = {
            f"{one}, {two}": max(forward[one] + backward[two], hosts[one] + backs[two] + speed * TURN)
            for one in forward
            for two in backward
        }
        both = pricing.candidate(facts, call, chosen, H200, after)
        cells.append(_cell(pairs, f"{_name(chosen)}, {_name(after)}", both))
    check(cells, Summary(101, 1.05, 1.25, 1.0, 0.95))


def _name(chosen: Forward | Backward) -> str:
    return f"{chosen.form}({chosen.segments})"


def _cell(times: dict[str, float], chosen: str, price: Candidate) -> Cell:
    """What was measured, in us, the choice first; only its prediction is asked for."""
    first = Timing(chosen, 1e6 * price.cost.seconds, times[chosen])
    return Cell("kernels", "", {}, "forward", (first, *(Timing(name, 0.0, taken) for name, taken in times.items())))


def _host(name: str, table: dict[str, tuple[int, int]]) -> int:
    form, pieces = name[:-1].split("(")
    return table[form][int(pieces) > 1]
