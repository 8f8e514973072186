"""Reading zip archives without trusting them: the directory, and the content of members.

Layout (PKWARE APPNOTE 6.3.10; all integers little-endian):

    [local header, data, (data descriptor)] per member … central directory … end record

The end record (22 bytes, then a comment) gives the place of the central directory; where a field
is 0xFFFF or 0xFFFFFFFF, the ZIP64 end record, found through its 20-byte locator just before, has
the true value, and per member so does extra field 0x0001.  Every member is described twice, in the
central directory and in its local header.  Programs disagree on which one to believe, so a
crafted archive can show one content to a scanner and another to a loader.

Refused, with FormatError: no end record, a second end record inside the comment, bytes before the
first member or after the end record, a name that occurs twice, headers that disagree, encryption,
overlapping members, a deflated member that grows past its declared size, wrong CRC-32.
Methods other than stored (0) and deflated (8) raise UnsupportedError.  Nothing is ever extracted
to a named file (`ckptkit.stores.containers.byte_range`).
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import (
    Extent,
    expect_reads,
    file_size,
    read_exact,
)
from ckptkit.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError

STORED, DEFLATED = 0, 8
MAX_MEMBERS = 1_000_000  # an npz of a model has one per tensor; the largest seen has 20,000
MAX_DIRECTORY = 256 << 20  # bytes; 1,000,000 members with names of 200 bytes
MAX_EXPANSION = 1100  # deflate cannot exceed 1032:1, so a larger claim is a lie
EXPANSION_FLOOR = 64 << 20  # bytes; below this no ratio is refused
_CHUNK = 1 << 20
_READ_BYTES = 1 << 18  # read and checksummed while they are in a core's cache
_CRC32 = 0xEDB88320  # the polynomial of the CRC-32 of zip, reflected (APPNOTE 4.4.7)

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_PATCH, _STRONG_ENCRYPTION = 0x20, 0x40
MAX_VERSION = 63  # of the format, times ten: the newest that zipfile reads
_UNICODE_PATH = 0x7075  # extra field with another name
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


_thread = threading.local()


class Member(NamedTuple):
    """One file of the archive; `offset` is where its data starts, in bytes from the archive's."""

    name: str
    method: int
    crc32: int
    nbytes: int
    stored_nbytes: int
    offset: int


class _CentralEntry(NamedTuple):
    """A member as the central directory tells it; `header` is the place of its local header."""

    name: bytes
    needs: int
    flags: int
    method: int
    crc32: int
    stored_nbytes: int
    nbytes: int
    header: int


_AROUND_HEADER = 512  # bytes: a local header, its name, and the header of an array behind it


def read_directory(path: Path) -> dict[str, Member]:
    """Return the members of the archive by name, in the order of the central directory.

    Reads headers only.  Raises FormatError, TruncatedError, UnsupportedError, PathNotFoundError.
    """
    return {member.name: member for member in members_of(path)}


def members_of(path: Path) -> Iterator[Member]:
    """Yield the members of the archive as their headers are read; raises as `read_directory` does.

    Whether they overlap is known after the last.
    """
    start, size, count = _find_directory(path)
    entries = list(_central_entries(path, read_exact(path, start, size), count))
    expect_reads(path, [(entry.header, _AROUND_HEADER) for entry in entries])
    names: set[str] = set()
    ends: list[tuple[int, int, str]] = []
    for entry in entries:
        member = _checked_member(path, entry, start)
        if member.name in names:
            raise FormatError(
                str(path),
                f"the archive holds {member.name!r} twice",
                hint="two programs would read two different contents from it",
            )
        names.add(member.name)
        ends.append((entry.header, member.offset + member.stored_nbytes, member.name))
        yield member
    _check_layout(path, sorted(ends), start)


def member_names(path: Path) -> tuple[str, ...]:
    """Return the names of the members, in the order of the central directory, and read it alone.

    Raises FormatError, TruncatedError, UnsupportedError, PathNotFoundError.
    """
    start, size, count = _find_directory(path)
    entries = _central_entries(path, read_exact(path, start, size), count)
    return tuple(_decoded(path, entry) for entry in entries)


def inflated_bytes(path: Path) -> int:
    """Return how many bytes the compressed members are said to hold, in the central directory.

    Raises FormatError, TruncatedError, PathNotFoundError.
    """
    start, size, count = _find_directory(path)
    entries = _central_entries(path, read_exact(path, start, size), count)
    return sum(entry.nbytes for entry in entries if entry.method != STORED)


def read_member(path: Path, member: Member, max_bytes: int) -> bytes:
    """Return a whole member, CRC-32 verified; more than `max_bytes` is refused before reading."""
    if member.nbytes > max_bytes:
        raise FormatError(
            f"{path}:{member.name}",
            "member is too large to be read whole",
            expected=f"at most {max_bytes} bytes",
            found=member.nbytes,
        )
    return b"".join(member_chunks(path, member))


def member_chunks(path: Path, member: Member) -> Iterator[bytes]:
    """Yield the content of a member in pieces; the CRC-32 is compared after the last one.

    Raises ChecksumError, FormatError, TruncatedError.
    """
    crc = 0
    for chunk in _raw_chunks(path, member):
        crc = zlib.crc32(chunk, crc)
        yield chunk
    check_crc32(path, member, crc)


def crc32_of_stored(path: Path, member: Member, start: int, stop: int) -> int:
    """Return the CRC-32 of bytes [start, stop) of a member that is not compressed.

    Those of neighbouring ranges are joined by `joined_crc32`.  Raises TruncatedError.
    """
    from ckptkit._io.read_buffer import ReadBuffer  # here, since lists of members need none

    extent = Extent(path, member.offset + start, stop - start)
    if not hasattr(_thread, "buffer"):
        _thread.buffer = ReadBuffer(_READ_BYTES)
    crc = 0
    for at in range(0, stop - start, _READ_BYTES):
        piece = _thread.buffer.view[: min(_READ_BYTES, stop - start - at)]
        extent.read_into(at, piece)
        crc = zlib.crc32(piece, crc)
    return crc


def joined_crc32(first: int, second: int, second_nbytes: int) -> int:
    """Return the CRC-32 of two runs laid end to end, from that of each and the second's length."""
    from ckptkit._io.crc32c import combine  # likewise

    return combine(first, second, second_nbytes, _CRC32)


def check_crc32(path: Path, member: Member, crc: int) -> None:
    """Raise ChecksumError unless `crc` is that of the whole content of a member."""
    if crc != member.crc32:
        raise ChecksumError(
            f"{path}:{member.name}",
            "CRC-32 of the archive member differs",
            expected=f"{member.crc32:08x}",
            found=f"{crc:08x}",
            hint="the file was damaged; copy it again",
        )


# --- the end record -------------------------------------------------------------------------------


def _find_directory(path: Path) -> tuple[int, int, int]:
    """Return (start, size in bytes, number of members) of the central directory."""
    total = file_size(path)
    tail_size = min(total, _END.size + 0xFFFF)
    tail = read_exact(path, total - tail_size, tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > tail_size:
        raise TruncatedError(
            str(path),
            "no zip end record: the archive was cut short or is no zip",
            hint="copy it again",
        )
    fields = _END.unpack_from(tail, at)
    disk, first_disk, here, count, size, start, comment = fields[1:]
    where = f"{path} @ {total - tail_size + at}"
    if at + _END.size + comment != tail_size:
        raise FormatError(
            where,
            "zip end record is not at the end of the file",
            expected=f"{comment} bytes after it",
            found=tail_size - at - _END.size,
        )
    end = total - tail_size + at
    is_full = _FULL16 in (disk, here, count) or _FULL32 in (size, start)
    if is_full or _has_locator(path, end):
        told = count, size, start
        end, start, size, count = _zip64_end(path, end, where)
        # Writers that stream (PyTorch's) add the record to every archive: it says the same again.
        for old, new, full in zip(
            told, (count, size, start), (_FULL16, _FULL32, _FULL32), strict=True
        ):
            if old not in (new, full):
                raise FormatError(
                    where,
                    "the two end records of the zip archive disagree",
                    expected=new,
                    found=old,
                    hint="two programs would read two different contents from it",
                )
    elif disk or first_disk or here != count:
        raise UnsupportedError("a zip archive split over several files", where=str(path))
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise FormatError(
            where,
            "zip directory is too large",
            expected=f"at most {MAX_MEMBERS} members in {MAX_DIRECTORY} bytes",
            found=f"{count} in {size}",
        )
    if start + size != end:
        raise FormatError(
            where,
            "zip directory is not where the end record says",
            expected=f"its end at {end}",
            found=start + size,
            hint="bytes were put before or into the archive, or it was cut",
        )
    return start, size, count


def _has_locator(path: Path, end: int) -> bool:
    """Whether the locator of a ZIP64 end record stands before the end record, as Python looks."""
    at = end - _LOCATOR64.size
    return at >= 0 and read_exact(path, at, 4) == b"PK\x06\x07"


def _zip64_end(path: Path, end: int, where: str) -> tuple[int, int, int, int]:
    """Return (place of the ZIP64 end record, start, size, count) of the central directory."""
    if end < _LOCATOR64.size + _END64.size:
        raise FormatError(where, "zip end record refers to a ZIP64 record that is not there")
    magic, disk, place, disks = _LOCATOR64.unpack(
        read_exact(path, end - _LOCATOR64.size, _LOCATOR64.size)
    )
    if magic != b"PK\x06\x07" or disk or disks > 1 or place + _END64.size > end:
        raise FormatError(where, "ZIP64 locator is damaged")
    record = _END64.unpack(read_exact(path, place, _END64.size))
    # Python's zipfile knows no record with more in it, and would fall back to the other one.
    is_plain = record[1] == _END64.size - 12
    if record[0] != b"PK\x06\x06" or not is_plain or place + _END64.size + 20 != end:
        raise FormatError(f"{path} @ {place}", "ZIP64 end record is damaged")
    if record[4] or record[5] or record[6] != record[7]:
        raise UnsupportedError("a zip archive split over several files", where=str(path))
    return place, record[9], record[8], record[7]


# --- members --------------------------------------------------------------------------------------


def _central_entries(path: Path, data: bytes, count: int) -> list[_CentralEntry]:
    entries: list[_CentralEntry] = []
    at = 0
    while at < len(data):
        if at + _CENTRAL.size > len(data) or data[at : at + 4] != b"PK\x01\x02":
            raise FormatError(str(path), f"zip directory is damaged at entry {len(entries)}")
        fields = _CENTRAL.unpack_from(data, at)
        needs, flags, method = fields[2] & 0xFF, fields[3], fields[4]
        crc, stored, size, n_name, n_extra, n_comment, disk = fields[7:14]
        header = fields[16]
        name_at = at + _CENTRAL.size
        at = name_at + n_name + n_extra + n_comment
        if at > len(data):
            raise FormatError(str(path), f"zip directory is cut short in entry {len(entries)}")
        name = data[name_at : name_at + n_name]
        extra = data[name_at + n_name : name_at + n_name + n_extra]
        if disk not in (0, _FULL16):
            raise UnsupportedError("a zip archive split over several files", where=str(path))
        size, stored, header = _zip64_sizes(f"{path}:{name!r}", extra, size, stored, header)
        _check_other_name(path, name, extra)
        entries.append(_CentralEntry(name, needs, flags, method, crc, stored, size, header))
    if len(entries) != count:
        raise FormatError(
            str(path), "zip directory has another length", expected=count, found=len(entries)
        )
    return entries


def _check_other_name(path: Path, name: bytes, extra: bytes) -> None:
    """Refuse an extra field that gives another name, which some programs take and others not."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        other = extra[at + 9 : at + 4 + length]  # after a version and the CRC-32 of the first name
        if kind == _UNICODE_PATH and other != name:
            raise FormatError(
                str(path),
                f"zip member {name!r} is called {other!r}, too",
                hint="two programs would read two different contents from it",
            )
        at += 4 + length


def _zip64_sizes(
    where: str, extra: bytes, size: int, stored: int, header: int
) -> tuple[int, int, int]:
    """Return (size, stored size, header place) with the ZIP64 values where the fields are full."""
    wanted = [value == _FULL32 for value in (size, stored, header)]
    if not any(wanted):
        return size, stored, header
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 8 * sum(wanted) and at + 4 + length <= len(extra):
            values = iter(struct.unpack_from(f"<{sum(wanted)}Q", extra, at + 4))
            full = [
                next(values) if w else v
                for w, v in zip(wanted, (size, stored, header), strict=True)
            ]
            return full[0], full[1], full[2]
        at += 4 + length
    raise FormatError(where, "zip entry lacks its 64-bit sizes")


def _checked_member(path: Path, entry: _CentralEntry, directory: int) -> Member:
    """Return the member after comparing its local header with the central directory."""
    name = _decoded(path, entry)
    where = f"{path}:{name}"
    if entry.flags & _ENCRYPTED:
        raise UnsupportedError(
            "encrypted zip member", where=where, hint="decrypt the archive first"
        )
    if entry.flags & (_PATCH | _STRONG_ENCRYPTION) or entry.needs > MAX_VERSION:
        raise UnsupportedError(
            "zip member that Python does not read",
            where=where,
            hint="make the archive anew with another program",
        )
    if entry.method not in (STORED, DEFLATED):
        raise UnsupportedError(
            f"zip compression method {entry.method}", where=where, hint="store or deflate it"
        )
    if entry.header + _LOCAL.size > directory:
        raise FormatError(where, "zip member lies outside the archive")
    # one read takes header, name and the usual extra fields
    likely = min(_LOCAL.size + len(entry.name) + 64, directory - entry.header)
    head = read_exact(path, entry.header, likely)
    local = _LOCAL.unpack_from(head)
    flags, method = local[2], local[3]
    crc, stored, size, n_name, n_extra = local[6:11]
    data = entry.header + _LOCAL.size + n_name + n_extra
    if local[0] != b"PK\x03\x04" or data + entry.stored_nbytes > directory:
        raise FormatError(where, "zip member lies outside the archive or its header is damaged")
    if data - entry.header > likely:
        head = read_exact(path, entry.header, data - entry.header)
    rest = head[_LOCAL.size : data - entry.header]
    size, stored, _ = _zip64_sizes(where, rest[n_name:], size, stored, 0)
    agreed = (rest[:n_name], method, flags & ~_DESCRIPTOR) == (
        entry.name,
        entry.method,
        entry.flags & ~_DESCRIPTOR,
    )
    # With bit 3 the writer could not seek back: sizes and CRC follow the data, zeros stand here.
    sizes = (crc, stored, size)
    known = (entry.crc32, entry.stored_nbytes, entry.nbytes)
    late = bool(flags & _DESCRIPTOR) and all(v in (0, k) for v, k in zip(sizes, known, strict=True))
    if not agreed or (sizes != known and not late):
        raise FormatError(
            where,
            "zip member is described in two ways that disagree",
            hint="two programs would read two different contents from it",
        )
    _check_sizes(where, entry)
    return Member(name, method, entry.crc32, entry.nbytes, entry.stored_nbytes, data)


def _decoded(path: Path, entry: _CentralEntry) -> str:
    """Return the member's name; UTF-8 where flagged, else code page 437 as the format says."""
    try:
        name = entry.name.decode("utf-8" if entry.flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise FormatError(str(path), f"zip member name {entry.name!r} is not UTF-8") from None
    if "\0" in name or not name:
        raise FormatError(str(path), f"zip member name {name!r} is not a name")
    return name


def _check_sizes(where: str, entry: _CentralEntry) -> None:
    if entry.method == STORED and entry.nbytes != entry.stored_nbytes:
        raise FormatError(
            where, "stored zip member", expected=f"{entry.nbytes} bytes", found=entry.stored_nbytes
        )
    check_expansion(where, entry.nbytes, entry.stored_nbytes, MAX_EXPANSION)


def check_expansion(where: str, nbytes: int, stored: int, limit: int) -> None:
    """Raise FormatError for a deflated member that claims to grow more than `limit` times."""
    if nbytes > max(EXPANSION_FLOOR, limit * stored):
        raise FormatError(
            where,
            "zip member would grow beyond measure",
            expected=f"at most {limit} times its {stored} stored bytes",
            found=nbytes,
        )


def _check_layout(path: Path, extents: list[tuple[int, int, str]], directory: int) -> None:
    """Refuse bytes before the first member and members that share bytes."""
    first = extents[0][0] if extents else directory
    if first:
        raise FormatError(
            str(path), "bytes before the first zip member", expected="none", found=first
        )
    for (_, end, name), (start, _, other) in pairwise(extents):
        if start < end:
            raise FormatError(str(path), f"zip members {name!r} and {other!r} overlap")


# --- content --------------------------------------------------------------------------------------


def _raw_chunks(path: Path, member: Member) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-15) if member.method == DEFLATED else None
    done = 0
    for at in range(0, member.stored_nbytes, _CHUNK):
        chunk = read_exact(path, member.offset + at, min(_CHUNK, member.stored_nbytes - at))
        if inflater is None:
            done += len(chunk)
            yield chunk
            continue
        pending = chunk
        while True:
            # one byte more than is left shows a member that outgrows its declared size
            limit = min(_CHUNK, member.nbytes - done + 1)
            try:
                piece = inflater.decompress(pending, limit)
            except zlib.error as error:
                raise FormatError(f"{path}:{member.name}", f"deflated data: {error}") from None
            pending = inflater.unconsumed_tail
            done += len(piece)
            if done > member.nbytes or inflater.unused_data:
                raise FormatError(
                    f"{path}:{member.name}",
                    "deflated member does not end where the archive says",
                    expected=f"{member.nbytes} bytes",
                    found="more",
                )
            if piece:
                yield piece
            # a full piece may leave more inside the inflater, even with no input pending
            if inflater.eof or (not pending and len(piece) < limit):
                break
    if done != member.nbytes or (inflater is not None and not inflater.eof):
        raise TruncatedError(
            f"{path}:{member.name}",
            "deflated member ends early",
            expected=f"{member.nbytes} bytes",
            found=done,
        )
