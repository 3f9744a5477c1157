"""In which order to contract the operands of one term, two at a time: the fewest multiplications.

In: the labels of each operand, those of the result, and sizes. Out: pairs of positions, in the manner of opt_einsum
(operands are taken out, the result is appended), and the size of the largest intermediate. Exact by dynamic programming
over subsets for few operands, otherwise always the pair with the smallest result.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import prod

Labels = tuple[str, ...]
Pairs = tuple[tuple[int, int], ...]
EXACT_UP_TO = 7


@lru_cache(maxsize=4096)
def contraction_path(
    operands: tuple[Labels, ...], out: Labels, sizes: tuple[tuple[str, int], ...]
) -> tuple[Pairs, int]:
    """The pairs to contract, and the number of elements of the largest intermediate (operands left out).

    >>> contraction_path((("t", "n"), ("s", "n"), ("s", "p")), ("t", "p"), (("t", 9), ("s", 9), ("n", 2), ("p", 2)))
    (((1, 2), (0, 1)), 18)
    """
    size = dict(sizes)
    tree = _best(operands, out, size) if len(operands) <= EXACT_UP_TO else _greedy(operands, out, size)
    pairs: list[tuple[int, int]] = []
    standing = [1 << place for place in range(len(operands))]
    largest = 0
    for left, right in tree:
        first, second = sorted((standing.index(left), standing.index(right)))
        pairs.append((first, second))
        standing = [s for place, s in enumerate(standing) if place not in (first, second)] + [left | right]
        largest = max(largest, _elements(_result(left | right, operands, out), size))
    return tuple(pairs), largest


def _elements(labels: frozenset[str], size: dict[str, int]) -> int:
    return prod(size[label] for label in labels)


def _result(subset: int, operands: tuple[Labels, ...], out: Labels) -> frozenset[str]:
    """The labels that the product of a subset (a bit set) must keep."""
    inside: set[str] = set()
    outside = set(out)
    for place, labels in enumerate(operands):
        (inside if subset >> place & 1 else outside).update(labels)
    return frozenset(inside & outside)


def _best(operands: tuple[Labels, ...], out: Labels, size: dict[str, int]) -> list[tuple[int, int]]:
    whole = (1 << len(operands)) - 1
    kept = {subset: _result(subset, operands, out) for subset in range(1, whole + 1)}
    for place, labels in enumerate(operands):
        kept[1 << place] = frozenset(labels)
    cost: dict[int, tuple[float, int]] = {1 << place: (0.0, 0) for place in range(len(operands))}
    for subset in sorted(range(1, whole + 1), key=int.bit_count):
        if subset in cost:
            continue
        rivals = []
        part = (subset - 1) & subset
        while part > subset ^ part:
            rest = subset ^ part
            here = _elements(kept[part] | kept[rest], size) + _elements(kept[subset], size)
            rivals.append((cost[part][0] + cost[rest][0] + here, part))
            part = (part - 1) & subset
        cost[subset] = min(rivals)
    return _unroll(whole, cost)


def _unroll(whole: int, cost: dict[int, tuple[float, int]]) -> list[tuple[int, int]]:
    order: list[tuple[int, int]] = []
    todo = [whole]
    while todo:
        subset = todo.pop()
        part = cost[subset][1]
        if part:
            order.append((part, subset ^ part))
            todo += [part, subset ^ part]
    return order[::-1]


def _greedy(operands: tuple[Labels, ...], out: Labels, size: dict[str, int]) -> list[tuple[int, int]]:
    standing = {1 << place for place in range(len(operands))}
    order: list[tuple[int, int]] = []
    while len(standing) > 1:
        pair = min(
            combinations(sorted(standing), 2),
            key=lambda two: (_elements(_result(two[0] | two[1], operands, out), size), two),
        )
        order.append(pair)
        standing = standing - set(pair) | {pair[0] | pair[1]}
    return order
