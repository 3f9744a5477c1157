"""The devices of this process: which one a command takes, what it is called, how many threads serve a CPU, and what a
GPU does by itself.

In: names as users give them. Out: names as PyTorch takes them. Torch is asked here so that commands need not import it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST, BURST, REPLAYS = 50, 4e-3, 9
"""Calls that a CUDA graph holds at most, their seconds in all, and its replays of which the least counts."""


def device_of(wanted: str | None) -> str | None:
    """The device asked for, or a GPU if there is one, else the CPU; None where there is no such device."""
    there = torch.cuda.is_available()
    if wanted is None:
        return "cuda" if there else "cpu"
    if wanted == "cpu":
        return wanted
    known = [f"cuda:{place}" for place in range(torch.cuda.device_count())] if there else []
    return wanted if wanted in ("cuda", *known) and known else None


def name_of(device: str) -> str:
    """What the driver calls a device; empty for the CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


def threads(wanted: int | None = None) -> int:
    """The threads that PyTorch has on a CPU, set first where a number is given."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def captured(call: Callable[[], object], count: int) -> torch.cuda.CUDAGraph:
    """A CUDA graph of so many calls; one was made before, so that all is compiled."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    return graph


def alone(call: Callable[[], object]) -> float:
    """Seconds that a call takes of a GPU, its host left out: the least over replays of a CUDA graph of many."""
    call()
    count = max(1, min(MOST, int(BURST / _elapsed(call))))
    graph = captured(call, count)
    graph.replay()
    return min(_elapsed(graph.replay) for _ in range(REPLAYS)) / count


def _elapsed(call: Callable[[], object]) -> float:
    """Seconds between events before and after a call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
