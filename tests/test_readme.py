"""The README is true: its Python runs, its program is the example's, and what it shows of a command is what that
prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ssdc.cli.main import app
from ssdc.source import Source
from ssdc.syntax.parser import parse

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _beside_the_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder that may be written to, which has the examples."""
    (tmp_path / "examples").symlink_to(README.parent / "examples")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def blocks(language: str) -> list[str]:
    return [match[2] for match in BLOCK.finditer(README.read_text()) if match[1] == language]


@pytest.mark.parametrize("place", range(len(blocks("python"))))
def test_python_blocks_run(place: int) -> None:
    exec(compile(blocks("python")[place], f"README.md, block {place}", "exec"), {})


def test_the_program_is_the_example() -> None:
    (shown,) = blocks("ssd")
    example = (README.parent / "examples" / "ssd.ssd").read_text()
    assert parse(Source(shown)) == parse(Source(example))


def test_what_explain_prints(request: pytest.FixtureRequest) -> None:
    text = README.read_text()
    pattern = re.compile(r"```sh\nssdc (explain .*)\n```\n\n```text\n(.*?)```\n", re.DOTALL)
    match = pattern.search(text)
    assert match is not None
    result = CliRunner().invoke(app, shlex.split(match[1]))
    assert result.exit_code == 0, result.output
    printed = "\n".join(line.rstrip() for line in result.stdout.strip().splitlines()) + "\n"
    if request.config.getoption("--update-golden"):
        README.write_text(text.replace(match[2], printed))
    else:
        assert match[2] == printed


def test_files_and_commands_that_it_names_exist() -> None:
    text = README.read_text()
    for path in set(re.findall(r"`((?:ssdc|examples|grammar|templates)/[\w/.]*)`", text)) - {
        "ssdc/structures/yours.py"
    }:
        assert (README.parent / path).exists(), path
    commands = {match[1] for match in re.finditer(r"ssdc (\w+) (?:FILE|examples)", text)}
    names = {command.name for command in app.registered_commands}
    assert commands <= names, commands - names
