"""Work in processes of their own: for a peak of memory that is the call's, and so that a call too large harms nobody.

In goes a call; out comes what it measured, or why it could not be. Processes are forked from a server that has imported
torch and run nothing, so that each starts in hundredths of a second, with threads and memory of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdc import pipeline
from ssdc.errors import SsdcError
from ssdc.source import Source

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ssdc.runtime.measure import Measured
    from ssdc.runtime.module import Layer

START = 60.0
"""Seconds that a process may take to start."""
PRELOADED = ["ssdc.cli.main", "ssdc.runtime.measure", "ssdc.runtime.tuning.trial", "torch._dynamo.convert_frame"]
"""What the server imports once for all processes; the last is what torch imports in a first call, for a second."""


@dataclass(frozen=True)
class Call:
    """A layer in an ordering, and the shape of a call of it."""

    source: Source
    layer: str | None
    layer_sizes: dict[str, int]
    order: dict[str, str] = field(default_factory=dict)
    chunk: dict[str, int] = field(default_factory=dict)
    batch: int = 1
    length: int = 1
    backward: bool = False
    threads: int | None = None

    def compile(self) -> Layer:
        """The layer, through torch."""
        return pipeline.compile(
            self.source,
            self.layer,
            self.layer_sizes,
            order=self.order or "auto",
            chunk=self.chunk or None,
            backend="torch",
        )


@dataclass(frozen=True)
class Failure:
    """Why nothing was measured."""

    reason: str


def measure(call: Call, exact: Path | None, seconds: float) -> Measured | Failure:
    """Time, memory and error of a call; a failure if it takes longer than `seconds`."""
    found: Measured | Failure = apart(_measure, (call, exact), seconds)
    return found


def write_reference(call: Call, file: Path, seconds: float) -> Failure | None:
    """Writes what calls are compared with into a file."""
    found: Failure | None = apart(_write_reference, (call, file), seconds)
    return found


def _measure(call: Call, exact: Path | None) -> Measured:
    from ssdc.runtime.measure import measure

    return measure(call.compile, exact, call.length, call.batch, backward=call.backward, threads=call.threads)


def _write_reference(call: Call, file: Path) -> None:
    from ssdc.runtime.measure import write_reference

    def define() -> Any:
        return pipeline.reference(call.source, call.layer, call.layer_sizes)

    write_reference(call.compile, define, file, call.length, call.batch)


def apart(function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float, *, capped: bool = True) -> Any:
    """What a function returns in a process of its own, or a Failure; `capped`, that process may take half of the free
    memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, function, arguments, capped), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(START):
            return Failure(f"no process started within {START:.0f} s")
        here.recv()
        if not here.poll(seconds):
            return Failure(f"it took longer than {seconds:.0f} s")
        return here.recv()
    except EOFError:
        process.join()
        return Failure(f"its process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()
        here.close()


def _work(there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], capped: bool) -> None:
    there.send(None)
    allowed = _limit_memory() if capped else 0
    try:
        there.send(function(*arguments))
    except (MemoryError, RuntimeError) as error:
        full = capped and (isinstance(error, MemoryError) or "allocate" in str(error))
        short = f"it needs more than half of the free memory, {allowed / 1e9:.1f} GB"
        there.send(Failure(short if full else str(error).strip().splitlines()[0]))
    except SsdcError as error:
        there.send(Failure(str(error)))


def _limit_memory() -> int:
    """Lets this process allocate half of the machine's free memory more than it has; the bytes that this is."""
    free = free_memory()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + free // 2, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return free // 2


def free_memory() -> int:
    """The bytes of memory that the system could hand out now."""
    rows = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(row.split()[1]) for row in rows if row.startswith("MemAvailable:"))
