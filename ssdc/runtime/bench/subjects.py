"""A contraction as subjects: through the operator of the Triton kernels, through a layer, through a peer.

In: a shape and operands, which subjects share. Out: subjects, each with a check of its results against float64. Nothing
is timed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ssdc.runtime.bench.exact import evaluate, softmax
from ssdc.runtime.bench.peers import Peer
from ssdc.runtime.bench.shapes import Given, Shape
from ssdc.runtime.bench.times import Bytes, Row, Subject
from ssdc.runtime.kernels.masked import masked
from ssdc.runtime.module import Layer

CHECKED = 1024
"""Positions of a contraction that are compared with float64: the output there, and the query's gradient, depend on no
later ones. The first batch entry is compared, and the heads that share its first query and key."""


def ours(given: Given) -> Tensor:
    """The contraction through the operator of the Triton kernels."""
    return masked(
        given.query, given.key, given.value, given.gate, None, given.scale, None, given.heads, False
    )[0]  # fmt: skip


def by_layer(layer: Layer) -> Callable[[Given], Tensor]:
    """The contraction through a layer that was compiled from `shapes.program`."""

    def call(given: Given) -> Tensor:
        y: Tensor = layer(*given.tensors)
        return y

    return call


def size_of(*tensors: Tensor | None) -> int:
    """Bytes of tensors."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def contraction(name: str, call: Callable[[Given], Tensor], shape: Shape, given: Given) -> Subject:
    """A subject that computes the contraction."""
    exact = _Exact(shape, given, another=False)
    return _subject(name, call, given, exact)


def peer(one: Peer, shape: Shape, given: Given) -> Subject | Row:
    """A subject for a peer that serves the shape; a row with the reason where it does not run on the device."""
    if given.query.device.type not in one.devices:
        return Row(one.name, "contraction", note=f"is for {', '.join(one.devices)} devices")
    return _subject(one.name, one.call, given, _Exact(shape, given, another=one.another))


def with_step(subject: Subject, given: Given) -> Subject:
    """The subject of the operator, with its step."""
    batch, _, heads, columns = given.value.shape
    state = torch.zeros(batch, heads, given.query.shape[-1], columns, device=given.value.device)
    query, key, value = (x.detach()[:, :1] for x in (given.query, given.key, given.value))
    gate, scale = (x if x is None or x.ndim == 1 else x.detach()[:, :1] for x in (given.gate, given.scale))
    moved = size_of(query, key, value, gate, scale) + 2 * size_of(state) + size_of(value)

    def step() -> None:
        masked(query, key, value, gate, None, scale, state, heads, False)

    return replace(subject, step=step, bytes=lambda: replace(subject.bytes(), step=moved))


def _subject(name: str, call: Callable[[Given], Tensor], given: Given, exact: _Exact) -> Subject:
    leaves = [x for x in given.tensors if x.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            call(given)

    def both() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        y = call(given)
        y.backward(given.grad)  # type: ignore[no-untyped-call]
        return y.detach()

    inputs, output = size_of(*given.tensors), size_of(given.grad)
    moved = Bytes(inputs + output, 2 * (inputs + output) + size_of(*leaves))
    return Subject(
        name,
        "another function" if exact.another else "contraction",
        forward,
        both,
        lambda: exact.errors(both()),
        lambda: moved,
    )


class _Exact:
    """Output and query gradient of the first batch entry and group, in float64; computed when first asked for."""

    def __init__(self, shape: Shape, given: Given, *, another: bool) -> None:
        self.given, self.another = given, another
        self.length, self.share = min(shape.length, CHECKED), shape.heads // shape.groups

    @cached_property
    def wanted(self) -> tuple[Tensor, Tensor]:
        given, cut, share = self.given, slice(0, self.length), self.share
        query, key = (x.detach()[:1, cut, :1].double() for x in (given.query, given.key))
        value, grad = (x.detach()[:1, cut, :share].double() for x in (given.value, given.grad))
        gate, scale = (
            None if x is None else x.detach()[:share].double() if x.ndim == 1 else x.detach()[:1, cut, :share].double()
            for x in (given.gate, given.scale)
        )  # fmt: skip
        query.requires_grad_()
        if self.another:
            y = softmax(query.expand(-1, -1, share, -1), key.expand(-1, -1, share, -1), value)
        else:
            y, _ = evaluate(query, key, value, gate, None, scale, None, share, False)
        (gradient,) = torch.autograd.grad(y, query, grad)
        return y.detach(), gradient

    def errors(self, y: Tensor) -> tuple[float, float]:
        """Relative errors of an output, and of the gradient that its backward pass left."""
        gradient = self.given.query.grad
        assert gradient is not None
        found = y[:1, : self.length, : self.share], gradient[:1, : self.length, :1]
        first, second = (relative(a, b) for a, b in zip(found, self.wanted, strict=True))
        return first, second


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, by norms, in float64."""
    found, wanted = found.detach().double(), wanted.detach().to(found.device)
    return float((found - wanted).norm() / wanted.norm().clamp_min(torch.finfo(torch.float64).tiny))
