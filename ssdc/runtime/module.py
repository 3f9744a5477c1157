"""The module that users hold: parameters under their declared names, and generated functions behind the calls.

A call is checked, planned for its sizes (rounded up to powers of two, so that few plans serve all lengths), and handed
to the generated text of that plan. While torch traces a call, the plan made at compile time serves every length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ssdc.codegen.render import render
from ssdc.errors import CallError, DtypeError, StateError
from ssdc.graph.graph import Graph
from ssdc.graph.packing import DOCUMENTS, POSITION, pack
from ssdc.graph.scope import Scope
from ssdc.graph.states import Accumulator, Counter, History, grouped, not_causal, state_parts
from ssdc.plan.explain import explain
from ssdc.plan.planner import Order, Plan, plan
from ssdc.runtime.initialisers import initialise
from ssdc.runtime.kernels.launch import available, interpreted
from ssdc.runtime.loader import load
from ssdc.runtime.packed import offsets_of, places
from ssdc.runtime.parameters import declare, default_initialiser
from ssdc.runtime.signature import Signature
from ssdc.runtime.state import State
from ssdc.source import Source

NOMINAL_LENGTH = 2048
"""The length for which a plan is made where the call's own is not known: while torch traces."""

Outputs = Any
"""One tensor, or a tuple of several."""


class Layer(nn.Module):
    """A compiled layer. Made by `ssdc.compile`.

    Masked contractions, elementwise work and states are computed in float32 (float64 where an input is float64), also
    under autocast; contractions with a parameter in the dtype of low-precision inputs or of autocast. Outputs have the
    dtype of the inputs.
    """

    def __init__(
        self,
        source: Source,
        scope: Scope,
        graph: Graph,
        *,
        order: Order = "auto",
        chunk: int | None = None,
        backend: str = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.source, self.graph = source, graph
        self._order, self._chunk, self._backend = order, chunk, backend
        self._signature = Signature(graph)
        for node in graph.parameters:
            self._declare(scope, node.name, device, dtype)
        self._holders = [self._holder(node.name) for node in graph.parameters]
        self._checked: dict[tuple[object, ...], dict[str, int]] = {}
        self._parts = state_parts(graph)
        self._layouts = [() if isinstance(part, Counter) else grouped(graph, part.axes) for part in self._parts]
        self._not_causal = not_causal(graph)
        self._identity = f"{graph.layer}/{hashlib.sha256(str((self._parts, sorted(graph.sizes.items(), key=str))).encode()).hexdigest()[:12]}"
        self._position = any(node.name == POSITION for node in graph.inputs)
        self._plans: dict[tuple[bool, bool, tuple[int, ...]], ModuleType] = {}
        self._packed: Graph | None = None
        self._free = self._free_atoms()
        self._trace()

    def _trace(self) -> None:
        """The functions that every length shares while torch traces, made ahead: with torch, and with Triton's kernels."""
        self._traced = self._module(False, self._nominal())
        kernels = self._backend == "triton" or (self._backend == "auto" and self._chunk is None and available())
        self._traced_kernels = self._module(False, self._nominal(), True) if kernels else None

    def _by_kernels(self, inputs: Sequence[Tensor]) -> bool:
        """Whether a call runs the text that calls Triton kernels. Raises CallError where it must and cannot."""
        if self._traced_kernels is None or any(x.dtype == torch.float64 for x in inputs):
            return False
        if inputs[0].is_cuda:
            return True
        if self._backend == "triton" and not interpreted():
            raise CallError(
                f"{self.graph.layer} was compiled with backend='triton', and its inputs are on {inputs[0].device}; the kernels "
                "run on CUDA devices: move inputs and layer there, or use backend='auto'"
            )
        return self._backend == "triton"

    # ---- construction --------------------------------------------------------------------------------------------------

    def _declare(self, scope: Scope, name: str, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        from ssdc.graph.nodes import Parameter

        node = self.graph.nodes[name]
        assert isinstance(node, Parameter)
        shape = [_product(self.graph.sizes[atom] or 1 for atom in atoms) for atoms in node.layout]
        default, fan_in = default_initialiser(scope, name)
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
        declare(self, name, nn.Parameter(tensor))

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        """The submodule that holds a parameter, and the parameter's name in it."""
        path, _, leaf = name.rpartition(".")
        return (self.get_submodule(path) if path else self), leaf

    def _free_atoms(self) -> tuple[str, ...]:
        """The atoms that each call decides, the reader last."""
        found = dict.fromkeys(axis for node in self._signature.inputs for axis in node.axes)
        return (
            *(atom for atom in found if atom != self.graph.reader and self.graph.sizes.get(atom) is None),
            self.graph.reader,
        )

    def _nominal(self) -> dict[str, int]:
        return {atom: NOMINAL_LENGTH if atom == self.graph.reader else 1 for atom in self._free}

    def _module(self, packed: bool, sizes: dict[str, int], kernels: bool = False) -> ModuleType:
        """The generated functions for a call's sizes."""
        rounded = tuple(1 << max(0, sizes.get(atom, 1) - 1).bit_length() for atom in self._free)
        key = (packed, kernels, rounded)
        if key not in self._plans:
            graph = self._graph(packed)
            found = plan(graph, dict(zip(self._free, rounded, strict=True)), order=self._order, chunk=self._chunk)
            self._plans[key] = load(render(graph, found, backend="triton" if kernels else "torch"))
        return self._plans[key]

    def _graph(self, packed: bool) -> Graph:
        if not packed:
            return self.graph
        if self._packed is None:
            self._packed = pack(self.graph)
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """All but what is generated, for copies and pickles."""
        return {**self.__dict__, "_plans": {}, "_traced": None, "_traced_kernels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._trace()

    # ---- what a caller may ask -----------------------------------------------------------------------------------------

    @property
    def causal(self) -> bool:
        """Whether the layer reads no later position, so that it has a state and can step."""
        return self._not_causal is None

    @property
    def call_axes(self) -> tuple[str, ...]:
        """The axes whose sizes each call decides, time left out."""
        return self._free[:-1]

    def time_of(self, name: str) -> int | None:
        """The dimension of an input that is time; None for an input without one."""
        return self._signature.time(name)

    def output_time(self, place: int) -> int | None:
        """The dimension of an output that is time; None for an output without one."""
        layout = self.graph.results[place].layout
        return next((dim for dim, atoms in enumerate(layout) if atoms == (self.graph.reader,)), None)

    # ---- plans ---------------------------------------------------------------------------------------------------------

    def plan(self, **sizes: int) -> Plan:
        """The plan for a call of these sizes: every axis that calls decide, and T. Axes left out count as one."""
        return plan(self.graph, self._call_sizes(sizes), order=self._order, chunk=self._chunk)

    def explain(self, **sizes: int) -> str:
        """The orderings of each masked contraction, priced, and the choice."""
        return explain(self.plan(**sizes), self.graph)

    def text(self, **sizes: int) -> str:
        """The generated module for a call of these sizes."""
        return render(self.graph, self.plan(**sizes))

    def _call_sizes(self, given: dict[str, int]) -> dict[str, int]:
        sizes = self._nominal()
        for name, size in given.items():
            atom = self.graph.reader if name == "T" and "T" not in sizes else name
            if atom not in sizes:
                raise CallError(
                    f"{self.graph.layer} has no per-call size '{name}'; it has T{''.join(', ' + a for a in self._free[:-1])}"
                )
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise CallError(f"the size {name} is {size!r}, and needs to be a whole number, at least 0")
            sizes[atom] = size
        return sizes

    # ---- calls ---------------------------------------------------------------------------------------------------------

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
        if return_state and self._not_causal is not None:
            raise StateError(self._stateless())
        if not torch.compiler.is_compiling() and sizes[self.graph.reader] == 0:
            outputs, after = self._empty(inputs, sizes, state, return_state)
        else:
            outputs, after = self._run(inputs, sizes, state, return_state, None)
        return (self._outputs(outputs), after) if return_state else self._outputs(outputs)

    def step(self, state: State, *args: Tensor, **kwargs: Tensor) -> tuple[Outputs, State]:
        """One position: the inputs and outputs of a call without their time axis, and the state after it."""
        if self._not_causal is not None:
            raise StateError(self._stateless())
        if not isinstance(state, State):
            raise StateError(f"{self.graph.layer}.step takes the state first: {self._no_state(state)}")
        inputs = self._signature.bind(args, kwargs)
        self._check(inputs, state, step=True)
        kernels = self._by_kernels(inputs)
        function: Callable[..., Any] | None = getattr(self._traced_kernels if kernels else self._traced, "step", None)
        if function is None:
            return self._step_by_forward(state, inputs)
        given = [*inputs, *([state[POSITION].view(1)[0]] if self._position else [])]
        outputs, after = self._call(function, given, inputs, state.tensors, cast=not kernels)
        return self._outputs(outputs), State(self._identity, state.names, after)

    def init_state(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32, **sizes: int
    ) -> State:
        """The state before the first position. `sizes` gives every axis that calls decide (`b=4`)."""
        if self._not_causal is not None:
            raise StateError(self._stateless())
        needed = [atom for atom in self._free[:-1] if any(atom in part.axes for part in self._parts)]
        missing = [atom for atom in needed if atom not in sizes]
        if missing:
            need = ", ".join(f"{atom}=" for atom in missing)
            raise CallError(f"init_state of {self.graph.layer} needs {need}: the size of each axis that calls decide")
        if not dtype.is_floating_point:
            raise DtypeError(
                f"the state's dtype is {dtype}; it needs torch.float32, or torch.float64 for float64 inputs"
            )
        known = self._call_sizes(dict(sizes))
        tensors = [
            torch.zeros(
                self._stored(place, known, 0), device=device or self._device(), dtype=self._state_dtype(part, dtype)
            )
            for place, part in enumerate(self._parts)
        ]
        return State(self._identity, [part.name for part in self._parts], tensors)

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
            self._check_state(state, inputs, sizes)
        return sizes

    # ---- the inside of a call --------------------------------------------------------------------------------------------

    def _run(
        self, inputs: list[Tensor], sizes: dict[str, int], state: State | None, want_state: bool, cu_seqlens: Any
    ) -> tuple[tuple[Tensor, ...], State | None]:
        packed = cu_seqlens is not None
        tracing = torch.compiler.is_compiling()
        kernels = self._by_kernels(inputs)
        if tracing and not packed:
            module = self._traced_kernels if kernels else self._traced
        else:
            module = self._module(packed, {} if tracing else sizes, kernels)
        given = inputs
        if packed:
            offsets = offsets_of(cu_seqlens, sizes, self.graph.reader, inputs[0].device)
            documents, position = places(offsets, sizes[self.graph.reader])
            given = [{DOCUMENTS: documents, POSITION: position}.get(node.name) for node in self._graph(True).inputs]
            rest = iter(inputs)
            given = [tensor if tensor is not None else next(rest) for tensor in given]
        elif self._position:
            start = 0 if state is None else state[POSITION]
            given = [*inputs, torch.arange(sizes[self.graph.reader], device=inputs[0].device) + start]
        parts = state_parts(self._graph(True)) if packed else self._parts
        states = state.tensors if state is not None else (None,) * len(parts)
        outputs, after = self._call(module.forward, given, inputs, states, want_state, cast=not kernels)
        return outputs, State(self._identity, [part.name for part in self._parts], after) if want_state else None

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
        parameters = [holder._parameters[leaf] for holder, leaf in self._holders]
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
            per_call = {atom: sizes[atom] for atom in self._free[:-1] if atom in sizes}
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
        for start, end, before in zip(offsets, offsets[1:], states, strict=False):
            part = [
                x if dim is None else x.narrow(dim, start, end - start) for x, dim in zip(inputs, dims, strict=True)
            ]
            y, later = self(*part, state=before, return_state=True)
            outputs.append(y if isinstance(y, tuple) else (y,))
            after.append(later)
        joined = []
        for place, result in enumerate(self.graph.results):
            dim = next((d for d, atoms in enumerate(result.layout) if atoms == (self.graph.reader,)), None)
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
        for result, y in zip(self.graph.results, several, strict=True):
            dim = next((d for d, atoms in enumerate(result.layout) if atoms == (self.graph.reader,)), None)
            squeezed.append(y if dim is None else y.squeeze(dim))
        return self._outputs(tuple(squeezed)), after

    def _outputs(self, outputs: tuple[Tensor, ...]) -> Outputs:
        return outputs[0] if len(outputs) == 1 else outputs

    def _device(self) -> torch.device | None:
        for holder, leaf in self._holders:
            return holder._parameters[leaf].device
        return None

    # ---- states ------------------------------------------------------------------------------------------------------------

    def _state_dtype(self, part: Accumulator | History | Counter, real: torch.dtype) -> torch.dtype:
        if isinstance(part, Counter) or (isinstance(part, History) and self.graph.nodes[part.name].kind == "int"):
            return torch.int64
        if isinstance(part, History) and self.graph.nodes[part.name].kind == "bool":
            return torch.bool
        return torch.float64 if real == torch.float64 else torch.float32

    def _stored(self, place: int, sizes: dict[str, int], past: int) -> list[int]:
        """The shape of a state part as users see it: one dimension a declared axis."""
        part = self._parts[place]
        if isinstance(part, Counter):
            return []
        known = {atom: size for atom, size in self.graph.sizes.items() if size is not None} | sizes
        if isinstance(part, History):
            known[self.graph.reader] = past if part.length is None else part.length
        return [_product(known[atom] for atom in atoms) for atoms in self._layouts[place]]

    def _stateless(self) -> str:
        return f"{self.graph.layer} has no state: {self._not_causal}; give it whole sequences"

    @staticmethod
    def _no_state(state: object) -> str:
        return f"the state is a {type(state).__name__}; take it from return_state=True, step() or init_state()"

    def _check_state(self, state: State | None, inputs: Sequence[Tensor], sizes: dict[str, int]) -> None:
        if self._not_causal is not None:
            raise StateError(self._stateless())
        if not isinstance(state, State):
            raise StateError(self._no_state(state))
        if state.layer != self._identity:
            mine, other = self.graph.layer, state.layer.partition("/")[0]
            what = f"the state belongs to a layer '{other}'" + (" of other sizes" if mine == other else "")
            raise StateError(f"{what}, and this is '{mine}'; a state goes with the layer that made it, or init_state()")
        wide = any(tensor.dtype == torch.float64 for tensor in inputs)
        for place, (part, tensor) in enumerate(zip(self._parts, state.tensors, strict=True)):
            past = (
                tensor.shape[self.graph.nodes[part.name].axes.index(self.graph.reader)]
                if isinstance(part, History) and part.length is None
                else 0
            )
            want = self._stored(place, sizes, past)
            if list(tensor.shape) != want:
                raise StateError(
                    f"the state's '{part.name}' has {list(tensor.shape)}, and these inputs need {want}; "
                    "a state goes with the batch that made it, or init_state()"
                )
            dtype = self._state_dtype(part, torch.float64 if wide else torch.float32)
            if tensor.dtype != dtype:
                raise StateError(
                    f"the state's '{part.name}' is {tensor.dtype}, and with these inputs needs {dtype}; "
                    f"cast it with state.to({dtype})"
                )
            if tensor.device != inputs[0].device:
                raise StateError(
                    f"the state's '{part.name}' is on {tensor.device}, and the inputs need it on {inputs[0].device}; "
                    "move it with state.to()"
                )

    def extra_repr(self) -> str:
        """The layer's name and its equations' orders, for print(module)."""
        orders = self._order if isinstance(self._order, str) else dict(self._order)
        return f"{self.graph.layer}, order={orders!r}"


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
