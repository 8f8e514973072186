"""The golden files are those that the manifest names, all of them, byte for byte, and no others."""

from __future__ import annotations

import hashlib
import runpy

import numpy as np
import pytest
from support.goldens import GOLDEN, digest, goldens, manifest

from ckptkit.dtypes import DTYPES

FILES = manifest()["files"]
PRODUCERS = GOLDEN.parent / "golden_producers"  # run by path, never imported by name
VERSIONS = runpy.run_path(str(PRODUCERS / "versions.py"))["VERSIONS"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_file_is_there_and_unchanged(name: str) -> None:
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == FILES[name]


def test_no_stray_file() -> None:
    found = {p.relative_to(GOLDEN).as_posix() for p in GOLDEN.rglob("*") if p.is_file()}
    assert found == {*FILES, "MANIFEST.json"}


def test_every_file_belongs_to_a_golden() -> None:
    names = tuple(golden.name for golden in goldens())
    state = {"tf2.21.0/manager/checkpoint"}  # of the training directory, not of one checkpoint
    assert [f for f in FILES if not f.startswith(names) and f not in state] == []


@pytest.mark.parametrize("golden", goldens(), ids=lambda golden: golden.name)
def test_entry_is_complete(golden) -> None:  # type: ignore[no-untyped-def]
    members = [name for name in FILES if name.startswith(golden.name)]
    assert members, "no file"
    version = golden.name.split("/")[0]
    assert f"tensorflow=={golden.producer['tensorflow']}" in VERSIONS[version]
    if golden.kind in ("checkpoint-v1", "saved-model-pbtxt"):
        assert not golden.tensors
        return
    assert golden.tensors
    names = {row.variable for row in golden.tensors.values()}
    for row in golden.tensors.values():
        assert row.dtype in DTYPES
        assert (row.digest is None) == (row.dtype == "variant")
        assert not row.slot_of or row.slot_of in names
    lost = [name for name in golden.weights if name not in names]
    assert not lost or golden.name == "tf2.16.2/list/ckpt"


def test_what_the_goldens_cover() -> None:
    everything = goldens()
    kinds = {(golden.name.split("/")[0], golden.kind) for golden in everything}
    for version in VERSIONS:
        assert {(version, "checkpoint"), (version, "keras")} <= kinds
    for version in ("tf2.12.1", "tf2.15.1", "tf2.16.2", "tf2.21.0"):
        assert (version, "h5") in kinds
    dtypes = {row.dtype for golden in everything for row in golden.tensors.values()}
    known_to_tensorflow = {name for name, row in DTYPES.items() if row.enum}
    assert known_to_tensorflow - dtypes == {"resource"}  # which no reader gives back
    roles = {row.role for golden in everything for row in golden.tensors.values()}
    assert roles == {"", "weight", "slot", "ema", "counter", "config", "metric", "scalar"}


def test_digest_is_of_little_endian_row_major_bytes() -> None:
    numbers = np.arange(6, dtype="<i2").reshape(2, 3)
    wanted = hashlib.sha256(bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])).hexdigest()[:32]
    for same in (numbers, numbers.astype(">i2"), np.asfortranarray(numbers)):
        assert digest(same) == wanted
    assert digest(np.array([b"ab", b""], object)) == digest(["ab", ""])
    assert digest(np.array([b"ab", b""], object)) != digest([b"a", b"b"])
    assert digest(b"ends in NUL\0") == digest([b"ends in NUL\0"]) != digest(b"ends in NUL")
