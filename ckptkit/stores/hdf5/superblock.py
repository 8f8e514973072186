"""The superblock: where an HDF5 file begins, how wide its nodes are, where its root is.

Versions 0 and 1, all integers little-endian:
    signature (8), version, versions of free space, root entry and shared messages (0, one 0 byte
    before the last), sizes of addresses and of lengths (8, 8), 0,
    K of links and of groups' B-trees (2, 2), flags (4); in version 1: K of chunks' B-trees (2), 0
    base address, free space, end of the file, driver (8 each), the root group's entry (40)
Versions 2 and 3:
    signature, version, sizes, flags (1 each); base address, extension, end of the file, header of
    the root group (8 each), checksum (4)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.hdf5.bounded import UNDEFINED, BoundedReader, LeftToLibhdf5
from ckptkit.stores.hdf5.lookup3 import checksum
from ckptkit.stores.hdf5.symbol_tables import Fanout
from ckptkit.stores.hdf5.user_block import SIGNATURE

_CHUNKS = 32  # K of chunks' B-trees where the superblock does not say (HDF5_BTREE_CHUNK_IK_DEF)
_MAX_FANOUT = 1 << 15
_FLAGS = 0x05  # that libhdf5 knows: open for writing, and by one writer with readers


class Superblock(NamedTuple):
    """root: address of the root group's header.  tree, heap: what its entry says of it, or None."""

    root: int
    fanout: Fanout
    tree: int | None = None
    heap: int | None = None


def read_superblock(source: BoundedReader) -> Superblock:
    """Return what the superblock says, and let `source` know where the file ends.

    Raises FormatError, TruncatedError, LeftToLibhdf5.
    """
    path = str(source.byte_range.path)
    if source.read(0, 9)[:8] != SIGNATURE:
        raise FormatError(path, "no HDF5 signature at the start of the data")
    version = source.read(8, 1)[0]
    if version > 3:
        raise source.error(8, f"superblock version {version}")
    found, end = (_classic if version < 2 else _modern)(source, version)
    if end > source.byte_range.nbytes:
        raise TruncatedError(
            path,
            "truncated HDF5 file",
            expected=f"{end} bytes",
            found=source.byte_range.nbytes,
            hint="copy the file again",
        )
    source.end = end
    return found


def _check_sizes(source: BoundedReader, sizes: bytes) -> None:
    if sizes != b"\x08\x08":
        if set(sizes) <= {2, 4, 8, 16, 32}:
            raise LeftToLibhdf5("addresses of another size")
        raise source.error(13, f"addresses and lengths of {sizes[0]} and {sizes[1]} bytes")


def _check_base(source: BoundedReader, base: int) -> None:
    if base and base != source.byte_range.start:
        raise source.error(0, f"a superblock at the start, for data that begin at {base}")
    if base:
        raise LeftToLibhdf5("data behind a user block")


def _classic(source: BoundedReader, version: int) -> tuple[Superblock, int]:
    size = 96 if version == 0 else 100
    head = source.read(0, size)
    _check_sizes(source, head[13:15])
    source.zeros(head[9:13] + head[15:16], 9, "versions and reserved bytes of the superblock")
    leaf, internal, flags = struct.unpack_from("<2HI", head, 16)
    chunks, at = _CHUNKS, 24
    if version:
        chunks, reserved = struct.unpack_from("<2H", head, 24)
        at = 28
        if reserved:
            raise source.error(26, "reserved bytes of the superblock")
    if not all(0 < k <= _MAX_FANOUT for k in (leaf, internal, chunks)):
        raise source.error(16, f"B-trees of {leaf}, {internal} and {chunks} entries")
    if flags & ~_FLAGS:
        raise source.error(20, f"flags {flags:#010x} of the superblock")
    base, free, end, driver = struct.unpack_from("<4Q", head, at)
    _check_base(source, base)
    if free != UNDEFINED:
        raise source.error(at + 8, f"free space kept at {free}, which no version does")
    if driver != UNDEFINED:
        source.signed(driver + 8, 4, b"NCSA")
        raise LeftToLibhdf5("driver information")
    name, root, cached, rest, tree, heap = struct.unpack_from("<2Q2I2Q", head, at + 32)
    if name or cached > 1 or rest:
        raise source.error(at + 32, f"an entry of the root group of kind {cached}, {rest}")
    source.claim(0, size, "the superblock")
    fanout = Fanout(leaf, internal, chunks)
    return Superblock(root, fanout, *((tree, heap) if cached else ())), end


def _modern(source: BoundedReader, version: int) -> tuple[Superblock, int]:
    head = source.read(0, 48)
    if checksum(head[:44]) != int.from_bytes(head[44:], "little"):
        raise source.error(0, "the checksum of the superblock is wrong")
    _check_sizes(source, head[9:11])
    if head[11] & ~_FLAGS:
        raise source.error(11, f"flags {head[11]:#04x} of the superblock")
    base, extension, end, root = struct.unpack_from("<4Q", head, 12)
    _check_base(source, base)
    if extension != UNDEFINED:
        raise LeftToLibhdf5("a superblock with an extension")
    source.claim(0, 48, "the superblock")
    return Superblock(root, Fanout(4, 16, _CHUNKS)), end
