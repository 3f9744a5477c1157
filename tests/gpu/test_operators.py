"""Every operator that the runtime registers, on a GPU, as torch wants an operator: schema, autograd, fake tensors,
tracing. An operator without a row here fails."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import ssdc.runtime
from ssdc.runtime.kernels.calls import OWN
from tests.support import masked, streamed
from tests.support.device import DEVICE, example, inputs, marks, moved, on_device
from tests.support.programs import time_dims

pytestmark = marks

KINDS = (
    masked.Case(length=70, states=24, columns=20, scale=True, groups=(1, 1, 0)),
    masked.Case(length=33, gate="none", initial=False),
    masked.Case(length=64, gate="constant", groups=(2, 2, 1), skip="head"),
    masked.Case(length=65, strict=True, own="varying"),
    masked.Case(length=1, strict=True, own="gate"),
    masked.Case(length=70, columns=20, maps="elu_one;silu;;abs,>1.0", scale=True),
)
STREAMED = (
    streamed.Case(length=70, states=24, columns=20, scale=True, groups=(1, 1, 0)),
    streamed.Case(length=33, gate="none", width=20, past=19),
    streamed.Case(length=65, strict=True, own="varying"),
)
Arguments = tuple[Any, ...]


def arguments(name: str, **given: Any) -> Arguments:
    """The arguments of an operator by name, in the order of its schema; those left out are as by default."""
    found = []
    for one in getattr(torch.ops.ssdc, name).default._schema.arguments:
        found.append(given[one.name] if one.name in given or not one.has_default_value() else one.default_value)
    return tuple(found)


def _given(support: Any, case: Any, dtype: torch.dtype, grad: bool) -> dict[str, Any]:
    """Operands on the device, and what else the operators ask about a case."""
    tensors = dict(zip(support.NAMES, support.operands(case, dtype), strict=True))
    found = {name: None if x is None else x.to(DEVICE).requires_grad_(grad) for name, x in tensors.items()}
    return {**vars(case), **found, "kind": OWN.index(case.own), "own": found["own"], "gates": True}


def _grad(case: Any, dtype: torch.dtype) -> Tensor:
    return torch.randn(case.batch, case.length, case.heads, case.columns, device=DEVICE, dtype=dtype)


def _final(case: masked.Case) -> Tensor:
    return torch.randn(case.batch, case.heads, case.states, case.pitch, device=DEVICE)


TYPES = (torch.float32, torch.bfloat16)


def _masked() -> list[Arguments]:
    return [arguments("masked", **_given(masked, case, dtype, True)) for case in KINDS for dtype in TYPES]


def _masked_backward() -> list[Arguments]:
    found = []
    for case, dtype in product(KINDS, TYPES):
        given = _given(masked, case, dtype, False)
        output, _, sums = torch.ops.ssdc.masked(*arguments("masked", **given))
        given |= {"grad": _grad(case, dtype), "grad_final": _final(case)}
        if case.norm is not None:
            given |= {"output": output, "sums": sums}
        found += [arguments("masked_backward", **given | {"gates": gates}) for gates in (False, True)]
    return found


def _streamed() -> list[Arguments]:
    return [arguments("streamed", **_given(streamed, case, dtype, True)) for case in STREAMED for dtype in TYPES]


def _streamed_backward() -> list[Arguments]:
    return [
        arguments("streamed_backward", **_given(streamed, case, dtype, False), grad=_grad(case, dtype))
        for case in STREAMED
        for dtype in TYPES
    ]


def _linear_scan() -> list[Arguments]:
    update = torch.randn(2, 3, 70, device=DEVICE).permute(2, 1, 0).requires_grad_()
    initial = torch.randn(3, 2, device=DEVICE)
    return [(torch.rand(70, 3, last, device=DEVICE).requires_grad_(), update, initial, last == 1) for last in (1, 2)]


def _running_sum() -> list[Arguments]:
    update, initial = torch.randn(2, 3, 70, device=DEVICE), torch.randn(3, 2, device=DEVICE)
    return [(update.permute(2, 1, 0).requires_grad_(), initial, reverse) for reverse in (False, True)]


def _recurrent_operands(strict: bool, grad: bool) -> list[Tensor | None]:
    shapes = ((9, 2, 3, 2, 4), (9, 2, 3, 4), (9, 2, 3, 5), (9, 2, 3, 1), (9, 1, 3, 4), (2, 3, 4, 5))
    found: list[Tensor | None] = [torch.rand(shape, device=DEVICE).requires_grad_(grad) for shape in shapes]
    return found if strict else [*found[:4], None, found[5]]


def _recurrent() -> list[Arguments]:
    return [(*_recurrent_operands(strict, True), strict) for strict in (False, True)]


def _recurrent_backward() -> list[Arguments]:
    grads = torch.randn(9, 2, 3, 2, 5, device=DEVICE), torch.randn(2, 3, 4, 5, device=DEVICE)
    needs = ([True] * 4, [False, True, False, True])
    return [
        (*grads, *_recurrent_operands(strict, False), strict, [*need, strict, True])
        for need in needs
        for strict in (False, True)
    ]


def _contraction() -> list[Arguments]:
    """The operator that stands for a contraction of PyTorch text in an exported program, its operands drawn anew."""
    case = example("gla")
    x = moved(inputs(case, 20), torch.float32)
    time = torch.export.Dim("T")
    shapes = tuple({dim: time} for dim in time_dims(case).values())
    layer = on_device(case, backend="torch")
    program = torch.export.export(layer, tuple(x.values()), dynamic_shapes=(shapes,))
    (node,) = [node for node in program.graph.nodes if "ssdc.contraction" in str(node.target)]
    text, name, given, present, _, _, _, state = node.args

    def sizes(shape: Any) -> list[int]:
        return [n if isinstance(n, int) else 20 for n in shape]

    leaves = [(-torch.rand(sizes(one.meta["val"].shape), device=DEVICE)).requires_grad_() for one in given]
    result = sizes(node.meta["val"][0].shape)
    return [(text, name, leaves, list(present), want, False, result, sizes(state)) for want in (False, True)]


OPERATORS: dict[str, Callable[[], list[Arguments]]] = {
    "ssdc::masked": _masked,
    "ssdc::masked_backward": _masked_backward,
    "ssdc::streamed": _streamed,
    "ssdc::streamed_backward": _streamed_backward,
    "ssdc::linear_scan": _linear_scan,
    "ssdc::running_sum": _running_sum,
    "ssdc::recurrent": _recurrent,
    "ssdc::recurrent_backward": _recurrent_backward,
    "ssdc::contraction": _contraction,
}


@pytest.fixture(scope="module")
def registered() -> set[str]:
    """The operators that importing all of the runtime registers."""
    for module in pkgutil.walk_packages(ssdc.runtime.__path__, "ssdc.runtime."):
        importlib.import_module(module.name)
    return {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("ssdc::")}


def test_every_operator_has_a_row(registered: set[str]) -> None:
    assert registered == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, registered: set[str]) -> None:
    """All four: schema, autograd registration, fake tensors, tracing with symbolic sizes."""
    assert name in registered
    operator = getattr(torch.ops.ssdc, name.removeprefix("ssdc::")).default
    for given in OPERATORS[name]():
        done = torch.library.opcheck(operator, given)
        assert len(done) == 4 and set(done.values()) == {"SUCCESS"}
