"""The golden helper of tests/conftest.py: it compares, it writes under its flag, and an unread golden fails the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest
@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt"])
def test_golden(golden, name):
    golden(name, "text of " + name)
"""


def run(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_goldens(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    missing, _ = run(tmp_path, *workers)
    written, _ = run(tmp_path, *workers, "--update-golden")
    same, _ = run(tmp_path, *workers)
    assert (missing, written, same) == (1, 0, 0)
    assert (tmp_path / "golden" / "deep" / "b.txt").read_text() == "text of deep/b.txt"

    (tmp_path / "golden" / "orphan.txt").write_text("")
    status, out = run(tmp_path, *workers)
    assert status == 1 and "orphan.txt" in out and "a.txt" not in out
    narrowed, _ = run(tmp_path, *workers, "-k", "a.txt")
    assert narrowed == 0

    (tmp_path / "golden" / "orphan.txt").unlink()
    (tmp_path / "golden" / "a.txt").write_text("another text")
    status, out = run(tmp_path, *workers)
    assert status == 1 and "-another text" in out and "+text of a.txt" in out
