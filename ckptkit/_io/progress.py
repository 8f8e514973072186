"""How far long work has come: phases that say what is going on, and the one sink that shows them.

Whatever takes long says so where it does: `with phase("digest", nbytes):`.  Phases lie within one
another ("run 2 of 5: xla:CPU:0", and in it "importing tensorflow").  How much of a phase is done is
what was read from files since it began, which is counted in one place (`ckptkit._io.files`), or
what a `ProgressMeter` adds up.  Where no sink is set, which is so in a program and with a pipe, all
of this costs a look at one variable.

A program that wants to know passes `progress=`, a callback, to the functions that take one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""progress(phase, done, total): the phase in a word ("compared"); done and total in bytes."""


@dataclass(eq=False)
class Phase:
    """Something that goes on.

    said: what, in a few words, or what returns that.  total: bytes in all; 0 where that is not
    known.  counted: bytes that were added up; None where what is read counts.
    """

    said: str | Callable[[], str]
    total: int = 0
    counted: int | None = None
    read_before: int = field(default_factory=lambda: _read)

    @property
    def text(self) -> str:
        """What goes on, at the moment."""
        return self.said if isinstance(self.said, str) else self.said()

    @property
    def done(self) -> int:
        """Bytes that are done, never more than there are in all."""
        return min(self.read if self.counted is None else self.counted, self.total)

    @property
    def read(self) -> int:
        """Bytes that were read from files since it began."""
        return _read - self.read_before


class Sink(Protocol):
    """Shows the phases of a process."""

    def began(self, phase: Phase) -> None:
        """Take note of a phase, which lies within those that are under way.

        Args:
            phase: what begins.
        """

    def ended(self, phase: Phase) -> None:
        """Forget a phase, and all that lies within it.

        Args:
            phase: what is over.
        """

    def moved(self) -> None:
        """Take note that some more is done; any thread calls this."""


# One process has one terminal.  Threads that read for a phase count too, so this is no context
# variable; what is counted may miss a block where two threads count at once, and is only shown.
_sink: Sink | None = None
_owner = 0  # the thread whose phases are shown
_read = 0  # bytes read from files while there is a sink
_is_abandoned = False  # whether nobody waits for what other threads do


@contextmanager
def shown_by(sink: Sink) -> Iterator[None]:
    """Show the phases of this thread, and what all threads read, by `sink` inside the block.

    Args:
        sink: what shows them.
    """
    global _sink, _owner
    before = _sink, _owner
    _sink, _owner = sink, threading.get_ident()
    try:
        yield
    finally:
        _sink, _owner = before


@contextmanager
def phase(text: str | Callable[[], str], total: int = 0) -> Iterator[None]:
    """Say that something goes on inside the block.

    Args:
        text: what, in a few words, or what returns that whenever it is shown.
        total: bytes that are going to be read for it; 0 where that is not known.
    """
    sink = _shown_here()
    if sink is None:
        yield
        return
    begun = Phase(text, total)
    sink.began(begun)
    try:
        yield
    finally:
        sink.ended(begun)


def numbered(items: Iterable[T], name: Callable[[T], object] = str) -> Iterator[T]:
    """Yield items, each within a phase `3 of 12: NAME`; a single one within none.

    Args:
        items: what is worked on; all of them are made before the first is given.
        name: what an item is called.

    Yields:
        The items, in order.
    """
    if _shown_here() is None:
        yield from items
        return
    whole = list(items)
    for number, item in enumerate(whole, 1):
        if len(whole) == 1:
            yield item
            return
        with phase(f"{number} of {len(whole)}: {name(item)}"):
            yield item


def bytes_read(nbytes: int) -> None:
    """Count bytes that were read from a file; for whoever reads one.

    Args:
        nbytes: how many.

    Raises:
        KeyboardInterrupt: in a thread whose work was abandoned.
    """
    global _read
    if _is_abandoned and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt  # which a pool keeps to itself
    if _sink is not None:
        _read += nbytes
        _sink.moved()


@contextmanager
def abandoned_work() -> Iterator[None]:
    """Let all threads but the main one end where they read next, inside the block.

    For whoever was interrupted and has to wait until they have: a thread cannot be ended from
    outside, and one tensor may keep it for minutes.
    """
    global _is_abandoned
    _is_abandoned = True
    try:
        yield
    finally:
        _is_abandoned = False


def still_going() -> None:
    """Say that what is under way goes on; for whoever waits for something else."""
    if _sink is not None:
        _sink.moved()


def _shown_here() -> Sink | None:
    """Return the sink, where phases of this thread are shown."""
    return _sink if _sink is not None and threading.get_ident() == _owner else None


class ProgressMeter:
    """Adds up the bytes of one phase, and reports them to whoever asked.

    by_reads: the sink goes by what is read, since what is added up comes in large pieces.
    """

    def __init__(
        self, progress: Progress | None, phase: str, total: int, *, by_reads: bool = False
    ) -> None:
        self._progress = progress
        self._phase = phase
        self._total = total
        self._done = 0
        self._shown = Phase(phase, total, None if by_reads else 0)
        self._sink = _shown_here() if total else None
        if self._sink is not None:
            self._sink.began(self._shown)

    def add(self, nbytes: int) -> None:
        """Report that so many more bytes are done; never more than there are in all."""
        self._done = min(self._done + nbytes, self._total)
        if self._progress is not None:
            self._progress(self._phase, self._done, self._total)
        if self._sink is None:
            return
        if self._shown.counted is not None:
            self._shown.counted = self._done
        if self._done == self._total:
            self._sink.ended(self._shown)
            self._sink = None
        else:
            self._sink.moved()
