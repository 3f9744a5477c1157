"""Reductions of the grammar to nodes of the tree, as the parser makes them.

In come the tokens and nodes of one rule of `ssd.lark`, in order; out goes one node with its span. What the grammar
cannot say about a rule alone (a lag of zero, an integer of ten digits) is refused here with `Rejected`. Names are not
resolved.
"""

from __future__ import annotations

import math
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Literal, TypeAlias, TypeVar, cast

from lark import Token, Transformer

from ssdc import errors
from ssdc.source import Span
from ssdc.syntax import ast

Child: TypeAlias = "Token | ast.Node | tuple[ast.Node, ...]"
N = TypeVar("N", bound=ast.Node)

DIGITS = 9
FLAGS = ("strict", "reverse")
KINDS = ("real", "complex", "int", "bool")


class Rejected(Exception):
    """A rule that fits the grammar and is still wrong."""

    def __init__(self, fault: errors.Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


def token_span(token: Token) -> Span:
    """Where a token stands."""
    start = token.start_pos or 0
    return Span(start, start + len(token))


def _span(children: list[Child]) -> Span:
    return _place(children[0]).to(_place(children[-1]))


def _place(child: Child) -> Span:
    if isinstance(child, Token):
        return token_span(child)
    if isinstance(child, tuple):
        return child[0].span.to(child[-1].span)
    return child.span


def _nodes(children: list[Child], kind: type[N]) -> tuple[N, ...]:
    """The children that are nodes of a kind; the tokens between them are punctuation."""
    return tuple(child for child in children if isinstance(child, kind))


def _names(children: list[Child]) -> list[Token]:
    return [child for child in children if isinstance(child, Token) and child.type in ("NAME", "DOTTED")]


def _expr(child: Child) -> ast.Expr:
    return cast(ast.Expr, child)


def _after(children: list[Child], mark: str) -> Child | None:
    """The child after the token of type `mark`, if that token is there."""
    for child, following in pairwise(children):
        if isinstance(child, Token) and child.type == mark:
            return following
    return None


def _optional(children: list[Child], mark: str) -> ast.Expr | None:
    found = _after(children, mark)
    return None if found is None else _expr(found)


def _integer(token: Token) -> int:
    if len(token) > DIGITS:
        why = f"an integer of {len(token)} digits"
        raise Rejected(errors.BadNumber(token_span(token), found=short(token), why=why))
    return int(token)


def _float(token: Token) -> float:
    value = float(token)
    digits = token.lower().partition("e")[0]
    if math.isinf(value) or (value == 0 and digits.strip("0.")):
        raise Rejected(errors.BadNumber(token_span(token), found=short(token), why="beyond the range of float64"))
    return value


def short(text: str) -> str:
    """A text cut to what a message can bear."""
    return text if len(text) <= 24 else text[:20] + "..."


def _kind(children: list[Child], legal: tuple[str, ...]) -> str:
    """The type after the colon, `real` where none is given."""
    token = _after(children, "COLON")
    if not isinstance(token, Token):
        return "real"
    if token not in legal:
        near = get_close_matches(token, legal, n=1)
        advice = f"did you mean `{near[0]}`?" if near else ""
        expected = ", ".join(f"`{kind}`" for kind in legal[:-1]) + f" or `{legal[-1]}`"
        raise Rejected(errors.UnknownKind(token_span(token), found=short(token), expected=expected, advice=advice))
    return str(token)


class Builder(Transformer[Token, Child]):
    """One method a rule. Stateless, so that one parser serves every text."""

    # ---- file, layer, declarations

    def program(self, children: list[Child]) -> ast.Program:
        layers = _nodes(children, ast.Layer)
        return ast.Program(layers, span=_span(children) if children else Span(0, 0))

    def layer(self, children: list[Child]) -> ast.Layer:
        name, sizes, statements = children[1], children[3], children[6]
        return ast.Layer(
            str(name),
            cast("tuple[ast.LayerSize, ...]", sizes),
            cast("tuple[ast.Statement, ...]", statements),
            span=_span(children),
        )

    def layer_sizes(self, children: list[Child]) -> tuple[ast.LayerSize, ...]:
        return _nodes(children, ast.LayerSize)

    def statements(self, children: list[Child]) -> tuple[ast.Node, ...]:
        return _nodes(children, ast.Node)

    def layer_size(self, children: list[Child]) -> ast.LayerSize:
        return ast.LayerSize(str(children[0]), _optional(children, "EQUAL"), span=_span(children))

    def size(self, children: list[Child]) -> ast.Size:
        return ast.Size(str(children[1]), _expr(children[3]), span=_span(children))

    def time(self, children: list[Child]) -> ast.Time:
        names = _names(children)
        return ast.Time(tuple(map(str, names)), tuple(map(token_span, names)), span=_span(children))

    def axes(self, children: list[Child]) -> ast.Axes:
        return ast.Axes(_nodes(children, ast.Axis), span=_span(children))

    def axis(self, children: list[Child]) -> ast.Axis:
        groups = _after(children, "GROUPS")
        size = _optional(children, "EQUAL")
        return ast.Axis(str(children[0]), size, None if groups is None else str(groups), span=_span(children))

    def inputs(self, children: list[Child]) -> ast.Inputs:
        return ast.Inputs(_nodes(children, ast.Input), span=_span(children))

    def input(self, children: list[Child]) -> ast.Input:
        kind = cast(Literal["real", "complex", "int", "bool"], _kind(children, KINDS))
        return ast.Input(cast(ast.TensorRef, children[0]), kind, span=_span(children))

    def params(self, children: list[Child]) -> ast.Params:
        return ast.Params(_nodes(children, ast.Param), span=_span(children))

    def param(self, children: list[Child]) -> ast.Param:
        kind = cast(Literal["real", "complex"], _kind(children, KINDS[:2]))
        init = _optional(children, "TILDE")
        return ast.Param(cast(ast.TensorRef, children[0]), init, kind, span=_span(children))

    def output_name(self, children: list[Child]) -> Child:
        return children[0]

    def output(self, children: list[Child]) -> ast.Output:
        names = _names(children)
        return ast.Output(tuple(map(str, names)), tuple(map(token_span, names)), span=_span(children))

    # ---- masks and submodules

    def mask(self, children: list[Child]) -> ast.Mask:
        structures = _nodes(children, ast.Structure)
        return ast.Mask(cast(ast.TensorRef, children[1]), structures, span=_span(children))

    def structure(self, children: list[Child]) -> ast.Structure:
        given = _nodes(children, ast.Node)
        flags = tuple(node.name for node in given if isinstance(node, ast.Name) and node.name in FLAGS)
        rest = tuple(_expr(node) for node in given if not (isinstance(node, ast.Name) and node.name in FLAGS))
        return ast.Structure(str(children[0]), rest, flags, span=_span(children))

    def use(self, children: list[Child]) -> ast.Use:
        return ast.Use(str(children[1]), cast(ast.Model, children[3]), span=_span(children))

    def instance(self, children: list[Child]) -> ast.Instance:
        settings = tuple((node.name, node.value) for node in _nodes(children, ast.Option))
        return ast.Instance(str(children[0]), settings, span=_span(children))

    def chain(self, children: list[Child]) -> ast.Chain:
        return ast.Chain(cast("tuple[ast.Model, ...]", _nodes(children, ast.Node)), span=_span(children))

    def repeat(self, children: list[Child]) -> ast.Repeat:
        return ast.Repeat(cast(ast.Model, children[0]), _expr(children[2]), span=_span(children))

    # ---- equations

    def define(self, children: list[Child]) -> ast.Define:
        targets = cast("tuple[ast.TensorRef, ...]", _nodes(children[:-1], ast.Node))
        return ast.Define(targets, _expr(children[-1]), span=_span(children))

    def binary(self, children: list[Child]) -> ast.Binary:
        op = cast(Literal["+", "-", "*", "/", "^"], str(children[1]))
        return ast.Binary(op, _expr(children[0]), _expr(children[2]), span=_span(children))

    def compare(self, children: list[Child]) -> ast.Compare:
        op = cast(Literal["<", "<=", ">", ">=", "==", "!="], str(children[1]))
        return ast.Compare(op, _expr(children[0]), _expr(children[2]), span=_span(children))

    def negate(self, children: list[Child]) -> ast.Negate:
        return ast.Negate(_expr(children[1]), span=_span(children))

    def group(self, children: list[Child]) -> ast.Node:
        return replace(cast(ast.Node, children[1]), span=_span(children))

    def number(self, children: list[Child]) -> ast.Number:
        token = cast(Token, children[0])
        value = _integer(token) if token.type == "INTEGER" else _float(token)
        return ast.Number(value, span=token_span(token))

    def name(self, children: list[Child]) -> ast.Name:
        return ast.Name(str(children[0]), span=_span(children))

    def call(self, children: list[Child]) -> ast.Call | ast.Position:
        arguments = cast("tuple[ast.Expr, ...]", _nodes(children, ast.Node))
        if children[0] != "index":
            return ast.Call(str(children[0]), arguments, span=_span(children))
        if len(arguments) != 1 or not isinstance(arguments[0], ast.Name):
            found = "an expression that is no axis" if len(arguments) == 1 else f"{len(arguments)} arguments"
            raise Rejected(errors.BadIndexCall(_span(children), found=found))
        return ast.Position(arguments[0].name, span=_span(children))

    def reduce(self, children: list[Child]) -> ast.Reduce:
        over = cast("tuple[ast.AxisIndex | ast.FlatIndex, ...]", children[4])
        options = _nodes(children, ast.Option)
        return ast.Reduce(str(children[0]), _expr(children[2]), over, options, span=_span(children))

    def over(self, children: list[Child]) -> tuple[ast.Node, ...]:
        first = children[0] if isinstance(children[0], tuple) else ()
        return (*first, *_nodes(children, ast.Node))

    def option(self, children: list[Child]) -> ast.Option:
        return ast.Option(str(children[0]), _expr(children[2]), span=_span(children))

    setting = option

    # ---- tensors and indices

    def tensor(self, children: list[Child]) -> ast.TensorRef:
        indices = cast("tuple[ast.Index, ...]", _nodes(children, ast.Node))
        return ast.TensorRef(str(children[0]), indices, span=_span(children))

    def axis_index(self, children: list[Child]) -> ast.AxisIndex:
        return ast.AxisIndex(str(children[0]), span=_span(children))

    def lag(self, children: list[Child]) -> ast.LagIndex:
        axis, steps = str(children[0]), _integer(cast(Token, children[2]))
        if steps < 1:
            advice = f"the position itself is `{axis}`"
            raise Rejected(errors.BadLag(_span(children), found=f"{axis}-0", axis=axis, advice=advice))
        return ast.LagIndex(axis, steps, span=_span(children))

    def unit(self, children: list[Child]) -> ast.UnitIndex:
        if children[0] != "1":
            raise Rejected(errors.BadUnit(_span(children), found=short(str(children[0]))))
        return ast.UnitIndex(span=_span(children))

    def lookup(self, children: list[Child]) -> ast.LookupIndex:
        return ast.LookupIndex(cast(ast.TensorRef, children[0]), span=_span(children))

    def flat(self, children: list[Child]) -> ast.FlatIndex:
        names = tuple(map(str, _names(children)))
        if len(names) < 2:
            raise Rejected(errors.FlatTooShort(_span(children), found=names[0]))
        return ast.FlatIndex(names, span=_span(children))
