"""Every error of a compiled module's call says which tensor, what it had, what it needs, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ssdc
from ssdc import CallError, DtypeError, OrderError, SpecError, StateError

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parent.parent / "examples"
TEXT = """layer f(H = 2, N = 4, P = 3) {
  time t, s
  axis b, h = H, n = N, p = P
  input q[b,t,h,n], k[b,t,h,n], v[b,t,(h p)], a[b,t,h], doc[b,t] : int, keep[b,t] : bool
  param w[h] ~ ones
  mask L[b,h,t,s] = semiseparable(exp(-exp(a[b,t,h]))) * documents(doc[b,t])
  x[b,t,h,p] = where(keep[b,t], v[b,t,h,p], 0) * w[h]
  y[b,t,h,p] = q[b,t,h,n] * k[b,s,h,n] * L[b,h,t,s] * x[b,s,h,p]
  output y
}
"""
REVERSE = TEXT.replace("exp(a[b,t,h])))", "exp(a[b,t,h])), reverse)").replace("layer f", "layer backwards")
LAYER = ssdc.compile(TEXT)
BACKWARDS = ssdc.compile(REVERSE)
OTHER = ssdc.compile(TEXT.replace("layer f", "layer g"))
WIDER = ssdc.compile(TEXT, sizes={"N": 5})
ATTENTION = {"H": 2, "N": 4, "P": 4}


def inputs(b: int = 2, T: int = 7, **changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "q": torch.randn(b, T, 2, 4),
        "k": torch.randn(b, T, 2, 4),
        "v": torch.randn(b, T, 6),
        "a": torch.randn(b, T, 2),
        "doc": torch.zeros(b, T, dtype=torch.int64),
        "keep": torch.ones(b, T, dtype=torch.bool),
    }
    return {**made, **changed}


def one(b: int = 2, **changed: Any) -> dict[str, Any]:
    return {**{name: x[:, 0] for name, x in inputs(b).items()}, **changed}


def without(*names: str) -> dict[str, Any]:
    return {name: x for name, x in inputs().items() if name not in names}


def says(kind: type[Exception], call: Callable[[], object], *words: str) -> None:
    """The call raises exactly this class, with a message that holds each of the words."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_the_call_that_all_others_spoil() -> None:
    assert LAYER(**inputs()).shape == (2, 7, 2, 3)
    assert LAYER(*inputs().values()).shape == (2, 7, 2, 3)
    assert LAYER(**inputs(T=0)).shape == (2, 0, 2, 3)
    assert LAYER(**inputs(b=0)).shape == (0, 7, 2, 3)
    assert BACKWARDS(**inputs()).shape == (2, 7, 2, 3)


# ---- which inputs ----------------------------------------------------------------------------------------------------

BINDING: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "one missing": (lambda: LAYER(**without("k")), ("f needs the input k[b, t, h, n] besides", "by name")),
    "two missing": (lambda: LAYER(**without("k", "a")), ("f needs the inputs k[b, t, h, n], a[b, t, h] besides",)),
    "all missing": (lambda: LAYER(), ("q[b, t, h, n]", "v[b, t, (h p)]", "keep[b, t]")),
    "misspelt": (lambda: LAYER(**inputs(keeps=0)), ("f has no input 'keeps'", "did you mean 'keep'?")),
    "unknown": (lambda: LAYER(**inputs(zebra=0)), ("no input 'zebra'", "its inputs are q, k, v, a, doc, keep")),
    "too many": (lambda: LAYER(*inputs().values(), 0), ("f takes 6 inputs (q, k, v, a, doc, keep), and 7 were given",)),
    "twice": (lambda: LAYER(inputs()["q"], **inputs()), ("the input 'q' was given twice, by position and by name",)),
    "step": (lambda: LAYER.step(LAYER.init_state(b=2), **without("a")), ("f needs the input a[b, t, h] besides",)),
}


@pytest.mark.parametrize("name", BINDING)
def test_binding(name: str) -> None:
    call, words = BINDING[name]
    says(CallError, call, *words)


# ---- shapes, devices, kinds ------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "too few dimensions": (
        {"q": torch.randn(2, 7, 8)},
        ("the input 'q' has 3 dimensions [2, 7, 8], and needs 4, [b, t, h, n]", "view()"),
    ),
    "too many dimensions": (
        {"a": torch.randn(2, 7, 2, 1)},
        ("'a' has 4 dimensions [2, 7, 2, 1], and needs 3, [b, t, h]", "squeeze()"),
    ),
    "size": (
        {"q": torch.randn(2, 7, 2, 5)},
        ("'q' has [2, 7, 2, 5]: size 5 along n of [b, t, h, n], which needs 4", "fixed when the layer was compiled"),
    ),
    "flattened size": ({"v": torch.randn(2, 7, 5)}, ("'v' has [2, 7, 5]: size 5 along (h p)", "needs 6")),
    "batch": (
        {"k": torch.randn(3, 7, 2, 4)},
        ("'k' has [3, 7, 2, 4]: size 3 along b", "'q' has 2 there", "need to agree", "expand or cut"),
    ),
    "length": ({"doc": torch.zeros(2, 8, dtype=torch.int64)}, ("'doc' has [2, 8]: size 8 along t", "'q' has 7 there")),
    "device": (
        {"k": torch.randn(2, 7, 2, 4, device="meta")},
        ("'k' is on meta", "the layer is on cpu", "where it needs to be", ".to()"),
    ),
    "a list": ({"q": [1.0]}, ("'q' is a list, and needs to be a torch.Tensor", "torch.as_tensor()")),
    "nothing": ({"q": None}, ("'q' is a NoneType, and needs to be a torch.Tensor",)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    changed, words = SHAPES[name]
    says(CallError, lambda: LAYER(**inputs(**changed)), *words)


def test_devices_of_a_layer_without_parameters() -> None:
    layer = ssdc.compile(
        "layer f() {\n time t\n axis b\n input x[b,t], z[b,t]\n y[b,t] = x[b,t] * z[b,t]\n output y\n}"
    )
    x = torch.ones(1, 2)
    says(CallError, lambda: layer(x, x.to("meta")), "'z' is on meta, and 'x' is on cpu, where it needs to be", ".to()")


def test_a_multiple_of_a_fixed_size() -> None:
    text = "layer f(H = 3) {\n time t\n axis b, h = H, c\n input x[b,t,(c h)]\n output x\n}"
    layer = ssdc.compile(text)
    assert layer(torch.zeros(1, 2, 6)).shape == (1, 2, 6)
    words = ("'x' has [1, 2, 7]: size 7 along (c h)", "needs a multiple of 3", "pad it")
    says(CallError, lambda: layer(torch.zeros(1, 2, 7)), *words)


def test_a_step_has_no_time() -> None:
    state = LAYER.init_state(b=2)
    assert LAYER.step(state, **one())[0].shape == (2, 2, 3)
    words = ("'q' has 4 dimensions [2, 7, 2, 4], and needs 3, [b, h, n]", "without the time axis: x.select(dim, 0)")
    says(CallError, lambda: LAYER.step(state, **inputs()), *words)
    says(
        CallError,
        lambda: LAYER.step(state, **one(k=torch.zeros(3, 2, 4))),
        "'k' has [3, 2, 4]: size 3 along b",
        "'q' has 2",
    )


KINDS: dict[str, tuple[str, Tensor, tuple[str, ...]]] = {
    "int for real": (
        "q",
        torch.ones(2, 7, 2, 4, dtype=torch.int64),
        ("declared real", "floating-point", "torch.float32"),
    ),
    "complex for real": ("q", torch.ones(2, 7, 2, 4, dtype=torch.complex64), ("complex64", "declared real")),
    "real for int": (
        "doc",
        torch.zeros(2, 7),
        ("torch.float32", "declared int", "an integer dtype", ".to(torch.int64)"),
    ),
    "bool for int": ("doc", torch.zeros(2, 7, dtype=torch.bool), ("torch.bool", "declared int")),
    "int for bool": ("keep", torch.ones(2, 7, dtype=torch.int32), ("torch.int32", "declared bool", ".to(torch.bool)")),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    which, tensor, words = KINDS[name]
    says(
        DtypeError,
        lambda: LAYER(**inputs(**{which: tensor})),
        f"the input '{which}' is {tensor.dtype}",
        "cast it",
        *words,
    )


# ---- states ----------------------------------------------------------------------------------------------------------

DOUBLE = {name: x.double() if x.is_floating_point() else x for name, x in inputs().items()}
STATES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "of another layer": (
        lambda: LAYER(**inputs(), state=OTHER.init_state(b=2)),
        ("the state belongs to a layer 'g', and this is 'f'", "init_state()"),
    ),
    "of other sizes": (
        lambda: LAYER(**inputs(), state=WIDER.init_state(b=2)),
        ("the state belongs to a layer 'f' of other sizes, and this is 'f'",),
    ),
    "of another batch": (
        lambda: LAYER(**inputs(), state=LAYER.init_state(b=3)),
        ("the state's 'y' has [3, 2, 4, 3], and these inputs need [2, 2, 4, 3]", "the batch that made it"),
    ),
    "too wide": (
        lambda: LAYER(**inputs(), state=LAYER.init_state(b=2, dtype=torch.float64)),
        ("'y' is torch.float64", "needs torch.float32", "state.to(torch.float32)"),
    ),
    "too narrow": (
        lambda: LAYER(**DOUBLE, state=LAYER.init_state(b=2)),
        ("'y' is torch.float32", "needs torch.float64", "state.to(torch.float64)"),
    ),
    "half": (lambda: LAYER(**inputs(), state=LAYER.init_state(b=2).to(torch.float16)), ("'y' is torch.float16",)),
    "on another device": (
        lambda: LAYER(**inputs(), state=LAYER.init_state(b=2, device="meta")),
        ("'y' is on meta", "need it on cpu", "state.to()"),
    ),
    "a tensor": (lambda: LAYER(**inputs(), state=torch.zeros(2)), ("the state is a Tensor", "init_state()")),
    "a tuple": (lambda: LAYER(**inputs(), state=()), ("the state is a tuple", "return_state=True")),
    "step without": (lambda: LAYER.step(None, **one()), ("f.step takes the state first", "NoneType", "init_state()")),
    "step the wrong way round": (
        lambda: LAYER.step(one()["q"], LAYER.init_state(b=2)),
        ("f.step takes the state first: the state is a Tensor",),
    ),
    "not causal, returned": (
        lambda: BACKWARDS(**inputs(), return_state=True),
        ("backwards has no state", "the mask 'L' of 'y' reads later positions", "whole sequences"),
    ),
    "not causal, given": (lambda: BACKWARDS(**inputs(), state=LAYER.init_state(b=2)), ("backwards has no state",)),
    "not causal, made": (lambda: BACKWARDS.init_state(b=2), ("backwards has no state", "reads later positions")),
    "not causal, step": (lambda: BACKWARDS.step(None, **one()), ("backwards has no state", "reads later positions")),
    "one for two documents": (
        lambda: LAYER(**inputs(b=1), cu_seqlens=[0, 3, 7], state=LAYER.init_state(b=1)),
        ("2 documents take a tuple of 2 states, one a document",),
    ),
    "one of two": (
        lambda: LAYER(**inputs(b=1), cu_seqlens=[0, 3, 7], state=(LAYER.init_state(b=1),)),
        ("2 documents take a tuple of 2 states",),
    ),
    "documents of a reverse layer": (
        lambda: BACKWARDS(**inputs(b=1), cu_seqlens=[0, 3, 7], return_state=True),
        ("backwards has no state",),
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_states(name: str) -> None:
    call, words = STATES[name]
    says(StateError, call, *words)


def test_a_tuple_of_states_goes_with_documents() -> None:
    first, states = LAYER(**inputs(b=1), cu_seqlens=[0, 3, 7], return_state=True)
    assert first.shape == (1, 7, 2, 3) and len(states) == 2
    again, _ = LAYER(**inputs(b=1), cu_seqlens=[0, 3, 7], state=states, return_state=True)
    assert again.shape == (1, 7, 2, 3)


# ---- sizes of plan, explain, init_state ------------------------------------------------------------------------------

SIZES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "init_state without": (lambda: LAYER.init_state(), ("init_state of f needs b=", "axis that calls decide")),
    "init_state unknown": (lambda: LAYER.init_state(b=2, z=3), ("f has no per-call size 'z'", "T, b")),
    "init_state negative": (lambda: LAYER.init_state(b=-1), ("the size b is -1", "at least 0")),
    "init_state text": (lambda: LAYER.init_state(b="2"), ("the size b is '2'", "a whole number")),
    "init_state bool": (lambda: LAYER.init_state(b=True), ("the size b is True", "a whole number")),
    "plan unknown": (lambda: LAYER.plan(b=2, Z=3), ("f has no per-call size 'Z'; it has T, b",)),
    "plan fixed": (lambda: LAYER.plan(h=2), ("f has no per-call size 'h'; it has T, b",)),
    "plan negative": (lambda: LAYER.plan(b=2, T=-3), ("the size T is -3", "at least 0")),
    "plan text": (lambda: LAYER.plan(T="many"), ("the size T is 'many'", "a whole number")),
    "explain unknown": (lambda: LAYER.explain(B=2), ("no per-call size 'B'",)),
    "explain a half": (lambda: LAYER.explain(b=0.5), ("the size b is 0.5", "a whole number")),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    call, words = SIZES[name]
    says(CallError, call, *words)


def test_a_state_is_real() -> None:
    words = ("dtype is torch.int64", "needs torch.float32")
    says(DtypeError, lambda: LAYER.init_state(b=2, dtype=torch.int64), *words)
    assert LAYER.plan().sizes == LAYER.plan(b=1, T=2048).sizes
    assert "T" in LAYER.explain(b=2, T=9) or "t = 9" in LAYER.explain(b=2, T=9)


# ---- cu_seqlens ------------------------------------------------------------------------------------------------------

DOCUMENTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "one offset": ([0], ("cu_seqlens has shape [1]", "needs integers [documents + 1]")),
    "none": ([], ("cu_seqlens has shape [0]", "needs integers")),
    "a table": (torch.tensor([[0, 7]]), ("cu_seqlens has shape [1, 2]", "needs integers [documents + 1]")),
    "real": (torch.tensor([0.0, 7.0]), ("dtype torch.float32", "needs integers")),
    "bool": (torch.tensor([False, True]), ("dtype torch.bool", "needs integers")),
    "fractions": ([0.5, 7], ("cu_seqlens is [0.5, 7]", "a list of integers, [0, .., 7]")),
    "a number": (7, ("cu_seqlens is 7", "needs a tensor or a list of integers")),
    "text": ("ab", ("cu_seqlens is 'ab'", "needs a tensor or a list of integers")),
    "too short": ([0, 5], ("cu_seqlens is [0, 5]", "needs to rise from 0 to T = 7")),
    "too long": ([0, 8], ("cu_seqlens is [0, 8]", "T = 7")),
    "a late start": ([1, 7], ("cu_seqlens is [1, 7]", "from 0")),
    "falling": ([0, 5, 3, 7], ("cu_seqlens is [0, 5, 3, 7]", "needs to rise")),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_cu_seqlens(name: str) -> None:
    offsets, words = DOCUMENTS[name]
    says(CallError, lambda: LAYER(**inputs(b=1), cu_seqlens=offsets), *words)


def test_cu_seqlens_go_with_a_batch_of_one() -> None:
    words = ("a batch of one", "the axis b has size 2", "end to end in time")
    says(CallError, lambda: LAYER(**inputs(), cu_seqlens=[0, 7]), *words)
    assert LAYER(**inputs(b=1), cu_seqlens=torch.tensor([0, 3, 3, 7], dtype=torch.int32)).shape == (1, 7, 2, 3)


def test_packing_needs_a_mask_in_a_softmax() -> None:
    text = (EXAMPLES / "attention.ssd").read_text().replace(", mask = M", "")
    layer, x = ssdc.compile(text, sizes=ATTENTION), torch.randn(1, 5, 2, 4)
    says(OrderError, lambda: layer(x, x, x, cu_seqlens=[0, 5]), "'w' runs over all positions", "mask = M")


# ---- orders, chunks, backends ----------------------------------------------------------------------------------------

SOFTMAX = "the exponential of a score has no finite feature map"
CHOICES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "misspelt": ({"order": "chunkd"}, ("there is no order 'chunkd'", "did you mean 'chunked'?")),
    "unknown": ({"order": "zigzag"}, ("there is no order 'zigzag'", "orders are auto, recurrent, quadratic, chunked")),
    "no text": ({"order": None}, ("there is no order None",)),
    "a list": ({"order": ["chunked"]}, ("there is no order ['chunked']",)),
    "fft": ({"order": "fft"}, ("'y' does not admit the order 'fft'", "gates vary with time")),
    "direct": ({"order": "direct"}, ("'y' does not admit the order 'direct'", "without bound")),
    "unknown equation": ({"order": {"z": "chunked"}}, ("order names the equation 'z'", "an order to choose: y")),
    "a mask": ({"order": {"L": "chunked"}}, ("order names the equation 'L'",)),
    "unknown in a dict": ({"order": {"y": "zz"}}, ("there is no order 'zz'",)),
    "illegal in a dict": ({"order": {"y": "fft"}}, ("'y' does not admit the order 'fft'",)),
    "no chunk": ({"chunk": 0}, ("chunk is 0", "a number of positions, at least 1")),
    "half a chunk": ({"chunk": 2.5}, ("chunk is 2.5", "a number of positions")),
    "chunk as text": ({"chunk": "64"}, ("chunk is '64'", "a number of positions")),
    "chunks of a recurrence": (
        {"order": "recurrent", "chunk": 16},
        ("chunk goes with the order 'chunked'", "'recurrent'"),
    ),
    "backend": ({"backend": "cuda"}, ("there is no backend 'cuda'", "auto, torch, triton")),
    "no backend": ({"backend": None}, ("there is no backend None",)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    keywords, words = CHOICES[name]
    says(OrderError, lambda: ssdc.compile(TEXT, **keywords), *words)


@pytest.mark.parametrize(
    "order", ["recurrent", "chunked", "scan", "fft", "direct", {"w": "chunked"}, {"y": "recurrent"}]
)
def test_softmax_attention_has_one_ordering(order: Any) -> None:
    equation, name = next(iter(order.items())) if isinstance(order, dict) else ("w", order)
    with pytest.raises(OrderError) as caught:
        ssdc.compile(EXAMPLES / "attention.ssd", sizes=ATTENTION, order=order)
    assert f"'{equation}' does not admit the order '{name}': {SOFTMAX}" in str(caught.value)


@pytest.mark.parametrize("order", ["auto", "quadratic", {"w": "quadratic"}, {"y": "auto"}])
def test_softmax_attention_takes_its_ordering(order: Any) -> None:
    layer = ssdc.compile(EXAMPLES / "attention.ssd", sizes=ATTENTION, order=order)
    assert re.search(f"w: quadratic, its one ordering: {SOFTMAX}", layer.explain(b=1, T=64))


def test_a_chunk_that_nothing_takes() -> None:
    says(
        OrderError,
        lambda: ssdc.compile(EXAMPLES / "attention.ssd", sizes=ATTENTION, chunk=16),
        "chunk is 16",
        "no equation",
    )


def test_other_arguments_of_compile() -> None:
    says(DtypeError, lambda: ssdc.compile(TEXT, dtype=torch.int32), "torch.int32", "torch.float32")
    says(SpecError, lambda: ssdc.compile(TEXT, layer="ff"), "E212", "did you mean 'f'?")
    says(SpecError, lambda: ssdc.compile(TEXT, sizes={"M": 3}), "E203", "no size 'M'", "takes H, N, P")
    says(SpecError, lambda: ssdc.compile(TEXT, sizes={"N": 0}), "E205", "'N' is given as 0", "between 1 and 2^31")
    says(SpecError, lambda: ssdc.compile(""), "E128")
    says(TypeError, lambda: ssdc.compile(3), "a path or text, not int")  # type: ignore[arg-type]
    says(FileNotFoundError, lambda: ssdc.compile("no_such_file.ssd"), "no_such_file.ssd")


def test_triton_where_its_kernels_serve_nothing() -> None:
    """Asked for by name, the kernels are not silently replaced: the reason is told for each equation."""
    reason = "serve nothing of gla .*'y': its gates vary along states.*backend='auto'"
    with pytest.raises(OrderError, match=reason):
        ssdc.compile("examples/gla.ssd", sizes={"H": 2, "N": 16, "P": 16}, backend="triton")
    assert ssdc.compile("examples/ssd.ssd", sizes={"H": 2, "P": 16, "N": 16}, backend="triton") is not None
