"""Text to tree: every form of the language, precedence, spans, and several faults in one run."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from lark import Lark, logger

from ssdc.errors import SpecError
from ssdc.resources import grammar_text
from ssdc.source import Source
from ssdc.syntax import ast, limits
from ssdc.syntax.parser import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.ssd"))


def statements(text: str) -> tuple[ast.Statement, ...]:
    return parse(Source(f"layer f() {{ {text} }}")).layers[0].statements


def statement(text: str) -> ast.Statement:
    (only,) = statements(text)
    return only


def expr(text: str) -> ast.Expr:
    define = statement(f"y[b] = {text}")
    assert isinstance(define, ast.Define)
    return define.value


def faults(text: str) -> list[tuple[str, int, int]]:
    source = Source(text)
    with pytest.raises(SpecError) as caught:
        parse(source)
    return [(fault.code, *source.position(fault.span.start)) for fault in caught.value.faults]


def tensor(name: str, *axes: str) -> ast.TensorRef:
    return ast.TensorRef(name, tuple(map(ast.AxisIndex, axes)))


A, B, C = ast.Name("a"), ast.Name("b"), ast.Name("c")
ONE, TWO = ast.Number(1), ast.Number(2)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_parse(path: Path) -> None:
    (layer,) = parse(Source(path.read_text(), path.name)).layers
    assert isinstance(layer.statements[-1], ast.Output)


def test_several_layers_and_sizes() -> None:
    program = parse(Source("layer f(H, P = 2 * 32) { } # nothing\nlayer g() { output y }"))
    first, second = program.layers
    assert first.sizes == (ast.LayerSize("H"), ast.LayerSize("P", ast.Binary("*", TWO, ast.Number(32))))
    assert (first.statements, second.sizes, second.statements) == ((), (), (ast.Output(("y",)),))


FORMS: dict[str, ast.Statement] = {
    "size H = a / 2": ast.Size("H", ast.Binary("/", A, TWO)),
    "time t, s, r": ast.Time(("t", "s", "r")),
    "axis b, h = a, g = 2 groups h": ast.Axes((ast.Axis("b"), ast.Axis("h", A), ast.Axis("g", TWO, "h"))),
    "input x[b,t], i[b] : int, z[b] : complex": ast.Inputs(
        (ast.Input(tensor("x", "b", "t")), ast.Input(tensor("i", "b"), "int"), ast.Input(tensor("z", "b"), "complex"))
    ),
    "param a.b.0[h] ~ zeros, w[] : complex ~ normal(2), v[h]": ast.Params(
        (
            ast.Param(tensor("a.b.0", "h"), ast.Name("zeros")),
            ast.Param(tensor("w"), ast.Call("normal", (TWO,)), "complex"),
            ast.Param(tensor("v", "h")),
        )
    ),
    "mask L[t,s] = causal(reverse) * band(a) * dense(m[t,s], strict, reverse) * strict": ast.Mask(
        tensor("L", "t", "s"),
        (
            ast.Structure("causal", (), ("reverse",)),
            ast.Structure("band", (A,)),
            ast.Structure("dense", (tensor("m", "t", "s"),), ("strict", "reverse")),
            ast.Structure("strict"),
        ),
    ),
    "mask[t] = a": ast.Define((tensor("mask", "t"),), A),
    "a[b,(h p)], c[1] = split(e[b,t,e])": ast.Define(
        (
            ast.TensorRef("a", (ast.AxisIndex("b"), ast.FlatIndex(("h", "p")))),
            ast.TensorRef("c", (ast.UnitIndex(),)),
        ),
        ast.Call("split", (tensor("e", "b", "t", "e"),)),
    ),
    "use u = m(a = 2, b = c)": ast.Use("u", ast.Instance("m", (("a", TWO), ("b", C)))),
    "use u = chain(m() * 2, n(a = 1)) * (a + 1) * b": ast.Use(
        "u",
        ast.Repeat(
            ast.Repeat(
                ast.Chain((ast.Repeat(ast.Instance("m"), TWO), ast.Instance("n", (("a", ONE),)))),
                ast.Binary("+", A, ONE),
            ),
            B,
        ),
    ),
    "output y, z.w": ast.Output(("y", "z.w")),
}


@pytest.mark.parametrize("text", FORMS)
def test_statements(text: str) -> None:
    assert statement(text) == FORMS[text]


def test_statements_need_no_separator() -> None:
    together = " ".join(FORMS)
    assert statements(together) == tuple(FORMS.values())
    assert statements(together.replace(" ", "\r\n\t")) == tuple(FORMS.values())


def binary(op: str, left: ast.Expr, right: ast.Expr) -> ast.Binary:
    return ast.Binary(op, left, right)  # type: ignore[arg-type]


EXPRESSIONS: dict[str, ast.Expr] = {
    "a + b * c": binary("+", A, binary("*", B, C)),
    "a - b - c": binary("-", binary("-", A, B), C),
    "a / b * c": binary("*", binary("/", A, B), C),
    "a - (b - c)": binary("-", A, binary("-", B, C)),
    "a ^ b ^ c": binary("^", A, binary("^", B, C)),
    "-a ^ b": ast.Negate(binary("^", A, B)),
    "(-a) ^ b": binary("^", ast.Negate(A), B),
    "2 ^ -a ^ b": binary("^", TWO, ast.Negate(binary("^", A, B))),
    "-a * b": binary("*", ast.Negate(A), B),
    "a * -b": binary("*", A, ast.Negate(B)),
    "a--b": binary("-", A, ast.Negate(B)),
    "1e-5": ast.Number(1e-5),
    ".5": ast.Number(0.5),
    "2.": ast.Number(2.0),
    "f()": ast.Call("f", ()),
    "f(a, b)": ast.Call("f", (A, B)),
    "where((a < b), a)": ast.Call("where", (ast.Compare("<", A, B), A)),
    "where(a <= b, a, -b)": ast.Call("where", (ast.Compare("<=", A, B), A, ast.Negate(B))),
    "index(h)": ast.Position("h"),
    "max(a, b)": ast.Call("max", (A, B)),
    "max(a over b, (b c))": ast.Reduce("max", A, (ast.AxisIndex("b"), ast.FlatIndex(("b", "c")))),
    "sum(a over b, c, mask = a, eps = 1)": ast.Reduce(
        "sum", A, (ast.AxisIndex("b"), ast.AxisIndex("c")), (ast.Option("mask", A), ast.Option("eps", ONE))
    ),
    "x[b,t-12]": ast.TensorRef("x", (ast.AxisIndex("b"), ast.LagIndex("t", 12))),
    "x[i[b,t], d]": ast.TensorRef("x", (ast.LookupIndex(tensor("i", "b", "t")), ast.AxisIndex("d"))),
    "a * a[b]": binary("*", A, tensor("a", "b")),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions(text: str) -> None:
    assert expr(text) == EXPRESSIONS[text]


def test_integers_stay_integers() -> None:
    values = [expr(text) for text in ("2", "2.0", "2e0")]
    assert [type(node.value) for node in values if isinstance(node, ast.Number)] == [int, float, float]


def test_spans_cover_what_was_written() -> None:
    source = Source("layer f(H) { time t, s  y[b,(h p)] = -(a + x[t-1]) * sum(k[i[b]] over n) output y }")
    shown: dict[str, list[str]] = {}
    stack: list[ast.Node] = [parse(source)]
    while stack:
        node = stack.pop()
        shown.setdefault(type(node).__name__, []).append(source.text[node.span.start : node.span.end])
        stack += limits.children(node)
    assert shown["Layer"] == [source.text] == shown["Program"]
    assert shown["Time"] == ["time t, s"]
    assert shown["Define"] == ["y[b,(h p)] = -(a + x[t-1]) * sum(k[i[b]] over n)"]
    assert sorted(shown["Binary"]) == ["(a + x[t-1])", "-(a + x[t-1]) * sum(k[i[b]] over n)"]
    assert shown["Negate"] == ["-(a + x[t-1])"]
    assert shown["Reduce"] == ["sum(k[i[b]] over n)"]
    assert (shown["FlatIndex"], shown["LagIndex"], shown["LookupIndex"]) == (["(h p)"], ["t-1"], ["i[b]"])
    time, _, output = parse(source).layers[0].statements
    assert isinstance(time, ast.Time) and isinstance(output, ast.Output)
    assert [source.text[span.start : span.end] for span in (*time.spans, *output.spans)] == ["t", "s", "y"]


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_each_broken_statement_is_told_and_the_others_are_read() -> None:
    text = """layer f(H) {
  axis b, h = H H
  y = 3
  z[b] = x[b] +
  w[b] = q[b]
  axs g
  u[b,t+1] = 3
  mask k[t,s] == causal
  v[b] = x[t-0] * 3 ** 2
  a[b] = (x[b] * 2
  c[b] = x[b,t
  ok[b] = x[b] / (1 + x[b])
  size size = 3
  input e[b] : floaty
  output y
}
layer g( {
  d[b] = $
}
stray
"""
    assert faults(text) == [
        ("E110", 2, 17), ("E112", 3, 3), ("E116", 5, 3), ("E111", 6, 3), ("E120", 7, 7), ("E117", 8, 15),
        ("E120", 9, 12), ("E113", 11, 3), ("E113", 12, 3), ("E119", 13, 8), ("E123", 14, 16), ("E113", 17, 10),
        ("E106", 18, 10), ("E127", 20, 1),
    ]  # fmt: skip


def test_a_missing_brace_does_not_hide_the_next_layer() -> None:
    assert faults("layer f() {\n y[b] = 1\n\nlayer g() {\n z[b] = @\n}\n") == [("E113", 4, 1), ("E106", 5, 9)]


def test_a_missing_head_does_not_hide_the_statements() -> None:
    assert faults("time t, s\nx[b] = @\n}\n") == [("E127", 1, 1), ("E106", 2, 8)]


def test_faults_stop_at_a_limit() -> None:
    found = faults("layer f() {\n" + "  y[b] = @\n" * 200 + "}\n")
    assert len(found) == limits.FAULTS + 1 and found[-1][0] == "E129"


def test_depth_has_a_limit_that_can_be_reached() -> None:
    deep = "1" + " + 1" * limits.DEPTH
    assert expr(deep)
    assert faults(f"layer f() {{ y[b] = {deep} + 1 }}")[0][0] == "E103"
    assert expr("(" * 60 + "1" + ")" * 60) == ONE


def test_names_have_a_limit_that_can_be_reached() -> None:
    assert expr("x" * limits.NAME) == ast.Name("x" * limits.NAME)
    assert faults(f"layer f() {{ y[b] = {'x' * (limits.NAME + 1)} }}") == [("E108", 1, 20)]
    assert expr("999999999") == ast.Number(999_999_999)


# ---- the grammar itself ---------------------------------------------------------------------------------------------


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    """Lark settles shift against reduce silently; in its debug log it tells."""

    def told(grammar: str) -> list[str]:
        caplog.clear()
        level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(caplog.handler)
        try:
            Lark(grammar, start="program", parser="lalr", lexer="basic", debug=True)
        finally:
            logger.removeHandler(caplog.handler)
            logger.setLevel(level)
        return [record.getMessage() for record in caplog.records if "conflict" in record.getMessage()]

    assert told('program: "x" program ("y" program)? | "z"')  # the check can fail
    assert told(grammar_text("ssd.lark") + grammar_text("lexical.lark")) == []


def test_reading_loads_no_torch() -> None:
    code = """
import sys
from ssdc.source import Source
from ssdc.syntax.parser import parse
parse(Source(open(sys.argv[1]).read()))
print("torch" in sys.modules)
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, root / "examples" / "mamba2.ssd"]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout == "False\n"
