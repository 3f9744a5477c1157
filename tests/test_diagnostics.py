"""Each program of tests/diagnostics is faulty, and says in its first line what must be found and where.

`# expect: E112 4:3, E201 7:10` lists code and line:column of every fault, in order. A line `# repeat 60: TEXT` stands
for 60 times TEXT, on one line. What the user sees is in tests/golden/diagnostics.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssdc import errors, pipeline
from ssdc.source import Source

FOLDER = Path(__file__).parent / "diagnostics"
PROGRAMS = sorted(FOLDER.glob("*.ssd"))
EXPECT = re.compile(r"# expect: (E\d{3} \d+:\d+(?:, E\d{3} \d+:\d+)*)")
REPEAT = re.compile(r"^[ ]*# repeat (\d+): (.*)$", re.MULTILINE)
SECTION = re.compile(r"^# ---- (E\d)xx: .* -+$")

# Found where parameters are drawn or sizes are due, so by `compile`; all others by `check`, with no torch.
BY_COMPILE = ("E206", "E254", "E256")


def check_text(source: Source) -> None:
    pipeline.check(source)
    if source.name.startswith(BY_COMPILE):
        pipeline.compile(source)


def read(path: Path) -> Source:
    text = path.read_bytes().decode()
    return Source(REPEAT.sub(lambda match: int(match[1]) * match[2], text), path.name)


def expected(path: Path) -> list[str]:
    first = path.read_text().split("\n", 1)[0]
    match = EXPECT.fullmatch(first)
    return match[1].split(", ") if match else []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_diagnostic(path: Path, golden: Callable[[str, str], None]) -> None:
    source = read(path)
    with pytest.raises(errors.SpecError) as caught:
        check_text(source)
    found = [
        f"{fault.code} {line}:{column}"
        for fault in caught.value.faults
        for line, column in [source.position(fault.span.start)]
    ]
    assert found == expected(path), f"the first line of {path.name} says otherwise:\n{caught.value}"
    assert path.name[:4] in {entry[:4] for entry in found}, "the name of the file begins with a code that it shows"
    golden(f"diagnostics/{path.stem}.txt", str(caught.value) + "\n")


def test_no_golden_without_a_program() -> None:
    goldens = (FOLDER.parent / "golden" / "diagnostics").glob("*")
    assert {path.name for path in goldens} <= {f"{path.stem}.txt" for path in PROGRAMS}


# ---- the catalogue --------------------------------------------------------------------------------------------------


def catalogue(base: type[errors.Fault] = errors.Fault) -> Iterator[type[errors.Fault]]:
    for fault in base.__subclasses__():
        if fault.__module__ == errors.__name__:
            yield fault
            yield from catalogue(fault)


def sections() -> dict[str, str]:
    """The section of the file, `E1` and so on, in which each class stands."""
    found: dict[str, str] = {}
    section = ""
    for line in inspect.getsource(errors).split("\n"):
        if heading := SECTION.match(line):
            section = heading[1]
        elif name := re.match(r"class (\w+)\(", line):
            found[name[1]] = section
    return found


def test_codes_are_unique_and_of_their_section() -> None:
    where = sections()
    codes = [fault.code for fault in catalogue()]
    assert len(codes) > 20
    assert sorted(set(codes)) == sorted(codes), "a code is used twice"
    wrong = [fault.__name__ for fault in catalogue() if not re.fullmatch(where[fault.__name__] + r"\d\d", fault.code)]
    assert wrong == []


def test_every_fault_says_something() -> None:
    assert [fault.__name__ for fault in catalogue() if not fault.message or fault.message.endswith(".")] == []


def test_every_fault_has_a_diagnostic() -> None:
    shown = {entry[:4] for path in PROGRAMS for entry in expected(path)}
    missing = [f"{fault.code} {fault.__name__}" for fault in catalogue() if fault.code not in shown]
    assert missing == [], "no file of tests/diagnostics shows " + ", ".join(missing)
    assert shown <= {fault.code for fault in catalogue()}
