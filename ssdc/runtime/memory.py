"""A layer's states: their parts and shapes, empty ones, and whether a given one belongs to the layer and the call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from ssdc.errors import StateError
from ssdc.graph.graph import Graph
from ssdc.graph.states import Counter, History, StatePart, grouped, not_causal, state_parts
from ssdc.runtime.state import State


class Memory:
    """What a layer remembers. `reason` says why a layer has no state, and is None for one that has."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parts = state_parts(graph)
        self.reason = not_causal(graph)
        self.layouts = [() if isinstance(part, Counter) else grouped(graph, part.axes) for part in self.parts]
        made_of = str((self.parts, sorted(graph.sizes.items(), key=str)))
        self.identity = f"{graph.layer}/{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"

    def state(self, tensors: Sequence[Tensor]) -> State:
        """A state of this layer."""
        return State(self.identity, [part.name for part in self.parts], tensors)

    def empty(self, sizes: Mapping[str, int], device: torch.device | str | None, dtype: torch.dtype) -> State:
        """The state before the first position."""
        tensors = [
            torch.zeros(self._shape(place, sizes, 0), device=device, dtype=self._dtype(part, dtype))
            for place, part in enumerate(self.parts)
        ]
        return self.state(tensors)

    def needs(self, atoms: Sequence[str]) -> list[str]:
        """Those of some atoms that a state has."""
        return [atom for atom in atoms if any(atom in part.axes for part in self.parts)]

    def require(self) -> None:
        """Raises StateError for a layer without a state."""
        if self.reason is not None:
            raise StateError(f"{self.graph.layer} has no state: {self.reason}; give it whole sequences")

    def check(self, state: object, inputs: Sequence[Tensor], sizes: Mapping[str, int]) -> None:
        """Raises StateError, naming what it had and what it needs, where a state does not fit the layer and the
        call."""
        self.require()
        if not isinstance(state, State):
            raise StateError(
                f"the state is a {type(state).__name__}; take it from return_state=True, step() or init_state()"
            )
        if state.layer != self.identity:
            mine, other = self.graph.layer, state.layer.partition("/")[0]
            what = f"the state belongs to a layer '{other}'" + (" of other sizes" if mine == other else "")
            raise StateError(f"{what}, and this is '{mine}'; a state goes with the layer that made it, or init_state()")
        wide = any(tensor.dtype == torch.float64 for tensor in inputs)
        for place, tensor in enumerate(state.tensors):
            self._check_part(place, tensor, inputs[0].device, sizes, torch.float64 if wide else torch.float32)

    def _check_part(
        self, place: int, tensor: Tensor, device: torch.device, sizes: Mapping[str, int], real: torch.dtype
    ) -> None:
        part = self.parts[place]
        whole = isinstance(part, History) and part.length is None
        past = tensor.shape[self.graph.nodes[part.name].axes.index(self.graph.reader)] if whole else 0
        want, dtype = self._shape(place, sizes, past), self._dtype(part, real)
        if list(tensor.shape) != want:
            raise StateError(
                f"the state's '{part.name}' has {list(tensor.shape)}, and these inputs need {want}; "
                "a state goes with the batch that made it, or init_state()"
            )
        if tensor.dtype != dtype:
            raise StateError(
                f"the state's '{part.name}' is {tensor.dtype}, and with these inputs needs {dtype}; "
                f"cast it with state.to({dtype})"
            )
        if tensor.device != device:
            raise StateError(
                f"the state's '{part.name}' is on {tensor.device}, and the inputs need it on {device}; "
                "move it with state.to()"
            )

    def _dtype(self, part: StatePart, real: torch.dtype) -> torch.dtype:
        kind = self.graph.nodes[part.name].kind if isinstance(part, History) else "real"
        if isinstance(part, Counter) or kind == "int":
            return torch.int64
        if kind == "bool":
            return torch.bool
        return torch.float64 if real == torch.float64 else torch.float32

    def _shape(self, place: int, sizes: Mapping[str, int], past: int) -> list[int]:
        """The shape of a part as users see it: one dimension a declared axis."""
        part = self.parts[place]
        if isinstance(part, Counter):
            return []
        known = {atom: size for atom, size in self.graph.sizes.items() if size is not None} | dict(sizes)
        if isinstance(part, History):
            known[self.graph.reader] = past if part.length is None else part.length
        # lists, not generators: torch.compile traces math.prod of symbolic sizes for a list alone
        return [prod([known[atom] for atom in atoms]) for atoms in self.layouts[place]]
