"""The LevelDB table (SSTable) that holds the index of a tensor bundle.

    [data block]* [metaindex block] [index block] [footer]

Every block is followed by a 5-byte trailer: compression type (0 none, 1 snappy) and the masked
crc32c of block and type, little-endian.  A block is a run of entries, then restart offsets:

    entry   := varint shared | varint non_shared | varint value_length | key suffix | value
    trailer := restart offset (uint32 LE)* | number of restarts (uint32 LE)

An index entry's value is the handle (varint offset, varint size) of one data block.  The footer is
48 bytes: metaindex handle, index handle, zero padding up to byte 40, and the magic number
0xdb4775248b80fb57, little-endian.  Source: leveldb/doc/table_format.md, tsl/lib/io/format.cc.

TensorFlow's reader skips a data block whose checksum fails and never looks at the metaindex block.
This one checks every byte: blocks must tile the file from its start to the footer, every checksum
must hold, and keys must rise strictly.  So a damaged index is an error, never a shorter list.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice, pairwise
from operator import lt
from pathlib import Path
from typing import NamedTuple

from ckptkit._io import crc32c
from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import ChecksumError, FormatError, MissingDependencyError, TruncatedError
from ckptkit.stores.tensor_bundle.files import FOOTER_BYTES, MAGIC

TRAILER_BYTES = 5
MAX_TABLE_BYTES = 1 << 31  # an index of 20 million variables; far above any real one
MAX_BLOCK_BYTES = 1 << 28  # of one decompressed block; writers cut blocks at 256 KiB
MAX_SNAPPY_RATIO = 64  # snappy itself cannot exceed about 21
# Keys lean on the one before, but every 16th stands whole, so a writer's block grows less than
# 16-fold; without a limit, 200 kB could unfold to many GB of keys.
MAX_KEY_GROWTH = 32

Item = tuple[bytes, bytes]


def read_table(path: Path) -> list[Item]:
    """Return all (key, value) pairs, in key order.

    Raises TruncatedError, ChecksumError, FormatError, MissingDependencyError (snappy).
    """
    return list(iter_table(path))


def iter_table(path: Path) -> Iterator[Item]:
    """Yield all (key, value) pairs, in key order; the file is read whole before the first.

    What follows the last pair is checked after it.  Raises as `read_table` does.
    """
    size = file_size(path)
    if size > MAX_TABLE_BYTES:
        raise FormatError(str(path), f"{size} bytes are more than an index may have")
    return _items(read_exact(path, 0, size), str(path))


class TableIndex(NamedTuple):
    """Where the data blocks of a table lie, for tables that are not read whole.

    separators: per block a key at or behind its last key, and before the next block's first.
    handles: (offset, size) of each block.
    """

    path: Path
    separators: tuple[bytes, ...]
    handles: tuple[tuple[int, int], ...]


def read_index(path: Path) -> TableIndex:
    """Return where the blocks of a table lie, all but them checked; reads its end.

    Raises TruncatedError, ChecksumError, FormatError, MissingDependencyError (snappy).
    """
    where, size = str(path), file_size(path)
    tail = read_exact(path, max(0, size - FOOTER_BYTES), min(size, FOOTER_BYTES))
    metaindex, index = footer(tail, where)
    end = size - FOOTER_BYTES
    if not metaindex[0] <= index[0] <= end or end - metaindex[0] > MAX_TABLE_BYTES:
        raise FormatError(where, "impossible place of the index block", found=index[0])
    # The blocks that are read here, with the footer, as a table whose data blocks are cut off.
    rest = read_exact(path, metaindex[0], size - metaindex[0])
    separators: list[bytes] = []
    handles: list[tuple[int, int]] = []
    position = 0
    for separator, handle in _data_handles(rest, metaindex, index, where, cut=metaindex[0]):
        if separators and separator <= separators[-1]:
            raise FormatError(where, "keys of the index block out of order")
        separators.append(separator)
        handles.append(handle)
        position = handle[0] + handle[1] + TRAILER_BYTES
    if position != metaindex[0]:
        raise FormatError(
            where, "bytes that no block covers", expected=metaindex[0], found=position
        )
    return TableIndex(path, tuple(separators), tuple(handles))


def read_block_of(index: TableIndex, number: int) -> bytes:
    """Return the content of one data block; raises as `read_block` does."""
    offset, size = index.handles[number]
    return _content(
        read_exact(index.path, offset, size + TRAILER_BYTES), f"{index.path} @ {offset}"
    )


def parse_table(data: bytes, where: str) -> list[Item]:
    """Return all (key, value) pairs of a table held in memory; raises as `read_table` does."""
    return list(_items(data, where))


def _items(data: bytes, where: str) -> Iterator[Item]:
    metaindex, index = footer(data, where)
    position = 0
    last: list[Item] = []
    for _separator, handle in _data_handles(data, metaindex, index, where):
        items = list(
            block_entries(read_block(data, handle, where), f"{where}: block at byte {handle[0]}")
        )
        _check_order([*last, *items], where)
        yield from items
        last = items[-1:] or last
        position = handle[0] + handle[1] + TRAILER_BYTES
    if position != metaindex[0]:
        raise FormatError(
            where, "bytes that no block covers", expected=metaindex[0], found=position
        )


def _data_handles(
    data: bytes, metaindex: tuple[int, int], index: tuple[int, int], where: str, cut: int = 0
) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield (separator, handle) of each data block, having checked that they follow each other.

    data: the table without its first `cut` bytes.
    """
    if index[0] + index[1] + TRAILER_BYTES != cut + len(data) - FOOTER_BYTES:
        raise FormatError(where, "the index block does not end at the footer")
    if metaindex[0] + metaindex[1] + TRAILER_BYTES != index[0]:
        raise FormatError(where, "the metaindex block does not end at the index block")
    # No writer of tensor bundles puts anything there, but damage to it is damage all the same.
    metaindex, index = (metaindex[0] - cut, metaindex[1]), (index[0] - cut, index[1])
    for _ in block_entries(read_block(data, metaindex, where), f"{where}: metaindex block"):
        pass
    position = 0
    for separator, value in block_entries(read_block(data, index, where), f"{where}: index block"):
        handle, used = read_handle(value, 0, f"{where}: index block")
        if used != len(value) or handle[0] != position:
            raise FormatError(
                where, "data blocks leave a gap or overlap", expected=position, found=handle[0]
            )
        yield separator, handle
        position = handle[0] + handle[1] + TRAILER_BYTES


def _check_order(items: list[Item], where: str) -> None:
    keys = [key for key, _value in items]
    if all(map(lt, keys, islice(keys, 1, None))):
        return
    previous: bytes | None = None
    for key, _value in items:
        if previous is not None and key <= previous:
            raise FormatError(where, f"keys out of order: {key!r} after {previous!r}")
        previous = key


def _magic_of(data: bytes) -> int:
    return int.from_bytes(data, "little")


def footer(data: bytes, where: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the handles, (offset, size) each, of the metaindex and the index block.

    Raises TruncatedError, FormatError.
    """
    if len(data) < FOOTER_BYTES:
        raise TruncatedError(
            where,
            "too short for a checkpoint index",
            expected=f"at least {FOOTER_BYTES} bytes",
            found=len(data),
            hint="the file was cut short or was never finished; copy it again",
        )
    tail = data[-FOOTER_BYTES:]
    if _magic_of(tail[40:]) != MAGIC:
        raise FormatError(
            where,
            "not a checkpoint index, or cut short (its last 8 bytes are not the table magic)",
            expected=f"{MAGIC:#x}",
            found=f"{_magic_of(tail[40:]):#x}",
        )
    metaindex, position = read_handle(tail, 0, f"{where}: footer")
    index, position = read_handle(tail, position, f"{where}: footer")
    if any(tail[position:40]):
        raise FormatError(where, "footer padding is not zero")
    return metaindex, index


def read_handle(data: bytes, position: int, where: str) -> tuple[tuple[int, int], int]:
    """Return ((offset, size), next position) of the block handle at `position`."""
    offset, position = read_varint(data, position, where)
    size, position = read_varint(data, position, where)
    return (offset, size), position


def read_varint(data: bytes, position: int, where: str) -> tuple[int, int]:
    """Return (value, next position) of the base-128 varint at `position`, at most 64 bits.

    Raises FormatError for one that is cut off, too long, or longer than it need be.
    """
    value = shift = 0
    for index in range(position, min(position + 10, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >> 64:
                break
            return value, index + 1
        shift += 7
    raise FormatError(where, f"malformed varint at byte {position}")


def read_block(data: bytes, handle: tuple[int, int], where: str) -> bytes:
    """Return the content of a block, its checksum compared, decompressed.

    Raises TruncatedError, ChecksumError, FormatError, MissingDependencyError (snappy).
    """
    offset, size = handle
    end = offset + size
    if end + TRAILER_BYTES > len(data) - FOOTER_BYTES:
        raise TruncatedError(
            f"{where} @ {offset}",
            f"a block of {size} bytes reaches past the end",
            hint="the file was cut short; copy it again",
        )
    return _content(data[offset : end + TRAILER_BYTES], f"{where} @ {offset}")


def _content(stored_block: bytes, where: str) -> bytes:
    """Return the content of a block with its trailer, its checksum compared, decompressed."""
    checked, trailer = stored_block[: 1 - TRAILER_BYTES], stored_block[1 - TRAILER_BYTES :]
    stored = crc32c.unmask(int.from_bytes(trailer, "little"))
    computed = crc32c.value(checked)
    if stored != computed:
        raise ChecksumError(
            where,
            f"checksum of the {len(checked) - 1}-byte block",
            expected=f"{stored:#010x}",
            found=f"{computed:#010x}",
            hint="the index is damaged; copy it again or go back to an earlier checkpoint",
        )
    compression = checked[-1]
    if compression == 0:
        return checked[:-1]
    if compression == 1:
        return _unsnappy(checked[:-1], where)
    raise FormatError(where, f"unknown block compression {compression}")


def _unsnappy(data: bytes, where: str) -> bytes:
    """Return the decompressed block; its declared length is bounded before anything is made."""
    declared, _ = read_varint(data, 0, where)
    limit = min(MAX_BLOCK_BYTES, MAX_SNAPPY_RATIO * len(data))
    if declared > limit:
        raise FormatError(
            where, "snappy block declares too much", expected=f"at most {limit}", found=declared
        )
    try:
        from cramjam import DecompressionError, snappy
    except ImportError as error:
        raise MissingDependencyError(
            "this index is compressed with snappy",
            where=where,
            hint="pip install 'ckptkit-tf[snappy]'",
        ) from error
    try:
        block = bytes(snappy.decompress_raw(data))
    except DecompressionError as error:
        raise FormatError(where, f"damaged snappy block: {error}") from error
    if len(block) != declared:
        raise FormatError(where, "snappy block length", expected=declared, found=len(block))
    return block


def block_entries(block: bytes, where: str) -> Iterator[Item]:
    """Yield the (key, value) pairs of one block's content; raises FormatError."""
    end = _entries_end(block, where)
    position = 0
    key = b""
    growth = MAX_KEY_GROWTH * (len(block) + 1024)
    while position < end:
        # Almost every entry has three one-byte varints; indexing past `end` meets restart bytes.
        shared, non_shared, length = block[position : position + 3]
        if shared < 0x80 and non_shared < 0x80 and length < 0x80:
            position += 3
        else:
            shared, position = read_varint(block, position, where)
            non_shared, position = read_varint(block, position, where)
            length, position = read_varint(block, position, where)
        value_start = position + non_shared
        value_end = value_start + length
        if shared > len(key) or value_end > end:
            raise FormatError(where, f"entry at byte {position} reaches out of its block")
        growth -= shared
        if growth < 0:
            raise FormatError(where, f"keys grow to more than {MAX_KEY_GROWTH} times their block")
        key = key[:shared] + block[position:value_start]
        yield key, block[value_start:value_end]
        position = value_end


def _entries_end(block: bytes, where: str) -> int:
    """Return where the entries end and the restart array begins, having checked the array."""
    if len(block) < 4:
        raise FormatError(where, "block too short for its restart count")
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * count
    if count == 0 or end < 0:
        raise FormatError(where, f"impossible number of restarts: {count}")
    restarts = struct.unpack_from(f"<{count}I", block, end)
    if restarts[0] != 0 or any(a >= b for a, b in pairwise((*restarts, end + 1))):
        raise FormatError(where, "restart offsets do not rise or leave the block")
    return end
