"""The command line: what goes to stdout and to stderr, exit statuses, and never a traceback."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from ssdc.cli.main import COMMANDS, app
from ssdc.runtime import verification
from ssdc.runtime.verification import Finding

OF_A_FILE = tuple(command for command in COMMANDS if command != "calibrate")
"""Commands that take a program."""

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SSD = str(EXAMPLES / "ssd.ssd")
FAULTY = """layer two(H) {
  time t, s
  axis b, h = H
  input x[b,t,h]
  mask L[t,s] = causl
  y[b,t,h] = L[t,s] * z[b,s,h]
  output y
}
"""


def run(*arguments: str, stdin: str | None = None) -> Result:
    """A command in this process; anything but a clean exit is raised."""
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def good(*arguments: str, stdin: str | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    path = tmp_path / "faulty.ssd"
    path.write_text(FAULTY)
    return str(path)


# ---- what every command shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", OF_A_FILE)
def test_help(command: str) -> None:
    text = good(command, "--help")
    assert "Usage: " in text and "--size" in text and "--layer" in text


def test_no_command_lists_all() -> None:
    text = run().output
    assert all(command in text for command in COMMANDS)


ENDS = {"eject": ("-o", "OUT")}


@pytest.mark.parametrize("command", OF_A_FILE)
def test_a_faulty_program_is_exit_1_and_says_where(command: str, faulty: str, tmp_path: Path) -> None:
    ends = [str(tmp_path / "out") if end == "OUT" else end for end in ENDS.get(command, ())]
    result = run(command, faulty, *ends)
    assert result.exit_code == 1
    assert result.stdout == ""
    for part in (f"{faulty}:5:17: error[E401]", f"{faulty}:6:23: error[E202]", "did you mean 'causal'", "2 errors"):
        assert part in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", OF_A_FILE)
def test_bad_usage_is_exit_2(command: str, tmp_path: Path) -> None:
    ends = [str(tmp_path / "out") if end == "OUT" else end for end in ENDS.get(command, ())]
    for wrong, said in (
        (("no/such/file.ssd",), "No such file"),
        ((SSD, "--size", "H"), "NAME=VALUE"),
        ((SSD, "--size", "H=0"), "from 1 to 2^31"),
        ((SSD, "--size", "Q=3"), "has no size Q; its sizes: H, P, N, G"),
        ((SSD, "--size", "H=3", "--size", "H=4"), "given twice"),
        ((SSD, "--layer", "sdd"), "no layer 'sdd'"),
        ((SSD, "--nonsense"), "No such option"),
    ):
        result = run(command, *wrong, *ends)
        assert result.exit_code == 2, (wrong, result.output)
        assert result.stdout == ""
        assert said in " ".join(result.stderr.replace("│", " ").split()), (wrong, result.stderr)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\x01binary", b"", b"(" * 100_000, b"layer x(H) { size Q = 9 ^ 9 ^ 9 }"])
def test_what_is_no_program_is_exit_1(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.ssd"
    path.write_bytes(data)
    result = run("check", str(path))
    assert result.exit_code == 1
    assert "error[E" in result.stderr


def test_a_size_that_cannot_be_is_exit_1() -> None:
    result = run("show", str(EXAMPLES / "mamba2.ssd"), "--size", "D=100", "--size", "P=64")
    assert result.exit_code == 1
    assert "error[E" in result.stderr and "H = E * D / P" in result.stderr


def test_an_order_that_is_not_legal_is_exit_1_with_the_reason() -> None:
    result = run("explain", SSD, "--order", "fft")
    assert result.exit_code == 1
    assert "gates vary with time, so it is no convolution" in result.stderr and result.stdout == ""


# ---- check, show, explain, eject -------------------------------------------------------------------------------------


def test_check_reports_each_file(faulty: str) -> None:
    result = run("check", SSD, faulty, str(EXAMPLES / "gla.ssd"))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [f"{SSD}: ok", f"{EXAMPLES / 'gla.ssd'}: ok"]
    assert result.stderr.count("error[") == 2


def test_check_reads_stdin() -> None:
    assert good("check", "-", stdin=Path(SSD).read_text()) == "-: ok\n"
    result = run("check", "-", stdin=FAULTY)
    assert result.exit_code == 1 and "<stdin>:5:17" in result.stderr


STAGES = {
    "ast": "mask L[b,h,t,s] = semiseparable(",
    "graph": "y:1[b,t,g,h%g,p] = contract (C) @ L @ (B * dt * x)",
    "plan": "-> chunked",
    "kernels": "def forward(",
}


@pytest.mark.parametrize("stage", STAGES)
def test_show(stage: str) -> None:
    assert STAGES[stage] in good("show", SSD, "--stage", stage, "--size", "H=8", "-T", "2048")


def test_what_show_prints_can_be_read_again() -> None:
    printed = good("show", SSD, "--stage", "ast")
    assert good("show", "-", "--stage", "ast", stdin=printed) == printed
    ast.parse(good("show", SSD, "--stage", "kernels"))


def test_show_draws_graphs() -> None:
    assert good("show", SSD, "--format", "mermaid").startswith("flowchart")
    assert good("show", SSD, "--format", "dot").startswith("digraph")
    assert run("show", SSD, "--stage", "plan", "--format", "dot").exit_code == 2


def test_chosen_sizes_are_noted_on_stderr() -> None:
    result = run("explain", SSD)
    assert "note: sizes chosen for ssd: H=4" in result.stderr and "note" not in result.stdout
    assert "note" not in run("explain", SSD, "--size", "H=8").stderr


def test_explain_names_the_choice_the_rivals_and_the_refusals() -> None:
    text = good("explain", SSD, "--size", "H=8", "-T", "4096", "-b", "2")
    for part in ("-> chunked", "quadratic", "recurrent", "scan", "fft           no: the mask's gates", "predicted"):
        assert part in text
    assert "-> recurrent" in good("explain", SSD, "--size", "H=8", "--order", "recurrent")
    assert "-> chunked(16)" in good("explain", SSD, "--size", "H=8", "--order", "chunked", "--chunk", "16")


def test_eject_writes_a_file_that_runs_without_ssdc(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    printed = good("eject", SSD, "-o", str(out), "--size", "H=2", "--size", "P=4", "--size", "N=3", "-T", "256")
    assert printed.strip() == str(out / "ssd.py")
    code = "import sys, torch, ssd; sys.modules.get('ssdc') and 1/0; torch.manual_seed(0)\n"
    code += "layer = next(v for v in vars(ssd).values() if isinstance(v, type) and issubclass(v, torch.nn.Module))()\n"
    code += "y = layer(torch.ones(1, 5, 2, 4), torch.ones(1, 5, 2), torch.ones(1, 5, 1, 3), torch.ones(1, 5, 1, 3))\n"
    code += "assert y.shape == (1, 5, 2, 4) and 'ssdc' not in sys.modules, sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = run("eject", SSD, "-o", str(out))
    assert again.exit_code == 2 and "--force" in again.stderr
    good("eject", SSD, "-o", str(out), "--force")


def test_eject_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("eject", SSD, "-o", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_passes_for_an_example() -> None:
    torch.set_num_threads(1)
    sizes = ("--size", "H=2", "--size", "N=4", "--size", "P=3")
    text = good("verify", str(EXAMPLES / "retention.ssd"), *sizes, "-T", "40", "--chunk", "16")
    for order in ("recurrent", "quadratic", "chunked", "scan", "fft"):
        assert order in text
    assert "FAILED" not in text


def test_verify_fails_where_a_check_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def findings(*_: object, **__: object) -> list[Finding]:
        fields = {"order": "chunked", "check": "planted", "error": 99.0, "allowed": 16.0}
        return [Finding(**fields)]  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "verify", findings)
    result = run("verify", SSD)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout and "1 check failed" in result.stderr


# ---- real processes --------------------------------------------------------------------------------------------------


def process(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssdc", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=stdin)


def test_processes_have_these_statuses(faulty: str) -> None:
    fine, wrong, unknown = process("check", SSD), process("check", faulty), process("chek", SSD)
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, f"{SSD}: ok\n", "")
    assert (wrong.returncode, wrong.stdout) == (1, "") and "error[E401]" in wrong.stderr
    assert unknown.returncode == 2 and "No such command" in unknown.stderr
    assert "Traceback" not in wrong.stderr + unknown.stderr


def test_no_colour_where_nobody_sees_it(faulty: str) -> None:
    assert "\x1b" not in process("check", faulty).stderr + process("explain", SSD).stdout


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m ssdc show {SSD} --stage kernels --size H=8 | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
