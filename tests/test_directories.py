"""What a directory stands for: one checkpoint, each model in it, or all that lies below it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import PathNotFoundError, UsageError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import Verification, verify
from ckptkit.stores.directories import directories_below
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support.command_line import ckptkit as command
from support.command_line import json_results, refused
from support.goldens import GOLDEN
from support.values import blocks_of, corpus, out_tensors

TENSORS = corpus(["float32"])


def checkpoint(prefix: Path) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_tensor_bundle(prefix, out_tensors(TENSORS), blocks_of(TENSORS))
    return prefix


def npz(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, out_tensors(TENSORS), blocks_of(TENSORS))
    return path


def safetensors(path: Path, shard_size: int | None = None) -> Path:
    write_safetensors(path, out_tensors(TENSORS), blocks_of(TENSORS), shard_size=shard_size)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of runs: checkpoints in `a`, a model below it, an export and an empty place."""
    top = tmp_path / "tree"
    for step in (9, 10):
        checkpoint(top / "a" / f"ckpt-{step}")
    npz(top / "a" / "old" / "w.npz")
    shutil.copytree(GOLDEN / "tf2.21.0/lookup/model", top / "c" / "export")
    (top / "c" / "README").write_text("x")
    (top / "empty").mkdir()
    return top


UNITS = ["a/ckpt-10", "a/ckpt-9", "a/old/w.npz", "c/export"]


def names(result: Verification, top: Path) -> list[str]:
    return [str(u.path.relative_to(top)) for u in result.units if u.format != "directory"]


# --- one model ------------------------------------------------------------------------------------


def test_a_training_directory_is_its_latest_checkpoint(tree: Path, tmp_path: Path) -> None:
    run = tree / "a"
    assert Path(ckptkit.open(run).path).name == "ckpt-10"
    assert command("ls", run).code == command("diff", run, run / "ckpt-9").code == 0
    assert command("show", run, next(iter(ckptkit.open(run)))).code == 0
    assert command("convert", run, tmp_path / "o.npz").code == 0
    npz(run / "w.npz")
    result = command("ls", run)
    assert result.code == 0
    assert "not read: w.npz beside the checkpoints" in result.out


def test_several_models_are_named(tmp_path: Path) -> None:
    npz(tmp_path / "one.npz")
    safetensors(tmp_path / "two.safetensors")
    for words in (
        ("ls", tmp_path),
        ("show", tmp_path, "x"),
        ("diff", tmp_path, tmp_path / "one.npz"),
        ("convert", tmp_path, tmp_path / "o.npz"),
        ("check", tmp_path),
        ("record", tmp_path, "-o", tmp_path / "golden"),
    ):
        said = refused(*words)
        assert "one.npz, two.safetensors" in said
    with pytest.raises(UsageError, match="holds 2 models"):
        ckptkit.open(tmp_path)


@pytest.mark.parametrize("other", ["w.npz", "tf_model.safetensors"])
def test_the_usual_name_is_no_tie_break(tmp_path: Path, other: str) -> None:
    safetensors(tmp_path / "model.safetensors")
    assert len(ckptkit.open(tmp_path)) == len(TENSORS)
    npz(tmp_path / other)
    assert "model.safetensors" in refused("ls", tmp_path)


def test_files_of_one_set_are_one_model(tmp_path: Path) -> None:
    safetensors(tmp_path / "model.safetensors.index.json", shard_size=100)
    assert len(list(tmp_path.iterdir())) > 2
    assert len(ckptkit.open(tmp_path)) == len(TENSORS)
    assert names(verify(tmp_path), tmp_path) == ["model.safetensors.index.json"]
    assert names(scan(tmp_path), tmp_path) == ["model.safetensors.index.json"]


# --- each model -----------------------------------------------------------------------------------


def test_each_checkpoint_and_model(tree: Path) -> None:
    run = tree / "a"
    npz(run / "w.npz")
    for result in (verify(run), scan(run)):
        assert names(result, run) == ["ckpt-10", "ckpt-9", "w.npz"]
        assert result.ok
        assert any("old" in text for text in result.not_checked)


def test_a_damaged_one_is_found(tree: Path) -> None:
    data = tree / "a" / "ckpt-9.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[40] ^= 1
    data.write_bytes(content)
    assert verify(tree / "a").exit_code == verify(tree, recursive=True).exit_code == 1
    assert command("ls", tree / "a").code == 0  # the latest is another


def test_scan_looks_at_every_file_by_content(tree: Path) -> None:
    import pickle

    run = tree / "a"
    (run / "notes").write_bytes(pickle.dumps(print))
    np.save(run / "labels", np.array([print], object), allow_pickle=True)
    result = scan(run)
    assert result.exit_code == 1
    assert {Path(f.where).name for f in result.findings} >= {"notes", "labels.npy"}


# --- all below ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [verify, scan])
def test_all_below(tree: Path, function: object) -> None:
    result: Verification = function(tree, recursive=True)  # type: ignore[operator]
    assert sorted(names(result, tree)) == UNITS
    assert result.ok
    assert any("README" in text for text in result.not_checked)
    assert not any("old" in text for text in result.not_checked)


@pytest.mark.parametrize("verb", ["verify", "scan"])
def test_one_verdict_each_and_a_summary(tree: Path, verb: str) -> None:
    result = command(verb, "-r", tree)
    assert result.code == 0
    for name in UNITS:
        assert sum(line.startswith(f"{tree / name}: ") for line in result.out.splitlines()) == 1
    brief = "4 of 4 sound" if verb == "verify" else "4 of 4 without findings"
    assert f"\n{tree}: {brief}" in result.out
    [document] = json_results(verb, "-r", tree)
    assert [u["path"] for u in document["units"] if u["format"] != "directory"] == [
        str(tree / name) for name in UNITS
    ]


@pytest.mark.parametrize("verb", ["verify", "scan"])
def test_the_worst_exit_code(tree: Path, verb: str) -> None:
    shutil.copy(GOLDEN / "tf2.21.0/files_nested/model.h5", tree / "c" / "m.keras")
    (tree / "c" / "n.keras").write_bytes(b"")
    assert command(verb, "-r", tree).code in (1, 2)
    (tree / "a" / "w.npz").mkdir()
    assert command(verb, "-r", tree).code in (1, 2)


@pytest.mark.parametrize("verb", ["verify", "scan"])
def test_nothing_is_never_sound(tree: Path, verb: str) -> None:
    assert "--recursive also looks below it" in refused(verb, tree)
    for place in (tree / "empty", tree / "c" / "export" / "assets"):
        refused(verb, "-r", place)
        refused(verb, place)
    (tree / "empty" / "inner").mkdir()
    (tree / "empty" / "notes.txt").write_text("x")
    assert "below it" in refused(verb, "-r", tree / "empty")
    with pytest.raises(PathNotFoundError):
        (verify if verb == "verify" else scan)(tree / "empty", recursive=True)


@pytest.mark.parametrize("function", [verify, scan])
def test_links_are_not_followed(tree: Path, function: object) -> None:
    (tree / "empty" / "loop").symlink_to(tree)
    (tree / "empty" / "run").symlink_to(tree / "a")
    result: Verification = function(tree, recursive=True)  # type: ignore[operator]
    assert sorted(names(result, tree)) == UNITS


@pytest.mark.parametrize("function", [verify, scan])
def test_a_file_and_a_model_are_what_they_are(tree: Path, function: object) -> None:
    for path in (tree / "a" / "ckpt-9", tree / "a" / "old" / "w.npz", tree / "c" / "export"):
        result: Verification = function(path, recursive=True)  # type: ignore[operator]
        assert [unit.path for unit in result.units] == [path]


@pytest.mark.parametrize("verb", ["verify", "scan", "needs", "ls"])
def test_below_where_one_stands(tree: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    found = command(verb, "-r", ".").out
    assert all(name in found for name in UNITS)
    assert found.splitlines()[1:] == command(verb, "-r", "./").out.splitlines()[1:]


def test_what_cannot_be_looked_into_hides_nothing_else(tree: Path) -> None:
    def look(place: Path) -> bool:
        if place.name == "a":  # as where there is no right to enter it
            raise PermissionError(place)
        return False

    errors: list[OSError] = []
    found = [place for place, _names in directories_below(tree, look, errors.append)]
    assert {tree / "a", tree / "c", tree / "empty"} < set(found)


def test_a_very_deep_tree(tmp_path: Path) -> None:
    places = [tmp_path]
    errors: list[OSError] = []
    try:
        for _ in range(1100):  # more than Python may call itself
            places.append(places[-1] / "d")
            places[-1].mkdir()
        found = list(directories_below(tmp_path, lambda _: False, errors.append))
        assert [place for place, _names in found] == places
        assert not errors
    finally:
        for place in places[:0:-1]:  # what clears up after tests calls itself
            place.rmdir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_place_that_cannot_be_listed(tree: Path) -> None:
    (tree / "empty").chmod(0)
    assert verify(tree, recursive=True).exit_code == 2
    (tree / "empty").chmod(0o700)
