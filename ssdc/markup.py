"""HTML and SVG as text in which nothing is left unescaped: elements come from `element`, all other text is data.

In go a tag, attributes and children; out comes `Html`, which templates and other elements take as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is markup already."""

    __slots__ = ()

    def __html__(self) -> str:
        """The protocol by which Jinja knows that it need not escape this."""
        return str(self)


VOID = frozenset({"br"})
"""Elements without content or an end."""


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element; children and attributes that are None are left out, `_` in an attribute's name stands for `-`.

    >>> element("p", "a < b", element("b", 1.5), class_="x", aria_label='"')
    '<p class="x" aria-label="&quot;">a &lt; b<b>1.5</b></p>'
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{given}>" if tag in VOID else f"<{tag}{given}>{join(*children)}</{tag}>")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table; cells are escaped unless they are markup.

    >>> table(["a"], [["<"]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;</td></tr></tbody></table>'
    """
    head = element("tr", *(element("th", heading) for heading in headings))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("table", element("thead", head), element("tbody", *body))


def join(*parts: object) -> Html:
    """Markup one after another, None left out and other text escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(_text(part)) for part in parts if part is not None))


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
