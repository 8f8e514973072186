"""Writing the LevelDB table that `ckptkit.stores.tensor_bundle.table` describes.

Byte for byte what TensorFlow's own table builder makes of the same entries: full keys at every 16th
entry, index entries that are all full, shortened separators between blocks, an empty metaindex
block.  Source: tsl/lib/io/table_builder.cc, block_builder.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ckptkit._io import crc32c

BLOCK_BYTES = 1 << 18  # of entries per data block: TensorFlow's default
MAGIC = 0xDB4775248B80FB57
_RESTART_INTERVAL = 16
_COMPRESSIONS = {"none": 0, "snappy": 1}


class ByteSink(Protocol):
    """Where bytes go: an open binary file."""

    def write(self, data: bytes, /) -> object:
        """Take bytes, behind those that came before.

        Args:
            data: all of it is taken.

        Returns:
            Anything; it is not looked at.
        """


def varint(value: int) -> bytes:
    """Return the base-128 varint of a non-negative integer."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Block:
    """Entries of one block, keys shortened by what they share with the one before."""

    def __init__(self, restart_interval: int) -> None:
        self.interval = restart_interval
        self.data = bytearray()
        self.restarts = [0]
        self.count = 0
        self.last = b""

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self.count and self.count % self.interval == 0:
            self.restarts.append(len(self.data))
        elif self.count:
            shared = _common(self.last, key)
        self.data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        self.data += key[shared:]
        self.data += value
        self.last = key
        self.count += 1

    @property
    def nbytes(self) -> int:
        return len(self.data) + 4 * len(self.restarts) + 4

    def finish(self) -> bytes:
        numbers = [*self.restarts, len(self.restarts)]
        return bytes(self.data) + b"".join(number.to_bytes(4, "little") for number in numbers)


def _common(a: bytes, b: bytes) -> int:
    """Return the length of the longest common prefix."""
    limit = min(len(a), len(b))
    for index in range(limit):
        if a[index] != b[index]:
            return index
    return limit


def _separator(key: bytes, following: bytes) -> bytes:
    """Return a short key >= `key` and < `following`."""
    index = _common(key, following)
    if index < min(len(key), len(following)):
        byte = key[index]
        if byte < 0xFF and byte + 1 < following[index]:
            return key[:index] + bytes([byte + 1])
    return key


def _successor(key: bytes) -> bytes:
    """Return a short key >= `key`."""
    for index, byte in enumerate(key):
        if byte != 0xFF:
            return key[:index] + bytes([byte + 1])
    return key


class TableWriter:
    """Writes a table to `sink`, entry by entry in strictly rising key order; then `finish`.

    block_bytes: size at which a data block is closed.  compression: "none" or "snappy".
    """

    def __init__(
        self, sink: ByteSink, *, block_bytes: int = BLOCK_BYTES, compression: str = "none"
    ) -> None:
        self._sink = sink
        self._limit = block_bytes
        self._type = _COMPRESSIONS[compression]
        self._compress: Callable[[bytes], bytes] | None = _snappy() if self._type else None
        self._block = _Block(_RESTART_INTERVAL)
        self._index = _Block(1)
        self._pending: bytes | None = None  # handle of a closed block that has no index entry yet
        self._position = 0
        self._last: bytes | None = None

    def add(self, key: bytes, value: bytes) -> None:
        """Append one entry; raises ValueError for a key that does not follow the one before."""
        if self._last is not None and key <= self._last:
            raise ValueError(f"key {key!r} does not follow {self._last!r}")
        if self._pending is not None and self._last is not None:
            self._index.add(_separator(self._last, key), self._pending)
            self._pending = None
        self._block.add(key, value)
        self._last = key
        if self._block.nbytes >= self._limit:
            self._close_block()

    def finish(self) -> None:
        """Write what is left, the index and the footer."""
        self._close_block()
        metaindex = self._write(_Block(_RESTART_INTERVAL).finish())
        if self._pending is not None and self._last is not None:
            self._index.add(_successor(self._last), self._pending)
        index = self._write(self._index.finish())
        self._sink.write((metaindex + index).ljust(40, b"\0") + MAGIC.to_bytes(8, "little"))

    def _close_block(self) -> None:
        if self._block.count:
            self._pending = self._write(self._block.finish())
            self._block = _Block(_RESTART_INTERVAL)

    def _write(self, block: bytes) -> bytes:
        """Write a block with its trailer; return its handle."""
        kind = 0
        if self._compress is not None:
            smaller = self._compress(block)
            if len(smaller) < len(block) - len(block) // 8:  # else not worth it, as TensorFlow does
                block, kind = smaller, self._type
        checked = block + bytes([kind])
        self._sink.write(checked + crc32c.mask(crc32c.value(checked)).to_bytes(4, "little"))
        handle = varint(self._position) + varint(len(block))
        self._position += len(checked) + 4
        return handle


def _snappy() -> Callable[[bytes], bytes]:
    from cramjam import snappy

    return lambda block: bytes(snappy.compress_raw(block))
