"""Where the grammar and the templates live: inside the installed package, or beside it in a checkout.

The only file that knows. A name comes in; text or a path goes out.
"""

from __future__ import annotations

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
