"""Measures the compiled `ssd.ssd` beside two implementations by other hands, in one run, and prints one table.

On two cores, in float32, at b=1, T=2048, H=24, P=64, N=128 unless told otherwise:

- ssdc in its planned ordering;
- transformers' torch body of Mamba-2's chunked scan (`mamba2_chunk_scan`, the function under the kernel dispatcher);
- mamba_ssm's `ssd_minimal_discrete` (Listing 1 of the Mamba-2 paper): the one file is taken from the source
  distribution on the package index, kept in the user's cache, and loaded with its Triton import left out.

The three run in turn, again and again, and the table has each one's median time, and its error against the float64
reference in units of u * sum|terms| (u = 2^-24; the largest over all elements). Below stand the growth of peak memory
with T in the chunked ordering, one decoding step beside the same update written by hand in torch, the time that
`ssdc check` takes, and the time to compile in a process that has compiled before.

    python examples/measure_ssd.py                         # some minutes
    python examples/measure_ssd.py --quick                 # seconds, at sizes that say little
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tarfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import ssdc

PROGRAM = Path(__file__).with_name("ssd.ssd")
MAMBA_SSM = "mamba-ssm==2.3.2.post1"
PUBLISHED = {"H": 24, "P": 64, "N": 128}
SMALL = {"H": 2, "P": 16, "N": 16}
Inputs = dict[str, Tensor]
Row = tuple[str, str, str, str]


def make_inputs(T: int, H: int, P: int, N: int) -> Inputs:
    """x[b,t,h,p], dt[b,t,h], B and C[b,t,g,n] with one group; dt as a trained layer has it, about 0.001 to 0.1."""
    torch.manual_seed(0)
    dt = torch.exp(torch.empty(1, T, H).uniform_(-6.9, -2.3))
    return {"x": torch.randn(1, T, H, P), "dt": dt, "B": torch.randn(1, T, 1, N), "C": torch.randn(1, T, 1, N)}


def transformers_body(parameters: Inputs, chunk: int) -> Callable[[Inputs], Tensor]:
    """transformers' chunked scan, the torch body itself: `__wrapped__` is below the dispatch to installed kernels."""
    from transformers.models.mamba2 import modeling_mamba2

    body = modeling_mamba2.mamba2_chunk_scan.__wrapped__
    A, D = -parameters["A_log"].exp(), parameters["D"]
    return lambda v: body(v["x"], v["dt"], A, v["B"], v["C"], chunk_size=chunk, D=D)


def minimal_listing(parameters: Inputs, chunk: int) -> Callable[[Inputs], Tensor]:
    """mamba_ssm's listing. It takes x * dt and A * dt, one B and C a head, and leaves D * x to the caller."""
    listing = load_minimal().ssd_minimal_discrete
    A, D = -parameters["A_log"].exp(), parameters["D"]

    def call(v: Inputs) -> Tensor:
        heads = v["x"].shape[2]
        B, C = (v[name].expand(-1, -1, heads, -1) for name in "BC")
        y, _ = listing(v["x"] * v["dt"][..., None], A * v["dt"], B, C, chunk)
        return y + D[:, None] * v["x"]

    return call


def load_minimal() -> types.ModuleType:
    """`mamba_ssm/modules/ssd_minimal.py` alone, with an empty module where it imports the Triton kernels."""
    folder = user_cache_path("ssdc") / "references"
    file = folder / "ssd_minimal.py"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command += ["--no-build-isolation", "--dest", str(folder), MAMBA_SSM]
        environment = os.environ | {"MAMBA_SKIP_CUDA_BUILD": "TRUE"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        with tarfile.open(next(folder.glob("mamba_ssm-*.tar.gz"))) as archive:
            name = next(n for n in archive.getnames() if n.endswith("mamba_ssm/modules/ssd_minimal.py"))
            member = archive.extractfile(name)
            assert member is not None
            file.write_bytes(member.read())
    stub = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    stub.mamba_chunk_scan_combined = None  # type: ignore[attr-defined]
    before = dict(sys.modules)
    for parent in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        sys.modules[parent] = types.ModuleType(parent)
    sys.modules[stub.__name__] = stub
    try:
        spec = importlib.util.spec_from_file_location("ssd_minimal", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
            if name not in before:
                del sys.modules[name]
    return module


def alternate(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, all in turn in every round, so that a slow spell of the machine hits each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in track(range(rounds), "timing", console=Console(stderr=True), transient=True):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def beside_others(sizes: dict[str, int], T: int, rounds: int, chunks: tuple[int, ...]) -> list[Row]:
    """Time and error of ssdc and the two references, these with each of several chunks."""
    layer = ssdc.compile(PROGRAM, sizes=sizes)
    reference = ssdc.reference(PROGRAM, sizes=sizes)
    inputs = make_inputs(T, **sizes)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    reference.load_state_dict(layer.state_dict())
    with torch.no_grad():
        exact, magnitude = reference.bounds(**inputs)
    calls: dict[str, Callable[[], Tensor]] = {"ssdc, planned ordering": lambda: layer(**inputs)}
    missing: list[Row] = []
    others = {"transformers mamba2_chunk_scan": transformers_body, "mamba_ssm ssd_minimal_discrete": minimal_listing}
    for other, make, chunk in ((other, make, chunk) for other, make in others.items() for chunk in chunks):
        name = f"{other}, chunk {chunk}"
        try:
            call = make(parameters, chunk)
        except (ImportError, OSError, subprocess.CalledProcessError) as error:
            missing.append((name, "", "", f"not available here: {type(error).__name__}"))
            continue
        calls[name] = lambda call=call: call(inputs)
    with torch.no_grad():
        errors = {name: worst_error(call(), exact, magnitude) for name, call in calls.items()}
        times = alternate(calls, rounds)
    first = times["ssdc, planned ordering"]
    rows = [(name, milliseconds(t), f"{errors[name]:.2f}", f"{t / first:.2f} x") for name, t in times.items()]
    return rows + missing


def worst_error(y: Tensor, exact: Tensor, magnitude: Tensor) -> float:
    """The largest |y - exact| / (u * sum|terms|) over all elements."""
    return ((y.double() - exact).abs() / (2**-24 * magnitude.clamp_min(1e-300))).max().item()


def decoding(sizes: dict[str, int], rounds: int) -> list[Row]:
    """`step` at b=1 beside the same update by hand."""
    layer = ssdc.compile(PROGRAM, sizes=sizes)
    one = {name: value[:, 0].contiguous() for name, value in make_inputs(1, **sizes).items()}
    state = layer.init_state(b=1)
    A, D = -layer.A_log.detach().exp(), layer.D.detach()
    S = torch.zeros(1, sizes["H"], sizes["P"], sizes["N"])

    def by_hand() -> Tensor:
        nonlocal S
        x, dt, B, C = one["x"], one["dt"], one["B"], one["C"]
        S = S * torch.exp(A * dt)[..., None, None] + (x * dt[..., None])[..., None] * B[:, :, None, :]
        return (S * C[:, :, None, :]).sum(-1) + D[:, None] * x

    def compiled() -> Tensor:
        nonlocal state
        y, state = layer.step(state, **one)
        return y

    with torch.no_grad():
        difference = (compiled() - by_hand()).abs().max().item()
        times = alternate({"step, ssdc": compiled, "step, by hand in torch": by_hand}, rounds * 20)
    first, second = times.values()
    notes = (f"largest difference {difference:.1e}", f"{second / first:.2f} x")
    return [(name, milliseconds(t), "", text) for (name, t), text in zip(times.items(), notes, strict=True)]


def memory_growth(sizes: dict[str, int], lengths: tuple[int, ...]) -> list[Row]:
    """Peak memory of one chunked call beyond its inputs, each in a fresh process.

    A length is left out if, by what a position took before, peak and inputs would not fit into the free memory.
    """
    title = " ".join(f"{name}={value}" for name, value in sizes.items())
    inputs = 4 * (sizes["H"] * (sizes["P"] + 1) + 2 * sizes["N"])
    rows: list[Row] = []
    each = 0.0
    for T in track(lengths, "memory", console=Console(stderr=True), transient=True):
        name, needed = f"chunked, {title}, T={T:,}", T * (each + 2 * inputs)
        if needed > 0.8 * free_memory():
            rows.append((name, "", "", f"left out: about {needed / 2**30:.0f} GiB"))
            continue
        numbers = [str(value) for value in (T, *sizes.values())]
        threads = ("--threads", str(torch.get_num_threads()))
        done = subprocess.run([sys.executable, __file__, *threads, "--peak", *numbers], capture_output=True, text=True)
        if done.returncode:
            rows.append((name, "", "", f"failed, status {done.returncode}"))
            continue
        peak, seconds = int(done.stdout.split()[-2]), float(done.stdout.split()[-1])
        each = peak / T
        rows.append((name, milliseconds(seconds), "", f"{peak / 2**20:,.0f} MiB peak, {each:,.0f} bytes a position"))
    return rows


def free_memory() -> int:
    """Bytes that new processes can have."""
    rows = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(row.split()[1]) for row in rows if row.startswith("MemAvailable:"))


def peak_of_one_call(T: int, sizes: dict[str, int]) -> tuple[int, float]:
    """Bytes that the high-water mark of this process rises above its resident size before the call; its seconds."""
    layer = ssdc.compile(PROGRAM, sizes=sizes, order="chunked")
    with torch.no_grad():
        layer(**make_inputs(256, **sizes))
        inputs = make_inputs(T, **sizes)
        Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
        resident = kept_by_the_kernel("VmRSS")
        began = time.perf_counter()
        layer(**inputs)
        seconds = time.perf_counter() - began
    return max(0, kept_by_the_kernel("VmHWM") - resident), seconds


def kept_by_the_kernel(entry: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM at most. (`ru_maxrss` counts what its parent had, too.)"""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(row.split()[1]) for row in rows if row.startswith(f"{entry}:"))


def start_up(rounds: int) -> list[Row]:
    """Wall time of `ssdc check` as a process, and of a second compilation within this one."""
    command = [sys.executable, "-m", "ssdc", "check", str(PROGRAM)]
    calls: dict[str, Callable[[], object]] = {
        "ssdc check, whole process": lambda: subprocess.run(command, check=True, capture_output=True),
        "ssdc.compile, warm process": lambda: ssdc.compile(PROGRAM, sizes=PUBLISHED),
    }
    return [(name, milliseconds(seconds), "", "") for name, seconds in alternate(calls, rounds).items()]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.3f}" if seconds < 1e-2 else f"{seconds * 1e3:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-T", "--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--chunk", type=int, nargs="+", default=[256, 64],
        help="chunks of the two references: 256 is Mamba-2's own setting, 64 their fastest on two cores",
    )  # fmt: skip
    parser.add_argument("--longest", type=int, default=262144, help="the end of the memory rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", type=int, nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that all of it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        T, *values = options.peak
        print(*peak_of_one_call(T, dict(zip(PUBLISHED, values, strict=True))))
        return

    sizes = SMALL if options.quick else PUBLISHED
    if options.quick:
        options.length, options.rounds, options.longest = 256, 2, 4096
    lengths = tuple(T for T in (4096, 16384, 65536, 262144) if T <= options.longest)
    shape = f"T={options.length}, " + ", ".join(f"{name}={value}" for name, value in sizes.items())
    table = Table(title=f"ssd, float32, b=1, {shape}, {options.threads} threads")
    for heading, justify in (("", "left"), ("median ms", "right"), ("error / (u sum|terms|)", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    sections = (
        lambda: beside_others(sizes, options.length, options.rounds, tuple(options.chunk)),
        lambda: decoding(sizes, options.rounds),
        lambda: memory_growth(SMALL, lengths),
        *(() if options.quick else (lambda: memory_growth(PUBLISHED, lengths),)),
        lambda: start_up(options.rounds),
    )
    for section in sections:
        for row in section():
            table.add_row(*row)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
