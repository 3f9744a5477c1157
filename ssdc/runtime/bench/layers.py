"""A whole compiled layer as a subject: forward, backward to inputs and parameters, and step where it has one.

In: a layer, its float64 definition, and inputs of a call. Out: a subject. What is checked is the first positions of the
outputs, and what they give as gradient of the first real input over time, in the very call that is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from ssdc.graph.graph import Graph
from ssdc.graph.nodes import Layout, operands
from ssdc.runtime.bench.subjects import relative, size_of
from ssdc.runtime.bench.times import Bytes, Subject
from ssdc.runtime.module import Layer
from ssdc.runtime.reference import Reference
from ssdc.runtime.state import State

PREFIX = 256
"""Positions that are compared with the definition, which takes time and memory by the square of them."""


def layer(name: str, compiled: Layer, definition: Definition, inputs: Mapping[str, Tensor]) -> Subject:
    """A subject for a layer on inputs. Nothing of it runs before it is measured."""
    calls = _Calls(compiled, inputs)
    errors = partial(definition.errors, calls)
    return Subject(
        name, "layer", calls.forward, calls.both, errors, calls.bytes, calls.step if compiled.causal else None
    )


class _Calls:
    """The calls of a layer on one set of inputs; gradients of outputs and the state are made when first needed."""

    def __init__(self, compiled: Layer, inputs: Mapping[str, Tensor]) -> None:
        self.layer = compiled
        self.leaves = {name: x.requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
        self.times = {name: compiled.time_of(name) for name in inputs}
        self._weights: tuple[Tensor, ...] | None = None

    def forward(self) -> tuple[Tensor, ...]:
        """The outputs."""
        with torch.no_grad():
            return _several(self.layer(**self.leaves))

    def both(self, weights: Callable[[Sequence[Tensor]], Iterable[Tensor]] | None = None) -> tuple[Tensor, ...]:
        """The outputs; gradients are left in the leaves. `weights` makes other gradients of the outputs."""
        for leaf in (*self.leaves.values(), *self.layer.parameters()):
            leaf.grad = None
        outputs = _several(self.layer(**self.leaves))
        grads = self.weights(outputs) if weights is None else tuple(weights(self.weights(outputs)))
        torch.autograd.backward(outputs, grads)
        return outputs

    def weights(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Random gradients of the outputs, the same at each call."""
        if self._weights is None:
            generator = torch.Generator(outputs[0].device).manual_seed(0)
            self._weights = tuple(
                torch.randn(y.shape, device=y.device, generator=generator).to(y.dtype) for y in outputs
            )
        return self._weights

    @cached_property
    def state(self) -> State:
        """The state after one position."""
        one = {
            name: x.detach() if (dim := self.times[name]) is None else x.detach().narrow(dim, 0, 1)
            for name, x in self.leaves.items()
        }
        with torch.no_grad():
            state: State = self.layer(**one, return_state=True)[1]
        return state

    @cached_property
    def position(self) -> dict[str, Tensor]:
        """The inputs of one position."""
        return {
            name: x.detach() if (dim := self.times[name]) is None else x.detach().select(dim, 0).contiguous()
            for name, x in self.leaves.items()
        }

    def step(self) -> tuple[Tensor, ...]:
        """The outputs at one position."""
        with torch.no_grad():
            return _several(self.layer.step(self.state, **self.position)[0])

    def bytes(self) -> Bytes:
        """What must move; parameters are read once in each direction, and their gradients written."""
        learned = tuple(self.layer.parameters())
        read, made = size_of(*self.leaves.values(), *learned), size_of(*(self._weights or ()))
        returned = size_of(*(x for x in (*self.leaves.values(), *learned) if x.requires_grad))
        step = None
        if self.layer.causal:
            step = size_of(*self.position.values(), *learned) + 2 * self.state.bytes + size_of(*self.step())
        return Bytes(read + made, 2 * (read + made) + returned, step)


def _several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


# ---- errors ----------------------------------------------------------------------------------------------------------


class Definition:
    """What a layer's definition gives for one set of inputs, evaluated once for all layers that are compared with it:
    they have the same parameters."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._wanted: tuple[tuple[Tensor, ...], Tensor | None] | None = None

    def errors(self, calls: _Calls) -> tuple[float | None, float | None]:
        """Relative errors of outputs (the largest) and of a gradient; None where the definition takes too long."""
        compiled, graph, leaves = calls.layer, calls.layer.graph, calls.leaves
        length = max((leaves[name].shape[dim] for name, dim in calls.times.items() if dim is not None), default=0)
        if not compiled.causal and length > PREFIX:
            return None, None
        # One batch entry is enough where entries do not meet.
        batch = next((axis for axis in compiled.call_axes if separate(graph, axis)), None)
        inputs = {node.name: _dims(node.layout, calls.times.get(node.name), batch) for node in graph.inputs}
        outputs = [
            _dims(result.layout, compiled.output_time(place), batch) for place, result in enumerate(graph.results)
        ]  # fmt: skip
        found = calls.both(lambda grads: [_kept(g, dims) for g, dims in zip(grads, outputs, strict=True)])
        name = next((name for name, x in leaves.items() if x.grad is not None and calls.times[name] is not None), None)
        if self._wanted is None:
            grads = [_cut(g, dims).double().cpu() for g, dims in zip(calls.weights(found), outputs, strict=True)]
            self._wanted = self._evaluate(calls, inputs, grads, name)
        wanted, gradient = self._wanted
        error = max(relative(_cut(y, dims), x) for y, x, dims in zip(found, wanted, outputs, strict=True))
        here = None if name is None else leaves[name].grad
        if name is None or here is None or gradient is None:
            return error, None
        return error, relative(_cut(here, inputs[name]), gradient)

    def _evaluate(
        self, calls: _Calls, inputs: Mapping[str, Dims], grads: Sequence[Tensor], name: str | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The outputs, and the gradient of an input."""
        self.reference.load_state_dict({key: x.double().cpu() for key, x in calls.layer.state_dict().items()})
        exact = {key: _wide(_cut(x, inputs[key])) for key, x in calls.leaves.items()}
        wanted = _several(self.reference(**exact))
        if name is None:
            return wanted, None
        return wanted, torch.autograd.grad(wanted, exact[name], grads, materialize_grads=True)[0]


Dims = tuple[int | None, int | None]
"""The dimensions of a tensor that are time and batch."""


def _dims(layout: Layout, time: int | None, batch: str | None) -> Dims:
    return time, next((dim for dim, atoms in enumerate(layout) if batch is not None and atoms == (batch,)), None)


def _cut(x: Tensor, dims: Dims) -> Tensor:
    """The first positions and batch entry."""
    for dim, count in zip(dims, (PREFIX, 1), strict=True):
        x = x if dim is None else x.narrow(dim, 0, min(count, x.shape[dim]))
    return x.detach()


def _kept(x: Tensor, dims: Dims) -> Tensor:
    """All of a tensor, with zeros but for the first positions and batch entry."""
    kept = torch.zeros_like(x)
    _cut(kept, dims).copy_(_cut(x, dims))
    return kept


def _wide(x: Tensor) -> Tensor:
    return x.double().cpu().requires_grad_() if x.is_floating_point() else x.cpu()


def separate(graph: Graph, axis: str) -> bool:
    """Whether entries along an axis do not meet: what depends on a tensor that has it, has it too."""
    touched: set[str] = set()
    for name in graph.order:
        node = graph.nodes[name]
        if axis in node.axes or any(used in touched for used in operands(node)):
            if axis not in node.axes:
                return False
            touched.add(name)
    return True
