"""Broken text of every sort is a program, or gives a SpecError with places inside the text: nothing else, and fast."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from ssdc.errors import SpecError, SsdcError
from ssdc.pipeline import check
from ssdc.source import Source
from ssdc.syntax.parser import parse

EXAMPLES = [path.read_text() for path in sorted((Path(__file__).parent.parent / "examples").glob("*.ssd"))]
MODEL = """layer model(D, V = 100, K = 2) {
  time t axis b, d = D, v = V
  input ids[b,t] : int
  param embed[v,d] : real ~ normal(0.02), head.weight[v,d]
  use blocks = chain(mixer(D = D) * (K + 1), other(D = 2 * D)) * 4
  x[b,t,d] = embed[ids[b,t], d]
  w[b,t,d] = where(index(d) < D / 2, x[b,t-1,d], -x[b,t,d] ^ 2)
  y[b,t,d] = blocks(rmsnorm(w[b,t,d] over d, eps = 1e-6))
  logits[b,t,v] = head.weight[v,d] * y[b,t,d]
  output logits
}
"""
TEXTS = [*EXAMPLES, MODEL]
TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*|[0-9][0-9.e-]*|\s+|.", re.DOTALL)
NOISE = [
    *"()[]{}=+-*/^,~:<>!@#$%&;'\"\\|?.`\t\r\n\0\x7f_019", "==", "**", "->", ":=", "//", "1e999", "9999999999", "1.2.3",
    "0x1f", "t+1", "t-0", "t-", "(h)", "[]", "()", "{}", "layer", "mask", "over", "groups", "chain", "size", "output",
    "a.b", ".5", "x" * 65, "x" * 65 + "[b]",
    "\u03b1", "\u0435", "\u00d7", "\u200b", "\u202e", "\ufeff", "\u5c42", "\U0001f600", "\ud800", "\u2028",
    "\x85", "\xa0",
]  # fmt: skip
PER_SEED = 1000


def outcome(text: str) -> tuple[str, float]:
    """`legal` or `fault`, and the seconds it took. Any other exception is for the caller to see."""
    source = Source(text)
    begin = time.process_time()
    try:
        check(source)
    except SpecError as error:
        spent = time.process_time() - begin
        assert error.faults
        lines = text.split("\n")
        for fault in error.faults:
            line, column = source.position(fault.span.start)
            assert 0 <= fault.span.start <= fault.span.end <= max(1, len(text)), text
            assert 1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1]) + 1, text
            assert re.fullmatch(r"E[1-5]\d\d", fault.code) and fault.text and isinstance(fault.hint, str)
        places = [(fault.text, fault.span) for fault in error.faults]
        assert len(set(places)) == len(places), f"a fault is told twice:\n{error}"
        return "fault", spent
    return "legal", time.process_time() - begin


def mutate(text: str, rng: random.Random) -> str:
    """One to three changes of tokens, characters or lines."""
    for _ in range(rng.randint(1, 3)):
        parts = TOKEN.findall(text)
        if len(parts) < 2:
            return text
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        kind = rng.randrange(8)
        if kind == 0:
            del parts[at]
        elif kind == 1:
            parts.insert(at, parts[at])
        elif kind == 2:
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == 3:
            parts.insert(at, rng.choice(NOISE))
        elif kind == 4:
            parts[at] = rng.choice(NOISE)
        elif kind == 5:
            parts[at] = parts[other]
        text = "".join(parts)
        if kind == 6:
            where = rng.randrange(len(text))
            text = text[:where] + rng.choice(["", chr(rng.randrange(1, 0x250)), rng.choice(NOISE)]) + text[where + 1 :]
        elif kind == 7:
            mine, theirs = text.split("\n"), rng.choice(TEXTS).split("\n")
            where, begin = rng.randrange(len(mine)), rng.randrange(len(theirs))
            mine[where : where + rng.randrange(3)] = theirs[begin : begin + rng.randrange(4)]
            text = "\n".join(mine)
    return text


@pytest.mark.parametrize("seed", range(10))
def test_mutated_programs(seed: int) -> None:
    rng = random.Random(seed)
    outcome(MODEL)
    outcomes = [outcome(mutate(rng.choice(TEXTS), rng)) for _ in range(PER_SEED)]
    kinds = [kind for kind, _ in outcomes]
    assert kinds.count("fault") > PER_SEED // 2 and kinds.count("legal") > PER_SEED // 50
    slow = sorted(seconds for _, seconds in outcomes)[PER_SEED * 99 // 100]
    assert slow < 0.05, f"1 in 100 takes {slow * 1000:.0f} ms"


def test_noise() -> None:
    rng = random.Random(99)
    for _ in range(300):
        outcome("".join(rng.choice(NOISE) for _ in range(rng.randrange(60))))
    for _ in range(100):
        outcome(rng.randbytes(rng.randrange(200)).decode("latin-1"))
        outcome(rng.randbytes(rng.randrange(200)).decode("utf-8", errors="replace"))


def test_every_prefix_of_a_program() -> None:
    for end in range(len(MODEL)):
        outcome(MODEL[:end])


def test_every_deleted_token_of_a_program_is_told_once() -> None:
    """One token less is one broken statement, so one fault, two where a brace is gone too."""
    parts = TOKEN.findall(MODEL)
    counts = []
    for at, part in enumerate(parts):
        if part.strip():
            try:
                parse(Source("".join(parts[:at] + parts[at + 1 :])))
            except SpecError as error:
                counts.append(len(error.faults))
    assert max(counts) <= 2
    assert counts.count(1) >= 0.95 * len(counts)


BODY = "layer f(C) {{ y[b] = {} output y }}"
HOSTILE = {
    "a million brackets": "(" * 1_000_000,
    "a million brackets of all kinds": "([{" * 333_333,
    "a million closing brackets": ")" * 1_000_000,
    "brackets that are closed again": "()" * 100_000,
    "brackets within the size": "[" * 250_000,
    "parentheses in an expression": BODY.format("(" * 300 + "1" + ")" * 300),
    "signs": BODY.format("-" * 20_000 + "1"),
    "powers": BODY.format("2 ^ " * 5_000 + "1"),
    "a long sum": BODY.format("1 + " * 5_000 + "1"),
    "calls": BODY.format("exp(" * 200 + "1" + ")" * 200),
    "lookups": BODY.format("x[" * 200 + "1" + "]" * 200),
    "repeats": "layer f() { use a = g()" + " * 2" * 5_000 + " output y }",
    "names side by side": "x " * 100_000,
    "a huge integer": BODY.format("9" * 200_000),
    "a huge float": BODY.format("9" * 200_000 + ".5"),
    "a huge exponent": BODY.format("1e" + "9" * 200_000),
    "a broken number": BODY.format("1.2" * 60_000),
    "a long name": BODY.format("x" * 200_000),
    "a long dotted name": BODY.format("a." * 100_000 + "a"),
    "a long tensor": BODY.format("a." * 100_000 + "a[b]"),
    "hashes": "#" * 250_000,
    "dashes": "#\u2014\n" * 60_000,
    "unfinished tensors": "layer f() {\n" + "a[b],\n" * 7_000,
    "open tensors": "layer f() {\n" + "a[(b],\n" * 5_000,
    "definitions of nothing": "layer f() {\n" + "a[b] =\n" * 5_000,
    "bare definitions": "layer f() {\n" + "a = 1\n" * 8_000,
    "layers": "layer " * 30_000,
    "empty layers": "layer f() {}" * 12_000,
    "braces": "layer f() {" * 5_000,
    "many nodes": "layer f() {" + "y[b] = 1 " * 3_500 + "}",
    "a long line": BODY.format("1 + " * 15 + "$" + " " * 200_000),
    "null": "layer f() {\0}",
    "escape": "layer f() {\x1b[2J}",
    "an executable": "\x7fELF\x02\x01\x01\0\0\0",
    "look-alikes": "l\u0430yer f() { output y }",
    "right to left": "layer f() { # \u202e\n output y }",
    "surrogates": "layer \ud800 {",
    "empty": "",
    "blank": " \t\r\n\f",
    "a comment": "# nothing",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gives_a_fault_in_milliseconds(name: str) -> None:
    parse(Source(MODEL))
    kind, seconds = outcome(HOSTILE[name])
    assert kind == "fault"
    assert seconds < 1.5, f"{seconds:.2f} s"


def test_a_million_brackets_take_milliseconds() -> None:
    spent = [outcome(HOSTILE[name])[1] for name in HOSTILE if "million" in name]
    assert len(spent) == 3 and max(spent) < 0.05


def test_outcome_sees_other_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper above can fail."""

    def broken(source: Source) -> None:
        raise RecursionError(source.name)

    monkeypatch.setattr(f"{__name__}.check", broken)
    with pytest.raises(RecursionError):
        outcome("")
    assert not issubclass(RecursionError, SsdcError)
