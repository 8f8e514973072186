"""The header of a `.npy` file: see `ckptkit.stores.npz.reader` for the format.

The header is the text of a Python dict.  It is taken apart by patterns that know the three keys and
nothing else, so no expression in it is ever evaluated.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import read_exact
from ckptkit.errors import FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.containers import zip_archive
from ckptkit.stores.containers.encoded_array import Encoding
from ckptkit.text import lazy_pattern

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes; numpy's own limit
MAX_AXES = 254  # of a tensor in TensorFlow; numpy stops at 64
_PREAMBLE = 10  # bytes of magic, version and the shorter length
_FRONT_BYTES = 256  # as much as nearly every header needs
_INFLATE_SLACK = 4096  # stored bytes beyond the wanted ones that are looked at, at most

_FIELD = lazy_pattern(
    r"[ \t\r\n]*(?P<quote>['\"])(?P<key>[a-z_]+)(?P=quote)[ \t\r\n]*:[ \t\r\n]*"
    r"(?:(?P<bool>True|False)"
    r"|\((?P<shape>[0-9L, \t\r\n]*)\)"
    r"|(?P<mark>['\"])(?P<text>[^'\"\\]*)(?P=mark)"
    r"|(?P<record>\[.*\]))[ \t\r\n]*(?:,|\Z)",
    re.DOTALL,
)
_SPACE = " \t\r\n"
_AXIS = r"[ \t\r\n]*(?:0|[1-9][0-9]{0,18})L?[ \t\r\n]*"  # Python 2 wrote 3L
_SHAPE = lazy_pattern(rf"(?:{_AXIS},)*(?:{_AXIS}|[ \t\r\n]*)\Z")
_DESCR = lazy_pattern(
    r"(?P<order>[<>|=]?)(?P<kind>[a-zA-Z?])(?P<width>[0-9]{0,9})(?P<unit>\[\w+\])?\Z"
)

NATIVE = {
    "bool": "|b1",
    "int8": "|i1",
    "uint8": "|u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}
# A letter without a width is a type of C (numpy's "one-character strings"); `l` and `L` have other
# widths on other platforms, and are not read.
_LETTERS = {
    "?": "b1", "b": "i1", "B": "u1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "q": "i8",
    "Q": "u8", "e": "f2", "f": "f4", "d": "f8", "F": "c8", "D": "c16",
}  # fmt: skip
_EXTENDED_BYTES = {"f": (12, 16), "c": (24, 32)}  # long double, as platforms pad it
_BY_KIND = {descr[1:]: name for name, descr in NATIVE.items()}


class NpyHeader(NamedTuple):
    """What the header says; `start` is where the values begin, in bytes from the member's start."""

    descr: str
    fortran: bool
    shape: tuple[int, ...]
    start: int
    is_of_python2: bool = False  # "3L"


def read_npy_header(path: Path, member: zip_archive.Member) -> NpyHeader:
    """Return the header of an archive member.

    Raises FormatError, TruncatedError, UnsupportedError (a newer version).
    """
    where = f"{path}:{member.name}"
    front = _front(path, member, _FRONT_BYTES)
    if front[: len(MAGIC)] != MAGIC or len(front) < _PREAMBLE:
        raise FormatError(where, "not an npy file", expected=repr(MAGIC), found=repr(front[:6]))
    version = tuple(front[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise UnsupportedError(f"npy version {version}", where=where, hint="save it again")
    width = 2 if version == (1, 0) else 4
    start = 8 + width
    length = int.from_bytes(front[8:start], "little")
    if length > MAX_HEADER:
        raise FormatError(where, "npy header", expected=f"at most {MAX_HEADER} bytes", found=length)
    if start + length > len(front):
        front = _front(path, member, start + length)
    text = front[start : start + length]
    if len(text) < length or len(front) < start:
        raise TruncatedError(where, "npy header is cut short", expected=length, found=len(text))
    try:
        header = text.decode("utf-8" if version == (3, 0) else "latin-1")
    except UnicodeDecodeError:
        raise FormatError(where, "npy header is not UTF-8") from None
    found = _parse(header, start + length, where)
    if version == (3, 0) and found.is_of_python2:  # numpy forgives it in older versions alone
        raise FormatError(where, "npy header with an axis as Python 2 wrote it", found=repr(header))
    return found


def _front(path: Path, member: zip_archive.Member, nbytes: int) -> bytes:
    """Return the first `nbytes` bytes of a member, or all of a shorter one; no CRC is compared."""
    nbytes = min(nbytes, member.nbytes)
    if member.method == zip_archive.STORED:
        return read_exact(path, member.offset, nbytes)
    stored = read_exact(path, member.offset, min(member.stored_nbytes, nbytes + _INFLATE_SLACK))
    try:
        return zlib.decompressobj(-15).decompress(stored, nbytes) if nbytes else b""
    except zlib.error as error:
        raise FormatError(f"{path}:{member.name}", f"deflated data: {error}") from None


def _parse(header: str, start: int, where: str) -> NpyHeader:
    body = header.strip(_SPACE)
    if not (body.startswith("{") and body.endswith("}")):
        raise FormatError(where, "npy header is no dict", found=repr(body[:40]))
    body = body[1:-1]
    fields: dict[str, re.Match[str]] = {}
    position = 0
    while body[position:].strip(_SPACE):
        match = _FIELD.match(body, position)
        if match is None or match["key"] in fields:
            raise FormatError(where, "npy header", found=repr(body[position : position + 40]))
        fields[match["key"]] = match
        position = match.end()
    if set(fields) != {"descr", "fortran_order", "shape"}:
        raise FormatError(
            where,
            "npy header keys",
            expected="descr, fortran_order, shape",
            found=", ".join(sorted(fields)),
        )
    descr = fields["descr"]["text"]
    if descr is None and fields["descr"]["record"] is not None:
        descr = "record"
    order, shape = fields["fortran_order"]["bool"], fields["shape"]["shape"]
    if descr is None or order is None or shape is None or not _is_tuple(shape):
        raise FormatError(where, "npy header", found=repr(body[:80]))
    axes = tuple(int(axis) for axis in re.findall(r"[0-9]+", shape))
    if len(axes) > MAX_AXES:
        raise FormatError(where, "axes of the array", expected=MAX_AXES, found=len(axes))
    return NpyHeader(descr, order == "True", axes, start, "L" in shape)


def _is_tuple(text: str) -> bool:
    """Whether the text between parentheses makes a tuple of sizes: "(3)" is a number in Python."""
    return _SHAPE.match(text) is not None and ("," in text or not text.strip(_SPACE))


def decode_descr(descr: str, where: str) -> tuple[str, Encoding, int | None]:
    """Return (dtype, encoding, bytes per element) of a descr; None bytes where it cannot be known.

    A dtype without a counterpart keeps numpy's name and is opaque.  Raises FormatError.
    """
    if descr == "record":
        return "record", Encoding("raw"), None
    match = _DESCR.match(descr)
    if match is None:
        raise FormatError(where, f"unknown numpy dtype {descr!r}")
    letter, digits = match["kind"], match["width"]
    code = letter + digits if digits else _LETTERS.get(letter, letter)
    letter, width = code[0], int(code[1:] or 0)
    byteorder = "big" if match["order"] == ">" else "little"
    name = _BY_KIND.get(f"{letter}{width}")
    if name is not None:
        return name, Encoding("plain", byteorder), width
    if letter == "O":
        return "object", Encoding("raw"), None
    if letter in "Sa":
        return "string", Encoding("bytes", byteorder, width), width
    if letter == "U":
        return "string", Encoding("unicode", byteorder, 4 * width), 4 * width
    opaque = {"V": "void", "f": "float", "c": "complex"}.get(letter)
    is_number = width in _EXTENDED_BYTES.get(letter, (width,))
    if opaque is not None and is_number:
        return f"{opaque}{8 * width}", Encoding("raw"), width
    dates = {"M": "datetime64", "m": "timedelta64"}.get(letter)
    if dates is not None and width in (0, 8):
        return dates + (match["unit"] or ""), Encoding("raw"), width
    raise FormatError(where, f"unknown numpy dtype {descr!r}")
