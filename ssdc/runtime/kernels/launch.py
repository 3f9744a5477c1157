"""Kernel contexts and tensors -> launches. Sources are rendered, loaded and compiled once a process.

Offsets are 64-bit from the program's place on; within a tile they are 32-bit, so operands whose tile spans 2^31
elements are copied first (`fitting`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
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


def start(function: Any, programs: int, arguments: Sequence[Any], warps: int, stages: int = 1) -> None:
    """Launch a jitted function, on the device of its tensors.

    What Triton compiles for a call depends on the types and alignments of its tensors and on its integers, so a call
    that agrees in these with an earlier one starts that one's kernel: Triton's own look-up costs more than the rest of
    a launch. Descriptors of tiles differ to a function in their type alone: the size of a tile is in its text.
    """
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # Triton launches on the current one
            start(function, programs, arguments, warps, stages)
        return
    traits = [
        x if type(x) is int else (x.dtype, x.data_ptr() % 16) if isinstance(x, Tensor) else x.base.dtype
        for x in arguments
    ]
    call = (function, warps, stages, device.index, *traits)
    known = _compiled.get(call)
    if known is not None:
        known[(programs, 1, 1)](*arguments)
        return
    made = function[(programs,)](*arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=True)
    if made is not None:  # the interpreter makes nothing
        if len(_compiled) >= CALLS:
            _compiled.clear()
        _compiled[call] = made


def fitting(x: Tensor) -> Tensor:
    """The tensor, copied where 32 bits do not hold the offsets within one tile of it."""
    return x if all(step < 2**31 // TILE for step in x.stride()) else x.contiguous()


@lru_cache(maxsize=64)
def processors(device: torch.device) -> int:
    """The multiprocessors of a device; what the interpreter stands for has one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
