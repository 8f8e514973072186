"""Processes of the command line's own to work in, which can be made anew once; how any pool ends.

They begin at `ckptkit_tf`, as every process of this package does: another distribution may have a
package of the same name.  They leave Ctrl-C to the process that made them, and end with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

R = TypeVar("R")

_MOST_RENEWALS = 1
_ENDS_BY_ITSELF_S = 1.0  # a pool whose processes have all ended, where it can


class WorkerProcesses(Executor):
    """A pool of `workers` processes; the first time that it breaks, it can be `renewed`."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.generation = 0
        self._lock = threading.Lock()
        self._pool = _pool(workers)

    def submit(self, fn: Callable[..., R], /, *args: Any, **keywords: Any) -> Future[R]:
        """Hand a task over; raises BrokenProcessPool where a process ended since."""
        with _interrupts_held():
            return self._pool.submit(fn, *args, **keywords)

    def renewed(self) -> bool:
        """Make the pool anew; return whether that was done, which it is once."""
        with self._lock:
            if self.generation >= _MOST_RENEWALS:
                return False
            end_broken(self._pool)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = _pool(self.workers)
            self.generation += 1
            return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes."""
        if wait and _processes_of(self._pool):
            threading.Thread(target=end_with_a_killed_one, args=(self._pool,), daemon=True).start()
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End the processes where they are, for whoever waits for nothing more."""
        kill_all(self._pool)
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back; processes that are started meanwhile hold it back until they are prepared.

    A terminal sends it to all of them, and one that is still importing would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _processes_of(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    return [*(getattr(pool, "_processes", None) or {}).values()]


def pool_of(executor: Executor) -> ProcessPoolExecutor | None:
    """Return the pool of processes that an executor is or has; None where there is none."""
    pool = executor._pool if isinstance(executor, WorkerProcesses) else executor
    return pool if isinstance(pool, ProcessPoolExecutor) else None


def has_lost_one(pool: ProcessPoolExecutor) -> bool:
    """Return whether a process of a pool has ended that the pool still counts on."""
    return bool(connection.wait([process.sentinel for process in _processes_of(pool)], 0))


def is_broken(pool: ProcessPoolExecutor) -> bool:
    """Return whether a pool has given up since one of its processes ended."""
    return bool(getattr(pool, "_broken", False)) or _has_no_reader(pool)


def _has_no_reader(pool: ProcessPoolExecutor) -> bool:
    """Return whether the thread has ended that takes what the processes of a pool send."""
    reader: Any = pool._executor_manager_thread
    return reader is not None and not reader.is_alive()


def kill_all(pool: ProcessPoolExecutor) -> None:
    """Kill the processes of a pool that does no more work.

    Python does so where it can; one that it misses waits for work for ever, and Python, as it ends,
    for that process.
    """
    for process in _processes_of(pool):
        process.kill()


def end_broken(pool: ProcessPoolExecutor) -> None:
    """End a pool that waits for a process that was killed; what it was asked for is lost.

    A process may be killed while it sends a result.  The pool then waits for the rest, which never
    comes, for as long as anybody holds the sending end of that pipe; and so does this process.

    Source of the names: `concurrent/futures/process.py` of Python 3.10 to 3.14.
    """
    kill_all(pool)
    inside: Any = pool
    reader, results = inside._executor_manager_thread, inside._result_queue
    if reader is None or results is None:
        return
    reader.join(_ENDS_BY_ITSELF_S)
    if reader.is_alive():  # else the pool closes both ends itself, and a second time is wrong
        # Whoever waits for that end closes this one as well: it must be ours alone before.
        writer = results._writer
        handle, writer._handle = writer._handle, None
        if handle is not None:
            os.close(handle)
        reader.join(_ENDS_BY_ITSELF_S)
    fail_forgotten(pool)


def fail_forgotten(pool: ProcessPoolExecutor) -> None:
    """Fail the tasks of a pool that nobody is left to finish.

    Before Python 3.12 the thread that finds a process ended goes through the pool's tasks and
    processes while others may still add to them: what is added late is not failed with the rest,
    and the thread itself may fail of it.

    Source: `_ExecutorManagerThread.terminate_broken` of Python 3.11, and of 3.12.
    """
    if not _has_no_reader(pool):
        return
    forgotten: Any = pool._pending_work_items
    for task in [*forgotten.values()]:
        with suppress(InvalidStateError):  # it ended
            task.future.set_exception(BrokenProcessPool("the pool ended as the task was given"))


def end_with_a_killed_one(pool: ProcessPoolExecutor) -> None:
    """Wait for the processes of a pool that is to end; end them all where one was killed.

    It may have held the lock of the queue that the others wait at for what tells them to end, and
    whoever waits for those would wait for ever.
    """
    left = _processes_of(pool)
    while left:
        connection.wait([process.sentinel for process in left])
        for process in left:
            process.join(0.1)
        if any(process.exitcode not in (None, 0) for process in left):
            for process in left:  # the pool itself forgets them as it ends
                process.kill()
            end_broken(pool)
            return
        left = [process for process in left if process.exitcode is None]


def _pool(workers: int) -> ProcessPoolExecutor:
    # A name in a string, since where processes begin imports what lies above this room.  Forking
    # would copy locks that threads of this process hold.
    begin = import_module("ckptkit_tf").begin_worker
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), begin)
    # All of them before the first task, as where Python forks: one that is started while another is
    # found ended would be missed (`kill_all`).
    pool._safe_to_dynamically_spawn_children = False  # type: ignore[attr-defined]
    return pool


def prepare() -> None:
    """Make the process that this is called in a worker: it ends with the one that made it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # held until here
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def end_with_it() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_it, daemon=True).start()
