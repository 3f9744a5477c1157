"""The module that users hold: parameters under their declared names, and generated functions behind the calls.

A call is checked, planned for its sizes (rounded up to powers of two, so that few plans serve all lengths), and handed
to the generated text of that plan. While torch traces a call, the plan made at compile time serves every length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdc.codegen.explained import explained
from ssdc.codegen.render import render
from ssdc.errors import CallError, DtypeError, StateError
from ssdc.graph.graph import Graph
from ssdc.graph.nodes import Parameter
from ssdc.graph.packing import DOCUMENTS, POSITION
from ssdc.graph.scope import Scope
from ssdc.graph.states import state_parts
from ssdc.plan.asked import Asked, Chunk, Form, Order
from ssdc.plan.candidate import Mode
from ssdc.plan.explain.data import Explanation
from ssdc.plan.explain.outline import in_words
from ssdc.plan.planner import Plan
from ssdc.plan.saved import save
from ssdc.runtime.initialisers import initialise
from ssdc.runtime.memory import Memory
from ssdc.runtime.packed import offsets_of, places
from ssdc.runtime.parameters import declare, default_initialiser
from ssdc.runtime.programs import Programs, profile_of
from ssdc.runtime.shown import shown
from ssdc.runtime.signature import Signature
from ssdc.runtime.state import State
from ssdc.source import Source

Outputs = Any
"""One tensor, or a tuple of several."""


class Layer(nn.Module):
    """A compiled layer. Made by `ssdc.compile`.

    Masked contractions, elementwise work and states are computed in float32 (float64 where an input is float64), also
    under autocast; contractions with a parameter in the dtype of low-precision inputs or of autocast. Outputs have the
    dtype of the inputs.
    """

    _place: Tensor

    def __init__(
        self,
        source: Source,
        scope: Scope,
        graph: Graph,
        *,
        order: Order = "auto",
        chunk: Chunk = None,
        form: Form = None,
        backend: str = "torch",
        memory_limit: int | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.source, self.graph = source, graph
        self._signature = Signature(graph)
        for node in graph.parameters:
            self._declare(scope, node, device, dtype)
        self._holders = [self._holder(node.name) for node in graph.parameters]
        if not graph.parameters:
            self.register_buffer("_place", torch.empty(0, device=device), persistent=False)  # where states begin
        self._checked: dict[tuple[object, ...], dict[str, int]] = {}
        self._memory = Memory(graph)
        self._position = any(node.name == POSITION for node in graph.inputs)
        self._programs = Programs(graph, Asked(order, chunk, form), backend, memory_limit)

    # ---- construction ------------------------------------------------------------------------------------------------

    def _declare(
        self, scope: Scope, node: Parameter, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        shape = [prod(self.graph.sizes[atom] or 1 for atom in atoms) for atoms in node.layout]
        default, fan_in = default_initialiser(scope, node.name)
        names = [
            next((axis for axis, found in self.graph.atoms.items() if found == atoms), "") for atoms in node.layout
        ]
        tensor = initialise(
            node.init or default,
            shape,
            sizes=scope.sizes,
            axes=names,
            fan_in=fan_in,
            device=device,
            dtype=dtype or torch.get_default_dtype(),
            source=self.source,
        )
        declare(self, node.name, nn.Parameter(tensor))

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        """The submodule that holds a parameter, and the parameter's name in it."""
        path, _, leaf = name.rpartition(".")
        return (self.get_submodule(path) if path else self), leaf

    # ---- what a caller may ask ---------------------------------------------------------------------------------------

    @property
    def causal(self) -> bool:
        """Whether the layer reads no later position, so that it has a state and can step."""
        return self._memory.reason is None

    @property
    def call_axes(self) -> tuple[str, ...]:
        """The axes whose sizes each call decides, time left out."""
        return self._programs.free[:-1]

    def time_of(self, name: str) -> int | None:
        """The dimension of an input that is time; None for an input without one."""
        return self._signature.time(name)

    def output_time(self, place: int) -> int | None:
        """The dimension of an output that is time; None for an output without one."""
        layout = self.graph.results[place].layout
        return next((dim for dim, atoms in enumerate(layout) if atoms == (self.graph.reader,)), None)

    # ---- plans -------------------------------------------------------------------------------------------------------

    def plan(self, mode: Mode = "forward", /, **sizes: int) -> Plan:
        """The plan for a call of these sizes: every axis that calls decide, and T. Axes left out count as one.

        A call without gradients is planned for; with `mode` "both", one that has them; with "step", one position.
        """
        device = self._device()
        machine = None if device is None else profile_of(device)
        return self._programs.plan(self._programs.sizes(sizes), mode, machine)

    def explanation(self, mode: Mode = "forward", /, **sizes: int) -> Explanation:
        """The plan for a call of these sizes explained, as data: candidates priced by part, refusals with their places
        in the source, the kernels of a CUDA device, totals."""
        return explained(self.graph, self.plan(mode, **sizes), self.source)

    def explain(self, mode: Mode = "forward", /, **sizes: int) -> str:
        """The explanation as text."""
        return in_words(self.explanation(mode, **sizes))

    def save_plan(self, path: str | os.PathLike[str], mode: Mode = "forward", /, **sizes: int) -> None:
        """Write the plan for a call of these sizes to a file, to be reviewed and given to `ssdc.compile(plan=path)`."""
        Path(path).write_text(save(self.plan(mode, **sizes), self.graph), encoding="utf-8")

    def text(self, **sizes: int) -> str:
        """The generated module for a call of these sizes."""
        return render(self.graph, self.plan(**sizes))

    # ---- calls -------------------------------------------------------------------------------------------------------

    def forward(
        self,
        *args: Tensor,
        state: State | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        **kwargs: Tensor,
    ) -> Outputs:
        """All positions of the inputs, given by position in declared order or by name.

        With `state`, goes on where that state stopped; with `return_state`, returns (outputs, state after the last
        position). `cu_seqlens` ([documents + 1], from 0 to T) cuts a batch of one into documents that do not see each
        other; with `return_state`, or a tuple of states, each document is evaluated by itself and has a state of its
        own. Raises CallError, DtypeError or StateError.
        """
        inputs = self._signature.bind(args, kwargs)
        sizes = self._check(inputs, state if cu_seqlens is None else None, step=False)
        if cu_seqlens is not None:
            if return_state or state is not None:
                return self._documents(inputs, sizes, cu_seqlens, state, return_state)
            return self._outputs(self._run(inputs, sizes, None, False, cu_seqlens)[0])
        if return_state:
            self._memory.require()
        if not torch.compiler.is_compiling() and sizes[self.graph.reader] == 0:
            outputs, after = self._empty(inputs, sizes, state, return_state)
        else:
            outputs, after = self._run(inputs, sizes, state, return_state, None)
        return (self._outputs(outputs), after) if return_state else self._outputs(outputs)

    def step(self, state: State, *args: Tensor, **kwargs: Tensor) -> tuple[Outputs, State]:
        """One position: the inputs and outputs of a call without their time axis, and the state after it."""
        self._memory.require()
        if not isinstance(state, State):
            raise StateError(
                f"{self.graph.layer}.step takes the state first: the state is a {type(state).__name__}; take it from "
                "return_state=True, step() or init_state()"
            )
        inputs = self._signature.bind(args, kwargs)
        self._check(inputs, state, step=True)
        kernels = self._programs.by_kernels(inputs)
        module = self._programs.traced_kernels if kernels else self._programs.traced
        function: Callable[..., Any] | None = getattr(module, "step", None)
        if function is None:
            return self._step_by_forward(state, inputs)
        given = [*inputs, *([state[POSITION].view(1)[0]] if self._position else [])]
        outputs, after = self._call(function, given, inputs, state.tensors, cast=not kernels)
        return self._outputs(outputs), self._memory.state(after)

    def init_state(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32, **sizes: int
    ) -> State:
        """The state before the first position, where the layer is unless `device` tells. `sizes` gives every axis that
        calls decide (`b=4`)."""
        self._memory.require()
        missing = [atom for atom in self._memory.needs(self.call_axes) if atom not in sizes]
        if missing:
            need = ", ".join(f"{atom}=" for atom in missing)
            raise CallError(f"init_state of {self.graph.layer} needs {need}: the size of each axis that calls decide")
        if not dtype.is_floating_point:
            raise DtypeError(
                f"the state's dtype is {dtype}; it needs torch.float32, or torch.float64 for float64 inputs"
            )
        place = device or self._device() or self._place.device
        return self._memory.empty(self._programs.sizes(dict(sizes)), place, dtype)

    def _check(self, inputs: list[Tensor], state: Any, *, step: bool) -> dict[str, int]:
        """The sizes of a call, its inputs and state checked; what has passed once is known by shapes, dtypes and
        devices."""
        if torch.compiler.is_compiling() or not isinstance(state, State | None):
            return self._check_anew(inputs, state, step)
        tensors = inputs if state is None else [*inputs, *state.tensors]
        try:
            key = (step, state is None or state.layer, self._device(), *[(x.shape, x.dtype, x.device) for x in tensors])
        except AttributeError:
            return self._check_anew(inputs, state, step)
        found = self._checked.get(key)
        if found is None:
            if len(self._checked) > 4096:
                self._checked.clear()
            found = self._checked[key] = self._check_anew(inputs, state, step)
        return found

    def _check_anew(self, inputs: list[Tensor], state: Any, step: bool) -> dict[str, int]:
        sizes = self._signature.check(inputs, self._device(), step=step)
        if state is not None or step:
            self._memory.check(state, inputs, sizes)
        return sizes

    # ---- the inside of a call ----------------------------------------------------------------------------------------

    def _run(
        self, inputs: list[Tensor], sizes: dict[str, int], state: State | None, want_state: bool, cu_seqlens: Any
    ) -> tuple[tuple[Tensor, ...], State | None]:
        packed = cu_seqlens is not None
        kernels = self._programs.by_kernels(inputs)
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *self._learned()))
        module = self._programs.module(sizes, inputs[0].device, packed=packed, kernels=kernels, gradient=learns)
        given, parts = inputs, self._memory.parts
        if packed:
            graph = self._programs.packed()
            offsets = offsets_of(cu_seqlens, sizes, self.graph.reader, inputs[0].device)
            hidden = dict(zip((DOCUMENTS, POSITION), places(offsets, sizes[self.graph.reader]), strict=True))
            rest = iter(inputs)
            given = [hidden[node.name] if node.name in hidden else next(rest) for node in graph.inputs]
            parts = state_parts(graph)
        elif self._position:
            start = 0 if state is None else state[POSITION]
            given = [*inputs, torch.arange(sizes[self.graph.reader], device=inputs[0].device) + start]
        states = state.tensors if state is not None else (None,) * len(parts)
        outputs, after = self._call(module.forward, given, inputs, states, want_state, cast=not kernels)
        return outputs, self._memory.state(after) if want_state else None

    def _call(
        self,
        function: Callable[..., Any],
        given: Sequence[Tensor],
        inputs: Sequence[Tensor],
        states: Sequence[Tensor | None],
        *flags: bool,
        cast: bool = True,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """A generated function in its computing dtype, autocast off; its outputs in the dtype of the inputs.

        Without `cast`, the function itself brings inputs to the computing dtype where it computes with them.
        """
        parameters = self._learned()
        real = [tensor.dtype for tensor in inputs if tensor.is_floating_point()] or [p.dtype for p in parameters]
        outer = real[0] if real else torch.get_default_dtype()
        for one in real[1:]:
            outer = outer if one is outer else torch.promote_types(outer, one)
        dtype = torch.float64 if outer == torch.float64 else torch.float32
        low = outer if outer in (torch.bfloat16, torch.float16) else None
        values = tuple(x if not cast or x.dtype is dtype or not x.is_floating_point() else x.to(dtype) for x in given)
        learned = tuple(p if p.dtype is dtype else p.to(dtype) for p in parameters)
        device = given[0].device.type
        if torch.is_autocast_enabled(device):
            low = torch.get_autocast_dtype(device)
            with torch.autocast(device, enabled=False):
                outputs, after = function(values, learned, states, *flags, dtype, low)
        else:
            outputs, after = function(values, learned, states, *flags, dtype, low)
        return tuple(y if y.dtype is outer or not y.is_floating_point() else y.to(outer) for y in outputs), after

    def _empty(
        self, inputs: list[Tensor], sizes: dict[str, int], state: State | None, want_state: bool
    ) -> tuple[tuple[Tensor, ...], State | None]:
        """A call without positions: the outputs of one position, none of which is kept, and the state as it was."""
        one = []
        for name, tensor in zip(self._signature.names, inputs, strict=True):
            dim = self._signature.time(name)
            if dim is not None:
                shape = [1 if at == dim else size for at, size in enumerate(tensor.shape)]
                tensor = torch.cat([tensor, tensor.new_zeros(shape)], dim)
            one.append(tensor)
        outputs, _ = self._run(one, {**sizes, self.graph.reader: 1}, None, False, None)
        kept = []
        for result, y in zip(self.graph.results, outputs, strict=True):
            for dim, atoms in enumerate(result.layout):
                y = y.narrow(dim, 0, 0) if atoms and atoms[0] in (self.graph.reader, *self.graph.writers) else y
            kept.append(y)
        if want_state and state is None:
            per_call = {atom: sizes[atom] for atom in self.call_axes if atom in sizes}
            dtype = torch.float64 if any(t.dtype == torch.float64 for t in inputs) else torch.float32
            state = self.init_state(device=inputs[0].device, dtype=dtype, **per_call)
        return tuple(kept), state

    def _documents(
        self, inputs: list[Tensor], sizes: dict[str, int], cu_seqlens: Any, state: Any, return_state: bool
    ) -> Any:
        """Each document by itself: outputs side by side in time, and a tuple of states."""
        offsets = offsets_of(cu_seqlens, sizes, self.graph.reader, inputs[0].device).tolist()
        count = len(offsets) - 1
        states = state if isinstance(state, tuple) else (state,) * count
        if isinstance(state, State) or len(states) != count:
            raise StateError(f"{count} documents take a tuple of {count} states, one a document")
        dims = [self._signature.time(name) for name in self._signature.names]
        outputs, after = [], []
        for (start, end), before in zip(pairwise(offsets), states, strict=True):
            part = [
                x if dim is None else x.narrow(dim, start, end - start) for x, dim in zip(inputs, dims, strict=True)
            ]
            y, later = self(*part, state=before, return_state=True)
            outputs.append(y if isinstance(y, tuple) else (y,))
            after.append(later)
        joined = []
        for place in range(len(self.graph.results)):
            dim = self.output_time(place)
            parts = [one[place] for one in outputs]
            joined.append(parts[0] if dim is None else torch.cat(parts, dim))
        return (self._outputs(tuple(joined)), tuple(after)) if return_state else self._outputs(tuple(joined))

    def _step_by_forward(self, state: State, inputs: list[Tensor]) -> tuple[Outputs, State]:
        """One position through `forward`, for layers whose state is all of the past."""
        dims = [self._signature.time(name) for name in self._signature.names]
        one = [x if dim is None else x.unsqueeze(dim) for x, dim in zip(inputs, dims, strict=True)]
        outputs, after = self(*one, state=state, return_state=True)
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        squeezed = []
        for place, y in enumerate(several):
            dim = self.output_time(place)
            squeezed.append(y if dim is None else y.squeeze(dim))
        return self._outputs(tuple(squeezed)), after

    def _outputs(self, outputs: tuple[Tensor, ...]) -> Outputs:
        return outputs[0] if len(outputs) == 1 else outputs

    def _learned(self) -> list[Tensor]:
        """The parameters, in declared order, as they are now."""
        found = [holder._parameters[leaf] for holder, leaf in self._holders]
        return [parameter for parameter in found if parameter is not None]

    def _device(self) -> torch.device | None:
        for holder, leaf in self._holders:
            parameter = holder._parameters[leaf]
            return parameter.device if parameter is not None else None
        return None

    def extra_repr(self) -> str:
        """The layer's name and the orders asked for, for print(module)."""
        order = self._programs.asked.order
        return f"{self.graph.layer}, order={order if isinstance(order, str) else dict(order)!r}"

    def _repr_html_(self) -> str:
        """How a notebook shows it: what goes in and out, what is learned, and the graph."""
        return shown(self.graph, self.extra_repr(), dict(self.named_parameters()))
