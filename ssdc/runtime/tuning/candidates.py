"""Neighbours of a choice of kernels: what `ssdc tune` tries, in rounds.

In: a request and the best choice so far. Out: choices that differ in one respect. Whether they compile, fit, are right
or fast is for trials to find out: only what the kernels cannot express is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, get_args

from ssdc.codegen.triton import configuration, pricing
from ssdc.codegen.triton.configuration import BackwardForm, Form, Forward
from ssdc.codegen.triton.facts import Facts, Kernel, Tiles
from ssdc.runtime.tuned import Choice, Pass, Request

CROWD = 32
"""Programs a multiprocessor up to which time is cut."""
LONGEST = 64
"""Positions of a call that are tried one by one."""
OWN_CHUNK = ("recurrent", "hopper")
"""Forms whose chunk is fixed."""
WARPS, STAGES = (4, 8), (1, 2, 3)

Round = Callable[[Request, Choice], Iterator[Choice]]


def described(choice: Choice) -> str:
    """A choice in a line: its form, segments, and the tiles of the kernels that differ most."""
    shown: tuple[Kernel, ...]
    if choice.form == "hopper":
        shown = ()
    elif isinstance(choice, Forward):
        cut = choice.segments > 1 or choice.form == "parallel"
        shown = (choice.states, choice.outputs) if cut else (choice.outputs,)
    else:
        shown = (choice.states, choice.gradients, choice.values)
    parts = [f"{choice.form}, {choice.segments} segment{'s' * (choice.segments > 1)}", *map(_kernel, shown)]
    return "; ".join(parts)


def _kernel(kernel: Kernel) -> str:
    tiles = kernel.tiles
    text = f"{kernel.template} {tiles.chunk}x{tiles.inner}x{tiles.outer} warps {tiles.warps} stages {tiles.stages}"
    return text + (f" share {kernel.share}" if kernel.share > 1 else "")


# ---- the rounds ------------------------------------------------------------------------------------------------------


def forms(request: Request, best: Choice) -> Iterator[Choice]:
    """Forward: other forms, segments and chunks, with the rule's tiles, the least different from the best first."""
    facts, call = request.facts, request.call
    found: list[Choice] = []
    for form, chunk, segments in product(get_args(Form), _chunks(facts), _segments(request)):
        if (form in ("walk", "recurrent")) > (segments == 1) or (form == "segments") > (segments > 1):
            continue
        if form == "recurrent" and call.length > LONGEST:
            continue
        if _can(form, chunk, request):
            choice = configuration.forward(facts, call, form=form, segments=segments)
            found.append(choice if form in OWN_CHUNK else _chunked(choice, chunk))
    return iter(sorted(found, key=lambda choice: _far(choice, best)))


def cuts(request: Request, best: Choice) -> Iterator[Choice]:
    """Backward: other forms, segments and chunks, with the rule's tiles, the least different from the best first."""
    found: list[Choice] = []
    for form, chunk, segments in product(get_args(BackwardForm), _chunks(request.facts), _segments(request)):
        if _can(form, chunk, request):
            choice = configuration.backward(request.facts, request.call, request.gates, segments=segments, form=form)
            found.append(choice if form in OWN_CHUNK else _chunked(choice, chunk))
    return iter(sorted(found, key=lambda choice: _far(choice, best)))


def _can(form: str, chunk: int, request: Request) -> bool:
    """Whether there are kernels of a form for a request; those with a chunk of their own count once."""
    if form in OWN_CHUNK and chunk != _chunks(request.facts)[0]:
        return False
    return form != "hopper" or pricing.engine(request.facts, request.call)


def tilings(name: str) -> Round:
    """Other tiles of one kernel of a choice; of the states' kernels, all alike, and only where they run."""

    def found(request: Request, best: Choice) -> Iterator[Choice]:
        walks = isinstance(best, Forward) and best.form != "parallel" and best.segments == 1
        if best.form == "hopper" or (name == "states" and walks):
            return
        old: Kernel = getattr(best, name)
        for kernel in _tilings(old, request):
            if name == "states":
                yield _changed(best, partial(_retiled, kernel.tiles), "states")
            else:
                changed: dict[str, Any] = {name: kernel}
                yield replace(best, **changed)

    return found


ROUNDS: Mapping[Pass, tuple[Round, ...]] = {
    "forward": (forms, tilings("outputs"), tilings("states")),
    "backward": (cuts, tilings("gradients"), tilings("values"), tilings("states")),
}
"""In order; each starts from the best of those before it."""


def _chunks(facts: Facts) -> tuple[int, ...]:
    usual = configuration.chunk_of(facts)
    return usual, usual // 2, usual * 2


def _segments(request: Request) -> tuple[int, ...]:
    """Pieces of time that are not shorter than a chunk, and do not fill the machine many times over."""
    call, chunk = request.call, configuration.chunk_of(request.facts)
    most = min(call.length // chunk, CROWD * call.processors // max(1, call.lanes))
    return tuple(2**power for power in range(7) if power == 0 or 2**power <= most)


def _far(choice: Choice, best: Choice) -> tuple[bool, float, bool]:
    """How far a choice is from the best: chunk, then segments, then form."""
    ratio = abs(math.log2(choice.segments / best.segments))
    return choice.states.tiles.chunk != best.states.tiles.chunk, ratio, choice.form != best.form


# ---- tiles -----------------------------------------------------------------------------------------------------------


def _chunked(choice: Choice, chunk: int) -> Choice:
    """All kernels with another chunk."""
    return _changed(choice, lambda kernel: replace(kernel, tiles=replace(kernel.tiles, chunk=chunk)))


def _retiled(tiles: Tiles, kernel: Kernel) -> Kernel:
    return replace(kernel, tiles=tiles)


def _changed(choice: Choice, change: Callable[[Kernel], Kernel], template: str | None = None) -> Choice:
    """A choice with its kernels changed, or those of one template."""
    changed: dict[str, Any] = {
        name: change(kernel)
        for name, kernel in vars(choice).items()
        if isinstance(kernel, Kernel) and template in (None, kernel.template)
    }
    return replace(choice, **changed)


def _tilings(kernel: Kernel, request: Request) -> Iterator[Kernel]:
    """A kernel with other tiles, warps, stages and shared heads."""
    facts, shared = request.facts, request.call.shared
    inner, outer = configuration.head(facts)
    whole = kernel.template in ("walk", "recurrent")
    inners = (kernel.tiles.inner,) if whole else _sizes(facts, inner)
    shares = [1]
    if kernel.template in ("outputs", "values"):
        shares += [share for share in (2, 4, 8) if shared % share == 0]
    found = [
        replace(kernel, tiles=Tiles(kernel.tiles.chunk, high, wide, warps, stages), share=share)
        for high, wide, warps, stages, share in product(inners, _sizes(facts, outer), WARPS, STAGES, shares)
        if share == 1 or high >= facts.states  # heads share whole scores alone
    ]
    # What differs in least comes first.
    yield from sorted(found, key=lambda other: _differences(kernel, other))


def _differences(one: Kernel, other: Kernel) -> int:
    mine, its = (*vars(one.tiles).values(), one.share), (*vars(other.tiles).values(), other.share)
    return sum(a != b for a, b in zip(mine, its, strict=True))


def _sizes(facts: Facts, size: int) -> tuple[int, ...]:
    """Tiles of a padded size, none narrower than the widest swizzle: see `configuration.head`."""
    least = 16 if facts.dtype == "float32" else 64
    return tuple(tile for tile in (16, 32, 64, 128, 256) if min(least, size) <= tile <= size)
