"""The cost model: prices of work, products as PyTorch evaluates them, the search, and prices of kernels against times
that were measured (those of choices are in `test_measured`)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path as File

import pytest

from ssdc.codegen.triton import choose, pricing
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts, Gate
from ssdc.codegen.triton.hopper import Role
from ssdc.plan.cost import UNITS, Price, Work, predict, prices
from ssdc.plan.hardware import CPU, H200, HARDWARE
from ssdc.plan.products import laid, pointwise, works
from ssdc.plan.search import Operands, Path, Step, pair_seconds, search
from ssdc.runtime.bench.shapes import FAMILIES, Shape

EXAMPLES = File(__file__).parents[2] / "examples"
SIZES = {"b": 2, "i": 64, "j": 64, "n": 32, "p": 48, "h": 4, "one": 1}


# ---- prices ----------------------------------------------------------------------------------------------------------


def test_a_cpu_does_one_thing_after_another_and_a_gpu_at_once() -> None:
    work = Work(matrix=1e10, side=64, bytes=1e9, touched=1e9, launches=10)
    price = predict(work, CPU)
    assert set(price.units) == set(UNITS)
    assert price.seconds == pytest.approx(sum(price.units.values()))
    price = predict(work, H200)
    working = [seconds for unit, seconds in price.units.items() if unit != "launches"]
    assert max(working) < price.busy < sum(working)
    assert price.seconds == max(price.busy, price.units["launches"])


@pytest.mark.parametrize(
    "field", ["matrix", "thin", "vector", "transcendental", "bytes", "scattered", "launches", "depth"]
)
@pytest.mark.parametrize("machine", HARDWARE.values(), ids=HARDWARE)
def test_more_work_never_takes_less(machine: object, field: str) -> None:
    assert isinstance(machine, type(CPU))
    base = {"matrix": 1e8, "bytes": 1e6, "touched": 1e6, "launches": 3.0, "entries": 1e6}
    less = predict(Work(**base), machine).seconds
    more = predict(Work(**{**base, field: base.get(field, 0.0) + 1e10}), machine).seconds
    assert more > less or (field == "depth" and machine.latency == 0)


def test_what_bounds_a_price() -> None:
    assert predict(Work(matrix=1e12, side=64), CPU).bound == "matrix"
    assert predict(Work(bytes=1e9, touched=1e9), CPU).bound == "memory"
    assert predict(Work(launches=100), CPU).bound == "launches"
    assert (Price(1.0, 0.0, units={"memory": 1.0}) + Price(0.0, 2.0, units={"launches": 2.0})).bound == "launches"


def test_a_second_processor_does_part_of_what_the_first_does() -> None:
    work = Work(matrix=1e10, side=64, bytes=1e8, touched=1e8, transcendental=1e8)
    alone = predict(work, CPU.limited(1)).seconds
    assert alone == pytest.approx((1 + CPU.further) * predict(work, CPU).seconds)
    assert CPU.limited(8) == CPU
    assert CPU.scaled(4).matrix == 2 * CPU.matrix


def test_small_work_keeps_one_processor_busy() -> None:
    work = pointwise(1000, 3.0, gradient=False)
    assert predict(work, CPU).busy == pytest.approx(predict(work, CPU.limited(1)).busy)


def test_many_results_move_more_slowly_than_few() -> None:
    one = pointwise(2**16, 2.0, gradient=False)
    assert sum(price.seconds for price in prices([one] * 800, CPU)) > 1.5 * 800 * prices([one], CPU)[0].seconds


def test_repeated_work_holds_its_results_only_where_they_are_kept() -> None:
    work = pointwise(100, 2.0, gradient=False)
    assert work.times(5).bytes == work.times(5, kept=False).bytes == 5 * work.bytes
    assert (work.times(5).fresh, work.times(5, kept=False).fresh) == (5 * work.fresh, work.fresh)


# ---- products --------------------------------------------------------------------------------------------------------


def pair(left: tuple[str, ...], right: tuple[str, ...], out: tuple[str, ...]) -> tuple[Work, tuple[str, ...]]:
    operands: Operands = (("l", left), ("r", right))
    made, memory = laid(Path((Step("l", "r", "out", out),), out), operands, SIZES, gradient=False)
    return made[-1], memory


def test_an_einsum_copies_only_what_does_not_lie_as_it_multiplies() -> None:
    flops = 2.0 * 2 * 64 * 64 * 32
    lying, memory = pair(("b", "i", "n"), ("b", "j", "n"), ("b", "i", "j"))
    assert (lying.matrix, lying.scattered, memory) == (flops, 0.0, ("b", "i", "j"))
    copied, _ = pair(("i", "b", "n"), ("b", "j", "n"), ("b", "i", "j"))
    assert copied.matrix == flops
    assert copied.bytes == lying.bytes, "a batch in the middle has a stride of its own, so it is no copy"
    split, _ = pair(("b", "i", "h", "n"), ("b", "j", "h", "n"), ("b", "h", "i", "j"))
    whole, _ = pair(("b", "h", "i", "n"), ("b", "h", "j", "n"), ("b", "h", "i", "j"))
    assert split.bytes > whole.bytes, "b and h are one batch that does not follow one another in memory"


def test_an_axis_of_one_entry_never_forces_a_copy() -> None:
    split, _ = pair(("one", "i", "h", "n"), ("one", "j", "h", "n"), ("one", "h", "i", "j"))
    whole, _ = pair(("i", "h", "n"), ("j", "h", "n"), ("h", "i", "j"))
    assert split.bytes == whole.bytes


def test_a_product_with_one_column_is_thin() -> None:
    thin, _ = pair(("b", "i", "n"), ("b", "n"), ("b", "i"))
    assert (thin.matrix, thin.thin) == (0.0, 2.0 * 2 * 64 * 32)


def test_elementwise_products_keep_the_order_of_the_larger_operand() -> None:
    work, memory = pair(("i", "b", "p"), ("b", "i"), ("b", "i", "p"))
    assert memory == ("i", "b", "p")
    assert work.scattered == 0.0, "the smaller operand is broadcast along the fastest axis"
    against, _ = pair(("i", "p", "b"), ("b", "p"), ("b", "i", "p"))
    assert against.scattered > 0.0


def test_a_derivative_takes_more_than_the_value() -> None:
    operands: Operands = (("q", ("b", "i", "n")), ("k", ("b", "j", "n")), ("v", ("b", "j", "p")))
    path = search(operands, ("b", "i", "p"), SIZES, CPU)
    value, both = (works(path, operands, SIZES, gradient=gradient) for gradient in (False, True))
    for one, other in zip(value, both, strict=True):
        assert other.matrix == 3 * one.matrix
        assert predict(other, CPU).seconds > 2 * predict(one, CPU).seconds


# ---- the search ------------------------------------------------------------------------------------------------------


def trees(names: tuple[int, ...]) -> Iterator[object]:
    """Every binary tree over operands."""
    if len(names) == 1:
        yield names[0]
        return
    first, rest = names[0], names[1:]
    for count in range(len(rest)):
        for beside in itertools.combinations(rest, count):
            others = tuple(name for name in rest if name not in beside)
            for left in trees((first, *beside)):
                for right in trees(others):
                    yield (left, right)


def cost_of(tree: object, axes: list[frozenset[str]], out: frozenset[str]) -> tuple[float, set[int]]:
    """The predicted seconds of a tree, and its operands; every axis is summed as soon as nothing else has it."""
    if isinstance(tree, int):
        return 0.0, {tree}
    assert isinstance(tree, tuple)
    seconds, parts = 0.0, []
    for side in tree:
        cost, inside = cost_of(side, axes, out)
        seconds += cost
        parts.append(inside)

    def kept(inside: set[int]) -> frozenset[str]:
        if len(inside) == 1:
            return axes[min(inside)]
        have = frozenset().union(*(axes[k] for k in inside))
        return have & frozenset().union(out, *(axes[k] for k in range(len(axes)) if k not in inside))

    both = parts[0] | parts[1]
    result = out & frozenset().union(*axes) if len(both) == len(axes) else kept(both)
    return seconds + pair_seconds(kept(parts[0]), kept(parts[1]), result, SIZES, CPU), both


@pytest.mark.parametrize("seed", range(12))
def test_the_search_finds_the_cheapest_tree(seed: int) -> None:
    draw = random.Random(seed)
    axes = [frozenset(draw.sample(sorted(SIZES), draw.randint(1, 4))) for _ in range(5)]
    out = frozenset(draw.sample(sorted(frozenset().union(*axes)), 2))
    operands = tuple((str(k), tuple(sorted(found))) for k, found in enumerate(axes))
    path = search(operands, tuple(sorted(out)), SIZES, CPU)
    least = min(cost_of(tree, axes, out)[0] for tree in trees(tuple(range(5))))
    made: dict[str, object] = {str(k): k for k in range(5)}
    for step in path.steps:
        made[step.result] = (made[step.left], made[step.right])
    assert cost_of(made["out"], axes, out)[0] == pytest.approx(least)


# ---- predictions against measurements --------------------------------------------------------------------------------

PLAIN, GATED = Facts("bfloat16", 128, 128), Facts("bfloat16", 128, 128, "varying")
MAMBA = Facts("bfloat16", 128, 64, "varying", scale=True)
H200_TIMES = (
    (GATED, (64, 2048, 1), 0.070, 0.294),
    (GATED, (96, 8192, 1), 0.327, 1.435),
    (GATED, (32, 16384, 1), 0.247, 0.944),
    (PLAIN, (64, 2048, 1), 0.058, 0.165),
    (PLAIN, (96, 8192, 1), 0.251, 0.758),
    (PLAIN, (32, 16384, 1), 0.216, 0.570),
    (Facts("bfloat16", 256, 256, "varying"), (256, 2048, 1), 0.933, 3.215),
    (Facts("bfloat16", 64, 64, "varying"), (64, 1024, 1), 0.031, 0.096),
    (MAMBA, (320, 4096, 80), 0.317, 1.810),
    (MAMBA, (192, 2048, 24), 0.088, 0.582),
    (MAMBA, (80, 65536, 80), 1.318, 7.222),
    (MAMBA, (24, 16384, 24), 0.109, 0.580),
)
"""Milliseconds that an H200 takes for calls forward, and backward alone, by the kernels that the cost model chooses:
facts; batch * heads, positions, heads that share a query and key."""


@pytest.mark.parametrize(("facts", "sizes", "forward", "backward"), H200_TIMES)
def test_kernels_take_about_what_was_measured(
    facts: Facts, sizes: tuple[int, int, int], forward: float, backward: float
) -> None:
    call = Call(*sizes, 132, initial=False, gradient=False, engine=True)
    rule, after = choose.forward(facts, call), choose.backward(facts, call, facts.gate == "varying")
    found = pricing.candidate(facts, call, rule, H200)
    both = pricing.candidate(facts, call, rule, H200, after)
    assert 1 / 1.5 < 1e3 * found.cost.busy / forward < 1.5
    assert 1 / 1.5 < 1e3 * (both.cost.busy - found.cost.busy) / backward < 1.5
    assert (found.form, found.segments) == (rule.form, rule.segments)


SHAPES = {
    "many": (128, 128, 96, 8192, 1), "long": (128, 128, 32, 16384, 1), "wide": (256, 256, 256, 2048, 1),
    "mamba": (128, 64, 320, 4096, 80), "mamba, long": (128, 64, 80, 65536, 80), "mamba, few": (128, 64, 24, 16384, 24),
}  # fmt: skip
"""States, columns, batch * heads, positions, heads that share a query and key."""
WALKS = (
    ("outputs", "many", "none", 1, False, 0.253),
    ("outputs", "many", "varying", 1, False, 0.323),
    ("outputs", "many", "constant", 1, False, 0.272),
    ("outputs", "many", "none", 4, False, 0.236),
    ("outputs", "many", "varying", 4, False, 0.28),
    ("outputs", "long", "none", 4, False, 0.151),
    ("outputs", "long", "varying", 4, False, 0.184),
    ("outputs", "wide", "none", 1, False, 0.653),
    ("outputs", "wide", "varying", 1, False, 0.9),
    ("outputs", "mamba", "varying", 1, False, 0.311),
    ("outputs", "mamba", "varying", 4, False, 0.256),
    ("outputs", "mamba, long", "varying", 3, False, 0.987),
    ("outputs", "mamba, long", "varying", 12, False, 1.008),
    ("outputs", "mamba, few", "varying", 11, False, 0.076),
    ("queries", "many", "none", 1, False, 0.255),
    ("queries", "many", "varying", 1, True, 0.505),
    ("queries", "long", "none", 4, False, 0.153),
    ("queries", "long", "varying", 4, True, 0.296),
    ("queries", "wide", "none", 1, False, 0.624),
    ("queries", "mamba", "varying", 1, True, 0.58),
    ("queries", "mamba, long", "varying", 3, True, 2.22),
    ("queries", "mamba, few", "varying", 11, True, 0.169),
    ("keys", "many", "none", 1, False, 0.257),
    ("keys", "many", "varying", 1, True, 0.53),
    ("keys", "long", "varying", 4, True, 0.289),
    ("keys", "wide", "none", 1, False, 0.622),
    ("keys", "mamba", "varying", 1, True, 0.586),
    ("keys", "mamba, long", "varying", 3, True, 2.12),
    ("keys", "mamba, few", "varying", 11, True, 0.166),
    ("values", "many", "none", 1, False, 0.257),
    ("values", "many", "varying", 1, False, 0.34),
    ("values", "long", "varying", 4, False, 0.19),
    ("values", "wide", "none", 1, False, 0.655),
    ("values", "mamba", "varying", 1, False, 0.365),
    ("values", "mamba, long", "varying", 3, False, 1.11),
    ("values", "mamba, few", "varying", 11, False, 0.088),
    ("states", "long", "none", 4, False, 0.075),
    ("states", "mamba, long", "varying", 3, False, 0.43),
    ("states", "many", "none", 4, False, 0.128),
)
"""Milliseconds of Hopper's walks alone, measured on an H200: role, shape, gate, pieces of time, whether with gradients
of gates."""


@pytest.mark.parametrize(("role", "shape", "gate", "segments", "gates", "milliseconds"), WALKS)
def test_walks_take_about_what_was_measured(
    role: Role, shape: str, gate: Gate, segments: int, gates: bool, milliseconds: float
) -> None:
    states, columns, lanes, length, shared = SHAPES[shape]
    facts = Facts("bfloat16", states, columns, gate, scale=shared > 1)
    size = pricing._Sizes(facts, Call(lanes, length, shared, 132, engine=True), H200)
    found = predict(size.hopper(role, segments, gates), H200)
    assert 1 / 1.5 < 1e3 * found.seconds / milliseconds < 1.5


def test_forms_are_priced_apart_and_the_cheapest_comes_first() -> None:
    facts, call = Facts("bfloat16", 128, 128, "varying"), Call(8, 16384, 1, 132, initial=False)
    found = pricing.candidates(facts, call, H200)
    assert {one.form for one in found} == {"recurrent", "walk", "segments", "parallel"}
    assert list(found) == sorted(found, key=pricing.order)
    assert found[0].form != "recurrent"
    chosen = choose.forward(facts, call)
    assert (chosen.form, chosen.segments) == (found[0].form, found[0].segments)
    after = choose.backward(facts, call, True)
    both = {(one.form, one.segments): one for one in pricing.candidates(facts, call, H200, after)}
    for one in found:
        assert both[one.form, one.segments].cost.seconds > one.cost.seconds


CHOSEN = {
    "B=4 T=2,048 H=16 N=128 P=128, no gate": (("hopper", 1), ("hopper", 1)),
    "B=1 T=8,192 H=96 N=128 P=128, no gate": (("hopper", 1), ("hopper", 1)),
    "B=2 T=16,384 H=16 N=128 P=128, no gate": (("hopper", 4), ("hopper", 4)),
    "B=8 T=2,048 H=32 N=256 P=256, no gate": (("hopper", 1), ("hopper", 1)),
    "B=8 T=1,024 H=8 N=64 P=64, no gate": (("walk", 1), ("hopper", 1)),
    "B=4 T=2,048 H=16 N=128 P=128, varying gate": (("hopper", 2), ("hopper", 1)),
    "B=1 T=8,192 H=96 N=128 P=128, varying gate": (("hopper", 1), ("hopper", 1)),
    "B=2 T=16,384 H=16 N=128 P=128, varying gate": (("hopper", 4), ("hopper", 4)),
    "B=8 T=2,048 H=32 N=256 P=256, varying gate": (("hopper", 1), ("parallel", 1)),
    "B=8 T=1,024 H=8 N=64 P=64, varying gate": (("hopper", 1), ("hopper", 1)),
    "B=4 T=2,048 H=16 N=128 P=128, constant gate": (("hopper", 1), ("hopper", 1)),
    "B=1 T=8,192 H=96 N=128 P=128, constant gate": (("hopper", 1), ("hopper", 1)),
    "B=2 T=16,384 H=16 N=128 P=128, constant gate": (("hopper", 4), ("hopper", 4)),
    "B=8 T=2,048 H=32 N=256 P=256, constant gate": (("hopper", 1), ("hopper", 1)),
    "B=8 T=1,024 H=8 N=64 P=64, constant gate": (("walk", 1), ("hopper", 1)),
    "B=4 T=4,096 H=80 N=128 P=64 G=1, varying gate, scaled": (("hopper", 1), ("hopper", 1)),
    "B=8 T=2,048 H=24 N=128 P=64 G=1, varying gate, scaled": (("hopper", 1), ("hopper", 2)),
    "B=1 T=65,536 H=80 N=128 P=64 G=1, varying gate, scaled": (("hopper", 3), ("hopper", 3)),
    "B=1 T=16,384 H=24 N=128 P=64 G=1, varying gate, scaled": (("hopper", 11), ("hopper", 11)),
}
"""What the benchmark's shapes run by on an H200, forward and backward: form and pieces of time. Where that changes, its
times are to be taken anew."""


@pytest.mark.parametrize("shape", [one for family in FAMILIES.values() for one in family], ids=str)
def test_what_the_suite_runs_by(shape: Shape) -> None:
    facts = Facts("bfloat16", shape.states, shape.columns, shape.gate, scale=shape.scale)
    lanes, shared = shape.batch * shape.heads, shape.heads // shape.groups
    call = Call(lanes, shape.length, shared, 132, initial=False, gradient=False, engine=True)
    chosen, after = choose.forward(facts, call), choose.backward(facts, call, shape.gate == "varying")
    assert ((chosen.form, chosen.segments), (after.form, after.segments)) == CHOSEN[str(shape)]


def test_few_programs_are_cut_into_segments() -> None:
    facts = Facts("bfloat16", 128, 128, "varying")
    few, many = (Call(lanes, 65536, 1, 132, initial=False) for lanes in (1, 512))
    assert pricing.candidates(facts, few, H200)[0].segments > 4
    assert pricing.candidates(facts, many, H200)[0].segments == 1
