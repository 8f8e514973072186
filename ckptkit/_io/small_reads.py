"""Many small runs of bytes, read a block of the file at a time.

A model may have a hundred thousand tensors of a few bytes; opening, checking and reading each by
itself costs a hundred times what its bytes do.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from ckptkit._io.files import read_what_is_there

SMALL = 1 << 15  # bytes; larger runs are read by themselves
_BLOCK = 1 << 18
_BLOCKS_KEPT = 16  # two files whose orders differ take turns


class SmallReadCache:
    """Reads small runs; for one pass over files, since a file that changes meanwhile is not seen.

    Whoever needs to know why a run cannot be had reads it in the ordinary way, which says so.
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def read(self, path: Path, offset: int, nbytes: int) -> bytes | None:
        """Return bytes [offset, offset + nbytes) of the file, or None where that fails.

        Raises what opening the file raises.
        """
        number, start = divmod(offset, _BLOCK)
        if start + nbytes <= _BLOCK:
            found = self._block(path, number)[start : start + nbytes]
        else:
            found = read_what_is_there(path, offset, nbytes)
        return found if len(found) == nbytes else None

    def _block(self, path: Path, number: int) -> bytes:
        block = self._blocks.get((path, number))
        if block is None:
            block = self._blocks[path, number] = read_what_is_there(path, number * _BLOCK, _BLOCK)
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return block
