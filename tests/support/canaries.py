"""Memory around tensors that nobody may touch: each new tensor lies between two margins of a pattern that reads as NaN.

Reading a margin gives NaN, which shows in results; writing to one is found by `Guarded.intact`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ssdc.runtime.kernels import replay

MARGIN = 4096
"""Bytes on either side: more than a row of any tile, and a multiple of every alignment that a kernel may count on."""
PATTERN = 255
"""Each byte of the margins, and of memory that is not yet written: NaN in every floating-point type."""
MAKERS = ((Tensor, "new_empty"), (torch, "empty_like"), (torch, "empty"))


class Guarded:
    """Within it, in every thread, new tensors of unwritten memory are guarded, and begin as NaN."""

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.sizes: list[int] = []
        self.made = 0
        self._patches = ExitStack()

    def __enter__(self) -> None:
        self._patches.enter_context(patch.object(replay, "_known", {}))  # scripts know the makers that they saw
        for owner, name in MAKERS:
            self._patches.enter_context(patch.object(owner, name, self._made(getattr(owner, name))))

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    def _made(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def guarded(*args: Any, **keywords: Any) -> Tensor:
            made = plain(*args, **keywords)
            if not made.is_floating_point():
                return made
            return self._guarded(tuple(made.shape), made.dtype, made.device)

        return guarded

    def like(self, x: Tensor) -> Tensor:
        """A guarded contiguous copy."""
        return self._guarded(tuple(x.shape), x.dtype, x.device).copy_(x)

    def _guarded(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        size = prod(shape) * dtype.itemsize
        buffer = torch.full((size + 2 * MARGIN,), PATTERN, dtype=torch.uint8, device=device)
        self.buffers.append(buffer)
        self.sizes.append(size)
        self.made += 1
        return buffer[MARGIN : MARGIN + size].view(dtype).view(shape)

    def intact(self) -> bool:
        """Whether all margins so far are as they were; forgets them. Waits for the device once."""
        pairs = zip(self.buffers, self.sizes, strict=True)
        margins = torch.cat([part for b, size in pairs for part in (b[:MARGIN], b[MARGIN + size :])])
        kept = bool((margins == PATTERN).all())
        self.buffers.clear()
        self.sizes.clear()
        return kept
