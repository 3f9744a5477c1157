"""The `--update-golden` flag, the `golden` fixture, and the rule that a golden which no test reads is an error."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
_USED = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the goldens instead of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["SSDC_PROFILE"] = "cpu"  # plans, and so goldens, are those of the profile that ships
    config.stash[_USED] = set()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("diagnostics/E103_deep.txt", text)` compares with, or under the flag writes, a file of tests/golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        request.config.stash[_USED].add(name)
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.is_file(), f"tests/golden/{name} is missing: read the text, then use --update-golden\n{text}"
        wanted = path.read_text(encoding="utf-8")
        if wanted != text:
            rows = difflib.unified_diff(wanted.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="")
            pytest.fail("\n".join(rows), pytrace=False)

    return check


# ---- orphans: after a run of everything, each golden must have been read -------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """A worker of pytest-xdist hands over what it read."""
    used = getattr(node, "workeroutput", {}).get("goldens", ())
    node.config.stash[_USED].update(used)  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["goldens"] = sorted(config.stash[_USED])
    elif exitstatus == pytest.ExitCode.OK and _complete(config):
        orphans = find_orphans(GOLDEN, config.stash[_USED])
        if orphans:
            reporter = config.pluginmanager.get_plugin("terminalreporter")
            reporter.write_line("goldens that no test reads: " + ", ".join(orphans), red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _complete(config: pytest.Config) -> bool:
    """Every test was asked for: no selection by path, word, mark, or earlier failure."""
    narrowed = ("keyword", "markexpr", "lf", "last_failed", "deselect", "collectonly", "maxfail")
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    return whole and not any(config.getoption(name, None) for name in narrowed)


def find_orphans(folder: Path, used: set[str]) -> list[str]:
    """The files of a folder that were not used."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(present - used)
