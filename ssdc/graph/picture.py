"""A graph drawn as SVG: what each tensor is shows in shape, colour and word, and works on light and dark pages.

In goes a graph, with a word for nodes that deserve one; out comes markup that stands alone in any page. Text is
`currentColor`; nothing but the picture's own attributes styles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ssdc.graph import nodes as ir
from ssdc.graph.draw import Drawn, describe
from ssdc.graph.layout import Box, lay_out
from ssdc.graph.nodes import operands
from ssdc.markup import Html, element

LINE, PAD, WIDE, NARROW = 15.0, 7.0, 7.3, 6.2
"""Heights of lines of text and of the room about them, and the widths of a letter, large and small."""
LONGEST = 30
"""Letters of a description that are shown."""
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
COLOURS: Mapping[type[ir.Node], str] = {
    ir.Input: "#56B4E9",
    ir.Parameter: "#E69F00",
    ir.Mask: "#CC79A7",
    ir.Contraction: "#009E73",
}
"""Okabe and Ito's colours by what a tensor is; all others are grey."""
OTHER = "#888888"


def to_svg(graph: Drawn, words: Mapping[str, str] | None = None) -> Html:
    """The graph as an SVG element as wide as it needs; `words` are shown with their nodes."""
    words = words or {}
    texts = {name: _lines(graph.nodes[name], words.get(name)) for name in graph.order}
    sizes = {name: _size(lines) for name, lines in texts.items()}
    edges = [(a, name) for name in graph.order for a in operands(graph.nodes[name])]
    found = lay_out(sizes, edges)
    width, height = found.width + 4, found.height + 4
    parts = [_edge(points) for points in found.edges.values()]
    parts += [_node(graph, name, texts[name], box) for name, box in found.boxes.items()]
    return element(
        "svg",
        element("title", f"contraction graph of {graph.layer}"),
        element("g", *parts, transform="translate(2 2)"),
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"The contraction graph of {graph.layer}: {len(texts)} tensors, operands above their readers.",
        font_family=FONT,
    )


def _lines(node: ir.AnyNode, word: str | None) -> tuple[str, ...]:
    """The name with its axes, what the node is, and its word."""
    what = describe(node)
    short = what if len(what) <= LONGEST else what[: LONGEST - 1] + "…"
    name = node.name if node.name.endswith("]") else f"{node.name}[{','.join(node.axes)}]"
    return (name, short, *([word] if word else []))


def _size(lines: tuple[str, ...]) -> tuple[float, float]:
    letters = max(len(lines[0]) * WIDE, *(len(line) * NARROW for line in lines[1:]))
    return round(letters + 4 * PAD, 1), LINE * len(lines) + 2 * PAD


def _node(graph: Drawn, name: str, lines: tuple[str, ...], box: Box) -> Html:
    node = graph.nodes[name]
    colour = COLOURS.get(type(node), OTHER)
    result = any(one.node == name for one in graph.results)
    style = {"fill": colour, "fill_opacity": 0.16, "stroke": colour, "stroke_width": 3 if result else 1.5}
    middle, top = round(box.middle, 1), box.y + PAD
    text = [
        element(
            "text",
            line,
            x=middle,
            y=top + LINE * place + 11,
            text_anchor="middle",
            fill="currentColor",
            font_size=12 if place == 0 else 10,
            font_weight="bold" if place != 1 else None,
            fill_opacity=0.8 if place == 1 else None,
        )
        for place, line in enumerate(lines)
    ]
    title = f"{lines[0]} = {describe(node)}" + (", an output" if result else "")
    return element("g", element("title", title), *_shape(node, box, style), *text)


def _shape(node: ir.AnyNode, box: Box, style: Mapping[str, object]) -> list[Html]:
    x, y, width, height = (round(value, 1) for value in (box.x, box.y, box.width, box.height))
    match node:
        case ir.Mask():
            cut, right, low = 10.0, x + width, y + height
            corners = ((x + cut, y), (right - cut, y), (right, y + height / 2), (right - cut, low), (x + cut, low))
            points = " ".join(f"{a:g},{b:g}" for a, b in (*corners, (x, y + height / 2)))
            return [element("polygon", points=points, **style)]
        case ir.Contraction():
            inner = element(
                "rect", x=x + 4, y=y + 4, width=width - 8, height=height - 8, fill="none", stroke=style["stroke"]
            )
            return [element("rect", x=x, y=y, width=width, height=height, **style), inner]
        case ir.Input():
            return [element("rect", x=x, y=y, width=width, height=height, rx=height / 2, **style)]
        case ir.Parameter():
            return [element("rect", x=x, y=y, width=width, height=height, rx=3.0, stroke_dasharray="6 3", **style)]
        case _:
            return [element("rect", x=x, y=y, width=width, height=height, rx=3.0, **style)]


def _edge(points: tuple[tuple[float, float], ...]) -> Html:
    """A curve that leaves downwards and arrives downwards, with an arrow's head."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (after, low) in pairwise(points):
        bend = (low - y) / 2
        parts.append(f"C{x:.1f} {y + bend:.1f} {after:.1f} {low - bend:.1f} {after:.1f} {low:.1f}")
    x, y = points[-1]
    style = {"stroke": "currentColor", "stroke_opacity": 0.5}
    head = element("path", d=f"M{x - 4:.1f} {y - 7:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y - 7:.1f}", fill="none", **style)
    return element("g", element("path", d="".join(parts), fill="none", stroke_width=1.2, **style), head)
