"""Operations of other libraries that compute a masked contraction, found by name where they are installed.

In: operands of a shape. Out: its output [b, t, h, p], with a gradient. What a peer needs beyond the operands (another
layout, repeated heads) counts as its time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssdc.runtime.bench.shapes import Given, Shape


@dataclass(frozen=True)
class Peer:
    """A library's operation and the shapes that it serves. One that is `another` function is shown for its speed only.

    `devices` are those that it runs on; `package` is what to install.
    """

    name: str
    package: str
    call: Callable[[Given], Tensor]
    serves: Callable[[Shape], bool]
    devices: tuple[str, ...] = ("cuda",)
    another: bool = False


def _found(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _fla(module: str, name: str) -> Any:
    """An operation of fla.

    Its gated backward refuses to run on Hopper with Triton 3.4 to 3.7.0, where it may come out wrong. Here it is to be
    timed, and wrong results show in the error columns, so that the check is told of a newer Triton.
    """
    importlib.import_module("fla.ops.common.chunk_o").TRITON_ABOVE_3_7_1 = True  # type: ignore[attr-defined]
    return _found(f"fla.ops.{module}", name)


def linear_attn(given: Given) -> Tensor:
    """Flash linear attention without a normaliser."""
    call = _fla("linear_attn", "chunk_linear_attn")
    y: Tensor = call(given.query, given.key, given.value, scale=1.0, normalize=False)[0]
    return y


def retention(given: Given) -> Tensor:
    """Flash linear attention's retention, which has the decays built in."""
    y: Tensor = _fla("retention", "chunk_retention")(given.query, given.key, given.value, scale=1.0)[0]
    return y


def simple_gla(given: Given) -> Tensor:
    """Flash linear attention with one gate a head."""
    call = _fla("simple_gla", "chunk_simple_gla")
    y: Tensor = call(given.query, given.key, given.value, g=given.gate, scale=1.0)[0]
    return y


def mamba(given: Given) -> Tensor:
    """Mamba-2's own scan."""
    call = _found("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    y: Tensor = call(given.value, given.scale, given.rate, given.key, given.query, chunk_size=256)
    return y


def transformers(given: Given) -> Tensor:
    """transformers' scan of Mamba-2 in plain torch: `__wrapped__` is below the dispatch to installed kernels."""
    call = _found("transformers.models.mamba2.modeling_mamba2", "mamba2_chunk_scan").__wrapped__
    found = call(given.value, given.scale, given.rate, given.key, given.query, chunk_size=64)
    y: Tensor = found[0] if isinstance(found, tuple) else found
    return y.to(given.value.dtype)


def attention(given: Given) -> Tensor:
    """Causal softmax attention, a query and key for every head."""
    query, key = (x.repeat_interleave(given.heads // x.shape[2], 2) for x in (given.query, given.key))
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), given.value.transpose(1, 2)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)


def _own(gate: str) -> Callable[[Shape], bool]:
    return lambda shape: shape.gate == gate and not shape.scale and shape.groups == shape.heads


def _scaled(shape: Shape) -> bool:
    return shape.gate == "varying" and shape.scale


PEERS = (
    Peer("fla linear_attn", "fla-core", linear_attn, _own("none")),
    Peer("fla retention", "fla-core", retention, _own("constant")),
    Peer("fla simple_gla", "fla-core", simple_gla, _own("varying")),
    Peer("mamba_ssm", "mamba-ssm", mamba, _scaled),
    Peer("transformers", "transformers", transformers, _scaled, ("cpu",)),
    Peer("softmax (SDPA)", "torch", attention, lambda shape: True, ("cpu", "cuda"), another=True),
)
"""Operations to compare with."""


def versions() -> dict[str, str | None]:
    """Versions of torch, triton and the peers' packages; None for one that is not installed."""
    return {package: _version(package) for package in ("torch", "triton", *(peer.package for peer in PEERS))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        here = importlib.util.find_spec(package.replace("-", "_")) is not None
        return "of unknown version" if here else None
