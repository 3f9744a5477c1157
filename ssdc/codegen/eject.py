"""Plan -> a module file that runs without ssdc: the generated text, the vocabulary it calls, and a thin nn.Module.

Names of the program appear as string literals in tables only.
"""

from __future__ import annotations

import ast as python
import hashlib
from collections.abc import Mapping
from math import prod

from ssdc.codegen.render import environment, render
from ssdc.codegen.step import step
from ssdc.graph.graph import Graph
from ssdc.graph.packing import POSITION
from ssdc.graph.states import Accumulator, Counter, History, StatePart, grouped, not_causal, state_parts
from ssdc.plan.planner import Plan
from ssdc.resources import runtime_text
from ssdc.syntax import ast

HEADER = "import math\n\nimport torch\nfrom torch import Tensor, nn\nfrom torch.nn import functional"


def eject(
    graph: Graph, plan: Plan, inits: Mapping[str, tuple[ast.Expr, int | None]], sizes: Mapping[str, int], version: str
) -> str:
    """The text of the file. `inits` gives each parameter's initialiser and fan-in, `sizes` the layer's sizes by
    name."""
    parts = state_parts(graph)
    causal = not_causal(graph) is None
    body = render(graph, plan, imports="")
    body = body[body.index("def ") :]
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    primitives = "\n\n\n".join(_without_imports(runtime_text(name)) for name in ("primitives.py", "opaque.py"))
    primitives = primitives.replace('NAMESPACE = "ssdc"', f'NAMESPACE = "ssdc_ejected_{digest}"')
    primitives += "\n\nRESOLVERS.append(lambda text, name: globals()[name])"
    visible = [node for node in graph.inputs if not node.name.startswith("@")]
    return (
        environment()
        .get_template("torch/ejected.jinja")
        .render(
            version=version,
            header=_imports(*(runtime_text(name) for name in ("primitives.py", "opaque.py", "blocks.py"))),
            blocks=_without_imports(runtime_text("blocks.py")),
            primitives=primitives,
            module=body,
            layer=repr(graph.layer),
            inputs=repr(
                tuple(
                    (node.name, node.kind, tuple(_dimension(graph, atoms) for atoms in node.layout)) for node in visible
                )
            ),
            time=repr(graph.reader),
            outputs=repr(tuple((r.name, _time(graph, r.layout)) for r in graph.results)),
            state=_state(graph, parts) if causal else "()",
            states=len(parts),
            parameters=[
                (repr(node.name), _initial(inits[node.name], [_size(graph, atoms) for atoms in node.layout], sizes))
                for node in graph.parameters
            ],
            names=repr([node.name for node in graph.parameters]),
            position=any(node.name == POSITION for node in graph.inputs),
            position_state=next((k for k, part in enumerate(parts) if isinstance(part, Counter)), 0),
            can_step=causal and step(graph, plan) is not None,
            causal=causal,
        )
    )


def _dimension(graph: Graph, atoms: tuple[str, ...]) -> int | str:
    """A fixed size, or the name of the axis that a call decides."""
    unknown = [atom for atom in atoms if atom == graph.reader or graph.sizes.get(atom) is None]
    return unknown[0] if unknown else _size(graph, atoms)


def _size(graph: Graph, atoms: tuple[str, ...]) -> int:
    return prod(graph.sizes[atom] or 1 for atom in atoms)


def _time(graph: Graph, layout: tuple[tuple[str, ...], ...]) -> int | None:
    return next((dim for dim, atoms in enumerate(layout) if atoms == (graph.reader,)), None)


def _state(graph: Graph, parts: tuple[StatePart, ...]) -> str:
    rows = []
    for part in parts:
        shape: list[int | str] = []
        kind = "torch.float32"
        match part:
            case Counter():
                kind = "torch.int64"
            case Accumulator(axes=axes):
                shape = [_dimension(graph, atoms) for atoms in grouped(graph, axes)]
            case History(name=name, axes=axes, length=length):
                kind = {"int": "torch.int64", "bool": "torch.bool"}.get(graph.nodes[name].kind, kind)
                shape = [
                    (length or 0) if atoms == (graph.reader,) else _dimension(graph, atoms)
                    for atoms in grouped(graph, axes)
                ]
        rows.append(f"({part.name!r}, {tuple(shape)!r}, {kind}),")
    return "(" + " ".join(rows) + ")"


def _split(text: str) -> tuple[list[str], str]:
    """A file's import statements, and its text from the first statement after them."""
    tree = python.parse(text)
    imports = [node for node in tree.body if isinstance(node, python.Import | python.ImportFrom)]
    last = max(node.end_lineno or 0 for node in imports)
    kept = [
        python.unparse(node)
        for node in imports
        if not (isinstance(node, python.ImportFrom) and node.module == "__future__")
    ]
    return kept, "\n".join(text.splitlines()[last:]).strip()


def _without_imports(text: str) -> str:
    return _split(text)[1]


def _imports(*texts: str) -> str:
    """The imports of several files, each once, standard library first."""
    lines = dict.fromkeys(line for text in texts for line in _split(text)[0])
    needed = dict.fromkeys(["import torch", "from torch import Tensor, nn", "from torch.nn import functional"])
    outside = [line for line in {**lines, **needed} if "torch" in line]
    inside = [line for line in lines if "torch" not in line]
    return "\n".join(["from __future__ import annotations", "", *sorted(inside), "", *outside])


# ---- initialisers as text -----------------------------------------------------------------------------------------

FUNCTIONS = ("exp", "log", "sqrt", "rsqrt", "abs", "sin", "cos", "tanh", "sigmoid", "expm1", "log1p", "sign")


def _initial(init: tuple[ast.Expr, int | None], shape: list[int], sizes: Mapping[str, int]) -> str:
    expr, fan_in = init
    return f"({_text(expr, shape, fan_in, sizes)}).expand({', '.join(map(str, shape))}).clone()"


def _text(expr: ast.Expr, shape: list[int], fan_in: int | None, sizes: Mapping[str, int]) -> str:
    """An initialiser as an expression of torch; `shape` is the parameter's."""
    fresh = f"torch.empty({tuple(shape)!r})"

    def inner(one: ast.Expr) -> str:
        return _text(one, shape, fan_in, sizes)

    match expr:
        case ast.Name(name="zeros" | "ones" as name):
            return f"torch.{name}({tuple(shape)!r})"
        case ast.Name(name="linear"):
            bound = (fan_in or 1) ** -0.5
            return f"{fresh}.uniform_({-bound!r}, {bound!r})"
        case ast.Name(name=name):
            return f"torch.tensor({float(sizes[name])!r})"
        case ast.Number(value=value):
            return f"torch.tensor({float(value)!r})"
        case ast.Call(function="constant", arguments=(value,)):
            return inner(value)
        case ast.Call(function="uniform", arguments=(low, high)):
            return f"({inner(low)} + ({inner(high)} - {inner(low)}) * torch.rand({tuple(shape)!r}))"
        case ast.Call(function="normal", arguments=(std,)):
            return f"({inner(std)} * torch.randn({tuple(shape)!r}))"
        case ast.Call(function="softplus_inverse", arguments=(value,)):
            return f"(lambda x: x + torch.log(-torch.expm1(-x)))({inner(value)})"
        case ast.Call(
            function="softplus" | "silu" | "relu" | "gelu" | "elu" | "logsigmoid" as function, arguments=(value,)
        ):
            return f"functional.{function}({inner(value)})"
        case ast.Call(function=function, arguments=arguments) if function in FUNCTIONS:
            return f"torch.{function}({', '.join(inner(argument) for argument in arguments)})"
        case ast.Call(function="min" | "max" as function, arguments=(left, right)):
            return f"torch.{function}imum({inner(left)}, {inner(right)})"
        case ast.Negate(operand=operand):
            return f"(-{inner(operand)})"
        case ast.Binary(op=op, left=left, right=right):
            return f"({inner(left)} {'**' if op == '^' else op} {inner(right)})"
        case _:
            raise NotImplementedError(f"an initialiser of the form {type(expr).__name__} in an ejected module")
