"""Binary files that were copied as text: what a text mode did to them shows in their bytes.

- LF to CRLF (Git's autocrlf, FTP's text mode, `open(path, "w")` on Windows): each LF has a CR
  before it, and no binary file of this length has so many by chance;
- CRLF to LF: not one CRLF where, by the numbers of CR and LF, there should be many;
- decoded as UTF-8 and encoded again: the whole file is valid UTF-8, with the replacement character
  U+FFFD in the place of what was no text.

The signature of HDF5 holds a CRLF and an LF for this very question (HDF5 File Format
Specification, II.A).  Otherwise nothing is concluded from few bytes: what is seen must be rarer by
chance than one in a million.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from ckptkit._io.file_states import is_file
from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import CkptkitError, FormatError

LOOKED_AT = 4 << 20  # bytes at the start of a file
_SURE = 14.0  # of exp(-x): one in a million
_REPLACEMENT = b"\xef\xbf\xbd"
_SIGNATURES = {
    "crlf": b"\x89HDF\r\r\n\x1a\r\n",
    "lf": b"\x89HDF\n\x1a\n",
    "utf-8": _REPLACEMENT + b"HDF\r\n\x1a\n",
}
_HINTS = {
    "crlf": "copied in text mode, which put a CR before each LF: copy it again in binary mode "
    "(in Git: mark it `binary` in .gitattributes)",
    "lf": "copied in text mode, which took the CR from each CRLF: copy it again in binary mode "
    "(in Git: mark it `binary` in .gitattributes)",
    "utf-8": "read and written as UTF-8 text, which lost what was no text: copy it again as bytes",
}


def text_damage(path: Path) -> str:
    """Return "crlf", "lf" or "utf-8" for a binary file that a text mode changed; else "".

    Reads LOOKED_AT bytes at most; raises PathNotFoundError, FormatError (not a regular file).
    """
    data = read_exact(path, 0, min(file_size(path), LOOKED_AT))
    lf, cr, crlf = data.count(b"\n"), data.count(b"\r"), data.count(b"\r\n")
    for damage, signature in _SIGNATURES.items():
        if data.startswith(signature):
            return damage
    if b"\0" not in data:  # text, which may have what line ends it likes
        return ""
    # In bytes that know nothing of lines, a CR lies before one LF in `size / cr`.
    share = max(cr, 1) / len(data)
    if lf and lf == crlf and -lf * math.log(min(share, 0.5)) > _SURE * 2:
        return "crlf"
    if crlf == 0 and cr * lf / len(data) > _SURE:
        return "lf"
    if data.count(_REPLACEMENT) >= 8:
        # The bytes that were looked at may end within a character.
        text = data.rstrip(b"".join(bytes([byte]) for byte in range(0x80, 0x100)))
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            return ""
        return "utf-8"
    return ""


def hint_of_text_damage(files: Iterable[Path]) -> str:
    """Return what to do about the first of some files that a text mode changed, "" for none."""
    for file in files:
        try:
            damage = text_damage(file) if is_file(file) else ""
        except CkptkitError:
            continue
        if damage:
            return f"{file.name} was {_HINTS[damage]}"
    return ""


def explained(error: FormatError, files: Iterable[Path]) -> FormatError:
    """Return the error, its hint that of the damage by a text mode where the files show it."""
    hint = hint_of_text_damage(files)
    if hint:
        error.hint = hint
    return error
