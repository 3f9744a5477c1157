"""`ssdc tune`: Triton kernels beyond those of the cost model, checked, timed, and kept for later calls.

In goes a file and the sizes of calls; out come a table of what each call's contractions ask, what was tried and what
won, and entries in the user's cache (`ssdc.runtime.tuned`). Every candidate runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ssdc import pipeline
from ssdc.cli.bench import DeviceOption, Dtype, DtypeOption
from ssdc.cli.console import console, note
from ssdc.cli.measuring import Failure, apart
from ssdc.cli.options import BatchOption, FileArgument, LayerOption, SizeOption, parse_lengths, request
from ssdc.errors import CallError

if TYPE_CHECKING:
    from rich.table import Table

    from ssdc.runtime.tuning.search import Outcome
    from ssdc.runtime.tuning.trial import Case

LengthsOption = Annotated[
    str, typer.Option("-T", "--length", metavar="LOW..HIGH", help="Lengths: doubling from LOW to HIGH, or 300,1000.")
]
MostOption = Annotated[int, typer.Option("--most", min=1, max=10_000, help="Candidates for each pass.")]
LimitOption = Annotated[float, typer.Option("--limit", min=1.0, help="Seconds that a candidate may take.")]


def tune(
    file: FileArgument,
    length: LengthsOption = "4096",
    layer: LayerOption = None,
    size: SizeOption = None,
    batch: BatchOption = 1,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    most: MostOption = 40,
    limit: LimitOption = 60.0,
) -> None:
    """Search Triton kernels for calls of these sizes, beyond what the cost model chooses without timing anything.

    Forms, segments of time, chunks, tiles, warps and stages are tried, forwards and backwards, each in a process of its
    own. A candidate [bold]counts[/bold] if outputs and gradients agree with float64 element by element (16 u sum|terms|
    for fp32, 2 u sum|terms| for 16-bit types); what crashes, fails or disagrees is listed. A winner is kept in the
    user's cache ($SSDC_CACHE_DIR) for calls of exactly these sizes, on this device, with this version of Triton; a file
    that was changed there is refused with a warning.
    """
    lengths = parse_lengths(length)
    wanted = request(file, layer, size, complete=True)
    pipeline.check(wanted.source, wanted.layer, wanted.sizes, lenient=False)

    from ssdc.runtime.tuned import store
    from ssdc.runtime.tuning.asked import asked, where
    from ssdc.runtime.tuning.search import Outcome, search

    chosen, interpreted = where(device)
    if interpreted and dtype not in (None, Dtype.fp32):
        raise CallError("Triton's interpreter is wrong for 16-bit types; leave out --dtype")
    kind = dtype.value if dtype else "fp32" if interpreted else "bf16"
    compiled = pipeline.compile(wanted.source, wanted.layer, wanted.sizes, backend="triton", device=chosen)
    cases = asked(compiled, kind, chosen, [{"T": one, "b": batch} for one in lengths])
    if not cases:
        raise CallError(f"calls of {compiled.graph.layer} at these sizes run no kernel that has something to choose")
    found: list[tuple[Case, Outcome]] = []
    with console(stderr=True).status("tuning") as status:
        for case in cases:
            for place, one in enumerate(search(case, _apart(limit), most)):
                if isinstance(one, Outcome):
                    found.append((case, one))
                else:
                    status.update(f"{_name(case)}: candidate {place + 1} of up to {most + 1}")
            outcome = found[-1][1]
            if outcome.winner is not None and outcome.ms is not None:
                _keep(partial(store, case.request, outcome.winner, case.torch_device), outcome)
    console().print(_table(found, f"{compiled.graph.layer} on {chosen}, b={batch}"))
    for case, outcome in found:
        for line in _rejections(case, outcome):
            typer.echo(line)


def _apart(limit: float) -> Callable[[Callable[..., object], tuple[object, ...]], object]:
    """Runs functions in processes of their own; what ends or takes too long is rejected."""
    from ssdc.runtime.tuning.trial import Rejected

    def run(function: Callable[..., object], arguments: tuple[object, ...]) -> object:
        found = apart(function, arguments, limit, capped=False)
        return Rejected(found.reason) if isinstance(found, Failure) else found

    return run


def _keep(store: Callable[[dict[str, float]], object], outcome: Outcome) -> None:
    try:
        store({"ms": outcome.ms or 0.0, "rule_ms": outcome.rule_ms or 0.0})
    except OSError as error:
        note(f"the winner cannot be kept: {error.strerror or error}; set SSDC_CACHE_DIR to a directory of your own")


def _name(case: Case) -> str:
    return f"{case.request.kind}, T={case.request.call.length:,}"


def _table(found: list[tuple[Case, Outcome]], title: str) -> Table:
    from rich.table import Table

    from ssdc.runtime.tuning.candidates import described

    caption = "ms of calls in turn; -> what calls of these sizes run from now on"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("call", "kernels", "ms", "tried", "rejected"):
        table.add_column(heading, justify="left" if heading in ("call", "kernels") else "right")
    for case, outcome in found:
        won = outcome.winner is not None
        counts = (str(len(outcome.tried)), str(len(outcome.rejected)))
        rule = f"{'   ' if won else '-> '}the rule's: {described(outcome.rule)}"
        table.add_row(_name(case), rule, _ms(outcome.rule_ms), *counts)
        if outcome.winner is not None:
            table.add_row("", f"-> {described(outcome.winner)}", _ms(outcome.ms), style="bold")
        table.add_section()
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _rejections(case: Case, outcome: Outcome) -> list[str]:
    """A line for each reason, with how many candidates it holds for and the first of them."""
    from ssdc.runtime.tuning.candidates import described

    found: dict[str, list[str]] = {}
    for choice, reason in outcome.rejected:
        found.setdefault(reason, []).append(described(choice))
    return [
        f"rejected, {_name(case)}: {reason}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for reason, names in found.items()
    ]
