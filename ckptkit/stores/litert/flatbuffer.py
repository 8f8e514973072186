"""A flatbuffer where it lies in a file: tables, vectors and texts, every offset checked.

All numbers are little-endian.  A table begins with the distance back to its vtable; that holds its
own size, the table's size and, at 4 + 2n, where field n lies in the table (0: it has its default).
Vectors, texts and tables are reached by the distance forward from where it stands; a vector begins
with its number of elements.  Source: flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError

_PAGE = 1 << 14  # bytes read at a time
_PAGES_KEPT = 256


class Flatbuffer:
    """A file that is one flatbuffer; what is taken of it is no more than a few times its size.

    Args:
        path: of the file.
        what: what it is, for refusals: "a LiteRT model".
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.size = file_size(path)
        self._pages: dict[int, bytes] = {}
        self._texts: dict[int, str] = {}
        # Offsets may lead to one place again and again; what honest writers share is little.
        self._left = 4 * self.size + 4096

    def number(self, code: str, at: int) -> Any:
        """Return a number at a place; code: as `struct` has it, "I", "b"."""
        return struct.unpack("<" + code, self.take(at, struct.calcsize("<" + code)))[0]

    def take(self, at: int, nbytes: int) -> bytes:
        """Return bytes of the file; raises FormatError for a place that is not in it."""
        if at < 0 or at + nbytes > self.size:
            raise self._broken(at, "an offset that leads out of the file")
        page, within = divmod(at, _PAGE)
        if within + nbytes > _PAGE:
            return read_exact(self.path, at, nbytes)
        data = self._pages.get(page)
        if data is None:
            if len(self._pages) >= _PAGES_KEPT:
                self._pages.clear()
            start = page * _PAGE
            data = read_exact(self.path, start, min(_PAGE, self.size - start))
            self._pages[page] = data
        return data[within : within + nbytes]

    def root(self) -> int:
        """Return the place of the first table."""
        return int(self.number("I", 0))

    def field(self, table: int, number: int) -> int:
        """Return the place of a field of a table; 0 where the table lacks it."""
        vtable = table - self.number("i", table)
        entry = 4 + 2 * number
        if entry + 2 > self.number("H", vtable):
            return 0
        offset = self.number("H", vtable + entry)
        return table + offset if offset else 0

    def scalar(self, table: int, number: int, code: str, default: Any = 0) -> Any:
        """Return a number that is a field of a table."""
        place = self.field(table, number)
        return self.number(code, place) if place else default

    def child(self, table: int, number: int) -> int:
        """Return the place of a table or vector that a field leads to; 0 where there is none."""
        place = self.field(table, number)
        return place + int(self.number("I", place)) if place else 0

    def vector(self, table: int, number: int, code: str) -> tuple[Any, ...]:
        """Return the numbers of a vector; () where the field is absent."""
        start, count = self.span(table, number, struct.calcsize("<" + code))
        self._spend(start, count * struct.calcsize("<" + code))
        return struct.unpack(
            f"<{count}{code}", self.take(start, struct.calcsize(f"<{count}{code}"))
        )

    def span(self, table: int, number: int, width: int) -> tuple[int, int]:
        """Return (place of the first element, number of elements) of a vector, which is not read.

        width: bytes of an element.  (0, 0) where the field is absent.
        """
        place = self.child(table, number)
        if not place:
            return 0, 0
        count = int(self.number("I", place))
        if place + 4 + count * width > self.size:
            raise self._broken(place, "a vector that reaches past the end of the file")
        return place + 4, count

    def tables(self, table: int, number: int) -> list[int]:
        """Return the places of the tables of a vector."""
        start, _count = self.span(table, number, 4)
        distances = self.vector(table, number, "I")
        return [start + 4 * index + distance for index, distance in enumerate(distances)]

    def text(self, table: int, number: int) -> str:
        """Return a text; raises FormatError where it is no UTF-8."""
        start, count = self.span(table, number, 1)
        if start not in self._texts:
            self._spend(start, count)
            try:
                self._texts[start] = self.take(start, count).decode()
            except UnicodeDecodeError:
                raise self._broken(start, "text that is no UTF-8") from None
        return self._texts[start]

    def _spend(self, at: int, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise self._broken(at, "offsets that lead to the same bytes over and over")

    def _broken(self, at: int, why: str) -> FormatError:
        return FormatError(f"{self.path} @ {at}", f"{self.what} that is damaged: {why}")
