"""Many small runs of bytes, read a window of the file at a time.

A model may have a hundred thousand tensors of a few bytes; opening, checking and reading each by
itself costs a hundred times what its bytes do.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from ckptkit._io.files import handle_of

SMALL = 1 << 15  # bytes; larger runs are read by themselves
_WINDOW = 1 << 18
_KEPT = 16  # windows: two files whose orders differ take turns


class SmallReadCache:
    """Reads small runs; for one pass over files, since a file that changes meanwhile is not seen.

    Whoever needs to know why a run cannot be had reads it in the ordinary way, which says so.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def read(self, path: Path, offset: int, nbytes: int) -> bytes | None:
        """Return bytes [offset, offset + nbytes) of the file, or None where that fails.

        Raises what opening the file raises.
        """
        number, start = divmod(offset, _WINDOW)
        if start + nbytes <= _WINDOW:
            found = self._window(path, number)[start : start + nbytes]
        else:
            found = _read(path, offset, nbytes)
        return found if len(found) == nbytes else None

    def _window(self, path: Path, number: int) -> bytes:
        window = self._windows.get((path, number))
        if window is None:
            window = self._windows[path, number] = _read(path, number * _WINDOW, _WINDOW)
            if len(self._windows) > _KEPT:
                self._windows.popitem(last=False)
        return window


def _read(path: Path, offset: int, nbytes: int) -> bytes:
    try:
        return os.pread(handle_of(path).fd, nbytes, offset)
    except OSError:
        return b""
