"""What generated text may be: an allow-list over its syntax tree, checked before anything is run.

Generated text holds compiler-made names and canonical numbers only; this check is the second lock. Whatever is not a
function over tensors, made of calls of known names, is refused.
"""

from __future__ import annotations

import ast
import re

from ssdc.errors import PlanError

MODULES = (
    "torch", "torch.nn", "triton", "triton.language", "triton.experimental", "triton.experimental.gluon",
    "ssdc.runtime.blocks", "ssdc.runtime.opaque", "ssdc.runtime.primitives", "ssdc.runtime.kernels.masked",
    "ssdc.runtime.kernels.streamed",
)  # fmt: skip
"""What generated text may import from."""

NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.Expr, ast.Import, ast.ImportFrom,
    ast.AnnAssign, ast.AugAssign, ast.alias, ast.If, ast.IfExp, ast.For, ast.Name, ast.Load, ast.Store, ast.Attribute,
    ast.Call, ast.keyword, ast.Starred, ast.Constant, ast.Tuple, ast.List, ast.Subscript, ast.Slice, ast.BinOp,
    ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip

NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*\Z")
STRING = re.compile(r"([a-zA-Z,\->.]|[0-9_;+*<])*\Z")
"""Strings in statements: einsum equations, `inf`, the maps of operands, and nothing else."""

BUILTINS = ("range", "float", "slice", "min", "max", "int", "len")


def check(text: str) -> None:
    """Raise PlanError, naming the line, where a text is not what the generator may write."""
    tree = ast.parse(text)
    documentation = {
        id(node.body[0]) for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef) and node.body
    }
    defined = {name for node in ast.walk(tree) for name in _bound(node)}
    for node in ast.walk(tree):
        if id(node) in documentation and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
        problem = _problem(node, defined)
        if problem:
            line = getattr(node, "lineno", 0)
            raise PlanError(
                f"generated text is refused: {problem} in line {line}; this is a fault of ssdc, please report it"
            )


def _bound(node: ast.AST) -> tuple[str, ...]:
    """The names that a node binds."""
    match node:
        case ast.FunctionDef(name=name):
            return (name,)
        case ast.arg(arg=name):
            return (name,)
        case ast.Name(id=name, ctx=ast.Store()):
            return (name,)
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return tuple(alias.asname or alias.name for alias in names)
        case _:
            return ()


def _problem(node: ast.AST, defined: set[str]) -> str | None:
    match node:
        case ast.FunctionDef(decorator_list=[decorator, *rest]) if rest or ast.unparse(decorator) not in (
            "triton.jit",
            "gluon.jit",
        ):
            return "a decorator"
        case ast.Import(names=names) if any(alias.name not in MODULES for alias in names):
            return "an import"
        case ast.ImportFrom(module=module) if module not in MODULES and not (module or "").startswith(
            "ssdc.runtime.kernels"
        ):
            return "an import"
        case ast.Attribute(attr=name) | ast.Name(id=name) | ast.arg(arg=name) if (
            not NAME.match(name) and name != "None"
        ):
            return f"the name {name!r}"
        case ast.Name(id=name) if name not in defined and name not in BUILTINS and "*" not in defined:
            return f"the unknown name {name!r}"
        case ast.Constant(value=str(value)) if not STRING.match(value):
            return "a string"
        case ast.Constant(value=bytes() | complex()):
            return "a constant"
        case _ if not isinstance(node, NODES):
            return f"a {type(node).__name__}"
        case _:
            return None
