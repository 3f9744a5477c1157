"""Which hardware profile stands for a device: the one that was measured here, or one that ships.

In: a kind of device and its name. Out: a `Hardware`. `ssdc calibrate` writes what it measured with `store`, one JSON
file a kind of device, in a directory that belongs to this user alone; `profile` reads it when it is first asked. A
file that is not as it was written is left aside with a warning. `SSDC_PROFILE` names a profile that ships, for plans
that are the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from ssdc.errors import PlanError
from ssdc.plan.hardware import CPU, HARDWARE, Hardware
from ssdc.resources import keep, private

DEVICES = ("cpu", "cuda")


def profile(device: str | None = None, name: str = "") -> Hardware:
    """The profile of a device ("cpu" or "cuda", with the name that its driver gives); of what `SSDC_PROFILE` names, or
    the CPU, if none is given. Raises PlanError where `SSDC_PROFILE` names nothing that ships."""
    wanted = os.environ.get("SSDC_PROFILE", "")
    if wanted and wanted not in HARDWARE:
        raise PlanError(f"SSDC_PROFILE is {wanted!r}; profiles that ship are {', '.join(HARDWARE)}")
    if wanted and device in (None, HARDWARE[wanted].device):
        return HARDWARE[wanted]
    kind = device or "cpu"
    return shipped(kind, name) if wanted else _chosen(kind, name, directory())


def shipped(device: str, name: str = "") -> Hardware:
    """The profile that ships for a device: by its name, or for a GPU that none is for, the least.

    >>> shipped("cuda", "NVIDIA H200").name, shipped("cuda", "NVIDIA L40S").name, shipped("cpu").name
    ('h200', 'a100', 'cpu')
    """
    if device == "cpu":
        return CPU
    return next((one for one in HARDWARE.values() if one.name.upper() in name.upper()), HARDWARE["a100"])


def directory() -> Path:
    """Where measured profiles are: `SSDC_PROFILE_DIR`, or the user's directory of settings."""
    given = os.environ.get("SSDC_PROFILE_DIR")
    return Path(given) if given else Path(platformdirs.user_config_dir("ssdc")) / "profiles"


@lru_cache(maxsize=16)
def _chosen(device: str, name: str, folder: Path) -> Hardware:
    path = folder / f"{device}.json"
    if not path.exists():
        return shipped(device, name)
    try:
        private(folder)
        return decoded(path.read_text(encoding="ascii"), device)
    except (OSError, ValueError) as fault:
        remedy = "run `ssdc calibrate` again, or remove it"
        warnings.warn(f"the measured profile {path} is left aside ({fault}); {remedy}", stacklevel=4)
        return shipped(device, name)


def store(hardware: Hardware) -> Path:
    """Keeps a measured profile for its kind of device. Returns its file; raises OSError where there can be none."""
    path = keep(directory(), f"{hardware.device}.json", encoded(hardware).encode("ascii"))
    _chosen.cache_clear()
    return path


def encoded(hardware: Hardware) -> str:
    """A profile as JSON, with the digest of its figures."""
    figures = asdict(hardware)
    return json.dumps({"digest": _digest(figures), "profile": figures}, indent=1) + "\n"


def decoded(text: str, device: str) -> Hardware:
    """The profile of a JSON text. Raises ValueError where the text is not what `encoded` wrote for that device."""
    try:
        found = json.loads(text)
        figures: dict[str, Any] = found["profile"]
        digest = found["digest"]
        names = set(figures)
    except (KeyError, TypeError, json.JSONDecodeError) as fault:
        raise ValueError("it is no profile") from fault
    if names != {one.name for one in fields(Hardware)} or digest != _digest(figures):
        raise ValueError("its figures are not those that were measured, or of another version")
    if figures["device"] != device:
        raise ValueError(f"it is for {figures['device']}")
    figures["bandwidth"] = tuple((float(most), float(rate)) for most, rate in figures["bandwidth"])
    return Hardware(**figures)


def _digest(figures: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()
