"""Ahead-of-time compilation of kernels for a target without a GPU: registers, spills and shared memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language import NVMMASharedLayout

from ssdc.codegen.triton import configuration, pricing
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts, Kernel
from ssdc.codegen.triton.hopper import WARPS, Walk
from ssdc.runtime.kernels import walks
from ssdc.runtime.kernels.launch import function

SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that a program may have, by compute capability."""

POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
ELEMENTS = ("query", "key", "value", "grad", "output", "later", "d_query", "d_key", "d_value")
NUMBERS = ("length", "span", "segments", "heads", "batches", "before", "reach", "width")


@dataclass(frozen=True)
class Usage:
    registers: int
    stack: int
    shared: int


def usage(kernel: Kernel, capability: int) -> Usage:
    """What the cubin of a kernel takes, its operands laid out as usual: aligned, the last axis contiguous."""
    made = function(kernel)
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], int] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for place, name in enumerate(made.arg_names):
        if name.endswith("_c"):
            signature[name], constants[place,] = "constexpr", 1
            continue
        if name in ELEMENTS or (name == "chunks" and kernel.keeps == "chunks"):
            signature[name] = POINTERS[kernel.facts.dtype]
        elif name in NUMBERS or name.rpartition("_")[2] in ("b", "t", "h", "group"):
            signature[name] = "i32"
        else:
            signature[name] = "*fp32"
        if name not in NUMBERS and not name.endswith("_group"):
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=made, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": kernel.tiles.warps, "num_stages": kernel.tiles.stages, "enable_fp_fusion": True}
    return _usage(source, options, capability)


def _usage(source: ASTSource, options: dict[str, object], capability: int) -> Usage:
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
        shown = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", shown.stdout + shown.stderr)
    assert found, shown.stdout + shown.stderr
    return Usage(int(found[1]), int(found[2]), compiled.metadata.shared)


def configurations(facts: Facts) -> Iterator[Kernel]:
    """Every kernel that the cost model can choose for some call with these facts."""
    seen = set()
    for call in (
        Call(lanes, length, shared, 132) for lanes in (1, 64, 640) for length in (1, 2048, 65536) for shared in (1, 80)
    ):
        kernels = [configuration.rows(facts)] if facts.norm is not None else []
        for forward in pricing.forms(facts, call):
            kernels += [forward.outputs]
            kernels += [forward.sums, forward.carry] if forward.segments > 1 else []
            kernels += [forward.states] if forward.form == "parallel" else []
        for backward in pricing.backs(facts, call, facts.gate != "none"):
            kernels += [backward.sums, backward.later_sums, backward.later_carry] if backward.segments > 1 else []
            kernels += [backward.states, backward.later, backward.gradients, backward.values]
        for kernel in kernels:
            if kernel not in seen:
                seen.add(kernel)
                yield kernel


WALK_POINTERS = ("gate", "own", "scale", "skip", "entering", "final", "through", "rows", "crossing", "d_own", "dots",
                 "skip_dots", "totals", "logarithms")  # fmt: skip


def usage_of_walk(walk: Walk) -> Usage:
    """The same of a walk for Hopper, whose operands are descriptors of tiles."""
    made, tiles = walks.function(walk), walk.tiles
    element = POINTERS[walk.facts.dtype][1:]
    widths = {"left": tiles.inner, "right": tiles.inner, "columns": tiles.outer, "other": tiles.outer}
    layout = NVMMASharedLayout(128, 16, 4)
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for place, name in enumerate(made.arg_names):
        if name in (*widths, "output"):
            shape = [1, tiles.chunk, 1, widths.get(name, tiles.outer)]
            signature[name] = f"tensordesc<{element}{shape},{layout!r}>"
        elif name == "chunks":
            signature[name] = POINTERS[walk.facts.dtype]
        else:
            signature[name] = "*fp32" if name in WALK_POINTERS else "i32"
            if name in WALK_POINTERS:
                attributes[place,] = [["tt.divisibility", 16]]
    source = GluonASTSource(fn=made, signature=signature, constexprs={}, attrs=attributes)
    return _usage(source, {"num_warps": WARPS, "enable_fp_fusion": True}, 90)
