"""Prints a digest of what layers compute on the GPU: outputs, states, steps and gradients, in two dtypes.

Arguments: nothing. Processes that compute the same bits print the same line.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from tests.support.device import example, inputs, moved, on_device
from tests.support.programs import at, tuple_of

NAMES = ("ssd", "linear_attention", "retention", "mamba2", "hydra", "mlstm")


def digest() -> str:
    """The digest, of 1,000 positions a layer."""
    found = hashlib.sha256()
    for name in NAMES:
        for dtype in (torch.float32, torch.bfloat16):
            for x in computed(name, dtype):
                found.update(x.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()


def computed(name: str, dtype: torch.dtype) -> list[Tensor]:
    case = example(name)
    layer = on_device(case)
    leaves = {k: v.requires_grad_() for k, v in moved(inputs(case, 1000), dtype).items()}
    y, state = layer(**leaves, return_state=True) if layer.causal else (layer(**leaves), None)
    grads = torch.autograd.grad(tuple_of(y)[0].float().square().sum(), [*leaves.values(), *layer.parameters()])
    kept = list(grads)
    if state is not None:
        with torch.no_grad():
            one, after = layer.step(state, **at(case, leaves, 0))
        kept += [*state.tensors, *tuple_of(one), *after.tensors]
    return [*tuple_of(y), *kept]


if __name__ == "__main__":
    print(digest())
