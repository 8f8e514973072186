"""The fields of a protobuf message where it lies in a file; large ones are passed over.

A field is a tag (its number and wire type) and a value: a varint, four or eight bytes, or a length
and as many bytes.  Every length is compared with the message around it; groups, which proto3 lacks
and no format here uses, are refused.  Only the bytes of tags, lengths and small values are read.
Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError, TruncatedError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_PAGE = 4096  # bytes read at a time: what lies between two large values
_MAX_HEADER = 20  # bytes of two varints
_MASK = (1 << 64) - 1


class Field(NamedTuple):
    """A field: its number and wire type, where its content lies, and a varint's value."""

    number: int
    wire: int
    start: int
    end: int
    value: int = 0


class FileMessage:
    """A file that is one message.

    Args:
        path: of the file.
        what: what it is, for refusals: "an ONNX model".
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.size = file_size(path)
        self._page, self._at = b"", 0

    def fields(self, start: int = 0, end: int | None = None) -> Iterator[Field]:
        """Yield the fields of the message in bytes [start, end) of the file, in order.

        Raises TruncatedError where one reaches past the end of the file, FormatError past that of
        its message, and for what is no message.
        """
        at, end = start, self.size if end is None else end
        while at < end:
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self._broken(at, "no field has that number")
            value, first = 0, at
            if wire == VARINT:
                value, at = self._varint(at, end)
            elif wire == BYTES:
                length, first = self._varint(at, end)
                at = first + length
            elif wire in (FIXED32, FIXED64):
                at += 4 if wire == FIXED32 else 8
            else:
                raise self._broken(at, f"a field of wire type {wire}")
            if at > end:
                if end == self.size:
                    where = f"{self.path} @ {first}"
                    raise TruncatedError(
                        where, f"{self.what} that is cut short", expected=at, found=end
                    )
                raise self._broken(first, "a field that is longer than what it lies in")
            yield Field(number, wire, first, at, value)

    def content(self, field: Field) -> bytes:
        """Return the bytes of a field's content."""
        start, end = field.start - self._at, field.end - self._at
        if start >= 0 and end <= len(self._page):
            return self._page[start:end]
        return read_exact(self.path, field.start, field.end - field.start)

    def text(self, field: Field) -> str:
        """Return the text of a field; raises FormatError where it is no UTF-8."""
        try:
            return self.content(field).decode()
        except UnicodeDecodeError:
            raise self._broken(field.start, "text that is no UTF-8") from None

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        page = self._page
        if at < self._at or at + _MAX_HEADER > self._at + len(page):
            page = read_exact(self.path, at, min(_PAGE, self.size - at))
            self._page, self._at = page, at
        base = self._at
        value = shift = 0
        while at < end and shift < 70:
            byte = page[at - base]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _MASK, at
            shift += 7
        if at >= self.size:
            raise TruncatedError(f"{self.path} @ {at}", f"{self.what} that is cut short")
        raise self._broken(at, "a number that does not end")

    def _broken(self, at: int, why: str) -> FormatError:
        return FormatError(f"{self.path} @ {at}", f"{self.what} that is damaged: {why}")
