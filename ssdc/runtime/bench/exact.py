"""Masked contractions with one gate a head in float64: results, and bounds on what rounding may do to them.

    S[t] = exp(gate[t]) S[t-1] + scale[t] key[t] value[t]^T,    y[t] = query[t] S[t]

as `ssdc.runtime.kernels.masked` defines them, by torch operations that autograd differentiates: quadratic within
chunks, the state between them, so that memory grows with the length alone. Gates are finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 128


def evaluate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    own: Tensor | str | None,
    scale: Tensor | None,
    initial: Tensor | None,
    heads: int,
    strict: bool,
    *,
    decay: Callable[[Tensor], Tensor] = torch.exp,
) -> tuple[Tensor, Tensor]:
    """Output [b, t, h, p] and last state [b, h, n, p], for operands as `masked` takes them, in float64.

    `decay` is the exponential of sums of log gates; one that is larger by what rounding a sum adds makes a bound of
    the result.
    """
    query, key, value = (x.repeat_interleave(heads // x.shape[2], 2).transpose(1, 2) for x in (query, key, value))
    batch, _, length, states = query.shape
    gates, factor = (_by_head(x, batch, heads, length, query) for x in (gate, scale))
    factor = torch.ones_like(gates) if scale is None else factor
    mine = gates if own == "gate" else _by_head(None if isinstance(own, str) else own, batch, heads, length, query)
    state = query.new_zeros(batch, heads, states, value.shape[-1]) if initial is None else initial
    outputs = []
    for start in range(0, length, CHUNK):
        cut = slice(start, start + CHUNK)
        q, k, v, g, f = query[:, :, cut], key[:, :, cut], value[:, :, cut], gates[..., cut], factor[..., cut]
        place = torch.arange(q.shape[2], device=q.device)
        after = place[:, None] > place
        sums, enter = torch.where(after, g.unsqueeze(-1), 0.0).cumsum(-2), g.cumsum(-1)
        if strict:
            sums = torch.cat([torch.zeros_like(sums[..., :1, :]), sums[..., :-1, :]], -2) + mine[..., cut, None]
            enter = enter - g + mine[..., cut]
        mask = torch.where(after if strict else place[:, None] >= place, decay(sums), 0.0) * f.unsqueeze(-2)
        y = (q @ k.transpose(-1, -2) * mask) @ v
        outputs.append(y + decay(enter).unsqueeze(-1) * (q @ state))
        left = decay(g.sum(-1, keepdim=True) - g.cumsum(-1)) * f
        state = decay(g.sum(-1))[..., None, None] * state + (k * left.unsqueeze(-1)).transpose(-1, -2) @ v
    return torch.cat(outputs, 2).transpose(1, 2), state


def _by_head(x: Tensor | None, batch: int, heads: int, length: int, like: Tensor) -> Tensor:
    """[b, h, t] of [b, t, h], [h] or nothing."""
    if x is None:
        return like.new_zeros(batch, heads, length)
    return x[None, :, None].expand(batch, heads, length) if x.ndim == 1 else x.transpose(1, 2)


def widened(unit: float) -> Callable[[Tensor], Tensor]:
    """A decay with what rounding in float32 adds to it, |sum| 2^-24 times as much, in terms of `unit`."""

    def decay(sums: Tensor) -> Tensor:
        return sums.exp() * (1.0 + 2.0**-24 / unit * sums.detach().abs())

    return decay


def softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal softmax attention of [b, t, h, n], [b, t, h, n], [b, t, h, p]."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    y: Tensor = scores.masked_fill(later, -torch.inf).softmax(-1) @ value
    return y.transpose(1, 2)
