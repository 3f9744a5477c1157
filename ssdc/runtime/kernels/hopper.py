"""What generated Gluon text says of Hopper's units, under names that hold in every version of Triton from 3.6 on.

Imported by generated text and for its launch, where there is Triton.
"""

from __future__ import annotations

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
