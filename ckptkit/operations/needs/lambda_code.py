"""Python code in a Lambda layer, and which Python wrote it, as far as its layout tells.

Keras keeps the code object of a lambda as `marshal` writes it, in base64
(keras/src/utils/python_utils.py).  Only the Python that wrote it surely runs it.  What the layout
of a code object tells (Python/marshal.c of each version): up to 2.7 it begins with four numbers,
up to 3.7 with five, up to 3.10 with six; since 3.11 with five again, after which the kinds of its
variables are bytes; and code begins with RESUME since then, whose number tells the rest
(Include/opcode_ids.h: 151 in 3.11 and 3.12, 149 in 3.13, 128 in 3.14).  Nothing is unmarshalled.
"""

from __future__ import annotations

import base64
import binascii
import struct
import sys
from collections.abc import Mapping
from typing import Any

from ckptkit.operations.needs.types import Need

_REF = 0x80
_RESUME_OF_3_11 = 151
# in this order: 3.11 and 3.12 begin some code with 149, which copies free variables
_RESUME = {_RESUME_OF_3_11: ((3, 11), (3, 12)), 149: ((3, 13), (3, 13)), 128: ((3, 14), (3, 14))}
_MAX_DEPTH = 40
_CODE, _BYTES = ord("c"), ord("s")
_PRECALL_OF_3_11 = 166  # which 3.12 no longer has
Span = tuple[tuple[int, int], tuple[int, int]]


def lambda_need(config: Any, place: str, *, is_asked: bool = True) -> Need | None:
    """Return the need to trust the code of a Lambda layer; None where it only names a function.

    is_asked: whether the loader asks before it runs the code.
    """
    function = config.get("function") if isinstance(config, Mapping) else None
    code = _code_in(function)
    if code is None:
        return None
    span = python_of(code)
    wrote = f"Python {_text(span)}" if span else "some Python"
    here = sys.version_info[:2]
    fits = "" if span is None or span[0] <= here <= span[1] else f"; this is {_dotted(here)}"
    return Need(
        "trust",
        "Lambda",
        f"it holds code of {wrote}{fits}" + ("" if is_asked else ", which is run unasked"),
        where=f"{place}.config.function",
        met=not is_asked and not fits,
        hint="safe_mode=False runs it: only where you trust who made the file",
    )


def _code_in(function: Any) -> str | None:
    """Return the text of marshalled code in what a Lambda layer keeps as its function."""
    if isinstance(function, Mapping):
        inner = function.get("config")
        if function.get("class_name") == "__lambda__":
            value = inner.get("code", inner.get("value")) if isinstance(inner, Mapping) else inner
            return _first_text(value)
        return None
    if isinstance(function, list):  # [code, defaults, closure] of Keras 1 and 2
        return _first_text(function)
    return None


def _first_text(value: Any) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


def python_of(code: str) -> Span | None:
    """Return the first and last version of Python that may have marshalled some code.

    Args:
        code: in base64; what Keras 1 wrote as raw text is not read.

    Returns:
        Both versions, ((3, 8), (3, 10)); None where the layout is none that is known.
    """
    try:
        data = base64.b64decode(code.encode("ascii"), validate=False)
        return _Marshalled(data).python()
    except (binascii.Error, UnicodeEncodeError, struct.error, IndexError, ValueError):
        return None


class _Marshalled:
    """Walks over what `marshal` wrote, without making anything of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def python(self) -> Span | None:
        if self.data[0] & ~_REF != _CODE:
            return None
        for numbers, first, last in (
            (6, (3, 8), (3, 10)),
            (5, (3, 0), (3, 7)),
            (4, (2, 0), (2, 7)),
        ):
            at = 1 + 4 * numbers
            if self.data[at] & ~_REF == _BYTES and self._is_small(numbers):
                return self._since_3_11(at) or (first, last) if numbers == 5 else (first, last)
        return None

    def _is_small(self, numbers: int) -> bool:
        """Whether the numbers of a code object may be counts: of arguments, of values."""
        counts = struct.unpack_from(f"<{numbers - 1}i", self.data, 1)
        return all(0 <= count < 1 << 16 for count in counts)

    def _since_3_11(self, at: int) -> Span | None:
        """Return which Python wrote code of 3.11 or newer; None for older code."""
        size = struct.unpack_from("<i", self.data, at + 1)[0]
        code = self.data[at + 5 : at + 5 + size]
        after = at + 5 + size
        for _field in ("constants", "names", "variables"):
            after = self._skip(after, 0)
        if self.data[after] & ~_REF != _BYTES:  # a tuple of names, up to 3.7
            return None
        operations = code[::2]  # what lies between is arguments; caches are zeros
        for number, (first, last) in _RESUME.items():
            if number in operations:
                is_older = number == _RESUME_OF_3_11 and _PRECALL_OF_3_11 in operations
                return first, first if is_older else last
        return (3, 11), (9, 9)

    def _skip(self, at: int, depth: int) -> int:
        """Return where the value at a place ends; raises ValueError for a kind that is unknown."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        kind = chr(self.data[at] & ~_REF)
        at += 1
        if kind in "NTFS.0":
            return at
        if kind in "ir":
            return at + 4
        if kind in "gI":
            return at + 8
        if kind == "y":
            return at + 16
        if kind in "sutaA":
            return at + 4 + int(struct.unpack_from("<i", self.data, at)[0])
        if kind in "zZ":
            return at + 1 + self.data[at]
        if kind == "l":
            return at + 4 + 2 * abs(int(struct.unpack_from("<i", self.data, at)[0]))
        if kind in ")([<>":
            short = kind == ")"
            count = self.data[at] if short else struct.unpack_from("<i", self.data, at)[0]
            at += 1 if short else 4
            for _item in range(count):
                at = self._skip(at, depth + 1)
            return at
        raise ValueError(kind)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _text(span: Span) -> str:
    first, last = span
    if first == last:
        return _dotted(first)
    return (
        f"{_dotted(first)} or newer" if last == (9, 9) else f"{_dotted(first)} to {_dotted(last)}"
    )
