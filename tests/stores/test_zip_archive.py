"""Zip archives as Python's zipfile reads them: the same members, or a refusal."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import ChecksumError, CkptkitError, FormatError, UnsupportedError
from ckptkit.operations.verify.api import verify
from ckptkit.stores.containers.zip_archive import read_directory, read_member
from support.fuzz import mutators
from support.goldens import golden
from support.places import ROOT

END = b"PK\x05\x06"


def archive() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, a=np.arange(4), b=np.ones(2))
    return sink.getvalue()


def with_zip64_end(data: bytes, **changed: int) -> bytes:
    """Add the ZIP64 end record and locator that writers which stream add to every archive."""
    at = data.rindex(END)
    _, _, _, _, count, size, start, _ = struct.unpack_from("<4s4H2IH", data, at)
    fields = {"count": count, "size": size, "start": start, "length": 44, "disks": 1} | changed
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\x06\x06", fields["length"], 45, 45, 0, 0,
        fields["count"], fields["count"], fields["size"], fields["start"],
    )  # fmt: skip
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, fields["disks"])
    return data[:at] + record + locator + data[at:]


def put(directory: Path, data: bytes) -> Path:
    path = directory / "w.npz"
    path.write_bytes(data)
    return path


def test_a_zip64_end_record_that_is_not_needed(tmp_path: Path) -> None:
    path = put(tmp_path, with_zip64_end(archive()))
    assert sorted(np.load(path)) == ["a", "b"]
    assert sorted(read_directory(path)) == ["a.npy", "b.npy"]
    result = verify(path)
    assert result.ok, result.findings


def test_one_that_is_needed(tmp_path: Path) -> None:
    data = bytearray(with_zip64_end(archive()))
    at = data.rindex(END)
    data[at + 8 : at + 20] = b"\xff" * 12  # counts, size and start: see the other record
    path = put(tmp_path, bytes(data))
    assert sorted(np.load(path)) == ["a", "b"]
    assert verify(path).ok


@pytest.mark.parametrize("changed", [{"count": 1}, {"size": 46}, {"start": 0}, {"length": 45}])
def test_one_that_says_otherwise(tmp_path: Path, changed: dict[str, int]) -> None:
    path = put(tmp_path, with_zip64_end(archive(), **changed))
    with pytest.raises(FormatError):
        read_directory(path)


def entry_at(data: bytes) -> int:
    return data.index(b"PK\x01\x02")


def test_a_version_that_zipfile_does_not_know(tmp_path: Path) -> None:
    data = bytearray(archive())
    data[entry_at(bytes(data)) + 6] = 64
    path = put(tmp_path, bytes(data))
    with pytest.raises(NotImplementedError):
        zipfile.ZipFile(path)
    with pytest.raises(UnsupportedError, match="Python does not read"):
        read_directory(path)


@pytest.mark.parametrize("flag", [0x20, 0x40])
def test_flags_that_zipfile_does_not_know(tmp_path: Path, flag: int) -> None:
    data = bytearray(archive())
    for at in (entry_at(bytes(data)) + 8, 6):
        data[at] |= flag
    path = put(tmp_path, bytes(data))
    with zipfile.ZipFile(path) as file, pytest.raises(NotImplementedError):
        file.open("a.npy")
    with pytest.raises(UnsupportedError, match="Python does not read"):
        read_directory(path)


@pytest.mark.parametrize(("other", "refused"), [(b"a.npy", False), (b"c.npy", True)])
def test_a_member_with_two_names(tmp_path: Path, other: bytes, refused: bool) -> None:
    """Python 3.13 and newer take the name in the extra field, older versions the first."""
    info = zipfile.ZipInfo("a.npy")
    body = b"\x01" + struct.pack("<L", 0) + other
    info.extra = struct.pack("<2H", 0x7075, len(body)) + body
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as file, file.open(info, "w") as member:
        np.lib.format.write_array(member, np.arange(3))
    if refused:
        with pytest.raises(FormatError, match="is called"):
            read_directory(path)
    else:
        assert list(read_directory(path)) == ["a.npy"]


def test_mutants_hold_what_zipfile_reads(tmp_path: Path) -> None:
    """Whatever is read here, zipfile reads too, name by name and byte by byte."""
    good = [archive(), with_zip64_end(archive())]
    read = 0
    for seed in range(400):
        rng = random.Random(f"zip {seed}")
        path = put(tmp_path, mutators.noise(rng.choice(good), rng, (1, 1, 2)))
        try:
            members = read_directory(path)
            ours = {name: read_member(path, one, 1 << 20) for name, one in members.items()}
        except CkptkitError:
            continue
        with zipfile.ZipFile(path) as file:
            assert ours == {name: file.read(name) for name in file.namelist()}, seed
        read += 1
    assert read > 10


@pytest.mark.parametrize("format_name", ["npz", "keras", "pytorch"])
def test_a_flipped_bit_of_a_value_is_damage(tmp_path: Path, format_name: str) -> None:
    """Not another value: numpy, Keras and torch refuse the member."""
    npz = put(tmp_path, archive())
    sound = {
        "npz": npz,
        "keras": golden("tf2.21.0/files_words/model.keras").path,
        "pytorch": ROOT / "fixtures/pytorch/torch2.13.0/state_dict.pt",
    }[format_name]
    store = ckptkit.open(sound).store
    spec = next(s for s in store.specs.values() if s.offset is not None and s.nbytes)
    data = bytearray(sound.read_bytes())
    assert spec.offset is not None
    data[spec.offset] ^= 1
    damaged = tmp_path / f"damaged{sound.suffix}"
    damaged.write_bytes(data)
    calls = (
        lambda: ckptkit.convert(damaged, tmp_path / "out.safetensors", check=False),
        lambda: ckptkit.diff(sound, damaged),
        lambda: ckptkit.load(damaged),
        lambda: ckptkit.ls(damaged, digest=True),
    )
    for call in calls:
        with pytest.raises(ChecksumError, match="CRC-32"):
            call()
    assert not (tmp_path / "out.safetensors").exists()
    run = ckptkit.history(sound, damaged)
    assert not run.ok and "CRC-32" in str(run.steps[1].problem)
