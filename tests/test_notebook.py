"""Results in a program and a notebook: what the command prints, as text, HTML, records, a frame."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import MissingDependencyError
from ckptkit.operations.convert.api import plan
from ckptkit.operations.inventory import inventory
from ckptkit.results import Document
from support.command_line import ckptkit as run
from support.goldens import GOLDEN, golden

ADAM = golden("tf2.21.0/adam/ckpt").path
LION = golden("tf2.21.0/lion/ckpt").path
GAN = GOLDEN / "tf2.21.0" / "gan"
EXPORT = golden("tf2.21.0/saved_model_export/model").path

# What makes a result, and the command that prints the same.
CASES: dict[str, tuple[Callable[[], Document], list[object]]] = {
    "ls": (lambda: ckptkit.ls(ADAM), ["ls", ADAM]),
    "ls --stats": (lambda: ckptkit.ls(ADAM, stats=True), ["ls", ADAM, "--stats"]),
    "ls -r": (
        lambda: inventory(GOLDEN / "tf2.21.0" / "gan"),
        ["ls", "-r", GOLDEN / "tf2.21.0/gan"],
    ),
    "show": (lambda: ckptkit.show(ADAM, "hidden/kernel"), ["show", ADAM, "hidden/kernel"]),
    "diff": (lambda: ckptkit.diff(ADAM, LION), ["diff", ADAM, LION]),
    "verify": (lambda: ckptkit.verify(ADAM), ["verify", ADAM]),
    "scan": (lambda: ckptkit.scan(EXPORT), ["scan", EXPORT]),
    "needs": (lambda: ckptkit.needs(EXPORT), ["needs", EXPORT]),
    "plan": (
        lambda: plan(ADAM, "w.npz", weights_only=True),
        ["convert", ADAM, "w.npz", "--weights-only", "--dry-run"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_printed_it_is_what_the_command_prints(name: str) -> None:
    make, command = CASES[name]
    assert str(make()) + "\n" == run(*command).out


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", CASES)
def test_html_is_well_formed_and_says_the_same(name: str) -> None:
    make, _ = CASES[name]
    result = make()
    page = _Tags()
    page.feed(result._repr_html_())
    assert page.open == []
    words = set("".join(page.text).split())
    verdict = str(result).splitlines()[0 if name == "needs" else -1]
    assert set(verdict.split()) <= words | set(" ".join(page.text).split())
    assert ("table" in page.seen) == (name != "show")


@pytest.mark.parametrize("name", CASES)
def test_records_are_plain(name: str) -> None:
    make, _ = CASES[name]
    result = make()
    records = result.records()
    assert records and all(isinstance(record, dict) for record in records)
    assert json.loads(json.dumps(records, allow_nan=False))
    assert json.dumps(result.to_json(), allow_nan=False)
    assert "\n" not in repr(result)


def test_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = ckptkit.ls(ADAM).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["name"]) == [row["name"] for row in ckptkit.ls(ADAM).rows()]


def test_a_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pip install pandas"):
        ckptkit.ls(ADAM).to_frame()


def test_names_are_escaped(tmp_path: Path) -> None:
    import numpy as np

    from support.weights import write_bundle

    evil = write_bundle(tmp_path / "c", {"<script>alert(1)</script>": np.zeros(2)})
    for result in (ckptkit.ls(evil), ckptkit.verify(evil), ckptkit.diff(evil, ADAM)):
        assert "<script>" not in result._repr_html_()


def test_a_tree() -> None:
    with ckptkit.open(ADAM) as ck:
        assert ck.tree() + "\n" == run("ls", ADAM, "--tree").out
        assert ck.tree(1) + "\n" == run("ls", ADAM, "--tree", "--depth", 1).out
