"""The look at the disk, and at DST after the switch: every byte there is one that was proven.

What was written is read from the disk, not from what the system remembers of writing it, where the
system can: past its cache, which costs least, else with the cache emptied of the file.  The disk
takes as long for that as the rest of the proof takes altogether, so both go on at once.

What is proven lies beside DST, and gets its name by renaming.  Another program, which knows nothing
of claims, may write there at the same time; so whoever says "proven" has read what lies there, as
any program would, and found what the disk held when it was proven.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ckptkit._io import crc32c as _crc32c
from ckptkit._io.files import Extent, aligned_buffer, file_size, os_error
from ckptkit._io.pool import bounded_map
from ckptkit._io.progress import bytes_read, phase
from ckptkit.errors import CkptkitError, OutputError, TruncatedError, WorkerLostError

_READ_AT_ONCE = 1 << 20  # bytes
_READ_FROM_DISK = 4 << 20  # bytes; no reading ahead hides how long the disk takes to answer

Checksums = Mapping[str, int]
"""Of each file by its name, or its path below a directory: the CRC-32C of all its bytes."""


class DiskReading:
    """Reads files from the disk, in a thread of its own, while other work goes on.

    `with DiskReading() as reading:` ends the thread at the end, whatever it has read.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._reading: Future[Checksums] | None = None
        self._missing = 0  # bytes that are still to be read
        self._is_over = False

    def start(self, files: Mapping[str, Path]) -> None:
        """Begin to read files, which have been written and stay as they are; by name."""
        self._missing = sum(file_size(path) for path in files.values())
        self._reading = self._pool.submit(self._read, files)

    def checksums(self) -> Checksums:
        """Wait until all are read; raises what reading them raised: see `read_from_disk`."""
        assert self._reading is not None
        with phase("read once more", self._missing):
            return self._reading.result()

    def __enter__(self) -> DiskReading:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._is_over = True
        self._pool.shutdown()

    def _read(self, files: Mapping[str, Path]) -> Checksums:
        found: dict[str, int] = {}
        for name, path in files.items():
            crc = 0
            for part in read_from_disk(path):
                if self._is_over:
                    return {}
                crc = _extended(crc, part)
                self._missing -= len(part)
            found[name] = crc
        return found


def files_below(root: Path) -> dict[str, Path]:
    """Return every file below a directory by its path from there."""
    return {
        str(file.relative_to(root)): file
        for place, _, names in os.walk(root)
        for file in (Path(place, name) for name in names)
    }


def compare_with_proven(
    proven: Checksums, dst: Path, files: Mapping[str, Path], executor: Executor | None = None
) -> None:
    """Read the files of DST; raise OutputError unless they are, byte for byte, those proven."""
    try:
        with phase("read once more", sum(file_size(path) for path in files.values())):
            paths = [path.absolute() for path in files.values()]  # a worker may be elsewhere
            crcs = bounded_map(executor, _checksum, paths, str)
            found: Checksums | None = dict(zip(files, crcs, strict=True))
    except WorkerLostError:  # which says nothing of what lies there
        raise
    except CkptkitError:  # gone, or cut short
        found = None
    if found != proven:
        raise OutputError(
            "what lies there is not what was proven: another program wrote there meanwhile",
            where=str(dst),
            hint="convert again when nothing else writes there",
        )


def _checksum(path: Path) -> int:
    crc = 0
    for part in _parts(path):
        crc = _extended(crc, part)
    return crc


def _parts(path: Path, start: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the bytes of a file from one of them on; an array lasts until the next step."""
    size = file_size(path)
    extent = Extent(path, 0, size)
    buffer = aligned_buffer(min(size, _READ_AT_ONCE))
    for at in range(start, size, _READ_AT_ONCE):
        part = buffer[: min(_READ_AT_ONCE, size - at)]
        extent.read_into(at, part.data)
        yield part


def _extended(crc: int, part: npt.NDArray[np.uint8]) -> int:
    extend = _crc32c.unlocked_extend()
    if extend is not None:
        return extend(crc, part.ctypes.data, len(part))
    return int(_crc32c.extend(crc, part.tobytes()))


def read_from_disk(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the bytes of a file as they are on the disk; an array lasts until the next step.

    Where the system cannot leave its cache out, that is emptied of the file, if it can be.
    Raises PathNotFoundError, FormatError (not a regular file), TruncatedError.
    """
    size = file_size(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (AttributeError, OSError):  # no such flag here; a file system in memory
        _forget_cached(path)
        yield from _parts(path)
        return
    done = 0
    try:
        # anonymous memory begins on a page, as reading past the cache asks for
        buffer = np.frombuffer(mmap.mmap(-1, _READ_FROM_DISK), np.uint8)
        while done < size:
            count = os.preadv(descriptor, [buffer.data], done)
            if not count:
                raise TruncatedError(str(path), "file shrank while read")
            bytes_read(count)
            done += count
            yield buffer[:count]
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise os_error(path, error) from error
        yield from _parts(path, done)  # blocks of another size, or such a file system
    finally:
        os.close(descriptor)


def _forget_cached(path: Path) -> None:
    with suppress(AttributeError, OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)  # what is not written yet stays in the cache
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
