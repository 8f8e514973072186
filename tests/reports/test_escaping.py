"""What names and paths of strangers cannot do to a terminal, a spreadsheet or a Markdown page."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.reports.table import render
from ckptkit.reports.text import markdown_text, printable, spreadsheet_text
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support.command_line import ckptkit
from support.values import blocks_of, out_tensors

FORMULAS = ["=1+1", "=HYPERLINK(x)", "+cmd|A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1"]
NUMBERS = ["-1.5", "+3e-5", "-0", "-inf", "0", "1e400", "-nan"]
HOSTILE = {
    "=cmd": "script",
    "<script>alert(1)</script>": "html",
    "a|b`c`": "cells",
    "\x1b]0;title\x07": "title",
    "x\ny": "lines",
    "\u202egnp.exe": "direction",
    "[x](javascript:1)": "link",
    "\x9b2J": "C1",
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_get_a_mark(text: str) -> None:
    assert spreadsheet_text(text) == f"'{text}"
    (_, line) = render([(text, 1)], ("name", "n"), "csv")
    (row,) = csv.reader(io.StringIO(line))
    assert row == [spreadsheet_text(printable(text)), "1"]


@pytest.mark.parametrize("text", [*NUMBERS, "", "conv1/kernel", "a=b", "kernel@momentum", "'x"])
def test_numbers_and_names_stay(text: str) -> None:
    assert spreadsheet_text(text) == text


def test_numbers_of_rows_stay() -> None:
    lines = list(render([(-1, -0.5, "-0.5", None)], ("a", "b", "c", "d"), "csv"))
    assert lines == ["a,b,c,d", "-1,-0.5,-0.5,"]
    assert "'=1" in "\n".join(render([("=1",)], ("a",), "table:tsv"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>", r"\<script\>"),
        ("a|b", r"a\|b"),
        ("`code`", r"\`code\`"),
        ("x\ny", r"x\\ny"),
        ("[a](b)", r"\[a\](b)"),
        ("**bold**", r"\*\*bold\*\*"),
        ("_all_variables/0", r"\_all_variables/0"),
        ("__init__", r"\_\_init\_\_"),
        ("layer_1/kernel", "layer_1/kernel"),
        ("&lt;", r"\&lt;"),
        ("~~gone~~", r"\~\~gone\~~"),
        ("~", "~"),
        ("# head", r"\# head"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


@given(st.text(max_size=20))
def test_no_row_of_markdown_has_another_number_of_cells(text: str) -> None:
    row = list(render([(text, "x")], ("a", "b"), "markdown"))[-1]
    assert row.isprintable()
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "<" not in row.replace("\\\\", "").replace("\\<", "")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files of tensors with hostile names, and paths that are no better."""
    made = []
    for number in range(2):
        tensors = {name: ("float32", np.full(2, number, np.float32)) for name in HOSTILE}
        prefix = tmp_path / f"\x1b[31m{number}"
        write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors))
        made.append(prefix)
    return made


def is_safe(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("fmt", ["table", "csv", "markdown", "json", "table:grid", "table:tsv"])
def test_nothing_reaches_a_terminal_raw(files: list[Path], tmp_path: Path, fmt: str) -> None:
    one, two = files
    rules, tolerances = tmp_path / "rules", tmp_path / "tol\x1b"
    rules.write_text("\x1bnothing=>\x07x\n")
    tolerances.write_text("no\x1bthing* rtol=1\n")
    for words in (
        ("ls", one, two, "--format", fmt),
        ("ls", one, "--long", "--format", fmt),
        ("diff", one, two, "--format", fmt, "--map-from", rules, "--tol-file", tolerances),
        ("diff", one, two, "--format", fmt, "-o", tmp_path / "report\x1b"),
        ("convert", one, tmp_path / "o.npz", "--dry-run", "--format", fmt),
        ("ls", tmp_path / "none\x1b[2J", "--format", fmt),
    ):
        result = ckptkit(*words)
        tabs = result.out.replace("\t", "") if fmt == "table:tsv" else result.out
        assert is_safe(result.err), (words, result.err)
        assert is_safe(tabs), (words, result.out)


def test_the_other_commands(files: list[Path], tmp_path: Path) -> None:
    one, two = files
    for words in (
        ("ls", one, "--tree"),
        ("ls", one, "--patterns"),
        ("show", one, "\x1b]0;title\x07"),
        ("show", one, "nearest\x1b"),
        ("diff", one, two, "--stat"),
        ("diff", one, two, "--write-map", tmp_path / "map\x1b"),
        ("verify", tmp_path, "-v"),
        ("verify", one, "--write-manifest", tmp_path / "sums\x1b"),
        ("verify", one, "-o", tmp_path / "verified\x1b"),
        ("verify", tmp_path / "none\x1b"),
        ("scan", tmp_path, "-v"),
        ("scan", tmp_path / "none\x1b"),
        ("convert", one, tmp_path / "o\x1b.npz"),
        ("convert", one, tmp_path / "p.npz", "--salvage"),
        ("check", tmp_path / "none\x1b"),
        ("record", tmp_path / "none\x1b", "-o", tmp_path / "g"),
        ("no\x1bcommand",),
        ("ls", "--no\x1boption"),
    ):
        result = ckptkit(*words)
        assert is_safe(result.out) and is_safe(result.err), (words, result)
