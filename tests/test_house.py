"""The rules of the house, each a test: layers, lint, types, tables, the tree, start-up and the distribution."""

from __future__ import annotations

import ast
import fnmatch
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssdc.codegen.forward import FORMS
from ssdc.plan.planner import ORDERINGS

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {"pyproject.toml", "ssdc", "grammar", "templates", "tests", "examples", "README.md", "LICENSE"}
ALLOWED_DOTTED = {".gitignore", ".ci"}
PROGRAM = ROOT / "examples" / "mamba2.ssd"
PROGRAMS = sorted(PROGRAM.parent.glob("*.ssd"))
LIBRARIES = "import lark, networkx, typer\ndef command(file: str) -> None: ...\ntyper.run(command)"
"""The least that a command over a grammar and a graph costs: its libraries, and one argument read."""
NOT_LOWERED = {"deltanet"}
"""Examples that `ssdc check` says are legal but not lowered yet."""

TABLES = {
    "structures": ("structures/__init__.py", "STRUCTURES"),
    "plan/orders": ("plan/planner.py", "ORDERINGS"),
    "codegen/orders": ("codegen/forward.py", "FORMS"),
    "cli": ("cli/main.py", "COMMANDS"),
}
"""Rooms whose modules are entries of a literal table: the file that has it, and its name."""

SERVING = {
    "structures": {"algebra", "arguments", "bounds", "facts", "interval", "kernel", "loggate", "product", "walk"},
    "plan/orders": {"blocks", "passes"},
    "codegen/orders": set(),
    "cli": {
        "main",
        "console",
        "options",
        "varied",
        "comparing",
        "measuring",
        "plot",
        "rows",
        "benching",
        "dots",
        "regret",
    },
}
"""Modules of these rooms that serve the others, and that no table names."""


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)


def passes(*command: str | Path, **options: object) -> str:
    done = run(*command, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- lint, types, layers --------------------------------------------------------------------------------------------


def test_ruff_finds_nothing() -> None:
    passes(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_mypy_strict_finds_nothing(tmp_path: Path) -> None:
    passes(sys.executable, "-m", "mypy", "--cache-dir", tmp_path)


def test_imports_run_one_way() -> None:
    out = passes(sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache")
    assert "0 broken" in out


# ---- tables ---------------------------------------------------------------------------------------------------------


def imported_names(tree: ast.Module, room: str) -> dict[str, str]:
    """Name in this file -> module of the room (`ssdc.plan.orders`) that it comes from."""
    names = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if node.module == room:
                    names[alias.asname or alias.name] = alias.name
                elif node.module.startswith(f"{room}."):
                    names[alias.asname or alias.name] = node.module.removeprefix(f"{room}.").partition(".")[0]
    return names


def tabled(tree: ast.Module, room: str, table: str) -> set[str]:
    """The modules of the room that the literal dict `table` at the top of this file names."""
    names = imported_names(tree, room)
    for statement in tree.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(values=values)) if name == table:
                return {names[node.id] for value in values for node in ast.walk(value) if isinstance(node, ast.Name)}
    raise AssertionError(f"{table} is no literal table at the top of its file")


@pytest.mark.parametrize("room", sorted(TABLES))
def test_every_module_is_named_by_a_table(room: str) -> None:
    file, table = TABLES[room]
    present = {path.stem for path in (ROOT / "ssdc" / room).glob("*.py")} - {"__init__"}
    named = tabled(ast.parse((ROOT / "ssdc" / file).read_text()), f"ssdc.{room.replace('/', '.')}", table)
    assert present - named - SERVING[room] == set(), "neither an entry of the table nor known to serve the others"
    assert SERVING[room] & named == set(), "an entry of the table"
    assert SERVING[room] - present == set(), "named here, but gone"


def test_a_module_that_no_table_names_is_seen() -> None:
    text = "from ssdc.cli.check import check\nfrom ssdc.cli.show import show\nT: dict = {'check': check}\nshow()"
    assert tabled(ast.parse(text), "ssdc.cli", "T") == {"check"}
    with pytest.raises(AssertionError, match="no literal table"):
        tabled(ast.parse(text.replace("{'check': check}", "dict(check=check)")), "ssdc.cli", "T")


def test_every_ordering_has_text() -> None:
    assert list(ORDERINGS) == list(FORMS)


# ---- the tree -------------------------------------------------------------------------------------------------------


def ignored(name: str) -> bool:
    patterns = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split() if not line.startswith("#")]
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def test_the_top_level_holds_what_it_should() -> None:
    present = {name for name in os.listdir(ROOT) if not name.startswith(".") and not ignored(name)}
    assert present == ALLOWED


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_git_tracks_nothing_else_at_the_top_level() -> None:
    tracked = {line.split("/")[0] for line in passes("git", "ls-files").splitlines()}
    assert tracked <= ALLOWED | ALLOWED_DOTTED


def test_the_readme_names_the_command_that_ci_runs() -> None:
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command.startswith("python -m pip install")
    assert command in (ROOT / "README.md").read_text()


# ---- start-up -------------------------------------------------------------------------------------------------------


def test_check_imports_no_torch() -> None:
    code = (
        "import sys; from ssdc.cli.main import app; app(['check', *sys.argv[1:]], standalone_mode=False)\n"
        "print(sorted({'torch', 'triton', 'matplotlib', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    programs = [path for path in PROGRAMS if path.stem not in NOT_LOWERED]
    assert passes(sys.executable, "-c", code, *programs).splitlines()[-1] == "[]"


def processor_seconds(*command: str | Path, env: dict[str, str]) -> float:
    """What one run of a command costs: user and system time, which a busy machine inflates little."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen([str(part) for part in command], stdout=silent, stderr=silent, env=env)
    _, ended, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(ended)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python keeps its bytecode, as it does for users."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}
    passes(sys.executable, "-m", "ssdc", "check", PROGRAM, env=env)
    return env


def test_check_is_quick(compiled_once: dict[str, str]) -> None:
    """At most 2.5 times what its libraries cost. The least of up to five turns each: other work only ever adds."""
    check, libraries = list[float](), list[float]()
    for _ in range(5):
        libraries.append(processor_seconds(sys.executable, "-c", LIBRARIES, PROGRAM, env=compiled_once))
        check.append(processor_seconds(sys.executable, "-m", "ssdc", "check", PROGRAM, env=compiled_once))
        if min(check) < 2.5 * min(libraries):
            return
    pytest.fail(f"{min(check):.2f} s, of which its libraries take {min(libraries):.2f} s")


# ---- the distribution -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    passes(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def data_files() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in ("grammar", "templates")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_package_grammar_and_templates(distributions: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    assert {f"ssdc/{name}" for name in data_files()} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "ssdc").rglob("*.py")} <= names
    assert {name.split("/")[0] for name in names} == {"ssdc", "ssdc-0.1.0.dist-info"}


def test_the_sdist_holds_the_whole_tree(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert data_files() | {"README.md", "LICENSE", "pyproject.toml", "tests/test_house.py", "examples/ssd.ssd"} <= names


def test_the_wheel_works_away_from_the_checkout(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, distributions[1])
    passes(sys.executable, *install)
    (elsewhere / "layer.ssd").write_text(PROGRAM.read_text())
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["PYTHONPATH"] = str(target)
    place = passes(sys.executable, "-c", "import ssdc; print(ssdc.__file__)", cwd=elsewhere, env=env)
    assert Path(place.strip()).is_relative_to(target)
    assert "layer.ssd: ok" in passes(sys.executable, "-m", "ssdc", "check", "layer.ssd", cwd=elsewhere, env=env)
    kernels = passes(sys.executable, "-m", "ssdc", "show", "layer.ssd", "--stage", "kernels", cwd=elsewhere, env=env)
    assert "import torch" in kernels
