"""One field of an HDF5 file made wrong at a time: each is refused, by a reader without libhdf5."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ckptkit.errors import FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.containers.byte_range import whole_file
from ckptkit.stores.hdf5.bounded import LeftToLibhdf5
from ckptkit.stores.hdf5.classic import scan_classic, scan_closely
from ckptkit.stores.hdf5.datatypes import DatatypeError, parse_datatype
from ckptkit.stores.hdf5.lookup3 import checksum

Edit = Callable[[bytearray], None]


def _file(fill: Callable[[h5py.File], None], **options: Any) -> bytearray:
    sink = io.BytesIO()
    with h5py.File(sink, "w", **options) as file:
        fill(file)
    return bytearray(sink.getvalue())


def _classic(file: h5py.File) -> None:
    file.attrs["note"] = "a text in the global heap"
    file.attrs["count"] = np.int32(3)
    for name in ("one", "two", "three"):
        file[f"group/{name}"] = np.arange(6, dtype="f4").reshape(2, 3) + 1


def _chunked(file: h5py.File) -> None:
    data = np.arange(6000, dtype="i2").reshape(100, 60)
    file.create_dataset("x", data=data, chunks=(10, 20), compression="gzip", shuffle=True)


def _refused(data: bytes | bytearray, path: Path, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises((FormatError, TruncatedError, UnsupportedError), match=match):
        scan_classic(whole_file(path))


def _put(find: bytes, offset: int, value: bytes, number: int = 0) -> Edit:
    """Return an edit that overwrites bytes at an offset from a place of `find`."""

    def edit(data: bytearray) -> None:
        at = -1
        for _ in range(number + 1):
            at = data.index(find, at + 1)
        data[at + offset : at + offset + len(value)] = value

    return edit


F4 = bytes.fromhex("11 20 1f 00 04 00 00 00 00 00 20 00 17 08 00 17 7f 00 00 00")
"""The datatype message of a little-endian float32."""


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (_put(b"\x89HDF", 9, b"\1"), "superblock must be zero"),
        (_put(b"\x89HDF", 13, b"\x0a"), "addresses and lengths"),
        (_put(b"\x89HDF", 16, b"\0\0"), "B-trees of 0"),
        (_put(b"\x89HDF", 18, b"\xff\x7f"), "past the end|lies over"),
        (_put(b"\x89HDF", 20, b"\2"), "flags"),
        (_put(b"\x89HDF", 24, b"\x80"), "data that begin at 128"),
        (_put(b"\x89HDF", 32, bytes(8)), "free space"),
        (_put(b"\x89HDF", 41, b"\2"), "past the end"),
        (_put(b"\x89HDF", 72, b"\4"), "root group of kind 4"),
        (_put(b"\x89HDF", 80, b"\0"), "elsewhere than its parent says"),
        (_put(b"TREE", 4, b"\2"), "node of kind 2"),
        (_put(b"TREE", 5, b"\1"), "node of kind|expected TREE"),
        (_put(b"TREE", 6, b"\0"), "more entries than it counts"),
        (_put(b"TREE", 6, b"\x21"), "entries in a B-tree node for 32"),
        (_put(b"TREE", 8, b"\0"), "neighbours"),
        (_put(b"TREE", 16, b"\0"), "neighbours"),
        (_put(b"TREE", 24, b"\x08", 1), "not by its key"),
        (_put(b"TREE", 40, b"\0", 1), "not by its key"),
        (_put(b"SNOD", 4, b"\0"), "version 0"),
        (_put(b"SNOD", 6, b"\2", 1), "more entries than it counts"),
        (_put(b"SNOD", 6, b"\x09", 1), "9 links in a node for 8"),
        (_put(b"SNOD", 8, b"\0", 1), "without a name"),
        (_put(b"SNOD", 24, b"\3", 1), "is of kind 3"),
        (_put(b"SNOD", 24, b"\0\0\0\0\1", 1), "is of kind 0, 1"),
        (_put(b"SNOD", 24, b"\1", 1), "linked as a group"),
        (_put(b"HEAP", 4, b"\x80"), "version 128"),
        (_put(b"HEAP", 6, b"\1"), "must be zero"),
        (_put(b"HEAP", 8, b"\x05"), "a heap of"),
        (_put(b"HEAP", 16, b"\x04"), "free block"),
        (_put(b"one\0", 0, b"two\0"), "out of order"),
        (_put(b"one\0", 0, b"zne\0"), "out of order|by its key"),
        (_put(b"GCOL", 4, b"\2"), "global heap of version 2"),
        (_put(b"GCOL", 5, b"\1"), "must be zero"),
        (_put(b"GCOL", 8, b"\x04"), "global heap"),
        (_put(b"GCOL", 16, b"\2"), "lost its text"),
        (_put(b"GCOL", 24, b"\x18"), "in a heap"),
        (_put(F4, 0, b"\x10"), "parts do not fit|class 0|bits"),
        (_put(F4, 0, b"\x71"), "version 7"),
        (_put(F4, 2, b"\x1e"), "parts do not fit"),
        (_put(F4, 4, b"\5"), "declares|parts|uses"),
        (_put(F4, 10, b"\x21"), "parts do not fit"),
        (_put(F4, 12, b"\x16"), "parts do not fit"),
        (_put(F4, 13, b"\x09"), "parts do not fit"),
        (_put(F4, 16, b"\x7e"), "parts do not fit"),
    ],
)
def test_one_field_of_a_classic_file(edit: Edit, match: str, tmp_path: Path) -> None:
    data = _file(_classic)
    path = tmp_path / "m.h5"
    path.write_bytes(data)
    assert len(scan_classic(whole_file(path)).datasets) == 3
    before = bytes(data)
    edit(data)
    assert data != before
    _refused(data, path, match)


def _headers(data: bytes | bytearray) -> list[int]:
    """Return where the messages of the datasets' headers begin: those of float32."""
    places, at = [], data.find(F4)
    while at >= 0:
        places.append(at - 8)
        at = data.find(F4, at + 1)
    return places


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (0, b"\x09\0", "unknown kind 0x09|out of place"),  # kind
        (0, b"\x13\0", "out of place|lacks"),
        (0, b"\x01\0", "two messages|lacks"),
        (2, b"\x10\0", "reads|message|header"),  # size
        (2, b"\x19\0", "bytes in its header"),
        (4, b"\x06", "flags"),  # shared, and not to be shared
        (4, b"\x24", "flags"),  # was unknown, though nobody was to say so
        (5, b"\1", "must be zero"),
    ],
)
def test_one_field_of_a_message(offset: int, value: bytes, match: str, tmp_path: Path) -> None:
    data = _file(_classic)
    at = _headers(data)[0] + offset
    data[at : at + len(value)] = value
    _refused(data, tmp_path / "m.h5", match)


def test_counts_and_sizes_of_object_headers(tmp_path: Path) -> None:
    clean = _file(_classic)
    root = struct.unpack_from("<Q", clean, 64)[0]
    for offset, value, match in (
        (0, b"\2", "version 2"),
        (1, b"\1", "version 1, 1"),
        (2, b"\x07", "and says 7"),
        (4, b"\0", "nothing leads to it"),
        (8, b"\x04", "message|bytes|header"),
        (12, b"\1", "must be zero"),
    ):
        data = bytearray(clean)
        data[root + offset : root + offset + 1] = value
        _refused(data, tmp_path / "m.h5", match)


def test_a_tensor_whose_place_is_another(tmp_path: Path) -> None:
    """Into another structure: they share bytes.  Into a gap: what it left is led to by nothing."""
    clean = _file(_classic)
    path = tmp_path / "m.h5"
    path.write_bytes(clean)
    tree = scan_closely(whole_file(path))
    assert tree.stray == 0
    one, two = (tree.tree.datasets[f"group/{name}"].offset for name in ("one", "two"))
    assert one is not None
    assert two is not None
    data = clean.replace(struct.pack("<2Q", one, 24), struct.pack("<2Q", two + 8, 24))
    _refused(data, path, "lies over")
    gap = len(clean)
    data = clean.replace(struct.pack("<2Q", one, 24), struct.pack("<2Q", gap, 24)) + bytes(24)
    struct.pack_into("<Q", data, 40, len(data))
    path.write_bytes(data)
    assert scan_closely(whole_file(path)).stray > 0


def test_both_byte_orders_in_one_file(tmp_path: Path) -> None:
    data = _file(_classic)
    at = _headers(data)[0] + 8
    data[at + 1] = 0x21
    path = tmp_path / "m.h5"
    path.write_bytes(data)
    assert len(scan_closely(whole_file(path)).foreign) == 1


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (_put(b"TREE", 6, b"\1", 1), "more entries|out of order|outside|neighbours"),
        (_put(b"TREE", 28, b"\1", 1), "without filters"),  # shuffle cannot be left out
        (_put(b"TREE", 28, b"\2", 1), "a chunk of x of"),
        (_put(b"TREE", 32, b"\3", 1), "outside of it|out of order"),
        (_put(b"TREE", 40, b"\x14", 1), "out of order"),
        (_put(b"TREE", 48, b"\1", 1), "outside of it|out of order"),
        (_put(b"TREE", 56, b"\0\0", 1), "lies over|past the end"),
        (_put(b"shuffle", 8, b"\4"), "filter 2 of x with"),
        (_put(b"shuffle", 0, b"sH"), "called"),
    ],
)
def test_one_field_of_chunks(edit: Edit, match: str, tmp_path: Path) -> None:
    data = _file(_chunked)
    edit(data)
    _refused(data, tmp_path / "m.h5", match)


def test_every_flip_of_a_checksummed_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    clean = _file(_classic, libver="latest")
    path.write_bytes(clean)
    assert len(scan_classic(whole_file(path)).datasets) == 3
    start = clean.index(b"OHDR")
    for bit in range(8 * start, 8 * (start + 60), 7):
        data = bytearray(clean)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises((FormatError, TruncatedError, LeftToLibhdf5)) as caught:
            scan_classic(whole_file(path))
        assert not isinstance(caught.value, LeftToLibhdf5)


def test_lookup3_is_that_of_its_author() -> None:
    """The values that lookup3.c prints for itself, driver5."""
    assert checksum(b"") == 0xDEADBEEF
    assert checksum(b"Four score and seven years ago") == 0x17770551


@pytest.mark.parametrize(
    "dtype",
    [
        *("f2", "f4", "f8", ">f4", "i1", "u2", ">i8", "S5", "V3", "c8", "c16", "?"),
        h5py.enum_dtype({"A": 0, "B": 1}, "i2"), h5py.vlen_dtype("i4"),
        np.dtype([("a", "f4"), ("b", "i2", (3,))]), h5py.ref_dtype, np.dtype(("f4", (2, 3))),
        "longdouble",
    ],
)  # fmt: skip
def test_datatypes_that_libhdf5_writes(dtype: Any) -> None:
    """Each is read whole, and no shorter message is."""
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    raw = kind.encode()[2:]  # behind a version and a size of addresses
    found, end = parse_datatype(raw)
    assert end == len(raw)
    assert found.size == kind.get_size()
    for length in range(len(raw)):
        with pytest.raises(DatatypeError):
            parse_datatype(raw[:length])


def test_versions_of_datatypes() -> None:
    """libhdf5 1.14 knows versions up to 4, and the later ones only of types made of others."""
    for version in (1, 2, 3):
        assert parse_datatype(bytes([version << 4 | 1]) + F4[1:])[0].dtype == "float32"
    for version in (0, 4, 6, 9):
        with pytest.raises(DatatypeError, match=f"version {version}"):
            parse_datatype(bytes([version << 4 | 1]) + F4[1:])
    with pytest.raises(LeftToLibhdf5):
        parse_datatype(bytes([5 << 4 | 1]) + F4[1:])
