"""A contraction as one operator while torch exports: its shape is known, and export does not look inside.

Cutting time into chunks folds dimensions together. Where the length is a symbol, export asks questions of what it finds
there (is the number of chunks one? is 2 a multiple of 2 * chunks?), and the answers count as constraints on the length.
As an operator that carries its own text, a contraction has a shape and nothing else, and the exported program serves
every length. Everywhere else the function itself runs. This file imports torch alone: an ejected module carries its
text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "ssdc"

RESOLVERS: list[Callable[[str, str], Callable[..., Any]]] = []
"""How to find a function from the text of its module and its name; the loader of generated text adds the one there
is."""


def run(
    function: Callable[..., Any],
    tensors: Sequence[Tensor | None],
    want_state: bool,
    dtype: torch.dtype,
    shape: Sequence[int],
    state: Sequence[int],
) -> tuple[Tensor, Tensor | None]:
    """A contraction's function on its operands, histories and state: (result of `shape`, state after it or None)."""
    if not torch.compiler.is_exporting():
        y, final = function(*tensors, want_state, dtype)
        return y, final
    given = [tensor for tensor in tensors if tensor is not None]
    present = [tensor is not None for tensor in tensors]
    text = function.__globals__.get("TEXT", "")
    wide = dtype == torch.float64
    y, final = contraction(text, function.__name__, given, present, want_state, wide, list(shape), list(state))
    return y, final if want_state else None


@torch.library.custom_op(f"{NAMESPACE}::contraction", mutates_args=())
def contraction(
    text: str,
    name: str,
    given: Sequence[Tensor],
    present: Sequence[bool],
    want_state: bool,
    wide: bool,
    shape: Sequence[int],
    state: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """A contraction by the name of its function in a generated text. Without a state to return, an empty tensor."""
    y, final = _evaluate(text, name, given, present, want_state, wide)
    if final is None:
        final = y.new_empty((0,))
    return y.contiguous().clone(), final.contiguous().clone()


def _evaluate(
    text: str, name: str, given: Sequence[Tensor], present: Sequence[bool], want_state: bool, wide: bool
) -> tuple[Tensor, Tensor | None]:
    rest = iter(given)
    tensors = [next(rest) if there else None for there in present]
    y, final = RESOLVERS[-1](text, name)(*tensors, want_state, torch.float64 if wide else torch.float32)
    return y, final if want_state else None


@contraction.register_fake
def _(
    text: str,
    name: str,
    given: Sequence[Tensor],
    present: Sequence[bool],
    want_state: bool,
    wide: bool,
    shape: Sequence[int],
    state: Sequence[int],
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if wide else torch.float32
    return given[0].new_empty(shape, dtype=dtype), given[0].new_empty(state if want_state else (0,), dtype=dtype)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.text, ctx.name, given, ctx.present, ctx.want_state, ctx.wide, _, _ = inputs
    ctx.save_for_backward(*given)


def _backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Any, ...]:
    """Evaluate anew with gradients, and go back through that."""
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in ctx.saved_tensors]
    with torch.enable_grad():
        y, final = _evaluate(ctx.text, ctx.name, leaves, ctx.present, ctx.want_state, ctx.wide)
    outputs, grads = [y], [grad]
    if final is not None and final.requires_grad:
        outputs.append(final)
        grads.append(grad_final)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))
    return None, None, [next(found) if leaf.requires_grad else None for leaf in leaves], None, None, None, None, None


torch.library.register_autograd(f"{NAMESPACE}::contraction", _backward, setup_context=_context)
