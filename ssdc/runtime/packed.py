"""Packed documents: offsets checked, and turned into a document number and a position for every place in time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor

from ssdc.errors import CallError


def offsets_of(cu_seqlens: Tensor | Sequence[int], sizes: dict[str, int], reader: str, device: torch.device) -> Tensor:
    """Offsets as a tensor on the device. Raises CallError where they are not 0 = o[0] <= o[1] <= .. <= T, or a batch is
    not 1.

    The values of a tensor on an accelerator are not looked at: that would wait for the device.
    """
    if not isinstance(cu_seqlens, Tensor):
        whole = isinstance(cu_seqlens, list | tuple) and all(
            isinstance(offset, Integral) and not isinstance(offset, bool) for offset in cu_seqlens
        )
        if not whole:
            raise CallError(
                f"cu_seqlens is {cu_seqlens!r}; it needs a tensor or a list of integers, [0, .., {sizes[reader]}]"
            )
        cu_seqlens = torch.tensor(cu_seqlens, dtype=torch.int64)
    kind = cu_seqlens.dtype
    if (
        cu_seqlens.ndim != 1
        or cu_seqlens.shape[0] < 2
        or kind.is_floating_point
        or kind.is_complex
        or kind == torch.bool
    ):
        raise CallError(
            f"cu_seqlens has shape {list(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}; "
            "it needs integers [documents + 1]"
        )
    for axis, size in sizes.items():
        if axis != reader and size != 1:
            raise CallError(
                f"cu_seqlens goes with a batch of one, and the axis {axis} has size {size}; "
                "lay documents end to end in time"
            )
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        values = cu_seqlens.tolist()
        if values[0] != 0 or values[-1] != sizes[reader] or any(b < a for a, b in pairwise(values)):
            raise CallError(f"cu_seqlens is {values}; it needs to rise from 0 to T = {sizes[reader]}")
    return cu_seqlens.to(device)


def places(offsets: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The document of each position, and the position within it, both [length]."""
    at = torch.arange(length, device=offsets.device)
    documents = torch.searchsorted(offsets[1:].contiguous(), at.to(offsets.dtype), right=True)
    return documents, at - offsets[documents]
