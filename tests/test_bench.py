"""`ssdc bench` on a CPU: its rows are true, what is wrong or missing shows, and every way of calling it ends well."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import ssdc
from ssdc import pipeline
from ssdc.cli.bench import _crossovers
from ssdc.cli.benching import Report, picture, table_of
from ssdc.cli.main import app
from ssdc.runtime.bench import runs, shapes
from ssdc.runtime.bench.layers import Definition, separate
from ssdc.runtime.bench.layers import layer as whole
from ssdc.runtime.bench.peers import PEERS, Peer, attention, transformers, versions
from ssdc.runtime.bench.runs import Entry, Setting, Summary
from ssdc.runtime.bench.shapes import Given, Shape, operands, program, shape_of
from ssdc.runtime.bench.subjects import by_layer, contraction, peer
from ssdc.runtime.bench.times import Bytes, Clock, Row, Subject, measure
from ssdc.runtime.measure import seeded
from ssdc.runtime.samples import sample_inputs

EXAMPLES = Path(__file__).parent.parent / "examples"
CPU = torch.device("cpu")
TINY = Shape(2, 70, 4, 8, 8, 4)
KINDS = (
    replace(TINY, gate="none"),
    replace(TINY, gate="constant"),
    TINY,
    replace(TINY, groups=2, scale=True),
    replace(TINY, groups=1, states=16),
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def setting() -> Setting:
    return runs.setting("cpu", None, 1, 1)


def compile(text: str) -> ssdc.Layer:
    return pipeline.compile(text, backend="torch")


def run(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["bench", *arguments])


def only(subject: Subject | Row) -> Row:
    (row,) = measure([subject], Clock(CPU, 1), rounds=1)
    return row


# ---- rows are true ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", KINDS, ids=str)
def test_a_contraction_agrees_with_float64_and_with_the_definition(shape: Shape) -> None:
    given = operands(shape, torch.float32, CPU)
    row = only(contraction("ssdc", by_layer(compile(program(shape))), shape, given))
    assert row.note == "" and row.error < 2e-6 and row.gradient_error < 2e-6
    exact = pipeline.reference(program(shape))(*(x.detach().double() for x in given.tensors))

    def defined(_: Given) -> Tensor:
        return exact.float() + 0.0 * given.query.sum()

    assert only(contraction("definition", defined, shape, given)).error < 1e-7
    assert row.forward > 0 and row.both > 0 and row.first > 0 and row.forward_floor > 0


@pytest.mark.parametrize("place", [0, 2_000, -1])
def test_the_error_rises_when_a_peer_is_wrong(place: int) -> None:
    """One number off in all that is compared shows; so does a gradient alone."""
    given = operands(TINY, torch.float32, CPU)
    right = by_layer(compile(program(TINY)))

    def off(one: Given) -> Tensor:
        y = right(one)
        change = torch.zeros(1, TINY.length, 1, TINY.columns).view(-1)
        change[place % change.numel()] = 1.0
        return torch.cat([y[:1, :, :1] + change.view(1, TINY.length, 1, -1), y[:1, :, 1:]], 2).expand(2, -1, -1, -1)

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x.clone()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            return 2 * grad

    wrong = only(peer(Peer("wrong", "none", off, lambda _: True, ("cpu",)), TINY, given))
    assert wrong.error > 1e-3
    twice = Peer("twice", "none", lambda one: Doubled.apply(right(one)), lambda _: True, ("cpu",))
    found = only(peer(twice, TINY, given))
    assert found.error < 2e-6 and found.gradient_error == pytest.approx(1.0, rel=1e-3)


def test_peers_of_the_cpu_compute_what_they_say() -> None:
    shape = replace(TINY, groups=2, scale=True)
    given = operands(shape, torch.float32, CPU)
    served = {one.name: one for one in PEERS if one.serves(shape) and "cpu" in one.devices}
    assert {one.call for one in served.values()} == {transformers, attention}
    for one in served.values():
        row = only(peer(one, shape, given))
        assert row.note == "" and row.error < 2e-6 and row.gradient_error < 2e-6
        assert row.part == ("another function" if one.call is attention else "contraction")


def test_what_serves_a_shape() -> None:
    names = [{one.name for one in PEERS if one.serves(shape) and not one.another} for shape in KINDS]
    assert names == [
        {"fla linear_attn"}, {"fla retention"}, {"fla simple_gla"}, {"mamba_ssm", "transformers"}, set(),
    ]  # fmt: skip
    assert set(versions()) >= {"torch", "triton", "fla-core", "mamba-ssm", "transformers"}


def test_a_missing_or_failing_peer_is_a_row_that_says_so() -> None:
    given = operands(TINY, torch.float32, CPU)

    def missing(_: Given) -> Tensor:
        raise ModuleNotFoundError("No module named 'gone'", name="gone")

    def failing(_: Given) -> Tensor:
        raise AssertionError("not here\nat all")

    calls: list[int] = []

    def later(one: Given) -> Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return by_layer(compile(program(TINY)))(one)

    made = [Peer("a peer", "none", call, lambda _: True, ("cpu",)) for call in (missing, failing, later)]
    rows = measure([peer(one, TINY, given) for one in made], Clock(CPU, 1))
    assert [row.note for row in rows] == [
        "not installed: gone", "failed: AssertionError: not here", "failed: RuntimeError: out of memory",
    ]  # fmt: skip
    assert all(row.forward is None for row in rows)
    elsewhere = peer(PEERS[0], TINY, given)
    assert isinstance(elsewhere, Row) and elsewhere.note == "is for cuda devices"


def test_subjects_take_turns() -> None:
    order: list[str] = []

    def subject(name: str) -> Subject:
        def call(what: str) -> Callable[[], None]:
            return lambda: order.append(f"{name} {what}")

        return Subject(name, "layer", call("f"), call("b"), lambda: (0.0, None), lambda: Bytes(10, 20, 5), call("s"))

    class Once(Clock):
        def median(self, call: Callable[[], object]) -> float:
            call()
            return 2.0

        def copy_rate(self) -> float:
            return 1e3

    rows = measure([subject("a"), subject("b")], Once(CPU), rounds=2)
    assert order == ["a b", "b b"] + ["a f", "a b", "a s", "b f", "b b", "b s"] * 2
    assert (rows[0].forward, rows[0].forward_floor, rows[0].both_floor, rows[0].step_floor) == (2.0, 10.0, 20.0, 5.0)


def test_the_bytes_that_must_move() -> None:
    """Forward q, k, v in and y out; backwards q, k, v and dy in, dq, dk, dv out: eleven tensors, if they are alike."""
    shape = Shape(1, 64, 2, 16, 16, 2, "none")
    subject = contraction("ssdc", by_layer(compile(program(shape))), shape, operands(shape, torch.bfloat16, CPU))
    tensor = 64 * 2 * 16 * 2
    assert subject.bytes() == Bytes(4 * tensor, 11 * tensor)


def test_the_copy_rate_is_measured_once() -> None:
    clock = Clock(CPU, 1)
    assert 1e8 < clock.copy_rate() < 1e13 and clock.copy_rate() == clock.copy_rate()


# ---- layers ----------------------------------------------------------------------------------------------------------

SSD = {"H": 2, "P": 8, "N": 8}


def layer_row(text: str | Path, sizes: dict[str, int], definition: str | Path | None = None, **call: int) -> Row:
    compiled = seeded(lambda: pipeline.compile(text, sizes=sizes, backend="torch"))
    reference = pipeline.reference(definition or text, sizes=sizes)
    return only(whole("ssdc", compiled, Definition(reference), sample_inputs(compiled, **call)))


@pytest.mark.parametrize("length", [40, 300])
def test_a_layer_agrees_with_its_definition_on_the_first_positions(length: int) -> None:
    row = layer_row(EXAMPLES / "ssd.ssd", SSD, b=2, T=length)
    assert row.note == "" and row.error < 2e-6 and row.gradient_error < 2e-6
    assert row.step > 0 and row.step_floor > 0


def test_a_layer_that_is_not_its_definition_shows() -> None:
    text = (EXAMPLES / "ssd.ssd").read_text()
    other = text.replace("D[h] * x[b,t,h,p]\n", "1.01 * D[h] * x[b,t,h,p]\n")
    assert other != text
    row = layer_row(text, SSD, other, b=1, T=30)
    assert row.error > 1e-4 and row.gradient_error > 1e-4


def test_a_layer_that_is_not_causal_is_compared_as_far_as_its_definition_goes() -> None:
    sizes = {"H": 2, "N": 4, "P": 4}
    short = layer_row(EXAMPLES / "hydra.ssd", sizes, b=1, T=50)
    assert short.error < 2e-6 and short.step is None
    assert layer_row(EXAMPLES / "hydra.ssd", sizes, b=1, T=300).error is None


def test_entries_that_meet_are_seen() -> None:
    head = "layer one(P = 2) { time t, s axis b, p = P input x[b,t,p] mask L[t,s] = causal "
    apart = pipeline.check(head + "y[b,t,p] = L[t,s] * x[b,s,p] output y }").graph
    meet = pipeline.check(head + "m[t,p] = x[b,t,p] y[b,t,p] = L[t,s] * x[b,s,p] * m[s,p] output y }").graph
    assert separate(apart, "b") and not separate(meet, "b")


def test_the_contraction_of_a_layer() -> None:
    compiled = pipeline.compile(EXAMPLES / "ssd.ssd", sizes={"H": 6, "G": 2}, backend="torch")
    assert shape_of(compiled, b=3, T=50) == Shape(3, 50, 6, 128, 64, 2, "varying", True)
    window = pipeline.compile(EXAMPLES / "gla.ssd", sizes={"H": 2, "N": 4, "P": 4}, backend="torch")
    with pytest.raises(ValueError, match="its gates vary along states"):
        shape_of(window, b=1, T=50)


# ---- suite and headline ----------------------------------------------------------------------------------------------


def test_the_suite_has_the_shapes_that_it_promises() -> None:
    assert [len(members) for members in shapes.FAMILIES.values()] == [5, 5, 5, 4]
    assert {shape.batch * shape.length for shape in (shapes.headline(T, 64) for T in shapes.LENGTHS)} == {131072}
    assert (shapes.LENGTHS[0], shapes.LENGTHS[-1]) == (512, 131072)


def test_a_small_suite_from_rows_to_pictures(setting: Setting, tmp_path: Path) -> None:
    families = {"linear": KINDS[:1], "mamba2": KINDS[3:4]}
    entries = list(runs.suite(setting, families, compile))
    found = runs.summary(entries)
    assert found is not None and found.shapes == 1  # only transformers runs here
    report = Report("suite", setting.title, setting.clock.copy_rate(), versions(), entries, {"summary": vars(found)})
    assert "geometric mean" in report.lines()[-1] and not report.failed
    assert table_of(report).row_count == 5
    picture(tmp_path / "suite.png", report)
    report.write(tmp_path / "suite.json")
    rows = json.loads((tmp_path / "suite.json").read_text())["entries"][1]["rows"]
    assert [row["name"] for row in rows] == ["ssdc", "mamba_ssm", "transformers"]


def entry(name: str, length: int, **times: tuple[float, float] | None) -> Entry:
    rows = tuple(
        Row(one, "another function" if one == "softmax" else "contraction", *(both or ()), note="" if both else "gone")
        for one, both in times.items()
    )
    return Entry(name, length, 1, rows)


def test_a_summary_counts_the_fastest_peer() -> None:
    entries = [
        entry("a", 1, ssdc=(1.0, 2.0), one=(4.0, 4.0), two=(8.0, 1.0), three=None),
        entry("b", 1, ssdc=(2.0, 2.0), one=(2.0, 8.0)),
        entry("c", 1, ssdc=(2.0, 2.0), one=None),
    ]
    assert runs.summary(entries) == Summary(2, 2.0, pytest.approx(2**0.5), 0, 1)
    assert runs.summary([entry("a", 1, ssdc=None, one=(1.0, 1.0))]) is None
    assert runs.summary(entries[2:]) is None


def test_from_when_the_headline_is_won(tmp_path: Path) -> None:
    entries = [
        entry("headline", 512, **{"ssdc N=64": (1.0, 9.0), "softmax": (0.5, 1.0)}),
        entry("headline", 2048, **{"ssdc N=64": (1.0, 9.0), "softmax": (2.0, 4.0)}),
    ]
    assert _crossovers(entries) == {
        "ssdc N=64, forward": "from T = 1,024 on", "ssdc N=64, forward + backward": "at no length",
    }  # fmt: skip
    assert set(_crossovers(entries[1:]).values()) == {"at every length", "at no length"}
    report = Report("headline", "cpu", 1e9, {}, entries, {"crossovers": _crossovers(entries)})
    assert report.lines()[-2] == "ssdc N=64, forward: faster than softmax attention from T = 1,024 on"
    picture(tmp_path / "headline.png", report)
    assert (tmp_path / "headline.png").stat().st_size > 10_000


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_file_from_its_text_to_table_json_and_picture(tmp_path: Path) -> None:
    file = str(EXAMPLES / "ssd.ssd")
    sizes = [word for name, value in SSD.items() for word in ("--size", f"{name}={value}")]
    outs = ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    result = run(file, "-T", "16,40", "-b", "2", "--threads", "1", "--burst", "1", "--device", "cpu", *sizes, *outs)
    assert result.exit_code == 0, result.output
    for word in ("layer: ssdc", "layer: ssdc recurrent", "transformers", "another function: softmax", "is for cuda"):
        assert word in result.stdout
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["copy_bytes_per_s"] > 0 and found["versions"]["torch"] == torch.__version__
    assert [(one["of"], one["length"], one["batch"]) for one in found["entries"]] == [("ssd", 16, 2), ("ssd", 40, 2)]
    rows = [row for one in found["entries"] for row in one["rows"] if not row["note"]]
    assert len(rows) >= 12
    for row in rows:
        assert row["error"] < 2e-6 and row["gradient_error"] < 2e-6, row
        assert row["forward"] > 0 and row["both"] > 0 and row["forward_floor"] > 0
    assert (tmp_path / "b.png").stat().st_size > 10_000


def test_several_files_are_one_table() -> None:
    files = [str(EXAMPLES / f"{name}.ssd") for name in ("retention", "gla")]
    result = run(*files, "-T", "12", "--threads", "1", "--burst", "1", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "retention, T=12" in result.stdout and "gla, T=12" in result.stdout
    assert "the kernels serve none" in result.stdout


def test_failure_of_ours_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(runs, "by_layer", lambda layer: broken)
    result = run(str(EXAMPLES / "retention.ssd"), "-T", "12", "--threads", "1", "--burst", "1", "--device", "cpu")
    assert result.exit_code == 1
    assert "ssdc: failed: RuntimeError: broken" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("what", ["--suite", "--headline"])
def test_what_needs_a_gpu_says_so(what: str) -> None:
    result = run(what)
    assert result.exit_code == 1 and result.stdout == ""
    assert "which need a CUDA device" in result.stderr
    result = run(str(EXAMPLES / "ssd.ssd"), "--device", "cuda")
    assert result.exit_code == 1 and "there is no CUDA device 'cuda' here" in result.stderr


def test_a_command_line_that_is_wrong_is_exit_2(tmp_path: Path) -> None:
    file = str(EXAMPLES / "ssd.ssd")
    for wrong in ((), (file, "--suite"), ("--suite", "--headline"), (file, "--plot", str(tmp_path / "x.txt")),
                  (file, "--dtype", "int8"), (file, "-T", "x")):  # fmt: skip
        assert run(*wrong).exit_code == 2, wrong
    result = run(file, "--device", "toaster")
    assert result.exit_code == 1 and "there is no device 'toaster'" in result.stderr


INTERPRETED = """
import torch
from ssdc.runtime.bench import runs
from ssdc.runtime.bench.shapes import Shape

torch.set_num_threads(1)
where = runs.setting("cpu", None, 1, 1)
shapes = [Shape(1, 40, 2, 16, 16, 2, "constant"), Shape(1, 40, 2, 16, 16, 1, "varying", True)]
for entry in runs.suite(where, {"small": shapes}):
    row = entry.rows[0]
    print(row.note or (row.error < 2e-6, row.gradient_error < 2e-6, row.step > 0, row.step_floor > 0))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_operator_is_a_subject() -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(True, True, True, True)"] * 2, done.stderr[-2000:]
