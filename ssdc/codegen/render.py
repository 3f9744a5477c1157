"""Kernels and contexts -> text, through one Jinja environment over the package's templates alone."""

from __future__ import annotations

from functools import cache

import jinja2

from ssdc.codegen.forward import forward
from ssdc.codegen.step import step
from ssdc.codegen.tidy import tidy
from ssdc.graph.graph import Graph
from ssdc.plan.planner import Plan
from ssdc.resources import template_root

IMPORTS = """\
from ssdc.runtime.blocks import *
from ssdc.runtime.opaque import run
from ssdc.runtime.primitives import linear_scan, recurrent, running_sum"""
"""What generated text calls; an ejected module carries these files instead."""


@cache
def environment() -> jinja2.Environment:
    """The one Jinja environment; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_root()),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )


def render(graph: Graph, plan: Plan, imports: str = IMPORTS, backend: str = "torch") -> str:
    """The PyTorch module of a graph under a plan: functions `forward` and, for a layer that can step, `step`.

    With the backend `triton`, contractions that the Triton kernels serve call them.
    """
    kernels, context = forward(graph, plan, backend)
    if any(kernel.template == "masked" for kernel in kernels):
        imports += "\nfrom ssdc.runtime.kernels.masked import masked"
    if any(kernel.template == "streamed" for kernel in kernels):
        imports += "\nfrom ssdc.runtime.kernels.streamed import folded, streamed"
    template = environment().get_template("torch/module.jinja")
    text = template.render(kernels=kernels, forward=context, step=step(graph, plan, backend), imports=imports)
    return tidy("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
