"""The regret of the choice among forms of the kernels, with times that are made up: no GPU is asked."""

from __future__ import annotations

import pytest

from ssdc.codegen.triton import choose
from ssdc.codegen.triton.configuration import Backward, Forward
from ssdc.plan.hardware import H200
from ssdc.runtime import kernel_regret
from ssdc.runtime.kernel_regret import Shape, Taken, measure


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, the device takes 1 ms for each piece of time, backward 3, by the walk a half of that; the host 2 ms for
    a call and 1 for differentiation."""

    def forward(chosen: Forward, *_: object) -> Taken:
        return Taken(1e-3 * chosen.segments * (0.5 if chosen.form == "hopper" else 1.0), 2e-3)

    def backward(chosen: Backward, *_: object) -> Taken:
        return Taken(3e-3 * chosen.segments * (0.5 if chosen.form == "hopper" else 1.0), 2e-3)

    monkeypatch.setattr(kernel_regret, "_forward", forward)
    monkeypatch.setattr(kernel_regret, "_backward", backward)
    monkeypatch.setattr(kernel_regret, "_learned", lambda *_: Taken(0.0, 2e-3 + 2e-3 + 1e-3))
    monkeypatch.setattr(kernel_regret, "_hosts", lambda calls: [call.host for call in calls])
    monkeypatch.setattr(kernel_regret, "alone", lambda call: call.device)
    monkeypatch.setattr(kernel_regret, "_operands", lambda *_: (None,) * 5)
    monkeypatch.setattr(kernel_regret, "readable", lambda *_: True)
    monkeypatch.setattr(kernel_regret, "processors", lambda _: 132)


def test_a_cell_is_what_the_slower_of_device_and_host_takes(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = choose.forward
    monkeypatch.setattr(choose, "forward", lambda *given, **named: real(*given, **named, form="parallel", segments=4))
    forward, both = measure(Shape(1, 8192, 16, 64, 64), H200)
    assert (forward.mode, both.mode) == ("forward", "both")
    times = {one.name: one.seconds for one in forward.timings}
    assert times["walk"] == times["hopper"] == 2e-3, "the host's"
    assert times["parallel(4)"] == 4e-3 and times["hopper(16)"] == 8e-3, "the device's"
    assert forward.timings[0].name == "parallel(4)" and forward.regret == 2.0
    assert "recurrent" not in times
    pairs = {one.name: one.seconds for one in both.timings}
    assert pairs["walk, back parallel"] == 5e-3, "the host's, and what differentiation takes"
    assert pairs["parallel(4), back parallel(4)"] == pytest.approx(16e-3)
    assert all(one.predicted > 0 for one in (*forward.timings, *both.timings))


def test_the_choice_comes_first(made_up: None) -> None:
    for shape in (Shape(1, 64, 16, 256, 256), Shape(16, 8192, 64, 128, 64, 8)):
        for cell in measure(shape, H200):
            assert cell.timings[0].predicted <= 1.5 * min(one.predicted for one in cell.timings)
            assert len({one.name for one in cell.timings}) == len(cell.timings)
