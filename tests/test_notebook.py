"""Results in a program and a notebook: what the command prints, as text, HTML, records, a frame."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ckptkit
from ckptkit.cli.main import ADDED
from ckptkit.errors import MissingDependencyError
from ckptkit.fixtures.sample import write_sample
from ckptkit.operations import doctor
from ckptkit.operations.convert.api import plan
from ckptkit.operations.inventory import inventory
from ckptkit.results import Document
from ckptkit.runners.types import DeviceProbe
from support.classes import is_class
from support.command_line import ckptkit as run
from support.goldens import GOLDEN, golden
from support.linear import linear_model

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
    "convert": (
        lambda: ckptkit.convert(ADAM, "w.safetensors", weights_only=True, overwrite=True),
        ["convert", ADAM, "w.safetensors", "--weights-only", "--overwrite"],
    ),
    "history": (lambda: ckptkit.history("s/run"), ["history", "s/run", "--no-cache"]),
    "gate": (
        lambda: ckptkit.gate("s/after.keras", "policy.toml"),
        ["gate", "s/after.keras", "--policy", "policy.toml"],
    ),
    "map": (
        lambda: ckptkit.map("s/before.keras", "s/after.keras"),
        ["map", "s/before.keras", "s/after.keras"],
    ),
    "thin": (
        lambda: ckptkit.thin("two", dry_run=True),
        ["thin", "two", "--keep-slots", "last:1", "--dry-run"],
    ),
    "upgrade": (
        lambda: ckptkit.upgrade("old", "new", recursive=True),
        ["upgrade", "-r", "old", "new"],
    ),
    "record": (
        lambda: ckptkit.record("m.linear.json", "g", on="linear", noise=False, blind=False),
        ["record", "m.linear.json", "-o", "h", "--on", "linear", "--no-blind", "--no-noise"],
    ),
    "check": (
        lambda: ckptkit.check("m.linear.json", on=["linear"], against="m.linear.json"),
        ["check", "m.linear.json", "--against", "m.linear.json", "--on", "linear"],
    ),
    "doctor": (lambda: doctor.doctor(tables=[ADDED]), ["doctor"]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the working directory: files to try things on, and a model that numpy runs."""
    folder = tmp_path_factory.mktemp("results")
    write_sample(folder / "s")
    (folder / "old").mkdir()
    (folder / "two").mkdir()
    for number in (1, 2):
        for end in (".index", ".data-00000-of-00001"):
            shutil.copy(folder / f"s/run/ckpt-1{end}", folder / f"two/ckpt-{number}{end}")
    state = [f'all_model_checkpoint_paths: "ckpt-{number}"\n' for number in (1, 2)]
    (folder / "two/checkpoint").write_text('model_checkpoint_path: "ckpt-2"\n' + "".join(state))
    shutil.copy(GOLDEN / "tf2.12.1/files_nested/weights_only.h5", folder / "old")
    shutil.copy(GOLDEN / "tf2.16.2/files_nested/model.keras", folder / "old")
    (folder / "policy.toml").write_text("[model]\nmax-parameters = 10\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        linear_model(folder, patch)
        patch.setattr(doctor, "probe", lambda _timeout: (DeviceProbe("tensorflow", "CPU:0"),))
        yield folder


@pytest.fixture(scope="module")
def results(files: Path) -> dict[str, Document]:
    """Return a result of every case, each made once."""
    assert files == Path.cwd()
    return {name: make() for name, (make, _) in CASES.items()}


def test_there_is_a_case_of_every_class(results: dict[str, Document]) -> None:
    exported = [getattr(ckptkit, name) for name in ckptkit.__all__]
    classes = {each for each in exported if is_class(each)}
    printed = {each for each in classes if issubclass(each, Document) and each is not Document}
    # an audit is a part of what `check` prints, and has tests of its own
    assert printed - {ckptkit.ToleranceAudit} == {type(result) for result in results.values()}


@pytest.mark.parametrize("name", CASES)
def test_printed_it_is_what_the_command_prints(name: str, results: dict[str, Document]) -> None:
    _, command = CASES[name]
    printed = run(*command)
    out = printed.out.replace("\nh: ", "\nm.linear.json: ")  # `record` says where it wrote it
    assert str(results[name]) + "\n" == out
    assert results[name].exit_code == printed.code


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
def test_html_is_well_formed_and_says_the_same(name: str, results: dict[str, Document]) -> None:
    result = results[name]
    page = _Tags()
    page.feed(result._repr_html_())
    assert page.open == []
    verdict = str(result).splitlines()[0 if name == "needs" else -1]
    said = _words("".join(page.text)) | _words(" ".join(page.text))
    assert _words(verdict) - {"#"} <= said  # a map as text is a file of rules with comments
    assert "table" in page.seen


def _words(text: str) -> set[str]:
    """Return the words of a text, whatever stands behind them and however they begin."""
    return {word.rstrip(":;").casefold() for word in text.split()}


@pytest.mark.parametrize("name", CASES)
def test_records_are_plain(name: str, results: dict[str, Document]) -> None:
    result = results[name]
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
