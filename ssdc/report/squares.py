"""Masks as pictures: a grid of squares, darker for larger values, empty where the structure has a zero.

In go a mask's statement and its values; out come SVG elements and the formulas of its structures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssdc.markup import Html, element

SIDE = 10
FORMULAS: Mapping[str, str] = {
    "full": "M[t,s] = 1",
    "causal": "M[t,s] = 1 for s ≤ t",
    "strict": "M[t,s] = 1 for s < t",
    "decay": "M[t,s] = a^(t-s) for s ≤ t",
    "semiseparable": "M[t,s] = a[s+1] · … · a[t] for s ≤ t",
    "band": "M[t,s] = 1 for 0 ≤ t-s < w",
    "toeplitz": "M[t,s] = k[t-s] for 0 ≤ t-s < J",
    "conv": "M[t,s] = w[J-1-(t-s)] for 0 ≤ t-s < J",
    "documents": "M[t,s] = 1 where doc[t] = doc[s]",
    "fenwick": "M[t,s] = λ[t, level(t,s)] for s ≤ t",
    "dense": "M[t,s] = m[t,s], given",
}
"""What each structure is, run forwards and not strict."""
MIRRORED, STRICT = "time mirrored", "without the reader's own gate, and s < t"


def formula(name: str, flags: Sequence[str]) -> str:
    """A structure's formula, with what its flags change.

    >>> formula("causal", ("reverse",))
    'M[t,s] = 1 for s ≤ t, time mirrored'
    """
    changes = {"reverse": MIRRORED, "strict": STRICT}
    return ", ".join([FORMULAS[name], *(changes[flag] for flag in flags)])


def squares(rows: Sequence[Sequence[float]], label: str) -> Html:
    """M[t,s], t downwards and s to the right: opacity by |value| over the largest, a bar in squares below zero."""
    count = len(rows)
    most = max((abs(value) for row in rows for value in row), default=0.0) or 1.0
    parts: list[Html] = []
    for t, row in enumerate(rows):
        for s, value in enumerate(row):
            if value:
                parts.extend(_square(t, s, value, most))
    edge = count * SIDE
    frame = element("rect", x=0, y=0, width=edge, height=edge, fill="none", stroke="currentColor", stroke_opacity=0.35)
    return element(
        "svg",
        element("title", label),
        frame,
        *parts,
        viewBox=f"-1 -1 {edge + 2} {edge + 2}",
        width=edge + 2,
        height=edge + 2,
        role="img",
        aria_label=label,
    )


def _square(t: int, s: int, value: float, most: float) -> list[Html]:
    x, y = s * SIDE, t * SIDE
    told = element("title", f"M[{t},{s}] = {value:.3g}")
    strength = round(0.08 + 0.92 * abs(value) / most, 3)
    found = [
        element(
            "rect",
            told,
            x=x + 0.5,
            y=y + 0.5,
            width=SIDE - 1,
            height=SIDE - 1,
            class_="below" if value < 0 else "above",
            fill_opacity=strength,
        )
    ]
    if value < 0:
        y += SIDE // 2
        found.append(element("line", x1=x + 3, y1=y, x2=x + SIDE - 3, y2=y, stroke="currentColor"))
    return found
