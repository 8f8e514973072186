"""Global heaps ("GCOL"): where HDF5 keeps values of variable length, such as long texts.

"GCOL", version 1, 3 zero bytes, size of the whole (8)
objects: index (2), references (2), 4 zero bytes, size (8), data padded to 8 bytes
index 0 is the space that is left; its size counts its own header
"""

from __future__ import annotations

import struct

from ckptkit.stores.hdf5.bounded import BoundedReader
from ckptkit.stores.hdf5.types import MAX_ATTRIBUTE_BYTES

_HEAD = 16  # bytes of the heap's own header, and of each object's


class GlobalHeaps:
    """The global heaps of a file, each read once."""

    def __init__(self, source: BoundedReader) -> None:
        self._source = source
        self._heaps: dict[int, dict[int, bytes]] = {}

    def value(self, cell: bytes, base: int, address: int, what: str) -> bytes:
        """Return what a cell of 16 bytes stands for.

        base: bytes per element of the value.  address: of the cell, or of the message with it.
        """
        length, heap, index = struct.unpack("<IQI", cell)
        if not length:
            if index and self._object(heap, index, address, what):
                raise self._source.error(address, f"{what} is empty, but not its text")
            return b""
        found = self._object(heap, index, address, what)
        if len(found) != length * base:
            raise self._source.error(
                address, f"{what} has {length * base} bytes, and its text in the heap {len(found)}"
            )
        return found

    def _object(self, heap: int, index: int, address: int, what: str) -> bytes:
        found = self._objects(heap).get(index)
        if found is None:
            raise self._source.error(address, f"{what} has lost its text")
        return found

    def _objects(self, address: int) -> dict[int, bytes]:
        """Return the objects of a collection by index."""
        if address in self._heaps:
            return self._heaps[address]
        source = self._source
        head = source.signed(address, _HEAD, b"GCOL")
        version, reserved, size = head[4], head[5:8], int.from_bytes(head[8:16], "little")
        if version != 1:
            raise source.error(address, f"a global heap of version {version}")
        source.zeros(reserved, address, "bytes 5 to 8 of a global heap")
        if not _HEAD <= size <= MAX_ATTRIBUTE_BYTES or size % 8:
            raise source.error(address, f"a global heap of {size} bytes")
        source.claim(address, size, "a global heap")
        data = source.read(address, size)
        objects: dict[int, bytes] = {}
        at = _HEAD
        while at + _HEAD <= size:
            index, references, reserved, length = struct.unpack_from("<HH4sQ", data, at)
            source.zeros(reserved, address + at, "bytes 4 to 8 of an object in a global heap")
            if not index:
                if references or length != size - at:
                    raise source.error(address + at, f"free space of {length} bytes in a heap")
                at = size
                break
            if length > size - at - _HEAD:
                raise source.error(address + at, "an object that reaches past its global heap")
            if index in objects:
                raise source.error(address + at, f"object {index} twice in a global heap")
            objects[index] = data[at + _HEAD : at + _HEAD + length]
            at += _HEAD + (length + 7) // 8 * 8
        source.zeros(data[at:], address + at, "the end of a global heap")
        self._heaps[address] = objects
        return objects
