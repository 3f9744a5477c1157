"""Tree to text and back again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ssdc.source import Source
from ssdc.syntax import ast
from ssdc.syntax.parser import parse
from ssdc.syntax.printer import print_expr, print_program
from tests import strategies

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.ssd"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_survive_the_trip(path: Path) -> None:
    tree = parse(Source(path.read_text()))
    text = print_program(tree)
    assert parse(Source(text)) == tree
    assert print_program(parse(Source(text))) == text
    assert all(len(line) <= 120 and line == line.rstrip() for line in text.splitlines())


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.programs())
def test_any_tree_survives_the_trip(tree: ast.Program) -> None:
    text = print_program(tree)
    assert parse(Source(text)) == tree
    assert print_program(parse(Source(text))) == text  # says also that 1 stays 1, and 1.0 stays 1.0
    assert text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        "a + b * c", "(a + b) * c", "a - b - c", "a - (b - c)", "a * (b / c)", "a / b / c", "-a ^ b", "(-a) ^ b",
        "2 ^ -a", "(a ^ b) ^ c", "a ^ b ^ c", "-(a + b)", "--a", "a - -b", "a * -b", "1e-5", "1e22", "0.5",
        "N ^ -0.5 * q[b,t]", "embed[ids[b,t], d]", "x[b,t-1,(h p),1]", "where(a < b + c, a, b)",
        "sum(a over n, (h p), eps = 1e-5, mask = M)", "1 - 2 ^ (-5 - index(h))", "x[]", "f()",
    ],
)  # fmt: skip
def test_canonical_expressions_print_as_they_were(text: str) -> None:
    (define, *_) = parse(Source(f"layer f() {{ y[b] = {text} }}")).layers[0].statements
    assert isinstance(define, ast.Define)
    assert print_expr(define.value) == text


def test_layout() -> None:
    text = """layer f(H, P = 64) {
  size K = H * (P + 1)
  time t, s
  axis b, h = H, g = K groups h

  input x[b,t,h], ids[b,t] : int
  param in_proj.weight[h,g] ~ normal(0.02), w[h] : complex

  use core = chain(ssd(H = H) * 2, gla(N = 2 * H)) * (K - 1)
  mask L[b,t,s] = decay(exp(x[b,t,h]), strict) * causal(reverse) * band(256)
  u[b,t,h]        = x[b,t,h]
  longer[b,t,h,p] = in_proj.weight[h,g] * x[b,t,h] * L[b,t,s] * u[b,s,h] * w[h] * w[h] * w[h]
                  - in_proj.weight[h,g] * u[b,t,h]
  a[b,t,h,p,q,r], c[b,t,h,p,q,r] = split(longer[b,t,h,p])
  output u, longer
}

layer g() {
}
"""
    assert print_program(parse(Source(text))) == text


def test_long_lists_are_broken() -> None:
    tree = ast.Program((ast.Layer("f", (), (ast.Output(tuple(f"name_{n}" for n in range(40))),)),))
    text = print_program(tree)
    assert max(map(len, text.splitlines())) <= 102
    assert parse(Source(text)) == tree
