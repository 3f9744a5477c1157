"""The generated functions of a layer, by what a call is: its sizes, whether it is packed, whether Triton's kernels
serve it.

Sizes are rounded up to powers of two, so that few plans serve all lengths. While torch traces, one plan serves every
length.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.operands import operands
from ssdc.codegen.render import render
from ssdc.codegen.triton import window
from ssdc.codegen.triton.contraction import refusal
from ssdc.errors import CallError, OrderError, PlanError
from ssdc.graph.graph import Graph
from ssdc.graph.packing import pack
from ssdc.plan.asked import KERNEL_FORMS, Asked
from ssdc.plan.candidate import Mode
from ssdc.plan.hardware import Hardware
from ssdc.plan.memory import bytes_of
from ssdc.plan.planner import Plan, plan
from ssdc.plan.profiles import profile
from ssdc.runtime.kernels.launch import available, interpreted
from ssdc.runtime.loader import load

NOMINAL_LENGTH = 2048
"""The length for which a plan is made where the call's own is not known: while torch traces."""


class Programs:
    """Plans and generated functions of one graph. `free` are the atoms that each call decides, the reader last."""

    def __init__(self, graph: Graph, asked: Asked, backend: str, memory_limit: int | str | None = None) -> None:
        self.graph, self.asked, self.backend = graph, asked, backend
        self.memory_limit = None if memory_limit is None else bytes_of(memory_limit)
        found = dict.fromkeys(axis for node in graph.inputs for axis in node.axes if not node.name.startswith("@"))
        reader = graph.reader
        self.free = (*(atom for atom in found if atom != reader and graph.sizes.get(atom) is None), reader)
        self._packed: Graph | None = None
        self._made: dict[tuple[object, ...], ModuleType] = {}
        self.served = backend != "torch"
        self._check_kernels()
        self._trace()

    def _check_kernels(self) -> None:
        """Finds out whether Triton's kernels serve anything. Raises OrderError, with the reasons, where they must and
        cannot."""
        form = self.asked.form
        forms = [one for one in (form.values() if isinstance(form, Mapping) else (form,)) if one in KERNEL_FORMS]
        if self.backend == "torch":
            if forms:
                raise OrderError(f"form {forms[0]!r} is of the Triton kernels, and backend is 'torch'; leave one out")
            return
        choices = self._plan(self.graph, self.nominal(), "forward", None, None).choices
        reasons = {name: refusal(operands(self.graph, choice)) for name, choice in choices.items()}
        for name, choice in choices.items() if isinstance(form, Mapping) else ():
            if choice.form in KERNEL_FORMS and reasons[name] is not None:
                equation = choice.problem.equation
                raise OrderError(f"'{equation}' does not admit the form {choice.form!r}: {reasons[name]}")
        streamed = [window.refusal(operands(self.graph, choice)) for choice in choices.values()]
        self.served = None in reasons.values() or None in streamed
        if not self.served and (forms or self.backend == "triton"):
            found = [f"'{choices[name].problem.equation}': {reason}" for name, reason in reasons.items()]
            why = "; ".join(found) or "it has no masked contraction"
            remedy = "leave out form=" if forms else "use backend='auto'"
            raise OrderError(f"the Triton kernels serve nothing of {self.graph.layer} ({why}); {remedy}")

    def _trace(self) -> None:
        """The functions that every length shares while torch traces, made ahead: with torch, and with the kernels.

        Where the memory limit leaves nothing for a call of the nominal length, they are made without it, for steps.
        """
        self.traced = self._module(False, self.nominal(), False, limited=self._fits())
        kernels = self.served and (self.backend == "triton" or available())
        self.traced_kernels = self._module(False, self.nominal(), True, limited=False) if kernels else None

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

    def plan(self, sizes: dict[str, int], mode: Mode = "forward", hardware: Hardware | None = None) -> Plan:
        """The plan for a call of exactly these sizes. Raises PlanError where the memory limit leaves none."""
        return self._plan(self.graph, sizes, mode, hardware, self.memory_limit)

    def _plan(
        self, graph: Graph, sizes: dict[str, int], mode: Mode, hardware: Hardware | None, limit: int | None
    ) -> Plan:
        asked = self.asked
        return plan(
            graph, sizes, order=asked.order, chunk=asked.chunk, form=asked.form,
            hardware=hardware, mode=mode, memory_limit=limit,
        )  # fmt: skip

    def _fits(self) -> bool:
        try:
            self.plan(self.nominal())
        except PlanError:
            return False
        return True

    def packed(self) -> Graph:
        """The graph of a call with packed documents."""
        if self._packed is None:
            self._packed = pack(self.graph)
        return self._packed

    def module(
        self, sizes: dict[str, int], device: torch.device, *, packed: bool, kernels: bool, gradient: bool
    ) -> ModuleType:
        """The generated functions for a call, and with `gradient` its derivative. Raises PlanError where the memory
        limit leaves none; while torch traces, for a call of the nominal length."""
        if not torch.compiler.is_compiling():
            return self._module(packed, sizes, kernels, "both" if gradient else "forward", profile_of(device))
        if self.memory_limit is not None:
            self.plan(self.nominal())
        if packed:
            return self._module(packed, {}, kernels)
        found = self.traced_kernels if kernels else self.traced
        assert found is not None
        return found

    def _module(
        self, packed: bool, sizes: dict[str, int], kernels: bool, mode: Mode = "forward",
        hardware: Hardware | None = None, *, limited: bool = True,
    ) -> ModuleType:  # fmt: skip
        limit = self.memory_limit if limited and not kernels else None
        rounded = tuple(sizes.get(atom, 1) if limit else _rounded(sizes.get(atom, 1)) for atom in self.free)
        key = (packed, kernels, rounded, mode, hardware and hardware.name, limit)
        if key not in self._made:
            graph = self.packed() if packed else self.graph
            found = self._plan(graph, dict(zip(self.free, rounded, strict=True)), mode, hardware, limit)
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


def _rounded(size: int) -> int:
    """The power of two from `size` on."""
    return 1 << max(0, size - 1).bit_length()


@lru_cache(maxsize=64)
def profile_of(device: torch.device) -> Hardware:
    """The hardware profile of a device."""
    return profile("cuda", torch.cuda.get_device_name(device)) if device.type == "cuda" else profile("cpu")
