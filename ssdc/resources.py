"""Where the grammar and the templates live: inside the installed package, or beside it in a checkout. And how files are
kept that belong to this user alone.

The only file that knows. A name comes in; text or a path goes out.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def grammar_text(name: str) -> str:
    """The text of a grammar file.

    >>> grammar_text("ssd.lark").startswith("// The ssd language")
    True
    """
    return (_folder("grammar") / name).read_text(encoding="ascii")


def template_root() -> Path:
    """The folder that holds `triton/` and `torch/`."""
    return _folder("templates")


def _folder(name: str) -> Path:
    """`ssdc/<name>` of a wheel, else `<name>` beside the package. Raises FileNotFoundError where neither is there."""
    for candidate in (_PACKAGE / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"ssdc was installed without its {name}/ folder")


def runtime_text(name: str) -> str:
    """The text of a file of `ssdc/runtime` that generated code calls, for ejected modules to carry."""
    return (_PACKAGE / "runtime" / name).read_text(encoding="ascii")


def keep(directory: Path, name: str, data: bytes) -> Path:
    """A file of `data` in a directory that belongs to this user alone: written under another name, then renamed. Raises
    OSError where that cannot be."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    private(directory)
    path = directory / name
    if not path.is_symlink() and path.is_file() and path.read_bytes() == data:
        return path
    handle, temporary = tempfile.mkstemp(prefix=f".{name}", dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def private(directory: Path) -> None:
    """Raise PermissionError where others may write to a directory."""
    found = directory.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or (hasattr(os, "getuid") and found.st_uid != os.getuid())
        or found.st_mode & 0o022
    ):
        raise PermissionError(f"{directory} is not a directory of this user alone")
