"""How a call reaches its kernels: through the operator, or in eager mode past it; and what it cannot ask for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def plain(given: tuple[Tensor | None, ...]) -> bool:
    """Whether a call is eager, on tensors of no subclass and under no mode: the operators' own cost in Python, some 100
    microseconds, is then saved by calling what they call."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(x is None or type(x) is Tensor or type(x) is torch.nn.Parameter for x in given)
    )


def learns(*tensors: Tensor | str | None) -> bool:
    """Whether a gradient may be asked for."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in tensors)


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Raises NotImplementedError under forward-mode differentiation of any of the tensors."""
    if forward_ad._current_level < 0:
        return
    unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual
    if any(x is not None and unpack(x).tangent is not None for x in tensors):
        raise NotImplementedError("ssdc's kernels have no forward-mode derivative; use reverse mode")
