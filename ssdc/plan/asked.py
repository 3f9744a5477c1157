"""What users ask for instead of the planner's choice: orders, chunks and kernel forms, for the layer or by equation.

In: `order=`, `chunk=` and `form=` as given, and a graph. Out: one `Wish` a contraction, or OrderError with what exists.
Whether a contraction admits what is wished is the planner's matter.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ssdc.errors import OrderError
from ssdc.graph.graph import Graph
from ssdc.plan.pairs import over_pairs
from ssdc.plan.problem import Problem

Order: TypeAlias = str | Mapping[str, str]
Chunk: TypeAlias = int | Mapping[str, int] | None
Form: TypeAlias = str | Mapping[str, str] | None

Value = TypeVar("Value", str, int | None, str | None)

KERNEL_FORMS = ("recurrent", "walk", "segments", "parallel", "hopper")
"""The forms of the Triton kernels."""
FORMS = ("auto", "order", "torch", *KERNEL_FORMS)
"""What `form=` takes: kernels in the form that their cost model chooses, kernels for the order asked for, PyTorch, or
kernels in one form."""


@dataclass(frozen=True)
class Wish:
    """What is asked for one contraction: an order or `auto`, a chunk, a form."""

    order: str = "auto"
    chunk: int | None = None
    form: str = "auto"

    @property
    def overrules(self) -> bool:
        """Whether the planner's choice of an order is overruled."""
        return self.order != "auto" or self.chunk is not None


@dataclass(frozen=True)
class Asked:
    """All that is asked for a layer: one value for every equation, or a value by the equation's name.

    Without a form, a chunk keeps its equation with PyTorch (kernels choose their own), and an order is that of the
    kernels too.
    """

    order: Order = "auto"
    chunk: Chunk = None
    form: Form = None

    def check(self, graph: Graph, orders: Collection[str]) -> None:
        """Raise OrderError for orders, chunks, forms and equations that do not exist, and for those that contradict
        each other."""
        for name in _values(self.order):
            _known("order", name, ("auto", *orders))
        for form in _values(self.form):
            if form is not None:
                _known("form", form, FORMS)
        for chunk in _values(self.chunk):
            if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
                raise OrderError(f"chunk is {chunk!r}, and needs to be a number of positions, at least 1")
        if self.chunk is not None and isinstance(self.order, str) and self.order not in ("auto", "chunked"):
            raise OrderError(
                f"chunk goes with the order 'chunked', and the order is {self.order!r}; leave one of them out"
            )
        fixed = over_pairs(graph)
        names = {name for node in graph.contractions for name in names_of(graph, node.name)}
        for what, given in (("order", self.order), ("chunk", self.chunk), ("form", self.form)):
            _equations(what, given, names | set(fixed) if what == "order" else names)
        for equation, reason in fixed.items():
            asked = self.order.get(equation, "auto") if isinstance(self.order, Mapping) else self.order
            if asked not in ("auto", "quadratic"):
                raise OrderError(
                    f"'{equation}' does not admit the order {asked!r}: {reason}; its one ordering is quadratic"
                )

    def of(self, graph: Graph, found: Problem) -> Wish:
        """What is asked for one contraction. Raises OrderError for a chunk beside an order that has none."""
        names = names_of(graph, found.name)
        order = _pick(self.order, names, "auto")
        chunk = _pick(self.chunk, names, None)
        alone = found.mask.width is not None and not found.gated and not found.readers
        if isinstance(self.chunk, Mapping) and chunk is not None:
            if order not in ("auto", "chunked"):
                raise OrderError(f"chunk goes with the order 'chunked', and '{found.equation}' is to be {order!r}")
            order = "chunked"
        elif isinstance(self.order, str) and alone and order not in ("auto", "fft"):
            order = "direct"
        form = _pick(self.form, names, None)
        if form is None:
            form = "torch" if chunk is not None else "auto" if order == "auto" else "order"
        return Wish(order, chunk if order in ("auto", "chunked") else None, form)


def names_of(graph: Graph, contraction: str) -> tuple[str, ...]:
    """The names by which a contraction may be called: its own, its equation's, those it was fused from."""
    return tuple(dict.fromkeys((contraction, graph.equations.get(contraction, contraction), *contraction.split("+"))))


def _pick(given: Value | Mapping[str, Value], names: Iterable[str], default: Value) -> Value:
    if not isinstance(given, Mapping):
        return given
    return next((given[name] for name in names if name in given), default)


def _values(given: object) -> tuple[object, ...]:
    return tuple(given.values()) if isinstance(given, Mapping) else (given,)


def _known(what: str, name: object, names: Collection[str]) -> None:
    if not isinstance(name, str) or name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"{what}s are {', '.join(names)}"
        raise OrderError(f"there is no {what} {name!r}; {hint}")


def _equations(what: str, given: object, names: Collection[str]) -> None:
    for equation in given if isinstance(given, Mapping) else ():
        if equation not in names:
            known = ", ".join(sorted(names)) or "none"
            raise OrderError(f"{what} names the equation {equation!r}; equations with {_a(what)} to choose: {known}")


def _a(what: str) -> str:
    return f"an {what}" if what == "order" else f"a {what}"
