"""What lines look like in every plot: a colour that colour-blind readers can tell apart, and a marker besides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import cycle

ORDERINGS: Mapping[str, tuple[str, str]] = {
    "chunked": ("#0072B2", "s"),
    "recurrent": ("#D55E00", "o"),
    "quadratic": ("#009E73", "^"),
    "scan": ("#CC79A7", "D"),
    "fft": ("#56B4E9", "v"),
    "direct": ("#E69F00", "P"),
}
"""The colour (Okabe and Ito's, without the yellow, too pale on white, and black) and the marker of an ordering."""


def ordering_style(name: str) -> tuple[str, str] | None:
    """The colour and marker of an ordering, of several at once the last's; none for another name.

    >>> ordering_style("direct + chunked(64)") == ordering_style("chunked")
    True
    """
    words = [word for word in re.split(r"\W+", name) if word in ORDERINGS]
    return ORDERINGS[words[-1]] if words else None


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour and marker of each line: its ordering's, unless a line before it has that; else the next that is free.

    >>> styles(["chunked", "peer"])
    {'chunked': ('#0072B2', 's'), 'peer': ('#D55E00', 'o')}
    """
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        own = ordering_style(name)
        if own is not None and own not in found.values():
            found[name] = own
    colours, markers = zip(*ORDERINGS.values(), strict=True)
    count = len(ORDERINGS)
    every = [(colours[k], markers[(k + turn) % count]) for turn in range(count) for k in range(count)]
    free = [look for look in every if look not in found.values()]
    rest = [name for name in names if name not in found]
    found |= dict(zip(rest, cycle(free), strict=False))
    return {name: found[name] for name in names}


def short(size: int) -> str:
    """A size for a tick.

    >>> short(4096), short(300)
    ('4K', '300')
    """
    return f"{size // 1024}K" if size % 1024 == 0 and size else str(size)
