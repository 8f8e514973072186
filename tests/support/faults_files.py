"""Rows 30 to 43: archives, HDF5, Keras, graphs, JSON, safetensors, names."""

from __future__ import annotations

import os
import signal
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit as package
from ckptkit.errors import CkptkitError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import verify
from ckptkit.stores.hdf5 import client as _hdf5_child
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.writer import write_safetensors
from support import hostile_models as scans
from support.bombs import BOMBS, NEED_H5PY
from support.catalogue import fault, found, is_listed, neither
from support.command_line import ckptkit, json_results, refused
from support.damage import flip, golden, write
from support.places import ROOT
from support.refused_json import REFUSED
from support.safetensors_headers import HEADERS
from support.values import blocks_of, corpus, out_tensors
from support.weights import write_bundle

# names that would lead out of a directory somewhere, each once
HOSTILE_NAMES = (
    *("../x", "../../x", "a/../../x", "a/b/../../../x", "..", "../", "./../x", "a/./../../x"),
    *("/x", "//x", "/etc/passwd", "///etc/passwd", "/", "/../x", "/tmp/x"),
    *("..\\x", "..\\..\\x", "a\\..\\..\\x", "\\x", "\\\\host\\share\\x", "\\\\?\\C:\\x", "a\\b"),
    *("C:x", "C:\\x", "C:/x", "c:../x", "Z:\\..\\x", "x:y"),
    *("a\0b", "\0", "../\0x", "a/../../\0"),
    *("", ".", "./", "./x", "a//b", "a/./b", "a/", "a/..", "a/b/.."),
)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npz(path: Path) -> Path:
    tensors = corpus(["float32", "int8"])
    write_npz(path, out_tensors(tensors), blocks_of(tensors))
    return path


def entries(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


# --- names in archives ----------------------------------------------------------------------------


def model_with_asset(directory: Path, name: str) -> Path:
    tree = scans.model_with("NoOp", "graph")
    tree["meta_graphs"]["asset_file_def"] = {
        "tensor_info": {"name": "plain:0"},
        "filename": name,
    }
    return scans.write_model(directory, tree, "pb")


@fault(30, "asset of a SavedModel whose name or link leads outside")
def _(tmp_path: Path) -> None:
    """an error to verify and scan; convert does not copy it; nothing is opened."""
    for number, name in enumerate(HOSTILE_NAMES):
        model = model_with_asset(tmp_path / f"m{number}", name)
        if name:  # an empty one is none: protobuf does not tell it from one that is not set
            found(model, "asset.path")
            assert any(f.code == "asset.path" for f in scan(model).findings), name
    model = golden(tmp_path, "tf2.21.0/lookup/model")
    words = model / "assets" / "words.txt"
    for target in ("/etc/passwd", "/dev/zero", "../../x"):
        words.unlink()
        words.symlink_to(target)
        found(model, "asset.path")
        text = refused("convert", model, tmp_path / "o", "--to", "saved_model", "--like", model)
        assert "link" in text or "outside" in text or "leads" in text
        assert not (tmp_path / "o").exists()


@fault(31, "archive members called `..`, absolute, links or devices; tar files")
def _(tmp_path: Path) -> None:
    """nothing is ever unpacked; members are read by name; scan reports the others."""
    pytest.importorskip("h5py")
    inside = tmp_path / "in"
    inside.mkdir()
    for number, name in enumerate(HOSTILE_NAMES):
        path = inside / f"{number}.keras"
        try:
            scans.keras_file(path, None, **{name: b"x"})
        except (ValueError, IndexError):  # zipfile itself does not write it
            continue
        before = entries(tmp_path)
        verify(path)
        assert scan(path).exit_code == 1, name
        is_listed(path)
        assert entries(tmp_path) == before, name
    link = inside / "link.keras"
    scans.keras_file(link, None)
    with zipfile.ZipFile(link, "a") as archive:
        item = zipfile.ZipInfo("assets/x")
        item.external_attr = 0o120777 << 16
        archive.writestr(item, "/etc/passwd")
    before = entries(tmp_path)
    verify(link)
    assert entries(tmp_path) == before
    tar = inside / "model.tar"
    with tarfile.open(tar, "w") as made:
        made.add(link, "../x")
    assert "a tar archive" in refused("ls", tar)
    assert verify(tar).exit_code == scan(tar).exit_code == 2


@fault(32, "zip with a name twice, wrong CRC, bytes around it, or two headers that differ")
def _(tmp_path: Path) -> None:
    """refused: two programs would read two different files."""
    path = npz(tmp_path / "w.npz")
    good = path.read_bytes()
    name = next(iter(members_of(path)))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, b"")
    neither(path)
    local, central, end = (good.index(b"PK" + mark) for mark in (b"\3\4", b"\1\2", b"\5\6"))
    for at, value in (
        (local + 6, 1),  # encrypted
        (local + 8, 8),  # method
        (local + 14, good[local + 14] ^ 1),  # CRC-32
        (local + 22, good[local + 22] ^ 1),  # size
        (local + 30, good[local + 30] ^ 1),  # name
        (central + 8, 1),
        (central + 10, 99),
        (central + 42, good[central + 42] ^ 1),  # place
        (end + 10, good[end + 10] ^ 1),  # number of members
        (end + 16, good[end + 16] ^ 1),
    ):
        path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
        assert not is_listed(path), at
        assert verify(path).exit_code != 0, at
    for content in (b"#!/bin/sh\n" + good, good + b"tail", b"MZ" + good):
        path.write_bytes(content)
        neither(path)
    path.write_bytes(good)
    flip(path, 8 * (local + 400))
    found(path)


@fault(33, "bombs: zip, npz, HDF5, shapes")
def _(tmp_path: Path) -> None:
    """streamed and bounded without a floor of gigabytes; at most 200 times is inflated."""
    for name in ("npz_zeros", "npz_shape", "keras_weights", "keras_config", "zip_quoted",
                 "h5_sparse", "safetensors_shape", "bundle_shape"):  # fmt: skip
        if name in NEED_H5PY:
            pytest.importorskip("h5py")
        (tmp_path / name).mkdir()
        path = BOMBS[name](tmp_path / name)
        assert verify(path).exit_code != 0, name


# --- HDF5 -----------------------------------------------------------------------------------------


@fault(34, "HDF5 links, external storage, virtual datasets, cycles, odd filters")
def _(tmp_path: Path) -> None:
    """refused by name, in both readers; no other file is opened."""
    h5 = pytest.importorskip("h5py")
    from support.keras_files import edited_h5

    def soft(file: Any) -> None:
        file["a/vars/0"] = h5.SoftLink("/layers/dense/vars/0")

    def outside(file: Any) -> None:
        file["a/vars/0"] = h5.ExternalLink("other.h5", "/x")

    def stored(file: Any) -> None:
        file.create_dataset("a/vars/0", (4,), "f4", external=[("secret.bin", 0, 16)])

    def virtual(file: Any) -> None:
        layout = h5.VirtualLayout(shape=(5,), dtype="f4")
        layout[:] = h5.VirtualSource(file["layers/dense/vars/1"])
        file.create_virtual_dataset("a/vars/0", layout)

    def cycle(file: Any) -> None:
        file["layers/dense/again"] = file["layers"]

    for edit in (soft, outside, stored, virtual, cycle):
        path = edited_h5(tmp_path / f"{edit.__name__}.weights.h5", edit)
        neither(path)

    def filtered(file: Any) -> None:
        file.create_dataset("a/vars/0", data=np.arange(9), chunks=(9,), scaleoffset=0)

    path = edited_h5(tmp_path / "filter.weights.h5", filtered)
    assert verify(path).exit_code == 2
    assert "filter 6" in refused("ls", path)


@fault(35, "HDF5 file that makes libhdf5 crash or hang")
def _(tmp_path: Path) -> None:
    """libhdf5 reads in a process of its own; its death is a finding, and the next file is read."""
    pytest.importorskip("h5py")
    from support.keras_files import write_h5

    path = tmp_path / "m.weights.h5"
    write_h5(path, compression="gzip", chunks=True)
    assert verify(path).exit_code == 0
    good = _hdf5_child.PROGRAM
    for number in (signal.SIGSEGV, signal.SIGABRT, getattr(signal, "SIGXCPU", signal.SIGKILL)):
        _hdf5_child.PROGRAM = (
            f"import os, sys; sys.stdin.readline(); os.kill(os.getpid(), {number})"
        )
        _hdf5_child._child.end()
        try:
            found(path, "hdf5.unreadable", "tensor.malformed")
        finally:
            _hdf5_child.PROGRAM = good
            _hdf5_child._deadly.clear()
        assert verify(path).exit_code == 0
    code = (
        "import os, sys; from pathlib import Path\n"
        "from ckptkit.operations.verify.api import verify\n"
        "assert verify(Path(sys.argv[1])).exit_code == 0; print('h5py' in sys.modules)"
    )
    assert run_python(code, path) == "False"


def run_python(code: str, *arguments: Path) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


# --- what would be run ----------------------------------------------------------------------------


@fault(36, "Lambda and any other class that is not on the list, at any depth")
def _(tmp_path: Path) -> None:
    """scan reports each with its path in the config; nothing is built, weights are still read."""
    pytest.importorskip("h5py")
    for name, config in scans.HOSTILE_CONFIGS.items():
        for depth in (0, 3):
            path = scans.keras_file(tmp_path / "m.keras", scans.nested(config, depth))
            result = scan(path)
            assert result.exit_code == 1, name
            assert all("config.json" in f.where for f in result.findings)
    lambda_ = scans.nested(scans.HOSTILE_CONFIGS["lambda"], 2)
    path = scans.keras_file(tmp_path / "m.keras", lambda_)
    assert package.load(path)


@fault(37, "paths and addresses in a config")
def _(tmp_path: Path) -> None:
    """scan reports them; they are never opened."""
    pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    os.mkfifo(secret)  # whoever opens it never comes back
    for text in (str(secret), "https://x.example/y", "gs://bucket/words.txt", "C:\\x", "../x"):
        config = scans.layer("StringLookup", vocabulary=text)
        path = scans.keras_file(tmp_path / "m.keras", scans.nested(config, 1))
        assert any(f.code == "keras.path" for f in scan(path).findings), text
        verify(path)
        is_listed(path)


@fault(38, "graph ops with side effects, in every place of a graph")
def _(tmp_path: Path) -> None:
    """known ones are errors, unknown ones warnings, never silence; binary and text alike."""
    for number, op in enumerate([*scans.HOSTILE_OPS, *scans.UNKNOWN_OPS]):
        place = scans.PLACES[number % len(scans.PLACES)]
        for form in ("pb", "pbtxt"):
            model = scans.write_model(tmp_path / f"{op}-{form}", scans.model_with(op, place), form)
            (finding,) = scan(model).findings
            assert finding.severity == ("error" if op in scans.HOSTILE_OPS else "warning")


@fault(39, "JSON with a key twice, NaN, great depth, endless numbers, lone surrogates")
def _(tmp_path: Path) -> None:
    """refused in every file that holds JSON: safetensors, its index, Keras configs."""
    for text, _message in REFUSED:
        path = tmp_path / "m.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        neither(path)
        path = tmp_path / "s.safetensors.index.json"
        path.write_bytes(text)
        neither(path)


@fault(40, "safetensors headers that lie")
def _(tmp_path: Path) -> None:
    """refused, with the verdict of the reference reader."""
    reference = pytest.importorskip("safetensors").deserialize
    verdicts = set()
    for header in HEADERS:
        for tail in (0, 4):
            content = struct.pack("<Q", len(header.encode())) + header.encode() + bytes(tail)
            path = tmp_path / "m.safetensors"
            path.write_bytes(content)
            try:
                reference(content)
            except Exception:
                neither(path)
                verdicts.add("refused")
            else:
                verdicts.add("read")
    assert verdicts == {"refused", "read"}


@fault(41, "bit flip in values that no checksum covers (safetensors, HDF5)")
def _(tmp_path: Path) -> None:
    """verify says that the format keeps none, and a manifest finds it, by tensor."""
    tensors = corpus(["float32"])
    path, manifest = tmp_path / "w.safetensors", tmp_path / "m.sha256"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors))
    verify(path, new_manifest=manifest)
    flip(path, 8 * (path.stat().st_size - 2))
    result = verify(path)
    assert result.exit_code == 0
    assert any("keeps no checksum" in text for text in result.not_checked)
    codes = [f.code for f in verify(path, manifest=manifest).findings]
    assert codes == ["manifest.digest", "manifest.tensor"]


# --- names ----------------------------------------------------------------------------------------


def hostile_texts() -> Iterator[str]:
    yield from ("\x1b]0;owned\x07", "\x1b[2J", "a\nb", "a\rb", "\u202egpj.exe", "a\x00b", "\x9b31m")
    yield from ("\u200b", "\u2066", "\x7f", "\ufeff", "\u2028")


@fault(42, "escapes, line ends, direction marks and NUL in names")
def _(tmp_path: Path) -> None:
    """escaped on the terminal by every command, exact in JSON."""
    names = list(hostile_texts())
    prefix = write_bundle(tmp_path / "c", {n: np.ones((2, 2), np.float32) for n in names})
    other = write_bundle(tmp_path / "d", {n: np.zeros((2, 2), np.float32) for n in names})
    for command in (
        ("ls", prefix), ("ls", prefix, "--long"), ("verify", prefix, "--values", "-v"),
        ("diff", prefix, other), ("scan", prefix), ("convert", prefix, "x.npz", "--dry-run"),
    ):  # fmt: skip
        run = ckptkit(*command)
        for char in run.out + run.err:
            assert char.isprintable() or char == "\n", (command, char)
    [listed] = json_results("ls", prefix)
    assert {row["key"] for row in listed["tensors"]} == set(names)


@fault(43, "two tensors that go to one output name, or to one that is a path")
def _(tmp_path: Path) -> None:
    """refused before anything is written."""
    arrays = {n: np.full((2, 3), i, np.float32) for i, n in enumerate(("a/x", "b/x", "c"))}
    prefix = write_bundle(tmp_path / "c", arrays)
    for rule in ("^[ab]/=>same/",):
        out = tmp_path / "o.npz"
        refused_ = ckptkit("convert", prefix, out, "--map", rule)
        assert refused_.code in (1, 2)
        assert not out.exists()
    for name in ("../x", "/x", "a/../../x", "C:\\x"):
        tensors = {name: ("float32", arrays["c"])}
        with pytest.raises(CkptkitError):
            write_npz(tmp_path / "o.npz", out_tensors(tensors), blocks_of(tensors))
        assert not (tmp_path / "o.npz").exists()
    assert write(tmp_path / "fine")
