"""Five processes, at once on one GPU, compute the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tests.support.device import marks
from tests.support.run_digest import NAMES, computed, digest

pytestmark = marks
ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 5


def test_processes_agree() -> None:
    mine = digest()
    command = [sys.executable, "-m", "tests.support.run_digest"]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    done = [process.communicate(timeout=150) for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES, done[0][1]
    assert [out.strip() for out, _ in done] == [mine] * PROCESSES


def test_what_is_digested_is_finite_and_not_constant() -> None:
    for name in NAMES:
        for x in computed(name, torch.bfloat16):
            assert bool(x.isfinite().all()) and (x.numel() < 2 or float(x.float().std()) > 0)
