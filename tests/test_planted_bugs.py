"""Bugs planted in generated text: comparing with the reference finds each of them, and nothing in the text as it is.

A bug is one textual change of one statement, such as a sign, an offset or a missing decay. Text that runs and is wrong
must be told from text that is right by the very comparison that the other numeric tests make.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ssdc import pipeline
from ssdc.runtime import programs
from tests.support.compare import check, fourier, tolerance
from tests.support.programs import (
    CASES,
    Case,
    at,
    compiled,
    cut,
    draw_inputs,
    output_times,
    reference,
    time_dims,
    tuple_of,
)

CASE: Mapping[str, Case] = {case.name: case for case in CASES}
LENGTH, CUT = 75, 37


@dataclass(frozen=True)
class Bug:
    """Replace the first (`last`: the last) match of `found` in `function` by `planted`."""

    name: str
    program: str
    order: str
    found: str
    planted: str
    function: str = "contraction0"
    last: bool = False

    def plant(self, text: str) -> str:
        """The text with the bug; AssertionError where it has no such statement."""
        start = text.index(f"def {self.function}(")
        end = text.find("\ndef ", start)
        body = text[start : end if end >= 0 else len(text)]
        matches = list(re.finditer(self.found, body))
        assert matches, f"the text has no statement like {self.found!r}: choose another bug\n{body}"
        match = matches[-1 if self.last else 0]
        wrong = match.expand(self.planted)
        assert wrong != match[0]
        return text[: start + match.start()] + wrong + text[start + match.end() :]


BUGS = (
    # the mask within a chunk
    Bug("the diagonal lost", "ssd", "chunked", r">= 0", ">= 1"),
    Bug("a look ahead", "ssd", "quadratic", r">= 0", ">= -1"),
    Bug("the diagonal of a strict mask", "hydra", "chunked", r">= 1", ">= 0"),
    Bug("a gate too many for a strict reader", "hydra", "quadratic", r"segment\((v\d+), (v\d+)", r"segment(\2, \2"),
    Bug("no decay within a chunk", "ssd", "chunked", r"segment\((v\d+), (v\d+)", r"segment(0 * \1, 0 * \2"),
    Bug("decays the wrong way round", "gla", "chunked", r"segment\((v\d+), \1", r"segment(-\1, -\1"),
    Bug("the next block of a chunk", "gla", "chunked", r"< starts", "<= starts"),
    # what passes from chunk to chunk
    Bug("no decay to the end of a chunk", "ssd", "chunked", r"decay\((v\d+\[\.\.\., -1:\])", r"decay(0 * \1"),
    Bug("the first decay for all of a chunk", "ssd", "chunked", r"\[\.\.\., -1\], dtype", "[..., 0], dtype"),
    Bug("no decay from the start of a chunk", "ssd", "chunked", r"= decay\((v\d+), dtype\)", r"= decay(0 * \1, dtype)"),
    Bug("the state of a chunk seen by itself", "ssd", "chunked", r"entering = .*", "entering = states"),
    Bug("the state before the last position", "gla", "chunked", r"final = states\[-1\]", "final = states[0]"),
    Bug("padding that forgets", "plain_gates", "chunked", r"value=1\.0", "value=0.0"),
    # recurrences and scans
    Bug("a gate forgotten", "mamba", "recurrent", r"gate = (v\d+)", r"gate = \1 * 0 + 1"),
    Bug("a state not taken over", "rwkv6", "recurrent", r"initial = (.*)", r"initial = 0 * \1"),
    Bug("a reader's own gate", "rwkv6", "recurrent", r"reader_gate = .*", "reader_gate = gate"),
    Bug("a scan that starts from nothing", "mamba", "scan", r"update, state\)", "update, 0 * state)"),
    # convolutions and windows
    Bug("a convolution that wraps around", "h3", "fft", r"count = length \+ .*", "count = length", "contraction1"),
    Bug("a kernel the other way round", "mamba2", "direct", r"- 1 - lag\)", "- 1 - (3 - lag))"),
    Bug("a window one short", "packed_window", "direct", r"range\(0, 20\)", "range(0, 19)"),
    Bug("one value of a window too old", "packed_window", "direct", r"19 - lag, length", "18 - lag * 18 // 19, length"),
    Bug("a decay one step too long", "packed_window", "direct", r"gate \* lag", "gate * (lag + 1)"),
    Bug("documents that leak", "packed_window", "direct", r" == (d0.*narrow)", r" >= \1"),
    # time running backwards
    Bug("a writer not turned round", "hydra", "chunked", r"    w0 = w0\.flip\(1\)\n", "", "contraction1"),
    Bug("a result not turned round", "hydra", "chunked", r"(v\d+) = (\w+)\.flip\(1\)\n", r"\1 = \2\n", "contraction1"),
    # everything around the contractions
    Bug("a sign", "ssd", "chunked", r"= y0 \+ ", "= y0 - ", "forward"),
    Bug("a gate that grows", "mamba", "scan", r"= -(v\d+)\n", r"= \1\n", "forward"),
    Bug(
        "a lag of nothing", "lags_and_places", "recurrent", r"narrow\(1, 0, length\)", "narrow(1, 1, length)", "forward"
    ),
    Bug(
        "a part cut one place off",
        "mamba2",
        "chunked",
        r"narrow\(2, \((2 \* 2 \* 4)\), 36",
        r"narrow(2, (\1 + 1), 36",
        "forward",
    ),
    Bug("the wrong column", "linear_attention", "chunked", r"select\(3, 3\)", "select(3, 2)", "forward"),
    Bug("attention that looks ahead", "attention", "auto", r"lag >= 0", "lag >= -1", "forward"),
    Bug(
        "a history forgotten",
        "packed_window",
        "direct",
        r"tail\((\w+), 1, 19,",
        r"tail(0 * \1, 1, 19,",
        "forward",
    ),
    # one step
    Bug(
        "a step without its gate",
        "ssd",
        "chunked",
        r"addcmul\((v\d+), (v\d+)",
        r"addcmul(\1, torch.ones_like(\2)",
        "step",
    ),
    Bug(
        "a window that does not move on",
        "packed_window",
        "direct",
        r"narrow\(1, 1, 18\)",
        "narrow(1, 0, 18)",
        "step",
        True,
    ),
    Bug(
        "a strict step that sees itself",
        "rwkv6",
        "recurrent",
        r"(v\d+)( = torch\.addcmul[^\n]*\n[^\n]*, )s0,",
        r"\1\2\1,",
        "step",
    ),
)


@pytest.fixture
def planting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Bug | None], None]]:
    """`planting(bug)`: generated text has the bug from now on; None takes it out."""
    render = programs.render

    def plant(bug: Bug | None) -> None:
        def written(*arguments: Any, **keywords: Any) -> str:
            text = render(*arguments, **keywords)
            return text if bug is None else bug.plant(text)

        monkeypatch.setattr(programs, "render", written)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield plant
    torch.set_num_threads(before)


def compare(program: str, order: str) -> None:
    """A whole call, the same call cut in two, and steps, each against the reference. Raises AssertionError."""
    case = CASE[program]
    x = draw_inputs(case, LENGTH)
    wanted, magnitude = map(tuple_of, reference(case).bounds(**x, products=case.steady))
    bounds = [
        tolerance(y, m) + fourier(m, d, case.grown)
        for y, m, d in zip(wanted, magnitude, output_times(case), strict=True)
    ]
    times = [d if d is not None else 0 for d in output_times(case)]

    def alike(outputs: object, start: int, end: int, what: str) -> None:
        for y, w, m, dim in zip(tuple_of(outputs), wanted, bounds, times, strict=True):
            check(y, w.narrow(dim, start, end - start), m.narrow(dim, start, end - start), what)

    layer = compiled(case, order if order == "auto" else orders_of(case, order))
    alike(layer(**x), 0, LENGTH, "whole")
    if not layer.causal:
        return
    first, state = layer(**cut(case, x, 0, CUT), return_state=True)
    alike(first, 0, CUT, "first part")
    second, _ = layer(**cut(case, x, CUT, LENGTH), state=state, return_state=True)
    alike(second, CUT, LENGTH, "second part")
    for place in range(CUT, CUT + 3):
        one, state = layer.step(state, **at(case, x, place))
        outputs = tuple(y.unsqueeze(d) for y, d in zip(tuple_of(one), times, strict=True))
        alike(outputs, place, place + 1, f"step {place}")


def orders_of(case: Case, order: str) -> dict[str, str]:
    """The order for each equation that admits it."""
    checked = pipeline.check(case.path, None, case.sizes, lenient=False)
    choices = pipeline.plan(checked, {"b": 2, checked.graph.reader: LENGTH}).choices
    legal = {name: {c.order for c in (choice.chosen, *choice.rivals)} for name, choice in choices.items()}
    assert any(order in found for found in legal.values())
    return {name: order for name, found in legal.items() if order in found}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.program} {bug.name}")
def test_every_planted_bug_is_found(bug: Bug, planting: Callable[[Bug | None], None]) -> None:
    output_times(CASE[bug.program])  # these two compile the layer for themselves, in other orders
    time_dims(CASE[bug.program])
    planting(bug)
    with pytest.raises(AssertionError, match=r"elements are outside their bound"):
        compare(bug.program, bug.order)


@pytest.mark.parametrize("program, order", sorted({(bug.program, bug.order) for bug in BUGS}))
def test_nothing_is_found_in_the_text_as_it_is(
    program: str, order: str, planting: Callable[[Bug | None], None]
) -> None:
    planting(None)
    compare(program, order)


def test_a_bug_that_cannot_be_planted_is_told() -> None:
    bug = Bug("no such statement", "ssd", "chunked", r"segment_of_nothing", "")
    with pytest.raises(AssertionError, match="choose another bug"):
        bug.plant("def contraction0(r0):\n    return r0\n")
