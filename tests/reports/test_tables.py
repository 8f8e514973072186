"""Tables: columns that align, whatever letters are in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ckptkit.reports.table import json_lines, render
from ckptkit.reports.text import display_width, stand_ins
from support.command_line import ckptkit as run
from support.weights import write_bundle


@pytest.mark.parametrize(
    ("text", "width"),
    [("kernel", 6), ("重み", 4), ("ｶﾅ", 2), ("Ａ", 2), ("e\u0301", 1), ("é", 1), ("→", 1), ("", 0)],
)
def test_widths(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize("name", ["重み/核", "e\u0301/x", "가중치/bias"])
def test_columns_align_under_wide_letters(tmp_path: Path, name: str) -> None:
    arrays = {name: np.zeros(12, np.float32), "plain/kernel": np.zeros((3, 2), np.float32)}
    out = run("ls", write_bundle(tmp_path / "c", arrays)).out
    head, *rows = out.splitlines()[:3]
    starts = {display_width(row.partition("float32")[0]) for row in rows}
    assert starts == {head.index("DTYPE")}
    roles = {display_width(row.partition("weight")[0]) for row in rows}
    assert roles == {head.index("ROLE")}


def test_right_aligned_columns() -> None:
    rows = [["核", "12"], ["kernel", "345"]]
    lines = list(render(rows, ["N", "P"], "table", ["left", "right"]))
    assert lines == ["N         P", "核       12", "kernel  345"]


def test_stand_ins_are_for_what_is_missing() -> None:
    assert stand_ins("utf-8") == {}
    assert ord("×") not in stand_ins("latin-1") and ord("→") in stand_ins("latin-1")
    assert "a → b ×2 …".translate(stand_ins("ascii")) == "a -> b x2 ..."
    assert stand_ins("no such encoding")[ord("→")] == "->"


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_json_rows_have_a_line_each_whatever_is_in_them(count: int) -> None:
    texts = ["plain", "}, {", '"}, {"', "\n", "é", "]"]
    rows = [{"n": n, "text": texts[n % 97 % 6] if n > 150 else "a", "x": [1]} for n in range(count)]
    rows[120:121] = [{"n": -1, "text": "", "x": [{"a": 1}, {"b": 2}]}]
    lines = list(json_lines({"schema": "s", "rows": iter(rows)}, "rows"))
    assert json.loads("\n".join(lines)) == {"schema": "s", "rows": rows}
    assert len(lines) == len(rows) + 5 - (not rows)
    assert [json.loads(line.rstrip(",")) for line in lines[3:-2]] == rows
