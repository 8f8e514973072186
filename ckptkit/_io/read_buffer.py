"""Memory that pieces of files are read into, one after another: to compare, checksum, write out."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from itertools import pairwise

from ckptkit._io import crc32c as _crc32c

_UNLOCK_BYTES = 1 << 14  # from here on, letting other threads run is worth a call through ctypes

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Bytes:
    """Bytes in memory: `view` of them, `address` for code in C, where it is known."""

    def __init__(self, view: memoryview, address: int | None = None) -> None:
        self.view, self.address = view, address

    def crc(self, crc: int, nbytes: int, at: int = 0) -> int:
        """Return `crc` extended by `nbytes` bytes from byte `at` on; other threads run meanwhile.

        Where the bytes are few, other threads wait.
        """
        unlocked = _crc32c.unlocked_extend() if nbytes >= _UNLOCK_BYTES else None
        if unlocked is not None and self.address is not None:
            return unlocked(crc, self.address + at, nbytes)
        return int(_crc32c.extend(crc, bytes(self.view[at : at + nbytes])))

    def crcs(self, bounds: Sequence[int]) -> list[int]:
        """Return the crc of the bytes between each of `bounds`, which rise, and the next."""
        first, last = bounds[0], bounds[-1]
        if last - first >= _UNLOCK_BYTES * (len(bounds) - 1):
            return [self.crc(0, stop - start, start) for start, stop in pairwise(bounds)]
        data = bytes(self.view[first:last])  # once: of small pieces there are many to a buffer
        return [
            _crc32c.extend(0, data[start - first : stop - first])
            for start, stop in pairwise(bounds)
        ]


def lent(view: memoryview) -> Bytes:
    """Return bytes that something else keeps in memory, and that may be read-only."""
    import numpy as np  # which tells where such bytes lie

    return Bytes(view, int(np.frombuffer(view, np.uint8).ctypes.data))


class ReadBuffer(Bytes):
    """Memory that is used again and again.

    Anonymous maps start on a page: the kernel copies into them several times faster than into a
    bytearray, which does not, and a disk can be read past the system's cache.
    """

    address: int

    def __init__(self, nbytes: int) -> None:
        self.data = mmap.mmap(-1, nbytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        super().__init__(memoryview(self.data), address)

    def equals(self, other: ReadBuffer, nbytes: int) -> bool:
        """Whether the first `nbytes` bytes of both are the same; other threads run meanwhile."""
        return bool(_memcmp(self.address, other.address, nbytes) == 0)
