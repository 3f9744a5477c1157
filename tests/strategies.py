"""Hypothesis strategies for trees: any `ast.Program` that can be written down, whether or not it means something."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from ssdc.syntax import ast
from ssdc.syntax.scan import KEYWORDS

RESERVED = {keyword.lower() for keyword in KEYWORDS} | {"strict", "reverse", "index"}
LETTERS = "abtshpnxyGHD_"

_names = st.text(LETTERS + "019", min_size=1, max_size=4).filter(lambda n: not n[0].isdigit() and n not in RESERVED)
_tensor_names = st.one_of(
    _names,
    st.sampled_from(["mask", "layer", "in_proj.weight", "layers.0.bias", "strict"]),
    st.builds("{}.{}".format, _names, _names),
)
_numbers = st.builds(
    ast.Number,
    st.one_of(st.integers(0, 999_999_999), st.floats(0, allow_nan=False, allow_infinity=False).map(abs)),
)


def names() -> st.SearchStrategy[str]:
    """Plain names that are not words of the language."""
    return _names


def axes() -> st.SearchStrategy[ast.AxisIndex]:
    return st.builds(ast.AxisIndex, _names)


def flats() -> st.SearchStrategy[ast.FlatIndex]:
    return st.builds(ast.FlatIndex, st.lists(_names, min_size=2, max_size=3).map(tuple))


@cache
def tensors(lookups: bool = True) -> st.SearchStrategy[ast.TensorRef]:
    """Tensors with every kind of index."""
    index = st.one_of(
        axes(), axes(), flats(), st.builds(ast.UnitIndex), st.builds(ast.LagIndex, _names, st.integers(1, 999_999_999))
    )
    if lookups:
        index |= st.builds(ast.LookupIndex, tensors(lookups=False))
    return st.builds(ast.TensorRef, _tensor_names, st.lists(index, max_size=4).map(tuple))


def _grow(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    compare = st.builds(ast.Compare, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner, inner)
    options = st.lists(st.builds(ast.Option, st.one_of(_names, st.just("mask")), inner), max_size=2).map(tuple)
    return st.one_of(
        st.builds(ast.Binary, st.sampled_from("+-*/^"), inner, inner),
        st.builds(ast.Negate, inner),
        st.builds(ast.Call, _names, st.lists(st.one_of(inner, compare), max_size=3).map(tuple)),
        st.builds(ast.Reduce, _names, inner, st.lists(axes() | flats(), min_size=1, max_size=3).map(tuple), options),
    )


@cache
def expressions() -> st.SearchStrategy[ast.Expr]:
    """Every kind of expression, some of them deep."""
    leaves = st.one_of(_numbers, st.builds(ast.Name, _names), tensors(), st.builds(ast.Position, _names))
    return st.recursive(leaves, _grow, max_leaves=12)


@cache
def models() -> st.SearchStrategy[ast.Model]:
    settings = st.lists(st.tuples(_names, expressions()), max_size=2).map(tuple)
    return st.recursive(
        st.builds(ast.Instance, _names, settings),
        lambda inner: st.one_of(
            st.builds(ast.Repeat, inner, expressions()),
            st.builds(ast.Chain, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        ),
        max_leaves=4,
    )


def _some(entry: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(entry, min_size=1, max_size=4).map(tuple)


@cache
def statements() -> st.SearchStrategy[ast.Statement]:
    """Every kind of statement."""
    value = expressions()
    axis = st.builds(ast.Axis, _names) | st.builds(ast.Axis, _names, value, st.none() | _names)
    structure = st.builds(
        ast.Structure,
        st.one_of(_names, st.sampled_from(["strict", "causal"])),
        st.lists(value, max_size=2).map(tuple),
        st.lists(st.sampled_from(["strict", "reverse"]), max_size=2, unique=True).map(tuple),
    )
    return st.one_of(
        st.builds(ast.Size, _names, value),
        st.builds(ast.Time, _some(_names)),
        st.builds(ast.Axes, _some(axis)),
        st.builds(
            ast.Inputs, _some(st.builds(ast.Input, tensors(), st.sampled_from(["real", "complex", "int", "bool"])))
        ),
        st.builds(
            ast.Params,
            _some(st.builds(ast.Param, tensors(), st.none() | value, st.sampled_from(["real", "complex"]))),
        ),
        st.builds(ast.Mask, tensors(), _some(structure)),
        st.builds(ast.Define, _some(tensors()), value),
        st.builds(ast.Use, _names, models()),
        st.builds(ast.Output, _some(st.one_of(_names, st.builds("{}.{}".format, _names, _names)))),
    )


def programs() -> st.SearchStrategy[ast.Program]:
    """Whole files of one to three layers."""
    size = st.builds(ast.LayerSize, _names, st.none() | expressions())
    layer = st.builds(
        ast.Layer, _names, st.lists(size, max_size=3).map(tuple), st.lists(statements(), max_size=8).map(tuple)
    )
    return st.builds(ast.Program, st.lists(layer, min_size=1, max_size=3).map(tuple))
