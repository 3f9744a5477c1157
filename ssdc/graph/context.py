"""What the lowering of one layer shares: its scope, the nodes made so far, and how a tensor is read.

`Context.tensor` lowers a symbol on first use, so that equations may stand in any order; a circle is a fault. A
statement with a fault is given up by `Broken`, and so is all that reads it, without a further fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import TypeVar

from ssdc import errors
from ssdc.errors import Fault
from ssdc.graph import nodes as ir
from ssdc.graph.scope import Scope, did_you_mean, index_span
from ssdc.source import Span
from ssdc.syntax import ast

Made = TypeVar("Made", bound=ir.Node)


class Broken(Exception):
    """Raised to give up a statement whose fault has been reported."""


def _key(node: ir.Node) -> object:
    """What makes two nodes the same: everything but the name and the place in the source."""
    return (type(node), *(getattr(node, f.name) for f in fields(node) if f.name not in ("name", "span")))


@dataclass
class Context:
    """The state of lowering one layer."""

    scope: Scope
    lower: Callable[[Context, str], None]
    """Makes the node of a symbol and binds it."""
    nodes: dict[str, ir.AnyNode] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)
    equations: dict[str, str] = field(default_factory=dict)
    current: list[str] = field(default_factory=list)
    _broken: set[str] = field(default_factory=set)
    _interned: dict[object, str] = field(default_factory=dict)
    _atoms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _sizes: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._broken.update(self.scope.broken)

    # ---- faults ----

    def fail(self, fault: Fault) -> Broken:
        """Report a fault; the caller raises what this returns."""
        self.scope.report(fault)
        return Broken()

    def fail_silently(self) -> Broken:
        """Give up a statement whose fault is already in the scope."""
        return Broken()

    # ---- atoms ----

    def atoms(self, axis: str) -> tuple[str, ...]:
        """The atoms of an axis (or a position): several where other axes group it."""
        if axis not in self._atoms:
            self._atoms[axis] = self._split_axis(axis)
        return self._atoms[axis]

    def _split_axis(self, axis: str) -> tuple[str, ...]:
        grouping = [info for info in self.scope.axes.values() if info.groups is not None]
        info = self.scope.axes.get(axis)
        whole = info.groups if info is not None and info.groups is not None else axis
        groups = sorted((g for g in grouping if g.groups == whole), key=lambda g: g.size or 1)
        if not groups:
            return (axis,)
        chain = [groups[0].name] + [f"{group.name}%{before.name}" for before, group in pairwise(groups)]
        if axis == whole:
            return (*chain, f"{whole}%{groups[-1].name}")
        return tuple(chain[: [group.name for group in groups].index(axis) + 1])

    def atoms_of(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(atom for axis in axes for atom in self.atoms(axis))

    def sizes(self) -> dict[str, int | None]:
        """The size of every atom that is no position; None where it is known at the call only."""
        if not self._sizes:
            self._sizes = self._all_sizes()
        return self._sizes

    def _all_sizes(self) -> dict[str, int | None]:
        sizes: dict[str, int | None] = {}
        for axis in self.scope.axes.values():
            atoms = self.atoms(axis.name)
            inner = 1
            for atom in atoms[:-1]:
                inner *= sizes.get(atom) or self._size_of_group(atom)
            sizes[atoms[-1]] = axis.size // inner if axis.size is not None else None
        return sizes

    def _size_of_group(self, atom: str) -> int:
        name, _, before = atom.partition("%")
        size = self.scope.axes[name].size or 1
        return size // (self.scope.axes[before].size or 1) if before else size

    def axis_of(self, atom: str) -> str:
        """The axis that a user knows an atom by."""
        return atom.partition("%")[0]

    # ---- nodes ----

    def add(self, node: Made) -> str:
        """Bind a node, or find an equal one; its name."""
        key = _key(node)
        if not isinstance(node, ir.Input | ir.Parameter) and key in self._interned:
            return self._interned[key]
        name, count = node.name, 1
        while name in self.nodes:
            count += 1
            name = f"{node.name}.{count}"
        self.nodes[name] = replace(node, name=name)  # type: ignore[assignment]
        self._interned[key] = name
        return name

    def name(self, node: str, old: str, new: str) -> str:
        """Give a node that nothing reads yet the name `new` if it is still called `old`; its name."""
        if node != old or new in self.nodes:
            return node
        made = self.nodes[old]
        if next(reversed(self.nodes)) == old:
            del self.nodes[old]
            self.nodes[new] = replace(made, name=new)
        else:
            self.nodes = {
                (new if k == old else k): (replace(v, name=new) if k == old else v) for k, v in self.nodes.items()
            }
        if self._interned.get(_key(made)) == old:
            self._interned[_key(made)] = new
        if old in self.equations:
            self.equations = {(new if k == old else k): equation for k, equation in self.equations.items()}
        return new

    def tensor(self, name: str, span: Span) -> str:
        """The node of a symbol, lowered now if it was not yet."""
        if name in self._broken:
            raise Broken
        if name in self.bound:
            return self.bound[name]
        if name not in self.scope.symbols:
            hint = did_you_mean(
                name, self.scope.symbols, "declare it as an input or a param, or define it by an equation"
            )
            raise self.fail(errors.UnknownTensor(span, name=name, hint=hint))
        if name in self.current:
            self._broken.update(self.current)
            raise self.fail(self._circle(name, span))
        self.current.append(name)
        try:
            self.lower(self, name)
        except Broken:
            self._broken.add(name)
            raise
        finally:
            self.current.pop()
        return self.bound[name]

    def give_up(self, names: Iterable[str]) -> None:
        """Note tensors whose definition has a fault, so that their readers are given up silently."""
        self._broken.update(names)

    def _circle(self, name: str, span: Span) -> Fault:
        around = [*self.current[self.current.index(name) :], name]
        masks = [one for one in around if one in self.scope.masks]
        hint = (
            f"a mask's gates are known before any tensor read through it: take '{masks[0]}' from other tensors"
            if masks
            else "write one of them as a recursive equation, which reads itself at a writer position under a "
            "strict mask, or break the circle"
        )
        return errors.Circular(span, name=name, path=" -> ".join(around), hint=hint)

    # ---- reading ----

    def positions(self, ref: ast.TensorRef) -> frozenset[str]:
        """The positions (reader, writers) at which a reference reads."""
        return frozenset(axis for axis in self.scope.axes_of(ref) if self.scope.is_time(axis))

    def read(self, ref: ast.TensorRef) -> str:
        """The node that a reference reads, its position left at the reader.

        Lags become shifts, lookups rows, and an axis of the same size under another name a rename.
        """
        name = self.tensor(ref.name, ref.span)
        symbol = self.scope.symbols[ref.name]
        if symbol.role == "mask":
            what = f"the mask '{ref.name}' stands where a tensor is expected"
            reader, writer = self.scope.reader, (*self.scope.writers, "s")[0]
            form = f"`{ref.name}[...,{reader},{writer}] * v[...,{writer},...]`"
            hint = f"a mask is a factor of a term that reads a tensor at a writer position: {form}"
            raise self.fail(errors.BadPosition(ref.span, what=what, hint=hint))
        if any(isinstance(index, ast.LookupIndex) for index in ref.indices):
            return self._lookup(ref, name)
        used, lags = self.scope.axes_of(ref), {i.name: i.steps for i in ref.indices if isinstance(i, ast.LagIndex)}
        self._check_lags(ref, symbol.axes)
        self.check_axes(ref, symbol.axes, used)
        for steps in lags.values():
            node = self.nodes[name]
            name = self.add(ir.Shift(f"{name}@{steps}", node.axes, name, steps, kind=node.kind, span=ref.span))
        renames = tuple(
            (old, new)
            for old, new in zip(symbol.axes, used, strict=True)
            if old != new and not (self.scope.is_time(old) and len(self.times(symbol.axes)) == 1)
        )
        return self.rename(name, renames, ref) if renames else name

    def check_mask_read(self, ref: ast.TensorRef) -> None:
        """Faults for a mask's indices."""
        for index in ref.indices:
            if isinstance(index, ast.LagIndex | ast.LookupIndex):
                what = (
                    f"the mask '{ref.name}' is read {'at a lag' if isinstance(index, ast.LagIndex) else 'by a lookup'}"
                )
                hint = "a mask is read at a reader and a writer position; `strict` leaves out the reader's own"
                raise self.fail(errors.BadPosition(index.span, what=what, hint=hint))
        self.check_axes(ref, self.scope.symbols[ref.name].axes, self.scope.axes_of(ref))

    def _check_lags(self, ref: ast.TensorRef, declared: tuple[str, ...]) -> None:
        """Steps back are steps in time, of a tensor with one position."""
        for index in ref.indices:
            if not isinstance(index, ast.LagIndex):
                continue
            if not self.scope.is_time(index.name):
                what = f"'{index.name}' is no position in time, so nothing lies {index.steps} before it"
                hint = f"steps back are taken along time, `{self.scope.reader}-1`"
                raise self.fail(errors.BadPosition(index.span, what=what, hint=hint))
            if len(self.times(declared)) > 1:
                what = f"'{ref.name}' over pairs of positions, read at a lag,"
                raise self.fail(
                    errors.NotLowered(index.span, what=what, hint="read the tensors it is made of at a lag")
                )

    def times(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """The positions among some axes."""
        return tuple(axis for axis in axes if self.scope.is_time(axis))

    def check_axes(
        self, ref: ast.TensorRef, declared: tuple[str, ...], used: tuple[str, ...], rows: tuple[str, str] | None = None
    ) -> None:
        """Faults for unknown, repeated, surplus, missing and mismatched indices of a reference.

        `rows` shows what stands before them where rows are looked up: the axis declared, and what selects.
        """
        for axis in dict.fromkeys(used):
            if axis not in self.scope.axes and not self.scope.is_time(axis):
                raise self.fail(errors.UnknownAxis(index_span(ref, axis), name=axis))
            if used.count(axis) > 1:
                raise self.fail(errors.RepeatedAxis(index_span(ref, axis, last=True), name=ref.name, axis=axis))
        wrong = [(a, b) for a, b in zip(declared, used, strict=False) if not self._same(a, b)]
        if wrong or len(declared) != len(used):
            before = ("", "") if rows is None else (f"{rows[0]},", f"{rows[1]},")
            first = "" if rows is None else before[1]
            span, hint = self._mismatch(ref, declared, used, wrong, first)
            shown = f"[{before[0]}{','.join(declared)}]", f"[{before[1]}{','.join(used)}]"
            raise self.fail(errors.WrongIndices(span, name=ref.name, declared=shown[0], found=shown[1], hint=hint))

    def _mismatch(
        self,
        ref: ast.TensorRef,
        declared: tuple[str, ...],
        used: tuple[str, ...],
        wrong: list[tuple[str, str]],
        first: str,
    ) -> tuple[Span, str]:
        """Where indices differ from the declared ones, and what to do."""
        shown = f"{ref.name}[{first}{','.join(declared)}]"
        if len(declared) != len(used):
            more, less = len(declared) + bool(first), len(used) + bool(first)
            return ref.span, f"it has {more} {'index' if more == 1 else 'indices'}, not {less}: write {shown}"
        if set(declared) == set(used):
            return ref.span, f"write the indices in the declared order, {shown}"
        old, new = wrong[0]
        one, other = self.scope.axes.get(old), self.scope.axes.get(new)
        if one is None or other is None:
            why = f"'{new}' stands where '{old}' is declared, and only positions stand for positions"
        elif one.size is not None and other.size is not None and one.size != other.size:
            why = f"'{new}' has {other.size} entries and '{old}' has {one.size}"
        else:
            why = f"'{new}' stands where '{old}' is declared; an index may be another axis of the same, fixed size"
        return index_span(ref, new), f"{why}; write {shown}"

    def _same(self, declared: str, used: str) -> bool:
        if declared == used:
            return True
        if self.scope.is_time(declared) or self.scope.is_time(used):
            return self.scope.is_time(declared) and self.scope.is_time(used)
        one, other = self.scope.axes[declared], self.scope.axes[used]
        single = len(self.atoms(declared)) == 1 and len(self.atoms(used)) == 1
        equal = one.size == other.size or None in (one.size, other.size)  # a size not known yet may turn out equal
        return one.fixed and other.fixed and equal and single

    def rename(self, name: str, pairs: tuple[tuple[str, str], ...], ref: ast.TensorRef) -> str:
        """A node under other axis names."""
        node, table = self.nodes[name], dict(pairs)
        axes = tuple(table.get(axis, axis) for axis in node.axes)
        if len(set(axes)) < len(axes):
            raise self.fail(errors.RepeatedAxis(index_span(ref, pairs[0][1]), name=ref.name, axis=pairs[0][1]))
        return self.add(
            ir.Rename(f"{name}~{','.join(new for _, new in pairs)}", axes, name, pairs, kind=node.kind, span=ref.span)
        )

    def _lookup(self, ref: ast.TensorRef, table: str) -> str:
        first, *rest = ref.indices
        if any(isinstance(index, ast.LagIndex) for index in rest):
            what = f"the row of '{ref.name}' is read at a lag"
            raise self.fail(
                errors.BadPosition(
                    ref.span, what=what, hint="look the row up on a line of its own, and read that at a lag"
                )
            )
        if not isinstance(first, ast.LookupIndex) or any(isinstance(index, ast.LookupIndex) for index in rest):
            what = "a lookup anywhere but in the first index"
            span = next(index.span for index in reversed(ref.indices) if isinstance(index, ast.LookupIndex))
            raise self.fail(errors.NotLowered(span, what=what, hint="declare the table with the looked-up axis first"))
        ids = self.read(first.tensor)
        if self.nodes[ids].kind != "int":
            what = f"'{first.tensor.name}' selects rows and is not an int tensor"
            raise self.fail(
                errors.BadType(first.span, what=what, hint=f"declare it as `{first.tensor.name}[...] : int`")
            )
        symbol = self.scope.symbols[ref.name]
        if not symbol.axes:
            what = f"'{ref.name}' has no axis of rows"
            raise self.fail(errors.BadPosition(ref.span, what=what, hint=f"declare it along one: `{ref.name}[v, ...]`"))
        tail = tuple(axis for index in rest for axis in self.scope.axes_of(ast.TensorRef(ref.name, (index,))))
        shown = f"{first.tensor.name}[..]"
        self.check_axes(ref, symbol.axes[1:], tail, rows=(symbol.axes[0], shown))
        axes = self.nodes[ids].axes + self.nodes[table].axes[len(self.atoms(symbol.axes[0])) :]
        return self.add(ir.Lookup(f"{table}[{ids}]", axes, table, ids, kind=self.nodes[table].kind, span=ref.span))
