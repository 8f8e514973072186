"""What is known of a store while an operand is read: each directory is listed once.

All paths that come of one operand share it, so the many questions whether a file is there cost one
request per directory; where a store cannot be listed (a plain web server), one per name.  What was
seen stays, unless an object turns out to be in another state: then all is asked anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ckptkit._io.remote.blocks import ObjectBytes
from ckptkit._io.remote.objects import AccessError, Answer, Listing, ObjectSource, ObjectState
from ckptkit._io.remote.requests import count, in_flight, insisting
from ckptkit.errors import UnsupportedError

_START = 1 << 17  # bytes of a first look where nothing is known of an object yet
# What lies beside a name that is a checkpoint's prefix, as most are that have no suffix.
_OF_PREFIX = (".index", ".data-00000-of-00001")


class Snapshot:
    """A store, and what was seen of it."""

    def __init__(self, source: ObjectSource) -> None:
        self.source = source
        self.lists = source.lists
        self._is_stale = False
        self._lock = threading.RLock()
        self._listings: dict[str, Listing] = {}
        self._starts: dict[str, Answer | None] = {}
        self._asked: dict[str, Future[Answer | None]] = {}  # what is under way
        self._directories: dict[str, bool] = {}
        self._objects: dict[tuple[str, ObjectState], ObjectBytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot, (self.source,)

    def state(self, key: str) -> ObjectState | None:
        """Return the state of an object; None where there is none.  Raises CkptkitError."""
        if not key:
            return None
        listing = self._listing(_parent(key))
        if listing is not None:
            found = listing.get(key.rpartition("/")[2])
            # Once an object was not as it was listed, the objects themselves are asked.
            return self.asked_itself(key) if found and self._is_stale else found
        if self._directories.get(_parent(key)) is False and self._start(f"{_parent(key)}.index"):
            return None  # below a checkpoint's prefix
        self._ask_beside_prefix(key)
        start = self._start(key)
        return None if start is None else start.state

    def asked_itself(self, key: str) -> ObjectState | None:
        """Return the state of an object that was not taken from a listing; it counts from now on.

        Raises CkptkitError.
        """
        answer = self._start(key)
        if answer is not None:
            parent, _, name = key.rpartition("/")
            with self._lock:
                listing = self._listings.get(parent)
                if listing is not None:
                    self._listings[parent] = {**listing, name: answer.state}
        return None if answer is None else answer.state

    def is_directory(self, key: str, marks: Iterable[Iterable[str]] = ()) -> bool:
        """Whether there is a directory; where none can be listed, one of the files `marks` tells.

        marks: groups of names; those of the next are asked for where none of one is there.

        Raises CkptkitError.
        """
        if not key:
            return True
        listing = self._listing(_parent(key))
        if listing is not None:
            name = key.rpartition("/")[2]
            return (name in listing and listing[name] is None) or bool(self._listing(key))
        return self._is_marked(key, marks)

    def _is_marked(self, key: str, marks: Iterable[Iterable[str]]) -> bool:
        with self._lock:
            found = self._directories.get(key)
        if found is None:
            # A checkpoint's prefix is no directory, however many files are asked for below it.
            self._ask_beside_prefix(key)
            is_name = self._start(key) is not None or self._start(f"{key}.index") is not None
            found = not is_name and any(
                any(self._exist(f"{key}/{mark}" for mark in group)) for group in marks
            )
            with self._lock:
                self._directories[key] = found
        return found

    def _exist(self, keys: Iterable[str]) -> list[bool]:
        """Ask for several objects at once."""
        asked = [in_flight(partial(self._start, key)) for key in keys]
        return [future.result() is not None for future in asked]

    def names(self, key: str) -> list[str]:
        """Return the names in a directory; raises UnsupportedError where none can be listed."""
        listing = self._listing(key)
        if listing is None:
            raise UnsupportedError(
                "what lies there cannot be listed",
                where=self.source.root + key,
                hint="give a file, or the prefix of a checkpoint, by its name",
            )
        return sorted(listing)

    def object(self, key: str, state: ObjectState) -> ObjectBytes:
        """Return the bytes of an object in one state."""
        with self._lock:
            found = self._objects.get((key, state))
            if found is None:
                start = self._starts.get(key)
                data = start.data if start and start.state.is_that_of(state) else b""
                found = self._objects[key, state] = ObjectBytes(self.source, key, state, data)
        return found

    def forget(self) -> None:
        """Ask all anew from now on: something changed."""
        with self._lock:
            self._is_stale = True
            self._listings.clear()
            self._starts.clear()
            self._asked.clear()
            self._directories.clear()
            self._objects.clear()

    def _listing(self, key: str) -> Listing | None:
        """Return what lies in a directory; None where the store cannot or may not be listed."""
        if not self.lists:
            return None
        with self._lock:  # others wait for the same answer
            found = self._listings.get(key)
            if found is None:
                try:
                    found = insisting(
                        lambda: self.source.list_directory(key), self.source.root + key
                    )
                except AccessError:
                    if self._listings:
                        raise
                    self.lists = False  # objects may be read all the same
                    return None
                self._listings[key] = found
        return found

    def _ask_beside_prefix(self, key: str) -> None:
        """Begin to ask for what is asked for next where a name is a checkpoint's prefix."""
        name = key.rpartition("/")[2]
        _, dot, suffix = name.rpartition(".")
        if dot and not suffix.partition("-")[2].isdecimal():  # as that of "model.ckpt-300" is
            return
        with self._lock:
            if key in self._starts:
                return
            for beside in (f"{key}{suffix}" for suffix in _OF_PREFIX):
                if beside not in self._starts and beside not in self._asked:
                    self._asked[beside] = in_flight(partial(self._ask, beside))

    def _start(self, key: str) -> Answer | None:
        with self._lock:
            if key in self._starts:
                return self._starts[key]
            asked = self._asked.pop(key, None)
        found = self._ask(key) if asked is None else asked.result()
        with self._lock:
            return self._starts.setdefault(key, found)

    def _ask(self, key: str) -> Answer | None:

        def ask() -> Answer | None:
            answer = None
            try:
                answer = self.source.start_of(key, _START)
            finally:
                count(1, len(answer.data) if answer else 0)
            return answer

        return insisting(ask, self.source.root + key)


def _parent(key: str) -> str:
    return key.rpartition("/")[0]
