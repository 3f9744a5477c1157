"""Elementwise work that goes into the Triton kernels: what is taken, what stays, and that results are right."""

from __future__ import annotations

import importlib.util
import re
from math import prod

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import ssdc
from ssdc.codegen.render import render
from ssdc.codegen.triton import maps
from ssdc.graph.nodes import Apply, Const, Ref
from ssdc.runtime.loader import load
from tests.support.interpreted import printed
from tests.support.masked import CASES
from tests.support.run_fused import layers

ALLOWED, GRADIENT = 16, 1e-5
"""Units of an output (as everywhere), and what a float32 gradient's norm may be off by, relative to it."""
LENGTH = 97
NARROW = 2 * LENGTH * 4
"""The elements of a tensor with one number a position and head."""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
def test_layers_agree_with_the_reference_in_the_interpreter() -> None:
    """Prefill, continuation, step and gradients of layers of each fused form, and of neighbours that are not fused."""
    found = printed("run_fused")
    assert set(found) == set(layers())
    for name, errors in found.items():
        assert errors.pop("gradients") <= GRADIENT, name
        assert max(errors.values()) <= ALLOWED, (name, errors)


def text(name: str) -> str:
    source, sizes = layers()[name]
    layer = ssdc.compile(source, sizes=sizes)
    return render(layer.graph, layer.plan(b=2, T=LENGTH), backend="triton")


FUSED = {
    "ssd": ("skip",), "mamba2": ("skip",), "column": ("skip",), "columns alone": ("skip",), "one": ("skip",),
    "product": ("skip",), "reverse": ("skip",), "strict": ("skip",), "read on": ("skip",),
    "maps": ("skip", ";relu;silu,*0.5"), "retention": ("*0.25;;",), "linear_attention": ("elu_one;elu_one;;+1e-06",),
    "mlstm": ("*0.25;;;abs,>1.0",), "norm": ("sigmoid,*0.5;elu_one;;+0.5",),
    "row first": (";;;abs,>1.0",), "two uses": (), "outside": (),
    "cosformer": (), "based": (),
}  # fmt: skip
"""What the call of the kernels has besides its operands."""


@pytest.mark.parametrize("name", FUSED)
def test_what_goes_into_the_kernels(name: str) -> None:
    call = " ".join(line for line in text(name).splitlines() if " masked(" in line)
    for part in FUSED[name]:
        assert part in call
    assert FUSED[name] or ("skip" not in call and ";;;" not in call)


class Wide(TorchDispatchMode):
    """Collects the float32 tensors over time that operations make, of more than one number a position and head."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor) and x.dtype == torch.float32 and x.numel() > NARROW and LENGTH in x.shape:
                self.found.append(f"{function}: {list(x.shape)}")
        return made


def traced(name: str, dtype: torch.dtype) -> tuple[list[str], torch.Tensor]:
    """The wide float32 tensors that a layer's generated function makes of inputs of a type, and its output."""
    source, sizes = layers()[name]
    layer = ssdc.compile(source, sizes=sizes)
    module = load(text(name))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        given = []
        for node in layer.graph.inputs:
            sizes = {"b": 2, "t": LENGTH, **{axis: size for axis, size in layer.graph.sizes.items() if size}}
            shape = [prod(sizes[axis] for axis in axes) for axes in node.layout]
            given.append(torch.empty(*shape, dtype=dtype))
        learned = [mode.from_tensor(p.detach()) for p in layer.parameters()]
        with Wide() as seen:
            outputs, _ = module.forward(given, learned, (None,), False, torch.float32, dtype)
    return seen.found, outputs[0]


@pytest.mark.parametrize("name", ["ssd", "retention", "linear_attention", "mlstm", "column", "strict", "maps", "norm"])
def test_nothing_as_wide_as_an_operand_is_brought_to_float32(name: str) -> None:
    """Inputs of 16 bits with float32 parameters: operands and results stay as they are."""
    found, y = traced(name, torch.bfloat16)
    assert found == []
    assert y.dtype == torch.bfloat16


def test_the_collector_sees_a_wide_tensor() -> None:
    found, _ = traced("outside", torch.bfloat16)
    assert found


def test_chains_of_steps() -> None:
    x = Ref("x")
    assert maps.chain(Apply("logsigmoid", (x,))) == ("x", ("*-1.0", "softplus", "*-1.0"))
    assert maps.chain(Apply("-", (Const(2.0), Apply("^", (x, Const(2.0)))))) == ("x", ("square", "*-1.0", "+2.0"))
    assert maps.chain(Apply("max", (Const(0.5), x))) == ("x", (">0.5",))
    assert maps.chain(Apply("*", (x, x))) == ("x", ("square",))
    for other in (Apply("+", (x, Ref("z"))), Apply("sin", (x,)), Apply("^", (x, Const(3.0))), Const(1.0)):
        assert maps.chain(other) is None
    assert maps.chain(Apply("/", (x, Const(0.0)))) is None


def test_every_step_is_tested() -> None:
    """The cases of the kernels use every function and sign."""
    used = {step for case in CASES for step in re.split("[,;]", case.maps) if step}
    assert set(maps.STEPS) <= used
    assert set(maps.SIGNS) <= {step[0] for step in used}


@pytest.mark.parametrize("wrong", ["cosh;;", "+nan;;", "+;;", "relu", "*1;*1;*1;*1;*1", "relu,;;"])
def test_maps_that_do_not_exist_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        maps.decoded(wrong)
