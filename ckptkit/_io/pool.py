"""The one seam through which work is fanned out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ckptkit.errors import WorkerLostError

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")

BATCH_BYTES = 16 << 20  # of the items of one task: what sending it costs is then little beside it
BATCH_ITEMS = 256


def bounded_map(
    executor: Executor | None, fn: Callable[[T], R], items: Iterable[T], window: int = 8
) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, at most `window` of them under way.

    With no executor the calls run here, one by one.  Works on any `concurrent.futures.Executor`
    (a Dask client's `get_executor(pure=False)` too): only `submit(fn, item)` is used, since
    `Executor.map` submits everything at once and Dask reads keywords as its own options.
    The executor is the caller's: it is neither made nor shut down here.

    Raises what `fn` raises, and WorkerLostError where a worker ended before its work was done.
    """
    if executor is None:
        yield from map(fn, items)
        return
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(_submitted(executor, fn, item))
            if len(pending) >= window:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        for future in pending:
            future.cancel()


def batched_map(
    executor: Executor | None,
    fn: Callable[[T], R],
    items: Iterable[T],
    nbytes: Callable[[T], int],
) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, several of them in one task.

    nbytes: of an item; a task is about at most BATCH_BYTES, or one item.  What the items of a task
    have in common is sent once.  Raises as `bounded_map` does.
    """
    if executor is None:
        yield from map(fn, items)
        return
    for results in bounded_map(executor, partial(_each, fn), _batches(items, nbytes)):
        yield from results


def _each(fn: Callable[[T], R], items: list[T]) -> list[R]:
    return [fn(item) for item in items]


def _batches(items: Iterable[T], nbytes: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    total = 0
    for item in items:
        size = nbytes(item)
        if batch and (total + size > BATCH_BYTES or len(batch) >= BATCH_ITEMS):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def _submitted(executor: Executor, fn: Callable[[T], R], item: T) -> Future[R]:
    from concurrent.futures import BrokenExecutor  # here: it brings logging, and most need no pool

    try:
        return executor.submit(fn, item)
    except BrokenExecutor as error:
        raise _lost(error) from error


def _result(future: Future[R]) -> R:
    from concurrent.futures import BrokenExecutor, CancelledError

    try:
        return future.result()
    except Exception as error:
        # Dask's own (KilledWorker, lost connections) are known by where they are from.
        if isinstance(error, BrokenExecutor | CancelledError) or (
            type(error).__module__.partition(".")[0] == "distributed"
        ):
            raise _lost(error) from error
        raise


def _lost(error: Exception) -> WorkerLostError:
    return WorkerLostError(
        f"a worker ended before its work was done ({type(error).__name__})",
        hint="it was killed, or the machine ran out of memory; try fewer workers, or none",
    )
