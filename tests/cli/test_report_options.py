"""One set of options: which command has which, and that each does what it says."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from ckptkit.cli.main import cli
from ckptkit.cli.report_options import OFFERS
from support.command_line import Result, refused
from support.command_line import ckptkit as run
from support.goldens import golden

ADAM = golden("tf2.21.0/adam/ckpt").path
EXPORT = golden("tf2.21.0/saved_model_export/model").path
SHORT = {"fmt": "-f", "output": "-o", "quiet": "-q", "verbose": "-v"}
# A call of each command that runs no model; none of them writes a file but of its own choice.
CALLS = {
    "ls": ["ls", ADAM, EXPORT],
    "show": ["show", ADAM, "hidden/kernel", "hidden/bias"],
    "diff": ["diff", ADAM, EXPORT],
    "history": ["history", ADAM, EXPORT, "--no-cache"],
    "verify": ["verify", ADAM, EXPORT],
    "scan": ["scan", ADAM, EXPORT],
    "needs": ["needs", ADAM, EXPORT],
    "convert": ["convert", ADAM, "none.npz", "--dry-run", "--weights-only"],
}
READABLE = [(name, fmt) for name in CALLS for fmt in OFFERS[name].formats]


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = getattr(command, "commands", {})
        yield from ((f"{name} {sub}", each) for sub, each in inner.items())
        if not inner:
            yield name, command


def test_the_table_says_which_command_has_which_option() -> None:
    found = dict(commands())
    assert found.keys() == OFFERS.keys()
    for name, command in found.items():
        offer = OFFERS[name]
        ours = {"golden export": "out", "golden import": "out", "record": "out"}.get(name)
        has = {p.name: p.opts for p in command.params if isinstance(p, click.Option)}
        expected = {
            "fmt": bool(offer.formats),
            "output": offer.output,
            "quiet": offer.quiet,
            "verbose": bool(offer.verbose),
            "html": "html" in offer.formats,
            "opened": "html" in offer.formats,
        }
        assert {key: key in has for key in expected} == expected, name
        for key, short in SHORT.items():
            assert not expected[key] or short in has[key], (name, key)
        assert (ours in has) == (ours is not None)
        assert not offer.formats or offer.formats[0] == "text"


def well_formed(fmt: str, text: str) -> None:
    """Assert that a program that reads this format can read `text`."""
    if fmt in ("json", "sarif"):
        assert isinstance(json.loads(text), dict)
    elif fmt == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        assert rows and all(isinstance(row, dict) for row in rows)
    elif fmt == "csv":
        head, *cells = csv.reader(io.StringIO(text))
        assert cells and all(len(row) == len(head) == len(set(head)) for row in cells)
    elif fmt == "junit":
        assert ElementTree.fromstring(text).tag == "testsuites"
    elif fmt == "html":
        assert text.lower().startswith("<!doctype html>") and text.rstrip().endswith("</html>")
        assert "\x1b" not in text
    elif fmt == "github":
        assert all(line.startswith("::") for line in text.splitlines())
    else:
        assert text


@pytest.mark.parametrize(("name", "fmt"), READABLE)
def test_every_format_that_is_offered(name: str, fmt: str, tmp_path: Path) -> None:
    """On the terminal, in a file and in silence: the same text and the same exit code."""
    call = [*CALLS[name], "--color", "always", "-f", fmt]
    shown = run(*call)
    assert shown.code in (0, 1)
    if name == "needs" and fmt == "requirements":
        assert "\x1b" not in shown.out
    else:
        well_formed(fmt, shown.out)
    file = tmp_path / "report"
    kept = run(*call, "-o", file)
    assert (kept.code, kept.out) == (shown.code, "")
    plain = run(*CALLS[name], "-f", fmt)
    assert file.read_text("utf-8") == plain.out
    assert run(*call, "-q") == Result(shown.code, "", "")
    assert run(*call, "-q", "-o", file) == Result(shown.code, "", "")
    assert file.read_text("utf-8") == plain.out


@pytest.mark.parametrize("name", CALLS)
def test_a_format_of_another_command_is_refused_by_naming_those_of_this(name: str) -> None:
    said = refused(*CALLS[name], "-f", "sarif" if name not in ("verify", "scan") else "yaml")
    assert all(fmt in said for fmt in OFFERS[name].formats)
    assert run(*CALLS[name], "-f", "text") == run(*CALLS[name], "-f", "table")
    assert "╒" in run(*CALLS[name], "-f", "fancy_grid").out


@pytest.mark.parametrize("name", CALLS)
def test_no_report_takes_the_place_of_an_input(name: str) -> None:
    index = Path(f"{ADAM}.index")
    before = index.read_bytes()
    assert "would be written over" in refused(*CALLS[name], "-o", index)
    assert index.read_bytes() == before


@pytest.mark.parametrize("name", ["ls", "verify", "scan", "needs"])
def test_one_and_many_have_one_shape(name: str, tmp_path: Path) -> None:
    one, many, none = (
        json.loads(run(name, *paths, "-f", "json").out)
        for paths in ([ADAM], [ADAM, EXPORT], [tmp_path / "none"])
    )
    assert many["results"][0] == one["results"][0]
    assert [len(each["results"]) for each in (one, many, none)] == [1, 2, 0]
    assert [len(each["refused"]) for each in (one, many, none)] == [0, 0, 1]
    assert {each["schema"] for each in (one, many, none)} == {f"ckptkit.{name}/2"}


def test_more_is_said_on_request() -> None:
    calls = {**CALLS, "diff": ["diff", ADAM, ADAM]}
    for name in ("ls", "diff", "verify", "scan", "needs"):
        assert len(run(*calls[name], "-v").out) > len(run(*calls[name]).out), name


def test_rows_say_whose_they_are() -> None:
    rows = [json.loads(line) for line in run(*CALLS["ls"], "-f", "jsonl").out.splitlines()]
    assert list(dict.fromkeys(row["path"] for row in rows)) == [str(ADAM), str(EXPORT)]
    assert next(iter(rows[0])) == "path"


# --- one grammar of operands ------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one directory, and a model in a directory below."""
    top = tmp_path_factory.mktemp("tree")
    for step in (1, 2):
        for file in ADAM.parent.glob(f"{ADAM.name}.*"):
            place = top / "run" / file.name.replace(ADAM.name, f"ckpt-{step}", 1)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)
    shutil.copytree(EXPORT, top / "exports" / "model")
    return top


@pytest.mark.parametrize("name", ["ls", "verify", "scan", "needs"])
def test_what_lies_below_is_the_same_to_all(name: str, tree: Path) -> None:
    document = json.loads(run(name, "-r", tree, "-f", "json").out)
    found = document.get("rows") or [
        unit for result in document["results"] for unit in result.get("units", [result])
    ]
    paths = {row["path"] for row in found if row["format"] != "directory"}
    assert paths == {str(tree / place) for place in ("run/ckpt-1", "run/ckpt-2", "exports/model")}
    alone = json.loads(run(name, "-r", tree / "run" / "ckpt-1", "-f", "json").out)
    assert len(alone.get("rows") or alone["results"]) == 1
    assert run(name, "-r", tree / "nothing").code == 2


def test_patterns_are_expanded_where_the_shell_left_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prefixes of checkpoints, though no file is called so, and parts of files, too."""
    monkeypatch.chdir(tree)
    for name in ("ls", "verify", "scan", "needs"):
        assert run(name, "run/ckpt-*") == run(name, "run/ckpt-1", "run/ckpt-2")
    assert run("ls", "run/ckpt-[1]#model").out == run("ls", "run/ckpt-1#model").out
    assert run("diff", "run/ckpt-*", "-q").code == 0
    assert "found 3" in refused("diff", "run/ckpt-*", "exports/model")
    assert run("diff", "run/ckpt-[1]*", "run/ckpt-[2]*", "-q").code == 0
    call = ("convert", "run/ckpt-*", tmp_path / "mean.npz", "--weights-only")
    assert "mean of 2" in run(*call, "--dry-run").out
    assert "no such file" in refused("ls", "nothing*")


@pytest.mark.parametrize("name", ["check", "record"])
def test_one_model_is_run(name: str, tree: Path, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "golden"] if name == "record" else []
    said = refused(name, tree / "run/ckpt-1", tree / "exports/model", *output)
    assert "these are 2" in said and "run/ckpt-1" in said and "exports/model" in said
    members = [f"{tree}/run/ckpt-1.index", f"{tree}/run/ckpt-1.data-00000-of-00001"]
    assert "these are" not in refused(name, *members, "--like", tmp_path / "none", *output)


def test_a_mistyped_value_of_a_list_names_its_neighbour() -> None:
    assert "did you mean weight?" in refused("ls", ADAM, "--role", "weigth")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that gets a line for each page that the browser is asked for."""
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> "{seen}"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{shlex.quote(str(browser))} %s")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # a list of browsers is made once, of what the environment said then
    monkeypatch.setattr(webbrowser, "_tryorder", None)
    return seen


@pytest.mark.skipif(os.name == "nt", reason="the browser is a script of a shell")
def test_a_page_is_written_and_opened(shown: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("verify", ADAM, "--html", page, "--open")
    assert done.code == 0 and not done.out
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert shown.read_text() == f"{page.as_uri()}\n"
    done = run("ls", ADAM, "--open")
    assert done.code == 0 and not done.out
    (new,) = tmp_path.glob("ckptkit-ls-*.html")
    assert f"note: the page is {new}" in done.err
    assert shown.read_text().splitlines()[1] == new.as_uri()
    missing = run("ls", tmp_path / "nothing", "--open")
    assert missing.code == 2
    assert list(tmp_path.glob("ckptkit-ls-*.html")) == [new]  # none of what failed stays


def test_a_page_excludes_other_forms_and_places(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for more, said in (
        (["--format", "json"], "--html and --format exclude each other"),
        (["-o", tmp_path / "other"], "--html and --output exclude each other"),
    ):
        done = run("ls", ADAM, "--html", page, *more)
        assert done.code == 2 and said in done.err and not page.exists()
    index = Path(f"{ADAM}.index")
    before = index.read_bytes()
    assert run("ls", ADAM, "--html", index).code == 2
    assert index.read_bytes() == before


def test_a_page_is_no_file_called_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("doctor", "--html", "-")
    assert done.code == 2 and "--format html alone prints it" in done.err
    assert not (tmp_path / "-").exists()
