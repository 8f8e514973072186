"""Files that stand for others: what Git keeps in place of a large file that was not fetched.

A Git LFS pointer is a text of less than 1,024 bytes: a line `version URL`, then lines `KEY VALUE`,
among them `oid` and `size` (github.com/git-lfs/git-lfs, docs/spec.md, which allows older URLs).  A
pointer of git-annex is one line, `/annex/objects/KEY`, and the key's field `-sN` is the size
(git-annex.branchable.com/internals/pointer_file, .../key_format).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ckptkit.text import lazy_pattern

MAX_POINTER_BYTES = 1023

_LFS = lazy_pattern(
    rb"version https?://\S+\r?\n(?:[a-z0-9.-]+ [^\r\n]*\r?\n)*?oid \w+:[0-9a-f]+\r?\n"
)
_LFS_SIZE = lazy_pattern(rb"^size (\d{1,19})\r?$", re.M)
_ANNEX = lazy_pattern(rb"/annex/objects/([^\s/]+)\r?\n?")
_ANNEX_SIZE = lazy_pattern(rb"-s(\d{1,19})(?:-|$)")


class Pointer(NamedTuple):
    """What a pointer says: who keeps the file, its size in bytes if known, how it is fetched."""

    keeper: str
    size: int | None
    command: str

    def __str__(self) -> str:
        size = "" if self.size is None else f" of {self.size:,} bytes"
        return f"a {self.keeper} pointer, which stands for a file{size}"


def pointer_in(start: bytes) -> Pointer | None:
    """Return what a file with this content stands for; None where it is what it seems.

    Args:
        start: all of the file, where it has at most MAX_POINTER_BYTES.
    """
    if _LFS.match(start):
        size = _LFS_SIZE.search(start)
        return Pointer("Git LFS", int(size[1]) if size else None, "git lfs pull")
    if annex := _ANNEX.fullmatch(start):
        size = _ANNEX_SIZE.search(annex[1])
        return Pointer("git-annex", int(size[1]) if size else None, "git annex get")
    return None
