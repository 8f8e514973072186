"""What a function's code says, whenever and wherever it was written.

Keras keeps the code object of a function without a name as `marshal` writes it (Python/marshal.c),
in base64 (keras/src/utils/python_utils.py, `func_dump`).  The bytes are not the same twice: which
values are written once and referred to afterwards depends on how many hold them at that moment, so
that a model which is loaded and saved again has other bytes.  What is read here is every value by
itself, without the file, the line and the name that the code had: two functions that differ only in
those compute the same.  Nothing is unmarshalled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable
from typing import NamedTuple

_REF = 0x80
_MAX_DEPTH = 60
_MAX_VALUES = 100_000  # in one function, before it is taken as bytes
_TEXTS = "tuaAzZ"
_LISTS = {"(": "(", ")": "(", "[": "[", "<": "<", ">": ">"}
_FIXED = {"i": 4, "I": 8, "g": 8, "y": 16}
_SINGLE = "NTFS.0"


class _CodeLayout(NamedTuple):
    """Fields of a code object: how many numbers come first, what is read after them.

    Of `fields`, "o" is an object that counts, "-" one that does not, "n" a number that does not:
    the file, the name, the line and what tells the lines.
    """

    numbers: int
    fields: str


# Since 3.11; 3.8 to 3.10; 3.0 to 3.7; Python 2.
_LAYOUTS = (
    _CodeLayout(5, "ooooo---n-o"),
    _CodeLayout(6, "oooooo--n-"),
    _CodeLayout(5, "oooooo--n-"),
    _CodeLayout(4, "oooooo--n-"),
)


def digest_of_code(text: str) -> str:
    """Return the SHA-256 of what marshalled code says; of its bytes where these cannot be read.

    Args:
        text: in base64, with or without line breaks; what Keras 1 wrote as raw text is not read.
    """
    joined = "".join(text.split())
    try:
        data = base64.b64decode(joined.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        data = b""
    for layout in _LAYOUTS:
        try:
            return _MarshalledCode(data, layout).whole().hex()
        except (ValueError, IndexError, struct.error):
            continue
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


class _MarshalledCode:
    """One pass over marshalled data, in which every value becomes the SHA-256 of what it says.

    A value that is referred to a thousand times is read once.
    """

    def __init__(self, data: bytes, layout: _CodeLayout) -> None:
        self.data, self.layout = data, layout
        self.at = self.count = 0
        self.known: list[bytes | None] = []

    def whole(self) -> bytes:
        """Return the digest of the one value; raises ValueError where it is no code, or more."""
        if not self.data or chr(self.data[0] & ~_REF) != "c":
            raise ValueError("no code")
        found = self._value(0)
        if self.at != len(self.data):
            raise ValueError("more than one value")
        return found

    def _take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise ValueError("too short")
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self) -> int:
        return int(struct.unpack("<i", self._take(4))[0])

    def _value(self, depth: int) -> bytes:
        self.count += 1
        if depth > _MAX_DEPTH or self.count > _MAX_VALUES:
            raise ValueError("nested too deeply, or endless")
        head = self._take(1)[0]
        kind = chr(head & ~_REF)
        if kind in "rR":
            found = self.known[self._index()]
            if found is None:
                raise ValueError("refers to what it is in")
            return found
        is_listed = head & _REF or (kind == "t" and self.layout.numbers == 4)
        slot = len(self.known) if is_listed else None
        if slot is not None:
            self.known.append(None)
        found = self._read(kind, depth)
        if slot is not None:
            self.known[slot] = found
        return found

    def _index(self) -> int:
        index = self._number()
        if index < 0:
            raise ValueError("no such value")
        return index

    def _read(self, kind: str, depth: int) -> bytes:
        def below() -> bytes:
            return self._value(depth + 1)

        if kind in _SINGLE:
            return _said(kind)
        if kind in _FIXED:
            return _said(kind, self._take(_FIXED[kind]))
        if kind in _TEXTS:
            return _said("u", self._take(self._take(1)[0] if kind in "zZ" else self._number()))
        if kind == "s":
            return _said("s", self._take(self._number()))
        if kind == "l":
            size = self._number()
            return _said("l", struct.pack("<i", size) + self._take(2 * abs(size)))
        if kind in _LISTS:
            count = self._take(1)[0] if kind == ")" else self._number()
            items = [below() for _item in range(count)]
            # a set is written in the order of the hashes that one process gave
            return _said(_LISTS[kind], *(sorted(items) if kind in "<>" else items))
        if kind == ":":
            return _said(":", below(), below(), below())
        if kind == "c":
            return self._code(below)
        raise ValueError(f"kind {kind}")

    def _code(self, below: Callable[[], bytes]) -> bytes:
        said = [self._take(4 * self.layout.numbers)]
        for field in self.layout.fields:
            if field == "n":
                self._take(4)
                continue
            found = below()
            if field == "o":
                said.append(found)
        return _said("c", *said)


def _said(kind: str, *parts: bytes) -> bytes:
    sizes = struct.pack(f"<{len(parts)}q", *map(len, parts))
    return hashlib.sha256(kind.encode() + sizes + b"".join(parts)).digest()
