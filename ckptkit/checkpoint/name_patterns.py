"""Names as people write them: a glob, an ending, or a name that a table had to shorten."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

ELLIPSIS = "…"
_STAND_IN = "..."  # what a terminal without that letter shows


def glob_matcher(glob: str) -> Callable[[str], object]:
    """Return what is true of a name that fits the glob as a whole, or whose end behind a "/" does.

    `conv*` fits "conv1/kernel" and "sequential/conv1/kernel"; "*" fits "/" too.
    """
    return re.compile(rf"(?:.*/)?{translate(glob)}", re.DOTALL).match


def shortened_matcher(name: str) -> Callable[[str], object] | None:
    """Return what is true of names that may have been shortened to `name`; None if it is whole."""
    for mark in (ELLIPSIS, _STAND_IN):
        if mark in name:
            parts = map(re.escape, name.split(mark))
            return re.compile(rf"(?:.*/)?{'.+'.join(parts)}\Z", re.DOTALL).match
    return None
