"""The contraction graph's nodes: what each tensor of a layer is, after names, axes and times have been checked.

Axes here are *atoms*: an axis `h` that another axis groups is the pair (group, place in the group), so that every
contraction is plain einsum. A position of the time axis is the reader's name (`t`); a tensor read at a writer position
is the same tensor, except in `Rename`, which makes a tensor over pairs of positions possible.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ssdc.source import NOWHERE, Span
from ssdc.syntax import ast

Kind = Literal["real", "complex", "int", "bool"]
Layout: TypeAlias = tuple[tuple[str, ...], ...]
"""Stored dimensions, each the atoms that it holds, outermost first; () is a dimension of size one."""

# ---- elementwise expressions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Const:
    """A number."""

    value: float


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph, broadcast by the names of its axes."""

    node: str


@dataclass(frozen=True)
class Apply:
    """An elementwise function or operator (`+ - * / ^ neg < <= > >= == !=` and the language's functions)."""

    function: str
    arguments: tuple[Scalar, ...]


@dataclass(frozen=True)
class Fold:
    """A reduction, norm or softmax over atoms; reductions drop them, norms and softmax keep them.

    `where` is a mask for softmax: positions where it is zero take no part.
    """

    function: str
    operand: Scalar
    over: tuple[str, ...]
    eps: float | None = None
    where: Scalar | None = None


@dataclass(frozen=True)
class Index:
    """The position along an axis (its atoms, outermost first), from zero, as a number."""

    atoms: tuple[str, ...]


Scalar: TypeAlias = Const | Ref | Apply | Fold | Index

# ---- nodes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A tensor: its name, its atoms in order, and the type of its elements."""

    name: str
    axes: tuple[str, ...]
    kind: Kind = field(default="real", kw_only=True)
    span: Span = field(default=NOWHERE, kw_only=True, compare=False, repr=False)


@dataclass(frozen=True)
class Result:
    """One output: the node that holds it, its declared name, and how it is stored."""

    name: str
    node: str
    layout: Layout


@dataclass(frozen=True)
class Input(Node):
    """Given at each call, stored as `layout`."""

    layout: Layout


@dataclass(frozen=True)
class Parameter(Node):
    """Learned, stored as `layout`."""

    layout: Layout
    init: ast.Expr | None


@dataclass(frozen=True)
class Map(Node):
    """An elementwise expression (with folds over axes other than time) of other tensors."""

    expr: Scalar


@dataclass(frozen=True)
class Linear(Node):
    """The product of the operands, summed over every atom that `axes` lacks: einsum without a mask."""

    operands: tuple[str, ...]


@dataclass(frozen=True)
class Shift(Node):
    """The operand `steps` positions back, zero before the start (of each of `documents`, where given)."""

    operand: str
    steps: int
    documents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part(Node):
    """Entries `offset` and on of the operand's last axis, opened into the atoms `opened` (sizes in the graph)."""

    operand: str
    offset: tuple[tuple[str, ...], ...]
    """The parts before this one, each by its atoms: the offset is the sum of their sizes."""
    opened: tuple[str, ...]


@dataclass(frozen=True)
class Lookup(Node):
    """Rows of `table` (its first axis) that the integer tensor `ids` names."""

    table: str
    ids: str


@dataclass(frozen=True)
class Rename(Node):
    """The operand with some atoms renamed. Renaming the reader to a writer position makes a tensor over pairs."""

    operand: str
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Stack(Node):
    """Writer values that share one contraction, side by side along the last atom: a numerator and its row sum.

    Each value is the product of its operands (one where it has none), its own atoms flattened into the last.
    """

    values: tuple[tuple[str, ...], ...]
    opened: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Column(Node):
    """One of the results of a contraction over a `Stack`: value number `place`, opened into its own atoms."""

    operand: str
    place: int
    opened: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LagKernel:
    """Mask values by lag: a tensor whose atom `axis` runs over lags, newest first or (as torch.nn.Conv1d) last."""

    node: str
    axis: str
    newest_first: bool


@dataclass(frozen=True)
class Origin:
    """Where a fact of a mask stands in the source: a gate, a kernel or documents (`node` is what it became), a gate in
    doubt (as `doubts` has them), a width, or a structure that reaches back without bound."""

    what: Literal["gate", "kernel", "documents", "doubt", "width", "reach"]
    span: Span
    node: str = ""


@dataclass(frozen=True)
class Mask(Node):
    """A structured T x T matrix. `axes` are its atoms without the two positions.

    M[t,s] = prod of gates over s < r <= t, without the reader's own where `exclusive`, times the kernels at lag t - s,
    where s <= t (s < t if `strict`), the lag is under `width`, and all `documents` agree. `reverse` mirrors time.
    `log_gates` are logarithms of gates, `gates` plain factors (of any sign); each name is a Map.
    """

    direction: Literal["forward", "reverse", "both"]
    strict: bool
    log_gates: tuple[str, ...] = ()
    exclusive_log_gates: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    exclusive_gates: tuple[str, ...] = ()
    kernels: tuple[LagKernel, ...] = ()
    width: int | None = None
    documents: tuple[str, ...] = ()
    bounded: bool = True
    doubts: tuple[str, ...] = ()
    """Gates that cannot be shown to lie in [0, 1], as written."""
    origins: tuple[Origin, ...] = field(default=(), kw_only=True, compare=False, repr=False)

    @property
    def finite(self) -> bool:
        """Only so many lags back, so that the state is a stretch of history."""
        return self.width is not None

    @property
    def all_gates(self) -> tuple[str, ...]:
        return self.log_gates + self.exclusive_log_gates + self.gates + self.exclusive_gates

    def operands(self) -> tuple[str, ...]:
        return self.all_gates + tuple(kernel.node for kernel in self.kernels) + self.documents


@dataclass(frozen=True)
class Contraction(Node):
    """Readers (at t) times a mask[t,s] times writers (at s), summed over s and every atom that `axes` lacks.

    What kernels do besides, set by `codegen.triton.fusion` alone: `maps` are functions that they apply to operands
    (a chain of steps for each reader, then each writer), `skip` is a factor without time (none or one) whose product
    with the value they add. With a `norm` (a chain), they divide the first column of a Stack of two, a value and one,
    by that function of the second: the result has the axes of that column.
    """

    mask: str
    readers: tuple[str, ...]
    writers: tuple[str, ...]
    maps: tuple[tuple[str, ...], ...] = ()
    skip: tuple[str, ...] = ()
    norm: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DenseMask(Node):
    """A mask written out over pairs of positions; `axes` end in the reader and a writer."""

    mask: str


AnyNode: TypeAlias = (
    Input | Parameter | Map | Linear | Shift | Part | Lookup | Rename | Stack | Column | Mask | Contraction | DenseMask
)


def refs(expr: Scalar) -> tuple[str, ...]:
    """The tensors that an elementwise expression reads, each once, in order."""
    match expr:
        case Ref(node=node):
            return (node,)
        case Apply(arguments=arguments):
            return tuple(dict.fromkeys(name for argument in arguments for name in refs(argument)))
        case Fold(operand=operand, where=where):
            return tuple(dict.fromkeys(refs(operand) + (refs(where) if where is not None else ())))
        case Const() | Index():
            return ()


def operands(node: AnyNode) -> tuple[str, ...]:
    """The tensors that a node reads, in order."""
    match node:
        case Input() | Parameter():
            return ()
        case Map(expr=expr):
            return refs(expr)
        case Linear(operands=names):
            return names
        case Shift(operand=name, documents=documents):
            return (name, *documents)
        case Part(operand=name) | Rename(operand=name) | Column(operand=name):
            return (name,)
        case Lookup(table=table, ids=ids):
            return (table, ids)
        case Stack(values=values):
            return tuple(dict.fromkeys(name for value in values for name in value))
        case Mask():
            return node.operands()
        case Contraction(mask=mask, readers=readers, writers=writers, skip=skip):
            return (mask, *readers, *writers, *skip)
        case DenseMask(mask=mask):
            return (mask,)
