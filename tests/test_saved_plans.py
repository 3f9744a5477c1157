"""Overruled plans, and plans as files: saved, reviewed, loaded, and refused where they no longer fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from typer.testing import CliRunner

import ssdc
from ssdc import pipeline
from ssdc.cli.main import app
from ssdc.codegen.render import render
from ssdc.codegen.triton.configuration import Form
from ssdc.errors import CallError, OrderError, PlanError
from ssdc.plan.asked import KERNEL_FORMS
from ssdc.runtime.module import Layer
from ssdc.source import Source
from ssdc.syntax.parser import parse

EXAMPLES = Path(__file__).parent.parent / "examples"
SIZES = {"C": 6, "D": 32, "G": 2, "H": 4, "J": 16, "M": 64, "N": 16, "P": 8, "S": 4}
PROGRAMS = [path for path in sorted(EXAMPLES.glob("*.ssd")) if path.stem != "deltanet"]
SSD = EXAMPLES / "ssd.ssd"


def sizes_of(path: Path) -> dict[str, int]:
    layer = parse(pipeline.read(path)).layers[-1]
    return {size.name: SIZES[size.name] for size in layer.sizes if size.default is None}


def compiled(path: Path, **options: Any) -> Layer:
    return ssdc.compile(path, sizes=sizes_of(path), **options)


def texts(layer: Layer, **sizes: int) -> tuple[str, str]:
    """The generated code for both backends."""
    plan = layer.plan(**sizes)
    return render(layer.graph, plan), render(layer.graph, plan, backend="triton")


# ---- overruled -------------------------------------------------------------------------------------------------------


def test_chunks_by_equation() -> None:
    layer = compiled(EXAMPLES / "gsa.ssd", chunk={"y": 48})
    chosen = {name: choice.chosen for name, choice in layer.plan(T=512).choices.items()}
    assert (chosen["y"].order, chosen["y"].chunk) == ("chunked", 48)
    free = compiled(EXAMPLES / "gsa.ssd").plan(T=512).choices["score"].chosen
    assert chosen["score"].title == free.title, "what is not named is left to the planner"


def test_one_chunk_beside_orders_by_equation() -> None:
    plan = compiled(EXAMPLES / "gsa.ssd", order={"score": "recurrent"}, chunk=32).plan(T=512)
    titles = {name: choice.chosen.title for name, choice in plan.choices.items()}
    assert titles == {"score": "recurrent", "y": "chunked(32)"}


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "an order": ({"order": "chunky"}, "there is no order 'chunky'; did you mean 'chunked'?"),
    "an order by equation": ({"order": {"y": "x"}}, "there is no order 'x'; orders are auto, recurrent, quadratic"),
    "an equation": (
        {"order": {"z": "scan"}},
        "order names the equation 'z'; equations with an order to choose: y, y:1",
    ),
    "an equation's chunk": ({"chunk": {"z": 32}}, "chunk names the equation 'z'; equations with a chunk to choose: y,"),
    "an equation's form": ({"form": {"z": "walk"}}, "form names the equation 'z'; equations with a form to choose: y,"),
    "a chunk": ({"chunk": {"y": 0}}, "chunk is 0, and needs to be a number of positions, at least 1"),
    "a chunk that is true": ({"chunk": True}, "chunk is True, and needs"),
    "a chunk without chunks": ({"order": {"y": "scan"}, "chunk": {"y": 32}}, "'y' is to be 'scan'"),
    "a form": ({"form": "walks"}, "there is no form 'walks'; did you mean 'walk'?"),
    "no form": ({"form": "x"}, "forms are auto, order, torch, recurrent, walk, segments, parallel, hopper"),
    "a form without kernels": ({"form": "walk", "backend": "torch"}, "backend is 'torch'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_exist_is_refused_with_what_does(what: str) -> None:
    options, said = WRONG[what]
    with pytest.raises(OrderError) as caught:
        compiled(SSD, **options)
    assert said in str(caught.value)


def test_a_form_where_no_kernels_serve() -> None:
    with pytest.raises(OrderError, match=r"'y' does not admit the form 'walk': its gates vary along states"):
        compiled(EXAMPLES / "gla.ssd", form={"y": "walk"})
    with pytest.raises(OrderError, match=r"the Triton kernels serve nothing of gla \('y': its gates vary"):
        compiled(EXAMPLES / "gla.ssd", form="walk")


def test_a_form_for_more_states_than_it_holds() -> None:
    for form in ("walk", "segments"):
        with pytest.raises(OrderError, match=f"a head has 256 states, and {form} keeps at most 128 in registers"):
            ssdc.compile(SSD, sizes={"H": 4, "N": 256}, form=form)
    assert ssdc.compile(SSD, sizes={"H": 4, "N": 256}, form="parallel").plan().choices["y:1"].form == "parallel"


def test_the_form_of_hopper_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    layer = compiled(SSD, form="hopper", backend="triton")
    given = torch.randn(1, 33, 4, 64), torch.rand(1, 33, 4), torch.randn(1, 33, 1, 128), torch.randn(1, 33, 1, 128)
    with pytest.raises(CallError, match="on Hopper GPUs; use form='auto'"):
        layer(*given)


def test_the_forms_are_those_of_the_kernels() -> None:
    assert get_args(Form) == KERNEL_FORMS


@pytest.mark.parametrize("form", KERNEL_FORMS)
def test_a_form_reaches_the_kernels(form: str) -> None:
    assert f'form="{form}"' in texts(compiled(SSD, form={"y": form}), T=512)[1]
    assert f'form="{form}"' in texts(compiled(SSD, form=form), T=512)[1]
    torch_text, plain = texts(compiled(SSD), T=512)
    assert "form=" not in torch_text + plain


def test_torch_instead_of_kernels() -> None:
    assert "masked(" in texts(compiled(SSD), T=512)[1]
    for overruled in ({"form": "torch"}, {"order": "scan"}, {"chunk": 32}):
        assert "masked(" not in texts(compiled(SSD, **overruled), T=512)[1]
    assert "masked(" in texts(compiled(SSD, order="chunked"), T=512)[1]
    assert 'form="walk"' in texts(compiled(SSD, order="scan", form="walk"), T=512)[1], (
        "on a GPU a form goes before an order"
    )
    assert "masked(" in texts(compiled(SSD, chunk=32, form="auto"), T=512)[1], "a form, where one is asked for"
    assert "masked(" in texts(compiled(SSD, order="scan", form="auto"), T=512)[1]
    assert 'form="recurrent"' in texts(compiled(SSD, order="recurrent"), T=512)[1]
    assert "form=" not in texts(compiled(SSD, order="recurrent", form="auto"), T=512)[1]


# ---- saved -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_saved_plan_gives_the_same_code(path: Path, tmp_path: Path) -> None:
    first = compiled(path)
    first.save_plan(tmp_path / "plan.json", T=512)
    second = compiled(path, plan=tmp_path / "plan.json")
    assert texts(second, T=512) == texts(first, T=512)
    second.save_plan(tmp_path / "again.json", T=512)
    assert (tmp_path / "again.json").read_text() == (tmp_path / "plan.json").read_text()


def test_a_saved_plan_holds_at_every_length(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    compiled(SSD, order="recurrent").save_plan(file, T=64)
    layer = compiled(SSD, plan=file)
    assert {choice.chosen.order for choice in layer.plan(T=65536).choices.values()} == {"recurrent"}
    torch.manual_seed(0)
    given = torch.randn(1, 33, 4, 64), torch.rand(1, 33, 4), torch.randn(1, 33, 1, 128), torch.randn(1, 33, 1, 128)
    other = compiled(SSD, order="recurrent")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(*given), other(*given))


def test_overruled_plans_are_saved_too(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    first = compiled(EXAMPLES / "gsa.ssd", order={"score": "scan"}, chunk={"y": 32})
    first.save_plan(file, T=512)
    entries = json.loads(file.read_text())["equations"]
    kept = {name: (entry["order"], entry["chunk"], entry["form"]) for name, entry in entries.items()}
    assert kept == {"score": ("scan", None, "order"), "y": ("chunked", 32, "torch")}
    assert texts(compiled(EXAMPLES / "gsa.ssd", plan=file), T=512) == texts(first, T=512)


def test_a_plan_for_training(tmp_path: Path) -> None:
    first = compiled(EXAMPLES / "gsa.ssd")
    first.save_plan(tmp_path / "plan.json", "both", T=512)
    assert json.loads((tmp_path / "plan.json").read_text())["mode"] == "both"
    again = compiled(EXAMPLES / "gsa.ssd", plan=tmp_path / "plan.json")
    for mode in ("forward", "both"):
        assert again.plan(mode, T=512).orders == first.plan("both", T=512).orders


def test_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    compiled(SSD, chunk=64, form="segments").save_plan(file, b=2, T=512)
    found = json.loads(file.read_text())
    assert list(found) == ["schema", "layer", "fingerprint", "sizes", "hardware", "mode", "equations"]
    assert (found["schema"], found["layer"], found["sizes"]) == (1, "ssd", {"b": 2, "T": 512})
    assert found["equations"]["y:1"] == {
        "order": "chunked",
        "chunk": 64,
        "form": "segments",
        "what": "[b, t, g 1, h%g 4, p 64] = [b, t, g 1, n 128] * forward mask, log gates [b, t, g 1, h%g 4] * "
        + found["equations"]["y:1"]["what"].partition("h%g 4] * ")[2],
    }


# ---- refused ---------------------------------------------------------------------------------------------------------

TEXT = SSD.read_text()
CHANGED: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "an equation is gone": (
        lambda text: text.replace("C[b,t,g,n] * L[b,h,t,s] * B[b,s,g,n] * dt[b,s,h] * x[b,s,h,p] + ", ""),
        ("- y:1: [b, t, g 1",),
    ),
    "an equation is new": (
        lambda text: text.replace("  output y", "  z[b,t,h] = L[b,h,t,s] * dt[b,s,h]\n  output y, z"),
        ("+ z: [b, t,",),
    ),
    "a mask is another": (
        lambda text: text.replace(
            "semiseparable(exp(-exp(A_log[h]) * dt[b,t,h]))", "decay(exp(-exp(A_log[h])))"
        ).replace("L[b,h,t,s]", "L[h,t,s]"),
        ("- y:1: [b, t, g 1", "log gates [b, t, g 1", "+ y:1: [b, t, g 1", "log gates [g 1, h%g 4]"),
    ),
    "a size is another": (
        lambda text: text.replace("N = 128", "N = 64"),
        ("- y:1: [b, t, g 1", "n 128]", "+ y:1: [b, t, g 1", "n 64]"),
    ),
    "the layer has another name": (
        lambda text: text.replace("layer ssd(", "layer core("),
        ("- layer ssd", "+ layer core"),
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_plan_that_no_longer_fits_is_refused_with_the_difference(what: str, tmp_path: Path) -> None:
    change, said = CHANGED[what]
    file = tmp_path / "plan.json"
    compiled(SSD).save_plan(file, T=512)
    assert change(TEXT) != TEXT
    with pytest.raises(PlanError) as caught:
        ssdc.compile(Source(change(TEXT)), sizes={"H": 4}, plan=file)
    message = str(caught.value)
    place = 0
    for part in said:
        place = message.find(part, place)
        assert place >= 0, (part, message)
    assert f"{file} does not fit layer" in message and "--save" in message


def test_what_plays_no_part_in_a_plan_may_change(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    compiled(SSD).save_plan(file, T=512)
    text = TEXT.replace("D[h] * x[b,t,h,p]", "2 * D[h] * x[b,t,h,p]").replace("L[", "Decay[").replace("# ", "# so ")
    assert ssdc.compile(Source(text), sizes={"H": 4}, plan=file).plan(T=512).orders


def edited(path: Path, change: Callable[[Any], None]) -> Path:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


def put(**changes: object) -> Callable[[Any], None]:
    return lambda found: found["equations"]["y:1"].update(changes)


def drop(*keys: str) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


EDITED: dict[str, tuple[Callable[[Any], None], str]] = {
    "an order that is not legal": (
        put(order="fft", chunk=None),
        "- y:1: fft\n  + 'y' does not admit the order 'fft': the",
    ),
    "an order that does not exist": (
        put(order="chunky"),
        "equation 'y:1', order is 'chunky', and needs to be one of rec",
    ),
    "an order that is a list": (put(order=[]), "order is []"),
    "a chunk that does not exist": (put(chunk=0), "chunk is 0, and needs to be null or a number of positions"),
    "a chunk that is text": (put(chunk="64"), "chunk is '64'"),
    "a chunk without chunks": (put(order="scan", chunk=64), "- y:1: scan, chunks of 64"),
    "a form that does not exist": (put(form="fast"), "form is 'fast', and needs to be one of auto, order, torch"),
    "another schema": (lambda found: found.update(schema=2), "is a plan of schema 2, and this version of ssdc reads 1"),
    "no schema": (drop("schema"), "is no plan: it has no key 'schema'"),
    "no form": (drop("equations", "y:1", "form"), "equation 'y:1' has no key 'form'"),
    "no equations": (drop("equations"), "the file has no key 'equations'"),
    "equations that are none": (lambda found: found.update(equations=[]), "equations is [], and needs to be an object"),
    "another fingerprint": (lambda found: found.update(fingerprint="0"), "- fingerprint 0"),
}


@pytest.mark.parametrize("what", EDITED)
def test_a_file_that_is_wrong_says_where(what: str, tmp_path: Path) -> None:
    change, said = EDITED[what]
    compiled(SSD).save_plan(tmp_path / "plan.json", T=512)
    with pytest.raises(PlanError) as caught:
        compiled(SSD, plan=edited(tmp_path / "plan.json", change))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\x00", "[" * 100_000])
def test_a_file_that_is_no_plan(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json is no plan"):
        compiled(SSD, plan=tmp_path / "plan.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read the plan"):
        compiled(SSD, plan=tmp_path / "plan.json")


def test_a_plan_and_an_order_are_two_plans(tmp_path: Path) -> None:
    compiled(SSD).save_plan(tmp_path / "plan.json", T=512)
    with pytest.raises(PlanError, match="leave out order, chunk and form"):
        compiled(SSD, plan=tmp_path / "plan.json", order="recurrent")


# ---- the command line ------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_plan_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    sizes = ("--size", "H=4", "-T", "512")
    assert run("explain", SSD, *sizes, "--order", "y=recurrent", "--save", file)[0] == 0
    status, text, _ = run("explain", SSD, *sizes, "--plan", file)
    assert status == 0 and "-> recurrent" in text
    assert "Contraction 0: recurrent" in run("show", SSD, *sizes, "--stage", "kernels", "--plan", file)[1]
    assert run("eject", SSD, *sizes, "--plan", file, "-o", tmp_path)[0] == 0
    assert "recurrent" in (tmp_path / "ssd.py").read_text()
    status, text, complaint = run("explain", SSD, "--size", "H=8", "--plan", file)
    assert (status, text) == (1, "") and "+ y:1: [b, t, g 1, h%g 8, p 64]" in complaint


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--chunk", "y=some"), "no numbers of positions"),
        (("--order", "scan", "--order", "y=scan"), "either one value for the layer"),
        (("--order", "y=scan", "--order", "y=fft"), "y is given twice"),
        (("--save", "no/such/folder/plan.json"), "cannot write"),
        (("--json", "--markdown"), "choose one"),
    ],
)
def test_bad_usage(wrong: tuple[str, ...], said: str) -> None:
    status, text, complaint = run("explain", SSD, *wrong)
    assert status == 2 and text == ""
    assert said in " ".join(complaint.replace("│", " ").split())
