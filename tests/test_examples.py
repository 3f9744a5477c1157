"""The scripts of `examples/` run: in their quick modes, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"examples/{script}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_every_script_has_a_test() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {"measure_ssd.py", "train_text.py"}


def test_measure_ssd() -> None:
    pytest.importorskip("transformers")
    done = run("measure_ssd.py", "--quick", "--threads", "1")
    assert done.returncode == 0, done.stderr
    rows = {cells[0]: cells[1:] for cells in (line.strip("│ ").split("│") for line in done.stdout.splitlines())}
    found = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    ours, theirs = found["ssdc, planned ordering"], found["transformers mamba2_chunk_scan, chunk 64"]
    for time, error, _ in (ours, theirs):
        assert float(time) > 0 and 0 < float(error) <= 16
    assert theirs[2].endswith(" x")
    for name in ("step, ssdc", "step, by hand in torch", "ssdc check, whole process", "ssdc.compile, warm process"):
        assert float(found[name][0].replace(",", "")) > 0, name
    assert float(found["step, ssdc"][2].removeprefix("largest difference ")) < 1e-5
    assert any("bytes a position" in cells[2] for name, cells in found.items() if name.startswith("chunked"))


def test_train_text() -> None:
    """A few steps of a small model do not reach the bigram, so that the status is 1; a faulty run would say why."""
    sizes = ("--steps", "40", "--batch", "8", "--length", "32", "--width", "32", "--depth", "1")
    done = run("train_text.py", *sizes, "--characters", "20")
    assert "Traceback" not in done.stderr and done.returncode in (0, 1), done.stderr
    rows = [line.partition(":")[2].split()[0] for line in done.stdout.splitlines() if line.startswith("held out, ")]
    bigram, model = (float(row) for row in rows)
    assert 2 < bigram < 3 and model < 4.2, "better than guessing among 96 characters"
    assert ("did not get below" in done.stderr) == (done.returncode == 1) == (model >= bigram)
    assert "\nThe " in done.stdout
