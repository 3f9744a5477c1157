"""What a mask is in algebra: the facts that a planner may ask of any structure, and what a structure may ask in turn.

A mask is M[t,s] = [support] * (product of its gates between s and t) * (product of its kernels at lag t - s). `Facts`
says which support, gates and kernels; it does not say how a multiplication by M is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ssdc.errors import Fault
from ssdc.structures.bounds import UNIT, Interval
from ssdc.structures.walk import axes_of, reads
from ssdc.syntax import ast

Direction: TypeAlias = Literal["forward", "reverse", "both"]  # reads s <= t, s >= t, or all


class Scope(Protocol):
    """The layer around a mask, as far as a structure needs it."""

    @property
    def reader(self) -> str:
        """The reader position's name."""
        ...

    @property
    def writers(self) -> tuple[str, ...]:
        """The writer positions' names."""
        ...

    def definition(self, ref: ast.TensorRef) -> ast.Expr | None:
        """What a tensor is defined as, if elementwise and over exactly the indices of `ref`; else None."""
        ...

    def kind(self, name: str) -> str:
        """`real`, `complex`, `int` or `bool`: what a tensor's elements are; `real` if unknown."""
        ...

    def is_size(self, name: str) -> bool:
        """Whether a bare name is a size."""
        ...

    def size(self, name: str) -> int | None:
        """The value of a size, or the length of an axis, where it is known before a call."""
        ...

    def report(self, fault: Fault) -> None:
        """Take note of a fault; the structure goes on with what it has."""
        ...


@dataclass(frozen=True)
class Gate:
    """One factor a[r] of the product between writer and reader.

    `expr` is the gate as written: its time position carries the reader's name, and without one it is constant in time.
    `log` is an expression for its logarithm that never takes the exponential of a log, or None if none is known.
    `interval` holds every value of the gate. `exclusive`: the reader's own gate is not in the product, that is r runs
    over s < r < t, not s < r <= t (mirrored, in reverse: t < r < s, not t <= r < s).
    """

    expr: ast.Expr
    log: ast.Expr | None
    interval: Interval
    exclusive: bool = False

    @property
    def bounded(self) -> bool:
        """Whether the gate is shown to lie in [0, 1]."""
        return self.interval.within(UNIT)


@dataclass(frozen=True)
class Kernel:
    """Values by lag t - s (s - t in reverse), zero outside 0 <= lag < J.

    `axis` is the last index of `tensor`, of length J. With `newest_first` position j of it holds lag j (toeplitz),
    without it lag J - 1 - j (conv).
    """

    tensor: ast.TensorRef
    axis: str
    newest_first: bool


@dataclass(frozen=True)
class Facts:
    """A mask in algebra.

    `direction` and `strict` (diagonal excluded) give the support, further cut by `widths` (0 <= lag < w each) and
    `documents` (equal at reader and writer). `tables` are tensors that enter in some other way; `missing` then says why
    such a structure is not lowered yet.
    """

    direction: Direction
    strict: bool = False
    gates: tuple[Gate, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    widths: tuple[ast.Expr, ...] = ()
    documents: tuple[ast.TensorRef, ...] = ()
    tables: tuple[ast.TensorRef, ...] = ()
    missing: str | None = None

    @property
    def bounded(self) -> bool:
        """Whether every gate is shown to lie in [0, 1], so that products of them never grow."""
        return all(gate.bounded for gate in self.gates)

    @property
    def logarithmic(self) -> bool:
        """Whether every gate has a log form."""
        return all(gate.log is not None for gate in self.gates)

    @property
    def windowed(self) -> bool:
        """Whether the reach is fixed: zero from some lag on, whatever T is."""
        return bool(self.widths or self.kernels)

    def time_invariant(self, reader: str) -> bool:
        """Whether M[t,s] depends on t - s only, gate expressions taken as written."""
        return not self.documents and not self.tables and not any(reads(gate.expr, (reader,)) for gate in self.gates)

    def axes(self, scope: Scope) -> tuple[str, ...]:
        """The axes that the mask has in front of reader and writer, each once, in order of appearance."""
        lags = {kernel.axis for kernel in self.kernels}
        arguments = (
            *(gate.expr for gate in self.gates),
            *(kernel.tensor for kernel in self.kernels),
            *self.documents,
            *self.tables,
        )
        hidden = {scope.reader, *scope.writers, *lags}
        return tuple(dict.fromkeys(name for argument in arguments for name in axes_of(argument) if name not in hidden))
