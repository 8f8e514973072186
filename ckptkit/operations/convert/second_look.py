"""The look at the disk, and at DST after the switch: every byte there is one that was proven.

What was written is read from the disk, not from what the system remembers of writing it, where the
system can: past its cache, which costs least, else with the cache emptied of the file.  The disk
takes as long for that as the rest of the proof takes altogether, so both go on at once; and it
begins while there is still more to write (`read_behind`).

What is proven lies beside DST, and gets its name by renaming.  Another program, which knows nothing
of claims, may write there at the same time; so whoever says "proven" has read what lies there, as
any program would, and found what the disk held when it was proven.

The proof itself reads through the cache.  That it saw what the disk holds follows from this last
look, through the cache as well; not where a page left the cache in between.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from ckptkit._io import crc32c as _crc32c
from ckptkit._io.file_states import os_error
from ckptkit._io.files import Extent, file_size
from ckptkit._io.filling import followed_by
from ckptkit._io.pool import bounded_map
from ckptkit._io.progress import bytes_read, phase
from ckptkit._io.read_buffer import ReadBuffer
from ckptkit.errors import CkptkitError, OutputError, TruncatedError, WorkerLostError
from ckptkit.operations.convert.read_behind import FlushError, ReadBehind, flush

_READ_AT_ONCE = 1 << 20  # bytes
_READ_FROM_DISK = 4 << 20  # bytes; no reading ahead hides how long the disk takes to answer
# Two reads at once keep a disk busy; more gain nothing.  A file that is read in two pieces has at
# least so many bytes; pieces begin at a block of any disk.
_IN_TWO = 16 << 20
_BLOCK = 1 << 16
_PIECE = 64 << 20  # bytes that one task reads of a file that lies in the system's cache

Checksums = Mapping[str, int]
"""Of each file by its name, or its path below a directory: the CRC-32C of all its bytes."""


class DiskReading:
    """Reads files from the disk, in threads of its own, while other work goes on.

    `with DiskReading() as reading:` ends the threads at the end, whatever they have read.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self._reading: Future[Checksums] | None = None
        self._behind = ReadBehind()
        self._following: Future[None] | None = None
        self._missing = 0  # bytes that are still to be read
        self._is_over = False

    @contextmanager
    def following(self) -> Iterator[None]:
        """Begin to read what the block writes, in this thread, while it writes more."""
        told: SimpleQueue[tuple[Path, int] | None] = SimpleQueue()
        is_written = False

        def follow() -> None:
            while (news := told.get()) is not None:
                if is_written:  # the rest is read past the cache, which costs less
                    continue
                try:
                    self._behind.read_on(*news, lambda: is_written)
                except FlushError as error:
                    raise os_error(news[0], error) from error

        def note(path: Path, stop: int) -> None:
            if self._following is None:
                self._following = self._pool.submit(follow)
            told.put((path, stop))

        try:
            with followed_by(note):
                yield
        finally:
            is_written = True
            told.put(None)

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
        self._behind.close()

    def _read(self, files: Mapping[str, Path]) -> Checksums:
        if self._following is not None:
            self._following.result()
        return {name: self._checksum(path) for name, path in files.items()}

    def _checksum(self, path: Path) -> int:
        """Return the CRC-32C of a file, as far as it is read before this is over."""
        try:
            done, crc = self._behind.found(path.stat())
        except OSError as error:
            raise os_error(path, error) from error
        self._missing -= done
        size = file_size(path)
        if size - done < _IN_TWO:
            return self._extended_by(crc, _Piece(path, done, size))
        half = done + (size - done) // 2
        half -= half % _BLOCK
        other = self._pool.submit(self._extended_by, 0, _Piece(path, half, size))
        crc = self._extended_by(crc, _Piece(path, done, half))
        return _crc32c.combine(crc, other.result(), size - half)

    def _extended_by(self, crc: int, piece: _Piece) -> int:
        """Return a checksum, extended by the bytes of a piece, as they are on the disk."""
        for buffer, nbytes in read_from_disk(*piece):
            if self._is_over:
                break
            crc = buffer.crc(crc, nbytes)
            self._missing -= nbytes  # of two threads, for the eye alone
        return crc


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
    found: Checksums | None
    try:
        with phase("read once more", sum(file_size(path) for path in files.values())):
            found = _checksums(files, executor)
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


def _checksums(files: Mapping[str, Path], executor: Executor | None) -> Checksums:
    pieces = [
        (name, _Piece(path.absolute(), start, min(start + _PIECE, size)))
        for name, path in files.items()  # absolute: a worker may be in another directory
        for size in (file_size(path),)
        for start in range(0, max(size, 1), _PIECE)
    ]
    crcs = bounded_map(executor, _checksum, [piece for _, piece in pieces], _name)
    found = dict.fromkeys(files, 0)
    for (name, piece), crc in zip(pieces, crcs, strict=True):
        found[name] = _crc32c.combine(found[name], crc, piece.stop - piece.start)
    return found


class _Piece(NamedTuple):
    """Bytes [start, stop) of a file."""

    path: Path
    start: int
    stop: int


def _name(piece: _Piece) -> str:
    return str(piece.path)


def _checksum(piece: _Piece) -> int:
    crc = 0
    for buffer, nbytes in _parts(*piece):
        crc = buffer.crc(crc, nbytes)
    return crc


def _parts(path: Path, start: int, stop: int) -> Iterator[tuple[ReadBuffer, int]]:
    """Yield bytes [start, stop) of a file, as `read_from_disk` does, through the cache."""
    extent = Extent(path, 0, stop)
    buffer = ReadBuffer(_READ_AT_ONCE)
    for at in range(start, stop, _READ_AT_ONCE):
        nbytes = min(_READ_AT_ONCE, stop - at)
        extent.read_into(at, buffer.view[:nbytes])
        yield buffer, nbytes


def read_from_disk(path: Path, start: int, stop: int) -> Iterator[tuple[ReadBuffer, int]]:
    """Yield bytes [start, stop) of a file as they are on the disk.

    Where the system cannot leave its cache out, that is emptied of the file, if it can be.

    Args:
        path: of a file that has been written.
        start: the first byte; at a block of the disk, if it is to be read past the cache.
        stop: the byte after the last.

    Yields:
        A buffer and how many bytes it begins with, until the next step.

    Raises:
        PathNotFoundError, FormatError (not a regular file), TruncatedError, CkptkitError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (AttributeError, OSError):  # no such flag here; a file system in memory
        yield from _after_forgetting(path, start, stop)
        return
    done = start
    try:
        buffer = ReadBuffer(_READ_FROM_DISK)
        while done < stop:
            # whole blocks are asked for; of the last one the file may have less
            wanted = min(_READ_FROM_DISK, -(-(stop - done) // _BLOCK) * _BLOCK)
            count = min(os.preadv(descriptor, [buffer.view[:wanted]], done), stop - done)
            if not count:
                raise TruncatedError(str(path), "file shrank while read")
            bytes_read(count)
            done += count
            yield buffer, count
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise os_error(path, error) from error
        yield from _after_forgetting(path, done, stop)  # larger blocks, or such a file system
    finally:
        os.close(descriptor)


def _after_forgetting(path: Path, start: int, stop: int) -> Iterator[tuple[ReadBuffer, int]]:
    """Yield bytes [start, stop) of a file, of which the cache is emptied, as far as it can be."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            flush(descriptor)
            with suppress(AttributeError, OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise os_error(path, error) from error
    yield from _parts(path, start, stop)
