"""Stores on their way to another process: a function and a path, opened there once.

A store holds the names and places of all its tensors, hundreds of kilobytes of a large file, and a
task for a worker names one tensor.  So a store pickles to the function that opened it and the path,
and each process keeps the few stores that it opened last.

What a process keeps is given out only while every file that the store was made of is the same file
(device, inode), as long and as old as when it was opened; else it is opened anew.  A store of files
that changed a moment ago is opened again each time (`FileState.is_settled`).

A store that cannot be opened raises why at its first use, not while the task is unpickled: an error
there ends the whole pool of workers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ckptkit._io.file_states import (
    FileState,
    UnchangedPath,
    check_unchanged,
    file_state,
    is_local,
    state_of,
    state_taken_on,
)
from ckptkit._io.workers import UnsuitableWorkerError, here, sees_another_file
from ckptkit.errors import ChangedError, CkptkitError, FormatError, PathNotFoundError
from ckptkit.stores.base import Store

STORES_KEPT = 16  # per process; each may hold the names of a million tensors


class StoreOfFiles(Store, Protocol):
    """A store that says which files it was made of."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every path whose content decides what the store is, there or not."""


Opener = Callable[[Path], StoreOfFiles]


class _KeptStore(NamedTuple):
    store: StoreOfFiles
    states: tuple[FileState | None, ...]


class UnopenedStore:
    """Stands for a store that could not be opened here; whatever it is asked, it raises why."""

    def __init__(self, error: CkptkitError | UnsuitableWorkerError) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by copy, pickle and the like
            raise AttributeError(name)
        raise self.error


_kept: OrderedDict[tuple[Opener, Path], _KeptStore] = OrderedDict()
_lock = threading.Lock()


def pickled(opener: Opener, path: Path, files: tuple[Path, ...] = ()) -> tuple[Any, ...]:
    """Return what `__reduce__` of a store returns that `opener` made of `path`.

    files: those of the store; of each that is an `UnchangedPath`, only that state is read.
    """
    # The process that it goes to may be in another directory; a path with a state knows that.
    sent = path if isinstance(path, UnchangedPath) else path.absolute()
    return reopen, (opener, sent, tuple(map(state_of, files)), here())


def reopen(
    opener: Opener,
    path: Path,
    states: tuple[FileState | None, ...] = (),
    machine: str | None = None,
) -> Any:
    """Return the store of `path`, the one that this process has where that is as its files are now.

    states: in which alone its files may be, in the order of `files`; None for any.  machine: where
    they were taken; None for here.
    """
    # A URL leads to the same file from every machine.
    is_elsewhere = machine not in (None, here()) and is_local(path)
    store = _reopened(opener, path)
    if not is_local(path) and not _is_in_states(store, states, machine):
        _forget(opener, path)  # what was seen of a store elsewhere is kept: look again
        store = _reopened(opener, path)
    if isinstance(store, UnopenedStore):
        is_another = isinstance(store.error, FormatError | PathNotFoundError | ChangedError)
        return UnopenedStore(sees_another_file(path)) if is_elsewhere and is_another else store
    for file, wanted in zip(store.files, states, strict=False):
        state = state_of(file)
        if wanted is None or (state and state_taken_on(machine, wanted).is_that_of(state)):
            continue
        return UnopenedStore(sees_another_file(file) if is_elsewhere else ChangedError(file))
    return store


def _reopened(opener: Opener, path: Path) -> StoreOfFiles | UnopenedStore:
    key = (opener, path)
    with _lock:
        kept = _kept.get(key)
        if kept is not None:
            _kept.move_to_end(key)
    if kept is not None and _states(kept.store) == kept.states:
        return kept.store
    started_ns = time.time_ns()
    try:
        store = opener(path)
        check_unchanged(store.files)
    except CkptkitError as error:
        return UnopenedStore(error)
    states = _states(store)
    # Of the time before: a file that changed while it was opened may be half old, half new.
    settled = all(state is None or state.is_settled(started_ns) for state in states)
    with _lock:
        _kept.pop(key, None)
        if settled:
            _kept[key] = _KeptStore(store, states)
        while len(_kept) > STORES_KEPT:
            _kept.popitem(last=False)
    return store


def _is_in_states(
    store: StoreOfFiles | UnopenedStore, states: tuple[FileState | None, ...], machine: str | None
) -> bool:
    """Whether a store could be opened, and its files are in the states that are wanted."""
    if isinstance(store, UnopenedStore):
        return False
    found = [(state_of(file), wanted) for file, wanted in zip(store.files, states, strict=False)]
    return all(
        wanted is None or (state is not None and state_taken_on(machine, wanted).is_that_of(state))
        for state, wanted in found
    )


def _forget(opener: Opener, path: Path) -> None:
    with _lock:
        _kept.pop((opener, path), None)


def _states(store: StoreOfFiles) -> tuple[FileState | None, ...]:
    return tuple(map(file_state, store.files))


def forget_stores() -> None:
    """Let go of the stores that this process keeps."""
    with _lock:
        _kept.clear()
