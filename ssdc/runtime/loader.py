"""Generated text -> functions, through a file: torch.compile and Triton read the source of what they trace.

Files are content-addressed in the user's cache directory: written to a temporary name and renamed, compared with the
text on every load, never unpickled. Where that directory cannot be had, a temporary one serves.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs

from ssdc.resources import keep
from ssdc.runtime.allowed import check
from ssdc.runtime.opaque import RESOLVERS


def _resolve(text: str, name: str) -> Callable[..., Any]:
    """A function of a generated text."""
    found: Callable[..., Any] = getattr(load(text), name)
    return found


RESOLVERS.append(_resolve)


@lru_cache(maxsize=1024)
def load(text: str) -> ModuleType:
    """The module of a generated text, loaded once a process."""
    check(text)
    name = f"ssdc_generated_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    path = _stored(name, text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module  # torch.compile imports the module of what it traces by its name
    module.__dict__["TEXT"] = text
    exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102
    return module


def cache_directory() -> Path:
    """The directory of generated files: `SSDC_CACHE_DIR`, or the user's cache directory."""
    given = os.environ.get("SSDC_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("ssdc")) / "generated"


def _stored(name: str, text: str) -> Path:
    for directory in (cache_directory, _temporary):
        try:
            return keep(directory(), f"{name}.py", text.encode())
        except OSError:
            continue
    raise OSError("no directory to keep generated code in; set SSDC_CACHE_DIR to one that can be written")


@lru_cache(maxsize=1)
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="ssdc-"))
