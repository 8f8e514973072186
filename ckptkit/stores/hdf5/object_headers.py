"""Object headers: the lists of messages that describe a group or dataset.

Version 1, which h5py writes unless asked for another:
    version 1, 0, number of messages (2), references (4), size of the first block (4), 4 zero bytes
    messages: kind (2), size (2), flags, 3 zero bytes, data; sizes are multiples of 8
Version 2:
    "OHDR", version 2, flags, times (16) if flags & 0x20, limits of attributes (4) if flags & 0x10,
    size of the first block (1, 2, 4 or 8 bytes, by flags & 3)
    messages: kind (1), size (2), flags, order (2) if flags & 4, data; then less than a message's
    head of zeros, and a checksum of the whole block
A message of kind 0x10 leads to a further block; in version 2 that begins with "OCHK".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ckptkit.stores.hdf5.bounded import BoundedReader, LeftToLibhdf5
from ckptkit.stores.hdf5.lookup3 import checksum
from ckptkit.stores.hdf5.messages import (
    ATTRIBUTE,
    CONSTANT,
    CONTINUATION,
    DATASPACE,
    DATATYPE,
    FAIL_UNKNOWN,
    FILL,
    FILTERS,
    KNOWN,
    LAYOUT,
    MARK_UNKNOWN,
    NOT_SHARED,
    SHARED,
    WAS_UNKNOWN,
    Message,
    ObjectHeader,
)

_MESSAGE_HEAD = struct.Struct("<HHB3s").unpack_from  # of version 1
MAX_HEADER = 64 << 20  # bytes of one object header with its continuations
_SHAREABLE = {DATASPACE, DATATYPE, FILL, FILTERS, ATTRIBUTE}


def read_header(source: BoundedReader, address: int, path: str) -> ObjectHeader:
    """Return an object header, every field of its frame checked.

    Raises FormatError, TruncatedError, LeftToLibhdf5.
    """
    head = source.read(address, 16)
    messages = tuple(
        _modern(source, address, path)
        if head[:4] == b"OHDR"
        else _classic(source, address, head, path)
    )
    for message in messages:
        _check_flags(source, message)
    return ObjectHeader(address, messages)


def _check_flags(source: BoundedReader, message: Message) -> None:
    kind, flags = message.kind, message.flags
    if not flags & ~CONSTANT and kind in KNOWN:  # nearly all
        return
    if kind not in KNOWN and (flags & FAIL_UNKNOWN or not flags & MARK_UNKNOWN):
        # Nothing that may be ignored: a known kind with one wrong bit looks like this.
        raise source.error(message.address, f"a message of unknown kind {kind:#04x}")
    odd = flags & SHARED and flags & NOT_SHARED
    if odd or (flags & WAS_UNKNOWN and not flags & MARK_UNKNOWN):
        raise source.error(message.address, f"a message with flags {flags:#04x}")
    if flags & SHARED:
        if kind not in _SHAREABLE:
            raise source.error(message.address, f"a shared message of kind {kind:#04x}")
        raise LeftToLibhdf5("messages shared between objects")
    if kind in (LAYOUT, CONTINUATION) and flags & ~1:
        raise source.error(message.address, f"a message of kind {kind:#04x}, flags {flags:#04x}")


def _blocks(
    source: BoundedReader, path: str, start: int, length: int, least: int
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield the blocks of a header: start, length, and a list to put further ones in."""
    blocks = [(start, length)]
    seen: set[int] = set()
    total = 0
    while blocks:
        start, length = blocks.pop(0)
        total += length
        if start in seen or total > MAX_HEADER or (seen and length < least):
            raise source.error(start, f"object header of {path or '/'} has no end")
        seen.add(start)
        yield start, length, blocks


def _further(source: BoundedReader, message: Message) -> tuple[int, int]:
    """Return where a continuation leads: address and size."""
    if len(message.data) < 16:
        raise source.error(message.address, "a continuation that is too short")
    source.zeros(message.data[16:], message.address + 16, "the end of a continuation")
    place, nbytes = struct.unpack_from("<2Q", message.data)
    return place, nbytes


def _classic(source: BoundedReader, address: int, head: bytes, path: str) -> Iterator[Message]:
    version, reserved, expected, references, size, padding = struct.unpack("<BBHII4s", head)
    name = path or "/"
    if version != 1 or reserved:
        raise source.error(address, f"object header of {name} has version {version}, {reserved}")
    if not references:
        raise source.error(address, f"object header of {name} says that nothing leads to it")
    source.zeros(padding, address + 12, "bytes 12 to 16 of an object header")
    source.claim(address, 16 + size, f"the object header of {name}")
    count = 0
    for start, length, blocks in _blocks(source, path, address + 16, size, 8):
        if length % 8:
            raise source.error(start, f"a part of an object header of {length} bytes")
        if start != address + 16:
            source.claim(start, length, f"the object header of {name}, continued")
        data = source.read(start, length)
        at = 0
        while at < length:
            kind, nbytes, flags, reserved_bytes = _MESSAGE_HEAD(data, at)
            body = data[at + 8 : at + 8 + nbytes]
            if len(body) < nbytes or nbytes % 8:
                raise source.error(start + at, f"a message of {nbytes} bytes in its header")
            if reserved_bytes != b"\0\0\0":
                source.zeros(reserved_bytes, start + at, "bytes 5 to 8 of a message")
            message = Message(kind, flags, body, start + at + 8)
            if kind == CONTINUATION:
                blocks.append(_further(source, message))
            count += 1
            yield message
            at += 8 + nbytes
    if count != expected:
        raise source.error(
            address, f"object header of {name} has {count} messages, and says {expected}"
        )


def _modern(source: BoundedReader, address: int, path: str) -> Iterator[Message]:
    name = path or "/"
    version, flags = source.read(address, 6)[4:]
    if version != 2 or flags & 0xC0:
        raise source.error(address, f"object header of {name} has version {version}, {flags:#04x}")
    width = 1 << (flags & 3)
    fixed = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    head = source.read(address, fixed + width)
    size = int.from_bytes(head[fixed:], "little")
    frame = 6 if flags & 4 else 4
    whole = fixed + width + size + 4
    for start, length, blocks in _blocks(source, path, address, whole, 8 + frame):
        source.claim(start, length, f"the object header of {name}")
        data = source.signed(start, length, b"OHDR" if start == address else b"OCHK")
        if checksum(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise source.error(start, f"the checksum of the object header of {name} is wrong")
        at, end = fixed + width if start == address else 4, length - 4
        while at + frame <= end:
            kind, nbytes, message_flags = struct.unpack_from("<BHB", data, at)
            body = data[at + frame : min(end, at + frame + nbytes)]
            if len(body) < nbytes:
                raise source.error(start + at, f"a message of {nbytes} bytes in its header")
            message = Message(kind, message_flags, body, start + at + frame)
            if kind == CONTINUATION:
                blocks.append(_further(source, message))
            yield message
            at += frame + nbytes
