"""Headers and slices that no writer makes: accepted or refused as TensorFlow does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.errors import CkptkitError, FormatError
from ckptkit.operations.verify.api import verify
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.slices import slice_key, sliced_name
from ckptkit.stores.tensor_bundle.table import parse_table
from support.command_line import ckptkit, refused
from support.crafted import table
from support.odd_bundles import write_odd_bundle
from support.values import Array

VALUES = np.arange(8, dtype=np.float32).reshape(4, 2)
EDGE = 2**31
HEADERS: dict[str, dict[str, Any]] = {
    "usual": {},
    "producer 0": {"producer": 0},
    "producer 2": {"producer": 2},
    "producer of the future": {"producer": EDGE - 1},
    "producer -1": {"producer": -1},
    "producer least": {"producer": -EDGE},
    "min_consumer 1": {"min_consumer": 1},
    "min_consumer 2": {"min_consumer": 2},
    "min_consumer -1": {"min_consumer": -1},
    "min_consumer largest": {"min_consumer": EDGE - 1},
    "bad consumer is us": {"bad_consumers": [1]},
    "bad consumers are others": {"bad_consumers": [0, 2, -1]},
    "all bad": {"producer": -1, "min_consumer": 9, "bad_consumers": [1]},
}


def with_header(prefix: Path, version: dict[str, Any], **fields: Any) -> Path:
    """Write a checkpoint and change its header; checksums hold."""
    write_odd_bundle(prefix, {"w": ("float32", VALUES)})
    index = prefix.with_name(f"{prefix.name}.index")
    items = dict(parse_table(index.read_bytes(), "x"))
    header = message_class("BundleHeaderProto").FromString(items[b""])
    for name, value in version.items():
        if isinstance(value, list):
            getattr(header.version, name).extend(value)
        else:
            setattr(header.version, name, value)
    for name, value in fields.items():
        setattr(header, name, value)
    items[b""] = header.SerializeToString()
    index.write_bytes(table(items))
    return prefix


def without_parent(prefix: Path, slices: list[list[tuple[int, int]]], keep: int = 0) -> Path:
    """Write a checkpoint of `u` and a partitioned `part/w`, and take the entry of `part/w` away.

    keep: slices that an entry in its place still names.
    """
    tensors: dict[str, tuple[str, Array]] = {
        "part/w": ("float32", VALUES),
        "u": ("int64", np.arange(4)),
    }
    write_odd_bundle(prefix, tensors, slices={"part/w": slices})
    index = prefix.with_name(f"{prefix.name}.index")
    items = dict(parse_table(index.read_bytes(), "x"))
    whole = message_class("BundleEntryProto").FromString(items.pop(b"part/w"))
    if keep:
        del whole.slices[keep:]
        whole.shape.dim[0].size = sum(part.extent[0].length for part in whole.slices)
        items[b"part/w"] = whole.SerializeToString()
    index.write_bytes(table(items))
    return prefix


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[Any]:
    pytest.importorskip("tensorflow")
    from support.tf_reader import Peer

    peer = Peer()
    yield peer
    peer.close()


@pytest.mark.needs_tf
@pytest.mark.parametrize("name", HEADERS)
def test_versions_are_judged_as_tensorflow_does(tmp_path: Path, tensorflow: Any, name: str) -> None:
    prefix = with_header(tmp_path / "c", HEADERS[name])
    theirs = tensorflow(prefix)
    assert not theirs["end"]
    result = verify(prefix)
    assert result.ok == (not theirs["error"]), (theirs, result.findings)
    if result.ok:
        assert open_bundle(prefix).read("w").tolist() == VALUES.reshape(-1).tolist()
    else:
        assert refused("ls", prefix)


def test_a_writer_of_version_minus_one(tmp_path: Path) -> None:
    prefix = with_header(tmp_path / "c", {"producer": -1})
    assert "version of its writer: expected 0 or newer, found -1" in refused("ls", prefix)
    assert ckptkit("verify", prefix).code == 1


@pytest.mark.parametrize("endianness", [2, -1, EDGE - 1])
def test_a_byte_order_that_is_none(tmp_path: Path, endianness: int) -> None:
    prefix = with_header(tmp_path / "c", {}, endianness=endianness)
    assert "endianness" in refused("ls", prefix)
    assert verify(prefix).exit_code == 1


SLICES = {
    "rows": [[(0, 2), (0, 2)], [(2, 2), (0, 2)]],
    "whole axis": [[(0, 3), (0, -1)], [(3, 1), (0, -1)]],
    "far": [[(0, 1), (0, 2)], [(1, 3), (0, 2)]],
}


@pytest.mark.needs_tf
@pytest.mark.parametrize("name", SLICES)
def test_slices_without_their_tensor(tmp_path: Path, tensorflow: Any, name: str) -> None:
    prefix = without_parent(tmp_path / "c", SLICES[name])
    assert tensorflow(prefix)["error"]
    assert "a slice of 'part/w'" in refused("ls", prefix)
    result = verify(prefix)
    assert result.exit_code == 1
    found = [f for f in result.findings if f.severity == "error"]
    assert len(found) == len(SLICES[name])
    assert all("a slice of 'part/w'" in finding.message for finding in found)


def test_a_slice_that_its_tensor_no_longer_names(tmp_path: Path) -> None:
    prefix = without_parent(tmp_path / "c", SLICES["rows"], keep=1)
    assert "a slice of 'part/w'" in refused("ls", prefix)
    assert verify(prefix).exit_code == 1


def test_the_rest_of_a_checkpoint_with_an_orphan_is_rescued(tmp_path: Path) -> None:
    from ckptkit.stores.tensor_bundle.recovery import survey

    bundle, problems = survey(without_parent(tmp_path / "c", SLICES["rows"]))
    assert list(bundle.specs) == ["u"]
    assert all(isinstance(problem, FormatError) for problem in problems)


@pytest.mark.parametrize("name", [b"w", b"", b"\0\xff a", b"part/w" * 50])
@pytest.mark.parametrize("number", [0, 1, -1, 63, 64, -64, -65, 8191, 1 << 40, -(1 << 62), 1 << 62])
def test_the_name_in_the_key_of_a_slice(name: bytes, number: int) -> None:
    for extents in ([], [(number, 1)], [(0, number), (number, number)]):
        key = slice_key(name, extents)
        assert sliced_name(key) == name
        assert sliced_name(key + b"x") is None
        assert sliced_name(key[:-1]) is None


@pytest.mark.parametrize("key", [b"\0", b"\0name", b"\0name\0", b"\0a\0\x01\x02", b"a", b""])
def test_other_keys_are_no_slices(key: bytes) -> None:
    assert sliced_name(key) is None


@pytest.mark.needs_tf
def test_a_name_that_begins_as_slices_do(tmp_path: Path, tensorflow: Any) -> None:
    prefix = write_odd_bundle(tmp_path / "c", {"\0odd": ("float32", VALUES)})
    assert tensorflow(prefix)["read"] == 1
    assert list(open_bundle(prefix).specs) == ["\0odd"]
    assert verify(prefix).ok
    with pytest.raises(CkptkitError):
        open_bundle(prefix).read("odd")
