"""The tree of a program as it was written: frozen nodes, each with the span it came from.

Spans do not take part in equality, so `parse(print_program(tree)) == tree` says that a tree survived the trip.
Nothing is resolved here: a name is a name, and what it means is found out in `ssdc.graph`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ssdc.source import NOWHERE, Span


@dataclass(frozen=True)
class Node:
    """Anything with a place in the source."""

    span: Span = field(default=NOWHERE, compare=False, kw_only=True, repr=False)


# ---- indices: what may stand between brackets ----------------------------------------------------------------------


@dataclass(frozen=True)
class AxisIndex(Node):
    """`h`: a tensor runs along an axis."""

    name: str


@dataclass(frozen=True)
class LagIndex(Node):
    """`t-1`: a fixed number of steps (at least one) before the reader position."""

    name: str
    steps: int


@dataclass(frozen=True)
class FlatIndex(Node):
    """`(h p)`: several axes stored as one, the first outermost."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class UnitIndex(Node):
    """`1`: an axis of size one."""


@dataclass(frozen=True)
class LookupIndex(Node):
    """`ids[b,t]` inside brackets: the row that an integer tensor names."""

    tensor: TensorRef


Index: TypeAlias = AxisIndex | LagIndex | FlatIndex | UnitIndex | LookupIndex


# ---- expressions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number(Node):
    """A literal. Integers stay `int`, so that sizes are exact."""

    value: int | float


@dataclass(frozen=True)
class Name(Node):
    """A name without brackets: a size, or an initialiser such as `zeros`."""

    name: str


@dataclass(frozen=True)
class TensorRef(Node):
    """`x[b,t,h]`: a tensor (or a mask) and its indices. Also the left side of a definition or declaration."""

    name: str
    indices: tuple[Index, ...]


@dataclass(frozen=True)
class Negate(Node):
    """`-e`."""

    operand: Expr


@dataclass(frozen=True)
class Binary(Node):
    """`left op right`; `^` binds tightest and to the right, `-a ^ b` is `-(a ^ b)`, the others bind to the left."""

    op: Literal["+", "-", "*", "/", "^"]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Compare(Node):
    """`left op right`, legal only inside `where`."""

    op: Literal["<", "<=", ">", ">=", "==", "!="]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Call(Node):
    """`f(a, b)`: an elementwise function, an initialiser, `split`, or a call of a used layer."""

    function: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True)
class Reduce(Node):
    """`f(e over h, (p q), eps = 1e-5, mask = M)`: a reduction, a norm or a softmax over named axes."""

    function: str
    operand: Expr
    over: tuple[AxisIndex | FlatIndex, ...]
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Option(Node):
    """`eps = 1e-5` or `mask = M` inside a reduction."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Position(Node):
    """`index(h)`: the position along an axis, from zero."""

    axis: str


Expr: TypeAlias = Number | Name | TensorRef | Negate | Binary | Compare | Call | Reduce | Position


# ---- statements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size(Node):
    """`size H = E * D / P`."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Time(Node):
    """`time t, s`: the reader position and the writer positions. `spans` has one entry a name."""

    names: tuple[str, ...]
    spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Axis(Node):
    """One axis of an `axis` statement. `groups` names the axis that this one groups (`axis g = G groups h`)."""

    name: str
    size: Expr | None = None
    groups: str | None = None


@dataclass(frozen=True)
class Axes(Node):
    """`axis b, h = H, g = G groups h`."""

    entries: tuple[Axis, ...]


@dataclass(frozen=True)
class Input(Node):
    """One tensor of an `input` statement."""

    tensor: TensorRef
    kind: Literal["real", "complex", "int", "bool"] = "real"


@dataclass(frozen=True)
class Inputs(Node):
    """`input x[b,t,d], ids[b,t] : int`."""

    entries: tuple[Input, ...]


@dataclass(frozen=True)
class Param(Node):
    """One tensor of a `param` statement, with its initialiser if one is given."""

    tensor: TensorRef
    init: Expr | None = None
    kind: Literal["real", "complex"] = "real"


@dataclass(frozen=True)
class Params(Node):
    """`param A[h] ~ zeros, in_proj.weight[e,d]`."""

    entries: tuple[Param, ...]


@dataclass(frozen=True)
class Structure(Node):
    """One factor of a mask: `semiseparable(a[b,t,h], strict, reverse)`, `causal`, `band(256)`."""

    name: str
    arguments: tuple[Expr, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mask(Node):
    """`mask L[b,h,t,s] = structure * structure`."""

    tensor: TensorRef
    structures: tuple[Structure, ...]


@dataclass(frozen=True)
class Define(Node):
    """`y[b,t,p] = e`; with several targets, `split` or a call of a used layer with several outputs."""

    targets: tuple[TensorRef, ...]
    value: Expr


@dataclass(frozen=True)
class Instance(Node):
    """`ssd(H = H, N = N)` inside `use`."""

    layer: str
    sizes: tuple[tuple[str, Expr], ...] = ()


@dataclass(frozen=True)
class Repeat(Node):
    """`member * 7` inside `chain`, or a whole `chain(...) * 4`."""

    member: Model
    count: Expr


@dataclass(frozen=True)
class Chain(Node):
    """`chain(a, b * 3)`: submodules called one after another."""

    members: tuple[Model, ...]


Model: TypeAlias = Instance | Repeat | Chain


@dataclass(frozen=True)
class Use(Node):
    """`use core = ssd(H = H)`."""

    name: str
    model: Model


@dataclass(frozen=True)
class Output(Node):
    """`output y, z`. `spans` has one entry a name."""

    names: tuple[str, ...]
    spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)


Statement: TypeAlias = Size | Time | Axes | Inputs | Params | Mask | Define | Use | Output


@dataclass(frozen=True)
class LayerSize(Node):
    """One size in a layer's head: `H`, or `P = 64`."""

    name: str
    default: Expr | None = None


@dataclass(frozen=True)
class Layer(Node):
    """`layer NAME(SIZE, SIZE = 64) { statements }`."""

    name: str
    sizes: tuple[LayerSize, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Program(Node):
    """Every layer of a file, in order."""

    layers: tuple[Layer, ...]
