"""The look at DST after the switch: every byte there is one that was proven.

What is proven lies beside DST, and gets its name by renaming.  Another program, which knows nothing
of claims, may write there at the same time; so whoever says "proven" has read what lies there.
And it is read from the disk, not from what the system remembers of writing it, where the system
can: past its cache, which costs least, else with the cache emptied of the file.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ckptkit._io import crc32c as _crc32c
from ckptkit._io.files import Extent, aligned_buffer, file_size, os_error
from ckptkit._io.pool import bounded_map
from ckptkit._io.progress import bytes_read, phase
from ckptkit.errors import CkptkitError, OutputError, TruncatedError

_READ_AT_ONCE = 1 << 20  # bytes
_READ_FROM_DISK = 4 << 20  # bytes; no reading ahead hides how long the disk takes to answer

Checksums = Mapping[str, int]
"""Of each file by its name, or its path below a directory: the CRC-32C of all its bytes."""


def checksums(files: Mapping[str, Path], executor: Executor | None = None) -> Checksums:
    """Return the checksums of files by name, every byte read.

    Raises PathNotFoundError, FormatError (not a regular file), TruncatedError.
    """
    return _each(_checksum, files, executor)


def _each(
    checksum: Callable[[Path], int], files: Mapping[str, Path], executor: Executor | None
) -> Checksums:
    with phase("read once more", sum(file_size(path) for path in files.values())):
        found = bounded_map(executor, checksum, list(files.values()), str)
        return dict(zip(files, found, strict=True))


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
        found: Checksums | None = _each(_checksum_on_disk, files, executor)
    except CkptkitError:  # gone, or cut short
        found = None
    if found != proven:
        raise OutputError(
            "what lies there is not what was proven: another program wrote there meanwhile",
            where=str(dst),
            hint="convert again when nothing else writes there",
        )


def _checksum(path: Path) -> int:
    size = file_size(path)
    extent = Extent(path, 0, size)
    buffer = aligned_buffer(min(size, _READ_AT_ONCE))
    crc = 0
    for start in range(0, size, _READ_AT_ONCE):
        part = buffer[: min(_READ_AT_ONCE, size - start)]
        extent.read_into(start, part.data)
        crc = _extended(crc, part)
    return crc


def _extended(crc: int, part: npt.NDArray[np.uint8]) -> int:
    extend = _crc32c.unlocked_extend()
    if extend is not None:
        return extend(crc, part.ctypes.data, len(part))
    return int(_crc32c.extend(crc, part.tobytes()))


def _checksum_on_disk(path: Path) -> int:
    """Return the checksum of a file that was flushed, as it is on the disk; raises as `checksums`.

    Where the system cannot leave its cache out, that is emptied of the file, if it can be.
    """
    size = file_size(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (AttributeError, OSError):  # no such flag here; a file system in memory
        _forget_cached(path)
        return _checksum(path)
    try:
        # anonymous memory begins on a page, as reading past the cache asks for
        buffer = np.frombuffer(mmap.mmap(-1, _READ_FROM_DISK), np.uint8)
        crc = done = 0
        while done < size:
            count = os.preadv(descriptor, [buffer.data], done)
            if not count:
                raise TruncatedError(str(path), "file shrank while read")
            crc = _extended(crc, buffer[:count])
            done += count
            bytes_read(count)
        return crc
    except OSError as error:
        if error.errno == errno.EINVAL:  # blocks of another size, or such a file system
            return _checksum(path)
        raise os_error(path, error) from error
    finally:
        os.close(descriptor)


def _forget_cached(path: Path) -> None:
    with suppress(AttributeError, OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
