"""Files beside a model (rules, tolerances, manifests, inputs, code): regular ones of some size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit._io.file_states import is_file
from ckptkit._io.side_files import MAX_RULES_BYTES, read_whole
from ckptkit.errors import CkptkitError, FormatError, PathNotFoundError
from ckptkit.runners.child.user_code import import_code
from support.command_line import refused


def fifo(directory: Path) -> Path:
    os.mkfifo(directory / "fifo")
    return directory / "fifo"


def link_to_device(directory: Path) -> Path:
    (directory / "link").symlink_to("/dev/zero")
    return directory / "link"


def giant(directory: Path) -> Path:
    path = directory / "giant"
    path.touch()
    os.truncate(path, 1 << 41)  # sparse: a hole of 2 TB
    return path


ODD: dict[str, Callable[[Path], Path]] = {
    "device": lambda _: Path("/dev/zero"),
    "link to a device": link_to_device,
    "pipe": fifo,
    "directory": lambda directory: directory,
    "giant": giant,
    "missing": lambda directory: directory / "missing",
    "in a file": lambda directory: directory / "w.npz" / "x",
    "name too long": lambda directory: directory / ("x" * 300),
}
OPTIONS: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "rules": lambda w, f: ("diff", w, w, "--map-from", f),
    "tolerances": lambda w, f: ("diff", w, w, "--tol-file", f),
    "rules of a conversion": lambda w, f: ("convert", w, f"{w}.safetensors", "--map-from", f),
    "manifest": lambda w, f: ("verify", w, "--manifest", f),
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    np.savez(tmp_path / "w.npz", a=np.ones(3, np.float32))
    return tmp_path / "w.npz"


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ODD)
def test_odd_side_files_are_refused(tmp_path: Path, weights: Path, kind: str, option: str) -> None:
    file = ODD[kind](tmp_path)
    assert str(file) in refused(*OPTIONS[option](weights, file))
    assert not (tmp_path / "w.npz.safetensors").exists()


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_of_code(tmp_path: Path, weights: Path, kind: str) -> None:
    link = tmp_path / "code.py"
    if kind == "missing":
        link = tmp_path / "no.py"
    else:
        link.symlink_to(ODD[kind](tmp_path))
    with pytest.raises(CkptkitError):
        import_code(str(link))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_odd_inputs(tmp_path: Path, weights: Path, kind: str, suffix: str) -> None:
    from ckptkit.model_io.array_files import load_inputs

    link = tmp_path / f"inputs{suffix}"
    link.symlink_to(ODD[kind](tmp_path))
    with pytest.raises(CkptkitError):
        load_inputs(link)


def test_a_file_of_rules_is_bounded(tmp_path: Path, weights: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("# nothing\n")
    assert ckptkit.diff(weights, weights, tolerances=rules).ok
    os.truncate(rules, MAX_RULES_BYTES + 1)
    with pytest.raises(FormatError, match="too large for a file of rules"):
        ckptkit.diff(weights, weights, tolerances=rules)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "y" * 300])
def test_paths_that_are_none(tmp_path: Path, path: str) -> None:
    assert not is_file(tmp_path / path)
    with pytest.raises(CkptkitError):
        read_whole(tmp_path / path, 10, "a test")
    for function in (ckptkit.ls, ckptkit.open, ckptkit.load, ckptkit.verify, ckptkit.scan):
        with pytest.raises(CkptkitError):
            function(tmp_path / path)


@pytest.mark.parametrize("name", ["x" * 300 + ".safetensors", "a" * 300])
def test_names_in_an_index_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    import json

    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    assert ckptkit.verify(index).exit_code == 1
    assert ckptkit.ls(index).problems
    weights = tmp_path / "model.weights.json"
    shard = name.replace(".safetensors", "") + ".weights.h5"
    weights.write_text(json.dumps({"weight_map": {"/layers/a/vars": [shard]}}))
    with pytest.raises(PathNotFoundError):
        ckptkit.ls(weights)
    assert ckptkit.verify(weights).exit_code in (1, 2)
