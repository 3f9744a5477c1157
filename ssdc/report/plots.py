"""Curves and rooflines as SVG for a page: text stays text, and takes the page's colour, on light and dark.

In go values; out comes markup. Colours are Okabe and Ito's, and every ordering has a marker besides. Importing this
imports matplotlib.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ssdc.markup import Html
from ssdc.plan.comparison import Series, crossovers
from ssdc.plan.explain.data import Equation
from ssdc.plan.hardware import Hardware
from ssdc.report.style import short, styles

INK = "#010203"
"""Stands for the page's own colour until the text is written."""
SIZE = (4.1, 3.3)
"""Inches: small, so that letters stay large on a phone."""


def curves(title: str, axis: str, series: Series, name: str, dashed: Series | None = None) -> Html:
    """Seconds over a size, log-log, circles where another line becomes the least; `dashed` are predictions of lines of
    the same names. `name` makes ids unique."""
    figure, axes = _axes(title, axis, "ms")
    names = list(dict.fromkeys((*series, *(dashed or {}))))
    for one, (colour, marker) in styles(names).items():
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
        if one in series:  # a legend leaves out labels that begin with "_", but for the space
            axes.plot(*_ms(series[one]), linewidth=1.6, label=f" {one}", **look)
        if dashed and one in dashed:
            label = None if one in series else f" {one}, predicted"
            axes.plot(*_ms(dashed[one]), linewidth=1.0, linestyle="--", markerfacecolor="none", label=label, **look)
    sizes = sorted({x for points in (*series.values(), *(dashed or {}).values()) for x, _ in points})
    shown = sizes[:: max(1, math.ceil(len(sizes) / 6))]
    axes.set_xticks(shown, [short(x) for x in shown])
    axes.xaxis.minorticks_off()
    for crossing in crossovers(series):
        if crossing.least:
            axes.axvline(crossing.at, color=INK, linewidth=0.8, linestyle=":", alpha=0.6)
            axes.plot([crossing.at], [1e3 * crossing.value], "o", markersize=11, fillstyle="none", color=INK)
    return _markup(figure, name)


def _ms(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [1e3 * y for _, y in points]


def roofline(title: str, equation: Equation, machine: Hardware, name: str) -> Html:
    """The candidates of an equation under what a machine can do: operations a byte against operations a second."""
    figure, axes = _axes(title, "FLOP a byte moved", "GFLOP/s")
    shown = {one.order: one for one in reversed(equation.candidates) if one.flop and one.bytes}
    spots = {order: (one.flop / one.bytes, one.flop / one.seconds / 1e9) for order, one in shown.items()}
    memory = machine.bandwidth[-1][1]
    ridge = machine.matrix / memory
    across = [ridge, *(x for x, _ in spots.values())]
    xs = [min(across) / 4, ridge, max(across) * 4]
    axes.plot(xs, [min(machine.matrix, memory * x) / 1e9 for x in xs], color=INK, linewidth=1.6)
    cache = machine.bandwidth[0][1]
    if cache > memory:
        ends = [xs[0], machine.matrix / cache]
        axes.plot(ends, [cache * x / 1e9 for x in ends], color=INK, linewidth=1.0, linestyle="--")
        _note(axes, "cache", (xs[0], cache * xs[0] / 1e9), (10, -2), "left")
    _note(axes, "memory", (xs[0], memory * xs[0] / 1e9), (10, -2), "left")
    _note(axes, "matrix products", (xs[2], machine.matrix / 1e9), (0, 5), "right")
    looks = styles(list(spots))
    for order, (x, y) in spots.items():
        colour, marker = looks[order]
        chosen = shown[order].chosen
        axes.plot([x], [y], color=colour, marker=marker, markersize=8, linewidth=0, label=f" {shown[order].name}")
        if chosen:
            axes.plot([x], [y], marker="o", markersize=15, fillstyle="none", color=INK, linewidth=0)
    return _markup(figure, name)


def _note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], side: str) -> None:
    axes.annotate(text, at, xytext=offset, textcoords="offset points", ha=side, color=INK, fontsize=9)


def _axes(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log")
    axes.set_title(title, loc="left", fontsize=11, color=INK).set_parse_math(False)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(visible=True, which="major", color="#888888", linewidth=0.5, alpha=0.35)
    axes.patch.set_alpha(0)
    return figure, axes


def _markup(figure: Figure, name: str) -> Html:
    """A figure with its legend below, as an SVG element whose ids begin with `name`."""
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    if high < 30 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
    legend = figure.legend(
        loc="outside lower center",
        ncols=3 if longest < 14 else 2 if longest < 24 else 1,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    for label in legend.get_texts():
        label.set_parse_math(False)
    out = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return inlined(text[text.index("<svg") :], name)


def inlined(svg: str, name: str) -> Html:
    """An SVG file's element as part of a page: no style sheet that leaks, own ids, the page's colour and font."""
    for pattern, new in CHANGES:
        svg = re.sub(pattern, new, svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return Html(svg.replace("<svg ", '<svg class="plot" stroke-linejoin="round" role="img" ', 1).strip())


CHANGES: Sequence[tuple[str, str]] = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),
    (r"<!--.*?-->", ""),
    (r"font: ([^;\"]*?)px[^;\"]*", r"font-size: \1px"),
    (r"; font-family: [^;\"]*", ""),
)
"""What is taken out of matplotlib's SVG: where it comes from, styles for all of the page, comments, font families."""
