"""The one seam through which work is fanned out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    executor: Executor | None, fn: Callable[[T], R], items: Iterable[T], window: int = 8
) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, at most `window` of them under way.

    With no executor the calls run here, one by one.  Works on any `concurrent.futures.Executor`
    (a Dask client's `get_executor(pure=False)` too): only `submit(fn, item)` is used, since
    `Executor.map` submits everything at once and Dask reads keywords as its own options.
    The executor is the caller's: it is neither made nor shut down here.
    """
    if executor is None:
        yield from map(fn, items)
        return
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(fn, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
