"""Tree to text: `print_program`, the inverse of `parse` up to spans, comments and blank lines.

A tree comes in; pretty text goes out, one statement a line, long ones broken at the outermost `+`, `-` or comma,
equal signs of neighbouring definitions aligned, parentheses only where precedence asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import assert_never

from ssdc.syntax import ast

WIDTH = 100
_ALIGNED = 16  # a definition whose left side is longer by more than this does not push its neighbours to the right
_SUM, _TERM, _SIGN, _POWER, _ATOM = range(5)
_LEVELS = {"+": _SUM, "-": _SUM, "*": _TERM, "/": _TERM, "^": _POWER}


def print_program(program: ast.Program) -> str:
    """The text of a program.

    >>> layer = ast.Layer("f", (ast.LayerSize("C"),), (ast.Output(("y", "z")),))
    >>> print(print_program(ast.Program((layer,))), end="")
    layer f(C) {
      output y, z
    }
    """
    return "\n".join(_layer(layer) for layer in program.layers)


def _layer(layer: ast.Layer) -> str:
    sizes = (size.name + _set(size.default) for size in layer.sizes)
    rows = [f"layer {layer.name}({', '.join(sizes)}) {{"]
    for number, (_, group) in enumerate(groupby(layer.statements, _paragraph)):
        rows += [""] if number else []
        rows += [f"  {row}" for row in _rows(list(group))]
    return "\n".join([*rows, "}"]) + "\n"


def _paragraph(statement: ast.Statement) -> int:
    """Statements with the same number stand together; a blank line parts the others."""
    match statement:
        case ast.Size() | ast.Time() | ast.Axes():
            return 0
        case ast.Inputs() | ast.Params():
            return 1
        case ast.Mask() | ast.Use() | ast.Define() | ast.Output():
            return 2
        case _:
            assert_never(statement)


def _rows(statements: list[ast.Statement]) -> Iterator[str]:
    lefts = [_targets(statement) for statement in statements]
    shortest = min(filter(None, map(len, lefts)), default=0)
    wide = max((len(left) for left in lefts if len(left) <= shortest + _ALIGNED), default=0)
    for statement, left in zip(statements, lefts, strict=True):
        if isinstance(statement, ast.Define):
            yield from _definition(left.ljust(wide), statement.value)
        else:
            yield from _declaration(statement)


def _targets(statement: ast.Statement) -> str:
    """The left side of a definition; empty for any other statement."""
    return _listed(map(_index_list, statement.targets)) if isinstance(statement, ast.Define) else ""


def _definition(left: str, value: ast.Expr) -> Iterator[str]:
    line = f"{left} = {print_expr(value)}"
    if len(line) <= WIDTH:
        yield line
        return
    margin = " " * (len(left) + 1)
    for number, (op, term) in enumerate(_terms(value)):
        yield f"{left} = {term}" if number == 0 else f"{margin}{op} {term}"


def _terms(value: ast.Expr) -> list[tuple[str, str]]:
    """The operands of the outermost `+` and `-`, each with the operator before it."""
    terms: list[tuple[str, str]] = []
    while isinstance(value, ast.Binary) and _LEVELS[value.op] == _SUM:
        terms.append((value.op, _nested(value.right, _TERM)))
        value = value.left
    return [("", _nested(value, _SUM)), *reversed(terms)]


def _declaration(statement: ast.Statement) -> Iterator[str]:
    match statement:
        case ast.Size(name, value):
            yield f"size {name} = {print_expr(value)}"
        case ast.Time(names):
            yield f"time {_listed(names)}"
        case ast.Axes(entries):
            yield from _broken("axis", map(_axis, entries))
        case ast.Inputs(entries):
            yield from _broken("input", (_index_list(entry.tensor) + _kind(entry.kind) for entry in entries))
        case ast.Params(entries):
            yield from _broken("param", map(_param, entries))
        case ast.Mask(tensor, structures):
            yield f"mask {_index_list(tensor)} = {' * '.join(map(_structure, structures))}"
        case ast.Use(name, model):
            yield f"use {name} = {_model(model)}"
        case ast.Output(names):
            yield from _broken("output", names)
        case ast.Define():
            yield from _definition(_targets(statement), statement.value)
        case _:
            assert_never(statement)


def _broken(word: str, entries: Iterable[str]) -> Iterator[str]:
    """A keyword and its comma list, on as many lines as it needs."""
    line = word
    margin = " " * len(word)
    for number, entry in enumerate(entries):
        if number and len(line) + len(entry) + 2 > WIDTH:
            yield line + ","
            line = f"{margin} {entry}"
        else:
            line += f"{',' if number else ''} {entry}"
    yield line


def _axis(axis: ast.Axis) -> str:
    return axis.name + _set(axis.size) + (f" groups {axis.groups}" if axis.groups else "")


def _param(param: ast.Param) -> str:
    init = "" if param.init is None else f" ~ {print_expr(param.init)}"
    return _index_list(param.tensor) + _kind(param.kind) + init


def _kind(kind: str) -> str:
    return "" if kind == "real" else f" : {kind}"


def _structure(structure: ast.Structure) -> str:
    inner = [*map(print_expr, structure.arguments), *structure.flags]
    return structure.name + (f"({_listed(inner)})" if inner else "")


def _model(model: ast.Model) -> str:
    match model:
        case ast.Instance(layer, sizes):
            return f"{layer}({_listed(name + _set(value) for name, value in sizes)})"
        case ast.Repeat(member, count):
            return f"{_model(member)} * {_nested(count, _ATOM)}"
        case ast.Chain(members):
            return f"chain({_listed(map(_model, members))})"
        case _:
            assert_never(model)


def print_expr(expr: ast.Expr) -> str:
    """The text of an expression.

    >>> print_expr(ast.Binary("*", ast.Binary("+", ast.Name("a"), ast.Number(1)), ast.Negate(ast.Name("b"))))
    '(a + 1) * -b'
    """
    match expr:
        case ast.Number(value):
            return repr(value).replace("e-0", "e-").replace("e+", "e")
        case ast.Name(name):
            return name
        case ast.TensorRef():
            return _index_list(expr)
        case ast.Negate(operand):
            return f"-{_nested(operand, _SIGN)}"
        case ast.Binary(op, left, right):
            return f"{_nested(left, _left(op))} {op} {_nested(right, _right(op))}"
        case ast.Compare(op, left, right):
            return f"{print_expr(left)} {op} {print_expr(right)}"
        case ast.Call(function, arguments):
            return f"{function}({_listed(map(print_expr, arguments))})"
        case ast.Reduce(function, operand, over, options):
            chosen = (f"{option.name} = {print_expr(option.value)}" for option in options)
            return f"{function}({print_expr(operand)} over {_listed([*map(_index, over), *chosen])})"
        case ast.Position(axis):
            return f"index({axis})"
        case _:
            assert_never(expr)


def _nested(expr: ast.Expr, level: int) -> str:
    """An operand where only expressions that bind at least as tightly as `level` go without parentheses."""
    text = print_expr(expr)
    return text if _level(expr) >= level else f"({text})"


def _level(expr: ast.Expr) -> int:
    match expr:
        case ast.Binary(op):
            return _LEVELS[op]
        case ast.Negate():
            return _SIGN
        case _:
            return _ATOM


def _left(op: str) -> int:
    return _ATOM if op == "^" else _LEVELS[op]


def _right(op: str) -> int:
    return _SIGN if op == "^" else _LEVELS[op] + 1


def _index_list(tensor: ast.TensorRef) -> str:
    apart = ", " if any(isinstance(index, ast.LookupIndex) for index in tensor.indices) else ","
    return f"{tensor.name}[{apart.join(map(_index, tensor.indices))}]"


def _index(index: ast.Index) -> str:
    match index:
        case ast.AxisIndex(name):
            return name
        case ast.LagIndex(name, steps):
            return f"{name}-{steps}"
        case ast.FlatIndex(names):
            return f"({' '.join(names)})"
        case ast.UnitIndex():
            return "1"
        case ast.LookupIndex(tensor):
            return _index_list(tensor)
        case _:
            assert_never(index)


def _set(value: ast.Expr | None) -> str:
    return "" if value is None else f" = {print_expr(value)}"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts)
