"""What every stage makes of every example, kept under tests/golden/<program>: a change of any of it is seen in review.

`pytest tests/test_goldens.py --update-golden` writes the files anew. Sizes that a program leaves open are those of
`SIZES`;
the plan is for a batch of one and 2048 positions. Triton kernels that several programs share are kept once, under
tests/golden/triton; a program's triton.txt names them in the order in which they run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from ssdc import errors, pipeline
from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.served import launch, served
from ssdc.codegen.triton.service import AnyKernel, text_of
from ssdc.graph.draw import to_mermaid, to_text
from ssdc.plan.candidate import Refusal
from ssdc.plan.explain.outline import in_words
from ssdc.plan.planner import Plan
from ssdc.runtime.allowed import check as check_allowed
from ssdc.source import Source
from ssdc.syntax.parser import parse
from ssdc.syntax.printer import print_program

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
PROGRAMS = sorted((ROOT / "examples").glob("*.ssd"))
SIZES = {"C": 6, "D": 32, "G": 2, "H": 4, "J": 16, "M": 64, "N": 16, "P": 8, "S": 4}
"""Sizes without a default."""
NOT_LOWERED = ("deltanet",)
"""Programs that have a reference and no graph: their tree alone is kept."""
LENGTH = 2048
LONG = 2**20
"""A length at which the kernels are those of large calls."""
STAGES = ("ast.txt", "graph.txt", "graph.mmd", "plan.txt", "kernels.txt", "triton.txt")
SHARED = ("diagnostics", "explain", "triton")
"""Folders that belong to no one program."""


@cache
def checked(path: Path) -> pipeline.Checked:
    """The program with every size given."""
    layer = parse(pipeline.read(path)).layers[-1]
    sizes = {size.name: SIZES[size.name] for size in layer.sizes if size.default is None}
    source = Source(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    return pipeline.check(source, None, sizes, lenient=False)


@cache
def planned(path: Path, length: int = LENGTH) -> Plan:
    found = checked(path)
    return pipeline.plan(found, pipeline.call_sizes(found, T=length))


@cache
def kernels(path: Path, length: int = LENGTH) -> tuple[tuple[str, str, AnyKernel], ...]:
    """The Triton kernels of a program: the contraction, the pass, the kernel; as `ssdc show` prints them."""
    found = served(checked(path).graph, planned(path, length))
    return tuple(
        (name, when, kernel)
        for name, one in found.items()
        if not isinstance(one, Refusal)
        for when, kernel in one.kernels()
    )


def label(kernel: AnyKernel) -> str:
    """A kernel's name among the goldens: all that sets it apart from a plain one, such as
    `step-float32-16x8-gate_varying-16x16x16-w4-s1`."""

    def told(one: Facts | AnyKernel, *skip: str) -> list[str]:
        values = {each.name: (getattr(one, each.name), each.default) for each in fields(one) if each.name not in skip}
        odd = {name: value for name, (value, usual) in values.items() if value != usual}
        texts = [
            f"{'' if value else 'no_'}{n}" if isinstance(value, bool) else f"{n}_{value}" for n, value in odd.items()
        ]
        return [re.sub("[^A-Za-z0-9.]+", "_", text) for text in texts]

    facts, shown = kernel.facts, launch(kernel)
    words = [shown.kernel.replace(" ", "_"), facts.dtype, f"{facts.states}x{facts.columns}"]
    words += told(facts, "dtype", "states", "columns")
    words += [f"{shown.chunk}x{shown.states}x{shown.columns}", f"w{shown.warps}", f"s{shown.stages}"]
    return "-".join((*words, *told(kernel, "template", "role", "facts", "tiles", "warps")))


@cache
def stages(path: Path) -> dict[str, str]:
    """The text of each stage."""
    tree = {"ast.txt": print_program(parse(pipeline.read(path)))}
    if path.stem in NOT_LOWERED:
        return tree
    found = checked(path)
    graph, plan = found.graph, planned(path)
    rows = [
        f"T={length}, {name}, {when}: {label(kernel)}"
        for length in (LENGTH, LONG)
        for name, when, kernel in kernels(path, length)
    ]
    return {
        **tree,
        "graph.txt": to_text(graph) + "\n",
        "graph.mmd": to_mermaid(graph) + "\n",
        "plan.txt": in_words(pipeline.explain(found, plan)) + "\n",
        "kernels.txt": pipeline.text(found, plan),
        "triton.txt": "".join(f"{row}\n" for row in rows) or "none\n",
    }


def kept(path: Path) -> tuple[str, ...]:
    return ("ast.txt",) if path.stem in NOT_LOWERED else STAGES


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_stages(path: Path, golden: Callable[[str, str], None]) -> None:
    found = stages(path)
    assert tuple(found) == kept(path)
    for name, text in found.items():
        golden(f"{path.stem}/{name}", text)


def named() -> dict[str, str]:
    """The sources of all programs' kernels by label; one label is one text."""
    found: dict[str, str] = {}
    for path in (path for path in PROGRAMS if path.stem not in NOT_LOWERED):
        for _, _, kernel in (*kernels(path), *kernels(path, LONG)):
            text = text_of(kernel)
            assert found.setdefault(label(kernel), text) == text, f"{label(kernel)} names two kernels"
    return found


def test_kernels(golden: Callable[[str, str], None]) -> None:
    found = named()
    for name, text in found.items():
        golden(f"triton/{name}.txt", text)
    assert {path.stem for path in (GOLDEN / "triton").iterdir()} == set(found)


def test_what_show_prints_holds_every_kernel() -> None:
    for path in PROGRAMS:
        if path.stem not in NOT_LOWERED:
            shown = pipeline.kernels(checked(path), planned(path))
            for _, _, kernel in kernels(path):
                assert shown.count(text_of(kernel).rstrip()) == 1


@pytest.mark.parametrize("name", NOT_LOWERED)
def test_what_is_not_lowered_says_so(name: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        checked(ROOT / "examples" / f"{name}.ssd")
    assert {type(fault) for fault in caught.value.faults} == {errors.NotLowered}


def test_no_golden_without_a_program() -> None:
    have = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("*/*") if path.parent.name not in SHARED}
    assert have == {f"{path.stem}/{name}" for path in PROGRAMS for name in kept(path)}
    assert [path.name for path in GOLDEN.iterdir() if not path.is_dir()] == []


def test_golden_kernels_are_python_without_a_loose_name(tmp_path: Path) -> None:
    texts = sorted(GOLDEN.glob("*/kernels.txt"))
    assert len(texts) == len(PROGRAMS) - len(NOT_LOWERED)
    for path in texts:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
        check_allowed(text)
        (tmp_path / f"{path.parent.name}.py").write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F", "--output-format", "concise"]
    done = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_sees_a_loose_name(tmp_path: Path) -> None:
    """The check above can fail."""
    for text, code in (("def f():\n    unused = 1\n", "F841"), ("def f():\n    return unknown\n", "F821")):
        (tmp_path / "text.py").write_text(text)
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F", str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode != 0 and code in done.stdout
