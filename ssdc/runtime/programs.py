"""The generated functions of a layer, by what a call is: its sizes, whether it is packed, whether Triton's kernels
serve it.

Sizes are rounded up to powers of two, so that few plans serve all lengths. While torch traces, one plan serves every
length.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.operands import operands
from ssdc.codegen.render import render
from ssdc.codegen.triton.contraction import refusal
from ssdc.errors import CallError, OrderError
from ssdc.graph.graph import Graph
from ssdc.graph.packing import pack
from ssdc.plan.planner import Order, Plan, plan
from ssdc.runtime.kernels.launch import available, interpreted
from ssdc.runtime.loader import load

NOMINAL_LENGTH = 2048
"""The length for which a plan is made where the call's own is not known: while torch traces."""


class Programs:
    """Plans and generated functions of one graph. `free` are the atoms that each call decides, the reader last."""

    def __init__(self, graph: Graph, order: Order, chunk: int | None, backend: str) -> None:
        self.graph, self.order, self.chunk, self.backend = graph, order, chunk, backend
        found = dict.fromkeys(axis for node in graph.inputs for axis in node.axes if not node.name.startswith("@"))
        reader = graph.reader
        self.free = (*(atom for atom in found if atom != reader and graph.sizes.get(atom) is None), reader)
        self._packed: Graph | None = None
        self._made: dict[tuple[bool, bool, tuple[int, ...]], ModuleType] = {}
        if backend == "triton":
            self._insist()
        self._trace()

    def _insist(self) -> None:
        """Raises OrderError, with the reasons, where Triton's kernels serve no contraction of the layer."""
        choices = self.plan(self.nominal()).choices.values()
        reasons = {choice.problem.equation: refusal(operands(self.graph, choice)) for choice in choices}
        if None not in reasons.values():
            why = "; ".join(f"'{name}': {reason}" for name, reason in reasons.items()) or "it has no masked contraction"
            raise OrderError(f"the Triton kernels serve nothing of {self.graph.layer} ({why}); use backend='auto'")

    def _trace(self) -> None:
        """The functions that every length shares while torch traces, made ahead: with torch, and with the kernels."""
        self.traced = self._module(False, self.nominal(), False)
        kernels = self.backend == "triton" or (self.backend == "auto" and self.chunk is None and available())
        self.traced_kernels = self._module(False, self.nominal(), True) if kernels else None

    def __getstate__(self) -> dict[str, Any]:
        """All but what is generated, for copies and pickles."""
        return {**self.__dict__, "_made": {}, "traced": None, "traced_kernels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._trace()

    def nominal(self) -> dict[str, int]:
        """The sizes of a call where nothing is known of it."""
        return {atom: NOMINAL_LENGTH if atom == self.graph.reader else 1 for atom in self.free}

    def sizes(self, given: dict[str, int]) -> dict[str, int]:
        """The sizes of a call by atom, from names as users give them. Raises CallError."""
        sizes = self.nominal()
        for name, size in given.items():
            atom = self.graph.reader if name == "T" and "T" not in sizes else name
            if atom not in sizes:
                known = f"T{''.join(', ' + a for a in self.free[:-1])}"
                raise CallError(f"{self.graph.layer} has no per-call size '{name}'; it has {known}")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise CallError(f"the size {name} is {size!r}, and needs to be a whole number, at least 0")
            sizes[atom] = size
        return sizes

    def plan(self, sizes: dict[str, int]) -> Plan:
        """The plan for a call of exactly these sizes."""
        return plan(self.graph, sizes, order=self.order, chunk=self.chunk)

    def packed(self) -> Graph:
        """The graph of a call with packed documents."""
        if self._packed is None:
            self._packed = pack(self.graph)
        return self._packed

    def module(self, sizes: dict[str, int], *, packed: bool, kernels: bool) -> ModuleType:
        """The generated functions for a call."""
        if not torch.compiler.is_compiling():
            return self._module(packed, sizes, kernels)
        if packed:
            return self._module(packed, {}, kernels)
        found = self.traced_kernels if kernels else self.traced
        assert found is not None
        return found

    def _module(self, packed: bool, sizes: dict[str, int], kernels: bool) -> ModuleType:
        rounded = tuple(1 << max(0, sizes.get(atom, 1) - 1).bit_length() for atom in self.free)
        key = (packed, kernels, rounded)
        if key not in self._made:
            graph = self.packed() if packed else self.graph
            found = plan(graph, dict(zip(self.free, rounded, strict=True)), order=self.order, chunk=self.chunk)
            self._made[key] = load(render(graph, found, backend="triton" if kernels else "torch"))
        return self._made[key]

    def by_kernels(self, inputs: list[Tensor]) -> bool:
        """Whether Triton's kernels serve a call. Raises CallError where they must and cannot."""
        if self.traced_kernels is None or any(x.dtype == torch.float64 for x in inputs):
            return False
        if inputs[0].is_cuda:
            return True
        if self.backend == "triton" and not interpreted():
            raise CallError(
                f"{self.graph.layer} was compiled with backend='triton', and its inputs are on {inputs[0].device}; the "
                "kernels run on CUDA devices: move inputs and layer there, or use backend='auto'"
            )
        return self.backend == "triton"
