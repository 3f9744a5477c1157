"""What every stage makes of every example, kept under tests/golden/<program>: a change of any of it is seen in review.

`pytest tests/test_goldens.py --update-golden` writes the files anew. Sizes that a program leaves open are those of
`SIZES`;
the plan is for a batch of one and 2048 positions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ssdc import errors, pipeline
from ssdc.graph.draw import to_mermaid, to_text
from ssdc.plan.explain import explain
from ssdc.runtime.allowed import check as check_allowed
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
STAGES = ("ast.txt", "graph.txt", "graph.mmd", "plan.txt", "kernels.txt")


@cache
def checked(path: Path) -> pipeline.Checked:
    """The program with every size given."""
    layer = parse(pipeline.read(path)).layers[-1]
    sizes = {size.name: SIZES[size.name] for size in layer.sizes if size.default is None}
    return pipeline.check(path, None, sizes, lenient=False)


@cache
def stages(path: Path) -> dict[str, str]:
    """The text of each stage."""
    tree = {"ast.txt": print_program(parse(pipeline.read(path)))}
    if path.stem in NOT_LOWERED:
        return tree
    found = checked(path)
    graph = found.graph
    free = [
        atom for node in graph.inputs for atom in node.axes if atom != graph.reader and graph.sizes.get(atom) is None
    ]
    plan = pipeline.plan(found, {**dict.fromkeys(free, 1), graph.reader: LENGTH})
    return {
        **tree,
        "graph.txt": to_text(graph) + "\n",
        "graph.mmd": to_mermaid(graph) + "\n",
        "plan.txt": explain(plan, graph) + "\n",
        "kernels.txt": pipeline.text(found, plan),
    }


def kept(path: Path) -> tuple[str, ...]:
    return ("ast.txt",) if path.stem in NOT_LOWERED else STAGES


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_stages(path: Path, golden: Callable[[str, str], None]) -> None:
    found = stages(path)
    assert tuple(found) == kept(path)
    for name, text in found.items():
        golden(f"{path.stem}/{name}", text)


@pytest.mark.parametrize("name", NOT_LOWERED)
def test_what_is_not_lowered_says_so(name: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        checked(ROOT / "examples" / f"{name}.ssd")
    assert {type(fault) for fault in caught.value.faults} == {errors.NotLowered}


def test_no_golden_without_a_program() -> None:
    have = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("*/*") if path.parent.name != "diagnostics"}
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
