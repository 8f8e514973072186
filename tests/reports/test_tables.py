"""Tables: columns that align, whatever letters are in them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
import tabulate
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.checkpoint.selection import Tensor, tensor_json
from ckptkit.cli.main import cli
from ckptkit.cli.report_options import ReportFormat
from ckptkit.reports.documents import json_lines
from ckptkit.reports.table import render, tabulate_formats
from ckptkit.reports.tensor_rows import json_rows
from ckptkit.reports.text import display_width, stand_ins
from ckptkit.stores.base import Slice, TensorSpec
from support.command_line import ckptkit as run
from support.command_line import refused
from support.goldens import GOLDEN
from support.weights import write_bundle

SAVED_MODEL = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"


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


_TEXTS = st.one_of(st.sampled_from(["w", 'a"b', "é", "\n", "\ud800", "}, {"]), st.text(max_size=4))
_MAYBE = st.one_of(st.none(), _TEXTS)
_COUNTS = st.one_of(st.none(), st.integers(0, 1 << 62))


@given(
    st.builds(
        TensorSpec,
        _TEXTS,
        st.sampled_from(["float32", "opaque:9", 'x"']),
        st.lists(st.integers(0, 1 << 40), max_size=3).map(tuple),
        st.integers(0, 1 << 60),
        _COUNTS,
        _COUNTS,
        st.one_of(st.none(), st.integers(0, (1 << 32) - 1)),
        st.sampled_from([(), (Slice((0,), (1,), 0, 0, 4, None),) * 2]),
    ),
    st.builds(
        Naming,
        _TEXTS,
        st.sampled_from(ROLES),
        _MAYBE,
        st.lists(_TEXTS, max_size=2).map(tuple),
        *[_MAYBE] * 3,
        st.booleans(),
        _MAYBE,
        st.booleans(),
    ),
)
def test_tensors_read_as_encoding_them_whole_does(spec: TensorSpec, naming: Naming) -> None:
    [text] = json_rows([Tensor(spec, naming)])
    assert text == json.dumps(tensor_json(spec, naming))


# --- the formats of tabulate ----------------------------------------------------------------------


def formats_of(command: str) -> ReportFormat | None:
    """Return the type of a command's --format, where it takes the formats of tabulate."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    types = [parameter.type for parameter in found.params if parameter.name == "fmt"]
    return next((kind for kind in types if isinstance(kind, ReportFormat)), None)


COMMANDS = {
    name: kind.own for name in cli.list_commands(click.Context(cli)) if (kind := formats_of(name))
}


OUR_NAMES = {"html", "github"}  # as docs/cli.md says


def test_every_command_with_a_table_takes_them() -> None:
    rows = {"upgrade", "verify", "scan", "needs", "record", "check", "doctor", "history", "gate"}
    assert set(COMMANDS) == {"ls", "show", "diff", "convert", "map", "thin", *rows}


@pytest.mark.parametrize("fmt", sorted({*tabulate_formats()} - OUR_NAMES - {"tsv"}))
def test_every_format_of_tabulate_is_taken(fmt: str, tmp_path: Path) -> None:
    names = {"a|b/kernel": np.zeros((3, 2000), np.float32), "é/bias": np.ones(2, np.float32)}
    prefix = write_bundle(tmp_path / "c", names)
    plain, sure = (run("ls", prefix, "--format", name) for name in (fmt, f"table:{fmt}"))
    assert plain == sure
    assert plain.code == 0
    rows = [["a\\|b/kernel" if fmt in ("github", "pipe") else "a|b/kernel", "float32", "3,2000"]]
    rows += [["é/bias", "float32", "2"]]
    numbers = [["6,000", "24,000", "weight"], ["2", "8", "weight"]]
    expected = tabulate.tabulate(
        [[*row, *more] for row, more in zip(rows, numbers, strict=True)],
        headers=["NAME", "DTYPE", "SHAPE", "PARAMS", "BYTES", "ROLE"],
        tablefmt=fmt,
        colalign=["left", "left", "left", "right", "right", "left"],
        disable_numparse=True,
    )
    assert plain.out.removesuffix("\n") == expected  # the table, and nothing else
    assert "2 tensors, 6,002 params, 24.0 kB" in plain.err


@pytest.mark.parametrize("fmt", tabulate_formats())
def test_no_rows_and_no_control_characters(fmt: str) -> None:
    list(render([], ["A", "B"], f"table:{fmt}", ["left", "right"]))
    lines = list(render([["\x1b]0;t\x07\n", 1234]], ["A", "B"], f"table:{fmt}", ["left", "right"]))
    assert all(
        line.isprintable() or set(line) <= {"\t", *map(chr, range(32, 127))} for line in lines
    )
    assert any(("1234" if fmt == "tsv" else "1,234") in line for line in lines)


def test_ours_win_and_the_others_are_reached_for_sure() -> None:
    taken = {name for own in COMMANDS.values() for name in own} & set(tabulate_formats())
    assert taken == OUR_NAMES
    pair = (SAVED_MODEL, SAVED_MODEL)
    assert run("diff", *pair, "--format", "html").out.startswith("<!doctype html>")
    assert run("diff", *pair, "--format", "table:html").out.startswith("<table>")
    assert run("ls", SAVED_MODEL, "--format", "html").out.startswith("<!doctype html>")
    assert COMMANDS["check"].count("github") == 1


def test_a_table_of_a_diff_stands_alone(tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "a", {"w": np.zeros(3, np.float32)})
    new = write_bundle(tmp_path / "b", {"w": np.ones(3, np.float32)})
    done = run("diff", old, new, "--format", "tsv")
    assert [line.split("\t")[1].strip() for line in done.out.splitlines()] == ["NAME", "w"]
    assert "different: 1 changed" in done.err
    layers = run("diff", old, new, "--format", "tsv", "--stat").out.splitlines()
    assert len(layers) == 2
    target = tmp_path / "d.tex"
    assert run("diff", old, new, "--format", "latex", "-o", target).code == 1
    assert target.read_text("utf-8").startswith("\\begin{tabular}")
    refused("diff", old, new, "--format", "tsv", "--label", "x")


def test_every_row_of_tsv_has_every_field_as_it_is(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "a", {"w": np.zeros(1234, np.float32)})
    head, row = (line.split("\t") for line in run("ls", prefix, "--format", "tsv").out.splitlines())
    assert dict(zip(head, row, strict=True))["PARAMS"] == "1234"
    head, row = (line.split("\t") for line in run("verify", prefix, "-f", "tsv").out.splitlines())
    assert row == [str(prefix), "tensor-bundle", "sound", *[""] * (len(head) - 3)]


def test_several_paths_are_one_table(tmp_path: Path) -> None:
    paths = [write_bundle(tmp_path / name, {"w": np.zeros(3, np.float32)}) for name in "ab"]
    head, *rows = run("ls", *paths, "--format", "tsv").out.splitlines()
    assert head.split("\t")[0].strip() == "PATH"
    assert [row.split("\t")[0].strip() for row in rows] == list(map(str, paths))


def test_the_plan_of_a_conversion(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "a", {"w": np.zeros(3, np.float32)})
    done = run("convert", prefix, tmp_path / "x.npz", "--dry-run", "--format", "tsv")
    assert [line.split("\t")[0].strip() for line in done.out.splitlines()] == ["TO", "w"]
    assert "would write 1 tensor" in done.err
    written = run("convert", prefix, tmp_path / "x.npz", "--format", "tsv")
    assert written.out == done.out and "every bit as it should be" in written.err


@pytest.mark.parametrize("fmt", ["gird", "table:gird"])
def test_a_mistyped_format_names_its_neighbours(fmt: str) -> None:
    assert "did you mean grid" in refused("ls", SAVED_MODEL, "--format", fmt)
    assert "is none of text, json" in refused("ls", SAVED_MODEL, "--format", "table:")
    assert "did you mean json" in refused("ls", SAVED_MODEL, "--format", "jsn")
