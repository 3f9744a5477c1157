"""Kernel contexts and tensors -> launches. Sources are rendered, loaded and compiled once a process.

Offsets are 64-bit from the program's place on; within a tile they are 32-bit, so operands whose tile spans 2^31
elements are copied first (`fitting`).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ssdc.codegen.triton.facts import Kernel
from ssdc.codegen.triton.text import source
from ssdc.runtime.loader import load

TILE = 256
"""The most rows or columns of a tile."""


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether kernels can run here: Triton is installed, and there is a CUDA device."""
    return importlib.util.find_spec("triton") is not None and torch.cuda.is_available()


def interpreted() -> bool:
    """Whether Triton's interpreter stands for a device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=4096)
def function(kernel: Kernel) -> Any:
    """The jitted function of a kernel."""
    return getattr(load(source(kernel)), kernel.template)


def launch(kernel: Kernel, programs: int, operands: Mapping[str, Tensor], heads: int, *rest: Tensor | int) -> None:
    """Run a kernel: its strided operands by name, then its other arguments in order. Nothing runs for no programs."""
    if programs == 0:
        return
    arguments: list[Tensor | int] = []
    for name in kernel.operands:
        x = operands[name]
        arguments.append(x)
        if name == "skip":
            arguments += x.stride()
        elif x.ndim == 1:
            arguments += (0, 0, x.stride(0))
        else:
            arguments += x.stride()
            if x.ndim == 4:
                arguments.append(heads // x.shape[2])
    start(function(kernel), programs, (*arguments, *rest), kernel.tiles.warps, kernel.tiles.stages)


_compiled: dict[tuple[Any, ...], Any] = {}
CALLS = 4096
"""Calls whose compiled kernels are remembered."""

Later = tuple[Any, int, Sequence[Any], int, int]
"""The arguments of `start`."""


Heard = Callable[[Any, int, Sequence[Any]], None]
"""What is told of launches: the compiled kernel (none in the interpreter), programs, arguments."""


class _Local(threading.local):
    later: list[Later] | None = None
    """Launches of this thread that wait for the end of a `together`."""
    heard: Heard | None = None
    """What is told of this thread's launches."""
    entered: bool = False
    """Whether this thread has a CUDA context for certain."""


_local = _Local()


def start(function: Any, programs: int, arguments: Sequence[Any], warps: int, stages: int = 1) -> None:
    """Launch a jitted function, on the device of its tensors.

    What Triton compiles for a call depends on the types and alignments of its tensors and on its integers, so a call
    that agrees in these with an earlier one starts that one's kernel: Triton's own look-up costs more than the rest of
    a launch. Descriptors of tiles differ to a function in their type alone: the size of a tile is in its text.
    """
    device = _device(arguments)
    if _elsewhere(device):
        with torch.cuda.device(device):
            start(function, programs, arguments, warps, stages)
        return
    traits = [
        x if type(x) is int else (x.dtype, x.data_ptr() % 16) if isinstance(x, Tensor) else x.base.dtype
        for x in arguments
    ]
    call = (function, warps, stages, device.index, *traits)
    known, later = _compiled.get(call), _local.later
    if later is not None and (later or (known is None and not interpreted())):
        later.append((function, programs, arguments, warps, stages))
        return
    if known is not None:
        known[(programs, 1, 1)](*arguments)
    else:
        known = function[(programs,)](*arguments, **_options(warps, stages))
        if known is not None:  # the interpreter makes nothing
            if len(_compiled) >= CALLS:
                _compiled.clear()
            _compiled[call] = known
    if _local.heard is not None:
        _local.heard(known, programs, arguments)


@contextmanager
def hearing(heard: Heard) -> Iterator[None]:
    """Within it, this thread's launches are told to a function, each once it is started."""
    _local.heard = heard
    try:
        yield
    finally:
        _local.heard = None


def heard() -> bool:
    """Whether this thread's launches are told to a function."""
    return _local.heard is not None


def hooked() -> bool:
    """Whether Triton tells something of launches, a profiler say, which would not hear of what is started past it."""
    hooks = _hooks()
    return hooks is not None and any(
        getattr(one, "calls", one) for one in (hooks.launch_enter_hook, hooks.launch_exit_hook)
    )


@lru_cache(maxsize=1)
def _hooks() -> Any:
    """Where Triton keeps them; none without Triton."""
    return importlib.import_module("triton").knobs.runtime if importlib.util.find_spec("triton") else None


class together:
    """Launches within it that need a kernel not compiled yet, and those after them, wait for its end: all of their
    kernels are compiled first, side by side. Nothing within it may use their results otherwise."""

    def __enter__(self) -> None:
        self.later: list[Later] | None = None
        if _local.later is None:  # one within another adds to that
            self.later = _local.later = []

    def __exit__(self, error: object, *_: object) -> None:
        if self.later is None:
            return
        _local.later = None
        if error is None:
            if len(self.later) > 1:
                _compile(self.later)
            for launched in self.later:
                start(*launched)


def _compile(wanted: Sequence[Later]) -> None:
    """Compile the kernels of launches, a thread each. What fails to compile is left for its launch to tell."""
    mode = importlib.import_module("triton").AsyncCompileMode
    with on(_device(wanted[0][2])), ThreadPoolExecutor(len(wanted)) as threads, mode(threads, ignore_errors=True):
        for function, programs, arguments, warps, stages in wanted:
            function.warmup(*arguments, grid=(programs,), **_options(warps, stages))


def _device(arguments: Sequence[Any]) -> torch.device:
    """That of a launch's tensors."""
    return next(x.device for x in arguments if isinstance(x, Tensor))


def _elsewhere(device: torch.device) -> bool:
    """Whether Triton, which launches on the current device, would launch on another."""
    return device.type == "cuda" and device.index != torch.cuda.current_device()


def on(device: torch.device) -> AbstractContextManager[object]:
    """Within it, launches are on a device."""
    return torch.cuda.device(device) if _elsewhere(device) else nullcontext()


def stream(device: torch.device) -> int:
    """The current stream of a device, as launches take it; what stands for a device has none."""
    return int(torch._C._cuda_getCurrentRawStream(device.index)) if device.type == "cuda" else 0


def entered(device: torch.device) -> None:
    """Give this thread a CUDA context: a new one has none before its first call of the CUDA runtime, and PyTorch's own,
    in which it differentiates, may have made none. Triton's launches see to it; what encodes descriptors does not."""
    if device.type == "cuda" and not _local.entered:
        torch.cuda.Event().record()  # type: ignore[no-untyped-call]
        _local.entered = True


def _options(warps: int, stages: int) -> dict[str, Any]:
    """What Triton compiles a kernel with: the same ahead of a launch and at it."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def fitting(x: Tensor) -> Tensor:
    """The tensor, copied where 32 bits do not hold the offsets within one tile of it."""
    return x if all(step < 2**31 // TILE for step in x.stride()) else x.contiguous()


@lru_cache(maxsize=64)
def processors(device: torch.device) -> int:
    """The multiprocessors of a device; what the interpreter stands for has one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
