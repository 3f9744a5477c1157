"""The vocabulary of generated PyTorch text: cutting time into chunks, decays between positions, norms.

Plain differentiable functions of tensors; time is cut with sizes that may be symbolic. Running sums of log gates are
kept in float64, so that a difference of two is as good as the segment's own sum, and no exponent that is kept is ever
positive for gates in [0, 1]. This file imports torch alone: an ejected module carries its text.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

FLOOR = -1e4
"""Logarithms below this are gates of exactly zero in every float format; the floor keeps differences finite."""

SHORT = 256
"""Entries of a row up to which a GPU scans rows faster side by side."""


# ---- cutting time --------------------------------------------------------------------------------------------------


def chunk(x: Tensor, dim: int, size: int, *, edge: bool = False, value: float = 0.0) -> Tensor:
    """[.., T, ..] -> [.., ceil(T / size), size, ..], padded at the end with `value` (or, at the `edge`, the last
    entry)."""
    dim = dim % x.ndim
    length = x.shape[dim]
    chunks = (length + size - 1) // size
    return torch.unflatten(pad_end(x, dim, chunks * size - length, edge=edge, value=value), dim, (chunks, size))


def window(x: Tensor, dim: int, size: int, before: int, *, edge: bool = False, value: float = 0.0) -> Tensor:
    """[.., before + T, ..] -> [.., chunks, before + size, ..]: each chunk with the `before` positions ahead of it."""
    dim = dim % x.ndim
    length = x.shape[dim] - before
    chunks = (length + size - 1) // size
    padded = pad_end(x, dim, chunks * size - length, edge=edge, value=value)
    return padded.unfold(dim, before + size, size).movedim(-1, dim + 1)


def pad_end(x: Tensor, dim: int, count: int, *, edge: bool = False, value: float = 0.0) -> Tensor:
    """`count` more positions at the end of `dim`: all `value`, or copies of the last."""
    if type(count) is int and count == 0:
        return x
    if edge:
        last = x.narrow(dim, x.shape[dim] - 1, 1)
        return torch.cat([x, last.expand(*x.shape[:dim], count, *x.shape[dim + 1 :])], dim)
    return functional.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, count), value=value)


def merge(x: Tensor, dim: int, places: int, length: int) -> Tensor:
    """The inverse of `chunk`: `places` adjacent dimensions as one, its first `length` positions."""
    return x.flatten(dim, dim + places - 1).narrow(dim, 0, length)


def extend(x: Tensor, dim: int, count: int, history: Tensor | None) -> Tensor:
    """The `count` positions before x in front of it: the end of `history`, or zeros where there is none."""
    dim = dim % x.ndim
    if history is None:
        return functional.pad(x, (0, 0) * (x.ndim - 1 - dim) + (count, 0))
    return torch.cat([history.narrow(dim, history.shape[dim] - count, count), x], dim)


def tail(x: Tensor, dim: int, count: int, history: Tensor | None) -> Tensor:
    """The last `count` positions of `history` followed by x (of zeros followed by x where there is none)."""
    first = x.shape[dim] - count
    if type(first) is int and first >= 0:
        return x.narrow(dim, first, count).clone()
    longer = extend(x, dim, count, history)
    return longer.narrow(dim, longer.shape[dim] - count, count)


def whole(x: Tensor, dim: int, history: Tensor | None) -> Tensor:
    """All positions so far: the history, then x."""
    return x if history is None else torch.cat([history, x], dim)


# ---- decays between positions ----------------------------------------------------------------------------------------


def floored(log_gate: Tensor) -> Tensor:
    """Log gates in float64, no lower than `FLOOR`; sums of these along time are running sums of the gate."""
    return log_gate.clamp(min=FLOOR).double()


def sums(x: Tensor) -> Tensor:
    """Running sums along the last dimension.

    >>> sums(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 3., 6.]])
    """
    return _scanned(torch.cumsum, x)


def _scanned(scan: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
    """A scan along the last dimension. On a GPU PyTorch begins each row anew, which takes longer than a short row."""
    length = x.shape[-1]
    if x.device.type == "cpu" or type(length) is not int or length > SHORT:
        return scan(x, -1)
    return _side_by_side(scan, x)


def _side_by_side(scan: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
    return scan(x.movedim(-1, 0), 0).movedim(0, -1).contiguous()


def steady(log_gate: Tensor, count: int) -> Tensor:
    """Running sums of a log gate that is the same at every position: [.., count]."""
    return log_gate.unsqueeze(-1) * torch.arange(1, count + 1, device=log_gate.device, dtype=log_gate.dtype)


def segment(row: Tensor, column: Tensor, keep: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(row[.., i] - column[.., j]) where `keep`, else 0: the decay from writer j to reader i."""
    exponent = row.unsqueeze(-1) - column.unsqueeze(-2)
    return exponent.to(dtype).masked_fill(~keep, -torch.inf).exp()


def decay(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """The exponential of a sum of log gates."""
    return exponent.to(dtype).exp()


def products(gate: Tensor, exclusive: Tensor | None, keep: Tensor) -> Tensor:
    """Products of plain gates between positions: [.., i, j] = prod of gate[r] over j < r <= i, where `keep`, else 0.

    `exclusive` holds further factors, which a reader leaves out at its own position. Gates may have any sign, and be
    zero.
    """
    count = gate.shape[-1]
    places = torch.arange(count, device=gate.device)
    inside = places[:, None] > places[None, :]
    full = gate if exclusive is None else gate * exclusive
    table = torch.where(inside, full.unsqueeze(-1), torch.ones((), dtype=gate.dtype, device=gate.device)).cumprod(-2)
    if exclusive is not None:
        before = functional.pad(table, (0, 0, 1, 0))[..., :count, :]
        table = torch.where(inside, before * gate.unsqueeze(-1), table)
    return table * keep


def enter_products(gate: Tensor, exclusive: Tensor | None) -> Tensor:
    """Products of plain gates from the first position to each reader: [.., i] = prod of gate[r] over r <= i.

    `exclusive` as in `products`.
    """
    if exclusive is None:
        return _scanned(torch.cumprod, gate)
    before = functional.pad(_scanned(torch.cumprod, gate * exclusive), (1, 0), value=1.0)[..., :-1]
    return before * gate


def leave_products(gate: Tensor) -> Tensor:
    """Products of plain gates from after each writer to the last position: [.., j] = prod of gate[r] over r > j."""
    later = functional.pad(gate[..., 1:], (0, 1), value=1.0)
    return _scanned(torch.cumprod, later.flip(-1)).flip(-1)


def anchor_products(gate: Tensor, size: int) -> Tensor:
    """Products of plain gates from after each writer j to the anchor before block u: [.., u, j], 0 from the anchor
    on."""
    count = gate.shape[-1]
    places = torch.arange(count, device=gate.device)
    anchors = torch.arange(count // size, device=gate.device) * size
    one = torch.ones((), dtype=gate.dtype, device=gate.device)
    inside = places[None, :] < anchors[:, None]
    return leave_products(torch.where(inside, gate.unsqueeze(-2), one)) * inside


def anchors(total: Tensor, size: int) -> Tensor:
    """Running sums at the last position before each block of `size`: [.., blocks], 0 before the first."""
    return functional.pad(total[..., size - 1 : -1 : size], (1, 0))


def lags(rows: int, columns: int, device: torch.device) -> Tensor:
    """Steps from writer to reader, [rows, columns], the last row and the last column at the same position."""
    row = torch.arange(rows, device=device) + (columns - rows)
    return row[:, None] - torch.arange(columns, device=device)[None, :]


def by_lag(kernel: Tensor, lag: Tensor, width: int, newest_first: bool, strict: bool) -> Tensor:
    """Mask values [.., *lag.shape] of a kernel [.., J] whose entry j holds lag j (newest first) or J - 1 - j."""
    count = kernel.shape[-1]
    inside = (lag >= int(strict)) & (lag < min(width, count))
    index = lag if newest_first else count - 1 - lag
    return kernel[..., index.clamp(0, count - 1)] * inside


def previous(x: Tensor, history: Tensor | None) -> Tensor:
    """The entry before each position along the last dimension: the history's last, then x itself; its own at a
    start."""
    first = x[..., :1] if history is None else history[..., -1:]
    return torch.cat([first, x[..., :-1]], -1)


# ---- functions of the language that torch has in parts ---------------------------------------------------------------


def rmsnorm(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over `dims`."""
    return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)


def layernorm(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) over `dims`."""
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def l2norm(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over `dims`."""
    return x * torch.rsqrt(x.square().sum(dims, keepdim=True) + eps)


def softmax(x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """Softmax over `dims`, where `mask` is not zero; a row without such a position is zero."""
    if mask is not None:
        x = x.masked_fill(mask == 0, -torch.inf)
    highest = x.detach().amax(dims, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    weight = torch.exp(x - highest)
    total = weight.sum(dims, keepdim=True)
    return weight / torch.where(total == 0, torch.ones_like(total), total)


def project(equation: str, x: Tensor, weight: Tensor, low: torch.dtype | None) -> Tensor:
    """A contraction with a parameter, its operands in the precision `low` where one is set (autocast, low inputs)."""
    if low is None or low == x.dtype:
        return torch.einsum(equation, x, weight)
    return torch.einsum(equation, x.to(low), weight.to(low)).to(x.dtype)
