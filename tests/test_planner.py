"""Plans: by mode and machine, within memory limits, by measured profiles; and how choices are measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

import ssdc
from ssdc import pipeline
from ssdc.cli.calibrate import SMALL
from ssdc.cli.main import app
from ssdc.cli.regret import QUICK
from ssdc.codegen.triton.configuration import Call, chunk_of, forward
from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.pricing import candidate
from ssdc.errors import PlanError
from ssdc.plan import profiles
from ssdc.plan.hardware import CPU, H200, HARDWARE
from ssdc.plan.memory import bytes_of
from ssdc.plan.planner import ASKED_ONLY, Plan, plan
from ssdc.runtime import calibration, regret
from ssdc.runtime.samples import sample_inputs

EXAMPLES = Path(__file__).parent.parent / "examples"
SSD = EXAMPLES / "ssd.ssd"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A directory for measured profiles, and nothing that forces one that ships."""
    monkeypatch.delenv("SSDC_PROFILE", raising=False)
    monkeypatch.setenv("SSDC_PROFILE_DIR", str(tmp_path / "profiles"))
    profiles._chosen.cache_clear()
    yield tmp_path / "profiles"
    profiles._chosen.cache_clear()


def planned(program: str, sizes: dict[str, int], **options: object) -> Plan:
    checked = pipeline.check(EXAMPLES / f"{program}.ssd", sizes=sizes)
    call = pipeline.call_sizes(checked, **{"b": 1, "T": 2048, **options.pop("call", {})})  # type: ignore[arg-type]
    return plan(checked.graph, call, **options)  # type: ignore[arg-type]


# ---- modes and machines ----------------------------------------------------------------------------------------------


def test_gradients_and_steps_are_planned_apart() -> None:
    sizes = {"H": 4, "N": 64, "P": 64}
    forward, both, step = (planned("retention", sizes, mode=mode) for mode in ("forward", "both", "step"))
    assert (forward.mode, both.mode, step.mode) == ("forward", "both", "step")
    assert step.seconds < 0.05 * forward.seconds < 0.05 * both.seconds
    for choice in both.choices.values():
        cheaper = forward.choices[choice.problem.name]
        prices = {one.title: one.cost for one in (cheaper.chosen, *cheaper.rivals)}
        for one in (choice.chosen, *choice.rivals):
            assert one.cost.seconds > prices[one.title].seconds
            assert one.cost.workspace >= prices[one.title].workspace
    assert step.sizes["t"] == 1
    assert [choice.chosen.order for choice in step.choices.values()] == ["recurrent"]


def test_a_step_does_not_depend_on_the_length() -> None:
    prices = [planned("ssd", {"H": 4}, mode="step", call={"T": length}).seconds for length in (1, 8192)]
    assert prices[0] == prices[1]


def test_a_call_with_gradients_runs_what_is_planned_for_it() -> None:
    """Sizes for which the two plans differ, so that the texts do."""
    layer = next(
        made
        for width in (8, 16, 32, 64)
        if (made := ssdc.compile(EXAMPLES / "gla.ssd", sizes={"H": 2, "N": width, "P": width}))
        and made.plan(T=64).orders != made.plan("both", T=64).orders
    )
    inputs = sample_inputs(layer, b=1, T=64)
    names = {}
    for mode in ("forward", "both"):
        with torch.set_grad_enabled(mode == "both"):
            leaves = {name: x.clone().requires_grad_(mode == "both") for name, x in inputs.items()}
            assert layer(**leaves).requires_grad == (mode == "both")
        names[mode] = {key: module.__dict__["TEXT"] for key, module in layer._programs._made.items() if mode in key}
    titles = [layer.plan(mode, T=64).orders["y"] for mode in ("forward", "both")]
    assert titles[0] != titles[1]
    assert any(f"Contraction 0: {titles[1]}" in text for text in names["both"].values())


@pytest.mark.parametrize("name", HARDWARE)
def test_every_profile_plans_every_example(name: str) -> None:
    for path in sorted(EXAMPLES.glob("*.ssd")):
        if path.stem == "deltanet":
            continue
        layer = pipeline.parse(pipeline.read(path)).layers[-1]
        sizes = {one.name: 4 if one.name == "H" else 32 for one in layer.sizes if one.default is None}
        checked = pipeline.check(path, sizes=sizes)
        found = plan(checked.graph, pipeline.call_sizes(checked, b=2, T=1024), hardware=HARDWARE[name])
        for choice in found.choices.values():
            for one in (choice.chosen, *choice.rivals):
                assert 0 < one.cost.seconds < float("inf")
                assert set(one.parts) == set(one.bounds)
                assert one.cost.seconds <= sum(one.parts.values()) * (1 + 1e-9)


def test_a_fast_machine_waits_for_starts() -> None:
    found = planned("ssd", {"H": 8}, hardware=H200, call={"T": 256}).choices["y:1"].chosen
    assert found.bound == "launches"
    assert found.cost.seconds < planned("ssd", {"H": 8}, call={"T": 256}).choices["y:1"].chosen.cost.seconds


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_limit_keeps_to_what_fits_and_says_what_the_least_needs() -> None:
    free = planned("ssd", {"H": 8})
    assert free.memory_limit is None
    most = int(free.choices["y:1"].chosen.cost.workspace)
    tight = planned("ssd", {"H": 8}, memory_limit=most // 4)
    assert tight.choices["y:1"].chosen.cost.workspace <= most // 4
    assert tight.seconds > free.seconds
    with pytest.raises(PlanError, match=r"ssd does not fit into 1,000 bytes in any of its orderings") as caught:
        planned("ssd", {"H": 8}, memory_limit=1000)
    least = int(re.search(r"the least needs ([\d,]+)", str(caught.value))[1].replace(",", ""))  # type: ignore[index]
    assert planned("ssd", {"H": 8}, memory_limit=least + 1).memory_limit == least + 1
    with pytest.raises(PlanError):
        planned("ssd", {"H": 8}, memory_limit=least - 1)


def test_a_limit_never_changes_what_was_asked_for() -> None:
    order = planned("ssd", {"H": 8}, order="quadratic")
    most = int(order.choices["y:1"].chosen.cost.workspace)
    with pytest.raises(PlanError, match="'y:1' quadratic"):
        planned("ssd", {"H": 8}, order="quadratic", memory_limit=most // 2)


def test_contractions_share_a_limit_where_gradients_keep_their_temporaries() -> None:
    """All of what is held is counted with gradients, the largest without."""
    for mode in ("forward", "both"):
        free = planned("hydra", {"H": 4, "N": 32, "P": 32}, mode=mode)
        spaces = [choice.chosen.cost.workspace for choice in free.choices.values()]
        states = sum(4 * choice.problem.count(choice.problem.state) for choice in free.choices.values())
        need = int(sum(spaces) if mode == "both" else max(spaces)) + states + 1
        same = planned("hydra", {"H": 4, "N": 32, "P": 32}, mode=mode, memory_limit=need)
        assert same.orders == free.orders
        less = planned("hydra", {"H": 4, "N": 32, "P": 32}, mode=mode, memory_limit=need - 1000)
        assert less.seconds > free.seconds


@pytest.mark.parametrize("limit", ["", "2 parsecs", "-1", "0", "GB", True, -5, 0])
def test_a_limit_that_is_none(limit: object) -> None:
    with pytest.raises(PlanError, match="memory_limit is"):
        bytes_of(limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "count"), [("1kb", 1000), ("1.5 GB", 15 * 10**8), ("2MiB", 2**21), ("17", 17), (3, 3)]
)
def test_a_limit_with_a_unit(text: str | int, count: int) -> None:
    assert bytes_of(text) == count


def test_a_layer_keeps_its_limit_at_every_length() -> None:
    layer = ssdc.compile(SSD, sizes={"H": 8}, memory_limit="12MB")
    inputs = sample_inputs(layer, b=1, T=200)
    with torch.no_grad():
        layer(**inputs)
    with torch.no_grad(), pytest.raises(PlanError, match="does not fit into 12,000,000 bytes"):
        layer(**sample_inputs(layer, b=1, T=9000))


class Allocated(TorchDispatchMode):
    """Adds up the bytes of every new storage."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.seen = 0, set[int]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.bytes += x.untyped_storage().nbytes()
        return found


@pytest.mark.parametrize("program", ["ssd", "retention", "linear_attention", "gla"])
@pytest.mark.parametrize("order", ["chunked", "quadratic"])
def test_predicted_workspaces_are_near_what_is_allocated(program: str, order: str) -> None:
    layer = pipeline.parse(pipeline.read(EXAMPLES / f"{program}.ssd")).layers[-1]
    sizes = {one.name: 4 if one.name == "H" else 32 for one in layer.sizes if one.default is None}
    made = ssdc.compile(EXAMPLES / f"{program}.ssd", sizes=sizes, order=order)
    inputs = sample_inputs(made, b=1, T=512)
    with torch.no_grad():
        made(**inputs)
        with Allocated() as found:
            made(**inputs)
    predicted = sum(choice.chosen.cost.workspace for choice in made.plan(T=512).choices.values())
    assert 0.3 <= predicted / found.bytes <= 3.0


# ---- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_that_ships_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDC_PROFILE", "h200")
    assert profiles.profile() == H200
    assert profiles.profile("cpu") == CPU, "one for a GPU is not used on a CPU"
    assert profiles.profile("cuda", "NVIDIA B200") == H200
    monkeypatch.setenv("SSDC_PROFILE", "abacus")
    with pytest.raises(
        PlanError, match=r"SSDC_PROFILE is 'abacus'; profiles that ship are cpu, a100, h100, h200, b200"
    ):
        profiles.profile()


def test_what_was_measured_is_used_and_removed(own: Path) -> None:
    assert profiles.profile() == CPU
    mine = replace(CPU, name="mine", launch=1e-3)
    path = profiles.store(mine)
    assert path == own / "cpu.json"
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o077) == (0o700, 0)
    assert profiles.profile() == profiles.profile("cpu") == mine
    assert planned("ssd", {"H": 8}).hardware == mine
    assert profiles.profile("cuda", "NVIDIA H200") == H200
    path.unlink()
    profiles._chosen.cache_clear()
    assert profiles.profile() == CPU


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda text: text.replace('"processors": 2', '"processors": 3'), "not those that were measured"),
        (lambda text: text.replace('"latency"', '"patience"'), "of another version"),
        (lambda text: text[: len(text) // 2], "it is no profile"),
        (lambda text: "[1, 2]", "it is no profile"),
        (lambda text: profiles.encoded(H200), "it is for cuda"),
    ],
)
def test_a_spoilt_profile_is_left_aside_with_a_warning(own: Path, spoil: object, reason: str) -> None:
    path = profiles.store(replace(CPU, name="mine"))
    path.write_text(spoil(path.read_text()))  # type: ignore[operator]
    profiles._chosen.cache_clear()
    with pytest.warns(UserWarning, match=reason):
        assert profiles.profile() == CPU


def test_a_directory_that_others_may_write_to_is_not_trusted(own: Path) -> None:
    profiles.store(replace(CPU, name="mine"))
    own.chmod(0o777)
    profiles._chosen.cache_clear()
    with pytest.warns(UserWarning, match="not a directory of this user alone"):
        assert profiles.profile() == CPU
    with pytest.raises(PermissionError):
        profiles.store(CPU)


def test_calibrate_measures_and_keeps(own: Path) -> None:
    done = CliRunner().invoke(app, ["calibrate", "--device", "cpu", "--threads", "1"])
    assert done.exit_code == 0, done.output
    found = profiles.profile()
    assert found.name == "cpu, measured"
    assert found.processors == 1
    rates = [rate for _, rate in found.bandwidth]
    assert rates == sorted(rates, reverse=True)
    for figure in ("matrix", "thin", "transcendental", "scattered", "launch", "step", "memory"):
        assert getattr(found, figure) > 0, figure
    assert 1e-7 < found.launch < 1e-3
    assert 1e8 < found.matrix < 1e13
    assert "GFLOP/s" in done.output


def test_a_dry_run_keeps_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "measured", lambda device, small: replace(CPU, name="mine"))
    done = CliRunner().invoke(app, ["calibrate", "--device", "cpu", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert not own.exists()
    assert CliRunner().invoke(app, ["calibrate", "--device", "cpu"]).exit_code == 0
    assert profiles.profile().name == "mine"


def test_a_gpu_is_calibrated_by_the_kernels_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of a machine on which chains take 1.5 times as long, with no GPU asked: so does a step, and the start of a
    kernel comes out."""
    facts = Facts("bfloat16", 64, 64, "varying")
    short = chunk_of(facts)

    def busy(length: int) -> float:
        call = Call(1, length, 1, H200.processors, initial=False)
        return candidate(facts, call, forward(facts, call, "walk"), H200).cost.busy

    alone, host = iter((1.5 * busy(60 * short), 1.5 * busy(short))), iter((30e-6, 30e-6 + 2 * 7e-6))
    monkeypatch.setattr(calibration, "alone", lambda call: next(alone))
    monkeypatch.setattr(calibration, "_best", lambda call, device: next(host))
    found = calibration._kernels("cpu", H200)
    assert found.latency == pytest.approx(1.5 * H200.latency)
    assert found.kernel == pytest.approx(7e-6)


def test_overheads_are_those_that_make_predictions_right() -> None:
    """The figures that come out bring the small layer's own predictions to its measured times."""
    graph = pipeline.check(SMALL).graph
    launch, node, step = regret.overhead(graph, CPU, "cpu")
    found = replace(CPU, launch=launch, node=node, step=step)
    cells = [cell for mode in ("forward", "both") for cell in regret.measure(graph, {"b": 1, "t": 16}, mode, found)]
    for cell in cells:
        quadratic = next(one for one in cell.timings if one.name == "quadratic")
        assert quadratic.seconds is not None
        assert 0.3 <= quadratic.predicted / quadratic.seconds <= 3


def test_overheads_of_a_gpu_are_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """From what a profile predicts for the small layer, its own figures come out, although the device is busy, too."""
    graph = pipeline.check(SMALL).graph
    true = replace(H200, launch=9e-6, node=2.5e-5, step=1.2e-5)
    measured = iter(
        plan(graph, {"b": 1, "t": length}, order=order, hardware=true, mode=mode).seconds
        for _, order, mode, length in regret.OVERHEADS
    )
    monkeypatch.setattr(regret, "_alternating", lambda *_: [next(measured)])
    found = regret.overhead(graph, H200, "cpu")
    # where starts cost nothing, products are cut a little differently
    assert found == pytest.approx((true.launch, true.node, true.step), rel=0.1)


# ---- regret ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "rounds"), [(1.0, 13), (1.4, regret.MOST), (3.0, regret.ROUNDS)])
def test_a_choice_that_seems_slow_is_measured_further(own: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is disturbed for a dozen rounds: a choice of 1.0 seconds seems to take 1.4, one of 1.4 does, and one far
    slower is not worth more rounds."""
    taken: list[float] = []

    def settle() -> None:
        taken.append(0.0)

    calls = [lambda: own + (0.4 if own == 1.0 and len(taken) < 13 else 0.0), lambda: 1.0]
    monkeypatch.setattr(regret, "settle", settle)
    monkeypatch.setattr(regret, "timed", lambda call, *_: call())
    found = regret._alternating(calls, "cpu", 10.0)
    assert found == [own, 1.0] and len(taken) == rounds


def cell(*timings: tuple[str, float, float | None]) -> regret.Cell:
    return regret.Cell("l", "y", {}, "forward", tuple(regret.Timing(*one) for one in timings))


def test_regret_is_that_of_the_first_over_the_fastest() -> None:
    one = cell(("a", 1.0, 3.0), ("b", 2.0, 2.0), ("c", 9.0, None))
    assert (one.regret, one.best.name, one.accuracy) == (1.5, "b", 1 / 3)
    other = cell(("a", 1.0, 1.2), ("b", 2.0, 2.0))
    found = regret.summary([one, other])
    assert (found.cells, found.worst, found.within, found.accurate) == (2, 1.5, 0.5, 0.5)
    assert found.mean == pytest.approx(1.5**0.5)


def test_every_candidate_that_auto_may_choose_is_timed() -> None:
    checked = pipeline.check(SSD, sizes={"H": 2, "N": 16, "P": 16})
    for mode in ("forward", "both"):
        (found,) = regret.measure(checked.graph, {"b": 1, "t": 64}, mode, CPU)
        assert {one.name for one in found.timings} == {
            "chunked(16)", "chunked(32)", "chunked(64)", "quadratic", "recurrent", "scan"
        }  # fmt: skip
        assert not any(one.name in ASKED_ONLY for one in found.timings)
        assert all(one.seconds is not None and one.seconds > 0 for one in found.timings)
        assert found.regret >= 1.0
        predicted = [one.predicted for one in found.timings]
        assert predicted == sorted(predicted)


def test_on_a_gpu_what_kernels_serve_is_not_timed() -> None:
    sizes = {"b": 1, "t": 32}
    for name, count in (("ssd", 0), ("attention", 0), ("gla", 1)):
        checked = pipeline.check(EXAMPLES / f"{name}.ssd", sizes={"H": 2, "N": 16, "P": 16})
        assert len(list(regret.measure(checked.graph, sizes, "forward", H200, device="cpu"))) == count


def test_on_a_gpu_a_sum_is_one_operation_and_products_of_windows_are_not_apart() -> None:
    """What PyTorch does on a CPU alone, step by step or matrix by matrix, costs a GPU no launches."""
    for name, order, sizes in (
        ("linear_attention", "scan", {"H": 4, "N": 32, "P": 32}),
        ("hyena", "quadratic", {"C": 64}),
    ):
        checked = pipeline.check(EXAMPLES / f"{name}.ssd", sizes=sizes)
        call = {"b": 1, "t": 2048}
        launches = {
            hardware.device: max(
                candidate.cost.launches
                for choice in plan(checked.graph, call, hardware=hardware, mode="both").choices.values()
                for candidate in (choice.chosen, *choice.rivals)
                if candidate.order == order
            )
            for hardware in (CPU, H200)
        }
        assert launches["cuda"] < 150 < launches["cpu"]


def test_bench_planner_tells_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUICK, "cpu", ((2, 8, 1, 32),))
    out = tmp_path / "regret.json"
    done = CliRunner().invoke(
        app,
        [
            "bench",
            "--planner",
            "--quick",
            "--device",
            "cpu",
            "--json",
            str(out),
            str(SSD),
            str(EXAMPLES / "deltanet.ssd"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"2 cells: regret \d\.\d{3} \(geometric mean\), [\d.]+ at worst", done.output)
    assert "deltanet.ssd is left out" in done.output
    data = json.loads(out.read_text())
    assert data["summary"]["cells"] == len(data["cells"]) == 2
    assert {one["mode"] for one in data["cells"]} == {"forward", "both"}
