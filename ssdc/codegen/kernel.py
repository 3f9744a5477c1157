"""The context of a template: what every ordering's function has, as typed text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kernel:
    """One function of the generated module. `sections` are lists of statements that the template sets between its own."""

    template: str
    name: str
    title: str
    parameters: tuple[str, ...]
    histories: tuple[str, ...]
    sections: Mapping[str, tuple[str, ...]]
    values: Mapping[str, object] = field(default_factory=dict)
