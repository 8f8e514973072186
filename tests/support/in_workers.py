"""What tests have done to a store in another process."""

from __future__ import annotations

import os
import signal
import time
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fcntl import ioctl
from hashlib import sha256
from pathlib import Path
from select import PIPE_BUF
from termios import FIONREAD
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ckptkit._io import file_states
from ckptkit.stores.base import Store


def content(store: Store) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Return dtype, shape and a digest of the values by key."""
    return {
        key: (
            spec.dtype,
            spec.shape,
            sha256(b"".join(block.tobytes() for _start, block in store.blocks(key))).hexdigest(),
        )
        for key, spec in store.specs.items()
    }


def identity(store: Store) -> int:
    """Return what tells whether two tasks were given the very same store."""
    return id(store)


def believe_fresh_files() -> None:
    """Let stores of files that were just written be kept, so that keeping them is tested."""
    file_states._SETTLED_NS = 0


def read(store: Store, key: str) -> npt.NDArray[Any]:
    """Return all values of a tensor."""
    return np.asarray(store.read(key))


def doubled(number: int) -> int:
    """Return twice a number."""
    return 2 * number


class KilledAsItSends:
    """What a worker is killed for as it sends the next result: reading this one here sees to it."""

    def __init__(self) -> None:
        self.worker = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _kill_when_it_sends, (self.worker,)


results_of: list[ProcessPoolExecutor] = []  # the pool whose results are read here


def _kill_when_it_sends(worker: int) -> int:
    waiting = array("i", [0])
    while waiting[0] < PIPE_BUF:  # of a result that is larger than a pipe
        time.sleep(0.01)
        ioctl(cast("Any", results_of[0])._result_queue._reader.fileno(), FIONREAD, waiting)
    os.kill(worker, signal.SIGKILL)
    return 1


def large_or_fatal(task: tuple[Path, int]) -> Any:
    """Return the number, the first time of 0 what kills; of others more than a pipe holds."""
    directory, number = task
    if number:
        return np.full(1 << 20, number, np.uint8)
    if (directory / "fatal").exists():
        return 1
    (directory / "fatal").touch()
    return KilledAsItSends()


class KillingBlocks:
    """Gives ones for every key; the worker that is asked for `last` is killed, so many times."""

    def __init__(self, directory: Path, last: str, times: int) -> None:
        self.task = directory, last, times

    def __call__(self, key: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        directory, last, times = self.task
        killed_at((directory, int(key == last), 1, times))
        yield 0, np.ones(10, np.float32)

    def only(self, keys: Iterable[str]) -> KillingBlocks:
        return self


def killed_at(task: tuple[Path, int, int, int]) -> int:
    """Return twice a number; the worker that is given `at` is killed, so many times in all.

    task: a directory that counts the times, the number, `at`, how many times.
    """
    directory, number, at, times = task
    if number == at:
        before = len(list(directory.iterdir()))
        if before < times:
            (directory / str(before)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return doubled(number)
