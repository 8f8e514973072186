"""Tables on screens of any width: nothing is wider, nothing is left out without a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.reports.fitting import Fit, abbreviated
from ckptkit.reports.screen import Screen, folded, painted, shown_on, shows_color
from ckptkit.reports.table import render
from ckptkit.reports.text import display_width

NAMES = st.lists(
    st.lists(st.text("abc_é層0123456789", min_size=1, max_size=12), min_size=1, max_size=6).map(
        "/".join
    ),
    min_size=1,
    max_size=12,
    unique=True,
)
HEADERS = ("NAME", "DTYPE", "SHAPE", "PARAMS")


def table(names: list[str], width: int | None) -> list[str]:
    fit = Fit(("NAME",), ("PARAMS",))
    rows = [(name, "float32", f"{i},3", 10**i) for i, name in enumerate(names)]
    with shown_on(Screen(width)):
        return list(render(rows, HEADERS, "table", ("left", "left", "left", "right"), fit))


@given(NAMES, st.integers(30, 120))
def test_no_line_is_wider_than_the_screen(names: list[str], width: int) -> None:
    lines = table(names, width)
    for line in lines:  # a path above the table is not cut
        assert display_width(line) <= width or (line.startswith("  ") and len(line.split()) == 1)
    whole = table(names, None)
    if max(map(display_width, whole)) <= width:
        assert lines == whole


@given(NAMES, st.integers(4, 60))
def test_a_name_is_shortened_to_what_was_asked(names: list[str], width: int) -> None:
    for name in names:
        short = abbreviated(name, width)
        assert display_width(short) <= width
        if short != name:
            head, _, tail = short.partition("…")
            assert name.startswith(head) and name.endswith(tail)


def test_headers_are_shortened_before_numbers() -> None:
    rows = [("kernel", "0.0442", "12.5"), ("bias", "1.97", "3")]
    with shown_on(Screen(24)):
        head, *lines = render(
            rows, ("NAME", "UPDATE/NORM", "OVER STEPS"), "table", ("left", "right", "right")
        )
    assert [line.split() for line in lines[:2]] == [list(row) for row in rows]
    assert head.startswith("NAME") and max(map(display_width, (head, *lines))) <= 24


def test_names_that_differ_stay_different_where_they_can() -> None:
    names = [f"encoder/layer_{i}/attention/query/kernel" for i in range(12)]
    names += [f"decoder/layer_{i}/attention/query/kernel" for i in range(12)]
    lines = table(names, 46)
    shown = [line.split()[0] for line in lines[1 : 1 + len(names)]]
    assert len(set(shown)) == len(names) and shown[0] == "encoder/layer_0/…/kernel"
    assert all(len(line) <= 46 for line in lines)


def test_what_all_names_begin_with_stands_above() -> None:
    names = ["model/encoder/block/dense/kernel", "model/encoder/block/dense/bias"]
    lines = table(names, 40)
    assert lines[0] == "NAME in model/encoder/block/dense/"
    assert lines[2].split() == ["kernel", "float32", "0,3", "1"]


def test_columns_go_and_are_named() -> None:
    rows = [("layer/kernel", "float32", "weight"), ("layer/bias", "float32", "slot")]
    fit = Fit(names=("NAME",), drops=("ROLE", "DTYPE"))
    with shown_on(Screen(22)):
        lines = list(render(rows, ("NAME", "DTYPE", "ROLE"), "table", fit=fit))
    # the column that tells no row from another goes before those that do
    said = " ".join(line.strip() for line in lines[4:])
    assert said == "in all rows: DTYPE float32; --wide shows all"
    assert lines[1].split() == ["NAME", "ROLE"] and lines[0] == "NAME in layer/"


def test_other_formats_and_pipes_print_everything() -> None:
    rows = [("a" * 300, "b" * 300)]
    with shown_on(Screen(40)):
        for fmt in ("csv", "markdown", "table:grid"):
            assert "a" * 300 in "\n".join(render(rows, ("X", "Y"), fmt))
    assert any("a" * 300 in line for line in render(rows, ("X", "Y"), "table"))


@given(st.lists(st.text("ab ", max_size=40)), st.integers(5, 30))
def test_folding_loses_no_word(lines: list[str], width: int) -> None:
    with shown_on(Screen(width)):
        result = list(folded(lines))
    assert [word for line in result for word in line.split()] == " ".join(lines).split()


def test_a_painted_line_is_folded_in_its_colour() -> None:
    with shown_on(Screen(20, color=True)):
        lines = list(folded([painted("  warning: one two three four", "warning")]))
    assert len(lines) == 2
    assert all(line.startswith("\x1b[33m  ") and line.endswith("\x1b[0m") for line in lines)


class _Stream:
    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("terminal", "choice", "environment", "shows"),
    [
        (True, "auto", {}, True),
        (False, "auto", {}, False),
        (True, "never", {"FORCE_COLOR": "1"}, False),
        (False, "always", {"NO_COLOR": "1"}, True),
        (True, "auto", {"NO_COLOR": "1"}, False),
        (True, "auto", {"NO_COLOR": ""}, True),  # no-color.org: when present and not empty
        (False, "auto", {"FORCE_COLOR": "1"}, True),
        (False, "auto", {"CLICOLOR_FORCE": "1"}, True),
        (False, "auto", {"CLICOLOR_FORCE": "0"}, False),
        (False, "auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, "auto", {"TERM": "dumb"}, False),
    ],
)
def test_who_gets_colour(
    terminal: bool, choice: str, environment: dict[str, str], shows: bool
) -> None:
    stream = _Stream(terminal)
    assert shows_color(stream, choice, environment) is shows  # type: ignore[arg-type]
