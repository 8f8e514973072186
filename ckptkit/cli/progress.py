"""Threads and a progress bar, for commands that read and write whole files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

_QUIET_S = 1.0  # what is done sooner needs no progress bar


@contextmanager
def threads(jobs: int | None) -> Iterator[Executor | None]:
    """Yield an executor of `jobs` threads, by default one per usable core; None for one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    count = jobs or cores
    if count == 1:
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as executor:
        yield executor


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a reporter of (bytes done, bytes in all) that draws a bar on stderr, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    start = time.monotonic()
    bars: list[Any] = []

    def report(done: int, total: int) -> None:
        if not bars:
            if time.monotonic() - start < _QUIET_S:
                return
            from tqdm import tqdm

            bars.append(tqdm(total=total, unit="B", unit_scale=True, leave=False, desc=what))
        bars[0].update(done - bars[0].n)

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()
