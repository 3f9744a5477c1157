"""What generated Gluon text says of Hopper's units, under names that hold in every version of Triton from 3.6 on.

Imported by generated text and for its launch, where there is Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from inspect import getclosurevars, signature
from typing import Any

from triton.backends.nvidia import driver
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as TensorDescriptor

_old = hasattr(gl, "thread_barrier")  # Triton 3.6

TILE = gl.NVMMASharedLayout(128, 16, 4)
"""How tiles of operands lie in shared memory."""

barrier = gl.thread_barrier if _old else gl.barrier
expect = hopper.mbarrier.expect
fence = hopper.fence_async_shared
load_tile = hopper.tma.async_copy_global_to_shared if _old else hopper.tma.async_load
mma = hopper.warpgroup_mma
mma_wait = hopper.warpgroup_mma_wait
store_tile = hopper.tma.async_copy_shared_to_global if _old else hopper.tma.async_store
store_wait = hopper.tma.store_wait
wait = hopper.mbarrier.wait


@gluon.jit  # type: ignore[untyped-decorator]
def barriers(count: gl.constexpr):  # type: ignore[no-untyped-def]
    """Barriers in shared memory, each of one arrival: the copy engine's."""
    made = gl.allocate_shared_memory(gl.int64, [count, 1], hopper.mbarrier.MBarrierLayout())
    for place in gl.static_range(count):
        hopper.mbarrier.init(made.index(place), count=1)
    fence()
    barrier()
    return made


_UNUSED = (None,) * (len(signature(driver.make_tensordesc_arg).parameters) - 2)  # one argument more from Triton 3.8 on


def encoded(descriptor: Any, laid: Mapping[str, Any]) -> list[Any]:
    """What Triton gives a kernel for a descriptor that the kernel lays out like this: a map of its tiles, made anew
    (2.5 us), sizes and strides."""
    found: list[Any] = driver.make_tensordesc_arg(descriptor, laid, *_UNUSED)
    return found


def past_encoding(run: Any) -> Callable[..., None]:
    """What starts a kernel, of descriptors that are `encoded`; Triton's own encodes them."""
    made = copy(run)
    made.launch = getclosurevars(run.launch).nonlocals["launcher"]
    started: Callable[..., None] = made
    return started
