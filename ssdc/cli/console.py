"""Where text goes: results to stdout, complaints and notes to stderr, colour only where a terminal shows it.

Takes text, errors and rich renderables; decides nothing about their content.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, TextIO

import typer

from ssdc.errors import SpecError, SsdcError

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160
_LABEL = re.compile(r"error\[E\d+\]|(?<== )help(?=:)")


def complain(error: SsdcError) -> None:
    """Prints an error to stderr: the diagnostics of a `SpecError` as rendered, and how many there are."""
    text = str(error)
    if isinstance(error, SpecError):
        count = len(error.faults)
        text += f"\n\n{error.source.name}: {count} error{'s' if count != 1 else ''}"
    else:
        text = f"error: {text}"
    if _colourful(sys.stderr):
        text = _LABEL.sub(lambda match: typer.style(match.group(), bold=True, fg="red"), text)
    typer.echo(text, err=True)


def note(text: str) -> None:
    """Prints a remark to stderr, so that what is piped from stdout stays clean."""
    typer.echo(f"note: {text}", err=True)


def console(*, stderr: bool = False) -> Console:
    """A rich console that neither wraps nor cuts a table when it is piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH, highlight=False)


def _colourful(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
