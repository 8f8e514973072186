"""What the messages in an HDF5 object header say: extents, attributes, fill values and the rest.

The file around them is in `object_headers` and `classic`.  Every field of every message is
compared with what a writer can have put there; the fields are those of
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, part IV.A.2.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import NamedTuple

from ckptkit.stores.hdf5.bounded import UNDEFINED, BoundedReader, LeftToLibhdf5
from ckptkit.stores.hdf5.datatypes import (
    STRING,
    VARIABLE,
    Datatype,
    DatatypeError,
    parse_datatype,
)
from ckptkit.stores.hdf5.global_heap import GlobalHeaps
from ckptkit.stores.hdf5.types import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, Attribute

_MAX_RANK = 32  # H5S_MAX_RANK

# kinds of messages
(NIL, DATASPACE, LINK_INFO, DATATYPE, OLD_FILL, FILL, LINK, EXTERNAL, LAYOUT) = range(9)
(GROUP_INFO, FILTERS, ATTRIBUTE, COMMENT, OLD_TIME) = range(0x0A, 0x0F)
CONTINUATION, SYMBOLS, TIME = 0x10, 0x11, 0x12
ATTRIBUTE_INFO, REFERENCES = 0x15, 0x16
KNOWN = {*range(0x09), *range(0x0A, 0x19)}
"""Kinds that the specification has; 0x09 is one of libhdf5's tests."""

CONSTANT, SHARED, NOT_SHARED, MARK_UNKNOWN, WAS_UNKNOWN, FAIL_UNKNOWN = 1, 2, 4, 0x10, 0x20, 0x80


_REMEMBERED = 10_000  # different messages
_SHORT = 256  # bytes of a message that is remembered; others hold fields of records


class Message(NamedTuple):
    """A message of an object header: its kind, flags, data, and where the data lie."""

    kind: int
    flags: int
    data: bytes
    address: int


class ObjectHeader(NamedTuple):
    """An object header: its address and messages, in order."""

    address: int
    messages: tuple[Message, ...]

    def first(self, kind: int) -> Message | None:
        """Return the first message of a kind."""
        for message in self.messages:
            if message.kind == kind:
                return message
        return None


class Dataspace(NamedTuple):
    """A dataspace.  shape: None for one without elements at all.  most: dimensions it may have."""

    shape: tuple[int, ...] | None
    most: tuple[int, ...]


class MessageReader:
    """The meaning of messages, and the global heaps that hold the texts of attributes."""

    def __init__(self, source: BoundedReader) -> None:
        self.source = source
        self.heaps = GlobalHeaps(source)
        # What sound messages tell: a large file repeats few of them.
        self._extents: dict[bytes, Dataspace] = {}
        self._types: dict[bytes, Datatype] = {}
        self._fills: set[tuple[int, bytes, int]] = set()

    # -- extents and types

    def extent(self, data: bytes, address: int) -> Dataspace:
        """Return what a dataspace tells."""
        extent = self._extents.get(data)
        if extent is None:
            extent, end = self._extent(data, address)
            self.source.zeros(data[end:], address + end, "the end of a dataspace")
            if len(data) <= _SHORT and len(self._extents) < _REMEMBERED:
                self._extents[data] = extent
        return extent

    def _extent(self, data: bytes, address: int) -> tuple[Dataspace, int]:
        version, rank, flags = data[:3] if len(data) >= 4 else (0, 0, 0)
        at = {1: 8, 2: 4}.get(version)
        width = 8 * rank
        end = (at or 0) + width * (2 if flags & 1 else 1)
        if at is None or rank > _MAX_RANK or len(data) < end or flags > 1:
            raise self.source.error(
                address, f"a dataspace of version {version}, rank {rank} and flags {flags}"
            )
        if version == 1:
            self.source.zeros(data[3:8], address, "bytes 3 to 8 of a dataspace")
        elif data[3] > 2 or (rank and data[3] != 1):
            raise self.source.error(address, f"a dataspace of kind {data[3]} and rank {rank}")
        shape = struct.unpack_from(f"<{rank}Q", data, at)
        most = struct.unpack_from(f"<{rank}Q", data, at + width) if flags & 1 else shape
        if any(size > limit for size, limit in zip(shape, most, strict=True)):
            raise self.source.error(address, f"an extent of {shape}, at most {most}")
        null = version == 2 and data[3] == 2
        return Dataspace(None if null else shape, most), end

    def type(self, data: bytes, address: int) -> Datatype:
        """Return what a datatype tells."""
        known = self._types.get(data)
        if known is not None:
            return known
        try:
            found, end = parse_datatype(data)
        except (DatatypeError, struct.error) as error:
            raise self.source.error(address, str(error)) from None
        self.source.zeros(data[end:], address + end, "the end of a datatype")
        if len(data) <= _SHORT and len(self._types) < _REMEMBERED:
            self._types[data] = found
        return found

    # -- attributes

    def attributes(self, found: ObjectHeader, path: str) -> dict[str, Attribute]:
        """Return the attributes of an object."""
        raw = [message for message in found.messages if message.kind == ATTRIBUTE]
        if len(raw) > MAX_ATTRIBUTES:
            raise self.source.error(found.address, f"{path or '/'} has {len(raw)} attributes")
        attributes: dict[str, Attribute] = {}
        for message in raw:
            name, value = self._attribute(message.data, message.address)
            if name in attributes:
                raise self.source.error(
                    message.address, f"{path or '/'} has two attributes called {name!r}"
                )
            attributes[name] = value
        return attributes

    def _attribute(self, data: bytes, address: int) -> tuple[str, Attribute]:
        if len(data) < 9:
            raise self.source.error(address, "an attribute that is too short")
        version, flags, *sizes = struct.unpack_from("<BB3H", data)
        if version not in (1, 2, 3) or flags & ~(0x03 if version > 1 else 0):
            raise self.source.error(address, f"an attribute of version {version}, flags {flags}")
        if flags:
            raise LeftToLibhdf5("attributes with shared types")
        at = 9 if version == 3 else 8
        if version == 3 and data[8] > 1:
            raise self.source.error(address, f"an attribute's name in encoding {data[8]}")
        parts: list[tuple[bytes, int]] = []
        for size in sizes:
            stop = at + (size if version > 1 else (size + 7) // 8 * 8)
            parts.append((data[at : at + size], address + at))
            self.source.zeros(data[at + size : stop], address + at, "the end of a name or type")
            at = stop
        if at > len(data):
            raise self.source.error(address, "an attribute that reaches past its message")
        raw = parts[0][0]
        if raw.find(b"\0") != len(raw) - 1 or len(raw) < 2:
            raise self.source.error(address, f"an attribute called {raw[:100]!r}")
        name = raw[:-1].decode("utf-8", "backslashreplace")
        kind = self.type(*parts[1])
        shape = self.extent(*parts[2]).shape
        nbytes = 0 if shape is None else math.prod(shape) * kind.size
        if nbytes > len(data) - at:
            raise self.source.error(address, f"attribute {name!r} reaches past its message")
        self.source.zeros(data[at + nbytes :], address + at, f"what follows attribute {name!r}")
        if shape is None:
            return name, None
        return name, self._value(kind, shape, data[at : at + nbytes], address, name)

    def _value(
        self, kind: Datatype, shape: tuple[int, ...], data: bytes, address: int, name: str
    ) -> Attribute:
        """Return an attribute's value: text and numbers; None for what no weights file needs."""
        count = math.prod(shape)
        cells = [data[at : at + kind.size] for at in range(0, count * kind.size, kind.size)]
        values: list[Attribute]
        if kind.kind == STRING:
            values = [_text(cell.rstrip(b"\0")) for cell in cells]
        elif kind.kind == VARIABLE:
            texts = self._heap_values(kind, cells, address, name)
            if not kind.dtype:
                return None
            values = list(map(_text, texts))
        elif kind.dtype == "bool":
            values = [bool(cell[0]) for cell in cells]
        elif kind.dtype.startswith("complex"):
            return None
        elif kind.dtype and (kind.native or kind.order is not None):
            code = {"float16": "e", "float32": "f", "float64": "d"}.get(kind.dtype)
            code = code or {1: "b", 2: "h", 4: "i", 8: "q"}[kind.size]
            code = code.upper() if kind.dtype.startswith("u") else code
            values = list(struct.unpack(f"{'>' if kind.order else '<'}{count}{code}", data))
        else:
            return None
        return _nested(values, shape)

    def _heap_values(
        self, kind: Datatype, cells: list[bytes], address: int, name: str
    ) -> list[bytes]:
        values: list[bytes] = []
        total = 0
        for cell in cells:
            values.append(self.heaps.value(cell, kind.base, address, f"attribute {name!r}"))
            total += len(values[-1])
            if total > MAX_ATTRIBUTE_BYTES:
                raise self.source.error(address, f"attribute {name!r} is larger than any in use")
        return values

    # -- what has no meaning for us, but must be what it says

    def check(self, message: Message) -> None:
        """Refuse a message whose fields no writer can have put there."""
        look = _CHECKS.get(message.kind)
        if look is not None:
            look(self, message)

    def _wrong(self, message: Message, what: str) -> Exception:
        shown = message.data[:16].hex(" ")
        return self.source.error(message.address, f"{what}, which reads {shown}")

    def _time(self, message: Message) -> None:
        if (
            len(message.data) < 8
            or message.data[:4] != b"\1\0\0\0"
            or message.data[8:].strip(b"\0")
        ):
            raise self._wrong(message, "a time of modification")

    def _old_time(self, message: Message) -> None:
        if len(message.data) < 16 or not message.data[:14].isdigit():
            raise self._wrong(message, "a time of modification")

    def _comment(self, message: Message) -> None:
        text, end, rest = message.data.partition(b"\0")
        if not end or rest.strip(b"\0") or not text:
            raise self._wrong(message, "a comment")

    def _references(self, message: Message) -> None:
        if len(message.data) < 5 or message.data[0] or message.data[5:].strip(b"\0"):
            raise self._wrong(message, "a count of references")

    def _group_info(self, message: Message) -> None:
        data = message.data
        end = 2 + (4 if len(data) > 1 and data[1] & 1 else 0)
        end += 4 if len(data) > 1 and data[1] & 2 else 0
        if len(data) < end or data[0] or data[1] & ~3 or data[end:].strip(b"\0"):
            raise self._wrong(message, "information of a group")

    def _info(self, message: Message) -> None:
        """Links or attributes in a heap of their own, or that there is none."""
        data, is_links = message.data, message.kind == LINK_INFO
        at = 2
        if len(data) < 2 or data[0] or data[1] & ~3:
            raise self._wrong(message, "information of links or attributes")
        if data[1] & 1:
            at += 8 if is_links else 2
        places = 3 if data[1] & 2 else 2
        if len(data) < at + 8 * places or data[at + 8 * places :].strip(b"\0"):
            raise self._wrong(message, "information of links or attributes")
        if any(place != UNDEFINED for place in struct.unpack_from(f"<{places}Q", data, at)):
            raise LeftToLibhdf5("links or attributes in a heap of their own")

    def fill(self, message: Message, size: int) -> None:
        """Refuse a fill value that is none of a type of `size` bytes."""
        data = message.data
        same = message.kind, data, size
        if same in self._fills:
            return
        if message.kind == OLD_FILL:
            at, defined = 0, True
        else:
            version = data[0] if len(data) >= 2 else 0
            if version in (1, 2) and len(data) >= 4:
                early, when, has_value = data[1:4]
                good = early <= 3 and when <= 2 and has_value <= 1
                at, defined = 4, bool(has_value) or version == 1
            else:
                when, rest = (data[1] >> 2 & 3, data[1] >> 4) if version == 3 else (3, 3)
                good = when <= 2 and rest <= 2
                at, defined = 2, rest == 2
            if not good:
                raise self._wrong(message, "a fill value")
        if defined:
            if len(data) < at + 4:
                raise self._wrong(message, "a fill value")
            nbytes = struct.unpack_from("<i", data, at)[0]
            at += 4 + max(nbytes, 0)
            if nbytes not in (-1, 0, size) or len(data) < at:
                raise self._wrong(message, f"a fill value of {nbytes} bytes for one of {size}")
        self.source.zeros(data[at:], message.address + at, "the end of a fill value")
        if len(data) <= _SHORT and len(self._fills) < _REMEMBERED:
            self._fills.add(same)


_CHECKS: dict[int, Callable[[MessageReader, Message], None]] = {
    TIME: MessageReader._time,
    OLD_TIME: MessageReader._old_time,
    COMMENT: MessageReader._comment,
    REFERENCES: MessageReader._references,
    GROUP_INFO: MessageReader._group_info,
    LINK_INFO: MessageReader._info,
    ATTRIBUTE_INFO: MessageReader._info,
}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _nested(values: list[Attribute], shape: tuple[int, ...]) -> Attribute:
    """Return row-major values as tuples within tuples; a scalar as itself."""
    if not shape:
        return values[0]
    for size in reversed(shape[1:]):
        if not size:
            return ()
        values = [tuple(values[i : i + size]) for i in range(0, len(values), size)]
    return tuple(values)
