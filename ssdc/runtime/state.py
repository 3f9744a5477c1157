"""A layer's state: named tensors, and the layer that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


class State:
    """What a layer remembers after a position: tensors by name, for one layer only.

    A state is a pytree, so that torch.compile, torch.export and torch.func take it as they take tensors.

    >>> import torch
    >>> state = State("ssd/1f", ("y",), [torch.zeros(2, 3)])
    >>> state["y"].shape, state.bytes
    (torch.Size([2, 3]), 24)
    """

    def __init__(self, layer: str, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        self.layer = layer
        self.names = tuple(names)
        self.tensors = tuple(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bytes(self) -> int:
        """The memory that the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def to(self, *args: Any, **kwargs: Any) -> State:
        """The state moved as `torch.Tensor.to` moves a tensor; integers keep their type."""
        moved = [
            t.to(*args, **kwargs) if t.is_floating_point() else t.to(device=t.to(*args, **kwargs).device)
            for t in self.tensors
        ]
        return State(self.layer, self.names, moved)

    def detach(self) -> State:
        """The state without the history of its gradients."""
        return State(self.layer, self.names, [tensor.detach() for tensor in self.tensors])

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name}: {list(tensor.shape)}" for name, tensor in zip(self.names, self.tensors, strict=True)
        )
        return f"State({self.layer.partition('/')[0]}, {parts})"


def _flatten(state: State) -> tuple[list[Any], tuple[str, tuple[str, ...]]]:
    return list(state.tensors), (state.layer, state.names)


def _unflatten(tensors: Any, context: tuple[str, tuple[str, ...]]) -> State:
    return State(context[0], context[1], list(tensors))


pytree.register_pytree_node(State, _flatten, _unflatten, serialized_type_name="ssdc.State")
