"""HDF5 datatypes: every class, every field, and which of them ckptkit has a dtype for.

The message (https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, IV.A.2.d) is
    version << 4 | class, 3 bytes of class bits, size in bytes (4), properties of the class
Bits that a class does not define are zero.  A number has no padding: what describes its bits is
redundant, and is compared with what such a number must have.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from ckptkit.stores.hdf5.bounded import LeftToLibhdf5

(FIXED, FLOAT, TIME, STRING, BITFIELD, OPAQUE, COMPOUND, REFERENCE, ENUM, VARIABLE, ARRAY) = range(
    11
)  # classes of types
_MAX_VERSION = 4  # of the message; later ones are left to the libhdf5 that knows them
_MAX_ATOMIC_VERSION = 3  # of types that are made of no other and lead nowhere
_MAX_NESTING = 16  # of types in types; a limit that keeps recursion harmless
_MAX_MEMBERS = 10_000
_HEAP_ID = 16  # bytes that a variable-length value is stored as: length, address, index
# class bits that are defined, by class
_BITS = {
    FIXED: 0x0F,
    FLOAT: 0xFF7F,
    TIME: 0x01,
    STRING: 0xFF,
    BITFIELD: 0x07,
    OPAQUE: 0xFF,
    COMPOUND: 0xFFFF,
    REFERENCE: 0xFF,
    ENUM: 0xFFFF,
    VARIABLE: 0xFFF,
    ARRAY: 0,
}
_ATOMIC = {FIXED, FLOAT, TIME, STRING, BITFIELD, OPAQUE}
_BOOL = (b"FALSE", b"TRUE")  # the members of the enumeration that h5py keeps truth values as


class DatatypeError(Exception):
    """Why a datatype message is damaged."""


class Datatype(NamedTuple):
    """A datatype.

    kind: its class.  size: bytes per element.  dtype: "" where ckptkit has none.  native: whether
    stored values have the layout that numpy has in memory here.  order: 0 little-endian, 1
    big-endian, None for one without bytes to order.  base: bytes per element of what a
    variable-length value holds, else 0; has_heap: whether values lie in global heaps.
    """

    kind: int
    size: int
    dtype: str = ""
    native: bool = False
    order: int | None = None
    base: int = 0
    has_heap: bool = False


@lru_cache(maxsize=256)  # a file has few types, and very many datasets
def parse_datatype(data: bytes) -> tuple[Datatype, int]:
    """Return the datatype that a message tells and how many bytes tell it; raises DatatypeError."""
    return _parse(data, 0, 0)


def _parse(data: bytes, at: int, depth: int) -> tuple[Datatype, int]:
    if depth > _MAX_NESTING:
        raise DatatypeError("types nest too deeply")
    head = _take(data, at, 8)
    version, kind = head[0] >> 4, head[0] & 0x0F
    bits, size = int.from_bytes(head[1:4], "little"), int.from_bytes(head[4:8], "little")
    if version == _MAX_VERSION + 1:
        raise LeftToLibhdf5(f"a datatype of version {version}")
    most = _MAX_ATOMIC_VERSION if kind in _ATOMIC else _MAX_VERSION
    if not 1 <= version <= most or kind not in _BITS:
        raise DatatypeError(f"a datatype of version {version} and class {kind}")
    if not size:
        raise DatatypeError("a datatype of no bytes")
    if bits & ~_BITS[kind]:
        raise DatatypeError(f"a datatype of class {kind} with bits {bits:#08x}")
    at += 8
    if kind in (FIXED, BITFIELD):
        return _fixed(kind, bits, size, _take(data, at, 4)), at + 4
    if kind == FLOAT:
        return _float(bits, size, _take(data, at, 12)), at + 12
    if kind == TIME:
        _take(data, at, 2)
        return Datatype(TIME, size), at + 2
    if kind == STRING:
        if bits & 0x0F > 2 or bits >> 4 > 1:
            raise DatatypeError(f"a string with bits {bits:#04x}")
        return Datatype(STRING, size), at
    if kind == OPAQUE:
        tag = _take(data, at, bits)
        if bits % 8 or b"\0" in tag.rstrip(b"\0"):
            raise DatatypeError(f"an opaque type with a tag of {bits} bytes")
        return Datatype(OPAQUE, size, native=True), at + bits
    if kind == REFERENCE:
        return _reference(version, bits, size), at
    if kind == VARIABLE:
        return _variable(data, at, depth, bits, size)
    if kind == ENUM:
        return _enumeration(data, at, depth, version, bits, size)
    if kind == COMPOUND:
        return _compound(data, at, depth, version, bits, size)
    return _array(data, at, depth, version, size)


def _take(data: bytes, at: int, nbytes: int) -> bytes:
    taken = data[at : at + nbytes]
    if len(taken) < nbytes:
        raise DatatypeError("a datatype that is too short")
    return taken


def _fixed(kind: int, bits: int, size: int, properties: bytes) -> Datatype:
    offset, precision = struct.unpack("<2H", properties)
    if not precision or offset + precision > 8 * size:
        raise DatatypeError(f"bits {offset} to {offset + precision} of a number of {size} bytes")
    if size > 1 and 2 * precision <= 8 * size:  # what libhdf5 takes for damage as well
        raise DatatypeError(f"a number of {size} bytes that uses {precision} bits")
    order = bits & 0x01 if size > 1 else None
    whole = offset == 0 and precision == 8 * size and size in (1, 2, 4, 8) and not bits & 0x06
    if not whole or kind == BITFIELD:
        return Datatype(kind, size, order=order)
    sign = "" if bits & 0x08 else "u"
    return Datatype(kind, size, f"{sign}int{8 * size}", not order, order)


def _float(bits: int, size: int, properties: bytes) -> Datatype:
    """Return a float: sign, exponent, mantissa side by side, from the top; all else is damage.

    One wrong bit leaves libhdf5 with another valid format, whose values it converts without a word.
    """
    offset, precision, exp_at, exp_bits, man_at, man_bits, bias = struct.unpack(
        "<2H4BI", properties
    )
    order, sign_at, norm = bits & 0x41, bits >> 8, bits >> 4 & 3
    # x87 stores the mantissa's first bit
    is_x87 = norm in (0, 1) and size in (10, 12, 16) and precision == 80
    is_float = (
        offset == 0
        and precision <= 8 * size
        and man_at == 0
        and man_bits >= 1
        and exp_at == man_bits
        and exp_bits >= 2
        and sign_at == exp_at + exp_bits
        and precision == sign_at + 1
        and bias == (1 << exp_bits - 1) - 1
        and (norm == 2 or is_x87)
        and not bits & 0x0E
        and order in (0, 1)
    )
    if not is_float:
        raise DatatypeError(
            f"a float of {size} bytes whose parts do not fit: sign at bit {sign_at}, exponent "
            f"{exp_bits} bits at {exp_at} with bias {bias}, mantissa {man_bits} bits at {man_at}"
        )
    name = {(2, 5): "float16", (2, 8): "bfloat16", (4, 8): "float32", (8, 11): "float64"}.get(
        (size, exp_bits), ""
    )
    if precision != 8 * size:
        if not is_x87:
            raise DatatypeError(f"a float of {size} bytes that uses {precision} bits")
        name = ""
    if name == "bfloat16":
        name = ""  # h5py has no type of numpy's for it: left to it to say so
    return Datatype(FLOAT, size, name, bool(name) and not order, order)


def _reference(version: int, bits: int, size: int) -> Datatype:
    kind = bits & 0x0F
    if version < 4 and (bits >> 4 or (kind, size) not in ((0, 8), (1, 12))):
        raise DatatypeError(f"a reference of kind {kind} and {size} bytes")
    return Datatype(REFERENCE, size, has_heap=kind != 0)


def _variable(data: bytes, at: int, depth: int, bits: int, size: int) -> tuple[Datatype, int]:
    is_text, padding, charset = bits & 0x0F, bits >> 4 & 0x0F, bits >> 8
    base, at = _parse(data, at, depth + 1)
    if is_text > 1 or padding > 2 or charset > 1 or size != _HEAP_ID:
        raise DatatypeError(f"a variable-length type with bits {bits:#05x} and {size} bytes")
    if is_text and base.size != 1:
        raise DatatypeError(f"a text of characters of {base.size} bytes")
    name = "string" if is_text else ""
    return Datatype(VARIABLE, size, name, base=base.size, has_heap=True), at


def _names(data: bytes, at: int, count: int, version: int) -> tuple[list[bytes], int]:
    names = []
    for _ in range(count):
        end = data.find(b"\0", at)
        if end < 0:
            raise DatatypeError("a member without a name")
        names.append(data[at:end])
        width = end + 1 - at
        stop = at + (width if version >= 3 else (width + 7) // 8 * 8)
        if data[end:stop].strip(b"\0"):
            raise DatatypeError(f"a member's name {data[at:stop]!r} that does not end")
        at = stop
    return names, at


def _enumeration(
    data: bytes, at: int, depth: int, version: int, count: int, size: int
) -> tuple[Datatype, int]:
    base, at = _parse(data, at, depth + 1)
    if base.kind != FIXED or base.size != size or not 0 < count <= _MAX_MEMBERS:
        raise DatatypeError(f"an enumeration of {count} members of {size} bytes")
    names, at = _names(data, at, count, version)
    values = _take(data, at, count * size)
    if len({*names}) < count or b"" in names:
        raise DatatypeError("an enumeration whose members share a name")
    at += count * size
    if size == 1 and tuple(names) == _BOOL and values == b"\0\1":
        return Datatype(ENUM, 1, "bool", True), at
    return Datatype(ENUM, size, base.dtype, False, base.order), at  # h5py converts the others


def _compound(
    data: bytes, at: int, depth: int, version: int, count: int, size: int
) -> tuple[Datatype, int]:
    if not 0 < count <= _MAX_MEMBERS:
        raise DatatypeError(f"a record of {count} members")
    width = (size.bit_length() + 7) // 8 if version >= 3 else 4
    members: list[tuple[int, bytes, Datatype]] = []
    for _ in range(count):
        (name,), at = _names(data, at, 1, version)
        offset = int.from_bytes(_take(data, at, width), "little")
        at += width
        factor = 1
        if version == 1:
            rank, *fields = struct.unpack("<B3x2I4I", _take(data, at, 28))
            if rank > 4 or fields[1]:
                raise DatatypeError("a member with an extent that cannot be")
            for extent in fields[2 : 2 + rank]:
                factor *= extent
            at += 28
        member, at = _parse(data, at, depth + 1)
        members.append((offset, name, member._replace(size=factor * member.size)))
    end = 0
    for offset, _name, member in sorted(members, key=lambda item: item[0]):
        if offset < end:
            raise DatatypeError("a record whose members overlap")
        end = offset + member.size
    if end > size or len({name for _, name, _ in members}) < count:
        raise DatatypeError(f"a record of {size} bytes whose members do not fit")
    has_heap = any(member.has_heap for _, _, member in members)
    dtype, order = "", None
    if [name for _, name, _ in members] == [b"r", b"i"]:
        one, other = members[0][2], members[1][2]
        if one.dtype in ("float32", "float64") and one == other and size == 2 * one.size:
            dtype, order = f"complex{16 * one.size}", one.order
    return Datatype(COMPOUND, size, dtype, bool(dtype) and not order, order, 0, has_heap), at


def _array(data: bytes, at: int, depth: int, version: int, size: int) -> tuple[Datatype, int]:
    if version < 2:
        raise DatatypeError("an array type of version 1")
    rank = _take(data, at, 1)[0]
    if not 0 < rank <= 32:
        raise DatatypeError(f"an array type of rank {rank}")
    at += 4 if version == 2 else 1
    total = 1
    for extent in struct.unpack(f"<{rank}I", _take(data, at, 4 * rank)):
        total *= extent
    at += 4 * rank * (2 if version == 2 else 1)
    base, at = _parse(data, at, depth + 1)
    if total * base.size != size:
        raise DatatypeError(f"an array type of {size} bytes for {total} of {base.size} bytes")
    return Datatype(ARRAY, size, has_heap=base.has_heap), at
