"""Where the nodes of an acyclic graph stand in a drawing: in rows, operands above their readers.

In go sizes of boxes and edges; out come places of boxes and the points through which edges run. Rows are longest paths
from the top, sources moved down to their first reader; crossings are reduced by sweeps of barycentres (Sugiyama, Tagawa
and Toda 1981), and places within rows are least squares under the order found. Nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 12
GAP, ROW_GAP, THREAD = 18.0, 34.0, 4.0
"""Room between boxes of a row, between rows, and the width of an edge that passes a row."""

Edge = tuple[str, str]
Size = tuple[float, float]
Rows = list[list[str]]


@dataclass(frozen=True)
class Box:
    """A node's place: its upper left corner, width and height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True)
class Layout:
    """A drawing's size, its boxes, and for each edge its points from the source's lower to the target's upper side."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    edges: Mapping[Edge, tuple[tuple[float, float], ...]]


def lay_out(sizes: Mapping[str, Size], edges: Sequence[Edge]) -> Layout:
    """Places for boxes of these (width, height), given in a topological order.

    >>> found = lay_out({"a": (40, 20), "b": (40, 20), "c": (40, 20)}, [("a", "c"), ("b", "c")])
    >>> [(name, box.x, box.y) for name, box in found.boxes.items()]
    [('a', 0.0, 0.0), ('b', 58.0, 0.0), ('c', 29.0, 54.0)]
    """
    rank = _ranks(list(sizes), edges)
    links, chains = _threaded(rank, edges)
    widths = {name: size[0] for name, size in sizes.items()}
    widths |= {name: THREAD for link in links for name in link if name not in sizes}
    rows = _ordered(_rows(rank, links), links)
    left = _places(rows, links, widths)
    heights = [max(sizes[name][1] for name in row if name in sizes) for row in rows]
    tops = [sum(heights[:place]) + ROW_GAP * place for place in range(len(rows))]
    boxes, spots = {}, {}
    for row, top, height in zip(rows, tops, heights, strict=True):
        for name in row:
            width, own = sizes.get(name, (THREAD, height))
            box = Box(left[name], top + (height - own) / 2, width, own)
            spots[name] = box
            if name in sizes:
                boxes[name] = box
    paths = {edge: _points([spots[name] for name in chain]) for edge, chain in chains.items()}
    width = max((box.x + box.width for box in boxes.values()), default=0.0)
    return Layout(width, sum(heights) + ROW_GAP * max(0, len(rows) - 1), {name: boxes[name] for name in sizes}, paths)


def _ranks(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Each node's row: one below its lowest operand; a node without operands one above its highest reader."""
    rank = dict.fromkeys(names, 0)
    above: dict[str, list[str]] = {name: [] for name in names}
    below: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        above[target].append(source)
        below[source].append(target)
    for name in names:
        rank[name] = max((rank[source] + 1 for source in above[name]), default=0)
    for name in names:
        if not above[name] and below[name]:
            rank[name] = min(rank[target] for target in below[name]) - 1
    return rank


def _threaded(rank: Mapping[str, int], edges: Sequence[Edge]) -> tuple[list[Edge], dict[Edge, list[str]]]:
    """Edges cut into links from row to row, with threads standing in the rows that they pass."""
    links, chains = [], {}
    for source, target in dict.fromkeys(edges):
        threads = [f"{source}\0{target}\0{row}" for row in range(rank[source] + 1, rank[target])]
        chain = [source, *threads, target]
        links += list(pairwise(chain))
        chains[source, target] = chain
    return links, chains


def _rows(rank: Mapping[str, int], links: Sequence[Edge]) -> Rows:
    rows: Rows = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for name, row in rank.items():
        rows[row].append(name)
    for _, target in links:
        if target not in rank:
            rows[int(target.rpartition("\0")[2])].append(target)
    return rows


# ---- order within rows -----------------------------------------------------------------------------------------------


def _ordered(rows: Rows, links: Sequence[Edge]) -> Rows:
    """The rows with fewest crossings seen while sweeping down and up by the mean place of neighbours."""
    up: dict[str, list[str]] = {name: [] for row in rows for name in row}
    down: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for source, target in links:
        up[target].append(source)
        down[source].append(target)
    best, least = [list(row) for row in rows], crossings(rows, down)
    for sweep in range(SWEEPS):
        neighbours, order = (up, range(1, len(rows))) if sweep % 2 == 0 else (down, range(len(rows) - 2, -1, -1))
        for place in order:
            fixed = rows[place - 1 if neighbours is up else place + 1]
            at = {name: spot for spot, name in enumerate(fixed)}
            rows[place] = sorted(rows[place], key=_barycentre(rows[place], neighbours, at).__getitem__)
        found = crossings(rows, down)
        if found < least:
            best, least = [list(row) for row in rows], found
    return best


def _barycentre(row: Sequence[str], neighbours: Mapping[str, list[str]], at: Mapping[str, int]) -> dict[str, float]:
    """The mean place of each node's neighbours; a node without any stays beside the one before it."""
    found: dict[str, float] = {}
    last = 0.0
    for name in row:
        spots = [at[other] for other in neighbours[name]]
        last = found[name] = sum(spots) / len(spots) if spots else last
    return found


def crossings(rows: Rows, down: Mapping[str, Sequence[str]]) -> int:
    """The pairs of links between neighbouring rows that cross.

    >>> crossings([["a", "b"], ["c", "d"]], {"a": ["d"], "b": ["c"]})
    1
    """
    count = 0
    for upper, lower in pairwise(rows):
        at = {name: spot for spot, name in enumerate(lower)}
        ends = [spot for name in upper for spot in sorted(at[other] for other in down.get(name, ()))]
        count += sum(1 for place, end in enumerate(ends) for other in ends[:place] if other > end)
    return count


# ---- places within rows ----------------------------------------------------------------------------------------------


def _places(rows: Rows, links: Sequence[Edge], widths: Mapping[str, float]) -> dict[str, float]:
    """The left side of every node: rows packed, then drawn towards their neighbours by turns, the leftmost at zero."""
    near: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for source, target in links:
        near[source].append(target)
        near[target].append(source)
    middle: dict[str, float] = {}
    for row in rows:
        edge = 0.0
        for name in row:
            middle[name] = edge + widths[name] / 2
            edge += widths[name] + GAP
    for sweep in range(2 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [
                sum(middle[other] for other in near[name]) / len(near[name]) if near[name] else middle[name]
                for name in row
            ]
            middle.update(zip(row, spread(wanted, [widths[name] for name in row]), strict=True))
    left = {name: middle[name] - widths[name] / 2 for name in middle}
    least = min(left.values(), default=0.0)
    return {name: round(x - least, 1) for name, x in left.items()}


def spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The middles nearest to those wanted (least squares) that keep the order and the gaps: pooled violators.

    >>> spread([10.0, 10.0], [20.0, 20.0])
    [-9.0, 29.0]
    """
    offsets, room = [], 0.0
    for place, width in enumerate(widths):
        room += width / 2 + (GAP + widths[place - 1] / 2 if place else 0.0)
        offsets.append(room)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        pools.append((want - offset, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, count), (before, size) = pools.pop(), pools.pop()
            pools.append(((mean * count + before * size) / (count + size), count + size))
    shifts = [mean for mean, count in pools for _ in range(count)]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]


def _points(boxes: Sequence[Box]) -> tuple[tuple[float, float], ...]:
    first, *between, last = boxes
    inner = [point for box in between for point in ((box.middle, box.y), (box.middle, box.bottom))]
    return ((first.middle, first.bottom), *inner, (last.middle, last.y))
