"""The messages of a tensor bundle in the form in which writers leave them, read without protobuf.

Importing protobuf and loading the schema take longer than all the rest of `ls`.  What is read here
are known fields of the wire type that the schema gives them; anything else (a field that is not
known, a group, a number out of its range, a varint of ten bytes, text that is no UTF-8, a message
that is cut short) comes back as None, and protobuf is asked.  So what is refused, and with which
words, is for protobuf alone to say; what is read here it reads alike (tests/stores/test_wire.py).

The numbers of fields are those of schema.proto; a test compares them.
Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

VARINT, BYTES, FIXED32 = 0, 2, 5  # wire types
_MAX_SHIFT = 56  # nine bytes, 63 bits: no negative number, and none that is cut off
_MAX_INT32 = (1 << 31) - 1

# The tag of a field: its number and wire type.  Each fits a byte.
HEADER = {0x08: "num_shards", 0x10: "endianness", 0x1A: "version"}
VERSION = {0x08: "producer", 0x10: "min_consumer"}
ENTRY = {
    0x08: "dtype",
    0x12: "shape",
    0x18: "shard_id",
    0x20: "offset",
    0x28: "size",
    0x35: "crc32c",
}
SHAPE = {0x12: "dim"}
DIM = {0x08: "size"}
GRAPH = {0x0A: "nodes"}
NODE = {  # `registered_saver` is left to protobuf
    0x0A: "children",
    0x12: "attributes",
    0x1A: "slot_variables",
    0x2A: "has_checkpoint_values",
}
CHILD = {0x08: "node_id", 0x12: "local_name"}
TENSOR = {0x0A: "name", 0x12: "full_name", 0x1A: "checkpoint_key"}
SLOT = {0x08: "original_variable_node_id", 0x12: "slot_name", 0x18: "slot_variable_node_id"}
BOOL = {0x08: "value"}


class PlainVersion(NamedTuple):
    """A `VersionDef` without consumers that must not read the file."""

    producer: int = 0
    min_consumer: int = 0
    bad_consumers: tuple[int, ...] = ()


class PlainHeader(NamedTuple):
    """A `BundleHeaderProto`."""

    num_shards: int = 0
    endianness: int = 0
    version: PlainVersion = PlainVersion()


class PlainEntry(NamedTuple):
    """A `RawBundleEntryProto` of a tensor that is not partitioned."""

    dtype: int = 0
    shape: tuple[bytes, ...] = ()
    shard_id: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = 0
    slices: tuple[object, ...] = ()


def fields(data: bytes) -> list[tuple[int, int | bytes]] | None:
    """Return (tag, value) of each field, in order; None where a message is not of plain form."""
    found: list[tuple[int, int | bytes]] = []
    at, size = 0, len(data)
    try:
        while at < size:
            tag = data[at]
            wire = tag & 7
            if tag > 0x7F or wire not in (VARINT, BYTES, FIXED32):
                return None
            if wire == FIXED32:
                if at + 5 > size:
                    return None
                found.append((tag, int.from_bytes(data[at + 1 : at + 5], "little")))
                at += 5
                continue
            value = data[at + 1]
            at += 2
            if value > 0x7F:
                value, at = _long_varint(data, at - 1)
            if wire == BYTES:
                end = at + value
                if end > size:
                    return None
                found.append((tag, data[at:end]))
                at = end
            else:
                found.append((tag, value))
    except IndexError:  # a varint that is cut short, or too long
        return None
    return found


def _long_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, next position); raises IndexError for one of more than nine bytes."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _MAX_SHIFT:
            raise IndexError


def header(data: bytes) -> PlainHeader | None:
    """Return the header of an index."""
    found = _of(HEADER, data)
    if found is None:
        return None
    version = found.get("version", b"")
    assert isinstance(version, bytes)
    numbers, inner = _small(found), _of(VERSION, version)
    told = None if inner is None else _small(inner)
    if numbers is None or told is None:
        return None
    return PlainHeader(
        numbers.get("num_shards", 0),
        numbers.get("endianness", 0),
        PlainVersion(told.get("producer", 0), told.get("min_consumer", 0)),
    )


def entry(data: bytes) -> PlainEntry | None:
    """Return the entry of a tensor that is not partitioned."""
    found = _of(ENTRY, data)
    if found is None:
        return None
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    dtype, shard = numbers.get("dtype", 0), numbers.get("shard_id", 0)
    if max(dtype, shard) > _MAX_INT32:
        return None
    shape = found.get("shape")
    return PlainEntry(
        dtype,
        (shape,) if isinstance(shape, bytes) else (),
        shard,
        numbers.get("offset", 0),
        numbers.get("size", 0),
        numbers.get("crc32c", 0),
    )


def shape(data: bytes) -> tuple[int, ...] | None:
    """Return the sizes of a `TensorShapeProto` of known rank whose axes have no names."""
    dims = fields(data)
    if dims is None:
        return None
    sizes = []
    for tag, dim in dims:
        if tag not in SHAPE or not isinstance(dim, bytes):
            return None
        found = _of(DIM, dim)
        if found is None:
            return None
        size = found.get("size", 0)
        assert isinstance(size, int)
        sizes.append(size)
    return tuple(sizes)


def _of(message: dict[int, str], data: bytes) -> dict[str, int | bytes] | None:
    """Return the fields of a message by name; None where one is not known, or comes twice."""
    read = fields(data)
    if read is None:
        return None
    found = {message.get(tag, ""): value for tag, value in read}
    return None if "" in found or len(found) < len(read) else found


def _small(found: dict[str, int | bytes]) -> dict[str, int] | None:
    """Return numbers of 32 bits; None where one has more."""
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    return None if any(value > _MAX_INT32 for value in numbers.values()) else numbers


# --- the object graph -----------------------------------------------------------------------------

Children = tuple[tuple[str, int], ...]
Attributes = tuple[tuple[str, str, str], ...]
Slots = tuple[tuple[int, str, int], ...]
RawNode = tuple[Children, Attributes, Slots]

_VALUE = "VARIABLE_VALUE"
# A variable without children, as nearly all objects of a large graph are: one attribute of this
# name, a full name and a key, each of less than 128 bytes.
_LEAF = b"\x0a\x0e" + _VALUE.encode() + b"\x12"
_LEAF_BYTES = len(_LEAF)
# has_checkpoint_values, true and false
_FLAG, _NO_FLAG = b"\x2a\x02\x08\x01", b"\x2a\x00"


def split_nodes(data: bytes) -> array[int] | None:
    """Return where each node of a `TrackableObjectGraph` begins and ends."""
    bounds = array("I")  # which bytes of a message fit
    at, size = 0, len(data)
    try:
        while at < size:
            length, start = data[at + 1], at + 2
            if length > 0x7F:
                length, start = _long_varint(data, at + 1)
            if data[at] != 0x0A:
                return None
            at = start + length
            bounds.append(start)
            bounds.append(at)
    except (IndexError, OverflowError):
        return None
    return bounds if at == size else None


def leaf(data: bytes) -> tuple[str, str, str] | None:
    """Return the attribute of a node that is a variable without children, in its plain form."""
    start = 2 if data[2:3] == b"\n" else 3
    name = start + _LEAF_BYTES + 1
    if data[start : name - 1] != _LEAF:
        return None
    try:
        length = data[1] if start == 2 else data[1] - 0x80 | data[2] << 7
        name_bytes = data[name - 1]
        name_end = name + name_bytes
        key = name_end + 2
        key_bytes = data[key - 1]
        end = key + key_bytes
        if (
            data[0] != 0x12
            or name_bytes > 0x7F
            or data[name_end] != 0x1A
            or key_bytes > 0x7F
            or length != end - start
            or (start == 2 and length > 0x7F)
            or (end != len(data) and data[end:] != _FLAG)
        ):
            return None
        return _VALUE, data[name:name_end].decode(), data[key:end].decode()
    except (IndexError, UnicodeDecodeError):
        return None


def children(data: bytes, edges: dict[bytes, str]) -> Children | None:
    """Return the children of a node that is no variable, in their plain form.

    edges: names that were read before; a graph has few.
    """
    found: list[tuple[str, int]] = []
    at, size = 0, len(data)
    if data[-4:] == _FLAG:
        size -= 4
    elif data[-2:] == _NO_FLAG:
        size -= 2
    try:
        while at < size:
            length, number, name = data[at + 1], data[at + 3], at + 4
            if number > 0x7F:
                number, name = _long_varint(data, at + 3)
            end = at + 2 + length
            if (
                data[at] != 0x0A
                or length > 0x7F
                or data[at + 2] != 0x08
                or data[name] != 0x12
                or data[name + 1] != end - name - 2
                or number > _MAX_INT32
            ):
                return None
            raw = data[name + 2 : end]
            edge = edges.get(raw)
            if edge is None:
                edge = edges[raw] = raw.decode()
            found.append((edge, number))
            at = end
    except (IndexError, UnicodeDecodeError):
        return None
    return tuple(found) if at == size else None


def node(data: bytes) -> RawNode | None:
    """Return children, attributes and slots of any `TrackableObject`, as `Node` has them."""
    read = fields(data)
    if read is None:
        return None
    found: tuple[list[tuple[str, int]], list[tuple[str, str, str]], list[tuple[int, str, int]]]
    found = [], [], []
    for tag, part in read:
        message = _PARTS.get(tag)
        told = _of(message, part) if message is not None and isinstance(part, bytes) else None
        numbers = None if told is None else _small(told)
        if told is None or numbers is None:
            return None
        try:
            texts = {name: text.decode() for name, text in told.items() if isinstance(text, bytes)}
        except UnicodeDecodeError:
            return None
        if message is CHILD:
            found[0].append((texts.get("local_name", ""), numbers.get("node_id", 0)))
        elif message is TENSOR:
            found[1].append(
                (texts.get("name", ""), texts.get("full_name", ""), texts.get("checkpoint_key", ""))
            )
        elif message is SLOT:
            found[2].append(
                (
                    numbers.get("original_variable_node_id", 0),
                    texts.get("slot_name", ""),
                    numbers.get("slot_variable_node_id", 0),
                )
            )
    return tuple(found[0]), tuple(found[1]), tuple(found[2])


_PARTS = {0x0A: CHILD, 0x12: TENSOR, 0x1A: SLOT, 0x2A: BOOL}
