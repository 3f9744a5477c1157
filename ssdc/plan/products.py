"""The work of a product of tensors in the pairwise order that the search found, as PyTorch evaluates it.

In: a path, its operands with their axes as they lie in memory, and sizes. Out: the `Work` of each operation. An einsum
brings its operands to [batch, rows, summed] and [batch, summed, columns]: an operand whose memory does not read so is
copied first, against its order. Elementwise products run in the order of the larger operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from ssdc.plan.cost import Work
from ssdc.plan.search import Operands, Path

ITEM = 4.0
"""Bytes of an entry: masked contractions are computed in float32."""
EINSUM = 6.5
"""Operations that `torch.einsum` starts: views, the product, and its own work on the equation."""
SMALL = 400.0
"""Multiply-adds below which `torch.bmm` runs plain loops."""
FAR, PAGE = 3.2, 4096.0
"""What an entry costs that lies on another page of so many bytes than its neighbour, next to one on the same."""
COPY = 1.3
"""Further ones for an operand that is copied."""
DIFFERENTIATED = 2.0
"""Operations of the derivative of an einsum, as multiples of its own."""


def works(path: Path, operands: Operands, sizes: Mapping[str, int], *, gradient: bool) -> tuple[Work, ...]:
    """The operations of a path, each with its derivative where `gradient` is set."""
    return laid(path, operands, sizes, gradient=gradient)[0]


def laid(
    path: Path, operands: Operands, sizes: Mapping[str, int], *, gradient: bool
) -> tuple[tuple[Work, ...], tuple[str, ...]]:
    """As `works`, and the axes of the result as they lie in memory."""
    lying = dict(operands)
    made: list[Work] = []
    for step in path.steps:
        left = lying[step.left]
        if step.right:
            found, memory = _pair(left, lying[step.right], step.axes, sizes, gradient)
        else:
            found, memory = _summed(left, step.axes, sizes, gradient)
        made += found
        lying[step.result] = memory
    return tuple(made), lying["out"]


def moved(
    memory: Sequence[str], wanted: Sequence[str], joined: Sequence[str], sizes: Mapping[str, int], *, gradient: bool
) -> Work:
    """A value brought to the order `wanted`, where the adjacent axes `joined` become one: a copy, or nothing where they
    lie so."""
    if runs(memory, joined, sizes):
        return pointwise(0.0, 0.0, gradient=gradient, launches=2)
    against = _against(memory, _fastest(wanted, sizes), sizes)
    entries = _count(wanted, sizes)
    work = pointwise(entries, 2.0, gradient=gradient, launches=3, scattered=2.0 * against)
    rows = entries / alike(memory, wanted, wanted, sizes)
    return replace(work, rows=rows)


def pointwise(
    entries: float,
    moved: float,
    *,
    gradient: bool,
    exponentials: float = 0.0,
    launches: float = 1.0,
    scattered: float = 0.0,
    result: float = 1.0,
    back: float = 1.0,
) -> Work:
    """Elementwise operations on `entries`: `moved` float32 numbers an entry in and out of memory over all `launches`
    operations, of which `scattered` against its order, and `result` numbers an entry kept. The derivative moves `back`
    times as much.

    >>> pointwise(100, 3, gradient=False).bytes
    1200.0
    """
    grown, more = (1.0 + back, 1.0 + back) if gradient else (1.0, 1.0)
    size = ITEM * entries
    return Work(
        vector=entries * launches * grown,
        transcendental=entries * exponentials,
        bytes=size * moved * grown,
        scattered=size * scattered * grown,
        launches=launches * more,
        nodes=launches if gradient else 0.0,
        fresh=size * result * grown,
        workspace=size * result * grown,
        touched=size * moved / max(1.0, launches),
        largest=size if result else 0.0,
        entries=entries,
    )


def _pair(
    left: Sequence[str], right: Sequence[str], out: Sequence[str], sizes: Mapping[str, int], gradient: bool
) -> tuple[list[Work], tuple[str, ...]]:
    made: list[Work] = []
    for one, other in ((left, right), (right, left)):
        kept = tuple(axis for axis in one if axis in out or axis in other)
        if len(kept) < len(one):
            found, memory = _summed(one, kept, sizes, gradient)
            made += found
            left, right = (memory, right) if one is left else (left, memory)
    inner = tuple(axis for axis in left if axis not in out)
    rows = tuple(axis for axis in out if axis in left and axis not in right)
    columns = tuple(axis for axis in out if axis in right and axis not in left)
    batch = tuple(axis for axis in out if axis in left and axis in right)
    if inner and (rows or columns):
        made.append(_einsum(left, right, (batch, rows, columns, inner), sizes, gradient))
        return made, (*batch, *rows, *columns)
    work, memory = _multiplied(left, right, (*out, *inner), sizes, gradient)
    made.append(work)
    if inner:
        found, memory = _summed(memory, out, sizes, gradient)
        made += found
    return made, memory


def _multiplied(
    left: Sequence[str], right: Sequence[str], out: Sequence[str], sizes: Mapping[str, int], gradient: bool
) -> tuple[Work, tuple[str, ...]]:
    """An elementwise product, and how its result lies."""
    longer = left if _count(left, sizes) >= _count(right, sizes) else right
    memory = tuple(longer) if set(longer) == set(out) else tuple(out)
    entries = _count(out, sizes)
    read = _count(left, sizes) + _count(right, sizes)
    fast = _fastest(memory, sizes)
    against = max(_against(one, fast, sizes) for one in (left, right))
    passed = (read + entries) / entries
    reduced = sum(1.0 for one in (left, right) if _count(one, sizes) < entries)
    back = 2.0 + reduced / passed
    work = pointwise(entries, passed, gradient=gradient, scattered=passed * against, back=back)
    rows = entries / alike(left, right, memory, sizes)
    return replace(work, rows=rows * (1.0 + back if gradient else 1.0)), memory


def alike(left: Sequence[str], right: Sequence[str], memory: Sequence[str], sizes: Mapping[str, int]) -> int:
    """Neighbours in memory in which each of two operands has one entry or neighbours, too: a row of a loop."""
    row, before = 1, None
    places = [[axis for axis in one if sizes[axis] > 1] for one in (left, right)]
    for axis in reversed([axis for axis in memory if sizes[axis] > 1]):
        found = tuple(bool(one) and one[-1] == axis if axis in one else None for one in places)
        single = tuple(neighbours is None for neighbours in found)
        if False in found or before not in (None, single):
            return row
        before = single
        for one in places:
            if one and one[-1] == axis:
                one.pop()
        row *= sizes[axis]
    return row


def multiplied(many: float, height: float, width: float, depth: float) -> Work:
    """The multiply-adds of `torch.bmm`: `many` products [height, depth] x [depth, width]."""
    flops = 2.0 * many * height * width * depth
    thin = width == 1 or height * width * depth < SMALL
    if thin:
        return Work(thin=flops, side=min(height, depth), entries=flops)
    return Work(matrix=flops, side=min(width, depth), entries=flops)


def _einsum(
    left: Sequence[str],
    right: Sequence[str],
    groups: tuple[tuple[str, ...], ...],
    sizes: Mapping[str, int],
    gradient: bool,
) -> Work:
    batch, rows, columns, inner = groups
    many, height, width, depth = (float(_count(group, sizes)) for group in groups)
    sides = (many * height * depth, many * depth * width, many * height * width)
    copied, against, largest = 0.0, 0.0, 0.0
    launches = EINSUM
    for memory, size, target in ((left, sides[0], (batch, rows, inner)), (right, sides[1], (batch, inner, columns))):
        if not _lies(memory, target, sizes):
            launches += COPY
            copied += size
            largest = max(largest, size)
            order = tuple(axis for group in target for axis in group)
            against += size * _against(memory, _fastest(order, sizes), sizes)
    back = 2.0 * sides[2] if gradient else 0.0
    passed = ITEM * sum(sides)
    grown = 1.0 + DIFFERENTIATED if gradient else 1.0
    return replace(
        multiplied(many, height, width, depth).times(grown),
        bytes=passed * grown + ITEM * (2.0 * copied + back),
        scattered=ITEM * (2.0 * against + back),
        launches=launches * grown,
        nodes=launches if gradient else 0.0,
        fresh=ITEM * (sides[2] + copied) * grown,
        workspace=ITEM * (sides[2] + copied) * grown,
        touched=passed,
        largest=ITEM * (max(sides) if gradient else max(sides[2], largest)),
    )


def _summed(
    memory: Sequence[str], out: Sequence[str], sizes: Mapping[str, int], gradient: bool
) -> tuple[list[Work], tuple[str, ...]]:
    """A value summed over the axes that `out` lacks, and how the result lies."""
    kept = tuple(axis for axis in memory if axis in out)
    if len(kept) == len(memory):
        return [], kept
    entries = _count(memory, sizes)
    share = _count(kept, sizes) / entries
    return [pointwise(entries, 1.0 + share, gradient=gradient, result=share)], kept


def _lies(memory: Sequence[str], target: tuple[Sequence[str], ...], sizes: Mapping[str, int]) -> bool:
    """Whether memory reads as [batch, .., ..] without a copy: each group one run of it, and the fastest axis not in the
    batch."""
    return all(runs(memory, group, sizes) for group in target) and _fastest(memory, sizes) not in target[0]


def runs(memory: Sequence[str], group: Sequence[str], sizes: Mapping[str, int]) -> bool:
    """Whether the axes of a group follow one another in memory, those of one entry left out."""
    order = [axis for axis in memory if sizes[axis] > 1]
    places = [order.index(axis) for axis in group if sizes[axis] > 1]
    return not places or places == list(range(places[0], places[0] + len(places)))


def _against(memory: Sequence[str], fast: str, sizes: Mapping[str, int]) -> float:
    """How much reading a tensor with `fast` as the fastest axis goes against its order in memory: not at all, within a
    page, or from page to page, where each entry costs as much as `FAR` near ones."""
    if fast not in memory or _fastest(memory, sizes) in (fast, ""):
        return 0.0
    stride = ITEM * _count(memory[memory.index(fast) + 1 :], sizes)
    return FAR if stride >= PAGE else 1.0


def _fastest(memory: Sequence[str], sizes: Mapping[str, int]) -> str:
    """The axis along which neighbours in memory lie."""
    return next((axis for axis in reversed(memory) if sizes[axis] > 1), "")


def _count(axes: Sequence[str], sizes: Mapping[str, int]) -> int:
    return prod(sizes[axis] for axis in axes)
