"""Launches that start a remembered kernel: what they hand to the device is what Triton's own look-up hands to it.

The device here compiles for compute capability 9.0, keeps what it is handed, and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as cuda
from triton.compiler import CompilationError

from ssdc.codegen.triton import choose
from ssdc.runtime.kernels import launch, masked, replay, walks
from ssdc.runtime.kernels.backward import backward_pass
from ssdc.runtime.kernels.calls import Given
from ssdc.runtime.kernels.forward import forward_pass
from ssdc.runtime.loader import load

Handed = list[tuple[str, tuple[int, int, int], list[Any]]]
"""Kernels by hash, programs, and arguments: pointers, numbers, and of descriptors what they are encoded from."""


@pytest.fixture(scope="module")
def device() -> Iterator[Handed]:
    """The device, until this module's last test: what it is handed."""
    kept: Handed = []

    class Launcher:
        """As Triton's: what encodes descriptors lies around what starts a kernel."""

        def __init__(self, src: Any, metadata: Any) -> None:
            self.name = metadata.hash
            self.launch = cuda.wrap_handle_tensordesc(lambda *given: given, src.signature, metadata.tensordesc_meta)

        def __call__(self, x: int, y: int, z: int, stream: int, function: int, *rest: Any) -> None:
            *_, given = self.launch(stream, function, *rest[:4], rest[4:])
            kept.append((self.name, (x, y, z), [one.data_ptr() if isinstance(one, Tensor) else one for one in given]))

    utilities = SimpleNamespace(
        load_binary=lambda *_: (0, 0, 255, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 232448},
        fill_tma_descriptor_tiled=lambda place, *laid: (place, str(laid)),
    )
    driver = SimpleNamespace(
        utils=utilities,
        launcher_cls=Launcher,
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        is_active=lambda: True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.driver, "_active", driver)
        patch.setattr(walks, "capable", lambda _: True)
        yield kept
    # What was compiled for this device is of no use to another.
    for cache in (load, launch.function, walks.function):
        cache.cache_clear()


@pytest.fixture
def handed(device: Handed, monkeypatch: pytest.MonkeyPatch) -> Handed:
    """The same, nothing handed yet and nothing remembered."""
    monkeypatch.setattr(launch, "_compiled", {})
    device.clear()
    return device


SIZES = [(2, 96, 4, 64), (2, 91, 4, 64), (2, 96, 1, 64), (2, 96, 4, 40)]


def operands(
    size: tuple[int, int, int, int], offset: int = 0, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, ...]:
    """Query, key, value, and a gate that begins `offset` elements into its memory."""
    batch, length, heads, _ = size
    gate = torch.zeros(batch * length * heads + offset)[offset:].view(batch, length, heads)
    return (*(torch.zeros(size, dtype=dtype) for _ in range(3)), gate)


def forward(given: tuple[Tensor, ...], form: str) -> tuple[Tensor, ...]:
    return forward_pass(Given(*given, None, None, None, given[0].shape[2], False, 0), form)


def form(patch: pytest.MonkeyPatch, name: str, segments: int = 1) -> None:
    """From now on, calls take this form, or backward the portable one where they walk portably."""
    back = "hopper" if name == "hopper" else "parallel"
    patch.setattr(choose, "forward", partial(choose.forward, form=name, segments=segments))
    patch.setattr(choose, "backward", partial(choose.backward, form=back, segments=segments))


@pytest.mark.parametrize("form", ["walk", "hopper"])
def test_a_remembered_kernel_is_the_one_that_triton_would_start(
    form: str, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [operands(size) for size in SIZES]
    calls += [operands(SIZES[0], offset=1), operands(SIZES[0], dtype=torch.float16)]
    keep = []  # results too stay alive, so that every call has pointers of its own

    def turn() -> Handed:
        begin = len(handed)
        keep.append([forward(given, form) for given in calls])
        return handed[begin:]

    first, again = turn(), turn()
    monkeypatch.setattr(launch, "_compiled", {})
    own = turn()
    names = [[name for name, *_ in found] for found in (first, again, own)]
    assert names[0] == names[1] == names[2]
    assert len(set(names[0])) == len(calls), "each call needs a kernel of its own, or the test shows nothing"
    results = {x.data_ptr() for made in keep for found in made for x in found if x.numel()}

    def lasting(found: Handed) -> list[Any]:
        return [
            (programs, [x for x in rest if x not in results and not (isinstance(x, tuple) and x[0] in results)])
            for _, programs, rest in found
        ]

    assert lasting(first) == lasting(again) == lasting(own)


def test_what_is_remembered_starts_without_a_look_up(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands(SIZES[0])
    forward(given, "hopper")
    ((function, *_),) = launch._compiled
    monkeypatch.setattr(type(function), "run", lambda *_, **__: pytest.fail("Triton looked it up"))
    forward(given, "hopper")
    assert len(handed) == 2


@pytest.mark.parametrize("size", [(1, 70, 2, 48), (2, 2048, 2, 128)], ids=["portable", "walks"])
def test_kernels_of_a_call_are_compiled_side_by_side_and_start_in_order(
    size: tuple[int, int, int, int], handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    form(monkeypatch, "walk" if size[1] < 100 else "hopper")
    compiled, real = [], launch._compile

    def recorded(wanted: list[launch.Later]) -> None:
        compiled.append(len(wanted))
        assert not handed, "nothing starts before"
        real(wanted)

    monkeypatch.setattr(launch, "_compile", recorded)
    given = operands(size)
    results = []

    def backward() -> Handed:
        begin = len(handed)
        call = Given(*given, None, None, None, size[2], False, 0)
        results.append(backward_pass(given[2], None, call, True))
        return handed[begin:]

    first, again = backward(), backward()
    assert compiled == [len(first)] and len(first) >= 4
    assert [name for name, *_ in first] == [name for name, *_ in again]


def test_a_kernel_that_does_not_compile_says_so(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands((1, 96, 2, 64))
    text = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef f(x, y):\n    tl.arange(0, 3)\n"
    broken = load(text).f
    for _ in range(2):
        with pytest.raises(CompilationError, match="power of 2"), launch.together():
            launch.start(broken, 1, (given[0], 1), 4)
            launch.start(broken, 1, (given[0], 2), 4)
    assert not handed
    forward(given, "hopper")
    assert handed


def test_an_error_between_launches_starts_none(handed: Handed) -> None:
    given = operands((1, 96, 2, 80))
    with pytest.raises(ZeroDivisionError), launch.together():
        forward(given, "hopper")
        raise ZeroDivisionError
    assert not handed


def test_few_calls_are_remembered(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "CALLS", 2)
    for length in (64, 65, 66, 67):
        forward(operands((1, length, 2, 64)), "walk")
        assert 1 <= len(launch._compiled) <= 2


def test_the_gradient_of_a_sum_goes_where_others_go(handed: Handed) -> None:
    """It is one number, expanded, which the copy engine does not read, and a compiled call's is not."""
    query, key, value, gate = operands((1, 2048, 2, 48))

    def kernels(grad: Tensor) -> list[str]:
        begin = len(handed)
        backward_pass(grad, None, Given(query, key, value, gate, None, None, None, 2, False, 0), True)
        return [name for name, *_ in handed[begin:]]

    assert kernels(torch.ones((), dtype=value.dtype).expand(value.shape)) == kernels(torch.ones_like(value))


@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("length", [70, 2048, 8192], ids=["portable", "walks", "segments"])
def test_a_replayed_pass_hands_over_what_the_pass_does(
    length: int, groups: int, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    form(monkeypatch, "walk" if length < 100 else "hopper", 3 if length == 8192 else 1)
    monkeypatch.setattr(replay, "_known", {})
    (query, _, value, gate), key = operands((1, length, 2, 48)), operands((1, length, groups, 48))[1]
    arguments = (query, key, value, gate, None, gate + 1, None, 2, False, 0, None, "")
    passes = (lambda: masked._forward(*arguments, ""), lambda: masked._backward(query * 2, None, *arguments, True))

    def turn() -> list[Any]:
        begin = len(handed)
        keep.append([run() for run in passes])
        mine = {x.data_ptr() for x in arguments if isinstance(x, Tensor)}

        def told(x: Any) -> Any:
            place = x[0] if isinstance(x, tuple) else x
            if place in mine or place < 2**32:
                return x
            return ("new", *x[1:]) if isinstance(x, tuple) else "new"

        return [(name, programs, [told(x) for x in rest]) for name, programs, rest in handed[begin:]]

    keep: list[Any] = []
    first, second, third = turn(), turn(), turn()
    assert all(script is not None and script.steps for script in replay._known.values())
    assert len(first) >= 5 and first == second == third
    for mine, other in zip(keep[0], keep[2], strict=True):
        for x, y in zip(mine, other, strict=True):
            assert (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)
            assert not x.numel() or x.data_ptr() != y.data_ptr()


def test_tiles_of_memory_handed_out_again_are_not_encoded_again(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    form(monkeypatch, "hopper")
    monkeypatch.setattr(replay, "_known", {})
    query, key, value, gate = operands((1, 2048, 2, 48))
    for _ in range(3):
        masked._forward(query, key, value, gate, None, None, None, 2, False, 0, None, "", "")
    assert any(isinstance(x, tuple) for x in handed[-1][2])
    (script,) = replay._known.values()
    assert script is not None
    (started,) = (step for step in script.steps if isinstance(step, replay._Launch))
    slots = [query, key, value, gate, *[torch.empty(query.shape, dtype=query.dtype)] * (script.count - 4)]
    started(slots, 0)
    utilities = triton.runtime.driver.active.utils
    monkeypatch.setattr(utilities, "fill_tma_descriptor_tiled", lambda *_: pytest.fail("encoded again"))
    started(slots, 0)
    assert handed[-1] == handed[-2]
    slots[0] = query.clone()
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        started(slots, 0)
