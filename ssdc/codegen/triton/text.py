"""Kernel contexts -> Triton source, through the one Jinja environment of the package's templates."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

from ssdc.codegen.render import environment
from ssdc.codegen.triton.facts import Kernel


@lru_cache(maxsize=4096)
def source(kernel: Kernel) -> str:
    """The module that defines one kernel, a function under its template's name.

    >>> from ssdc.codegen.triton.facts import Facts, Tiles
    >>> text = source(Kernel("step", Facts("float32", 16, 16), Tiles(16, 16, 16)))
    >>> "def step(" in text
    True
    """
    context = {one.name: getattr(kernel, one.name) for one in fields(kernel)}
    context |= {"limits": kernel.limits, "whole": kernel.whole, "operands": kernel.operands}
    context["gates"] = kernel.gates and kernel.facts.gate != "none"
    text = environment().get_template("triton/module.jinja").render(context)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
