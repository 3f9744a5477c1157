"""What a layer's calls ask of the cost model: the cases that `ssdc tune` searches.

In: a compiled layer, and sizes of calls. Out: a case for each pass and each contraction that the kernels run, as they
came up in a call forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ssdc.codegen.triton import hopper
from ssdc.errors import CallError
from ssdc.runtime.kernels.launch import available, interpreted
from ssdc.runtime.kernels.walks import capable
from ssdc.runtime.module import Layer
from ssdc.runtime.samples import sample_inputs
from ssdc.runtime.tuned import session
from ssdc.runtime.tuning.trial import Case, unknown

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def where(device: str | None) -> tuple[str, bool]:
    """The device to tune for, and whether Triton's interpreter stands for it. Raises CallError where kernels cannot
    run."""
    if interpreted():
        return "cpu", True
    if not available():
        raise CallError("tuning times Triton kernels, which need a CUDA device and triton; there is none here")
    chosen = device or "cuda"
    try:
        index = torch.device(chosen).index or 0
    except RuntimeError:
        raise CallError(f"there is no device {chosen!r}; devices are cuda, cuda:1, ..") from None
    if not chosen.startswith("cuda") or index >= torch.cuda.device_count():
        raise CallError(f"there is no CUDA device {chosen!r} here; leave out --device")
    return chosen, False


def asked(layer: Layer, dtype: str, device: str, calls: Sequence[Mapping[str, int]]) -> tuple[Case, ...]:
    """The cases of calls by their sizes (`T`, `b`), each once, inputs in `dtype`; without those that trials cannot
    check."""
    found = []
    for sizes in calls:
        inputs = {
            name: x.to(device).requires_grad_(x.is_floating_point())
            for name, x in sample_inputs(layer, dtype=DTYPES[dtype], **sizes).items()
        }
        with session() as asking:
            outputs = layer(**inputs)
            several: tuple[Tensor, ...] = outputs if isinstance(outputs, tuple) else (outputs,)
            learned = [y for y in several if y.requires_grad]
            torch.autograd.backward(learned, [torch.ones_like(y) for y in learned])
        for request in dict.fromkeys(asking.requests):
            if unknown(request.facts):
                continue
            batch = sizes["b"] if request.call.lanes % sizes["b"] == 0 else 1
            engine = hopper.fits(request.facts) and capable(torch.device(device))
            found.append(Case(request, batch, device, shifted=engine and not request.call.engine))
    return tuple(dict.fromkeys(found))
