"""Offsets to lines and columns, and the diagnostics that are drawn from them."""

from __future__ import annotations

import pytest

from ssdc.errors import Fault, SpecError, render
from ssdc.source import NOWHERE, Source, Span


class Odd(Fault):
    code = "E000"
    message = "found {found}"
    remedy = "use {other}"


def drawn(text: str, start: int, end: int) -> list[str]:
    """The lines of a diagnostic."""
    return render(Source(text, "a.ssd"), Odd(Span(start, end), found="this", other="that")).split("\n")


def marked(text: str, start: int, end: int) -> str:
    """What the marks of a diagnostic stand under."""
    _, _, shown, marks, _ = drawn(text, start, end)
    return "".join(character for character, mark in zip(shown.ljust(len(marks)), marks, strict=False) if mark == "^")


@pytest.mark.parametrize(
    ("offset", "place"), [(0, (1, 1)), (1, (1, 2)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (5, (3, 2))]
)
def test_position(offset: int, place: tuple[int, int]) -> None:
    assert Source("ab\n\nc").position(offset) == place


def test_lines() -> None:
    source = Source("ab\n\nc")
    assert [source.line(number) for number in (1, 2, 3)] == ["ab", "", "c"]
    assert Source("").line(1) == "" and Source("").position(0) == (1, 1)
    assert Source("a\n").line(2) == "" and Source("a\n").position(2) == (2, 1)


def test_spans_join() -> None:
    assert Span(3, 5).to(Span(1, 2)) == Span(1, 5) == Span(1, 2).to(Span(3, 5))
    assert NOWHERE == Span(0, 0)


def test_a_diagnostic() -> None:
    assert drawn("one\ntwo three\n", 8, 13) == [
        "a.ssd:2:5: error[E000]: found this",
        "   |",
        " 2 | two three",
        "   |     ^^^^^",
        "   = help: use that",
    ]


def test_tabs_and_carriage_returns_keep_the_marks_in_place() -> None:
    assert marked("\tx\t= y\r\n", 5, 6) == "y"
    assert not any(character in row for row in drawn("\tx\t= y\r\n", 5, 6) for character in "\t\r")


def test_characters_that_do_not_fill_one_column_are_not_shown() -> None:
    assert marked("\u5c42\u0301\u202e\0x", 4, 5) == "x"
    assert drawn("\u5c42\u0301\u202e\0x", 4, 5)[2] == " 1 | ????x"
    assert marked("\u00e9x", 1, 2) == "x"


def test_a_long_line_is_cut_around_the_fault() -> None:
    text = "a" * 5000 + "WRONG" + "b" * 5000
    rows = drawn(text, 5000, 5005)
    assert marked(text, 5000, 5005) == "WRONG"
    assert max(map(len, rows)) < 180
    assert rows[2].startswith(" 1 | ...a") and rows[2].endswith("b...")
    assert rows[0].startswith("a.ssd:1:5001:")


def test_a_span_over_lines_is_marked_to_the_end_of_the_first() -> None:
    assert marked("one two\nthree", 4, 13) == "two"


def test_the_end_of_the_text_has_a_mark() -> None:
    assert drawn("abc", 3, 3)[3] == "   |    ^".replace("|    ^", "|    ^")
    assert drawn("abc\n", 4, 4)[:4] == ["a.ssd:2:1: error[E000]: found this", "   |", " 2 |", "   | ^"]
    assert drawn("", 0, 1)[3] == "   | ^"


def test_faults_come_in_source_order() -> None:
    later, sooner = Odd(Span(4, 5), found="b", other=""), Odd(Span(0, 1), found="a", other="")
    error = SpecError(Source("a\n\nb c"), [later, sooner])
    assert error.faults == [sooner, later]
    assert str(error).index("found a") < str(error).index("found b")


def test_braces_in_facts_are_only_text() -> None:
    assert Odd(NOWHERE, found="{other} {0}", other="x").text == "found {other} {0}"
