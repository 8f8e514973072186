"""Ranges of bytes of files: the bytes of a whole file, or of one member of a zip archive.

Readers of formats that come both alone and inside an archive read from a byte range.  A stored
member is the archive's own bytes; a deflated one is inflated once, into an unnamed temporary file.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptkit._io.files import file_size, read_exact, read_into
from ckptkit._io.progress import bytes_read
from ckptkit.errors import OutputError, TruncatedError
from ckptkit.stores.containers.zip_archive import STORED, Member, check_expansion, member_chunks

PAGE = 16_384  # bytes: a header and what lies around it; headers lie between the values
_PAGES_KEPT = 256
MAX_SPOOL_EXPANSION = 200  # to be inflated to disk; sparse weights with optimizer state reach 20


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes [start, start + nbytes) of a file, or a spooled copy of a deflated member.

    Picklable; `path` is the file that the user knows of.  A byte range made from a deflated member
    inflates it on first use (once per process, into an unnamed temporary file).
    """

    path: Path
    start: int
    nbytes: int
    deflated: Member | None = None

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return `nbytes` bytes at `offset` of the range; raises TruncatedError past its end."""
        self._check(offset, nbytes)
        if self.deflated is None:
            return read_exact(self.path, self.start + offset, nbytes)
        buffer = bytearray(nbytes)
        self._read_spool(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset` of the range; raises TruncatedError past its end."""
        self._check(offset, len(buffer))
        if self.deflated is None:
            read_into(self.path, self.start + offset, buffer)
        else:
            self._read_spool(offset, buffer)

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or offset + nbytes > self.nbytes:
            raise TruncatedError(
                f"{self.path} @ {self.start + offset}",
                f"{nbytes} bytes reach past the end of the data",
                expected=f"at most {max(0, self.nbytes - offset)} bytes",
                found=nbytes,
            )

    def _read_spool(self, offset: int, buffer: memoryview) -> None:
        assert self.deflated is not None
        spool = _spool(self.path, self.deflated)
        done = 0
        while done < len(buffer):
            count = os.preadv(spool.fd, [buffer[done:]], offset + done)
            if not count:
                raise TruncatedError(str(self.path), "temporary copy of a member shrank")
            done += count
        bytes_read(done)


def whole_file(path: Path) -> ByteRange:
    """Return the byte range that is all of a file."""
    return ByteRange(path, 0, file_size(path))


def member_range(path: Path, member: Member) -> ByteRange:
    """Return the bytes of a member: the archive's own where stored, else of a spooled copy."""
    if member.method == STORED:
        return ByteRange(path, member.offset, member.nbytes)
    check_expansion(
        f"{path}:{member.name}", member.nbytes, member.stored_nbytes, MAX_SPOOL_EXPANSION
    )
    return ByteRange(path, 0, member.nbytes, member)


class PageCache:
    """Pages of a byte range, for the many small reads of headers; some of them are kept."""

    def __init__(self, byte_range: ByteRange) -> None:
        self._range = byte_range
        self._kept: dict[int, bytes] = {}

    def page(self, number: int) -> bytes:
        """Return PAGE bytes from number * PAGE on, fewer at the end of the byte range."""
        page = self._kept.get(number)
        if page is None:
            if len(self._kept) >= _PAGES_KEPT:
                self._kept.clear()
            start = number * PAGE
            page = self._range.read(start, min(PAGE, self._range.nbytes - start))
            self._kept[number] = page
        return page


# --- copies of deflated members ------------------------------------------------------------------


class _Spool:
    """The descriptor of an unnamed temporary file; closed when the last reference goes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        import tempfile  # here, since few members are deflated

        self.fd = -1
        with tempfile.TemporaryFile() as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            self.fd = os.dup(file.fileno())

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


_SPOOLS_KEPT = 2
_spools: OrderedDict[tuple[object, ...], _Spool] = OrderedDict()
_spools_lock = threading.Lock()


def _spool(path: Path, member: Member) -> _Spool:
    """Return the temporary file with a deflated member's content; made once, then remembered."""
    import tempfile

    status = path.stat()
    key = (path, status.st_ino, status.st_size, status.st_mtime_ns, member)
    with _spools_lock:
        spool = _spools.get(key)
        if spool is not None:
            _spools.move_to_end(key)
            return spool
        try:
            room = os.statvfs(tempfile.gettempdir())
            if member.nbytes > room.f_bavail * room.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            spool = _Spool(member_chunks(path, member))
        except OSError as error:
            raise OutputError(
                f"no room to inflate {member.nbytes} bytes: {error.strerror}",
                where=tempfile.gettempdir(),
                hint="set TMPDIR to a larger disk",
            ) from error
        _spools[key] = spool
        while len(_spools) > _SPOOLS_KEPT:
            _spools.popitem(last=False)
        return spool


def forget_spools() -> None:
    """Let go of the temporary copies of deflated members that this process keeps."""
    with _spools_lock:
        _spools.clear()
