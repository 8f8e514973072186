"""`verify` on Keras's HDF5 files: two readers, names by rule, and nothing checked is no success."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ckptkit.errors import CkptkitError
from ckptkit.operations.ls import ls
from ckptkit.operations.verify.api import Verification, verify
from ckptkit.stores.hdf5 import client
from support.goldens import GOLDEN
from support.hdf5_flips import structure_bits
from support.hdf5_variants import VARIANTS, write_variant
from support.keras_files import CONFIG, VALUES, h5_bytes, write_h5, write_keras, write_legacy
from support.places import environment

NESTED = GOLDEN / "tf2.21.0" / "files_nested"


def _codes(result: Verification) -> set[str]:
    return {finding.code for finding in result.findings if finding.severity != "note"}


def _sound(path: Path) -> bool:
    return verify(path).exit_code == 0


# --- one flipped bit ------------------------------------------------------------------------------


def _two_of_a_kind(file: h5py.File) -> None:
    for number in range(12):
        file[f"optimizer/vars/{number}"] = np.float32(number)
    file["optimizer/vars"].attrs["name"] = "adam"


def _flipped(data: bytes, find: bytes, offset: int, bit: int) -> bytes:
    at = data.index(find) + offset
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("find", "offset", "bit", "match"),
    [
        (b"8\0\0\0\0\0\0\x009\0", 0, 3, "link '0' of optimizer/vars is out of order"),
        (b"HEAP", 4, 7, "a heap of names of version 128"),
        (b"HEAP", 16, 3, "free block"),
        (b"\x08\0\x18\0\0\0\0\0\3", 0, 0, "unknown kind 0x09"),
        (b"TREE", 6, 0, "more entries than it counts"),
    ],
)
def test_one_bit_that_lost_tensors(
    find: bytes, offset: int, bit: int, match: str, tmp_path: Path
) -> None:
    """Each was listed without a word, with a tensor less or one twice; h5py fails or reads less."""
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    with h5py.File(path, "r+") as file:
        _two_of_a_kind(file)
    assert _sound(path)
    path.write_bytes(_flipped(path.read_bytes(), find, offset, bit))
    result = verify(path)
    assert result.exit_code == 1
    with pytest.raises(CkptkitError, match=match):
        ls(path)


@pytest.mark.parametrize("name", ["model.weights.h5", "model.h5", "model.keras"])
@pytest.mark.parametrize("count", [150, pytest.param(2500, marks=pytest.mark.slow)])
def test_no_flip_is_sound_that_h5py_minds(name: str, count: int) -> None:
    """By ckptkit's own reader alone; the judge is h5py, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "support.hdf5_flips", str(NESTED / name), str(count), "7",
         "--without"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    wrong = json.loads(done.stdout)["wrong"]
    assert not wrong["error"]
    assert not wrong["otherwise"]


def test_the_names_that_a_bit_changes(tmp_path: Path) -> None:
    """Every bit of the names that Keras chooses by rule, in its own file."""
    data = (NESTED / "model.weights.h5").read_bytes()
    path = tmp_path / "m.weights.h5"
    missed = []
    for name in (b"layers\0", b"optimizer\0", b"conv2d\0", b"batch_normalization\0", b"vars\0"):
        at = data.index(name)
        for bit in random.Random(1).sample(range(8 * len(name)), 12):
            damaged = bytearray(data)
            damaged[at + bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            if verify(path).exit_code == 0:
                missed.append((name, bit))
    assert not missed


# --- two readers ----------------------------------------------------------------------------------


def test_libhdf5_has_the_second_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    checks = {c.name: dict(c.counts) for u in verify(path).units for c in u.checks}
    assert checks["libhdf5"] == {"tensor": 3}
    real = client.scan

    def other(byte_range: Any) -> Any:
        tree = real(byte_range)
        key = "layers/dense/vars/1"
        datasets = {**tree.datasets, key: tree.datasets[key]._replace(shape=(1, 5))}
        del datasets["layers/dense/vars/0"]
        return tree._replace(datasets=datasets)

    monkeypatch.setattr(client, "scan", other)
    result = verify(path)
    assert result.exit_code == 1
    messages = [f.message for f in result.findings if f.code == "hdf5.disagreement"]
    assert messages == [
        "tensors that ckptkit alone finds: layers/dense/vars/0",
        "ckptkit reads float32[5], 20 bytes at 13520, libhdf5 float32[1, 5], 20 bytes at 13520",
    ]


def test_without_h5py_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = verify(path)
    assert result.exit_code == 0
    assert "whether libhdf5 reads the same (pip install 'ckptkit-tf[hdf5]')" in result.not_checked


def test_without_h5py_what_it_alone_reads_is_not_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path, compression="gzip")
    assert _sound(path)
    client._child.end()
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = verify(path)
    assert result.exit_code == 2
    assert not _codes(result)
    assert "pip install 'ckptkit-tf[hdf5]'" in str(result.refusals[0])
    assert len(ls(path).tensors) == 3


# --- oddities -------------------------------------------------------------------------------------


def _rename(old: str, new: str) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file.move(old, new)

    return edit


def _with(name: str, value: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_rename("layers/dense/vars/1", "layers/dense/vars/3"), "names.odd"),
        (_rename("layers/dense/vars/0", "layers/dense/vars/p"), "names.odd"),
        (_rename("layers/conv2d", "layers/conv3d"), "names.odd"),
        (_rename("layers/dense", "layers/den{e"), "names.odd"),
        (_with("layers/dense_3/vars/0", [1.0]), "names.odd"),
        (_with("counter\x01", 1), "names.odd"),
        (_with("optimizer/vars/0", np.uint64(3)), "data.unsigned"),
        (_with("layers/lstm/vars/0", np.ones(3, ">f4")), "data.order"),
    ],
)
def test_what_no_keras_file_is_like(
    edit: Callable[[h5py.File], None], code: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    with h5py.File(path, "r+") as file:
        edit(file)
    assert code in _codes(verify(path))


def test_names_of_ones_own_are_no_finding(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    values = {
        **VALUES,
        **{f"encoder/blocks/my_block{k}/vars/0": np.ones(2) for k in ("", "_1", "_2")},
        "layers/den/vars/0": np.ones(1),
        "head/vars/mean": np.ones(2),
        "layers/dense_1/vars/0": np.ones((3, 4)),
        "layers/conv3d/vars/0": np.ones((1, 1, 1, 1, 2)),
    }
    write_h5(path, values)
    assert not _codes(verify(path))


def test_lists_of_legacy_files(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "m.h5")
    assert _sound(path)
    with h5py.File(path, "r+") as file:
        file["head/head/other:0"] = [1.0]
        file.create_group("optimizer_weights").attrs["weight_names"] = [b"adam/iter:0"]
    assert _codes(verify(path)) == {"names.unlisted", "names.missing"}


def test_bytes_that_nothing_leads_to(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    with h5py.File(path, "r+") as file:
        file["layers/extra/vars/0"] = np.arange(1.0, 900.0)
        file["layers/later/vars/0"] = np.arange(1.0, 9.0)
    with h5py.File(path, "r+") as file:
        del file["layers/extra"]
    assert _codes(verify(path)) == {"data.stray"}


# --- nothing checked ------------------------------------------------------------------------------


def _npz(path: Path) -> None:
    np.savez(path)


def _safetensors(path: Path) -> None:
    path.write_bytes(b"\2\0\0\0\0\0\0\0{}")


def _hdf5(path: Path) -> None:
    h5py.File(path, "w").close()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("m.npz", _npz),
        ("m.safetensors", _safetensors),
        ("m.h5", _hdf5),
        ("m.weights.h5", _hdf5),
    ],
)
def test_a_file_without_tensors_is_not_sound(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    result = verify(tmp_path / name)
    assert result.exit_code == 2
    assert "nothing in it to verify" in str(result.refusals[0])


def test_an_archive_without_a_config_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("model.weights.h5", h5_bytes())
    result = verify(path)
    assert result.exit_code == 1
    assert _codes(result) == {"config.missing"}


def test_a_model_that_needs_no_tensors_is_sound(tmp_path: Path) -> None:
    layers = [layer for layer in CONFIG["config"]["layers"] if "Input" in layer["class_name"]]
    config = {**CONFIG, "config": {**CONFIG["config"], "layers": layers}}
    assert _sound(write_keras(tmp_path / "m.keras", h5_bytes(values={}), config))


def test_structure_is_what_is_no_value(tmp_path: Path) -> None:
    """The flips of these tests must not fall on values, which nothing could tell."""
    data = h5_bytes()
    bits = structure_bits(data)
    nbytes = sum(value.nbytes for value in VALUES.values())
    assert len(bits) == 8 * (len(data) - nbytes)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_kind_of_hdf5_is_sound(name: str, tmp_path: Path) -> None:
    result = verify(write_variant(tmp_path / "m.weights.h5", name))
    assert result.exit_code == 0
    assert not _codes(result)
