"""Runs the walks for Hopper on the CPU (`tests.support.gluon`, and Triton's interpreter for the kernels around them, so
a process of its own: it is switched on before Triton is imported), and prints errors.

Arguments: nothing. Output: one JSON object, from case and segments to the errors in units of u * sum|terms|.
"""

from __future__ import annotations

import json

import torch

from tests.support import gluon, hopper
from tests.support.masked import CASES, Case

MORE = (
    Case(length=200, states=64, columns=64),
    Case(length=140, states=128, columns=96, scale=True, skip="head", heads=2),
    Case(length=300, states=80, columns=24, batch=1),
    Case(length=65, states=160, columns=192, batch=1, heads=2, scale=True),
)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {}
    with gluon.emulated():
        for place, case in enumerate((*CASES, *MORE)):
            if hopper.served(case, torch.bfloat16, "cpu"):
                segments = 1 + place % 3
                found[f"{case}, {segments} segments"] = hopper.errors(case, torch.bfloat16, segments, "cpu")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
