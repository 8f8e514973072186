"""What an executor can do beside running tasks: how wide it is, and what follows a lost worker.

Any `concurrent.futures.Executor` will do.  What it leaves open is asked here, of three kinds:

* a Dask cluster goes on when a worker ends, so what was lost with it is sent once more;
* a pool that the command line made for itself (`WorkerProcesses`) is made anew, once;
* any other executor is the caller's: where it is broken that is told at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from ckptkit._io.workers import Task, UnsuitableWorkerError
from ckptkit.errors import WorkerLostError

R = TypeVar("R")

LEAST_WINDOW = 8  # tasks under way
WINDOW_PER_WORKER = 4  # results are taken in order: one that takes long must not starve the rest
BATCH_BYTES = 16 << 20  # of one task: what sending it costs is then little beside it
_LEAST_ON_A_CLUSTER = 52 << 20  # bytes of one task
_TASKS_PER_WORKER = 12  # so that none waits long for the last
_LARGEST_BATCH_BYTES = 256 << 20  # on a cluster
UNKNOWN_WINDOW = 128  # of an executor that does not say how many workers it has
NO_WORKERS_S = 60.0  # how long a cluster may be without any worker
_LOOKED_AGAIN_S = 5.0
_DASK = "distributed"  # the package that Dask's executors and errors are of
_SENT_AGAIN = 1


@runtime_checkable
class RenewableExecutor(Protocol):
    """An executor of our own, which can be made anew.

    generation: how many times it was.  workers: how many tasks run at once.
    """

    generation: int
    workers: int

    def renewed(self) -> bool:
        """Make it anew, where it may be; return whether it was.

        Returns:
            False where it was made anew before.
        """


class Submission(NamedTuple):
    """Of which `generation` of the executor a task was, and how often it was sent before."""

    generation: int
    times_before: int


class Engine:
    """An executor of the caller's: nothing follows a lost worker."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    @property
    def generation(self) -> int:
        """How many times the executor was made anew."""
        return 0

    def window(self) -> int:
        """How many tasks are to be under way."""
        workers = getattr(self._executor, "_max_workers", None)  # of Python's own pools
        if not isinstance(workers, int):
            return UNKNOWN_WINDOW
        return max(LEAST_WINDOW, WINDOW_PER_WORKER * workers)

    def task_bytes(self, total: int) -> int:
        """How many bytes one task is to be about, of so many in all."""
        return BATCH_BYTES

    def submit(self, fn: Callable[[Any], R], item: Any) -> Future[R]:
        """Hand a task over: in this form every executor takes one (`pool.bounded_map`)."""
        try:
            return self._executor.submit(fn, item)
        except Exception as error:
            if self.is_lost(error):
                raise
            from ckptkit._io import worker_processes as processes

            # One that breaks while it starts a process says anything: its pipes are closed by then.
            pool = processes.pool_of(self._executor)
            if pool is None or not processes.is_broken(pool):
                raise
            raise processes.BrokenProcessPool(str(error)) from error

    def wait(self, future: Future[Any]) -> None:
        """Wait until a task has ended; raises WorkerLostError where it never will."""
        lost_before = False
        while not wait([future], timeout=_LOOKED_AGAIN_S).done:
            from ckptkit._io import worker_processes as processes  # here: few wait for so long

            pool = processes.pool_of(self._executor)
            if pool is None:
                continue
            processes.fail_forgotten(pool)
            lost_now = processes.has_lost_one(pool)
            if lost_now and lost_before:  # Python tells at once, or never
                processes.end_broken(pool)
            lost_before = lost_now

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error says that the engine failed, and not the work."""
        return isinstance(error, BrokenExecutor | CancelledError | UnsuitableWorkerError)

    def sends_again(self, submission: Submission) -> bool:
        """Whether work that was lost may be handed over once more."""
        from ckptkit._io import worker_processes as processes

        pool = processes.pool_of(self._executor)
        if pool is not None and processes.is_broken(pool):
            processes.kill_all(pool)
        return False


class _OwnPool(Engine):
    """A pool that was made by the command line, and is made anew once."""

    _executor: Any

    @property
    def generation(self) -> int:
        return int(self._executor.generation)

    def window(self) -> int:
        return max(LEAST_WINDOW, WINDOW_PER_WORKER * int(self._executor.workers))

    def sends_again(self, submission: Submission) -> bool:
        # What was under way in an earlier pool is no fault of the one that is there now.
        return submission.generation < self.generation or bool(self._executor.renewed())


class _DaskCluster(Engine):
    """The executor of a Dask client, `Client.get_executor()`."""

    _executor: Any

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self._looked_s = -float("inf")
        self._window = LEAST_WINDOW

    def window(self) -> int:
        """As many as its workers have threads for, which may change while work goes on."""
        most: int | None = getattr(self._executor, "most_at_once", None)
        if most is not None:
            return most
        now = time.monotonic()
        if now - self._looked_s > _LOOKED_AGAIN_S:
            self._window = max(LEAST_WINDOW, WINDOW_PER_WORKER * self._threads())
            self._looked_s = now
        return self._window

    def task_bytes(self, total: int) -> int:
        # A task costs its scheduler and all who talk to it about as much as reading 10 MB.
        wanted = total // (_TASKS_PER_WORKER * max(1, self._threads()))
        return min(max(_LEAST_ON_A_CLUSTER, wanted), _LARGEST_BATCH_BYTES)

    def submit(self, fn: Callable[[Any], R], item: Any) -> Future[R]:
        # Not by `executor.submit`: its futures ask for a task's state once more after its result
        # came.  Where a worker was lost between, they take the result for an error, or never end.
        if self._executor._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        # Dask takes equal calls for one unless told: a file may have changed between two.
        options = self._executor._kwargs | {"pure": False}
        remote = self._executor._client.submit(Task(fn), item, **options)
        self._executor._futures.add(remote)  # for which its shutdown waits
        answer: Future[R] = Future()
        answer.add_done_callback(partial(_cancel_with, remote))
        remote.add_done_callback(partial(_fill, answer))
        return answer

    def wait(self, future: Future[Any]) -> None:
        alone_s = 0.0
        while not wait([future], timeout=_LOOKED_AGAIN_S).done:
            alone_s = 0.0 if self._threads() else alone_s + _LOOKED_AGAIN_S
            if alone_s >= NO_WORKERS_S and not future.done():
                raise WorkerLostError(
                    f"the cluster has had no worker for {NO_WORKERS_S:.0f} seconds",
                    hint="start some, or leave the cluster out",
                )

    def is_lost(self, error: BaseException) -> bool:
        # Dask's own (KilledWorker, lost connections) are known by where they are from.
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "ckptkit":
            return True  # the worker has no such package
        return super().is_lost(error) or type(error).__module__.partition(".")[0] == _DASK

    def sends_again(self, submission: Submission) -> bool:
        return submission.times_before < _SENT_AGAIN

    def _threads(self) -> int:
        """Return how many tasks its workers run at once; 0 where nobody answers."""
        try:
            return sum(self._executor._client.nthreads().values())
        except (OSError, RuntimeError, ValueError, AttributeError):
            # Of a connection: the task's own end will tell.
            return 0


def _fill(answer: Future[Any], remote: Any) -> None:
    """Give an answer what a task of Dask has come to, unless it is cancelled before."""
    try:
        result = remote.result()
    except BaseException as error:  # whatever the work, Dask or the connection raises
        if answer.set_running_or_notify_cancel():
            answer.set_exception(error)
    else:
        if answer.set_running_or_notify_cancel():
            answer.set_result(result)


def _cancel_with(remote: Any, answer: Future[Any]) -> None:
    if answer.cancelled():
        remote.cancel()


def engine_of(executor: Executor) -> Engine:
    """Return what can be done with an executor beside running tasks."""
    if isinstance(executor, RenewableExecutor):
        return _OwnPool(executor)
    if type(executor).__module__.partition(".")[0] == _DASK:
        return _DaskCluster(executor)
    return Engine(executor)


def lost(error: BaseException, where: str = "") -> WorkerLostError:
    """Return the refusal for work that an engine lost or cannot do; where: what it was about."""
    if isinstance(error, UnsuitableWorkerError):
        return WorkerLostError(
            str(error),
            where=where,
            hint="all machines need the same files at the same paths, and the same version",
        )
    if isinstance(error, RuntimeError) and not isinstance(error, BrokenExecutor):
        return WorkerLostError(
            f"the executor takes no work ({error})", where=where, hint="give one that still runs"
        )
    return WorkerLostError(
        f"a worker ended before its work was done ({type(error).__name__})",
        where=where,
        hint="it was killed, or the machine ran out of memory; try fewer workers, or none",
    )
