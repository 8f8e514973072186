"""A large header of the plain form, read a piece at a time into specs that are kept packed.

A header of a million tensors has a hundred megabytes, which as JSON take a thousand.  Nearly all
are of one form: each entry with its three fields in the usual order, and no escapes in names.  What
is of that form, with nothing wrong in it, is read here; everything else is left to `header`, which
alone says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError
from ckptkit.stores.containers import strict_json
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.safetensors.header import (
    CODES,
    LENGTH_BYTES,
    MAX_HEADER,
    METADATA,
    whole_bytes,
)
from ckptkit.text import lazy_pattern

LARGE_HEADER = 8 << 20  # bytes; of some 80,000 tensors
_PIECE = 1 << 20  # bytes read at a time
_TOGETHER = 1 << 10  # tensors that are packed at once
_AHEAD = 1 << 16  # an entry with more bytes is not of the plain form
_LONGEST_METADATA = 1 << 20  # bytes; more are left to a parser

_RAW_METADATA = METADATA.encode()

_S = rb"[ \t\n\r]*"
_SIZE = rb"(?:0|[1-9][0-9]{0,17})"
_NAME = rb'"([^"\\\x00-\x1f]*)"'
_ENTRY = lazy_pattern(
    _S.join(
        (
            *(b"", _NAME, b":", rb"\{", b'"dtype"', b":", b'"([A-Z0-9_]+)"', b",", b'"shape"'),
            *(b":", rb"\[([^\]]*)\]", b",", b'"data_offsets"', b":", rb"\[", b"(%s)" % _SIZE),
            *(b",", b"(%s)" % _SIZE, rb"\]", rb"\}", b"([,}])"),
        )
    )
)
_SHAPE = lazy_pattern(_S + b"(?:%s%s(?:,%s%s%s)*)?" % (_SIZE, _S, _S, _SIZE, _S))
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_METADATA_ENTRY = lazy_pattern(
    _S
    + b'"%s"' % _RAW_METADATA
    + _S.join((b"", b":", b""))
    + rb"(\{(?:[^\"{}]|"
    + _TEXT
    + rb")*\})"
    + _S
    + b"([,}])"
)


class LargeHeader(NamedTuple):
    """What a large header says; the specs are in the order of their bytes."""

    specs: PackedSpecs
    metadata: dict[str, str]


class _NotPlain(Exception):
    """The header is not of the plain form, or something is wrong with it."""


def read_large_header(path: Path) -> LargeHeader | None:
    """Return what the header of a file says, checked as `header.parse_header` does.

    Returns:
        None where the header is not large, or not of the plain form, or has any fault.

    Raises:
        PathNotFoundError: nothing lies there.
    """
    size = file_size(path)
    if size < LENGTH_BYTES + LARGE_HEADER:
        return None
    length = int.from_bytes(read_exact(path, 0, LENGTH_BYTES), "little")
    if not LARGE_HEADER <= length <= min(MAX_HEADER, size - LENGTH_BYTES):
        return None

    def read(at: int, nbytes: int) -> bytes:
        return read_exact(path, LENGTH_BYTES + at, nbytes)

    return parse_large_header(read, length, size - LENGTH_BYTES - length)


def parse_large_header(
    read: Callable[[int, int], bytes], length: int, data_bytes: int
) -> LargeHeader | None:
    """Return the checked header of a file with `data_bytes` bytes after it; None as above.

    read: gives bytes of the header, of which there are `length`, by their place and number.
    """
    try:
        return _parsed(_Pieces(read, length), LENGTH_BYTES + length, data_bytes)
    except _NotPlain:
        return None


def _parsed(header: _Pieces, data_start: int, data_bytes: int) -> LargeHeader:
    metadata: dict[str, str] | None = None
    specs = PackedSpecs()
    kinds: dict[tuple[bytes, bytes], tuple[int, int]] = {}  # form and bytes, by dtype and shape
    names: list[str] = []
    forms: list[int] = []
    offsets: list[int] = []
    end = 0
    is_in_order = True
    for match in header.entries():
        if match.re.groups == 2:  # of the metadata
            if metadata is not None:
                raise _NotPlain
            metadata = _metadata_of(match[1])
            continue
        raw_name, raw_code, raw_shape, raw_begin, raw_end, _after = match.groups()
        kind = kinds.get((raw_code, raw_shape))
        if kind is None:
            kind = kinds[raw_code, raw_shape] = _kind_of(raw_code, raw_shape, specs)
        form, nbytes = kind
        begin = int(raw_begin)
        if raw_name == _RAW_METADATA or int(raw_end) != begin + nbytes:
            raise _NotPlain
        try:
            names.append(raw_name.decode("utf-8"))
        except UnicodeDecodeError:
            raise _NotPlain from None
        if begin != end:
            is_in_order = False
        end = begin + nbytes
        forms.append(form)
        offsets.append(data_start + begin)
        if len(names) == _TOGETHER:
            specs.extend(names, forms, offsets, (-1,) * len(names))
            names, forms, offsets = [], [], []
    specs.extend(names, forms, offsets, (-1,) * len(names))
    if next(specs.keys_in_order.repeated(), None) is not None:
        raise _NotPlain
    if not is_in_order:
        specs, end = _sorted(specs, data_start)
    if end != data_bytes:
        raise _NotPlain
    return LargeHeader(specs, metadata or {})


def _metadata_of(text: bytes) -> dict[str, str]:
    try:
        found = strict_json.loads(text, "")
    except FormatError:
        raise _NotPlain from None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise _NotPlain
    return found


def _kind_of(raw_code: bytes, raw_shape: bytes, specs: PackedSpecs) -> tuple[int, int]:
    """Return the number of the form of a dtype and a shape, and how many bytes it has."""
    code, shape = raw_code.decode(), _shape_of(raw_shape)
    nbytes = whole_bytes(code, shape) if code in CODES else None
    if nbytes is None:
        raise _NotPlain
    return specs.form(CODES[code].dtype, shape, nbytes, 0), nbytes


def _shape_of(text: bytes) -> tuple[int, ...]:
    if _SHAPE.fullmatch(text) is None:
        raise _NotPlain
    return tuple(map(int, text.split(b","))) if text.strip() else ()


def _sorted(specs: PackedSpecs, data_start: int) -> tuple[PackedSpecs, int]:
    """Return specs in the order of their bytes, and where they end; none may leave a gap."""
    places = [(spec.offset or 0, spec.nbytes) for spec in specs.values()]
    found = PackedSpecs()
    end = data_start
    for row in sorted(range(len(places)), key=places.__getitem__):
        offset, nbytes = places[row]
        if offset != end:
            raise _NotPlain
        end += nbytes
        found.add(specs.at(row))
    return found, end - data_start


class _Pieces:
    """The entries of a header, of which a piece at a time is in memory."""

    def __init__(self, read: Callable[[int, int], bytes], length: int) -> None:
        self._read, self._next, self._stop = read, 0, length
        self._data = b""

    def entries(self) -> Iterator[re.Match[bytes]]:
        """Yield a match per entry; raises _NotPlain where there is none."""
        self._more(0)
        if self._data[:1] != b"{":
            raise _NotPlain
        at, after = 1, b","
        while after == b",":
            while len(self._data) - at < _AHEAD and self._next < self._stop:
                self._more(at)
                at = 0
            match = _ENTRY.match(self._data, at)
            if match is None:
                match, at = self._metadata_at(at)
            yield match
            at, after = match.end(), match[match.re.groups]
        rest = self._data[at:]
        while not rest.strip(b" \t\n\r"):
            if self._next == self._stop:
                return
            self._data = b""
            self._more(0)
            rest = self._data
        raise _NotPlain

    def _metadata_at(self, at: int) -> tuple[re.Match[bytes], int]:
        """Return the entry of metadata, which may be long, and where it begins."""
        if _RAW_METADATA not in self._data[at : at + 2 * len(METADATA)]:
            raise _NotPlain
        while True:
            match = _METADATA_ENTRY.match(self._data, at)
            if match is not None:
                return match, at
            if self._next == self._stop or len(self._data) - at > _LONGEST_METADATA:
                raise _NotPlain
            self._more(at)
            at = 0

    def _more(self, at: int) -> None:
        """Leave out what is before `at`, and read a piece more."""
        nbytes = min(_PIECE, self._stop - self._next)
        self._data = self._data[at:] + self._read(self._next, nbytes)
        self._next += nbytes
