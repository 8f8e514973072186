"""The one seam through which work is fanned out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ckptkit.errors import WorkerLostError

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from ckptkit._io.engines import Engine

T = TypeVar("T")
R = TypeVar("R")

BATCH_ITEMS = 256


def bounded_map(
    executor: Executor | None,
    fn: Callable[[T], R],
    items: Iterable[T],
    name: Callable[[T], str] | None = None,
) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, a few of them under way for each worker.

    With no executor the calls run here, one by one.  Works on any `concurrent.futures.Executor`
    (a Dask client's `get_executor()` too): only `submit(fn, item)` is used, since `Executor.map`
    submits everything at once and Dask reads keywords as its own options.
    The executor is the caller's: it is neither made nor shut down here.

    name: what an item is about, for a message.

    Raises what `fn` raises, and WorkerLostError where a worker ended before its work was done and
    the executor goes no further (`ckptkit._io.engines`), or cannot do it at all.
    """
    if executor is None:
        yield from map(fn, items)
        return
    from ckptkit._io.engines import engine_of  # here: it brings logging, and most need no pool

    pending = _PendingTasks(engine_of(executor), fn, name)
    try:
        for item in items:
            pending.add(item)
            if pending.is_full:
                yield pending.next_result()
        while pending.tasks:
            yield pending.next_result()
    finally:
        for task in pending.tasks:
            task.future.cancel()


class _PendingTask(Generic[T, R]):
    """An item that was handed over: the work on it, and which time it is."""

    def __init__(self, item: T, future: Future[R], generation: int, times_before: int) -> None:
        self.item = item
        self.future = future
        self.generation = generation
        self.times_before = times_before


class _PendingTasks(Generic[T, R]):
    """The tasks that are under way, in the order in which their results are wanted."""

    def __init__(
        self, engine: Engine, fn: Callable[[T], R], name: Callable[[T], str] | None
    ) -> None:
        self.tasks: deque[_PendingTask[T, R]] = deque()
        self._engine = engine
        self._fn = fn
        self._name = name

    @property
    def is_full(self) -> bool:
        return len(self.tasks) >= self._engine.window()

    def add(self, item: T) -> None:
        """Hand an item over; raises WorkerLostError."""
        self.tasks.append(self._submitted(item, 0))

    def next_result(self) -> R:
        """Return the result of the first task; raises what it raises, and WorkerLostError."""
        from ckptkit._io.engines import Submission, lost

        while True:
            task = self.tasks[0]
            try:
                self._engine.wait(task.future)
                result = task.future.result()
            except WorkerLostError as error:  # it never will be done
                error.where = error.where or self._named(task.item)
                raise
            except Exception as error:
                if not self._engine.is_lost(error):
                    raise
                if not self._engine.sends_again(Submission(task.generation, task.times_before)):
                    raise lost(error, self._named(task.item)) from error
                self.tasks[0] = self._submitted(task.item, task.times_before + 1)
            else:
                self.tasks.popleft()
                return result

    def _submitted(self, item: T, times_before: int) -> _PendingTask[T, R]:
        from ckptkit._io.engines import Submission, lost

        generation = self._engine.generation
        while True:
            try:
                future = self._engine.submit(self._fn, item)
            except Exception as error:  # a pool that is broken or closed takes nothing
                if not (self._engine.is_lost(error) or isinstance(error, RuntimeError)):
                    raise
                if self._engine.generation == generation and not self._engine.sends_again(
                    Submission(generation, times_before + 1)
                ):
                    raise lost(error, self._named(item)) from error
                generation = self._engine.generation
            else:
                return _PendingTask(item, future, generation, times_before)

    def _named(self, item: T) -> str:
        return self._name(item) if self._name is not None else ""


def task_bytes(executor: Executor | None, total: int) -> int:
    """Return how many bytes one task is to be about, of so many in all."""
    if executor is None:
        return total
    from ckptkit._io.engines import engine_of

    return engine_of(executor).task_bytes(total)


def batched_map(
    executor: Executor | None,
    fn: Callable[[T], R],
    items: Iterable[T],
    nbytes: Callable[[T], int],
    name: Callable[[T], str] | None = None,
    total: int | None = None,
) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, several of them in one task.

    nbytes: of an item; a task is about at most `task_bytes`, or one item.  What the items of a task
    have in common is sent once.  total: bytes of all items; None adds them up.
    Raises as `bounded_map` does.
    """
    if executor is None:
        yield from map(fn, items)
        return
    if total is None:
        items = list(items)
        total = sum(map(nbytes, items))
    most = task_bytes(executor, total)
    names = partial(_names, name) if name is not None else None
    for results in bounded_map(executor, partial(_each, fn), _batches(items, nbytes, most), names):
        yield from results


def _names(name: Callable[[Any], str], items: Sequence[Any]) -> str:
    return some_names([name(item) for item in items])


def some_names(names: Sequence[str]) -> str:
    """Return what a task is about: the first of its names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    rest = len(distinct) - 1
    return "".join(distinct[:1]) + (f" and {rest} more" if rest > 0 else "")


def _each(fn: Callable[[T], R], items: list[T]) -> list[R]:
    return [fn(item) for item in items]


def _batches(items: Iterable[T], nbytes: Callable[[T], int], most: int) -> Iterator[list[T]]:
    batch: list[T] = []
    total = 0
    for item in items:
        size = nbytes(item)
        if batch and (total + size > most or len(batch) >= BATCH_ITEMS):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
