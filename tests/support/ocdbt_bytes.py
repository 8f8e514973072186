"""Manifests and trees of OCDBT, made by hand: what no writer leaves, below checksums that hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

from ckptkit._io import crc32c
from ckptkit.stores.tensor_bundle.table_writer import varint

MANIFEST_MAGIC, NODE_MAGIC = 0x0CDB3A2A, 0x0CDB20DE


class Place(NamedTuple):
    """Where a node lies."""

    file: int
    offset: int
    nbytes: int


def framed(magic: int, body: bytes, compression: int = 0) -> bytes:
    """Return a body with its header and checksum."""
    inner = varint(0) + varint(compression) + body
    plain = magic.to_bytes(4, "big") + (len(inner) + 16).to_bytes(8, "little") + inner
    checksum: int = crc32c.value(plain)
    return plain + checksum.to_bytes(4, "little")


def _columns(*columns: Sequence[int]) -> bytes:
    return b"".join(varint(number) for column in columns for number in column)


def _names(names: Sequence[bytes], *between: Sequence[int]) -> bytes:
    """Return names without what they share with those before, their lengths first."""
    shared = [0]
    for before, name in pairwise(names):
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(before, name, strict=False))
        shared.append(len([*alike]))
    rests = [name[n:] for name, n in zip(names, shared, strict=True)]
    return _columns(shared[1:], [len(rest) for rest in rests], *between) + b"".join(rests)


def data_files(names: Sequence[str]) -> bytes:
    """Return a table of data files without base paths."""
    if not names:
        return varint(0)
    return varint(len(names)) + _names([name.encode() for name in names], [0] * len(names))


def manifest(root: Place, height: int, files: Sequence[str] = ("d/0",)) -> bytes:
    """Return a manifest of one version."""
    config = bytes(16) + b"\0" + varint(100) + varint(1 << 20) + b"\4" + varint(0)
    version = varint(1) + varint(1) + bytes([height]) + _columns(root, [0, 0, 0]) + bytes(8)
    return framed(MANIFEST_MAGIC, config + data_files(files) + version + varint(0))


def leaf(values: dict[bytes, bytes | Place], files: Sequence[str] = ()) -> bytes:
    """Return a node of height 0; a Place is a value in a file."""
    placed = [value for value in values.values() if isinstance(value, Place)]
    lengths = [v.nbytes if isinstance(v, Place) else len(v) for v in values.values()]
    body = b"\0" + data_files(files) + varint(len(values)) + _names(list(values))
    body += _columns(lengths) + bytes(isinstance(v, Place) for v in values.values())
    body += _columns([p.file for p in placed], [p.offset for p in placed])
    body += b"".join(v for v in values.values() if not isinstance(v, Place))
    return framed(NODE_MAGIC, body)


def interior(
    height: int,
    children: dict[bytes, Place],
    files: Sequence[str] = ("d/0",),
    common: Sequence[int] | None = None,
) -> bytes:
    """Return a node above others, each under the least key below it."""
    count = len(children)
    body = bytes([height]) + data_files(files) + varint(count)
    body += _names(list(children), common or [0] * count)
    places = list(children.values())
    body += _columns(*([p[i] for p in places] for i in range(3)), *([0] * count,) * 3)
    return framed(NODE_MAGIC, body)


def database(directory: Path, data: bytes, root: Place, height: int) -> Path:
    """Write a database of one data file; return its directory."""
    (directory / "d").mkdir(parents=True, exist_ok=True)
    (directory / "d/0").write_bytes(data)
    (directory / "manifest.ocdbt").write_bytes(manifest(root, height))
    return directory
