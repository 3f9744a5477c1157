"""Text of tensor operations over named axes: alignment, pairwise products, elementwise expressions.

A `Value` is a variable of the generated text with the atoms along its dimensions. An `Emitter` collects statements, one
operation a line; names in the text are its own (`v0`, `v1`, ..), never a user's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_letters

from ssdc.graph import nodes as ir
from ssdc.plan.search import Path


@dataclass(frozen=True)
class Value:
    """A variable and its axes."""

    text: str
    axes: tuple[str, ...]

    def dim(self, axis: str) -> int:
        return self.axes.index(axis)


@dataclass
class Emitter:
    """Statements of one function. `sizes` gives the text of each axis's size; unit axes may be broadcast.

    `exact` holds the float64 values of nodes that no input takes part in but positions: angles and powers of a position
    lose their last digits before anything else does, so that they are rounded once, when something else reads them.
    """

    sizes: Mapping[str, str]
    lines: list[str] = field(default_factory=list)
    count: int = 0
    exact: dict[str, Value] = field(default_factory=dict)

    def new(self, text: str, axes: Sequence[str], name: str | None = None) -> Value:
        """A statement that binds a variable."""
        if name is None:
            name = f"v{self.count}"
            self.count += 1
        self.lines.append(f"{name} = {text}")
        return Value(name, tuple(axes))

    def aligned(self, value: Value, axes: Sequence[str]) -> str:
        """An expression for `value` with dimensions in the order `axes`, of size one where it has none.

        Leading dimensions that it lacks are left out: broadcasting supplies them.
        """
        found = [axis for axis in axes if axis in value.axes]
        text = value.text
        if found != list(value.axes):
            text += f".permute({', '.join(str(value.dim(axis)) for axis in found)})"
        first = next((place for place, axis in enumerate(axes) if axis in value.axes), len(axes))
        wanted = list(axes[first:])
        if found != wanted:
            text += f"[{_slots(wanted, found)}]"
        return text

    def full(self, value: Value, axes: Sequence[str]) -> str:
        """As `aligned`, with every dimension present."""
        found = [axis for axis in axes if axis in value.axes]
        text = value.text
        if found != list(value.axes):
            text += f".permute({', '.join(str(value.dim(axis)) for axis in found)})"
        if found != list(axes):
            text += f"[{_slots(axes, found)}]"
        return text

    def expanded(self, value: Value, axes: Sequence[str]) -> Value:
        """The value with all of `axes`, those it lacks repeated without copying."""
        if set(axes) <= set(value.axes):
            return Value(self.full(value, axes), tuple(axes))
        sizes = ", ".join("-1" if axis in value.axes else self.sizes[axis] for axis in axes)
        return Value(f"{self.full(value, axes)}.expand({sizes})", tuple(axes))

    def path(self, path: Path, operands: Mapping[str, Value], axes: Sequence[str], low: str | None = None) -> Value:
        """The product that a path orders, as [axes it has]."""
        values = dict(operands)
        for step in path.steps:
            last = step.result == "out"
            left = values[step.left]
            wanted = tuple(axis for axis in axes if axis in step.axes) if last else step.axes
            if step.right:
                values[step.result] = self.pair(left, values[step.right], wanted, low)
            else:
                values[step.result] = self.summed(left, wanted)
        return values["out"]

    def summed(self, value: Value, axes: Sequence[str]) -> Value:
        """A value summed over the axes that `axes` lacks."""
        dropped = [value.dim(axis) for axis in value.axes if axis not in axes]
        if dropped:
            kept = tuple(axis for axis in value.axes if axis in axes)
            value = self.new(f"{value.text}.sum({tuple_text(dropped)})", kept)
        if value.axes == tuple(axes):
            return value
        return Value(self.full(value, axes), tuple(axes))

    def pair(self, left: Value, right: Value, axes: Sequence[str], low: str | None = None) -> Value:
        """A product of two values summed over the axes that `axes` lacks: elementwise, or an einsum."""
        for one in (left, right):
            other = right if one is left else left
            alone = [axis for axis in one.axes if axis not in axes and axis not in other.axes]
            if alone:
                less = self.summed(one, [axis for axis in one.axes if axis not in alone])
                left, right = (less, right) if one is left else (left, less)
        inner = [axis for axis in left.axes if axis not in axes]
        rows = [axis for axis in left.axes if axis not in right.axes]
        columns = [axis for axis in right.axes if axis not in left.axes]
        if not inner:
            return self.new(f"{self.full(left, axes)} * {self.full(right, axes)}", axes)
        if not rows and not columns:
            order = [*axes, *inner]
            dims = [len(axes) + place for place in range(len(inner))]
            return self.new(f"({self.full(left, order)} * {self.full(right, order)}).sum({tuple_text(dims)})", axes)
        letters = {axis: ascii_letters[place] for place, axis in enumerate(dict.fromkeys((*left.axes, *right.axes)))}
        spec = ",".join("".join(letters[axis] for axis in one) for one in (left.axes, right.axes))
        spec += "->" + "".join(letters[axis] for axis in axes)
        if low is not None:
            return self.new(f'project("{spec}", {left.text}, {right.text}, {low})', axes)
        return self.new(f'torch.einsum("{spec}", {left.text}, {right.text})', axes)

    # ---- elementwise expressions ----

    def scalar(self, expr: ir.Scalar, nodes: Mapping[str, Value], order: Sequence[str]) -> Value | float:
        """An elementwise expression; axes of intermediate results stand in the order `order`."""
        if isinstance(expr, ir.Apply | ir.Fold) and self.fixed(expr):
            made = self.precise(expr, order)
            truth = isinstance(expr, ir.Apply) and expr.function in COMPARISONS
            return made if truth else self.new(f"{made.text}.to(dtype)", made.axes)
        return self._scalar(expr, nodes, order, "dtype")

    def fixed(self, expr: ir.Scalar) -> bool:
        """Whether an expression reads positions and numbers alone, and at least one position."""
        match expr:
            case ir.Const():
                return False
            case ir.Ref(node=node):
                return node in self.exact
            case ir.Index():
                return True
            case ir.Apply(arguments=arguments):
                parts = [argument for argument in arguments if not isinstance(argument, ir.Const)]
                return bool(parts) and all(self.fixed(part) for part in parts)
            case ir.Fold(operand=operand, where=where):
                return where is None and self.fixed(operand)

    def precise(self, expr: ir.Scalar, order: Sequence[str]) -> Value:
        """A fixed expression in float64."""
        made = self._scalar(expr, self.exact, order, "torch.float64")
        assert isinstance(made, Value)
        return made

    def _scalar(self, expr: ir.Scalar, nodes: Mapping[str, Value], order: Sequence[str], dtype: str) -> Value | float:
        wide = dtype != "dtype"
        match expr:
            case ir.Const(value=value):
                return value
            case ir.Ref(node=node):
                return nodes[node]
            case ir.Index(atoms=atoms):
                return self._index(atoms, dtype)
            case ir.Apply(function=function, arguments=arguments):
                lowered = [
                    self._scalar(a, nodes, order, dtype) if wide else self.scalar(a, nodes, order) for a in arguments
                ]
                return self._apply(function, lowered, order)
            case ir.Fold(function=function, operand=operand, over=over, eps=eps, where=where):
                inner = self._scalar(operand, nodes, order, dtype) if wide else self.scalar(operand, nodes, order)
                mask = self.scalar(where, nodes, order) if where is not None else None
                assert isinstance(inner, Value) and not isinstance(mask, float)
                return self._fold(function, inner, over, eps, mask)

    def _index(self, atoms: tuple[str, ...], dtype: str) -> Value:
        count = " * ".join(self.sizes[atom] for atom in atoms)
        shape = ", ".join(self.sizes[atom] for atom in atoms)
        return self.new(f"torch.arange({count}, device=device, dtype={dtype}).view({shape})", atoms)

    def _apply(self, function: str, arguments: list[Value | float], order: Sequence[str]) -> Value | float:
        values = [argument for argument in arguments if isinstance(argument, Value)]
        have = {axis for value in values for axis in value.axes}
        axes = tuple(axis for axis in order if axis in have)
        texts = [self.full(a, axes) if isinstance(a, Value) else _number(a) for a in arguments]
        if not values:
            texts[0] = f"torch.full((), {texts[0]}, device=device, dtype=dtype)"
        return self.new(_application(function, texts, arguments), axes)

    def _fold(self, function: str, value: Value, over: Sequence[str], eps: float | None, mask: Value | None) -> Value:
        dims = tuple_text(value.dim(axis) for axis in over)
        kept = tuple(axis for axis in value.axes if axis not in over)
        match function:
            case "sum" | "mean":
                return self.new(f"{value.text}.{function}({dims})", kept)
            case "max" | "min":
                return self.new(f"{value.text}.a{function}({dims})", kept)
            case "softmax":
                where = "" if mask is None else f", {self.full(mask, value.axes)}"
                return self.new(f"softmax({value.text}, {dims}{where})", value.axes)
            case _:
                return self.new(f"{function}({value.text}, {dims}, {eps!r})", value.axes)


COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def _slots(axes: Sequence[str], found: Sequence[str]) -> str:
    slots = [":" if axis in found else "None" for axis in axes]
    while slots and slots[-1] == ":":
        slots.pop()
    return ", ".join(slots) if slots else "..."


def tuple_text(dims: Iterable[int]) -> str:
    """A tuple of dimensions, as text."""
    numbers = list(dims)
    return "(" + ", ".join(map(str, numbers)) + ("," if len(numbers) == 1 else "") + ")"


def _number(value: float) -> str:
    """A canonical number: integers without a point, the rest so that they read back exactly."""
    if not math.isfinite(value):
        return f'float("{value}")'
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def _application(function: str, texts: list[str], arguments: list[Value | float]) -> str:
    first = texts[0] if isinstance(arguments[0], Value) else f"({texts[0]})"
    match function:
        case "neg":
            return f"-{first}"
        case "^":
            if isinstance(arguments[0], Value):
                return f"{first} ** {texts[1]}"
            return f"torch.pow({texts[0]}, {texts[1]})"
        case "+" | "-" | "*" | "/" | "<" | "<=" | ">" | ">=" | "==" | "!=":
            return f"{texts[0]} {function} {texts[1]}"
        case "min" | "max":
            return _extreme(function, texts, arguments)
        case "clamp":
            if isinstance(arguments[1], Value) or isinstance(arguments[2], Value):
                low, high = (_tensor(texts[place], arguments[place]) for place in (1, 2))
                return f"torch.minimum(torch.maximum({texts[0]}, {low}), {high})"
            return f"{first}.clamp({texts[1]}, {texts[2]})"
        case "where":
            return f"torch.where({texts[0]}, {_tensor(texts[1], arguments[1])}, {_tensor(texts[2], arguments[2])})"
        case "softplus":
            return f"functional.softplus({texts[0]}, 1.0, 40.0)"
        case "silu" | "relu" | "gelu" | "elu" | "logsigmoid":
            return f"functional.{function}({texts[0]})"
        case _:
            return f"torch.{function}({texts[0]})"


def _tensor(text: str, argument: Value | float) -> str:
    return text if isinstance(argument, Value) else f"torch.full((), {text}, device=device, dtype=dtype)"


def _extreme(function: str, texts: list[str], arguments: list[Value | float]) -> str:
    """min and max of several; against a number, `clamp`, which keeps NaN as torch.minimum does."""
    result = _tensor(texts[0], arguments[0])
    for text, argument in zip(texts[1:], arguments[1:], strict=True):
        result = f"torch.{function}imum({result}, {_tensor(text, argument)})"
    return result
