"""What this machine can do per second, measured in well under a minute: a `Hardware` of its own.

In: a device, and the graph of a small layer whose one contraction is too small for anything but overhead to count. Out:
the profile, with the shipped one's figures where nothing is measured. Rates are of whole operations of PyTorch, as
generated code calls them; each is the best of several runs. On a CPU one thread is measured, by processor time, which
what else runs disturbs little; more threads have as many times its rates, but for memory, where all are measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from math import inf

import torch

from ssdc.codegen.triton.configuration import Call, chunk_of, forward
from ssdc.codegen.triton.facts import Facts
from ssdc.codegen.triton.pricing import candidate
from ssdc.graph.graph import Graph
from ssdc.plan.hardware import INFINITE, Hardware
from ssdc.plan.products import FAR
from ssdc.plan.profiles import shipped
from ssdc.runtime.devices import alone, name_of
from ssdc.runtime.kernels.launch import available
from ssdc.runtime.kernels.masked import masked
from ssdc.runtime.regret import overhead, settle, timed

RUNS, BURST = 15, 4e-3
"""Runs of which the best counts, and the seconds of calls in each."""


def measured(device: str, small: Graph) -> Hardware:
    """The profile of "cpu" (with the threads that PyTorch has now) or "cuda"."""
    base = shipped("cuda" if device.startswith("cuda") else "cpu", name_of(device))
    with torch.no_grad():
        if base.device == "cuda":
            found = replace(base, **(_rates(device, base) | _gpu(device)))  # type: ignore[arg-type]
            if available():
                found = _kernels(device, found)
        else:
            found = _cpu(base)
    with _one_thread(device):
        launch, node, step = overhead(small, found, device)
    source = f"measured on {date.today().isoformat()}, PyTorch {torch.__version__}, {name_of(device) or 'CPU'}"
    return replace(found, name=f"{base.device}, measured", launch=launch, node=node, step=step, source=source)


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """One thread of PyTorch for a while, on a CPU."""
    threads = torch.get_num_threads()
    try:
        if device == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _rates(device: str, base: Hardware) -> dict[str, object]:
    """Rates that a CPU and a GPU have alike."""
    large = 2**20 if device == "cpu" else 2**27
    x = torch.randn(large, device=device)
    square = x.view(1024, -1)
    far = 1.0 if device == "cpu" else FAR  # where the model has pages, a GPU has none
    count = large // 4096
    sides = [torch.randn(count, 64, 64, device=device) for _ in range(2)]
    column = torch.randn(count, 64, 1, device=device)
    seconds = {
        "matrix": _best(lambda: torch.bmm(*sides), device),
        "thin": _best(lambda: torch.bmm(sides[0], column), device),
        "exp": _best(lambda: x.exp(), device),
        "neg": _best(lambda: x.neg(), device),
        "turned": _best(lambda: square.T.contiguous(), device),
    }
    moved = 3 * 4 * large
    tiers = _tiers(device, base)
    rate = next((rate for limit, rate in tiers if moved <= limit), tiers[-1][1])
    return {
        "matrix": 2.0 * count * 64**3 / max(seconds["matrix"] - moved / rate, 0.3 * seconds["matrix"]),
        "thin": 2.0 * count * 64**2 / seconds["thin"],
        "transcendental": large / max(seconds["exp"] - seconds["neg"], 0.3 * seconds["exp"]),
        "bandwidth": tiers,
        "scattered": far * 8.0 * large / max(seconds["turned"] - seconds["neg"], 0.1 * seconds["turned"]),
    }


def _cpu(base: Hardware) -> Hardware:
    """A CPU's rates: those of one thread, times the threads there are."""
    threads = torch.get_num_threads()
    alone = base.limited(1)
    with _one_thread("cpu"):
        figures = _rates("cpu", alone)
    one = replace(alone, **figures, half=figures["matrix"], memory=float(_memory()))  # type: ignore[arg-type]
    every = one.scaled(threads)
    *caches, memory = every.bandwidth
    (_, single), (_, together) = one.bandwidth[-1], (memory[0], _moving("cpu", memory[0]))
    return replace(every, bandwidth=(*caches, (memory[0], min(memory[1], max(single, together)))))


def _gpu(device: str) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(device)
    sides = [torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2)]
    wide = [torch.randn(4096, 4096, device=device) for _ in range(2)]
    return {
        "matrix": 2.0 * 4096**3 / _best(lambda: wide[0] @ wide[1], device),
        "processors": properties.multi_processor_count,
        "memory": float(properties.total_memory),
        "half": 2.0 * 8192**3 / _best(lambda: sides[0] @ sides[1], device),
    }


def _kernels(device: str, machine: Hardware) -> Hardware:
    """The machine with what starting a kernel of ours costs, and what a step of its chain waits: as much more or less
    than what ships as the walk of one head takes, whose steps are all that counts."""
    facts = Facts("bfloat16", 64, 64, "varying")
    short, long = chunk_of(facts), 60 * chunk_of(facts)

    def call(length: int, form: str = "walk") -> Callable[[], object]:
        query, key, value = (torch.randn(1, length, 1, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
        gate = -torch.rand(1, length, 1, device=device)
        return lambda: masked(query, key, value, gate, None, None, None, 1, False, form=form)

    def predicted(length: int) -> float:
        one = Call(1, length, 1, machine.processors, initial=False)
        return candidate(facts, one, forward(facts, one, "walk"), machine).cost.busy

    steps = alone(call(long)) - alone(call(short))
    slower = steps / (predicted(long) - predicted(short))
    one, three = (_best(call(8 * short, form), device) for form in ("walk", "segments"))  # kernels; the host is slower
    return replace(machine, kernel=max(three - one, 0.1 * one) / 2, latency=slower * machine.latency)


def _tiers(device: str, base: Hardware) -> tuple[tuple[float, float], ...]:
    """The bandwidth of each of the shipped profile's working sets; no smaller one is slower than a larger."""
    found: list[tuple[float, float]] = []
    for limit, _ in reversed(base.bandwidth):
        rate = _moving(device, limit)
        found.append((limit, max(rate, found[-1][1]) if found else rate))
    return tuple(reversed(found))


def _moving(device: str, limit: float) -> float:
    """Bytes a second through a working set just below `limit`: results of operations, none used again before all others
    are, in memory that is there; on a CPU without limit, in memory that is not."""
    whole, pieces = (min(0.8 * limit, 1e9), 8) if device == "cpu" else (min(0.8 * limit, 8e9), 1)
    values = [torch.randn(int(whole / 8 / pieces), device=device) for _ in range(pieces)]
    results = [torch.empty_like(x) for x in values]

    def through() -> None:
        if device == "cpu" and limit == INFINITE:
            results.clear()
            results.extend(x.neg() for x in values)
        else:
            for x, y in zip(values, results, strict=True):
                torch.neg(x, out=y)

    small = device != "cpu" and whole < 1e9  # a GPU is done before the next operation is started
    return 8.0 * sum(x.numel() for x in values) / (alone(through) if small else _best(through, device))


def _best(call: Callable[[], object], device: str) -> float:
    """The least seconds of a call over several short runs, of which another process disturbs few."""
    call()
    count = max(1, min(1000, int(BURST / max(timed(call, device, 1), 1e-7))))
    least = inf
    for _ in range(RUNS):
        settle()
        least = min(least, timed(call, device, count))
    return least


def _memory() -> int:
    """Bytes of memory that this machine has, or 16 GB where it does not tell."""
    try:
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, AttributeError, OSError):
        return 16 * 10**9
