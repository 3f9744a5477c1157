"""Every Triton kernel at small odd sizes: the operators' forms on a few cases, and which templates were launched.

As a program (`python -m tests.support.launches`), runs all of it once on the GPU, for compute-sanitizer; `--plant`
makes one launch write past the end of its output, which a sanitizer is to find.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from ssdc.codegen.triton import choose, hopper
from ssdc.codegen.triton.facts import Facts, Kernel
from ssdc.codegen.triton.maps import decoded
from ssdc.runtime.kernels import calls, launch, replay, walks
from ssdc.runtime.kernels.masked import masked
from ssdc.runtime.kernels.streamed import streamed
from tests.support import masked as chunked
from tests.support import streamed as pairs
from tests.support.device import DEVICE

FORMS = (("recurrent", 1), ("walk", 1), ("segments", 2), ("parallel", 1), ("parallel", 2), ("hopper", 1), ("hopper", 2))
CHUNKED = (
    chunked.Case(length=131, states=24, columns=80, groups=(1, 1, 0), scale=True, skip="column"),
    chunked.Case(length=67, states=16, columns=17, gate="none", initial=False),
    chunked.Case(length=65, states=80, columns=24, gate="constant", groups=(2, 2, 1), skip="head"),
    chunked.Case(length=70, states=33, columns=40, strict=True, own="varying", maps="*0.3,tanh;silu;"),
    chunked.Case(length=65, states=24, columns=20, maps="elu_one;elu_one;;+1e-06", gate="none"),
    chunked.Case(length=131, states=72, columns=40, strict=True, own="varying"),
)
PAIRS = (
    pairs.Case(length=131, states=24, columns=80, groups=(1, 1, 0), scale=True),
    pairs.Case(length=67, states=16, columns=17, gate="none", width=20, past=19),
    pairs.Case(length=65, states=80, columns=24, strict=True, own="varying"),
)
Run = Callable[[], list[Tensor]]
Place = Callable[[Tensor], Tensor]


def reader(case: chunked.Case | pairs.Case, own: Tensor | None) -> Tensor | str | None:
    """What a strict reader applies, as the operators take it."""
    return "gate" if case.own == "gate" else own


def both_ways(case: chunked.Case, dtype: torch.dtype, form: str, segments: int, place: Place) -> list[Tensor]:
    """Outputs, last state and gradients of one case in one form; `place` brings each operand to the device."""
    given = {name: None if x is None else place(x) for name, x in _operands(chunked, case, dtype)}
    leaves = [x.requires_grad_() for x in given.values() if x is not None]
    given["own"] = reader(case, given["own"])  # type: ignore[assignment]
    forward = partial(choose.forward, form=form, segments=segments)
    backward = partial(choose.backward, segments=segments, form="hopper" if form == "hopper" else "parallel")
    with patch.object(choose, "forward", forward), patch.object(choose, "backward", backward):
        y, final = masked(**given, heads=case.heads, strict=case.strict, maps=case.maps)  # type: ignore[arg-type]
        grads = place(torch.ones_like(y, device="cpu")), place(torch.ones_like(final, device="cpu"))
        return [y, final, *torch.autograd.grad((y, final), leaves, grads)]


def walked(case: chunked.Case, dtype: torch.dtype) -> bool:
    """Whether the walk for Hopper does a case: it is such a GPU, and the copy engine reads the operands."""
    given = dict(_operands(chunked, case, dtype))
    tiles = [given[name].to(DEVICE) for name in ("query", "key", "value")]
    facts = Facts(calls.NAMES[dtype], case.states, case.columns, maps=decoded(case.maps)[0], norm=case.norm)
    return hopper.fits(facts) and walks.readable(*tiles)


def one_position(case: chunked.Case, dtype: torch.dtype, place: Place) -> list[Tensor]:
    """Output and state after the first position of a case."""
    given: dict[str, Tensor | str | None] = {}
    for name, x in _operands(chunked, case, dtype):
        timed = x is not None and name not in ("skip", "initial") and x.ndim > 1
        given[name] = None if x is None else place(x[:, :1] if timed else x)
    given["own"] = reader(case, given["own"])  # type: ignore[arg-type]
    given["initial"] = place(torch.ones(case.batch, case.heads, case.states, case.pitch))
    return list(masked(**given, heads=case.heads, strict=case.strict, maps=case.maps))  # type: ignore[arg-type]


def pair_by_pair(case: pairs.Case, dtype: torch.dtype, place: Place) -> list[Tensor]:
    """Output and gradients of one streamed case."""
    given = {name: None if x is None else place(x) for name, x in _operands(pairs, case, dtype)}
    leaves = [x.requires_grad_() for x in given.values() if x is not None]
    given["own"] = reader(case, given["own"])  # type: ignore[assignment]
    y = streamed(**given, heads=case.heads, strict=case.strict, width=case.width)  # type: ignore[arg-type]
    return [y, *torch.autograd.grad(y, leaves, place(torch.ones_like(y, device="cpu")))]


def _operands(support, case, dtype):  # type: ignore[no-untyped-def]
    return zip(support.NAMES, support.operands(case, dtype), strict=True)


def runs(dtype: torch.dtype, place: Place) -> Iterator[tuple[str, Run]]:
    """Everything there is to run, by name."""
    for case in CHUNKED:
        for form, segments in FORMS:
            if form == "hopper" and not walked(case, dtype):
                continue
            yield f"{case} {form} {segments}", partial(both_ways, case, dtype, form, segments, place)
        yield f"{case} step", partial(one_position, case, dtype, place)
    for other in PAIRS:
        yield f"{other} streamed", partial(pair_by_pair, other, dtype, place)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The templates of the launches within, in order."""
    found: list[str] = []
    plain, walk = launch.function, walks.function

    def function(kernel: Kernel) -> object:
        found.append(kernel.template)
        return plain(kernel)

    def walking(kernel: hopper.Walk | hopper.Gates) -> object:
        found.append(kernel.role if isinstance(kernel, hopper.Walk) else "gates")
        return walk(kernel)

    anew = patch.object(replay, "_known", {})  # a replayed pass asks for no function
    with patch.object(launch, "function", function), patch.object(walks, "function", walking), anew:
        yield found


def main(arguments: list[str]) -> None:
    """Run everything once, and print what ran."""
    with recorded() as found:
        for dtype in (torch.bfloat16, torch.float32):
            for _, run in runs(dtype, lambda x: x.to(DEVICE)):
                run()
        if "--plant" in arguments:
            plant()
    torch.cuda.synchronize()
    print(f"{len(found)} launches of {', '.join(sorted(set(found)))}")


def plant() -> None:
    """A step whose output tensor is smaller than what the kernel writes."""
    new_empty = Tensor.new_empty

    def short(self: Tensor, size: tuple[int, ...], **keywords: torch.dtype) -> Tensor:
        made = new_empty(self, (1,) if size == (4, 1, 64, 64) else size, **keywords)
        return made.expand(size)

    with patch.object(Tensor, "new_empty", short):
        y, _ = one_position(chunked.Case(batch=4, heads=64, columns=64), torch.float32, lambda x: x.to(DEVICE))
    assert y.untyped_storage().nbytes() == y.element_size()


if __name__ == "__main__":
    main(sys.argv[1:])
