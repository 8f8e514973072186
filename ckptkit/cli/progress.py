"""The sign of life: one line on a terminal that says what goes on.

The line comes after a second, on standard error and only where that is a terminal, and is gone when
anything else is printed and at the end.  It is drawn anew twice a second by a thread of its own,
whether or not anything was reported, so that no work is silent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from ckptkit._io.progress import Phase, phase, shown_by

QUIET_S = 1.0  # what is done sooner needs no sign
REDRAWN_S = 0.25  # at most so often
TICK_S = 0.5
WORKING = "working"  # what is said where nothing more is known
_MINUTE = 60
_WORTH_SAYING = 10_000_000  # bytes read
_NARROWEST = 20  # columns; less holds no phase


@dataclass(eq=False)
class _Shown:
    """A phase on the line, and when it began, by the clock of the line."""

    phase: Phase
    began: float


class ProgressLine:
    """The sink (`ckptkit._io.progress.Sink`) that draws one line on a terminal.

    stream: the terminal.  columns: returns how wide it is.  clock: returns seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        columns: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._columns = columns
        self._clock = clock
        self._lock = threading.RLock()
        self._began = clock()
        self._drawn = ""
        self._drawn_at = -float("inf")
        self._shown: list[_Shown] = []
        self._is_silent = False

    # -- what the work says ------------------------------------------------------------------------

    def began(self, phase: Phase) -> None:
        """Show a phase; of two with a total the later one replaces the earlier."""
        with self._lock:
            if phase.total:
                while self._shown and self._shown[-1].phase.total:
                    self._shown.pop()
            self._shown.append(_Shown(phase, self._clock()))
        self.moved()

    def ended(self, phase: Phase) -> None:
        """Forget a phase and those within it; when none is left, the line goes."""
        with self._lock:
            for place, shown in enumerate(self._shown):
                if shown.phase is phase:
                    del self._shown[place:]
                    break
            if not self._shown:
                self.clear()

    def moved(self) -> None:
        """Draw the line anew, where it is time."""
        now = self._clock()
        if self._is_silent or now - self._began < QUIET_S or now - self._drawn_at < REDRAWN_S:
            return
        with self._lock:
            if self._shown:
                self._draw(self._text(now))
                self._drawn_at = now

    # -- what the command line says ----------------------------------------------------------------

    def silence(self) -> None:
        """Draw nothing from here on."""
        self._is_silent = True
        self.clear()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Draw nothing inside the block."""
        before, self._is_silent = self._is_silent, True
        self.clear()
        try:
            yield
        finally:
            self._is_silent = before

    def clear(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._drawn:
                self._draw("")

    # -- the line ----------------------------------------------------------------------------------

    def _draw(self, text: str) -> None:
        """Put a text in place of the line; spaces, since a terminal may know no escapes."""
        if text == self._drawn:
            return
        from ckptkit.reports.text import display_width

        rest = " " * (display_width(self._drawn) - display_width(text))
        back = "\r" if rest else ""
        self._drawn = text + rest  # Ctrl-C may come before or after it is written
        with suppress(OSError, ValueError):  # the terminal is gone: the work goes on
            self._stream.write(f"\r{text}{rest}{back}")
            self._stream.flush()
        self._drawn = text

    def _text(self, now: float) -> str:
        """Return what goes on, how fast, and for how long yet; it fits the terminal."""
        from ckptkit.reports.fitting import abbreviated  # most commands are done before
        from ckptkit.reports.text import display_width, printable, stand_ins

        width = max(_NARROWEST, self._columns() - 1)  # the last column would begin a line
        last = self._shown[-1]
        texts = [shown.phase.text for shown in self._shown if not shown.phase.total]
        texts = [text for text in texts if text and text != WORKING]
        if not last.phase.total and not texts:
            texts = [WORKING]
        texts = [*map(printable, texts)]
        end = _amount(last, now) if last.phase.total else self._since(now)
        line = ", ".join([*texts, end])
        if display_width(line) > width:  # of a long path: what goes on is to be seen all the same
            texts = [abbreviated(text, max(_NARROWEST, width * 2 // 5)) for text in texts]
            line = abbreviated(", ".join([*texts, end]), width)
        return line.translate(stand_ins(self._stream.encoding or "utf-8") or {})

    def _since(self, now: float) -> str:
        """Return how long the outermost of what has a name goes on, and what was read for it."""
        from ckptkit.reports.text import bytes_text

        named = [shown for shown in self._shown if shown.phase.text != WORKING]
        first = (named or self._shown)[0]
        took, read = now - first.began, first.phase.read
        text = _duration(took)
        if read < _WORTH_SAYING or took <= 0:
            return text
        return f"{text}, {bytes_text(read)} read, {bytes_text(int(read / took))}/s"


def _amount(shown: _Shown, now: float) -> str:
    """Return `digest 1.2 GB of 3.0 GB (40%), 410 MB/s, 4 s left`."""
    from ckptkit.reports.text import bytes_text

    done, total, took = shown.phase.done, shown.phase.total, now - shown.began
    text = f"{shown.phase.text} {bytes_text(done)} of {bytes_text(total)} ({done / total:.0%})"
    if not done or took <= 0:
        return f"{text}, {_duration(took)}"
    rate = done / took
    return f"{text}, {bytes_text(int(rate))}/s, {_duration((total - done) / rate)} left"


def _duration(seconds: float) -> str:
    """Return `4 s` or `2 min 5 s`."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, _MINUTE)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- the line of this process ---------------------------------------------------------------------

_line: ProgressLine | None = None


@contextmanager
def signs_of_life() -> Iterator[None]:
    """Show what goes on inside the block, on standard error where that is a terminal."""
    stream = sys.stderr
    if stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    line = ProgressLine(stream, lambda: _columns_of(stream))
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(TICK_S):
            line.moved()

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        with shown_on_line(line):
            yield
    finally:
        stop.set()
        ticking.join()
        line.clear()


@contextmanager
def shown_on_line(line: ProgressLine) -> Iterator[None]:
    """Show what goes on inside the block on a line, which is gone afterwards."""
    global _line
    before, _line = _line, line
    try:
        with shown_by(line):
            yield
    finally:
        _line = before
        line.clear()


@contextmanager
def working(*, quiet: bool = False) -> Iterator[None]:
    """Say inside the block that a command works; quiet: that nothing is to be said of it."""
    if quiet and _line is not None:
        _line.silence()
    with phase(WORKING):
        yield


@contextmanager
def others_print() -> Iterator[None]:
    """Draw nothing inside the block: a process that was started writes to the terminal."""
    if _line is None:
        yield
        return
    with _line.hidden():
        yield


def clear_line() -> None:
    """Take the line away, since something else is going to be printed."""
    if _line is not None:
        _line.clear()


def _columns_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
