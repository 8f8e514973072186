"""Fresh memory to read large tensors into, in huge pages where these are fast.

A read into fresh memory spends more time on page faults than on copying.  A huge page takes one
fault instead of 512, which is three times faster on most machines.  But a virtual machine whose
host takes freed memory back in huge pages (free page reporting) can be ten times slower with them:
there every such page was just given away.  So one asks for them part by part, and stops asking
where a part came slowly.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from ckptkit._io.files import aligned_buffer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HUGE_PAGE = 1 << 21  # bytes; x86-64 and AArch64 with 4 KiB pages
_MIN_MAPPED = 2 * HUGE_PAGE  # smaller ones hold no whole huge page, or gain little


class FreshMemory:
    """A writable uint8 `array` of `nbytes`, its content undefined; freed with its last view.

    The caller has compared `nbytes` with the size of a file.
    """

    def __init__(self, nbytes: int) -> None:
        self._mapping: mmap.mmap | None = None
        self.array: npt.NDArray[np.uint8]
        if nbytes < _MIN_MAPPED or not hasattr(mmap, "MADV_HUGEPAGE"):
            self.array = aligned_buffer(nbytes)
            return
        import numpy as np

        self._mapping = mmap.mmap(
            -1, nbytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        whole = np.frombuffer(self._mapping, np.uint8)
        self._skip = -whole.ctypes.data % HUGE_PAGE  # untouched pages take no memory
        self.array = whole[self._skip : self._skip + nbytes]

    def use_huge_pages(self, start: int, nbytes: int) -> None:
        """Ask for huge pages for bytes from `start`, a multiple of HUGE_PAGE, not yet touched."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_HUGEPAGE, self._skip + start, nbytes)
