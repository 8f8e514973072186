"""Where a command does its work: `--executor` and `--jobs`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptkit._io.progress import abandoned_work

if TYPE_CHECKING:  # `ls` does not need it at its start
    from concurrent.futures import Executor

F = TypeVar("F", bound=Callable[..., Any])

THREADS = "threads"
PROCESSES = "processes"
DASK = "dask://"


class _ExecutorType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """`threads`, `processes`, or the address of a Dask scheduler."""

    name = "executor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        _host, colon, port = text.removeprefix(DASK).rpartition(":")
        is_cluster = text.startswith(DASK) and bool(_host and colon and port.isdecimal())
        if text not in (THREADS, PROCESSES) and not is_cluster:
            known = f"{THREADS}, {PROCESSES}, {DASK}HOST:PORT"
            self.fail(f"{text!r} is not one of {known}", param, ctx)
        return text


def executor_options(function: F) -> F:
    """Add --executor and --jobs, which `executor_of` reads."""
    jobs = click.option(
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Threads, processes, or tasks on a cluster at once.  [default: one per core; all]",
    )
    executor = click.option(
        "--executor",
        type=_ExecutorType(),
        metavar="WHERE",
        help="Where the work is done: threads, processes, or a Dask cluster, dask://HOST:PORT.  "
        "[default: threads]",
    )
    return executor(jobs(function))


@contextmanager
def executor_of(options: Mapping[str, Any]) -> Iterator[Executor | None]:
    """Yield the executor that the options of a command ask for; None for one thread.

    Raises MissingDependencyError and CkptkitError where there is no such cluster.
    """
    where, jobs = options["executor"] or THREADS, options["jobs"]
    if where.startswith(DASK):
        from ckptkit._io.dask_cluster import cluster

        with cluster(where, jobs) as executor:
            yield executor
    elif where == PROCESSES:
        with _processes(jobs or _cores()) as executor:
            yield executor
    else:
        with threads(jobs) as found:
            yield found


@contextmanager
def threads(jobs: int | None) -> Iterator[Executor | None]:
    """Yield an executor of `jobs` threads, by default one per usable core; None for one."""
    count = jobs or _cores()
    if count == 1:
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as executor:
        try:
            yield executor
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or asked to end by a signal
            with abandoned_work():
                executor.shutdown(cancel_futures=True)
            raise


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    from ckptkit._io.worker_processes import WorkerProcesses

    with WorkerProcesses(count) as executor:
        try:
            yield executor
        except BaseException:  # nobody waits for what is under way
            executor.kill()
            raise


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
