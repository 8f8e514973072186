"""What the messages in a classic HDF5 object header say: types, extents, attributes.

The layout of the file is in `classic`, which finds the messages.  All that is read here comes
through a `BoundedReader`: bounded, small parts from pages.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.containers.byte_range import PAGE, ByteRange, PageCache
from ckptkit.stores.hdf5.types import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, Attribute

_MAX_RANK = 32  # H5S_MAX_RANK
ATTRIBUTE = 0x0C  # kind of message
FIXED, FLOAT, STRING, OPAQUE, VARIABLE = 0, 1, 3, 5, 9  # classes of types
# exponent location and size, mantissa location and size, bias; sign bit last
_IEEE = {
    2: ("float16", (10, 5, 0, 10, 15), 15),
    4: ("float32", (23, 8, 0, 23, 127), 31),
    8: ("float64", (52, 11, 0, 52, 1023), 63),
}


class LeftToLibhdf5(Exception):
    """Valid HDF5, as far as seen, of a kind that is left to libhdf5."""


class Datatype(NamedTuple):
    """A datatype: class, bytes per element, dtype where it is one, native byte order or not."""

    kind: int
    size: int
    dtype: str
    native: bool


class ObjectHeader(NamedTuple):
    """An object header: its messages as (type, flags, data)."""

    address: int
    messages: tuple[tuple[int, int, bytes], ...]

    def first(self, kind: int) -> bytes | None:
        """Return the data of the first message of a kind."""
        return next((data for k, _, data in self.messages if k == kind), None)


class BoundedReader:
    """Bounded reads from the byte range, small ones from pages."""

    def __init__(self, byte_range: ByteRange) -> None:
        self.byte_range = byte_range
        self._pages = PageCache(byte_range)

    def error(self, address: int, message: str) -> FormatError:
        """Return the refusal of what lies at an address."""
        where = f"{self.byte_range.path} @ {self.byte_range.start + address}"
        return FormatError(where, f"damaged HDF5 data: {message}", hint="copy the file again")

    def read(self, address: int, nbytes: int) -> bytes:
        """Return bytes of the data; raises TruncatedError."""
        if address < 0 or address + nbytes > self.byte_range.nbytes:
            where = f"{self.byte_range.path} @ {self.byte_range.start + address}"
            raise TruncatedError(
                where,
                f"damaged HDF5 data: {nbytes} bytes lie past the end",
                hint="copy the file again",
            )
        if nbytes > PAGE:
            return self.byte_range.read(address, nbytes)
        number, skip = divmod(address, PAGE)
        data = self._pages.page(number)[skip : skip + nbytes]
        if len(data) < nbytes:
            data += self._pages.page(number + 1)[: nbytes - len(data)]
        return data

    def signed(self, address: int, nbytes: int, signature: bytes) -> bytes:
        """Return bytes that must begin with a signature."""
        data = self.read(address, nbytes)
        if data[: len(signature)] != signature:
            raise self.error(address, f"expected {signature.decode()}, found {data[:4]!r}")
        return data


class MessageReader(BoundedReader):
    """The meaning of messages, and the global heaps that hold the texts of attributes."""

    def __init__(self, byte_range: ByteRange) -> None:
        super().__init__(byte_range)
        self._heaps: dict[int, dict[int, bytes]] = {}

    def extent(self, data: bytes, address: int) -> tuple[int, ...] | None:
        """Return the shape that a dataspace tells; None for one without elements at all."""
        version, rank = (data[0], data[1]) if len(data) >= 4 else (0, 0)
        start = {1: 8, 2: 4}.get(version)
        if start is None or rank > _MAX_RANK or len(data) < start + 8 * rank:
            raise self.error(address, f"a dataspace of version {version} and rank {rank}")
        if version == 2 and data[3] == 2:
            return None
        return struct.unpack_from(f"<{rank}Q", data, start)

    def type(self, data: bytes, address: int) -> Datatype:
        """Return what a datatype tells."""
        if len(data) < 8:
            raise self.error(address, "a datatype that is too short")
        kind, bits, size = data[0] & 0x0F, int.from_bytes(data[1:4], "little"), data[4:8]
        nbytes = int.from_bytes(size, "little")
        if not nbytes:
            raise self.error(address, "a datatype of no bytes")
        if kind == FIXED and len(data) >= 12:
            offset, precision = struct.unpack_from("<2H", data, 8)
            if offset == 0 and precision == 8 * nbytes and nbytes in (1, 2, 4, 8):
                sign = "" if bits & 0x08 else "u"
                native = not bits & 0x01 or nbytes == 1
                return Datatype(kind, nbytes, f"{sign}int{8 * nbytes}", native)
        elif kind == FLOAT and len(data) >= 20 and nbytes in _IEEE:
            name, layout, sign_bit = _IEEE[nbytes]
            offset, precision, *fields, bias = struct.unpack_from("<2H4BI", data, 8)
            plain = (bits >> 8) & 0xFF == sign_bit and (bits >> 4) & 3 == 2 and not bits & 0x40
            if plain and (offset, precision) == (0, 8 * nbytes) and (*fields, bias) == layout:
                return Datatype(kind, nbytes, name, not bits & 0x01)
        elif kind in (STRING, OPAQUE):
            return Datatype(kind, nbytes, "", kind == OPAQUE)
        elif kind == VARIABLE:
            return Datatype(kind, nbytes, "string" if bits & 0x0F == 1 else "", False)
        return Datatype(kind, nbytes, "", False)

    # -- attributes

    def attributes(self, found: ObjectHeader, path: str) -> dict[str, Attribute]:
        """Return the attributes of an object."""
        raw = [data for kind, _, data in found.messages if kind == ATTRIBUTE]
        if len(raw) > MAX_ATTRIBUTES:
            raise self.error(found.address, f"{path or '/'} has {len(raw)} attributes")
        return dict(self._attribute(data, found.address) for data in raw)

    def _attribute(self, data: bytes, address: int) -> tuple[str, Attribute]:
        if len(data) < 9:
            raise self.error(address, "an attribute that is too short")
        version, flags, *sizes = struct.unpack_from("<BB3H", data)
        if version not in (1, 2, 3) or (version > 1 and flags & 0x03):
            raise LeftToLibhdf5(f"attributes of version {version}, or with shared types")
        at = 9 if version == 3 else 8
        parts: list[bytes] = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += size if version > 1 else (size + 7) // 8 * 8
        if at > len(data):
            raise self.error(address, "an attribute that reaches past its message")
        name = parts[0].partition(b"\0")[0].decode("utf-8", "backslashreplace")
        kind = self.type(parts[1], address)
        shape = self.extent(parts[2], address)
        if shape is None:
            return name, None
        return name, self._value(kind, shape, data[at:], address, name)

    def _value(
        self, kind: Datatype, shape: tuple[int, ...], data: bytes, address: int, name: str
    ) -> Attribute:
        """Return an attribute's value: text and numbers; None for what no weights file needs."""
        count = math.prod(shape)
        if count * kind.size > len(data):
            raise self.error(address, f"attribute {name!r} reaches past its message")
        cells = [data[at : at + kind.size] for at in range(0, count * kind.size, kind.size)]
        if kind.kind == STRING:
            values: list[Attribute] = [_text(cell.rstrip(b"\0")) for cell in cells]
        elif kind.kind == VARIABLE and kind.dtype and kind.size == 16:
            values = self._heap_strings(cells, address, name)
        elif kind.dtype and kind.native:
            code = {"float16": "e", "float32": "f", "float64": "d"}.get(kind.dtype)
            code = code or {1: "b", 2: "h", 4: "i", 8: "q"}[kind.size]
            code = code.upper() if kind.dtype.startswith("u") else code
            values = list(struct.unpack_from(f"<{count}{code}", data))
        else:
            return None
        return _nested(values, shape)

    def _heap_strings(self, cells: list[bytes], address: int, name: str) -> list[Attribute]:
        values: list[Attribute] = []
        total = 0
        for cell in cells:
            length, heap, index = struct.unpack("<IQI", cell)
            text = b""
            if length:
                text = self._heap(heap).get(index, b"")
                if len(text) < length:
                    raise self.error(address, f"attribute {name!r} has lost its text")
            total += length
            if total > MAX_ATTRIBUTE_BYTES:
                raise self.error(address, f"attribute {name!r} is larger than any in use")
            values.append(_text(text[:length]))
        return values

    def _heap(self, address: int) -> dict[int, bytes]:
        """Return the objects of a global heap collection by index."""
        if address in self._heaps:
            return self._heaps[address]
        size = int.from_bytes(self.signed(address, 16, b"GCOL")[8:16], "little")
        if not 16 <= size <= MAX_ATTRIBUTE_BYTES:
            raise self.error(address, f"a global heap of {size} bytes")
        data = self.read(address, size)
        objects: dict[int, bytes] = {}
        at = 16
        while at + 16 <= size:
            index, _, _, length = struct.unpack_from("<HHIQ", data, at)
            if not index:  # the free space that is left
                break
            if length > size - at - 16:
                raise self.error(address, "an object that reaches past its global heap")
            objects[index] = data[at + 16 : at + 16 + length]
            at += 16 + (length + 7) // 8 * 8
        self._heaps[address] = objects
        return objects


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
