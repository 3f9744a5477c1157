"""Kernels that `ssdc tune` found faster than those of the cost model, kept in the user's cache and looked up at calls.

An entry is a file `tuned/<SHA-256 of its content>.json` in the directory of generated code: what was asked (device,
Triton's version, pass, facts and sizes of a call), the kernels that won, and a digest of their sources. Entries are
read once a process. One whose content is not what its name says, that does not decode, or whose kernels would not be
those that were checked, is refused with a warning, and the cost model's choice stands.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from ssdc.codegen.triton import choose, hopper
from ssdc.codegen.triton.configuration import Backward, Call, Form, Forward
from ssdc.codegen.triton.facts import Facts, Kernel
from ssdc.codegen.triton.text import source
from ssdc.plan.hardware import H200, Hardware
from ssdc.plan.profiles import profile
from ssdc.resources import keep, private
from ssdc.runtime.devices import name_of
from ssdc.runtime.loader import cache_directory

Choice = Forward | Backward
Pass = Literal["forward", "backward"]
TYPES: Mapping[Pass, type[Forward] | type[Backward]] = {"forward": Forward, "backward": Backward}


@dataclass(frozen=True)
class Request:
    """What a call asks the cost model: `gates` tells whether gradients of gates are wanted."""

    kind: Pass
    facts: Facts
    call: Call
    gates: bool = False

    def rule(self, hardware: Hardware = H200) -> Choice:
        """The cost model's answer."""
        if self.kind == "forward":
            return choose.forward(self.facts, self.call, hardware=hardware)
        return choose.backward(self.facts, self.call, self.gates, hardware=hardware)


def forward(facts: Facts, call: Call, device: torch.device, form: Form | None = None) -> Forward:
    """The kernels of a forward call, of a form where one is given."""
    if form is not None:
        return choose.forward(facts, call, form, hardware=hardware(device))
    found = _chosen(Request("forward", facts, call), device) if _busy() else None
    return found if isinstance(found, Forward) else choose.forward(facts, call, hardware=hardware(device))


def backward(facts: Facts, call: Call, gates: bool, device: torch.device) -> Backward:
    """The kernels of a backward call."""
    found = _chosen(Request("backward", facts, call, gates), device) if _busy() else None
    return found if isinstance(found, Backward) else choose.backward(facts, call, gates, hardware=hardware(device))


@lru_cache(maxsize=64)
def hardware(device: torch.device) -> Hardware:
    """The profile that kernels on a device are chosen by."""
    return profile("cuda", name_of(str(device))) if device.type == "cuda" else H200


def listens() -> bool:
    """Whether a session wants to hear what calls ask."""
    return bool(_sessions)


def kept() -> int:
    """A number that changes when entries are read anew."""
    return id(_entries())


def _busy() -> bool:
    """Whether anything but the cost model may have a say."""
    return bool(_sessions) or bool(_entries())


def _chosen(request: Request, device: torch.device) -> Choice | None:
    if _sessions:
        return _sessions[-1].answer(request)
    return _lookup(request, device)


# ---- sessions: what calls ask, and other answers ---------------------------------------------------------------------


@dataclass
class Session:
    """What the calls within it asked, in order; `forced` answers all requests of its pass, the model the others."""

    forced: Choice | None = None
    requests: list[Request] = field(default_factory=list)

    def answer(self, request: Request) -> Choice | None:
        """The forced choice, where it is for this pass."""
        self.requests.append(request)
        return self.forced if isinstance(self.forced, TYPES[request.kind]) else None


_sessions: list[Session] = []


@contextmanager
def session(forced: Choice | None = None) -> Iterator[Session]:
    """Within it, kernels are those of the cost model but for a forced choice, and requests are recorded."""
    _sessions.append(Session(forced))
    try:
        yield _sessions[-1]
    finally:
        _sessions.pop()


# ---- entries ---------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, str]:
    """What times depend on besides a request."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    return {"device": name, "triton": importlib.metadata.version("triton")}


def store(request: Request, choice: Choice, device: torch.device, measured: Mapping[str, float]) -> Path:
    """Keeps a choice that was checked and timed; what was kept for the same request goes. Raises OSError."""
    key = _key(request, machine(device))
    content = {"key": json.loads(key), "choice": asdict(choice), "sources": sources(choice), "measured": dict(measured)}
    data = _canonical(content).encode()
    for name, entry in _entries().items():
        if name == key:
            entry.path.unlink(missing_ok=True)
    path = keep(directory(), f"{hashlib.sha256(data).hexdigest()}.json", data)
    forget()
    return path


def directory() -> Path:
    """Where entries are kept."""
    return cache_directory() / "tuned"


def forget() -> None:
    """Entries are read anew at the next call."""
    _entries.cache_clear()
    _lookup.cache_clear()


def sources(choice: Choice) -> str:
    """A digest of the sources of all kernels of a choice."""
    texts = [source(kernel) for kernel in kernels(choice)]
    if choice.form == "hopper":
        texts += [hopper.source(hopper.Walk(role, choice.states.facts)) for role in get_args(hopper.Role)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def kernels(choice: Choice) -> tuple[Kernel, ...]:
    """The kernels of a choice, run or not."""
    found = (getattr(choice, one.name) for one in fields(choice))
    return tuple(one for one in found if isinstance(one, Kernel))


@dataclass(frozen=True)
class _Entry:
    path: Path
    content: Mapping[str, Any]


@lru_cache(maxsize=1)
def _entries() -> dict[str, _Entry]:
    """The entries by key, each with the content that its name promises."""
    where = directory()
    if not where.exists():
        return {}
    found: dict[str, _Entry] = {}
    try:
        private(where)
        paths = sorted(where.glob("*.json"))
    except OSError as error:
        _refuse(where, str(error))
        return {}
    for path in paths:
        try:
            data = b"" if path.is_symlink() else path.read_bytes()
            if hashlib.sha256(data).hexdigest() != path.stem:
                raise ValueError("its content is not what its name says")
            content = json.loads(data)
            found[_canonical(content["key"])] = _Entry(path, content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _refuse(path, str(error))
    return found


@lru_cache(maxsize=4096)
def _lookup(request: Request, device: torch.device) -> Choice | None:
    entry = _entries().get(_key(request, machine(device)))
    if entry is None:
        return None
    try:
        choice: Choice = decoded(TYPES[request.kind], entry.content["choice"])
        if any(kernel.facts != request.facts for kernel in kernels(choice)):
            raise ValueError("its kernels are for something else")
        if sources(choice) != entry.content["sources"]:
            raise ValueError("the kernels have changed since")
    except (ValueError, KeyError, TypeError) as error:
        _refuse(entry.path, str(error))
        return None
    return choice


def _refuse(path: Path, why: str) -> None:
    warnings.warn(
        f"tuned kernels of {path.name} are not used: {why}; run ssdc tune again", RuntimeWarning, stacklevel=4
    )


def _key(request: Request, where: Mapping[str, str]) -> str:
    return _canonical({**where, **asdict(request)})


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


# ---- decoding --------------------------------------------------------------------------------------------------------


def decoded(hint: Any, value: Any) -> Any:
    """A value of a type (a dataclass, a literal, a tuple, a number or a text, or nothing instead) from what JSON made
    of it. Raises ValueError.

    >>> from ssdc.codegen.triton.facts import Tiles
    >>> decoded(Tiles, {"chunk": 64, "inner": 64, "outer": 32, "warps": 4, "stages": 1})
    Tiles(chunk=64, inner=64, outer=32, warps=4, stages=1)
    """
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        names = [one.name for one in fields(hint)]
        if not isinstance(value, dict) or sorted(value) != sorted(names):
            raise ValueError(f"it has no {hint.__name__} of today")
        return hint(**{name: decoded(hints[name], value[name]) for name in names})
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{value!r} is none of {get_args(hint)}")
        return value
    if get_origin(hint) is UnionType:
        return None if value is None else decoded(get_args(hint)[0], value)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, list) or (inner[-1] is not Ellipsis and len(inner) != len(value)):
            raise ValueError(f"{value!r} is no {hint}")
        each = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        return tuple(decoded(one, part) for one, part in zip(each, value, strict=True))
    if type(value) is not hint:
        raise ValueError(f"{value!r} is no {hint}")
    return value
