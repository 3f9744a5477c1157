"""`ssdc compare`: what varies, what is predicted, measured and skipped, where lines cross, and what is written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ssdc import pipeline
from ssdc.cli import comparing, rows
from ssdc.cli.main import app
from ssdc.cli.measuring import Call, Failure, measure
from ssdc.cli.rows import lines_of, title_of
from ssdc.cli.varied import varied
from ssdc.plan.comparison import Comparison, Row, Series, Spec, as_json, crossovers
from ssdc.runtime.measure import Measured

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SSD, GLA, ATTENTION = (str(EXAMPLES / f"{name}.ssd") for name in ("ssd", "gla", "attention"))
TINY = ("--size", "H=2", "--size", "P=4", "--size", "N=3", "--threads", "1")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["compare", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def good(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """No process is started; the calls that would have been measured. A call takes 1 us a position, sequence and N."""
    calls: list[Call] = []

    def quick(call: Call, *_: object) -> Measured:
        calls.append(call)
        return Measured(1e-6 * call.length * call.batch * call.layer_sizes.get("N", 1), 3, 2_000_000, 1.5)

    monkeypatch.setattr(comparing, "measure", quick)
    monkeypatch.setattr(comparing, "write_reference", lambda *_: None)
    return calls


# ---- crossovers ------------------------------------------------------------------------------------------------------

SIZES = (16, 64, 256, 1024)


def line(power: float, scale: float = 1.0) -> list[tuple[int, float]]:
    return [(size, scale * float(size) ** power) for size in SIZES]


def test_lines_cross_between_measurements() -> None:
    """T and 100 meet at 100, where no measurement is."""
    (found,) = crossovers({"line": line(1), "flat": line(0, 100.0)})
    assert (found.before, found.after, found.least) == ("line", "flat", True)
    assert found.at == pytest.approx(100, rel=1e-3) and found.value == pytest.approx(100, rel=1e-3)


def test_every_pair_crosses_and_only_some_at_the_least() -> None:
    """T^2, 10 T and 5000 cross at 10 (before all sizes), sqrt(5000) and 500; there T^2 is not the least."""
    found = crossovers({"square": line(2), "line": line(1, 10.0), "flat": line(0, 5000.0)})
    assert [(one.before, one.after, one.least) for one in found] == [
        ("square", "flat", False),
        ("line", "flat", True),
    ]
    assert [one.at for one in found] == pytest.approx([5000**0.5, 500], rel=1e-3)


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        ({}, []),
        ({"low": line(1), "high": line(1, 2.0)}, []),
        ({"same": line(1), "too": line(1)}, []),
        ({"one": [(16, 1.0)], "two": [(16, 2.0)]}, []),
        ({"a": [(1, 1.0), (2, 2.0), (4, 2.0)], "b": [(1, 2.0), (2, 2.0), (4, 1.0)]}, [(2.0, "a", "b")]),
        ({"a": [(1, 1.0), (2, 2.0), (4, 1.0)], "b": [(1, 2.0), (2, 2.0), (4, 2.0)]}, []),
        ({"a": [(1, 1.0), (4, 4.0)], "b": [(1, 2.0), (2, 2.0), (4, 2.0)]}, [(2.0, "a", "b")]),
        ({"a": [(1, 1.0), (4, 4.0)], "b": [(2, 9.0), (8, 1.0)]}, []),
        (
            {"a": [(1, 1.0), (2, 4.0), (4, 4.0)], "b": [(1, 2.0), (2, 2.0), (4, 8.0)]},
            [(1.4, "a", "b"), (2.8, "b", "a")],
        ),
    ],
)  # fmt: skip
def test_where_lines_touch_cross_twice_or_share_too_little(
    series: Series, wanted: list[tuple[float, str, str]]
) -> None:
    assert [(one.at, one.before, one.after) for one in crossovers(series)] == wanted


def row(order: str, at: int, seconds: float | None, predicted: float, spec: str = "a") -> Row:
    return Row(spec, order, at, False, 1e9, 1e6, 1e6, predicted, seconds, 2e6, 1.0)


def made(*found: Row, specs: tuple[str, ...] = ("a",)) -> Comparison:
    of = tuple(Spec(name, f"{name}.ssd", name, {"H": 4, "P": 64}, ("H",), {}) for name in specs)
    return Comparison("T", None, 1, "forward", None, "cpu", of, found)


def test_lines_name_both_orderings_and_the_size() -> None:
    """Chunks of several sizes are one line."""
    found = made(
        row("chunked(16)", 64, 4e-3, 1e-3), row("quadratic", 64, 1e-3, 2e-3),
        row("chunked(32)", 256, 4e-3, 1e-3), row("quadratic", 256, 16e-3, 2e-3),
    )  # fmt: skip
    assert set(found.series("seconds")) == {"chunked", "quadratic"}
    assert lines_of(found) == [
        "crossover, measured: chunked is faster than quadratic from T=128 on",
        "crossover, predicted: none",
    ]


def test_what_was_not_measured_is_no_point() -> None:
    slow = replace(row("quadratic", 256, None, 30.0), skipped="it is predicted to take 30 s, more than 20 s", peak=None)
    found = made(row("scan", 64, 2e-3, 1e-3), row("quadratic", 64, 1e-3, 5e-4), row("scan", 256, 8e-3, 4e-3), slow)
    assert found.series("seconds")["quadratic"] == [(64, 1e-3)] and found.measured_crossovers == ()
    assert len(found.predicted_crossovers) == 1
    assert "skipped at T=256: quadratic: it is predicted to take 30 s, more than 20 s" in lines_of(found)


def test_lines_of_several_specs_are_specs() -> None:
    found = made(
        row("chunked(32)", 64, 2e-3, 1e-3, "a"), row("quadratic", 64, 1e-3, 2e-3, "b"),
        row("recurrent", 256, 2e-3, 1e-3, "a"), row("quadratic", 256, 4e-3, 2e-3, "b"),
        specs=("a", "b"),
    )  # fmt: skip
    assert lines_of(found)[0] == "crossover, measured: a is faster than b from T=128 on"
    assert title_of(found) == "a H=4* P=64; b H=4* P=64, float32, b=1"


def test_json_has_a_stable_schema() -> None:
    found = json.loads(as_json(made(row("scan", 64, 1e-3, 1e-3), row("scan", 128, None, 1e-3))))
    assert found["schema"] == 1
    assert list(found) == ["schema", "axis", "T", "batch", "mode", "threads", "profile", "specs", "rows", "crossovers"]
    assert set(found["specs"][0]) == {"name", "file", "layer", "sizes", "chosen", "refused"}
    assert set(found["rows"][0]) == {
        "spec", "order", "at", "planned", "flop", "bytes", "workspace", "predicted", "seconds", "peak", "error",
        "skipped",
    }  # fmt: skip
    assert found["crossovers"] == {"measured": [], "predicted": []}
    crossing = json.loads(as_json(made(*(
        row(name, size, value, value)
        for name, values in (("scan", (1.0, 1.0)), ("fft", (0.5, 2.0)))
        for size, value in zip((64, 256), values, strict=True)
    ))))["crossovers"]["measured"]  # fmt: skip
    assert crossing == [{"at": 128.0, "value": 1.0, "before": "fft", "after": "scan", "least": True}]


# ---- what varies -----------------------------------------------------------------------------------------------------


def test_one_size_varies() -> None:
    over, fixed = varied(None, "1", [])
    assert (over.axis, over.values, fixed) == ("T", (256, 512, 1024, 2048, 4096), {})
    over, fixed = varied("2048", "1..8", ["H=4"])
    assert (over.axis, over.values, over.call(4), fixed) == ("b", (1, 2, 4, 8), (2048, 4, {}), {"H": 4})
    over, fixed = varied(None, "2", ["N=64,16", "H=4"])
    assert (over.axis, over.values, over.call(16), fixed) == ("N", (16, 64), (1024, 2, {"N": 16}), {"H": 4})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((SSD, "-T", "9..3"), "neither LOW..HIGH"),
        ((SSD, "-T", "0"), "neither LOW..HIGH"),
        ((SSD, "-T", "some"), "neither LOW..HIGH"),
        ((SSD, "-b", "0"), "neither LOW..HIGH"),
        ((SSD, "--size", "N=8..4"), "neither LOW..HIGH"),
        ((SSD, "-T", "16,32", "-b", "1,2"), "only one size can vary, and T and b do"),
        ((SSD, "--size", "N=1,2", "--size", "P=1,2"), "only one size can vary, and N and P do"),
        ((SSD, "--size", "Q=1,2"), "layer ssd has no size Q; its sizes: H, P, N, G"),
        ((SSD, GLA, "--size", "Q=3"), "none of the layers has a size Q: ssd has H, P, N, G; gla has H, N, P"),
        ((SSD, GLA, "--layer", "ssd"), "--layer goes with one file"),
        ((SSD, SSD), "ssd.ssd is given twice"),
        ((SSD, "--plot", "picture.txt"), "does not end in .png"),
        ((SSD, "--plot", "no/such/folder/p.png"), "cannot write"),
        ((SSD, "--json", "no/such/folder/p.json"), "cannot write"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_measured(
    wrong: tuple[str, ...], said: str, unmeasured: list[Call]
) -> None:
    result = run(*wrong)
    assert (result.exit_code, unmeasured) == (2, [])
    assert said.replace(" ", "") in "".join(result.stderr.replace("│", " ").split())


def test_a_value_that_cannot_be_is_exit_1_before_anything_is_measured(unmeasured: list[Call]) -> None:
    result = run(str(EXAMPLES / "mamba2.ssd"), "--size", "P=64", "--size", "D=64,100")
    assert (result.exit_code, unmeasured) == (1, [])
    assert "H = E * D / P" in result.stderr


# ---- comparisons whose times are made up -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "axis", "values"), [(("-b", "1..4"), "b", [1, 2, 4]), (("--size", "N=8,16"), "N", [8, 16])]
)
def test_orderings_over_any_size(
    option: tuple[str, ...], axis: str, values: list[int], unmeasured: list[Call], tmp_path: Path
) -> None:
    file = tmp_path / "n.json"
    text = good(SSD, *option, "-T", "64", "--size", "H=2", "--json", str(file))
    found = json.loads(file.read_text())
    assert found["axis"] == axis and sorted({one["at"] for one in found["rows"]}) == values
    assert found["T"] == 64 and found["batch"] == (None if axis == "b" else 1)
    assert axis not in found["specs"][0]["sizes"] and "T=64" in text
    sizes = [one.batch if axis == "b" else one.layer_sizes["N"] for one in unmeasured]
    assert sizes == [one["at"] for one in found["rows"]]
    assert {tuple(one.order.values()) for one in unmeasured} == {
        ("recurrent",), ("quadratic",), ("chunked",), ("scan",),
    }  # fmt: skip


@pytest.mark.parametrize("file", [SSD, ATTENTION])
def test_gradients_are_planned_and_priced(file: str, unmeasured: list[Call], tmp_path: Path) -> None:
    """Those of masked contractions, and of what stands beside them: attention is nothing else."""
    predicted = {}
    for name, flag in (("forward", ()), ("both", ("--backward",))):
        good(file, "-T", "64", "--size", "H=2", *flag, "--json", str(tmp_path / name))
        found = json.loads((tmp_path / name).read_text())
        assert found["mode"] == name
        predicted[name] = {one["order"].partition("(")[0]: one["predicted"] for one in found["rows"]}
    assert all(predicted["both"][order] > seconds for order, seconds in predicted["forward"].items())
    assert {one.backward for one in unmeasured} == {False, True}


def test_predictions_are_for_the_threads_asked_for(unmeasured: list[Call], tmp_path: Path) -> None:
    predicted = []
    for threads in (1, 2):
        file = tmp_path / f"{threads}.json"
        good(SSD, "-T", "4096", "--size", "H=2", "--threads", str(threads), "--json", str(file))
        predicted.append(
            {one["order"].partition("(")[0]: one["predicted"] for one in json.loads(file.read_text())["rows"]}
        )
    sequential = {"recurrent", "scan"}  # a state at a time, too small for a second thread
    assert predicted[1].keys() > sequential
    assert all(
        predicted[0][order] > 1.2 * seconds for order, seconds in predicted[1].items() if order not in sequential
    )
    assert {one.threads for one in unmeasured} == {1, 2}


def test_several_specs_are_compared_as_planned(unmeasured: list[Call], tmp_path: Path) -> None:
    """Sizes go to those that have them; a spec that lacks the one that varies is measured all the same."""
    file, picture = tmp_path / "n.json", tmp_path / "p.png"
    text = good(
        SSD, GLA, ATTENTION, "-T", "32", "--size", "G=1,2", "--size", "P=4", "--size", "H=2", "--json", str(file),
        "--plot", str(picture),
    )  # fmt: skip
    found = json.loads(file.read_text())
    assert [one["name"] for one in found["specs"]] == ["ssd", "gla", "attention"]
    assert [one["sizes"] for one in found["specs"]] == [{"H": 2, "P": 4, "N": 128}, *2 * [{"H": 2, "N": 32, "P": 4}]]
    assert [one["chosen"] for one in found["specs"]] == [[], ["N"], ["N"]]
    assert [(one["at"], one["spec"]) for one in found["rows"]] == [
        (at, spec) for at in (1, 2) for spec in ("ssd", "gla", "attention")
    ]
    assert all(one["planned"] and one["predicted"] > 0 for one in found["rows"])
    assert [call.layer_sizes.get("G") for call in unmeasured] == [1, None, None, 2, None, None]
    assert "gla H=2 N=32* P=4" in text and "* chosen: not given, and without a default" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_specs_of_one_name_are_told_apart(unmeasured: list[Call], tmp_path: Path) -> None:
    copy = tmp_path / "other.ssd"
    copy.write_text(Path(GLA).read_text().replace("N ^ -0.5 * ", ""))
    text = good(GLA, str(copy), "-T", "16")
    assert f"gla ({GLA})" in text and f"gla ({copy})" in text and len(unmeasured) == 2


def test_what_is_predicted_to_be_too_much_is_a_row(
    unmeasured: list[Call], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(comparing, "LONGEST", 0.0)
    result = run(SSD, "-T", "32", *TINY, "--plot", str(tmp_path / "p.png"))
    assert result.exit_code == 0 and unmeasured == []
    assert result.stdout.count("skipped at T=32: ") == 4 and "it is predicted to take" in result.stdout
    assert "nothing to draw" in result.stderr and not (tmp_path / "p.png").exists()
    monkeypatch.setattr(comparing, "LONGEST", 1e9)
    text = good(SSD, ATTENTION, "-T", "32,1048576", *TINY)
    assert "skipped at T=1,048,576: attention, quadratic: it is predicted to need" in text
    assert {call.length for call in unmeasured if call.layer == "attention"} == {32}


def test_what_fails_or_is_not_finite_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "write_reference", lambda *_: Failure("planted"))
    monkeypatch.setattr(comparing, "measure", lambda *_: Failure("it took longer than 120 s"))
    result = run(SSD, "-T", "32", *TINY)
    assert result.stdout.count("it took longer than 120 s") == 4
    assert "errors are left out: the float64 reference of ssd: planted" in result.stderr
    monkeypatch.setattr(comparing, "measure", lambda *_: Measured(1.0, 3, 1, float("inf")))
    assert good(SSD, "-T", "32", *TINY).count("its outputs are not finite") == 4


def test_the_commands_of_the_readme(unmeasured: list[Call], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"ssdc compare (examples/.*)", (ROOT / "README.md").read_text())
    assert len(commands) == 3
    for command in commands:
        unmeasured.clear()
        assert "crossover, predicted: " in good(*shlex.split(command)) and unmeasured
    assert (tmp_path / "crossovers.png").exists() and (tmp_path / "crossovers.json").exists()


def test_a_busy_machine_is_noted(unmeasured: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing.os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    assert "the machine is busy" in run(SSD, "-T", "32", *TINY).stderr


def test_a_picture_marks_crossovers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lines and predictions, a ring at each crossing of either, and words at those of the fastest."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    found = made(
        row("scan", 64, 4e-3, 1e-3), row("quadratic", 64, 1e-3, 2e-3),
        row("scan", 256, 4e-3, 1e-3), row("quadratic", 256, 16e-3, 5e-4),
    )  # fmt: skip
    rows.picture(tmp_path / "p.png", found)
    times, _ = figures[0].axes
    drawn = [(one.get_linestyle(), len(one.get_xdata())) for one in times.lines]  # type: ignore[arg-type]
    assert [kind for kind, count in drawn if count == 2 and kind in ("-", "--")] == ["-", "-", "--", "--"]
    rings = [one.get_xdata()[0] for one in times.lines if one.get_fillstyle() == "none"]  # type: ignore[index]
    assert rings == [128.0, 128.0]
    assert {one.get_text() for one in times.texts} == {"scan", "quadratic", "scan from T = 128"}


# ---- real measurements -----------------------------------------------------------------------------------------------


def test_orderings_are_measured(tmp_path: Path) -> None:
    picture, numbers = tmp_path / "p.png", tmp_path / "n.json"
    text = good(SSD, "-T", "32..64", *TINY, "--plot", str(picture), "--json", str(numbers))
    assert "ssd H=2 P=4 N=3 G=1, float32, b=1, 1 thread" in text
    assert "not legal: fft: 'y' does not admit the order 'fft': the mask's gates vary with time" in text
    assert text.count("-> ") == 3, "the planner's choice at each length, and the caption"
    assert "crossover, measured: " in text and "crossover, predicted: " in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(numbers.read_text())
    assert {one["at"] for one in found["rows"]} == {32, 64}
    assert {one["order"].partition("(")[0] for one in found["rows"]} == {"recurrent", "quadratic", "chunked", "scan"}
    assert set(found["specs"][0]["refused"]) == {"fft", "direct"}
    for one in found["rows"]:
        assert one["skipped"] is None and one["seconds"] > 0 and 0 < one["error"] <= 16, one
        assert one["predicted"] > 0 and one["flop"] > 0 and one["bytes"] > 0 and one["workspace"] > 0, one


def test_gradients_of_layers_that_are_not_causal_are_measured(tmp_path: Path) -> None:
    sizes = ("--size", "H=2", "--size", "N=3,4", "--size", "P=2", "--threads", "1")
    file = tmp_path / "n.json"
    text = good(str(EXAMPLES / "hydra.ssd"), "-T", "20", "-b", "2", "--backward", *sizes, "--json", str(file))
    assert "b=2" in text and "forward and backward" in text and "skipped" not in text
    assert all(0 < one["error"] <= 16 for one in json.loads(file.read_text())["rows"])


def test_a_measurement_sees_memory() -> None:
    """The quadratic order of one head holds a T x T matrix of scores; the recurrent one holds nothing like it."""
    source, sizes, T = pipeline.read(SSD), {"H": 1, "P": 4, "N": 4}, 4096
    found = [
        measure(Call(source, "ssd", sizes, {"y:1": order}, length=T, threads=1), None, 60)
        for order in ("quadratic", "recurrent")
    ]
    assert not any(isinstance(one, Failure) for one in found), found
    quadratic, recurrent = (one.peak for one in found if not isinstance(one, Failure))
    assert 4 * T * T <= quadratic <= 10 * 4 * T * T
    assert recurrent < T * T


def test_a_measurement_that_is_too_large_or_too_slow_is_a_failure() -> None:
    source, sizes = pipeline.read(SSD), {"H": 1, "P": 4, "N": 4}
    large = Call(source, "ssd", sizes, {"y:1": "quadratic"}, length=2**20, threads=1)
    found = measure(large, None, 60)
    assert isinstance(found, Failure) and "it needs more than half of the free memory" in found.reason
    slow = Call(source, "ssd", sizes, {"y:1": "recurrent"}, length=2**18, threads=1)
    assert measure(slow, None, 0.2) == Failure("it took longer than 0 s")


def test_a_process_compares() -> None:
    command = [sys.executable, "-m", "ssdc", "compare", "-", GLA, "-T", "16", *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=Path(SSD).read_text())
    assert done.returncode == 0, done.stderr
    assert "ssd" in done.stdout and "gla" in done.stdout and "Traceback" not in done.stderr
