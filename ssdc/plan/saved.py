"""Plans as files: JSON that people review and commit, and that is checked against the program when it is used again.

    {"schema": 1, "layer": "ssd", "fingerprint": "..",
     "sizes": {"b": 1, "T": 2048}, "hardware": "cpu", "mode": "forward",
     "equations": {"y:1": {"order": "chunked", "chunk": 64, "form": "auto", "what": ".."}}}

`sizes`, `hardware` and `mode` tell for what the plan was made; it is gone by at every call, with gradients and without.
`what` is the contraction in a line, and `fingerprint` is that of all lines, so that a plan for another program is
refused with the difference. Orders, chunks and forms are as `order=`, `chunk=` and `form=` take them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ssdc.errors import OrderError, PlanError
from ssdc.graph import nodes as ir
from ssdc.graph.graph import Graph
from ssdc.plan.asked import FORMS, Asked
from ssdc.plan.planner import ORDERINGS, Plan, plan

SCHEMA = 1
NOMINAL = 2048
"""Positions of the call for which orders are checked; whether one is admitted does not depend on them."""


@dataclass(frozen=True)
class _Entry:
    order: str
    chunk: int | None
    form: str
    what: str


@dataclass(frozen=True)
class _File:
    """What a file says that is used; its sizes and hardware are for people."""

    layer: str
    fingerprint: str
    equations: Mapping[str, _Entry]


def save(found: Plan, graph: Graph) -> str:
    """The text of a plan's file."""
    lines = describe(graph)
    equations = {
        name: {
            "order": choice.chosen.order,
            "chunk": choice.chosen.chunk or None,
            "form": choice.chosen.form or choice.form,
            "what": lines[name],
        }
        for name, choice in found.choices.items()
    }
    document = {
        "schema": SCHEMA,
        "layer": graph.layer,
        "fingerprint": fingerprint(lines),
        "sizes": {"T" if name == graph.reader else name: size for name, size in found.sizes.items()},
        "hardware": found.hardware.name,
        "mode": found.mode,
        "equations": equations,
    }
    return json.dumps(document, indent=2) + "\n"


def load(path: Path, graph: Graph) -> Asked:
    """What the plan of a file asks for. Raises PlanError where it is no plan, or does not fit the program."""
    file, now = _read(path), describe(graph)
    was = {name: entry.what for name, entry in file.equations.items()}
    if file.layer != graph.layer:
        _refuse(path, graph, [f"- layer {file.layer}", f"+ layer {graph.layer}"])
    if was != now:
        names = dict.fromkeys((*was, *now))
        _refuse(path, graph, [row for name in names for row in _difference(name, was.get(name), now.get(name))])
    if file.fingerprint != fingerprint(now):
        _refuse(path, graph, [f"- fingerprint {file.fingerprint}", f"+ fingerprint {fingerprint(now)}"])
    _admitted(path, graph, file)
    return Asked(
        {name: entry.order for name, entry in file.equations.items()},
        {name: entry.chunk for name, entry in file.equations.items() if entry.chunk is not None},
        {name: entry.form for name, entry in file.equations.items()},
    )


def describe(graph: Graph) -> dict[str, str]:
    """Each masked contraction in a line: what decides which orders it admits, and what they cost.

    >>> from ssdc.pipeline import check
    >>> describe(check("examples/retention.ssd", sizes={"H": 4, "N": 32, "P": 16}).graph)["y"]
    '[b, t, h 4, p 16] = [b, t, h 4, n 32] * forward mask, log gates [h 4] * [b, t, h 4, n 32] * [b, t, h 4, p 16]'
    """
    return {node.name: _line(graph, node) for node in graph.contractions}


def fingerprint(lines: Mapping[str, str]) -> str:
    """Sixteen digits that change where any line does."""
    text = "\n".join(f"{name}: {line}" for name, line in lines.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(graph: Graph, node: ir.Contraction) -> str:
    mask = graph.mask(node)
    words = [f"{mask.direction}{' strict' * mask.strict} mask"]
    if mask.width is not None:
        words.append(f"width {mask.width}")
    kinds = {
        "log gates": mask.log_gates,
        "log gates but the reader's": mask.exclusive_log_gates,
        "gates": mask.gates,
        "gates but the reader's": mask.exclusive_gates,
        "kernels": tuple(kernel.node for kernel in mask.kernels),
        "documents": mask.documents,
    }
    words += [
        f"{kind} {' '.join(_axes(graph, graph.nodes[name].axes) for name in names)}"
        for kind, names in kinds.items()
        if names
    ]
    factors = [*(_axes(graph, graph.nodes[name].axes) for name in node.readers), ", ".join(words)]
    factors += [_axes(graph, graph.nodes[name].axes) for name in node.writers]
    return f"{_axes(graph, node.axes)} = {' * '.join(factors)}"


def _axes(graph: Graph, axes: tuple[str, ...]) -> str:
    sizes = ((axis, graph.sizes.get(axis)) for axis in axes)
    return "[" + ", ".join(axis if size is None else f"{axis} {size}" for axis, size in sizes) + "]"


def _difference(name: str, was: str | None, now: str | None) -> list[str]:
    if was == now:
        return []
    rows = [f"- {name}: {was}"] if was is not None else []
    return rows + ([f"+ {name}: {now}"] if now is not None else [])


def _admitted(path: Path, graph: Graph, file: _File) -> None:
    """Raise PlanError for orders and chunks that the program does not admit, all of them at once."""
    sizes = {atom: 1 for node in graph.inputs for atom in node.axes if graph.sizes.get(atom) is None}
    rows: list[str] = []
    for name, entry in file.equations.items():
        chunk = None if entry.chunk is None else {name: entry.chunk}
        try:
            plan(graph, {**sizes, graph.reader: NOMINAL}, order={name: entry.order}, chunk=chunk)
        except OrderError as error:
            rows.extend((f"- {name}: {entry.order}{f', chunks of {entry.chunk}' if chunk else ''}", f"+ {error}"))
    if rows:
        _refuse(path, graph, rows)


def _refuse(path: Path, graph: Graph, rows: list[str]) -> NoReturn:
    shown = "\n".join(f"  {row}" for row in rows)
    raise PlanError(
        f"{path} does not fit layer {graph.layer} (- the plan, + the program):\n{shown}\n"
        f"make it anew with `ssdc explain FILE --save {path}` or layer.save_plan({str(path)!r}), and review the change"
    )


# ---- the file --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> _File:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PlanError(f"{path} is no plan: it is not JSON ({error})") from None
    if not isinstance(found, dict) or "schema" not in found:
        raise PlanError(f"{path} is no plan: it has no key 'schema'")
    if found["schema"] != SCHEMA:
        raise PlanError(f"{path} is a plan of schema {found['schema']!r}, and this version of ssdc reads {SCHEMA}")

    def take(holder: object, key: str, where: str, fits: Callable[[object], bool], want: str) -> Any:
        if not isinstance(holder, dict) or key not in holder:
            raise PlanError(f"{path} is no plan: {where} has no key {key!r}")
        if not fits(holder[key]):
            raise PlanError(f"{path} is no plan: {where}, {key} is {holder[key]!r}, and needs to be {want}")
        return holder[key]

    def text(value: object) -> bool:
        return isinstance(value, str)

    equations = take(found, "equations", "the file", lambda value: isinstance(value, dict), "an object")
    return _File(
        take(found, "layer", "the file", text, "a name"),
        take(found, "fingerprint", "the file", text, "text"),
        {
            name: _Entry(
                take(entry, "order", f"equation {name!r}", lambda value: value in (*ORDERINGS,), _any_of(ORDERINGS)),
                take(entry, "chunk", f"equation {name!r}", _chunk, "null or a number of positions, at least 1"),
                take(entry, "form", f"equation {name!r}", lambda value: value in FORMS, _any_of(FORMS)),
                take(entry, "what", f"equation {name!r}", text, "text"),
            )
            for name, entry in equations.items()
        },
    )


def _chunk(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def _any_of(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"
