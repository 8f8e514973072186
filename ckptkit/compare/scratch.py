"""Arrays that one thread reuses for every block that numpy measures."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from ckptkit.compare.statistics import METRIC_BLOCK
from ckptkit.dtypes import Array

Floats = npt.NDArray[np.float64]


class MetricBuffers:
    """Room for one block of up to METRIC_BLOCK elements."""

    def __init__(self) -> None:
        self.rows = np.empty((3, METRIC_BLOCK))  # old, new, |new - old|
        self.spare = np.empty(METRIC_BLOCK)
        self.differs = np.empty(METRIC_BLOCK, bool)
        self.above = np.empty(METRIC_BLOCK, bool)
        self._bits: dict[int, Array] = {}

    def integers(self, itemsize: int, n: int) -> Array:
        """Return n signed integers of `itemsize` bytes."""
        if itemsize not in self._bits:
            self._bits[itemsize] = np.empty(METRIC_BLOCK, f"i{itemsize}")
        return self._bits[itemsize][:n]


class _ThreadScratch(threading.local):
    def __init__(self) -> None:
        self.buffers: MetricBuffers | None = None


_thread = _ThreadScratch()


def thread_buffers() -> MetricBuffers:
    """Return this thread's buffers; those of another block size are not reused."""
    if _thread.buffers is None or len(_thread.buffers.differs) != METRIC_BLOCK:
        _thread.buffers = MetricBuffers()
    return _thread.buffers
