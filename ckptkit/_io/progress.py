"""How far long work has come: one shape of callback, and the counter that calls it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""progress(phase, done, total): the phase in a word ("compared"); done and total in bytes."""


class ProgressMeter:
    """Adds up the bytes of one phase, and reports them to whoever asked."""

    def __init__(self, progress: Progress | None, phase: str, total: int) -> None:
        self._progress = progress
        self._phase = phase
        self._total = total
        self._done = 0

    def add(self, nbytes: int) -> None:
        """Report that so many more bytes are done; never more than there are in all."""
        self._done = min(self._done + nbytes, self._total)
        if self._progress is not None:
            self._progress(self._phase, self._done, self._total)
