"""What each structure is in algebra, which faults it reports, and products of structures."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdc.source import Span
from ssdc.structures import STRUCTURES, conv, decay, fenwick, semiseparable, toeplitz
from ssdc.structures.algebra import Facts, Kernel
from ssdc.structures.facts import facts_of
from ssdc.structures.product import product
from ssdc.structures.walk import axes_of, reads
from ssdc.syntax import ast
from tests.unit.trees import FakeScope, ref, tree

PLACE = Span(10, 20)
TABLE = [
    "full",
    "causal",
    "strict",
    "decay",
    "semiseparable",
    "band",
    "toeplitz",
    "conv",
    "documents",
    "fenwick",
    "dense",
]
REVERSIBLE = {"causal", "strict", "decay", "semiseparable", "band", "toeplitz", "conv", "fenwick"}
ARGUMENT = {
    "decay": "sigmoid(gamma[h])",
    "semiseparable": "exp(g[b, t, h])",
    "band": "W",
    "toeplitz": "k[c, j]",
    "conv": "w[c, 1, j]",
    "documents": "doc[b, t]",
    "fenwick": "lam[b, t, h, l]",
    "dense": "m[t, s]",
}


def scope() -> FakeScope:
    return FakeScope(sizes={"W": 4, "V": None, "Z": 0})


def written(name: str, *arguments: str, flags: tuple[str, ...] = ()) -> ast.Structure:
    return ast.Structure(name, tuple(tree(argument) for argument in arguments), flags, span=PLACE)


def usual(name: str, *flags: str) -> ast.Structure:
    return written(name, *([ARGUMENT[name]] if name in ARGUMENT else []), flags=flags)


def facts(structure: ast.Structure) -> Facts:
    layer = scope()
    result = facts_of(structure, layer)
    assert layer.faults == []
    return result


def codes(structure: ast.Structure) -> list[str]:
    layer = scope()
    facts_of(structure, layer)
    for fault in layer.faults:
        assert fault.text and fault.hint  # every template has the facts that it names
    return [fault.code for fault in layer.faults]


def test_the_table_is_that_of_the_language() -> None:
    assert sorted(STRUCTURES) == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_direction_and_flags(name: str) -> None:
    both = name in ("full", "documents", "dense")
    assert facts(usual(name)).direction == ("both" if both else "forward")
    assert facts(usual(name)).strict is (name == "strict")
    if name in REVERSIBLE:
        assert facts(usual(name, "reverse")).direction == "reverse"
    else:
        assert codes(usual(name, "reverse")) == ["E403"]
    if name == "semiseparable":
        assert facts(usual(name, "strict", "reverse")).direction == "reverse"
    else:
        assert codes(usual(name, "strict")) == ["E403"]


@pytest.mark.parametrize("name", TABLE)
def test_only_unlowered_structures_say_what_is_missing(name: str) -> None:
    assert (facts(usual(name)).missing is not None) is (name in ("fenwick", "dense"))


@pytest.mark.parametrize("flags", [(), ("strict",)])
def test_semiseparable(flags: tuple[str, ...]) -> None:
    found = facts(written("semiseparable", "exp(g[b, t, h, n])", flags=flags))
    (gate,) = found.gates
    assert found.strict is gate.exclusive is (flags == ("strict",))
    assert gate.log == tree("g[b, t, h, n]")
    assert found.axes(scope()) == ("b", "h", "n")
    assert found.logarithmic and not found.bounded and not found.windowed and not found.time_invariant("t")


def test_decay() -> None:
    found = facts(usual("decay"))
    assert found.gates[0].log == tree("logsigmoid(gamma[h])") and not found.gates[0].exclusive
    assert found.bounded and found.time_invariant("t") and found.axes(scope()) == ("h",)


def test_band() -> None:
    assert facts(written("band", "2 * W - 1")).widths == (tree("2 * W - 1"),)
    assert facts(written("band", "V / 2")).widths == (tree("V / 2"),)
    assert facts(written("band", "W")).windowed


def test_kernels() -> None:
    assert facts(usual("toeplitz")).kernels == (Kernel(ref("k[c, j]"), "j", True),)
    assert facts(usual("conv")).kernels == (Kernel(ref("w[c, 1, j]"), "j", False),)
    assert facts(usual("conv")).axes(scope()) == ("c",)
    assert facts(usual("conv")).time_invariant("t")


def test_documents_fenwick_dense() -> None:
    assert facts(usual("documents")).documents == (ref("doc[b, t]"),)
    assert not facts(usual("documents")).time_invariant("t")
    assert facts(usual("fenwick")).tables == (ref("lam[b, t, h, l]"),)
    assert facts(usual("dense")).tables == (ref("m[t, s]"),)
    assert facts(usual("dense")).axes(scope()) == ()


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (written("casual"), ["E401"]),
        (written("x" * 60), ["E401"]),
        (written("causal", "3"), ["E402"]),
        (written("decay"), ["E402"]),
        (written("semiseparable", "exp(g[b, t])", "exp(f[b, t])"), ["E402"]),
        (written("causal", "revrse"), ["E403"]),
        (written("semiseparable", "exp(g[b, t])", "strct"), ["E403"]),
        (usual("semiseparable", "strict", "inclusive"), ["E403"]),
        (usual("causal", "reverse", "reverse"), ["E404"]),
        (written("toeplitz", "exp(k[c, j])"), ["E405"]),
        (written("conv", "4"), ["E405"]),
        (written("conv", "w[c, 1]"), ["E405"]),
        (written("documents", "doc[b]"), ["E405"]),
        (written("documents", "doc[b, t] + 1"), ["E405"]),
        (written("fenwick", "lam[b, h, l]"), ["E405"]),
        (written("fenwick", "lam[b, h, t]"), ["E405"]),
        (written("dense", "m[t, h]"), ["E405"]),
        (written("dense", "m[s, t]"), ["E405"]),
        (written("semiseparable", "exp(g[b, s, h])"), ["E406"]),
        (written("semiseparable", "exp(index(s))"), ["E406"]),
        (written("documents", "doc[b, s]"), ["E406"]),
        (written("decay", "gamma[h, s]"), ["E406"]),
        (written("decay", "sigmoid(gamma[b, t, h])"), ["E407"]),
        (written("decay", "sigmoid(gamma[b, t - 1, h])"), ["E407"]),
        (written("decay", "embed[ids[b, t], h]"), ["E407"]),
        (written("band", "0"), ["E408"]),
        (written("band", "-W"), ["E408"]),
        (written("band", "W / 3"), ["E408"]),
        (written("band", "Z"), ["E408"]),
        (written("band", "2.5"), ["E408"]),
        (written("band", "w[h]"), ["E408"]),
        (written("band", "exp(W)"), ["E408"]),
        (written("toeplitz", "k[b, t, j]"), ["E409"]),
        (written("toeplitz", "k[b, s, j]"), ["E406"]),
        (written("decay", "gamma[b, t]", flags=("strict",)), ["E403", "E407"]),
    ],
)
def test_faults(structure: ast.Structure, expected: list[str]) -> None:
    assert codes(structure) == expected


def test_a_slip_of_the_pen_is_understood() -> None:
    for structure, hint in ((written("casual"), "causal"), (usual("causal", "revers"), "reverse")):
        layer = scope()
        facts_of(structure, layer)
        assert layer.faults[0].hint == f"did you mean '{hint}'?"
        assert layer.faults[0].span == PLACE


def combined(*structures: ast.Structure) -> tuple[Facts, list[str]]:
    layer = scope()
    result = product([facts_of(structure, layer) for structure in structures], PLACE, layer)
    return result, [fault.code for fault in layer.faults]


def test_product() -> None:
    found, faults = combined(usual("documents"), usual("decay"), usual("band"), usual("semiseparable", "strict"))
    assert faults == []
    assert found.direction == "forward" and found.strict and found.missing is None
    assert len(found.gates) == 2 and [gate.exclusive for gate in found.gates] == [False, True]
    assert found.widths == (tree("W"),) and found.documents == (ref("doc[b, t]"),)
    assert found.axes(scope()) == ("h", "b")
    assert combined(usual("full"), usual("documents"))[0].direction == "both"
    assert combined(usual("causal"), usual("dense"))[0].missing is not None


@pytest.mark.parametrize(("name", "left"), [("causal", "only the diagonal"), ("strict", "nothing")])
def test_opposed_masks(name: str, left: str) -> None:
    layer = scope()
    pair = [facts_of(usual(name), layer), facts_of(usual("decay", "reverse"), layer)]
    product(pair, PLACE, layer)
    (fault,) = layer.faults
    assert fault.code == "E410" and left in fault.text and fault.span == PLACE


def test_axes_of() -> None:
    assert axes_of(tree("exp(x[b, t, (h, p)]) * embed[ids[b, t], d]")) == ("b", "t", "h", "p", "d")
    assert axes_of(tree("sum(x[b, t, n], n) * index(h)")) == ("b", "t", "h")
    assert axes_of(tree("softmax(x[b, n], n)")) == ("b", "n")
    assert reads(tree("x[t - 2]"), ("t",)) and not reads(tree("x[h]"), ("t",))


# ---- the entries against the definitions in the language's table, written out again --------------------------------

gates = st.lists(st.floats(-2, 2), min_size=1, max_size=7)
flags = st.booleans()


@given(gates, flags, flags)
def test_semiseparable_entries(a: list[float], strict: bool, reverse: bool) -> None:
    for t in range(len(a)):
        for s in range(len(a)):
            if reverse:
                support, between = (s > t if strict else s >= t), [r for r in range(len(a)) if t + strict <= r < s]
            else:
                support, between = (s < t if strict else s <= t), [r for r in range(len(a)) if s < r <= t - strict]
            expected = prod(a[r] for r in between) if support else 0.0
            assert semiseparable.entry(t, s, a, strict, reverse) == pytest.approx(expected)


@given(st.floats(0, 1), st.integers(0, 9), st.integers(0, 9))
def test_decay_is_semiseparable_with_one_gate(gamma: float, t: int, s: int) -> None:
    assert decay.entry(t, s, gamma) == pytest.approx(semiseparable.entry(t, s, [gamma] * 10))


@given(gates, st.integers(0, 9), st.integers(0, 9))
def test_conv_is_toeplitz_backwards(k: list[float], t: int, s: int) -> None:
    assert conv.entry(t, s, k) == toeplitz.entry(t, s, k[::-1])


def test_fenwick_levels_cover_the_past_in_blocks() -> None:
    for t in range(64):
        levels = [fenwick.entry(t, s, list(range(8))) for s in range(t + 1)]
        assert levels == sorted(levels, reverse=True)
        assert [levels.count(level) for level in range(1, 8)] == [(t >> k & 1) << k for k in range(7)]
        assert levels.count(0) == 1
