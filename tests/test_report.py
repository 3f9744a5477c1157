"""`ssdc compare --html`: what the page shows, that it escapes and needs nothing else, and how a browser lays it out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import ssdc
from ssdc import pipeline
from ssdc.cli import comparing
from ssdc.cli.main import app
from ssdc.graph.layout import lay_out
from ssdc.graph.picture import to_svg
from ssdc.markup import Html, element, join
from ssdc.plan.comparison import Comparison, Row, Spec
from ssdc.plan.explain.data import Priced
from ssdc.report.listing import listing
from ssdc.report.page import Shown, bars, page
from ssdc.report.plots import INK, curves
from ssdc.report.squares import FORMULAS, squares
from ssdc.runtime.grids import grids
from ssdc.runtime.measure import Measured
from ssdc.source import Source
from ssdc.structures import STRUCTURES

EXAMPLES = Path(__file__).parent.parent / "examples"
SIZES = {"H": 2, "P": 4, "N": 3, "D": 64}
HOSTILE = """# </script><script>alert(1)</script> <img src=x onerror=alert(2)> {{ 7 * 7 }}
layer evil(H, N) { # "'><svg onload=alert(3)>
  time t, s
  axis b, h = H, n = N
  input q[b,t,h,n], k[b,t,h,n], a[b,t,h]
  mask L[b,h,t,s] = semiseparable(a[b,t,h])
  y[b,t,h] = q[b,t,h,n] * k[b,s,h,n] * L[b,h,t,s]
  output y
}
"""
HOSTILE_NAME = "\"><script>alert('name')</script>.ssd"
TITLES = [
    "The lines that decide",
    "Masks",
    "The plan",
    "Crossovers and rooflines",
    "The contraction graph",
    "What runs",
]


def shown(source: Path | Source, T: int = 256) -> Shown:
    found = pipeline.read(source)
    names = {one.name for one in pipeline.parse(found).layers[-1].sizes if one.default is None}
    checked = pipeline.check(found, None, {name: SIZES[name] for name in names}, lenient=False)
    return Shown(checked, pipeline.plan(checked, pipeline.call_sizes(checked, T=T)))


def comparison(*layers: Shown) -> Comparison:
    """Rows at three lengths: of one layer in two orderings, the last not measured, of several one each."""
    names = [one.checked.graph.layer for one in layers]
    specs = tuple(
        Spec(name, one.checked.source.name, name, {}, (), {}) for name, one in zip(names, layers, strict=True)
    )
    rows = []
    for at in (64, 256, 1024):
        for name in names:
            for order, power in (("chunked(64)", 1), ("quadratic", 2))[: 2 if len(names) == 1 else 1]:
                seconds = 1e-3 * power * (at / 256) ** power
                row = Row(name, order, at, order != "quadratic", 1e9, 1e6, 1e6, seconds, 2 * seconds, 3.5e6, 0.4)
                late = {"seconds": None, "peak": None, "error": None, "skipped": "it is <too> slow"}
                rows.append(replace(row, **late) if (at, order) == (1024, "quadratic") else row)  # type: ignore[arg-type]
    return Comparison("T", None, 1, "forward", None, "cpu", specs, tuple(rows))


@pytest.fixture(scope="module")
def one() -> str:
    layer = shown(EXAMPLES / "mamba2.ssd")
    return page(comparison(layer), [layer])


@pytest.fixture(scope="module")
def several() -> str:
    layers = [shown(EXAMPLES / f"{name}.ssd") for name in ("ssd", "attention")] + [shown(Source(HOSTILE, HOSTILE_NAME))]
    return page(comparison(*layers), layers)


# ---- what is written -------------------------------------------------------------------------------------------------

VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Document(HTMLParser):
    """The elements of a page: tags with attributes, and the text below each tag."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")
        if tag in ("td", "th", "div", "p"):
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for tag in set(self.stack):
            self.texts[tag] = self.texts.get(tag, "") + data


def document(text: str) -> Document:
    found = Document()
    found.feed(text)
    assert not found.wrong and not found.stack, (found.wrong, found.stack)
    return found


@pytest.mark.parametrize("name", ["one", "several"])
def test_the_page_needs_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    text: str = request.getfixturevalue(name)
    found = document(text)
    names = Counter(tag for tag, _ in found.tags)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "image"} & set(names)
    assert names["style"] == 1 and names["title"] >= 1
    for tag, attributes in found.tags:
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#"), (tag, attributes)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert set(re.findall(r"https?:[^\"' ]*", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize("name", ["one", "several"])
def test_ids_are_unique_and_every_reference_has_one(name: str, request: pytest.FixtureRequest) -> None:
    text: str = request.getfixturevalue(name)
    found = document(text)
    ids = Counter(attributes["id"] for _, attributes in found.tags if "id" in attributes)
    assert [one for one, count in ids.items() if count > 1] == []
    targets = {value[1:] for _, all in found.tags for key, value in all.items() if key in ("href", "xlink:href")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets and targets <= set(ids)


def test_user_text_is_escaped(several: str) -> None:
    found = document(several)
    assert "<script" not in several and "<img" not in several and "onload=alert(3)>" not in several
    for line in HOSTILE.rstrip().split("\n"):
        assert line in found.texts["code"]
    assert HOSTILE_NAME in found.texts["h2"] and HOSTILE_NAME in found.texts["td"]
    assert "{{ 7 * 7 }}" in found.texts["code"]


def test_every_section_has_its_parts(one: str, several: str) -> None:
    titles = re.findall(r"<h3>(.*?)</h3>", one)
    assert titles == TITLES
    assert document(one).texts["h2"].startswith("Orderings compared")
    text = document(several).texts
    assert "Layers compared" in text["h2"]
    assert [name in text["nav"] for name in ("ssd", "attention", "evil")] == [True] * 3
    assert "the exponential of a score has no finite feature map" in text["main"]
    assert "<nav" not in one


def test_the_plan_of_the_page_is_the_planners(one: str) -> None:
    layer = shown(EXAMPLES / "mamba2.ssd")
    words = " ".join(document(one).texts["main"].split())
    for choice in layer.plan.choices.values():
        for candidate in (choice.chosen, choice.rivals[0]):
            assert f"{candidate.title} {1e3 * candidate.cost.seconds:.3g} ms" in words
        for refused in choice.refused:
            assert f"no {refused.order}: {refused.reason}" in words
    assert pipeline.text(layer.checked, layer.plan) in document(one).texts["details"]
    assert pipeline.kernels(layer.checked, layer.plan) in document(one).texts["details"]


def test_what_was_measured_is_shown(one: str) -> None:
    words = " ".join(document(one).texts["main"].split())
    assert "256 → chunked(64) 2 ms 1 ms 3.5 0.4" in words
    assert "1,024 quadratic skipped 32 ms" in words and "T = 1,024: quadratic: it is <too> slow" in words
    assert "Measured. Fastest: quadratic at T = 64, then chunked from T ≈ 128" in words


def test_the_lines_that_decide_are_marked() -> None:
    layer = shown(EXAMPLES / "ssd.ssd")
    found = pipeline.explain(layer.checked, layer.plan)
    lines = listing(layer.checked.source, layer.checked.graph, found)
    assert (
        "\n".join("".join(text for text, _ in line.stretches) for line in lines) == layer.checked.source.text.rstrip()
    )
    (gate,) = (line for line in lines if any("vary with time" in note.text for note in line.notes))
    marked = "".join(text for text, on in gate.stretches if on)
    assert marked == "L[b,h,t,s]semiseparable(exp(-exp(A_log[h]) * dt[b,t,h]))"
    assert {note.what for line in lines for note in line.notes} >= {"mask L", "y", "no fft", "no direct"}
    assert not any(on for line in lines if not line.notes for _, on in line.stretches)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_every_structure_has_a_formula() -> None:
    assert list(FORMULAS) == list(STRUCTURES)


def test_masks_have_their_true_values() -> None:
    text = "layer x(H) { time t, s\n axis b, h = H\n input v[b,t,h]\n mask L[h,t,s] = decay(1 - 2 ^ (-1 - index(h)))\n"
    text += " y[b,t,h] = L[h,t,s] * v[b,s,h]\n output y }"
    first, second = grids(
        lambda: ssdc.compile(text, sizes={"H": 2}), lambda: pipeline.reference(text, sizes={"H": 2}), 4
    )
    assert (first.mask, first.at, second.at) == ("L", "h = 0", "h = 1")
    assert first.rows == ((1, 0, 0, 0), (0.5, 1, 0, 0), (0.25, 0.5, 1, 0), (0.125, 0.25, 0.5, 1))
    assert second.rows[2] == (0.75**2, 0.75, 1, 0)


def test_masks_are_the_same_each_time_and_leave_the_random_state() -> None:
    def found() -> object:
        path = EXAMPLES / "gla.ssd"
        sizes = {"H": 2, "N": 3, "P": 4}
        return grids(lambda: ssdc.compile(path, sizes=sizes), lambda: pipeline.reference(path, sizes=sizes), 8)

    torch.manual_seed(1)
    before = found()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn
    assert found() == before


def test_squares_are_darker_for_larger_values() -> None:
    picture = squares([[1.0, 0.0], [-0.5, 0.25]], "a < b")
    found = document(picture)
    drawn = [(one["class"], float(one["fill-opacity"])) for tag, one in found.tags if tag == "rect" and "class" in one]
    assert drawn == [("above", 1.0), ("below", 0.54), ("above", 0.31)]
    assert [tag for tag, _ in found.tags].count("line") == 1
    assert "M[1,0] = -0.5" in picture and "a &lt; b" in picture


def test_plots_are_text_in_the_pages_colour() -> None:
    picture = curves("a <title>", "T", {"scan": [(64, 1e-3), (256, 4e-3)], "fft": [(64, 2e-3), (256, 2e-3)]}, "z")
    words = document(picture).texts["text"]
    assert "a <title>" in words and "scan" in words and "256" in words
    assert INK not in picture and "currentColor" in picture
    assert "<style" not in picture and "<metadata" not in picture and "font-family" not in picture


def test_names_are_no_formulas() -> None:
    odd = r"_a ($\bad{$ <x>.ssd)"
    picture = curves(odd, "T", {odd: [(64, 1e-3), (256, 4e-3)]}, "z")
    assert document(picture).texts["text"].count(odd) == 2


def test_bars_end_at_a_multiple_of_the_least() -> None:
    layer = shown(EXAMPLES / "ssd.ssd", T=16384)
    (equation,) = pipeline.explain(layer.checked, layer.plan).equations
    found: dict[str, tuple[Priced, Any]] = {priced.name: (priced, bar) for priced, bar in bars(equation.candidates)}
    chosen, longest = found[equation.chosen.name][1], found["quadratic"][1]
    assert longest.cut and not chosen.cut
    assert sum(share for *_, share in longest.parts) == pytest.approx(100, abs=0.1)
    assert sum(share for *_, share in chosen.parts) == pytest.approx(12.5, abs=0.1)


def test_the_graph_is_drawn_downwards_without_boxes_that_overlap() -> None:
    layer = shown(EXAMPLES / "mamba2.ssd")
    graph = layer.checked.graph
    edges = [(a, b) for a, b in graph.net.edges if a in graph.order and b in graph.order]
    boxes = lay_out(dict.fromkeys(graph.order, (90.0, 40.0)), edges).boxes
    assert all(boxes[a].bottom < boxes[b].y for a, b in edges)
    places = list(boxes.values())
    for place, box in enumerate(places):
        for other in places[:place]:
            apart = box.x + box.width <= other.x or other.x + other.width <= box.x
            assert apart or box.bottom <= other.y or other.bottom <= box.y
    picture = to_svg(graph, {"y:1": "chunked(64)"})
    assert "chunked(64)" in picture and all(name in document(picture).texts["text"] for name in graph.order)


def test_markup_escapes() -> None:
    assert element("a", "<b>", title='"x"') == '<a title="&quot;x&quot;">&lt;b&gt;</a>'
    assert join(Html("<i>"), None, "<") == "<i>&lt;" and element("br") == "<br>"


# ---- notebooks -------------------------------------------------------------------------------------------------------


def test_graphs_plans_and_layers_show_themselves() -> None:
    layer = ssdc.compile(EXAMPLES / "ssd.ssd", sizes={"H": 2, "P": 4, "N": 3})
    plan = layer.plan(b=1, T=256)
    for text in (layer._repr_html_(), plan._repr_html_(), layer.graph._repr_html_()):
        found = document(text)
        assert not {"script", "img", "link", "style"} & {tag for tag, _ in found.tags}
        assert not [value for _, all in found.tags for key, value in all.items() if key in ("src", "href")]
    words = document(layer._repr_html_()).texts["div"]
    assert "ssd, order='auto'" in words and "x[b,t,h,p], dt[b,t,h]" in words and "-> y[b,t,h,p]" in words
    assert "4 parameters" in words and "A_log" in words and "float32" in words
    choice = next(iter(plan.choices.values()))
    cells = document(plan._repr_html_()).texts["td"]
    assert choice.chosen.title in cells and choice.rivals[0].title in cells and "fft" in cells
    assert layer.graph._repr_mimebundle_()["text/vnd.mermaid"].startswith("flowchart TD")


def test_reprs_escape() -> None:
    graph = pipeline.check(Source(HOSTILE.replace("alert", "x")), sizes={"H": 2, "N": 2}).graph
    odd = replace(graph, layer="<script>")
    assert "<script>" not in odd._repr_html_() and "&lt;script&gt;" in odd._repr_html_()
    plan = pipeline.plan(shown(EXAMPLES / "ssd.ssd").checked, {"b": 1, "t": 64})
    assert "&lt;script&gt;" in replace(plan, layer="<script>")._repr_html_()


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comparing, "measure", lambda call, *_: Measured(1e-6 * call.length, 3, 2_000_000, 1.5))
    monkeypatch.setattr(comparing, "write_reference", lambda *_: None)
    file = tmp_path / "report.html"
    files = [str(EXAMPLES / f"{name}.ssd") for name in ("ssd", "gla")]
    command = ["compare", *files, "-T", "256", "--size", "N=4,8", "--size", "H=2", "--html", str(file)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    text = document(file.read_text(encoding="utf-8")).texts["body"]
    assert "Layers compared" in text and "from N" not in text and "T = 256" in text
    assert "y:1: [b, h, p, n], accumulated, float32, 4,096 bytes" in text, "the layer is planned for the largest N"
    wrong = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "no" / "report.html")])
    assert wrong.exit_code == 2 and "--html" in wrong.output


# ---- a browser -------------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
LOOK = """<!DOCTYPE html><meta charset="utf-8">
<body><iframe id="page" style="width:WIDTHpx;height:800px;border:0"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = () => {
  const inside = frame.contentDocument, view = frame.contentWindow, width = inside.documentElement.clientWidth;
  const scrolls = one => one && (["auto", "scroll"].includes(view.getComputedStyle(one).overflowX)
    || scrolls(one.parentElement));
  const all = [...inside.body.querySelectorAll("*")].filter(one => one.getClientRects().length);
  const out = all.filter(one => !one.ownerSVGElement && !scrolls(one)
    && (one.getBoundingClientRect().right > width + 0.5 || one.getBoundingClientRect().left < -0.5));
  const clipped = [...inside.querySelectorAll("svg.plot")].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(one => {
      const box = one.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    }).map(one => one.textContent);
  });
  const letters = [...inside.querySelectorAll("svg.plot text")].map(one => one.getBoundingClientRect().height);
  const style = view.getComputedStyle(inside.body);
  const found = {
    width, scroll: inside.documentElement.scrollWidth, out: out.map(one => one.tagName + "." + one.className), clipped,
    letters: Math.min(...letters), paper: style.backgroundColor, ink: style.color,
    sections: [...inside.querySelectorAll("main > section")].filter(one => one.clientHeight > 50).length,
    pictures: [...inside.querySelectorAll("svg")].filter(one => one.clientWidth > 50 && one.clientHeight > 50).length,
    empty: [...inside.querySelectorAll("svg")].filter(one => !one.clientWidth && !one.closest("details")).length,
  };
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
};
frame.srcdoc = TEXT;
</script>"""


def look(text: str, width: int, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What a browser finds of a page so wide, and what it complains of."""
    file = folder / "look.html"
    inside = json.dumps(text).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    file.write_text(LOOK.replace("WIDTH", str(width)).replace("TEXT", inside), encoding="utf-8")
    done = browse(folder, *options, "--dump-dom", "--enable-logging=stderr", file.as_uri())
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    complaints = "\n".join(row for row in done.stderr.splitlines() if "CONSOLE" in row)
    told: dict[str, Any] = json.loads(found.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    return told, complaints


def browse(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000")
    command = [CHROMIUM, *fixed, f"--user-data-dir={folder / 'profile'}", "--window-size=1300,900", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["one", "several"])
def test_a_browser_lays_it_out(name: str, width: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found, complaints = look(request.getfixturevalue(name), width, tmp_path)
    assert complaints == ""
    assert found["width"] == width and found["scroll"] <= width, found
    assert found["out"] == [] and found["clipped"] == []
    assert found["sections"] == {"one": 2, "several": 4}[name] and found["empty"] == 0
    assert found["pictures"] >= {"one": 11, "several": 13}[name]
    assert found["letters"] >= 9, "letters of a plot, in pixels"


@needs_chromium
def test_the_look_sees_what_is_wrong(one: str, tmp_path: Path) -> None:
    wide = one.replace("<main>", '<main><div class="planted" style="width:900px">x</div>')
    wrong = wide.replace("</main>", "</main><script>throw Error('planted')</script>")
    found, complaints = look(wrong, 360, tmp_path)
    assert "DIV.planted" in found["out"] and found["scroll"] > 360
    assert "Content Security Policy" in complaints, "the page lets no script run, and says so"


def _light(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_dark_where_that_is_preferred(dark: bool, one: str, tmp_path: Path) -> None:
    found, _ = look(one, 800, tmp_path, *(["--force-dark-mode"] if dark else []))
    paper, ink = _light(found["paper"]), _light(found["ink"])
    assert (paper < 40 and ink > 200) if dark else (paper > 240 and ink < 60)


@needs_chromium
def test_a_screenshot_has_all_colours(one: str, tmp_path: Path) -> None:
    from matplotlib.image import imread

    file = tmp_path / "report.html"
    file.write_text(one, encoding="utf-8")
    picture = tmp_path / "report.png"
    browse(tmp_path, f"--screenshot={picture}", "--window-size=1200,6000", file.as_uri())
    pixels = (imread(picture)[..., :3] * 255).round().astype(int)
    assert pixels.shape[:2] == (6000, 1200)
    counts = Counter(map(tuple, pixels.reshape(-1, 3)[::7].tolist()))
    wanted: Mapping[str, tuple[int, int, int]] = {
        "blue": (0, 114, 178),
        "orange": (230, 159, 0),
        "green": (0, 158, 115),
    }
    assert all(counts[colour] > 20 for colour in wanted.values()), {name: counts[c] for name, c in wanted.items()}
