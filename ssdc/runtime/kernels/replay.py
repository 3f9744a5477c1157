"""Passes done again: `replayed`. What a pass did for one call, it does for the next call like it without asking anew.

What a pass allocates, launches and asks of torch depends on types, sizes and strides, never on numbers, but finding it
out costs Python several times what doing it costs. So the second call of a kind is taken down: new tensors, launches,
operations of torch, in order. The third and all others do what is written, and nothing else.

In: passes, functions of tensors and other hashable arguments that give a tensor or a tuple of tensors. Not done here:
values. A pass that reads one on the host, or a step of which is not understood, is never replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssdc.codegen.triton import choose
from ssdc.runtime import tuned
from ssdc.runtime.kernels import launch
from ssdc.runtime.kernels.walks import units

CALLS, PLACES = 4096, 64
"""Kinds of calls that are remembered, and places of a tensor in memory."""

ALIGNED = 512
"""Bytes that torch's allocator of GPU memory aligns to: what kernels may count on."""

Pass = TypeVar("Pass", bound=Callable[..., Any])
Slots = list[Any]
"""The tensors of a call: its operands, then what its steps made, each until it is of no more use."""
Maker = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]
"""What makes room for a shape, strides and a type."""

ROOM = frozenset(
    (
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.new_empty.default,
    )
)
"""The operations that make room."""


def replayed(run: Pass) -> Pass:
    """The pass, replayed from its third call of a kind on."""

    @wraps(run)
    def call(*arguments: Any) -> Any:
        kind, given = _kind(run, arguments)
        if kind is None:
            return run(*arguments)
        if kind not in _known:
            if len(_known) >= CALLS:
                _known.clear()
            _known[kind] = None
            return run(*arguments)
        script = _known[kind]
        if script is None:
            found, _known[kind] = _taken_down(run, arguments, given)
            return found
        return script(given) if script.steps else run(*arguments)

    return call  # type: ignore[return-value]


def _kind(run: Callable[..., Any], arguments: Sequence[Any]) -> tuple[tuple[Any, ...] | None, list[Tensor]]:
    """What a pass may depend on, and its tensors; none where these share memory or have none, or where someone listens
    to launches or to what calls ask."""
    traits = [run, choose.forward, choose.backward, tuned.kept(), torch.is_autocast_enabled("cuda")]
    given, places = [], set()
    for x in arguments:
        if isinstance(x, Tensor):
            place = x.data_ptr()
            given.append(x)
            places.add(place)
            traits += (x.dtype, x.device, x.shape, x.stride(), place % 16)
        else:
            traits.append(x)
    if len(places) < len(given) or 0 in places or tuned.listens() or launch.heard() or launch.hooked():
        return None, given
    if given and given[0].dtype is torch.float32:
        traits.append(torch.backends.cuda.matmul.allow_tf32)
    return tuple(traits), given


# ---- scripts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """A tensor as the steps know it: one in a slot, or a view of it, `offset` elements further."""

    slot: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    whole: bool

    def __call__(self, slots: Slots) -> Tensor:
        x: Tensor = slots[self.slot]
        return x if self.whole else x.as_strided(self.shape, self.strides, x.storage_offset() + self.offset)


@dataclass(frozen=True)
class _Room:
    """Room for a new contiguous tensor."""

    slot: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    make: Maker

    def __call__(self, slots: Slots, stream: int) -> None:
        slots[self.slot] = self.make(self.shape, self.strides, self.dtype)


def _maker(device: torch.device) -> Maker:
    """What makes room on a device while it is the current one of its kind. It is what code that `torch.compile` writes
    calls for that, and takes the host half as long as `torch.empty`."""
    made: Maker = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}")
    return made


@dataclass(frozen=True)
class _Operation:
    """An operation of torch, which makes a new tensor or none."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    slot: int | None

    def __call__(self, slots: Slots, stream: int) -> None:
        arguments = [x(slots) if isinstance(x, _View) else x for x in self.arguments]
        keywords = {name: x(slots) if isinstance(x, _View) else x for name, x in self.keywords.items()}
        found = self.function(*arguments, **keywords)
        if self.slot is not None:
            slots[self.slot] = found


class _Place:
    """What lies at an address: as much of a tensor as descriptors need."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at

    def data_ptr(self) -> int:
        return self.at


class _Tiles(dict[int, Any]):
    """Maps of the tiles of tensors by where they lie; memory is handed out again, so that few are made."""

    def __init__(self, like: Any, laid: Any) -> None:
        super().__init__()
        self.like, self.laid, self.device = copy(like), laid, like.base.device
        self.like.base = None

    def __missing__(self, at: int) -> Any:
        if len(self) >= PLACES:
            self.clear()
        launch.entered(self.device)
        made = copy(self.like)
        made.base = _Place(at)
        self[at] = found = units().encoded(made, self.laid)[0]
        return found


@dataclass(frozen=True)
class _Launch:
    """A launch: the arguments that are the same every time, and places of those that are not."""

    run: Callable[..., None]
    """What starts the kernel; Triton's `kernel[programs]` asks first where, and whether anybody listens."""
    programs: tuple[int, int, int]
    kernel: tuple[Any, ...]
    """Which kernel it is, and that nobody listens."""
    arguments: tuple[Any, ...]
    pointers: tuple[tuple[int, int, int], ...]
    """Place, slot, bytes from the start of the tensor in it."""
    tiles: tuple[tuple[int, int, int, _Tiles], ...]
    """The same of tensors that are read or written in tiles, and their maps."""

    def moved(self, starts: Mapping[int, int], to: int) -> _Launch:
        """The same with tensors that now start so many bytes into another one."""
        pointers = [
            (place, to, starts[slot] + offset) if slot in starts else (place, slot, offset)
            for place, slot, offset in self.pointers
        ]
        return replace(self, pointers=tuple(pointers))

    def __call__(self, slots: Slots, stream: int) -> None:
        arguments = list(self.arguments)
        for place, slot, offset in self.pointers:
            arguments[place] = slots[slot].data_ptr() + offset
        for place, slot, offset, tiles in self.tiles:
            arguments[place] = tiles[slots[slot].data_ptr() + offset]
        self.run(*self.programs, stream, *self.kernel, *arguments)


@dataclass(frozen=True)
class _Leave:
    """The last step is done that needs some tensors."""

    slots: tuple[int, ...]

    def __call__(self, slots: Slots, stream: int) -> None:
        for slot in self.slots:
            slots[slot] = None


Step = _Room | _Operation | _Launch | _Leave


@dataclass(frozen=True)
class _Script:
    """The steps of a pass, on that many tensors, and what it gives. Without steps, it is not to be replayed."""

    steps: tuple[Step, ...] = ()
    count: int = 0
    results: tuple[_View, ...] = ()
    several: bool = False

    def __call__(self, given: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        slots: Slots = [*given, *[None] * (self.count - len(given))]
        device = given[0].device
        with launch.on(device):
            stream = launch.stream(device)
            for step in self.steps:
                step(slots, stream)
        found = tuple(x(slots) for x in self.results)
        return found if self.several else found[0]


_known: dict[tuple[Any, ...], _Script | None] = {}
"""By kind of call; none after the first."""


# ---- taking down -----------------------------------------------------------------------------------------------------


def _taken_down(run: Callable[..., Any], arguments: Sequence[Any], given: Sequence[Tensor]) -> tuple[Any, _Script]:
    """What a pass gives, and its script."""
    notes = _Notes(given)
    with launch.hearing(notes.launched), notes:
        found = run(*arguments)
    results = found if isinstance(found, tuple) else (found,)
    views = [notes.view(x) for x in results]
    if not notes.clear:
        return found, _Script()
    wanted = {view.slot for view in views if view is not None}
    script = _Script(notes.script(wanted), len(notes.tensors), tuple(x for x in views if x), isinstance(found, tuple))
    return found, script


class _Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The steps of a pass, in order, each with the slots that it reads or fills."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors = list(given)  # kept alive, so that no two share a place in memory
        self.operands = len(given)
        self.steps: list[tuple[Step, set[int]]] = []
        self.clear = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if isinstance(found, Tensor) and self._slot(found) is None:
            self._made(func, args, kwargs, found)
        elif func._schema.is_mutable:
            self._did(func, args, kwargs, None)
        else:
            views = found if isinstance(found, (list, tuple)) else (found,)
            self.clear &= all(isinstance(x, Tensor) and self._slot(x) is not None for x in views)
        return found

    def launched(self, kernel: Any, programs: int, arguments: Sequence[Any]) -> None:
        """A launch of a compiled kernel; the interpreter has none."""
        if kernel is None:
            self.clear = False
            return
        pointers, used = [], set()
        kept: list[int] = []
        tiles: list[tuple[int, int, int, _Tiles]] = []
        for x in arguments:
            place = len(kept)
            kept.append(x if type(x) is int else 0)
            if type(x) is int or (isinstance(x, Tensor) and x.numel() == 0):
                continue
            view = self.view(x if isinstance(x, Tensor) else x.base)
            if view is None:
                return
            used.add(view.slot)
            lies = (place, view.slot, view.offset * self.tensors[view.slot].element_size())
            if isinstance(x, Tensor):
                pointers.append(lies)
            else:
                laid = kernel.metadata.tensordesc_meta[len(tiles)]
                kept += units().encoded(x, laid)[1:]
                tiles.append((*lies, _Tiles(x, laid)))
        run = units().past_encoding(kernel.run) if tiles else kernel.run
        which = (kernel.function, kernel.packed_metadata, None, None, None)
        started = _Launch(run, (programs, 1, 1), which, tuple(kept), tuple(pointers), tuple(tiles))
        self.steps.append((started, used))

    def view(self, x: Tensor) -> _View | None:
        """A tensor as steps know it."""
        slot = self._slot(x)
        if slot is None or x.dtype != self.tensors[slot].dtype:
            self.clear = False
            return None
        base = self.tensors[slot]
        offset = int(x.storage_offset() - base.storage_offset())
        whole = x.shape == base.shape and x.stride() == base.stride() and offset == 0
        return _View(slot, tuple(x.shape), x.stride(), offset, whole)

    def script(self, wanted: set[int]) -> tuple[Step, ...]:
        """The steps, but for room that nothing uses, and with one room for all that launches alone use; and where
        tensors that are not `wanted` go."""
        rooms = {step.slot: step for step, _ in self.steps if isinstance(step, _Room)}
        launched = {slot for step, used in self.steps if isinstance(step, _Launch) for slot in used}
        named = {slot for step, used in self.steps if not isinstance(step, (_Launch, _Room)) for slot in used}
        named |= {slot for step, _ in self.steps if isinstance(step, _Launch) for _, slot, _, _ in step.tiles}
        size, starts = 0, {}
        for slot in sorted(rooms.keys() & launched - named - wanted):
            starts[slot] = size
            size += -(-self.tensors[slot].nbytes // ALIGNED) * ALIGNED
        common = next(iter(starts), -1)  # the first of them has the room of all
        steps: list[tuple[Step, set[int]]] = []
        for step, used in self.steps:
            if isinstance(step, _Launch):
                steps.append((step.moved(starts, common), {common if slot in starts else slot for slot in used}))
            elif not isinstance(step, _Room) or step.slot in named | wanted:
                steps.append((step, used))
            elif step.slot == common:
                steps.append((replace(step, shape=(size,), strides=(1,), dtype=torch.uint8), used))
        return tuple(self._left(steps, wanted))

    def _left(self, steps: Sequence[tuple[Step, set[int]]], wanted: set[int]) -> Iterator[Step]:
        """The steps, and after the last that needs a tensor that is not `wanted`, that it goes."""
        last = {slot: place for place, (_, used) in enumerate(steps) for slot in used}
        for place, (step, used) in enumerate(steps):
            yield step
            over = tuple(x for x in sorted(used - wanted) if last[x] == place and x >= self.operands)
            if over:
                yield _Leave(over)

    def _slot(self, x: Tensor) -> int | None:
        """The tensor whose memory this one has; of an operand, from the same place on."""
        storage = x.untyped_storage()._cdata
        for slot, base in enumerate(self.tensors):
            if base.untyped_storage()._cdata == storage and (slot >= self.operands or base.data_ptr() == x.data_ptr()):
                return slot
        return None

    def _made(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], found: Tensor) -> None:
        slot = len(self.tensors)
        if any(base.untyped_storage()._cdata == found.untyped_storage()._cdata for base in self.tensors):
            self.clear = False  # a part of an operand, from another place on
        if func in ROOM and found.is_contiguous():
            room = _Room(slot, tuple(found.shape), found.stride(), found.dtype, _maker(found.device))
            self.steps.append((room, {slot}))
        else:
            self._did(func, args, kwargs, slot)
        self.tensors.append(found)

    def _did(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], slot: int | None) -> None:
        used = set() if slot is None else {slot}

        def told(x: Any) -> Any:
            if isinstance(x, (list, tuple)) and any(isinstance(one, Tensor) for one in x):
                self.clear = False
            view = self.view(x) if isinstance(x, Tensor) else None
            if view is not None:
                used.add(view.slot)
            return view if isinstance(x, Tensor) else x

        arguments, keywords = tuple(map(told, args)), {name: told(x) for name, x in kwargs.items()}
        self.steps.append((_Operation(func, arguments, keywords, slot), used))
