"""Runs generated Gluon text on the CPU, program by program, on tensors: Triton's interpreter does not know Gluon.

Values are exact in float32 where the device rounds to it. What the device does asynchronously is checked: a tile that
the copy engine fills holds NaN until a `wait` for its barrier; a `wait` that nothing ends is an error, as is writing to
shared memory that the copy engine or the matrix units still read, letting them read what was written without a `fence`
and a `barrier`, using a product before `mma_wait`, and an address outside of a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import FunctionType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ssdc.codegen.triton.hopper import Gates, Walk, source
from ssdc.runtime.kernels import walks

Range = tuple[int, int, int]
"""A part of a memory: its address, first and last element."""


class Fault(AssertionError):
    """What would be undefined on the device."""


# ---- memory ----------------------------------------------------------------------------------------------------------


class Pointer:
    """A tensor's memory from its first element on, and offsets into it."""

    def __init__(self, memory: Tensor, offset: Tensor | int = 0) -> None:
        self.memory, self.offset = memory, offset

    @classmethod
    def to(cls, x: Tensor) -> Pointer:
        """To the first element of a tensor."""
        size = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
        memory = torch.empty(0, dtype=x.dtype)
        return cls(memory.set_(x.untyped_storage(), x.storage_offset(), (size,), (1,)) if x.numel() else memory)

    def __add__(self, offset: Tensor | int) -> Pointer:
        return Pointer(self.memory, self.offset + offset)

    def places(self, mask: Tensor | bool | None) -> tuple[Tensor, Tensor]:
        """Where it points, and which of it counts."""
        at = torch.as_tensor(self.offset)
        shape = torch.broadcast_shapes(at.shape, () if mask is None else torch.as_tensor(mask).shape)
        counts = torch.ones(shape, dtype=torch.bool) if mask is None else torch.as_tensor(mask).expand(shape)
        at = at.expand(shape)
        if bool((counts & ((at < 0) | (at >= self.memory.numel()))).any()):
            raise Fault("an address outside of its tensor")
        return at, counts


@dataclass
class Device:
    """What is on its way within one program."""

    program: int = 0
    products: list[tuple[Product, list[Range]]] = field(default_factory=list)
    stores: list[Range] = field(default_factory=list)
    unfenced: list[Range] = field(default_factory=list)
    fenced: list[Range] = field(default_factory=list)


_device = Device()


def _range(x: Tensor) -> Range:
    """The memory of a contiguous tensor, or of one whose axes are permuted."""
    return x.untyped_storage().data_ptr(), x.storage_offset(), x.storage_offset() + x.numel() - 1


def _meets(one: Range, others: Sequence[Range]) -> bool:
    return any(one[0] == other[0] and one[1] <= other[2] and other[1] <= one[2] for other in others)


class Shared:
    """Shared memory, or a part of it."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def index(self, place: int | Tensor) -> Shared:
        return Shared(self.x[int(place)])

    def reshape(self, shape: Sequence[int]) -> Shared:
        return Shared(self.x.view(*shape))

    def permute(self, order: Sequence[int]) -> Shared:
        return Shared(self.x.permute(*order))

    def load(self, _: object) -> Tensor:
        """The values, as float32: products with float32 are float32 on the device, whatever the number of axes."""
        return self.x.float()

    def store(self, value: Tensor) -> None:
        if value.dtype != self.x.dtype or value.shape != self.x.shape:
            raise Fault(f"{value.dtype} {list(value.shape)} into {self.x.dtype} {list(self.x.shape)}")
        self.written()
        self.x.copy_(value)
        _device.unfenced.append(_range(self.x))

    def written(self) -> None:
        """Raises Fault where something still reads it."""
        reading = [*_device.stores, *(part for _, parts in _device.products for part in parts)]
        if _meets(_range(self.x), reading):
            raise Fault("shared memory is written while the copy engine or the matrix units read it")

    def read(self) -> Range:
        """Its memory, for what reads it asynchronously. Raises Fault where that does not see what was written."""
        part = _range(self.x)
        if _meets(part, [*_device.unfenced, *_device.fenced]):
            raise Fault("shared memory is read asynchronously without a fence and a barrier after it was written")
        return part


# ---- copy engine -----------------------------------------------------------------------------------------------------


class Barrier:
    """Counts phases: one ends when as many bytes as were expected are there."""

    def __init__(self) -> None:
        self.phases, self.expected, self.tiles = 0, 0, list[tuple[Shared, Tensor]]()

    def complete(self) -> None:
        """End the phase if all is there that it expects."""
        if self.expected and sum(x.numel() * x.element_size() for _, x in self.tiles) == self.expected:
            for tile, x in self.tiles:
                tile.x.copy_(x)
            self.phases, self.expected, self.tiles = self.phases + 1, 0, []


class Barriers:
    """Barriers in shared memory."""

    def __init__(self, count: int) -> None:
        self.all = [Barrier() for _ in range(count)]

    def index(self, place: int | Tensor) -> Barrier:
        return self.all[int(place)]


class Described:
    """What a launch describes tiles by (`ssdc.runtime.kernels.walks.described` fills it)."""

    base: Tensor
    block_shape: list[int]
    layout = None

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def bounds(self, at: Sequence[int | Tensor]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where a tile at these coordinates meets the tensor: there, and in the tile."""
        there, here = [], []
        for first, block, size in zip(map(int, at), self.block_shape, self.base.shape, strict=True):
            low = min(max(first, 0), size)
            high = max(min(first + block, size), low)
            there.append(slice(low, high))
            here.append(slice(low - first, high - first))
        return tuple(there), tuple(here)


def expect(barrier: Barrier, count: int, wanted: bool | Tensor = True) -> None:
    if wanted:
        if barrier.expected:
            raise Fault("a barrier expects a second phase before its first one was waited for")
        barrier.expected = int(count)


def load_tile(
    operand: Described, at: Sequence[int | Tensor], barrier: Barrier, tile: Shared, pred: bool | Tensor = True
) -> None:
    if pred:
        tile.written()
        if list(tile.x.shape) != operand.block_shape:
            raise Fault(f"a tile {operand.block_shape} into {list(tile.x.shape)}")
        x = torch.zeros(tile.x.shape, dtype=tile.x.dtype)
        there, here = operand.bounds(at)
        x[here] = operand.base[there]
        tile.x.fill_(torch.nan)
        barrier.tiles.append((tile, x))


def wait(barrier: Barrier, parity: int) -> None:
    barrier.complete()
    if barrier.phases % 2 == parity:
        raise Fault("a wait that nothing ends")


def store_tile(output: Described, at: Sequence[int | Tensor], tile: Shared) -> None:
    _device.stores.append(tile.read())
    there, here = output.bounds(at)
    output.base[there] = tile.x[here]


def store_wait(count: int) -> None:
    if count:
        raise NotImplementedError
    _device.stores.clear()


def fence() -> None:
    _device.fenced += _device.unfenced
    _device.unfenced.clear()


def barrier() -> None:
    _device.fenced.clear()


# ---- matrix units ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Product:
    """A product that may not be there yet."""

    value: Tensor


def mma(left: Shared | Tensor, right: Shared, added: Tensor, use_acc: bool = True, is_async: bool = False) -> Any:
    parts = [x.read() for x in (left, right) if isinstance(x, Shared)]
    a, b = (x.x if isinstance(x, Shared) else x for x in (left, right))
    if a.dtype != b.dtype or added.shape != (a.shape[0], b.shape[1]):
        raise Fault(f"{a.dtype} {list(a.shape)} by {b.dtype} {list(b.shape)} into {list(added.shape)}")
    made = Product(a.float() @ b.float() + (added if use_acc else 0.0))
    _device.products.append((made, parts))
    return made if is_async else mma_wait(0, [made])


def mma_wait(count: int, deps: Sequence[Product]) -> Any:
    done = len(_device.products) - count
    del _device.products[: max(0, done)]
    if any(made is one for made in deps for one, _ in _device.products):
        raise Fault("a product is used that was not waited for")
    values = tuple(one.value for one in deps)
    return values if len(values) > 1 else values[0]


# ---- the language ----------------------------------------------------------------------------------------------------


class Layout:
    """Who holds what: of no consequence here."""

    def __init__(self, *_: object) -> None: ...


class gl:
    """Gluon's language, as far as the templates use it."""

    NVMMADistributedLayout = DotOperandLayout = SliceLayout = BlockedLayout = Layout
    SwizzledSharedLayout = NVMMASharedLayout = Layout
    float32, bfloat16, float16, int64 = torch.float32, torch.bfloat16, torch.float16, torch.int64
    static_range = range

    @staticmethod
    def program_id(_: int) -> Tensor:
        return torch.tensor(_device.program)

    @staticmethod
    def allocate_shared_memory(dtype: torch.dtype, shape: Sequence[int], _: object) -> Shared:
        return Shared(torch.full(tuple(shape), torch.nan, dtype=dtype))

    @staticmethod
    def arange(first: int, last: int, _: object) -> Tensor:
        return torch.arange(first, last)

    @staticmethod
    def zeros(shape: Sequence[int], dtype: torch.dtype, _: object) -> Tensor:
        return torch.zeros(*shape, dtype=dtype)

    @staticmethod
    def load(pointer: Pointer, mask: Tensor | None = None, other: float = 0.0) -> Tensor:
        at, counts = pointer.places(mask)
        return torch.where(counts, pointer.memory[torch.where(counts, at, 0)], torch.tensor(other).to(pointer.memory))

    @staticmethod
    def store(pointer: Pointer, value: Tensor | float, mask: Tensor | None = None) -> None:
        at, counts = pointer.places(mask)
        value = torch.as_tensor(value).expand(at.shape)
        pointer.memory[at[counts]] = value[counts].to(pointer.memory.dtype)

    @staticmethod
    def associative_scan(x: Tensor, axis: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        rows = list(x.unbind(axis))
        for place in range(1, len(rows)):
            rows[place] = combine(rows[place - 1], rows[place])
        return torch.stack(rows, axis)

    @staticmethod
    def convert_layout(x: Tensor, _: object) -> Tensor:
        return x

    @staticmethod
    def minimum(one: Any, other: Any) -> Tensor:
        return torch.minimum(torch.as_tensor(one), torch.as_tensor(other))

    where, exp2, sum, maximum, exp, abs = torch.where, torch.exp2, torch.sum, torch.maximum, torch.exp, torch.abs


NAMES: Mapping[str, object] = {
    "gl": gl, "barrier": barrier, "barriers": Barriers, "expect": expect, "fence": fence, "load_tile": load_tile,
    "mma": mma, "mma_wait": mma_wait, "store_tile": store_tile, "store_wait": store_wait, "wait": wait,
}  # fmt: skip


def start(function: Callable[..., None], programs: int, arguments: Sequence[Any], *_: int) -> None:
    """What `ssdc.runtime.kernels.launch.start` does, for a function of Gluon. Raises Fault."""
    global _device
    given = [Pointer.to(x) if isinstance(x, Tensor) else x for x in arguments]
    for program in range(programs):
        _device = Device(program)
        function(*given)
        if _device.products or _device.stores:
            raise Fault("a program ends before what it asked for is there")


@contextmanager
def emulated(edit: Callable[[str], str] = lambda text: text) -> Iterator[None]:
    """Within it, walks for Hopper run here, after an `edit` of their text; other kernels where they are told to."""
    real, launched = walks.function, walks.start

    @lru_cache(maxsize=256)
    def function(walk: Walk | Gates) -> Any:
        if isinstance(walk, Gates):
            return real(walk)
        text = re.sub(r"^(from|import) .*$", "", source(walk), flags=re.MULTILINE).replace("@gluon.jit\n", "")
        scope = dict(NAMES)
        exec(compile(edit(text), f"<{walk.role}>", "exec"), scope)
        return scope["hopper"]

    def run(function: Any, *rest: Any) -> None:
        (start if isinstance(function, FunctionType) else launched)(function, *rest)

    with (
        patch.object(walks, "function", function),
        patch.object(walks, "start", run),
        patch.object(walks, "capable", lambda _: True),
        patch.object(walks, "units", lambda: SimpleNamespace(TensorDescriptor=Described, TILE=None)),
    ):
        yield
