"""Kernel contexts -> Triton source, through the one Jinja environment of the package's templates."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache

from ssdc.codegen.render import environment
from ssdc.codegen.triton import maps
from ssdc.codegen.triton.facts import Kernel


@dataclass(frozen=True)
class Map:
    """The text of an operand's map: each step's value, and of its slope where a kernel takes one."""

    steps: tuple[str, ...]
    slopes: tuple[str, ...]
    zero: bool
    """Whether zero stays zero, so that padding needs no mask."""


SLOPES = {"gradients": ("query", "key"), "values": ("value",), "rows": ("norm",)}
"""The operands (and the norm) whose slope a template takes."""

NORMED = ("walk", "outputs", "recurrent", "rows")
"""The templates that apply the norm."""


@lru_cache(maxsize=4096)
def source(kernel: Kernel) -> str:
    """The module that defines one kernel, a function under its template's name.

    >>> from ssdc.codegen.triton.facts import Facts, Tiles
    >>> text = source(Kernel("recurrent", Facts("float32", 16, 16), Tiles(16, 16, 16)))
    >>> "def recurrent(" in text
    True
    """
    context: dict[str, object] = {one.name: getattr(kernel, one.name) for one in fields(kernel)}
    context |= {"limits": kernel.limits, "whole": kernel.whole, "operands": kernel.operands, "valued": kernel.valued}
    context["gates"] = kernel.learned
    found = _maps(kernel)
    context["maps"] = found
    written = " ".join(text for one in found.values() for text in (*one.steps, *one.slopes))
    context["helpers"] = tuple(name for name in ("less_one", "tanh", "softplus") if f"{name}(" in written)
    text = environment().get_template("triton/module.jinja").render(context)
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(line.rstrip() for line in text.splitlines())) + "\n"


def _maps(kernel: Kernel) -> dict[str, Map]:
    """The maps of the operands that a kernel reads."""
    slopes = SLOPES.get(kernel.template, ())
    chains = {name: chain for name, chain in kernel.facts.tile_maps.items() if name in kernel.operands}
    if kernel.facts.norm is not None and kernel.template in NORMED:
        chains["norm"] = kernel.facts.norm or ("+0.0",)
    return {
        name: Map(maps.values(chain), maps.slopes(chain) if name in slopes else (), maps.keeps_zero(chain))
        for name, chain in chains.items()
    }
