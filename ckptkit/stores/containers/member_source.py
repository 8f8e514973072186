"""The content of a zip member as a source of bytes: in any order, or once from front to back."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptkit.errors import ChecksumError, TruncatedError
from ckptkit.stores.containers import byte_range, zip_archive
from ckptkit.stores.containers.encoded_array import ByteSource

_HELD_BYTES = 16 << 20  # of a deflated member that is read in memory, not through a temporary file
_STEP = 1 << 18  # bytes that are read and checksummed while they are in a core's cache


@dataclass(frozen=True, slots=True)
class _InflatedMember:
    """The content of a small deflated member, in memory."""

    content: bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        buffer[:] = self.content[offset : offset + len(buffer)]


def member_source(path: Path, member: zip_archive.Member) -> ByteSource:
    """Return a member's content for reading in any order."""
    if member.method != zip_archive.STORED and member.nbytes <= _HELD_BYTES:
        return _InflatedMember(zip_archive.read_member(path, member, _HELD_BYTES))
    return byte_range.member_range(path, member)


class SequentialMember:
    """Reads a member front to back once, from `start` on, and compares its CRC-32 at the end."""

    def __init__(self, path: Path, member: zip_archive.Member, start: int) -> None:
        self._path = path
        self._member = member
        self._chunks: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._crc = 0
        head = bytearray(start)
        if self._member.method != zip_archive.STORED:
            self._chunks = zip_archive.member_chunks(path, self._member)
        self._range = byte_range.ByteRange(path, self._member.offset, self._member.nbytes)
        self.read_into(0, memoryview(head))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`; `offset` must be where the last call ended."""
        if self._chunks is not None:
            self._inflate_into(buffer)
            return
        for start in range(0, len(buffer), _STEP):
            step = buffer[start : start + _STEP]
            self._range.read_into(offset + start, step)
            self._crc = zlib.crc32(step, self._crc)

    def finish(self) -> None:
        """Compare the checksum; raises ChecksumError."""
        if self._chunks is not None:
            for _ in self._chunks:
                pass
        elif self._crc != self._member.crc32:
            raise ChecksumError(
                f"{self._path}:{self._member.name}",
                "CRC-32 of the archive member differs",
                expected=f"{self._member.crc32:08x}",
                found=f"{self._crc:08x}",
                hint="the file was damaged; copy it again",
            )

    def _inflate_into(self, buffer: memoryview) -> None:
        assert self._chunks is not None
        done = 0
        while done < len(buffer):
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    raise TruncatedError(str(self._path), "archive member ends early")
            step = min(len(buffer) - done, len(self._rest))
            buffer[done : done + step] = self._rest[:step]
            self._rest = self._rest[step:]
            done += step


def verify_member(path: Path, member: zip_archive.Member) -> None:
    """Read a member to its end, and compare its CRC-32; raises ChecksumError."""
    for _ in zip_archive.member_chunks(path, member):
        pass
