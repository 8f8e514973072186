"""Requests in flight: a few threads, tries with growing pauses, and an account of what was asked.

The threads are daemons, so that Ctrl-C ends the process at once though an answer is outstanding.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from ckptkit._io.remote.objects import RemoteChanged, RetryError
from ckptkit.errors import CkptkitError

T = TypeVar("T")

IN_FLIGHT = 20  # requests at a time; more made no store faster
TIMEOUT_S = 30.0  # without a byte
CONNECT_TIMEOUT_S = 10.0
TRIES = 6
PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # may be otherwise in a moment
_FIRST_PAUSE_S = 0.1  # doubled each time: 3 s in all
_LONGEST_PAUSE_S = 20.0  # whatever a server asks for


class Traffic(NamedTuple):
    """What went over the network: requests (those repeated too), and bytes of objects received."""

    requests: int
    nbytes: int


_lock = threading.Lock()
_requests = 0
_nbytes = 0


def count(requests: int, nbytes: int = 0) -> None:
    """Add to the account of this process."""
    global _requests, _nbytes
    with _lock:
        _requests += requests
        _nbytes += nbytes


def traffic() -> Traffic:
    """Return what this process has asked for so far."""
    return Traffic(_requests, _nbytes)


def insisting(ask: Callable[[], T], where: str) -> T:
    """Return what `ask` returns, asked again after pauses that grow while it raises RetryError.

    where: for the message.  Raises CkptkitError after the last try, and what else `ask` raises.
    """
    for attempt in range(TRIES):
        try:
            return ask()
        except RetryError as error:
            if attempt == TRIES - 1:
                raise CkptkitError(
                    f"no answer after {TRIES} tries: {error.reason}",
                    where=where,
                    hint="is the address right, and the network there? run it again later",
                ) from error
            pause = _FIRST_PAUSE_S * 2**attempt * (0.5 + random.random() / 2)
            time.sleep(min(max(pause, error.wait_s), _LONGEST_PAUSE_S))
    raise AssertionError


class _Threads:
    """Daemon threads that run calls in the order in which they came.

    spare: how many threads have nothing to do once each call that waits has one; below 0, that
    many calls wait for others to be done.
    """

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self.count = 0
        self.spare = 0
        self.lock = threading.Lock()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self.calls.put((future, call))
        with self.lock:
            self.spare -= 1
            if self.spare < 0 and self.count < IN_FLIGHT:
                self.count += 1
                self.spare += 1
                threading.Thread(target=self._run, name="ckptkit-request", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            future, call = self.calls.get()
            if future.set_running_or_notify_cancel():
                self._answer(future, call)
            del future, call  # what was read is not kept until the next call comes
            with self.lock:
                self.spare += 1

    def _answer(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            result = call()
        except (CkptkitError, RemoteChanged, RetryError) as error:
            future.set_exception(error)
        except BaseException as error:  # a bug of ours; this thread ends over it
            with self.lock:
                self.count -= 1
            future.set_exception(error)
            raise
        else:
            future.set_result(result)


_threads = _Threads()


def in_flight(call: Callable[[], T]) -> Future[T]:
    """Begin a call in another thread; a few are under way at a time."""
    return _threads.submit(call)


def _forked() -> None:
    """A forked child has none of its parent's threads."""
    global _threads, _lock
    _threads, _lock = _Threads(), threading.Lock()


os.register_at_fork(after_in_child=_forked)
