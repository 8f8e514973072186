"""Partitioned tensors: the index key of a slice, and the whole assembled from its parts.

A slice's entry lies under an *ordered code* key: the number 0, the tensor's name, its rank, and per
axis start and length (-1: the whole axis).  Source: tensorflow/core/util/saved_tensor_slice_util.cc
and core/lib/strings/ordered_code.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.errors import FormatError
from ckptkit.stores.base import Slice

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


def slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """Return the key of the slice of tensor `name` given (start, length) per axis."""
    parts = [_number(0), _string(name), _number(len(extents))]
    for start, length in extents:
        parts += [_signed(start), _signed(length)]
    return b"".join(parts)


def sliced_name(key: bytes) -> bytes | None:
    """Return the name of the tensor that `key` is a slice's key of; None for any other key."""
    if key[:1] != _number(0):
        return None
    at = 1
    name = bytearray()
    while key[at : at + 2] != b"\x00\x01":
        if at >= len(key) or (key[at] == 0 and key[at : at + 2] != b"\x00\xff"):
            return None
        name.append(key[at])
        at += 2 if key[at] in (0x00, 0xFF) else 1
    at += 2
    rank_bytes = key[at] if at < len(key) else 2
    rank = int.from_bytes(key[at + 1 : at + 1 + rank_bytes], "big")
    if rank_bytes > 1:  # no shape has 256 axes
        return None
    at += 1 + rank_bytes
    for _ in range(2 * rank):
        at += _signed_bytes(key[at : at + 2])
    return bytes(name) if at == len(key) else None


def _signed_bytes(start: bytes) -> int:
    """Return how many bytes a signed number takes, from its first two: its leading equal bits."""
    bits = "".join(f"{byte:08b}" for byte in start) or "0"
    return len(bits) - len(bits.lstrip(bits[0]))


def _number(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _string(value: bytes) -> bytes:
    escapes = {0x00: b"\x00\xff", 0xFF: b"\xff\x00"}
    return b"".join(escapes.get(byte, bytes([byte])) for byte in value) + b"\x00\x01"


def _signed(value: int) -> bytes:
    """Sign bit, then as many bits of the same value as bytes follow, then the two's complement."""
    magnitude = ~value if value < 0 else value
    size = magnitude.bit_length() // 7 + 1
    header = ((1 << size) - 1) << (size * 8 - size)  # `size` leading ones
    number = (magnitude | header) if size < 10 else (magnitude | 0xFFC0 << 64)
    if value < 0:
        number ^= (1 << (size * 8)) - 1
    return number.to_bytes(size, "big")


def check_cover(where: str, shape: tuple[int, ...], slices: Sequence[Slice]) -> None:
    """Raise FormatError unless `slices` lie inside `shape`, do not overlap, and cover all of it."""
    for part in slices:
        if any(
            start < 0 or length < 0 or start + length > size
            for start, length, size in zip(part.start, part.shape, shape, strict=True)
        ):
            raise FormatError(
                where, f"slice at {part.start} of shape {part.shape} leaves the tensor's {shape}"
            )
    full = [part for part in slices if math.prod(part.shape)]
    # Compare neighbours along the axis that is cut most: what begins behind `one` cannot reach it.
    axis = max(range(len(shape)), key=lambda axis: len({part.start[axis] for part in full}))
    full.sort(key=lambda part: part.start[axis])
    for index, one in enumerate(full):
        for other in full[index + 1 :]:
            if other.start[axis] >= one.start[axis] + one.shape[axis]:
                break
            if _overlap(one, other):
                raise FormatError(where, f"slices at {one.start} and {other.start} overlap")
    covered = sum(math.prod(part.shape) for part in full)
    if covered != math.prod(shape):
        raise FormatError(
            where,
            "slices do not cover the tensor",
            expected=f"{math.prod(shape)} elements",
            found=covered,
        )


def _overlap(one: Slice, other: Slice) -> bool:
    return all(
        a < b + m and b < a + n
        for a, n, b, m in zip(one.start, one.shape, other.start, other.shape, strict=True)
    )


def row_blocks(shape: tuple[int, ...], max_elements: int) -> Iterator[tuple[int, int]]:
    """Yield [first, last) rows of axis 0, at most `max_elements` at a time (one row at least)."""
    per_row = math.prod(shape[1:])
    step = max(1, max_elements // max(1, per_row))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def place(block: Array, first_row: int, part: Slice, rows: Array, part_row: int) -> None:
    """Copy `rows` (of `part`, from `part_row` on) into `block`, which begins at `first_row`."""
    row = part.start[0] + part_row - first_row
    sides = zip((row, *part.start[1:]), (len(rows), *part.shape[1:]), strict=True)
    block[tuple(slice(start, start + size) for start, size in sides)] = rows
