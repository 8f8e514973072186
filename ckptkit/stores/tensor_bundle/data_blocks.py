"""Values out of the data files of a tensor bundle: fixed-size, string and variant tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckptkit._io import crc32c
from ckptkit._io.files import (
    aligned_buffer,
    check_range,
    read_exact,
    read_into,
)
from ckptkit.dtypes import itemsize, numpy_dtype
from ckptkit.errors import ChecksumError, FormatError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.tensor_bundle.table import read_varint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckptkit.dtypes import Array

READ_BYTES = 1 << 18  # read and checksum in steps that stay in a core's cache
STRING_BYTES = 1 << 22  # cut blocks of strings at about this much
MAX_STRING_BYTES = 1 << 31


def check_crc(where: str, stored: int | None, computed: int) -> None:
    """Raise ChecksumError unless the two agree; a None was never stored."""
    if stored is not None and stored != computed:
        raise ChecksumError(
            where,
            "checksum of the stored bytes",
            expected=f"{stored:#010x}",
            found=f"{computed:#010x}",
            hint="the data file is damaged, or belongs to another save than the index",
        )


def _fill(path: Path, offset: int, raw: npt.NDArray[np.uint8], crc: int) -> int:
    """Fill `raw` from the file at `offset`; return `crc` extended by its bytes."""
    view = raw.data
    for start in range(0, len(raw), READ_BYTES):
        step = view[start : start + READ_BYTES]
        read_into(path, offset + start, step)
        crc = crc32c.extend(crc, raw[start : start + READ_BYTES])
    return crc


def _native(raw: npt.NDArray[np.uint8], dtype: str, big_endian: bool) -> Array:
    """View raw bytes as `dtype`, swapped to native order where need be (in place)."""
    target = numpy_dtype(dtype)
    if big_endian == (sys.byteorder == "big") or target.itemsize == 1:
        return raw.view(target)
    unit = target.itemsize // 2 if dtype.startswith("complex") else target.itemsize
    raw.view(f"u{unit}").byteswap(inplace=True)
    return raw.view(target)


def fixed_blocks(
    path: Path, spec: TensorSpec, big_endian: bool, max_elements: int, where: str
) -> Iterator[tuple[int, Array]]:
    """Yield (start, values) of a tensor of fixed-size elements; the buffer is reused."""
    assert spec.offset is not None
    check_range(path, spec.offset, spec.nbytes)
    reader = RowReader(path, spec._replace(shape=(spec.size,)), big_endian)
    for start in range(0, spec.size, max_elements):
        yield start, reader.rows(start, min(start + max_elements, spec.size))
    reader.finish(where)


class RowReader:
    """Reads rows of axis 0 in order into one reused buffer, checksumming on the way."""

    def __init__(self, path: Path, spec: TensorSpec, big_endian: bool) -> None:
        self._path = path
        self._spec = spec
        self._big_endian = big_endian
        self._row_bytes = spec.nbytes // spec.shape[0] if spec.shape and spec.shape[0] else 0
        self._buffer: npt.NDArray[np.uint8] | None = None
        self._crc = 0

    def rows(self, first: int, last: int) -> Array:
        """Return rows [first, last), 1-D; they must follow the rows returned before."""
        assert self._spec.offset is not None
        nbytes = (last - first) * self._row_bytes
        if self._buffer is None or len(self._buffer) < nbytes:
            self._buffer = aligned_buffer(nbytes)
        raw = self._buffer[:nbytes]
        self._crc = _fill(self._path, self._spec.offset + first * self._row_bytes, raw, self._crc)
        return _native(raw, self._spec.dtype, self._big_endian)

    def finish(self, where: str) -> None:
        """Compare the checksum, once all rows were read; raises ChecksumError."""
        check_crc(where, self._spec.crc32c, self._crc)


def read_fixed(path: Path, spec: TensorSpec, big_endian: bool, start: int, stop: int) -> Array:
    """Return elements [start, stop) as a new array; no checksum is compared."""
    assert spec.offset is not None
    item = itemsize(spec.dtype)
    place, nbytes = spec.offset + start * item, (stop - start) * item
    check_range(path, place, nbytes)
    raw = aligned_buffer(nbytes)
    read_into(path, place, raw.data)
    return _native(raw, spec.dtype, big_endian)


def opaque_blocks(path: Path, spec: TensorSpec, where: str) -> Iterator[tuple[int, Array]]:
    """Yield the stored bytes of a tensor whose dtype is unknown here."""
    stored = spec._replace(dtype="uint8", shape=(spec.nbytes,))
    return fixed_blocks(path, stored, False, READ_BYTES, where)


def string_blocks(
    path: Path, spec: TensorSpec, big_endian: bool, where: str
) -> Iterator[tuple[int, Array]]:
    """Yield (start, object array of bytes) of a string tensor."""
    import numpy as np

    for start, strings in string_lists(path, spec, big_endian, where):
        block = np.empty(len(strings), object)
        block[:] = strings
        yield start, block


def string_lists(
    path: Path, spec: TensorSpec, big_endian: bool, where: str
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (start, strings) of a string tensor; layout in `tensor_bundle`.  Needs no numpy."""
    assert spec.offset is not None
    if not spec.size and not spec.nbytes:
        return
    check_range(path, spec.offset, spec.nbytes)
    lengths, position = _string_lengths(path, spec, where)
    order: Literal["big", "little"] = "big" if big_endian else "little"
    crc = 0
    for length in lengths:
        width = 4 if length < 1 << 32 else 8
        crc = crc32c.extend(crc, length.to_bytes(width, order))
    raw = read_exact(path, spec.offset + position, 4)
    check_crc(f"{where}: string lengths", crc32c.unmask(int.from_bytes(raw, order)), crc)
    crc = crc32c.extend(crc, raw)
    position += 4
    if position + sum(lengths) != spec.nbytes:
        raise FormatError(
            where, "bytes of the strings", expected=spec.nbytes - position, found=sum(lengths)
        )
    start = 0
    while start < len(lengths):
        stop, nbytes = start, 0
        while stop < len(lengths) and (stop == start or nbytes + lengths[stop] <= STRING_BYTES):
            nbytes += lengths[stop]
            stop += 1
        data = read_exact(path, spec.offset + position, nbytes)
        crc = crc32c.extend(crc, data)
        strings = []
        at = 0
        for length in lengths[start:stop]:
            strings.append(data[at : at + length])
            at += length
        yield start, strings
        start, position = stop, position + nbytes
    check_crc(where, spec.crc32c, crc)


def _string_lengths(path: Path, spec: TensorSpec, where: str) -> tuple[list[int], int]:
    """Return the lengths and the position behind them, bytes from the tensor's start."""
    assert spec.offset is not None
    lengths: list[int] = []
    position = 0
    remaining = spec.size
    while remaining:
        # A varint has 10 bytes at most; read enough for the next ones, never past the tensor.
        count = min(remaining, READ_BYTES)
        data = read_exact(path, spec.offset + position, min(count * 10, spec.nbytes - position))
        at = 0
        for _ in range(count):
            byte = data[at] if at < len(data) else 0x80
            if byte < 0x80:
                length, at = byte, at + 1
            else:
                length, at = read_varint(data, at, f"{where}: string lengths")
            lengths.append(length)
        position += at
        remaining -= count
    if sum(lengths) > spec.nbytes:
        raise FormatError(
            where, "string lengths", expected=f"at most {spec.nbytes}", found=sum(lengths)
        )
    return lengths, position


def variant_blocks(path: Path, spec: TensorSpec, where: str) -> Iterator[tuple[int, Array]]:
    """Yield the stored bytes of a variant tensor (uint8), its checksums compared."""
    import numpy as np

    assert spec.offset is not None
    if spec.nbytes > MAX_STRING_BYTES:
        raise FormatError(where, f"{spec.nbytes} bytes of variants are more than is read at once")
    if 5 * spec.size > spec.nbytes:  # a length and a checksum each
        raise FormatError(
            where, "bytes of the variants", expected=f"at least {5 * spec.size}", found=spec.nbytes
        )
    data = read_exact(path, spec.offset, spec.nbytes)
    check_crc(where, spec.crc32c, crc_of_variants(data, spec.size, where))
    if data:
        yield 0, np.frombuffer(data, np.uint8)


def crc_of_variants(data: bytes, count: int, where: str) -> int:
    """Return the crc32c that the entry of `count` stored variants has, each one's own compared."""
    position = crc = 0
    for _ in range(count):
        length, position = read_varint(data, position, where)
        end = position + length
        if end + 4 > len(data):
            raise FormatError(where, f"a variant of {length} bytes reaches past its tensor")
        crc = crc32c.extend(crc, length.to_bytes(8, "little"))
        crc = crc32c.extend(crc, data[position:end])
        stored = data[end : end + 4]
        check_crc(where, crc32c.unmask(int.from_bytes(stored, "little")), crc)
        crc = crc32c.extend(crc, stored)
        position = end + 4
    if position != len(data):
        raise FormatError(where, "bytes of the variants", expected=position, found=len(data))
    return crc
