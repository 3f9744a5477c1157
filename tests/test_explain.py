"""`explain`: what it tells is so. Places show the words that cause a refusal, totals are those of the module, kernels
are those that a call runs; text, Markdown and JSON are kept as goldens."""

from __future__ import annotations

import inspect
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import ssdc
from ssdc import pipeline
from ssdc.cli.explain import tree
from ssdc.cli.main import app
from ssdc.codegen.forward import served
from ssdc.codegen.operands import operands
from ssdc.codegen.triton.fusion import fused
from ssdc.codegen.triton.maps import decoded
from ssdc.codegen.triton.service import call, facts
from ssdc.errors import SpecError
from ssdc.plan.cost import UNITS
from ssdc.plan.explain.data import Equation, Explanation, Kernels, Member, Program, Refused, as_json
from ssdc.plan.explain.markdown import markdown
from ssdc.plan.explain.outline import in_words, outline, plain
from ssdc.plan.hardware import HARDWARE
from ssdc.plan.planner import plan as make_plan
from ssdc.runtime.kernels import masked as operators
from ssdc.runtime.kernels import streamed as streaming
from ssdc.source import Source
from ssdc.syntax.parser import parse

ROOT = Path(__file__).parent.parent
PROGRAMS = [path for path in sorted((ROOT / "examples").glob("*.ssd")) if path.stem != "deltanet"]
SIZES = {"C": 6, "D": 32, "G": 2, "H": 4, "J": 16, "M": 64, "N": 16, "P": 8, "S": 4}
LENGTH = 512

MODEL = """\
layer mixer(D, H = 2, N = 8, P = 4) {
  time t, s
  axis b, d = D, h = H, n = N, p = P
  input u[b,t,d]
  param q[h,n,d], k[h,n,d], v[h,p,d], o[d,h,p]
  param decay[h] ~ uniform(0.9, 0.99)
  Q[b,t,h,n] = q[h,n,d] * u[b,t,d]
  K[b,t,h,n] = k[h,n,d] * u[b,t,d]
  V[b,t,h,p] = v[h,p,d] * u[b,t,d]
  mask L[h,t,s] = decay(sigmoid(decay[h]))
  r[b,t,h,p] = Q[b,t,h,n] * K[b,s,h,n] * L[h,t,s] * V[b,s,h,p]
  y[b,t,d] = o[d,h,p] * r[b,t,h,p]
  output y
}

layer window(D, W = 4) {
  time t, s
  axis b, d = D
  input u[b,t,d]
  param w[d]
  mask M[t,s] = band(W)
  y[b,t,d] = w[d] * M[t,s] * u[b,s,d]
  output y
}

layer tower(D = 16, V = 100) {
  time t
  axis b, d = D, v = V
  input ids[b,t] : int
  param embed[v,d]
  use blocks = chain(mixer(D = D) * 2, window(D = D)) * 3
  x[b,t,d] = embed[ids[b,t], d]
  y[b,t,d] = blocks(x[b,t,d])
  output y
}
"""


def source_of(path: Path) -> Source:
    return Source(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())


def sizes_of(path: Path) -> dict[str, int]:
    layer = parse(source_of(path)).layers[-1]
    return {size.name: SIZES[size.name] for size in layer.sizes if size.default is None}


def explained(path: Path, *, length: int = LENGTH, **options: Any) -> Explanation:
    checked = pipeline.check(source_of(path), None, sizes_of(path), lenient=False)
    return pipeline.explain(checked, pipeline.plan(checked, pipeline.call_sizes(checked, T=length), **options))


def example(name: str) -> Path:
    return ROOT / "examples" / f"{name}.ssd"


def marked(no: Refused) -> str:
    """The words that the marks of a place stand under."""
    assert no.place is not None
    row, marks = no.place.rows
    return row[marks.index("^") : marks.rindex("^") + 1]


def of_text(text: str, **sizes: int) -> Explanation:
    checked = pipeline.check(Source(text), None, sizes, lenient=False)
    return pipeline.explain(checked, pipeline.plan(checked, pipeline.call_sizes(checked, T=LENGTH)))


# ---- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_refusal_has_a_place(path: Path) -> None:
    found = explained(path)
    lines = path.read_text().split("\n")
    refused = [no for one in found.equations for no in one.refused] + list(found.pairs)
    refused += [one.kernels for one in found.equations if isinstance(one.kernels, Refused)]
    assert len(refused) >= len(found.equations), "fft, scan or direct is always refused"
    for no in refused:
        assert no.place is not None and no.place.file == f"examples/{path.name}"
        assert lines[no.place.line - 1][no.place.column - 1 :].startswith(marked(no).rstrip(".")), no
        assert no.reason and not no.reason.endswith(".")


CAUSES = {
    ("ssd", "y:1", "fft"): "exp(-exp(A_log[h]) * dt[b,t,h])",
    ("ssd", "y:1", "direct"): "semiseparable(exp(-exp(A_log[h]) * dt[b,t,h]))",
    ("retention", "y", "direct"): "decay(gamma[h])",
    ("hgrn2", "y", "fft"): "gate[b,t,h,n]",
    ("mamba2", "conv_out:1", "scan"): "conv1d.weight[c,1,j]",
    ("sliding_window_attention", "w", "pairs"): "softmax(score[b,h,t,s] over s, mask = M)",
    ("packed_window", "y", "scan"): "W",
    ("packed_window", "y", "fft"): "doc[b,t]",
}


@pytest.mark.parametrize("what", CAUSES, ids=lambda what: "-".join(what))
def test_a_place_shows_the_cause(what: tuple[str, str, str]) -> None:
    program, name, order = what
    found = explained(example(program))
    if order == "pairs":
        (no,) = (one for one in found.pairs if one.what == name)
    else:
        (equation,) = (one for one in found.equations if one.name == name)
        (no,) = (one for one in equation.refused if one.what == order)
    assert marked(no) == CAUSES[what]


def test_places_in_a_product_of_masks() -> None:
    text = """layer f(N = 8, W = 9) {
  time t, s
  axis b, n = N
  input q[b,t,n], k[b,t,n], v[b,t], g[b,t,n] : real
  mask L[b,n,t,s] = semiseparable(exp(-softplus(g[b,t,n])))
  mask M[t,s] = band(W)
  y[b,t] = q[b,t,n] * k[b,s,n] * v[b,s] * L[b,n,t,s] * M[t,s]
  output y
}"""
    (one,) = of_text(text).equations
    shown = {no.what: marked(no) for no in one.refused}
    assert shown == {"fft": "exp(-softplus(g[b,t,n]))", "scan": "W"}


def test_a_gate_in_doubt_is_shown() -> None:
    (one,) = explained(example("ssd")).equations
    (doubt,) = one.doubts
    assert doubt.gate == "exp(-exp(A_log[h]) * dt[b,t,h])"
    assert doubt.place is not None and (doubt.place.line, doubt.place.column) == (11, 35)


def test_no_places_without_a_source() -> None:
    layer = ssdc.compile(example("ssd"), sizes={"H": 4})
    assert ":11:35" in layer.explain(T=64)
    text = str(layer.plan(T=64))
    assert text.splitlines()[0] == "layer ssd on cpu" and text.splitlines()[1].startswith("y:1: ")


# ---- prices and totals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_candidates_are_priced_by_part(path: Path) -> None:
    for one in explained(path).equations:
        assert [candidate.chosen for candidate in one.candidates] == [True] + [False] * (len(one.candidates) - 1)
        rivals = [candidate.seconds for candidate in one.candidates if not candidate.chosen]
        assert rivals == sorted(rivals)
        for candidate in one.candidates:
            assert candidate.bound in UNITS and {part.bound for part in candidate.parts} <= set(UNITS)
            assert sum(part.seconds for part in candidate.parts) == pytest.approx(candidate.seconds, rel=1e-9)
            assert [part.seconds for part in candidate.parts] == sorted(
                (part.seconds for part in candidate.parts), reverse=True
            )
        free = [candidate for candidate in one.candidates if candidate.left is None]
        assert one.chosen.seconds <= min(candidate.seconds for candidate in free) * (1 + 1e-9)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_totals_are_those_of_the_module(path: Path) -> None:
    layer = ssdc.compile(path, sizes=sizes_of(path))
    found = layer.explanation(T=LENGTH)
    assert found.totals.parameters == sum(p.numel() for p in layer.parameters())
    contractions = sum(one.chosen.seconds for one in found.equations)
    assert found.totals.prefill_seconds == pytest.approx(contractions + found.rest_seconds, rel=1e-9)
    assert found.totals.flop >= sum(one.chosen.flop for one in found.equations)
    assert (found.totals.token_seconds is None) == (not layer.causal) == (found.totals.state_bytes is None)
    if layer.causal and not any(part.length is None and part.kind == "history" for part in found.state):
        state = layer.init_state(**dict.fromkeys(layer.call_axes, 1))
        assert found.totals.state_bytes == sum(x.numel() * x.element_size() for x in state.tensors)


def test_the_state_of_attention_is_its_past() -> None:
    found = explained(example("attention"))
    keys = sum(part.bytes for part in found.state)
    assert keys == 4 * LENGTH * 4 * (16 + 8), "H (N + P) float32 numbers a position"
    assert found.totals.token_seconds is not None and found.totals.token_seconds < found.totals.prefill_seconds


def test_gradients_cost_more() -> None:
    for name in ("ssd", "mamba2"):
        forward, both = explained(example(name)), explained(example(name), mode="both")
        assert both.totals.prefill_seconds > 1.5 * forward.totals.prefill_seconds
        assert both.rest_seconds > forward.rest_seconds
        assert both.totals.token_seconds == forward.totals.token_seconds
        assert in_words(both).splitlines()[0].endswith("on cpu, forward and backward")
    assert run("explain", example("ssd"), "--backward", "-T", 64)[0].splitlines()[0].endswith("forward and backward")


def test_projections_are_counted() -> None:
    """A product of a parameter and an input costs two operations a pair of entries."""
    text = "layer f(D, E) { time t axis b, d = D, e = E input x[b,t,d] param w[e,d]\n"
    text += "y[b,t,e] = w[e,d] * x[b,t,d] output y }"
    found = of_text(text, D=32, E=64)
    assert found.totals.flop == 2 * 32 * 64 * LENGTH
    assert found.equations == () and found.totals.prefill_seconds == found.rest_seconds > 0
    assert found.totals.token_seconds is not None and found.totals.token_seconds < found.totals.prefill_seconds


# ---- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_kernels_are_told_as_a_call_has_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of a plan agrees with the tensors that the operator is given."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = explained(path)
    serving = [one.name for one in found.equations if isinstance(one.kernels, Kernels)]
    if not serving:
        with pytest.raises(ssdc.errors.OrderError, match="serve nothing"):
            ssdc.compile(path, sizes=sizes_of(path), backend="triton")
        return
    layer = ssdc.compile(path, sizes=sizes_of(path), backend="triton")
    seen: list[dict[str, Any]] = []

    def empty(x: dict[str, Any]) -> torch.Tensor:
        seen.append(x)
        return x["value"].new_zeros((*x["query"].shape[:2], x["heads"], x["value"].shape[-1]))

    def masked(*given: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x = bound(operators.masked, *given, **named)
        columns = x["value"].shape[-1] + (decoded(x["maps"])[1] is not None)
        return empty(x), torch.zeros(x["query"].shape[0], x["heads"], x["query"].shape[-1], columns)

    def streamed(*given: Any, **named: Any) -> torch.Tensor:
        return empty(bound(streaming.streamed, *given, **named))

    plan = layer.plan(T=64, **dict.fromkeys(layer.call_axes, 2))
    module = layer._programs._module(False, dict(plan.sizes), True)
    monkeypatch.setitem(module.__dict__, "masked", masked)
    monkeypatch.setitem(module.__dict__, "streamed", streamed)
    sizes = {**{a: n for a, n in layer.graph.sizes.items() if n is not None}, **plan.sizes}
    inputs = [
        torch.zeros(
            [int(torch.tensor([sizes[a] for a in atoms]).prod()) for atoms in node.layout], dtype=KINDS[node.kind]
        )
        for node in layer.graph.inputs
        if not node.name.startswith("@")
    ]
    layer(*inputs)
    assert len(seen) == len(serving)
    graph = fused(layer.graph, served(layer.graph, plan))
    for x, name in zip(seen, serving, strict=True):
        ops = operands(graph, plan.choices[name])
        told, sized = facts(ops, "float32"), call(ops, 132)
        gate, own = x["gate"], x["own"]
        kind = "none" if gate is None else "constant" if gate.ndim == 1 else "varying"
        applied = "none" if own is None else "gate" if isinstance(own, str) else "varying"
        assert (told.states, told.columns) == (x["query"].shape[-1], x["value"].shape[-1])
        assert (told.gate, told.own, told.strict) == (kind, applied, x["strict"])
        assert told.scale == (x["scale"] is not None)
        skip = x.get("skip")
        assert told.skip == ("none" if skip is None else "head" if skip.ndim == 1 else "column")
        assert (told.maps, told.norm) == decoded(x.get("maps", ""))
        query, key = x["query"].shape[2], x["key"].shape[2]
        shared = x["heads"] // query if query == key else 1
        lanes = x["query"].shape[0] * x["heads"]
        assert (sized.lanes, sized.length, sized.shared) == (lanes, x["query"].shape[1], shared)


def bound(function: Callable[..., Any], *given: Any, **named: Any) -> dict[str, Any]:
    """The arguments of a call by name."""
    found = inspect.signature(function).bind(*given, **named)
    found.apply_defaults()
    return dict(found.arguments)


KINDS = {"real": torch.float32, "int": torch.int64, "bool": torch.bool}


PORTABLE = ("walk", "segments", "parallel")


def test_forms_follow_what_is_asked_for() -> None:
    (free,) = explained(example("ssd"), length=2**16).equations
    (short,) = explained(example("ssd"), length=2**6).equations
    (forced,) = explained(example("ssd"), form="parallel").equations
    assert isinstance(free.kernels, Kernels) and isinstance(forced.kernels, Kernels)
    assert isinstance(short.kernels, Kernels) and short.kernels.form in PORTABLE
    assert free.kernels.form == "hopper" and forced.kernels.form == "parallel"
    assert [one.kernel for one in forced.kernels.forward] == ["states", "outputs"]
    (without,) = explained(example("ssd"), form="torch").equations
    assert isinstance(without.kernels, Refused) and "PyTorch is asked for" in without.kernels.reason
    (chunk,) = explained(example("ssd"), chunk=32).equations
    assert isinstance(chunk.kernels, Refused) and "PyTorch is asked for" in chunk.kernels.reason
    (recurrent,) = explained(example("ssd"), order="recurrent").equations
    assert isinstance(recurrent.kernels, Kernels) and recurrent.kernels.form == "recurrent"


def test_the_device_of_the_plan() -> None:
    checked = pipeline.check(example("ssd"), sizes={"H": 4}, lenient=False)
    name = "a100"
    plan = make_plan(checked.graph, {"b": 1, "t": LENGTH}, hardware=HARDWARE[name])
    found = pipeline.explain(checked, plan)
    assert found.device is not None and found.hardware == name
    assert (found.device.name, found.device.processors) == (name, HARDWARE[name].processors)
    (one,) = found.equations
    assert isinstance(one.kernels, Kernels) and one.kernels.form in PORTABLE, "there is no copy engine"
    first, *others = one.kernels.candidates
    assert first.chosen and first.form == one.kernels.form
    assert {other.form for other in others} == {*PORTABLE, "recurrent"} - {first.form}
    assert found.totals.prefill_seconds == pytest.approx(first.seconds + found.rest_seconds)
    assert found.totals.prefill_seconds < one.chosen.seconds, "kernels serve it, and not PyTorch"
    assert one.kernels.token_seconds is not None and found.totals.token_seconds is not None
    assert one.kernels.token_seconds < found.totals.token_seconds


# ---- models and programs of several layers ---------------------------------------------------------------------------


def test_a_model_is_the_sum_of_its_members() -> None:
    found, own = pipeline.members(Source(MODEL), None, {"D": 16})
    assert [(count, checked.graph.layer) for count, checked in found] == [(6, "mixer"), (3, "window")]
    members = tuple(
        Member(count, pipeline.explain(one, pipeline.plan(one, pipeline.call_sizes(one, T=LENGTH))))
        for count, one in found
    )
    program = Program(members, own)
    assert own == 100 * 16
    reference = ssdc.reference(Source(MODEL), sizes={"D": 16})
    assert program.totals.parameters == sum(p.numel() for p in reference.parameters())
    one = [member.layer.totals for member in members]
    assert program.totals.prefill_seconds == pytest.approx(6 * one[0].prefill_seconds + 3 * one[1].prefill_seconds)
    assert program.totals.state_bytes == 6 * 4 * 2 * 8 * 4 + 3 * 4 * 3 * 16


def test_a_member_of_a_model_compiles_and_the_model_says_that_it_does_not() -> None:
    assert ssdc.compile(Source(MODEL), "window", {"D": 4}).graph.layer == "window"
    with pytest.raises(SpecError, match="E501"):
        ssdc.compile(Source(MODEL))


def run(*arguments: object, stdin: str | None = None) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout, result.stderr


def test_explain_of_a_model() -> None:
    text, notes = run("explain", "-", "-T", 256, stdin=MODEL)
    assert text.startswith("layers\n") and "6 x mixer" in text and "3 x window" in text and "the model's own" in text
    assert notes == ""
    text, _ = run("explain", "-", "-T", 256, "--layer", "window", "--size", "D=4", stdin=MODEL)
    assert text.startswith("layer window at b = 1, T = 256")


def test_explain_of_no_positions() -> None:
    for name in ("ssd", "attention", "hyena"):
        assert "T = 0" in run("explain", example(name), "-T", 0)[0]


def test_explain_of_several_layers() -> None:
    text, notes = run("explain", "-", "-T", 256, stdin=MODEL[: MODEL.index("layer tower")])
    assert text.startswith("layers\n") and "  mixer  " in text and "  window  " in text and "  in all" in text
    assert "sizes chosen for window: D=128" in notes, "the last layer's sizes are those of the others too"


# ---- how it is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"), [("ssd", as_json), ("sliding_window_attention", as_json), ("gsa", markdown)]
)
def test_goldens(name: str, write: Callable[[Program], str], golden: Callable[[str, str], None]) -> None:
    """What the command line writes; the plans of all examples as text are goldens of `test_goldens`."""
    program = Program((Member(1, explained(example(name))),))
    golden(f"explain/{name}.{'json' if write is as_json else 'md'}", write(program))


def test_goldens_of_a_model(golden: Callable[[str, str], None]) -> None:
    found, own = pipeline.members(Source(MODEL, "tower.ssd"), None, {"D": 16})
    plans = [pipeline.plan(one, pipeline.call_sizes(one, T=LENGTH)) for _, one in found]
    told = [pipeline.explain(one, plan) for (_, one), plan in zip(found, plans, strict=True)]
    program = Program(tuple(Member(count, one) for (count, _), one in zip(found, told, strict=True)), own)
    golden("explain/tower.txt", plain(outline(program)) + "\n")
    golden("explain/tower.md", markdown(program))


PASSES = ("forward", "backward", "step")
KEYS = {
    "": {"schema", "totals", "members", "own_parameters"},
    "totals": {"parameters", "state_bytes", "flop", "prefill_seconds", "token_seconds"},
    "members": {"count", "layer"},
    "layer": {
        *(
            "layer",
            "sizes",
            "hardware",
            "mode",
            "not_causal",
            "state",
            "pairs",
            "equations",
            "device",
            "totals",
            "rest_seconds",
        ),
    },
    "state": {"name", "kind", "axes", "length", "bytes"},
    "equations": {
        *("equation", "name", "place", "mask", "facts", "asked", "candidates", "refused", "kernels", "doubts"),
    },
    "candidates": {
        *(
            "order",
            "chunk",
            "form",
            "name",
            "chosen",
            "seconds",
            "bound",
            "flop",
            "bytes",
            "workspace",
            "depth",
            "parts",
            "left",
        ),
    },
    "parts": {"name", "seconds", "bound"},
    "refused": {"what", "reason", "place"},
    "pairs": {"what", "reason", "place"},
    "place": {"file", "line", "column", "rows"},
    "doubts": {"gate", "place"},
    "device": {"name", "processors", "dtype"},
    "forward": {"kernel", "chunk", "states", "columns", "warps", "stages", "heads"},
    "backward": {"kernel", "chunk", "states", "columns", "warps", "stages", "heads"},
    "step": {"kernel", "chunk", "states", "columns", "warps", "stages", "heads"},
}
"""The keys of the JSON document, by the key of what they are in. A change of these is a change of the schema."""


def test_the_json_keeps_its_schema() -> None:
    def check(key: str, value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                check(key, one)
        elif isinstance(value, dict) and key == "kernels":
            assert set(value) in ({"form", "segments", "candidates", "token_seconds", *PASSES}, KEYS["refused"])
            for inner, one in value.items():
                check(inner, one)
        elif isinstance(value, dict) and key != "sizes":
            assert set(value) == KEYS[key], key
            for inner, one in value.items():
                check(inner, one)

    for name in ("ssd", "gsa", "attention", "hydra"):
        text, _ = run("explain", example(name), "--json", "-T", 64)
        found = json.loads(text)
        assert found["schema"] == 1
        check("", found)


def test_markdown_is_well_formed() -> None:
    for path in PROGRAMS:
        text = markdown(Program((Member(1, explained(path)),)))
        lines = text.splitlines()
        assert text.count("```") % 2 == 0 and lines[0].startswith("# Layer `")
        for before, line in pairwise(lines):
            if before.startswith("|") and line.startswith("|"):
                assert before.replace("\\|", "").count("|") == line.replace("\\|", "").count("|"), line


def test_columns_line_up() -> None:
    for path in PROGRAMS:
        for one in explained(path).equations:
            rows = _table(in_words(explained(path)), one)
            assert len({len(row) for row in rows}) == 1, "\n".join(rows)


def _table(text: str, one: Equation) -> list[str]:
    """The heading of an equation's candidates, and their rows."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"{one.equation}: contraction"))
    heading = next(line for line in lines[start:] if line.strip().startswith("order"))
    names = [candidate.name for candidate in one.candidates]
    rows = [line for line in lines[start:] if line[5:].split(" ")[0] in names and line[:5].strip() in ("", "->")]
    return [heading, *rows[: len(names)]]


def test_a_terminal_shows_a_tree() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, legacy_windows=False)
    for branch in outline(Program((Member(1, explained(example("ssd"))),))):
        console.print(tree(branch))
    text = out.getvalue()
    assert "├── " in text and "\x1b[1m" in text and "-> chunked" in text
    assert "semiseparable(exp(-exp(A_log[h])" in text, "brackets are no markup"
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 100


def test_explain_imports_no_torch() -> None:
    code = (
        "import sys; from ssdc.cli.main import app; app(['explain', *sys.argv[1:]], standalone_mode=False)\n"
        "print(sorted({'torch', 'triton', 'matplotlib', 'numpy', 'rich.tree'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(example("ssd"))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout[-500:] + done.stderr
