"""An object on its way into a file of this machine, read while it comes.

Its pieces are asked for in order, the first and the last before all others: headers lie at one end
or the other.  Who reads a piece that is not there yet waits for it, so that whatever reads a file
to its end, and more than once, takes little longer than the file is on its way.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from ckptkit._io.remote.objects import RemoteChanged, RetryError
from ckptkit._io.remote.requests import IN_FLIGHT, in_flight
from ckptkit.errors import CkptkitError

PIECE = 4 << 20  # bytes of one request


class ArrivingCopy:
    """A file that fills up with the bytes of an object.

    Args:
        size: bytes of it.
        bring: returns bytes [start, stop) of the object; raises RemoteChanged, CkptkitError.
        place: what the file is called once it is whole.

    Raises OSError where it cannot be written.
    """

    def __init__(self, size: int, bring: Callable[[int, int], bytes], place: Path) -> None:
        self._size, self._bring, self._place = size, bring, place
        self._part = place.with_name(f"{place.name}.{os.getpid()}.part")
        self._file = self._part.open("w+b", buffering=0)
        weakref.finalize(self, self._file.close).atexit = False  # threads may be writing then
        weakref.finalize(self, _remove, self._part, os.getpid())
        os.truncate(self._file.fileno(), size)
        starts = list(range(0, size, PIECE))
        self._pieces: list[Future[None]] = [Future() for _ in starts]
        self._whole: Future[None] = Future()
        self._lock = threading.Lock()
        self._waiting = [*range(len(starts))]
        self._waiting.insert(1, self._waiting.pop())
        self._waiting.reverse()  # the next is the last of the list
        self._left = len(starts)
        if not starts:
            self._finish()
        for _ in range(min(IN_FLIGHT, len(starts))):
            self._ask_for_next()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on, once it is there.

        Raises RemoteChanged, CkptkitError, OSError.
        """
        done, nbytes = 0, len(buffer)
        while done < nbytes:
            piece, skip = divmod(offset + done, PIECE)
            self._pieces[piece].result()
            part = buffer[done : done + PIECE - skip]
            count = os.preadv(self._file.fileno(), [part], offset + done)
            if not count:
                raise OSError(5, "the copy was cut short")
            done += count

    def wait(self) -> None:
        """Wait until the file is whole; raises RemoteChanged, CkptkitError, OSError."""
        self._whole.result()

    def _ask_for_next(self) -> None:
        with self._lock:
            number = self._waiting.pop() if self._waiting else None
        if number is not None:
            in_flight(partial(_fill, weakref.ref(self), number))

    def fill(self, number: int) -> None:
        """Fetch a piece, and ask for the next; what fails is told to all who wait."""
        start = number * PIECE
        try:
            data = memoryview(self._bring(start, min(start + PIECE, self._size)))
            done = 0
            while done < len(data):
                done += os.pwrite(self._file.fileno(), data[done:], start + done)
            with self._lock:
                if self._pieces[number].done():  # another failed meanwhile, and so did the whole
                    return
                self._pieces[number].set_result(None)
                self._left -= 1
                is_last = not self._left
            if is_last:
                self._finish()
        except (CkptkitError, RemoteChanged, RetryError, OSError) as error:
            self._fail(error)
        else:
            self._ask_for_next()

    def _finish(self) -> None:
        self._part.replace(self._place)
        self._whole.set_result(None)

    def _fail(self, error: Exception) -> None:
        """Let all who wait know; what is still on its way comes in vain."""
        self._part.unlink(missing_ok=True)
        with self._lock:
            self._waiting.clear()
            for future in (*self._pieces, self._whole):
                if not future.done():
                    future.set_exception(error)


def _fill(copy: weakref.ref[ArrivingCopy], number: int) -> None:
    """Fetch a piece, unless nobody wants the file any more."""
    wanted = copy()
    if wanted is not None:
        wanted.fill(number)


def _remove(part: Path, owner: int) -> None:
    if os.getpid() == owner:
        part.unlink(missing_ok=True)
