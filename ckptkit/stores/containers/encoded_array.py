"""Values that lie in a file as one run of bytes, turned into arrays span by span."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckptkit._io.files import aligned_buffer
from ckptkit.dtypes import itemsize, kind, numpy_dtype
from ckptkit.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_END_BYTES = 8  # of one end offset in front of encoded strings
_STRINGS_PER_BLOCK = 1 << 16
_STRING_BYTES = 1 << 22  # cut blocks of strings at about this much


class Encoding(NamedTuple):
    """How elements lie in the bytes.

    form: "plain" (as in memory), "nibbles" (two to a byte, the first in the low bits), "strings"
    (as `stores.metadata` encodes them), "bytes" or "unicode" (fixed-width `S` and `U` of numpy), or
    "raw" (nothing is known of them).  width: bytes per element of the fixed-width forms.
    """

    form: str = "plain"
    byteorder: str = "little"
    width: int = 0


PLAIN = Encoding()


class ByteSource(Protocol):
    """Bytes of a tensor, wherever they are: a byte range of a file, or an inflated stream."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from an offset.

        Args:
            offset: bytes from the start of the source.
            buffer: of bytes; all of it is filled.

        Raises:
            TruncatedError: the source ends before the buffer is full.
        """


@dataclass(frozen=True, slots=True)
class EncodedArray:
    """One tensor's values: `size` elements of `dtype` in `nbytes` bytes at `offset` of a source."""

    source: ByteSource
    offset: int
    nbytes: int
    dtype: str
    size: int
    encoding: Encoding
    where: str

    @property
    def width(self) -> int:
        """Bytes of one element in the forms that have as many for each."""
        return self.encoding.width or itemsize(self.dtype)

    def blocks(self, max_elements: int) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) as `Store.blocks` promises, without any checksum."""
        if self.encoding.form == "raw":
            yield from self._raw_blocks(max_elements)
        elif self.encoding.form == "plain":
            yield from self._plain_blocks(max_elements)
        elif self.encoding.form == "strings":
            yield from self._string_blocks(max_elements)
        else:
            for start in range(0, self.size, max_elements):
                yield start, self.read(start, min(self.size, start + max_elements))

    def read(self, start: int, stop: int) -> Array:
        """Return elements [start, stop) as a new array; raises UnsupportedError for raw ones."""
        import numpy as np

        form = self.encoding.form
        if form == "raw":
            raise UnsupportedError(f"dtype {self.dtype} has no array form", where=self.where)
        if form == "strings":
            return self._strings(start, stop)
        if form == "nibbles":
            packed = self._bytes(start // 2, (stop + 1) // 2)
            values = np.empty(2 * len(packed), np.uint8)
            values[0::2] = packed & 0x0F
            values[1::2] = packed >> 4
            return values[start % 2 :][: stop - start].view(numpy_dtype(self.dtype))
        width = self.width
        data = self._bytes(start * width, stop * width)
        if form == "plain":
            self._to_native(data)
            return data.view(numpy_dtype(self.dtype))
        return self._fixed_strings(data, width, stop - start)

    def _bytes(self, start: int, stop: int) -> Array:
        data = aligned_buffer(stop - start)
        self.source.read_into(self.offset + start, data.data)
        return data

    def _plain_blocks(self, max_elements: int) -> Iterator[tuple[int, Array]]:
        width = itemsize(self.dtype)
        dtype = numpy_dtype(self.dtype)
        buffer = aligned_buffer(min(self.size, max_elements) * width)
        for start in range(0, self.size, max_elements):
            data = buffer[: min(max_elements, self.size - start) * width]
            self.source.read_into(self.offset + start * width, data.data)
            self._to_native(data)
            yield start, data.view(dtype)

    def _raw_blocks(self, max_bytes: int) -> Iterator[tuple[int, Array]]:
        for start in range(0, self.nbytes, max_bytes):
            yield start, self._bytes(start, min(self.nbytes, start + max_bytes))

    def _to_native(self, data: Array) -> None:
        """Swap the bytes of each number in place, where the file has another order."""
        width = itemsize(self.dtype) // (2 if kind(self.dtype) == "complex" else 1)
        if width > 1 and self.encoding.byteorder != sys.byteorder:
            data.view(f"u{width}").byteswap(inplace=True)

    def _string_blocks(self, max_elements: int) -> Iterator[tuple[int, Array]]:
        start = 0
        while start < self.size:
            stop = min(self.size, start + min(max_elements, _STRINGS_PER_BLOCK))
            ends = self._bytes(start * _END_BYTES, stop * _END_BYTES).view("<u8").tolist()
            # at least one element; damaged ends are found by `_strings`
            stop = start + max(1, bisect_right(ends, ends[0] + _STRING_BYTES))
            yield start, self._strings(start, stop)
            start = stop

    def _strings(self, start: int, stop: int) -> Array:
        """Return encoded strings; every end offset is checked before it is used."""
        import numpy as np

        table = self.size * _END_BYTES
        first = max(0, start - 1)
        ends = self._bytes(first * _END_BYTES, stop * _END_BYTES).view("<u8").tolist()
        limits = ends if start else [0, *ends]
        if limits != sorted(limits) or limits[-1] > self.nbytes - table:
            raise FormatError(self.where, f"end offsets of elements {start} to {stop} are damaged")
        if stop == self.size and limits[-1] != self.nbytes - table:
            raise FormatError(
                self.where, "bytes of strings", expected=limits[-1], found=self.nbytes - table
            )
        data = self._bytes(table + limits[0], table + limits[-1]).tobytes()
        values = np.empty(stop - start, object)
        for index in range(stop - start):
            values[index] = data[limits[index] - limits[0] : limits[index + 1] - limits[0]]
        return values

    def _fixed_strings(self, data: Array, width: int, count: int) -> Array:
        """Return numpy's `S` and `U` elements as bytes; numpy itself drops their trailing NULs."""
        import numpy as np

        if not width:
            return np.full(count, b"", object)
        if self.encoding.form == "bytes":
            return data.view(f"S{width}").astype(object)
        order = "<" if self.encoding.byteorder == "little" else ">"
        points = data.view(f"{order}u4")
        if np.any((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))):
            raise FormatError(self.where, "a string that is no Unicode text")
        values = np.empty(count, object)
        values[:] = [text.encode() for text in data.view(f"{order}U{width // 4}").tolist()]
        return values
