"""Replayed passes: what a script does is what the pass does, for operands of its kind and for no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from ssdc.codegen.triton import choose
from ssdc.runtime import tuned
from ssdc.runtime.kernels import replay
from ssdc.runtime.kernels.replay import replayed


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_known", {})


def counted(run: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """The pass, replayed, and a list that grows with each run of its text."""
    runs: list[int] = []

    def text(*arguments: Any) -> Any:
        runs.append(1)
        return run(*arguments)

    return replayed(text), runs


def work(x: Tensor, y: Tensor | None, size: int) -> tuple[Tensor, ...]:
    """New tensors, views, operations with and without a result, results of their own and parts of others."""
    sums, parts = x.new_empty((size,)), x.new_empty((2, 3, size))
    torch.sum(x.view(-1, size), 0, out=sums)
    parts[0].copy_(sums.expand(3, size))
    parts[1].copy_(torch.einsum("ab,cb->ca", x, x)[:3, :size] if y is None else y.transpose(0, 1)[:3])
    return sums, parts.sum(0), parts[1].T, x.new_empty((0,))


def tensors(seed: int, rows: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator), torch.randn(4, 5, generator=generator)


@pytest.mark.parametrize("with_y", [False, True])
def test_a_script_does_what_the_pass_does(with_y: bool) -> None:
    run, runs = counted(work)
    keep = []
    for seed in range(5):
        x, y = tensors(seed)
        found = run(x, y if with_y else None, 4)
        wanted = work(x, y if with_y else None, 4)
        for mine, other in zip(found, wanted, strict=True):
            assert mine.shape == other.shape and mine.stride() == other.stride() and torch.equal(mine, other)
        keep.append(found)
    assert len(runs) == 2
    places = [x.data_ptr() for found in keep for x in found if x.numel()]
    assert len(set(places)) == len(places), "results are new every time"


def test_what_is_of_no_more_use_goes() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(4):
            x = x + 1
        return x

    run, _ = counted(chain)
    for _ in range(2):
        run(torch.zeros(3))
    (script,) = replay._known.values()
    assert script is not None
    alive = []
    slots = [torch.zeros(3), *[None] * (script.count - 1)]
    for step in script.steps:
        step(slots, 0)
        alive.append(sum(x is not None for x in slots))
    assert max(alive) == 3 and torch.equal(slots[-1], torch.full((3,), 4.0))


KINDS: dict[str, Callable[[Tensor], tuple[Any, ...]]] = {
    "sizes": lambda x: (x.new_zeros(7, 4),),
    "strides": lambda x: (x.new_zeros(4, 6).T,),
    "type": lambda x: (x.double(),),
    "alignment": lambda x: (x.new_zeros(25)[1:].view(6, 4),),
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_call_is_asked_anew(kind: str) -> None:
    run, runs = counted(lambda x: x.sum(0))
    x, _ = tensors(0)
    for _ in range(3):
        run(x)
    other = KINDS[kind](x)
    assert torch.equal(run(*other), other[0].sum(0))
    assert len(runs) == 3


def test_another_rule_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = counted(lambda x: x.sum(0))
    x, _ = tensors(0)
    for _ in range(3):
        run(x)
    monkeypatch.setattr(choose, "forward", lambda *_: None)
    run(x)
    assert len(runs) == 3
    with tuned.session():
        for _ in range(3):
            run(x)
    assert len(runs) == 6
    tuned.forget()
    before = tuned._entries()  # kept alive, so that what is read anew lies elsewhere
    tuned.forget()
    monkeypatch.undo()
    run(x)
    assert len(runs) == 7 and tuned._entries() is not before


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
def test_a_profiler_hears_of_every_launch(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton tells its hooks of launches, of which replays start what they start past it."""
    run, runs = counted(lambda x: x.sum(0))
    x, _ = tensors(0)
    for _ in range(3):
        run(x)
    assert len(runs) == 2
    monkeypatch.setattr(getattr(triton.knobs.runtime, hook), "calls", [lambda _: None])
    run(x)
    assert len(runs) == 3
    monkeypatch.setattr(triton.knobs.runtime, hook, None)
    run(x)
    assert len(runs) == 3


UNCLEAR: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "a value on the host": (lambda x: x * float(x.sum()), (tensors(1)[0],)),
    "several results": (lambda x: x.max(0).values, (tensors(1)[0],)),
    "a list of tensors": (lambda x: torch.cat([x, x + 1]), (tensors(1)[0],)),
    "bits of another type": (lambda x: x.new_empty(4).view(torch.int32).zero_(), (tensors(1)[0],)),
    "a part of an operand": (lambda x: x[2:].sum(0), (tensors(1)[0],)),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_not_understood_is_never_replayed(name: str) -> None:
    run, given = UNCLEAR[name]
    again, runs = counted(run)
    for turn in range(4):
        moved = tuple(x + turn for x in given)
        assert torch.equal(again(*moved), run(*moved))
    assert len(runs) == 4


SHARED: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "one tensor twice": lambda x: (x, x),
    "empty": lambda x: (x, x[:0]),
}


@pytest.mark.parametrize("name", SHARED)
def test_operands_that_cannot_be_told_apart(name: str) -> None:
    run, runs = counted(lambda x, y: x.sum(0) + y.sum(0))
    x, _ = tensors(0)
    for _ in range(3):
        run(*SHARED[name](x))
    assert len(runs) == 3


def test_operands_in_one_piece_of_memory() -> None:
    run, runs = counted(lambda x, y: x.sum(0) - y.T.sum(1))
    for seed in range(4):
        whole, _ = tensors(seed)
        assert torch.equal(run(whole[:3], whole[3:]), whole[:3].sum(0) - whole[3:].T.sum(1))
    assert len(runs) == 2


def test_few_kinds_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CALLS", 2)
    run, _ = counted(lambda x: x.sum(0))
    for size in range(1, 6):
        run(torch.zeros(size))
        assert 1 <= len(replay._known) <= 2
