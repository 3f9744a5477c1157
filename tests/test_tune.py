"""`ssdc tune` in Triton's interpreter: search, rejection of what is wrong, the cache, its use, and what it refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ssdc.cli.main import app
from ssdc.codegen.triton import configuration
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts
from ssdc.runtime import tuned
from ssdc.runtime.tuned import Request, decoded
from ssdc.runtime.tuning.candidates import ROUNDS, described
from ssdc.runtime.tuning.search import Outcome, search
from ssdc.runtime.tuning.trial import Case, Rejected, Timed, _units

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
FACTS = Facts("float32", 16, 16, "varying", scale=True)
FORWARD = Request("forward", FACTS, Call(2, 70, 1, 1, initial=False))
BACKWARD = Request("backward", FACTS, Call(2, 70, 1, 1, initial=False, gradient=False), gates=True)
LARGE = Facts("bfloat16", 128, 64, "varying", scale=True)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("SSDC_CACHE_DIR", str(tmp_path / "cache"))
    tuned.forget()
    yield tmp_path / "cache" / "tuned"
    tuned.forget()


# ---- the cache -------------------------------------------------------------------------------------------------------


def other(request: Request) -> tuned.Choice:
    """A choice that is not the rule's."""
    rule = request.rule()
    return replace(rule, states=replace(rule.states, tiles=replace(rule.states.tiles, stages=1)))


def answers(request: Request) -> tuned.Choice:
    if request.kind == "forward":
        return tuned.forward(request.facts, request.call, CPU)
    return tuned.backward(request.facts, request.call, request.gates, CPU)


@pytest.mark.parametrize("request_", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_what_is_kept_is_used_for_that_request_alone(request_: Request, cache: Path) -> None:
    assert answers(request_) == request_.rule() != other(request_)
    path = tuned.store(request_, other(request_), CPU, {"ms": 1.0})
    assert path.parent == cache and cache.stat().st_mode & 0o777 == 0o700
    assert answers(request_) == other(request_)
    longer = replace(request_, call=replace(request_.call, length=71))
    assert answers(longer) == longer.rule()
    wide = replace(request_, facts=replace(FACTS, columns=32))
    assert answers(wide) == wide.rule()


def test_a_later_winner_takes_the_place_of_an_earlier_one(cache: Path) -> None:
    tuned.store(FORWARD, other(FORWARD), CPU, {})
    tuned.store(BACKWARD, other(BACKWARD), CPU, {})
    tuned.store(FORWARD, FORWARD.rule(), CPU, {})
    assert len(list(cache.glob("*"))) == 2
    assert answers(FORWARD) == FORWARD.rule() and answers(BACKWARD) == other(BACKWARD)


def test_an_entry_of_another_triton_is_not_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "machine", lambda device: {"device": "interpreter", "triton": "1.0"})
    tuned.store(FORWARD, other(FORWARD), CPU, {})
    assert answers(FORWARD) == other(FORWARD)
    monkeypatch.undo()
    monkeypatch.setenv("SSDC_CACHE_DIR", str(cache.parent))
    tuned.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(FORWARD) == FORWARD.rule()


def test_every_changed_byte_is_refused(cache: Path) -> None:
    path = tuned.store(FORWARD, other(FORWARD), CPU, {})
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        tuned.forget()
        with pytest.warns(RuntimeWarning, match="its content is not what its name says; run ssdc tune again"):
            assert answers(FORWARD) == FORWARD.rule()
    path.write_bytes(data[:-1])
    tuned.forget()
    with pytest.warns(RuntimeWarning, match="not what its name says"):
        assert answers(FORWARD) == FORWARD.rule()
    path.write_bytes(data)
    tuned.forget()
    assert answers(FORWARD) == other(FORWARD)


def rewritten(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    """An entry with other content and the name that goes with it."""
    content = json.loads(path.read_text())
    change(content)
    data = json.dumps(content).encode()
    path.unlink()
    (path.parent / f"{hashlib.sha256(data).hexdigest()}.json").write_bytes(data)
    tuned.forget()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.update(sources="0" * 64), "the kernels have changed since"),
        (lambda content: content["choice"].pop("form"), "it has no Forward of today"),
        (lambda content: content["choice"].update(form="sideways"), "'sideways' is none of"),
        (lambda content: content["choice"].update(segments="2"), "'2' is no"),
        (lambda content: content["choice"]["outputs"]["facts"].update(states=32), "its kernels are for something else"),
        (lambda content: content.pop("choice"), "choice"),
    ],
)
def test_a_stale_entry_is_refused(change, why: str, cache: Path) -> None:  # type: ignore[no-untyped-def]
    rewritten(tuned.store(FORWARD, other(FORWARD), CPU, {}), change)
    with pytest.warns(RuntimeWarning, match=why):
        assert answers(FORWARD) == FORWARD.rule()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert answers(FORWARD) == FORWARD.rule()


def test_a_directory_that_others_may_write_to_is_refused(cache: Path) -> None:
    tuned.store(FORWARD, other(FORWARD), CPU, {})
    cache.chmod(0o777)
    tuned.forget()
    with pytest.warns(RuntimeWarning, match="not a directory of this user alone"):
        assert answers(FORWARD) == FORWARD.rule()
    cache.chmod(0o700)


def test_a_link_is_refused(cache: Path) -> None:
    path = tuned.store(FORWARD, other(FORWARD), CPU, {})
    path.rename(cache.parent / "elsewhere")
    path.symlink_to(cache.parent / "elsewhere")
    tuned.forget()
    with pytest.warns(RuntimeWarning):
        assert answers(FORWARD) == FORWARD.rule()


def test_sessions_force_a_choice_and_record_requests(cache: Path) -> None:
    tuned.store(FORWARD, other(FORWARD), CPU, {})
    with tuned.session() as plain:
        assert answers(FORWARD) == FORWARD.rule()
        with tuned.session(other(BACKWARD)) as forced:
            assert answers(BACKWARD) == other(BACKWARD) and answers(FORWARD) == FORWARD.rule()
    assert plain.requests == [FORWARD] and forced.requests == [BACKWARD, FORWARD]
    assert answers(FORWARD) == other(FORWARD)


def test_choices_survive_json() -> None:
    for request_ in (FORWARD, BACKWARD):
        text = json.dumps(asdict(request_.rule()))
        assert decoded(tuned.TYPES[request_.kind], json.loads(text)) == request_.rule()
    mapped = replace(FACTS, maps=(("elu_one", "*0.5"), (), ("tanh",)))
    assert decoded(Facts, json.loads(json.dumps(asdict(mapped)))) == mapped


# ---- candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize("facts", [FACTS, LARGE], ids=["float32", "bfloat16"])
def test_candidates_are_many_differ_and_fit_together(kind: str, facts: Facts) -> None:
    request_ = Request(kind, facts, Call(80, 4096, 80, 132, initial=False), kind == "backward")
    rule = request_.rule()
    for move in ROUNDS[kind]:
        found = list(move(request_, rule))
        assert len(found) == len(set(found))
        for choice in found:
            chunks = {kernel.tiles.chunk for kernel in tuned.kernels(choice)}
            assert len(chunks) == 1 or choice.form in ("recurrent", "hopper")
            assert {kernel.facts for kernel in tuned.kernels(choice)} == {facts}
            assert 1 <= choice.segments <= 4096 // min(chunks)
            assert len(described(choice)) < 250
    assert len(set().union(*(set(move(request_, rule)) for move in ROUNDS[kind]))) > 20


def test_a_hopper_gpu_has_more_candidates() -> None:
    for kind in ("forward", "backward"):
        call = Call(80, 4096, 80, 132, initial=False, engine=True)
        with_engine = Request(kind, LARGE, call, kind == "backward")
        without = replace(with_engine, call=replace(call, engine=False))
        (some, all_) = ({choice.form for choice in ROUNDS[kind][0](one, one.rule())} for one in (without, with_engine))
        assert all_ - some == {"hopper"}
        assert tuned.sources(with_engine.rule()) != tuned.sources(without.rule())


def test_heads_share_whole_scores_alone() -> None:
    request_ = Request("forward", LARGE, Call(80, 4096, 80, 132))
    rule = configuration.forward(LARGE, request_.call, form="parallel")
    (outputs,) = (move for move in ROUNDS["forward"][1:2])
    shared = [choice.outputs for choice in outputs(request_, rule) if choice.outputs.share > 1]
    assert shared and all(kernel.whole for kernel in shared)


# ---- the search, with processes stood in for -------------------------------------------------------------------------


def scripted(times: dict[tuned.Choice, float | str], fights: list[list[tuned.Choice]]):  # type: ignore[no-untyped-def]
    """Answers trials and duels from a table."""

    def apart(function, arguments):  # type: ignore[no-untyped-def]
        _, given = arguments
        if function.__name__ == "duel":
            fights.append(given)
            return tuple(times[one] for one in given)
        found = times[given]
        return Rejected(found) if isinstance(found, str) else Timed(found, 1.0)

    return apart


def outcome(times: list[float | str], most: int = 10) -> tuple[Outcome, list[tuned.Choice]]:
    """What becomes of candidates with these times, the rule first."""
    rule = FORWARD.rule()
    made = [rule, *(replace(rule, segments=k) for k in range(2, len(times) + 1))]
    fights: list[list[tuned.Choice]] = []
    steps = list(
        search(Case(FORWARD, 1, "cpu"), scripted(dict(zip(made, times, strict=True)), fights), most, [lambda *_: made])
    )
    assert isinstance(steps[-1], Outcome)
    return steps[-1], made


def test_the_fastest_that_is_right_wins() -> None:
    found, made = outcome([5.0, 4.0, "it disagrees", 2.0, 3.0])
    assert found.winner == made[3] and (found.ms, found.rule_ms) == (2.0, 5.0)
    assert found.rejected == ((made[2], "it disagrees"),)


def test_what_is_hardly_faster_does_not_win() -> None:
    assert outcome([5.0, 4.95])[0].winner is None
    assert outcome([5.0])[0].winner is None
    assert outcome([5.0, "no", "no"])[0].winner is None


def test_no_more_are_tried_than_asked_for() -> None:
    assert len(outcome([5.0, 4.0, 3.0, 2.0], most=2)[0].tried) == 3


def test_a_rule_that_fails_is_replaced() -> None:
    found, made = outcome(["it crashed", 4.0])
    assert found.winner == made[1] and found.rule_ms is None


# ---- the whole path, interpreted -------------------------------------------------------------------------------------


def interpreted(script: str, cache: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "SSDC_CACHE_DIR": str(cache)}
    return subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True)


PLANTED = """
import json
import os
from dataclasses import replace
from functools import partial
from ssdc.cli.tune import _apart
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts
from ssdc.runtime.tuned import Request
from ssdc.runtime.tuning.search import Outcome, search
from ssdc.runtime.tuning.trial import Case

def kernel(choice, name, **changes):
    return replace(choice, **{name: replace(getattr(choice, name), **changes)})

def tiled(choice, name, **changes):
    return kernel(choice, name, tiles=replace(getattr(choice, name).tiles, **changes))

def main():
    told = {}
    facts = Facts("float32", 16, 16, "varying", scale=True)
    for kind, name in (("forward", "outputs"), ("backward", "values")):
        request = Request(kind, facts, Call(2, 40, 2, 1, False, kind == "forward"), kind == "backward")
        rule = request.rule()
        planted = [
            kernel(rule, name, facts=replace(facts, scale=False)),   # leaves out a factor
            kernel(rule, name, facts=replace(facts, strict=True)),   # leaves out a position
            tiled(rule, name, outer=24),                             # no tile
            tiled(rule, name, warps=8),                              # right
        ]
        steps = list(search(Case(request, 1, "cpu"), _apart(60.0), 10, [lambda *_: planted]))
        told[kind] = [repr(one.result) for one in steps if not isinstance(one, Outcome)]
    found = next(iter(search(Case(request, 1, "cpu"), _apart(0.01), 0, [])))
    print(json.dumps({**told, "late": repr(found.result), "dead": repr(_apart(60.0)(os._exit, (3,)))}))

if __name__ == "__main__":
    main()
"""


@needs_triton
@pytest.mark.slow
def test_planted_errors_are_rejected_in_processes_of_their_own(tmp_path: Path) -> None:
    done = interpreted(PLANTED, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for kind in ("forward", "backward"):
        rule, factor, position, tile, right = told[kind]
        assert rule.startswith("Timed") and right.startswith("Timed"), told
        assert "disagrees with float64" in factor or "Error" in factor, told
        assert "disagrees with float64" in position, told
        assert tile.startswith("Rejected"), told
    assert told["dead"] == "Rejected(reason='its process ended with status 3')"
    assert told["late"] == "Rejected(reason='it took longer than 0 s')"


EVERY = """
import json
from ssdc.codegen.triton.configuration import Call
from ssdc.codegen.triton.facts import Facts
from ssdc.runtime.tuned import Request
from ssdc.runtime.tuning.trial import Case, trial

FACTS = [
    Facts("float32", 16, 16, "none", norm=("+1e-06",), maps=(("elu_one",), ("elu_one",), ())),
    Facts("float32", 16, 24, "varying", strict=True, own="varying", scale=True, skip="column"),
    Facts("float32", 16, 16, "constant", strict=True, own="gate", skip="head", maps=(("*0.3", "tanh"), ("silu",), ())),
]
told = []
for facts in FACTS:
    for kind in ("forward", "backward"):
        request = Request(kind, facts, Call(4, 40, 2, 1), kind == "backward" and facts.gate != "none")
        told.append(repr(trial(Case(request, 2, "cpu"), request.rule())))
print(json.dumps(told))
"""


@needs_triton
@pytest.mark.slow
def test_the_rule_is_right_for_every_kind_of_contraction(tmp_path: Path) -> None:
    done = interpreted(EVERY, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 6 and all(one.startswith("Timed") for one in told), told


TUNED = """
import sys, warnings, torch
from ssdc import pipeline
from ssdc.cli.main import app
from ssdc.runtime import tuned
from ssdc.runtime.tuning import search

def main():
    file = "examples/multi_query_retention.ssd"
    sizes = {"H": 2, "N": 16, "P": 16}
    words = [word for name, value in sizes.items() for word in ("--size", f"{name}={value}")]
    search.WORTH = 1e9  # whatever is right wins: times of the interpreter say nothing
    app(["tune", file, "-T", "40", "--most", "2", *words], standalone_mode=False)
    layer = pipeline.compile(file, sizes=sizes, backend="triton")
    inputs = (torch.randn(1, 40, 2, 16), torch.randn(1, 40, 1, 16), torch.randn(1, 40, 1, 16))
    with tuned.session() as asked, torch.no_grad():
        before = layer(*inputs)
    with torch.no_grad():
        after = layer(*inputs)
    (request,) = asked.requests
    print("other kernels", tuned.forward(request.facts, request.call, torch.device("cpu")) != request.rule())
    print("same result", bool(((before - after).abs() <= 1e-4).all()))
    for path in tuned.directory().glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b'"warps":', b'"warps": '))
    tuned.forget()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        layer(*inputs)
    print("refused", len(caught))

if __name__ == "__main__":
    main()
"""


@needs_triton
@pytest.mark.slow
def test_tune_keeps_what_calls_then_use(tmp_path: Path) -> None:
    done = interpreted(TUNED, tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "multi_query_retention on cpu, b=1" in done.stdout
    assert "forward, T=40" in done.stdout and "backward, T=40" in done.stdout
    assert done.stdout.splitlines()[-3:] == ["other kernels True", "same result True", "refused 2"]


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    result = CliRunner().invoke(app, ["tune", str(ROOT / "examples" / "ssd.ssd")])
    assert result.exit_code == 1 and result.stdout == ""
    assert "need a CUDA device and triton; there is none here" in result.stderr


def test_where_terms_cancel_the_reference_may_be_off_by_its_own_rounding() -> None:
    exact = torch.tensor([1.0, -2e-14], dtype=torch.float64)  # the second is 0, but for float64's rounding
    magnitude = torch.tensor([5.0, 0.0], dtype=torch.float64)
    assert _units(torch.tensor([1.0, 0.0]), exact, magnitude, 2.0**-8, 2048) < 1
    assert _units(torch.tensor([1.0, 1e-9]), exact, magnitude, 2.0**-8, 2048) > 2
    assert _units(torch.tensor([1.1, 0.0]), exact, magnitude, 2.0**-8, 2048) > 2
    assert _units(torch.tensor([1.0, torch.nan]), exact, magnitude, 2.0**-8, 2048) == float("inf")
