"""The `ssdc` command: a table of commands, and what every one of them does with an error.

In goes `sys.argv`; out come text on stdout, diagnostics and progress on stderr, and an exit status: 0 for success, 1
for a program that is wrong (or a check of it that failed), 2 for a command line that is wrong. Nothing here compiles
anything, and no heavy package is imported before the command that needs it runs: `ssdc check` takes tenths of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from ssdc.cli.bench import bench
from ssdc.cli.calibrate import calibrate
from ssdc.cli.check import check
from ssdc.cli.compare import compare
from ssdc.cli.console import complain
from ssdc.cli.eject import eject
from ssdc.cli.explain import explain
from ssdc.cli.show import show
from ssdc.cli.tune import tune
from ssdc.cli.verify import verify
from ssdc.errors import SsdcError

COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "show": show,
    "explain": explain,
    "compare": compare,
    "verify": verify,
    "bench": bench,
    "tune": tune,
    "calibrate": calibrate,
    "eject": eject,
}


class Commands(TyperGroup):
    """A group that turns every `SsdcError` into its text on stderr and exit status 1, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SsdcError as error:
            complain(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="[bold]ssdc[/bold] compiles layers written in index notation with structured masks.\n\n"
    "A program says [italic]what[/italic] a layer computes. The compiler finds the legal orderings of the computation "
    "(recurrent, quadratic, chunked, ...), prices them, and emits the cheapest.",
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """The console script."""
    app(prog_name="ssdc")
