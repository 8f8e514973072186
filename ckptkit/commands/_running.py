"""What long commands share: threads to work in, and a progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

_QUIET_S = 1.0  # what is done sooner needs no progress bar


@contextmanager
def threads(jobs: int | None) -> Iterator[Executor | None]:
    """Yield an executor of `jobs` threads, by default one per usable core; None for one."""
    count = jobs or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else jobs or 2
    if count == 1:
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as executor:
        yield executor


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Yield a reporter that draws a bar on stderr once a second has passed, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    import time

    start = time.monotonic()
    bars: list[Any] = []

    def report(done: int, total: int) -> None:
        if not bars:
            if time.monotonic() - start < _QUIET_S:
                return
            from tqdm import tqdm

            bars.append(tqdm(total=total, unit="B", unit_scale=True, leave=False, desc="compared"))
        bars[0].update(done - bars[0].n)

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()
