"""Reading a file back from the disk while it is written, some way behind the writer.

A disk takes longer to answer than a system takes to accept what is written, so reading that begins
with the writing ends earlier than one that waits for its end.  Past the system's cache a file
cannot be read meanwhile: on Linux such a read and a write wait for each other.  So a part that was
written is flushed, the cache is emptied of it, and the system is asked whether nothing of it is
left (`mincore`); then what is read comes from the disk.  A part of which something is left counts
as not read.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ckptkit._io.progress import bytes_read
from ckptkit._io.read_buffer import ReadBuffer

_AT_ONCE = 1 << 20  # bytes
# Pages are kept in groups, which begin at multiples of their size; one that the writer is still
# filling cannot be let go.  2 MiB are the largest (of a page table's second level on x86).
_GROUP = 1 << 21
_MOST_FILES = 64  # that are held open
_NOT_THERE = bytes(range(0, 256, 2))  # of `mincore`, which says it of a page in the lowest bit


class FlushError(OSError):
    """What was written did not get to the disk, and the system says so once: nobody may ignore it.

    Linux takes what it could not write for written (mm/filemap.c, file_check_and_advance_wb_err).
    """


def flush(descriptor: int) -> None:
    """Have all of an open file on the disk, without which it stays in the system's cache.

    Raises FlushError where that failed, and not where a file system has no such thing.
    """
    try:
        getattr(os, "fdatasync", os.fsync)(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise FlushError(error.errno, error.strerror) from error


class _Follower:
    """An open file that is written elsewhere: `done` bytes of it were read, `crc` is of these."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.status = os.fstat(self._descriptor)  # while it is open, no other file is of that inode
        self.done = self.crc = 0

    def close(self) -> None:
        os.close(self._descriptor)

    def read_on(self, stop: int, is_over: Callable[[], bool]) -> None:
        """Read what was written before byte `stop` and not read yet; nothing if it is not dropped.

        Raises OSError; FlushError as `flush`.
        """
        stop -= stop % _GROUP
        if stop <= self.done or _mincore() is None:
            return
        flush(self._descriptor)
        os.posix_fadvise(self._descriptor, self.done, stop - self.done, os.POSIX_FADV_DONTNEED)
        if not self._is_dropped(self.done, stop):
            return
        os.posix_fadvise(self._descriptor, self.done, stop - self.done, os.POSIX_FADV_WILLNEED)
        buffer = ReadBuffer(_AT_ONCE)
        while self.done < stop and not is_over():
            count = os.preadv(self._descriptor, [buffer.view[: stop - self.done]], self.done)
            if not count:  # it was cut: whoever reads the rest finds out
                return
            bytes_read(count)
            self.crc = buffer.crc(self.crc, count)
            self.done += count

    def _is_dropped(self, start: int, stop: int) -> bool:
        """Whether the system's cache holds no page of [start, stop), as far as it says so."""
        mincore = _mincore()
        assert mincore is not None
        pages = ctypes.create_string_buffer(b"\1" * -(-(stop - start) // mmap.PAGESIZE))
        # private: ctypes tells where memory lies that could be written, and nothing is
        with mmap.mmap(
            self._descriptor, stop - start, access=mmap.ACCESS_COPY, offset=start
        ) as mapped:
            there = ctypes.c_char.from_buffer(mapped)
            failed = mincore(ctypes.addressof(there), stop - start, ctypes.addressof(pages))
            del there  # the map is not closed while something shows it
        return not failed and not pages.raw[:-1].translate(None, _NOT_THERE)


class ReadBehind:
    """Reads files while they are written, as far as it is told of that; one thread at a time."""

    def __init__(self) -> None:
        self._by_path: dict[Path, _Follower] = {}

    def read_on(self, path: Path, stop: int, is_over: Callable[[], bool]) -> None:
        """Read what a file holds before byte `stop`, and is not read yet; until `is_over` says so.

        Raises FlushError.  What else goes wrong here is left to whoever reads the rest.
        """
        try:
            follower = self._by_path.get(path)
            if follower is None:
                if len(self._by_path) == _MOST_FILES:
                    return
                follower = self._by_path[path] = _Follower(path)
            follower.read_on(stop, is_over)
        except FlushError:
            raise
        except (OSError, ValueError):  # a file system that cannot do this
            return

    def found(self, status: os.stat_result) -> tuple[int, int]:
        """Return how many bytes of a file were read from the disk, and the CRC-32C of these."""
        for follower in self._by_path.values():
            if os.path.samestat(follower.status, status) and follower.done <= status.st_size:
                return follower.done, follower.crc
        return 0, 0

    def close(self) -> None:
        """Let go of all files."""
        while self._by_path:
            self._by_path.popitem()[1].close()


@cache
def _mincore() -> Callable[[int, int, int], Any] | None:
    """Return int mincore(void *start, size_t nbytes, unsigned char *pages) of the C library."""
    if not hasattr(os, "posix_fadvise"):
        return None
    try:
        function = ctypes.CDLL(None).mincore
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    found: Callable[[int, int, int], Any] = function
    return found
