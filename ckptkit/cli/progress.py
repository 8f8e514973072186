"""Threads and a progress bar, for commands that read and write whole files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `ls` needs neither at its start
    from concurrent.futures import Executor

    from ckptkit._io.progress import Progress

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
def progress() -> Iterator[Progress | None]:
    """Yield what draws a bar on stderr, one for each phase; None where no terminal is."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    start = time.monotonic()
    bars: dict[str, Any] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase not in bars:
            if time.monotonic() - start < _QUIET_S:
                return
            from tqdm import tqdm

            # The bar of the phase before has said what it had to.
            for bar in bars.values():
                bar.close()
            bars[phase] = tqdm(total=total, unit="B", unit_scale=True, leave=False, desc=phase)
        bars[phase].total = total
        bars[phase].update(done - bars[phase].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()
