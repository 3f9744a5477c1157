"""Every node of a graph as text, over all of time (`forward`) or at one position (`step`).

A step is the same text with the time axis dropped from every tensor; only contractions, lags and histories differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from ssdc.codegen.emit import Emitter, Value
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.graph.packing import POSITION
from ssdc.graph.states import Accumulator, History, StatePart, grouped, state_parts
from ssdc.plan.planner import Plan
from ssdc.plan.search import search


@dataclass
class Writer:
    """Writes the nodes of one graph. `values` maps nodes to variables, `states` state parts to theirs."""

    graph: Graph
    plan: Plan
    step: bool
    out: Emitter = field(init=False)
    values: dict[str, Value] = field(default_factory=dict)
    states: dict[tuple[type, str], str] = field(default_factory=dict)
    parts: tuple[StatePart, ...] = ()

    def __post_init__(self) -> None:
        self.parts = state_parts(self.graph)
        self.out = Emitter(self._sizes())
        for place, part in enumerate(self.parts):
            self.states[type(part), part.name] = f"s{place}"

    # ---- sizes ----

    def _sizes(self) -> dict[str, str]:
        """The text of each atom's size: a number, or a variable set from an input's shape."""
        sizes = {atom: str(size) for atom, size in self.graph.sizes.items() if size is not None}
        for place, atom in enumerate(self.free()):
            sizes[atom] = f"n{place}"
        for node in self.graph.nodes.values():
            if isinstance(node, ir.Stack):
                sizes[node.axes[-1]] = self.plan_count(node.opened, sizes)
        return {**sizes, self.graph.reader: "length", **dict.fromkeys(self.graph.writers, "span")}

    @staticmethod
    def plan_count(opened: tuple[tuple[str, ...], ...], sizes: Mapping[str, str]) -> str:
        """The number of columns of a stack, as text."""
        terms = [" * ".join(sizes[atom] for atom in one) or "1" for one in opened]
        text = " + ".join(terms)
        return (
            str(sum(int(sizes[one[0]]) if one else 1 for one in opened))
            if all(len(one) < 2 and (not one or sizes[one[0]].isdigit()) for one in opened)
            else f"({text})"
        )

    def free(self) -> tuple[str, ...]:
        """The atoms whose size each call decides, in order of first appearance in the inputs."""
        found = dict.fromkeys(axis for node in self.graph.inputs for axis in node.axes)
        return tuple(a for a in found if a != self.graph.reader and self.graph.sizes.get(a) is None and "+" not in a)

    def axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Axes as the text has them: without time in a step."""
        return tuple(axis for axis in axes if axis != self.graph.reader) if self.step else axes

    # ---- nodes ----

    def write(self, node: ir.AnyNode) -> None:
        """Statements that compute a node, unless it is an input, a mask, or a contraction (written by the caller)."""
        match node:
            case ir.Input():
                self.values[node.name] = self._opened(node)
                if node.name == POSITION:
                    self._position(node)
            case ir.Parameter():
                self.values[node.name] = self._opened(node)
            case ir.Map():
                self.values[node.name] = self._map(node)
            case ir.Linear():
                self.values[node.name] = self._linear(node)
            case ir.Shift():
                self.values[node.name] = self._shift(node)
            case ir.Part():
                self.values[node.name] = self._part(node)
            case ir.Lookup():
                self.values[node.name] = self._lookup(node)
            case ir.Rename():
                self.values[node.name] = self._rename(node)
                if node.operand == POSITION:
                    self._position(node)
            case ir.Stack():
                self.values[node.name] = self._stack(node)
            case ir.Column():
                self.values[node.name] = self._column(node)
            case ir.Mask() | ir.Contraction() | ir.DenseMask():
                pass
            case _:
                assert_never(node)

    def _opened(self, node: ir.Input | ir.Parameter) -> Value:
        """A stored tensor with one dimension an atom."""
        place = [n.name for n in (self.graph.inputs if isinstance(node, ir.Input) else self.graph.parameters)].index(
            node.name
        )
        name = f"{'i' if isinstance(node, ir.Input) else 'p'}{place}"
        text = self._unflattened(node, name)
        axes = self.axes(node.axes)
        return Value(name, axes) if text == name else self.out.new(text, axes)

    def given(self, name: str) -> str:
        """The text of a tensor that a Triton kernel takes: inputs in the type in which they came, alone or stacked."""
        node = self.graph.nodes[name]
        if isinstance(node, ir.Stack):
            return self._stacked(node) or self.values[name].text
        if not isinstance(node, ir.Input):
            return self.values[name].text
        return self._unflattened(node, f"given{[one.name for one in self.graph.inputs].index(name)}")

    def _unflattened(self, node: ir.Input | ir.Parameter, name: str) -> str:
        text, dim = name, 0
        for stored in node.layout:
            atoms = self.axes(stored)
            if stored and not atoms:
                continue
            if not atoms:
                text += f".squeeze({dim})"
                continue
            if len(atoms) > 1:
                text = (
                    f"torch.unflatten({text}, {dim}, ({', '.join(self._size_or_rest(atoms, atom) for atom in atoms)}))"
                )
            dim += len(atoms)
        return text

    def _size_or_rest(self, atoms: tuple[str, ...], atom: str) -> str:
        unknown = [a for a in atoms if self.graph.sizes.get(a) is None]
        return "-1" if atom in unknown and len(unknown) == 1 else self.out.sizes[atom]

    def _map(self, node: ir.Map) -> Value:
        axes = self.axes(node.axes)
        if self.out.fixed(node.expr):
            return self._fixed(node, axes)
        known = (*axes, *(axis for name in ir.refs(node.expr) for axis in self.values[name].axes), *self.out.sizes)
        made = self.out.scalar(node.expr, self.values, tuple(dict.fromkeys(known)))
        if not isinstance(made, Value):
            made = self.out.new(f"torch.full((), {made!r}, device=device, dtype=dtype)", ())
        if made.axes == axes:
            return made
        return self.out.new(self.out.expanded(made, axes).text, axes)

    def _fixed(self, node: ir.Map, axes: tuple[str, ...]) -> Value:
        """A map of positions alone: in float64, and rounded for its readers."""
        made = self.out.precise(node.expr, axes)
        if made.axes != axes:
            made = self.out.new(self.out.expanded(made, axes).text, axes)
        self.out.exact[node.name] = made
        return made if node.kind == "bool" else self.out.new(f"{made.text}.to(dtype)", axes)

    def _position(self, node: ir.Input | ir.Parameter | ir.Rename) -> None:
        """Keeps the number of each position for what is computed of positions alone."""
        value = self.values[node.name]
        self.out.exact[node.name] = self.out.new(f"{value.text}.double()", value.axes)

    def product(self, names: tuple[str, ...], axes: tuple[str, ...], low: str | None = None) -> Value:
        """The product of nodes summed to `axes`, in its cheapest pairwise order, with every one of `axes` present."""
        operands = {f"o{k}": self.values[name] for k, name in enumerate(names)}
        made = self.path(operands, axes, low)
        if set(made.axes) == set(axes):
            return Value(self.out.full(made, axes), axes)
        return self.out.new(self.out.expanded(made, axes).text, axes)

    def path(self, operands: Mapping[str, Value], axes: tuple[str, ...], low: str | None = None) -> Value:
        """The product of operands by an exact search at the plan's sizes."""
        sizes = {**{axis: 64 for value in operands.values() for axis in value.axes}, **self._numbers()}
        found = search(tuple((name, value.axes) for name, value in operands.items()), axes, sizes, self.plan.hardware)
        return self.out.path(found, operands, axes, low)

    def _numbers(self) -> dict[str, int]:
        known = {atom: size for atom, size in self.graph.sizes.items() if size is not None}
        return {**dict.fromkeys(self.out.sizes, 64), **known, **self.plan.sizes}

    def _linear(self, node: ir.Linear) -> Value:
        learned = any(isinstance(self.graph.nodes[name], ir.Parameter) for name in node.operands)
        return self.product(node.operands, self.axes(node.axes), "low" if learned else None)

    def _part(self, node: ir.Part) -> Value:
        source = self.values[node.operand]
        last = len(source.axes) - 1
        offset = self.plan_count(node.offset, self.out.sizes) if node.offset else "0"
        size = self.plan_count((node.opened,), self.out.sizes) if node.opened else "1"
        text = f"{source.text}.narrow({last}, {offset}, {size})"
        if len(node.opened) > 1:
            text = f"torch.unflatten({text}, {last}, ({', '.join(self.out.sizes[atom] for atom in node.opened)}))"
        return self.out.new(text, self.axes(node.axes))

    def _lookup(self, node: ir.Lookup) -> Value:
        table, ids = self.values[node.table], self.values[node.ids]
        rest = table.axes[1:]
        text = f"functional.embedding({ids.text}, {table.text}{'.flatten(1)' if len(rest) != 1 else ''})"
        if len(rest) != 1:
            text += f".unflatten(-1, ({', '.join(self.out.sizes[axis] for axis in rest)},))"
        return self.out.new(text, self.axes(node.axes))

    def _rename(self, node: ir.Rename) -> Value:
        source, table = self.values[node.operand], dict(node.names)
        axes = tuple(table.get(axis, axis) for axis in source.axes)
        if self.graph.reader not in table:
            return Value(source.text, axes)
        dim = source.dim(self.graph.reader)
        history = self.states.get((History, node.operand))
        if history is None:
            return Value(source.text, axes)
        value = self.out.new(f"whole({source.text}, {dim}, {history})", axes)
        self.out.lines.append(f"span = {value.text}.shape[{dim}]")
        return value

    def _stack(self, node: ir.Stack) -> Value:
        base, column = self.axes(node.axes)[:-1], node.axes[-1]
        texts = []
        for names, opened in zip(node.values, node.opened, strict=True):
            if names:
                made = self.product(names, (*base, *opened))
                text = made.text
                if len(opened) != 1:
                    text += f".flatten({len(base)})" if opened else ".unsqueeze(-1)"
            else:
                shape = ", ".join((*(self.out.sizes[axis] for axis in base), "1"))
                text = f"torch.ones(({shape},), device=device, dtype=dtype)"
            texts.append(text)
        return self.out.new(f"torch.cat([{', '.join(texts)}], -1)", (*base, column))

    def _stacked(self, node: ir.Stack) -> str | None:
        """Inputs side by side, with columns of ones, in the type in which they came; None for values of other kinds."""
        texts: list[str] = []
        for names, opened in zip(node.values, node.opened, strict=True):
            match [self.graph.nodes[name] for name in names]:
                case []:
                    texts.append("")
                case [ir.Input(name=name, axes=axes)] if len(opened) == 1 and axes == (*node.axes[:-1], *opened):
                    texts.append(self.given(name))
                case _:
                    return None
        some = next((text for text in texts if text), None)
        if some is None:
            return None
        return f"torch.cat([{', '.join(text or f'torch.ones_like({some}[..., :1])' for text in texts)}], -1)"

    def _column(self, node: ir.Column) -> Value:
        source = self.values[node.operand]
        before, mine = node.opened[: node.place], node.opened[node.place]
        offset = self.plan_count(before, self.out.sizes) if before else "0"
        base = source.axes[:-1]
        if not mine:
            made = self.out.new(f"{source.text}.select({len(base)}, {offset})", base)
        else:
            text = f"{source.text}.narrow({len(base)}, {offset}, {self.plan_count((mine,), self.out.sizes)})"
            if len(mine) > 1:
                text += f".unflatten({len(base)}, ({', '.join(self.out.sizes[atom] for atom in mine)}))"
            made = self.out.new(text, (*base, *mine))
        axes = self.axes(node.axes)
        return Value(self.out.full(made, axes), axes)

    def _shift(self, node: ir.Shift) -> Value:
        source = self.values[node.operand]
        if self.step:
            time = self.graph.nodes[node.operand].axes.index(self.graph.reader)
            text = f"{self.states[History, node.operand]}.select({time}, -{node.steps})"
            for name in node.documents:
                when = self.graph.nodes[name].axes
                place = Value(
                    f"{self.states[History, name]}.select({when.index(self.graph.reader)}, -{node.steps})",
                    self.values[name].axes,
                )
                alike = self.out.new(f"({self.values[name].text} == {place.text}).to(dtype)", self.values[name].axes)
                text = f"{text} * {self.out.full(alike, source.axes)}"
            return self.out.new(text, source.axes)
        dim = source.dim(self.graph.reader)
        text = f"extend({source.text}, {dim}, {node.steps}, {self.history(node.operand)}).narrow({dim}, 0, length)"
        for name in node.documents:
            found = self.values[name]
            at = found.dim(self.graph.reader)
            earlier = f"extend({found.text}, {at}, {node.steps}, {self.history(name)}).narrow({at}, 0, length)"
            alike = self.out.new(f"({found.text} == {earlier}).to(dtype)", found.axes)
            text = f"{text} * {self.out.full(alike, source.axes)}"
        return self.out.new(text, source.axes)

    def history(self, name: str) -> str:
        """The variable of a tensor's history; None in the text where it has none."""
        return self.states.get((History, name), "None")

    # ---- states and results ----

    def stored(self, axes: tuple[str, ...], text: str, *, opening: bool) -> str:
        """A state between its stored form (one dimension a declared axis) and its atoms."""
        dim = 0
        for atoms in grouped(self.graph, axes):
            if len(atoms) > 1:
                shape = ", ".join(self.out.sizes[atom] for atom in atoms)
                last = dim + len(atoms) - 1
                text = f"torch.unflatten({text}, {dim}, ({shape}))" if opening else f"{text}.flatten({dim}, {last})"
            dim += len(atoms) if opening else 1
        return text

    def results(self) -> list[str]:
        """The outputs in their declared layout."""
        texts = []
        for result in self.graph.results:
            value = self.values[result.node]
            text, dim = value.text, 0
            for stored in result.layout:
                atoms = self.axes(stored)
                if stored and not atoms:
                    continue
                if not atoms:
                    text += f".unsqueeze({dim})"
                elif len(atoms) > 1:
                    text += f".flatten({dim}, {dim + len(atoms) - 1})"
                dim += 1
            texts.append(text)
        return texts

    def accumulators(self) -> tuple[Accumulator, ...]:
        return tuple(part for part in self.parts if isinstance(part, Accumulator))
