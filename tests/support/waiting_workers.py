"""A cluster by simulation: workers that wait for each byte that a task reads, and do the rest.

    python -m support.waiting_workers [WORKERS ...]

prints, for 1,000 shards of 64 MB and so many workers, how much of their time they were at work when
`verify` gave them what there is to read.  Time is virtual, so that what is measured is how work is
cut and handed out, and not this machine.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from ckptkit._io import engines
from ckptkit.operations.verify.data import (
    ReadBatch,
    ShardPlan,
    range_checksums,
)
from ckptkit.operations.verify.ranges import ChecksummedRange, Ranges

SHARDS = 1000
PIECE = 8 << 20  # bytes of a tensor
PIECES = 8  # of a shard, give or take
BYTES_PER_S = 100 << 20  # of one worker
PER_TASK_S = 0.005  # that a task takes on its way


class WaitingWorkers(Executor):
    """Workers of which each takes `BYTES_PER_S`; tasks wait in one queue.

    A task's result is there when a worker would have it; whoever asks for it waits until then.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.now_s = self.busy_s = 0.0
        self._free_s = [0.0] * workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_options: Any) -> Future[Any]:
        """Give a task to the worker that is free first."""
        took = PER_TASK_S + _nbytes(args[0]) / BYTES_PER_S
        end = max(heapq.heappop(self._free_s), self.now_s) + took
        heapq.heappush(self._free_s, end)
        self.busy_s += took
        return _Waited(self, end, args[0])

    @property
    def efficiency(self) -> float:
        """The part of all workers' time in which they were at work."""
        return self.busy_s / (max(self._free_s) * self.workers)


class _Waited(Future[Any]):
    def __init__(self, workers: WaitingWorkers, end_s: float, item: Any) -> None:
        super().__init__()
        self._workers, self._end_s = workers, end_s
        self.set_result([[0] * len(batch.sizes) for batch in item])

    def result(self, timeout: float | None = None) -> Any:
        self._workers.now_s = max(self._workers.now_s, self._end_s)
        return super().result(timeout)


class _Cluster(engines._DaskCluster):
    """As a Dask cluster of so many workers would be asked."""

    def submit(self, fn: Callable[[Any], Any], item: Any) -> Future[Any]:
        task: Future[Any] = self._executor.submit(fn, item)
        return task

    def wait(self, future: Future[Any]) -> None:
        pass

    def _threads(self) -> int:
        return int(self._executor.workers)


def _nbytes(item: list[ReadBatch]) -> int:
    return sum(batch.nbytes for batch in item)


def plans() -> list[ShardPlan]:
    """Return what there is to read of shards that are not all of one size."""
    found = []
    for number in range(SHARDS):
        count = PIECES + number * 7 % 5 - 2
        pieces = [ChecksummedRange(n * PIECE, PIECE, f"t{n}", f"t{n}", 0) for n in range(count)]
        found.append(ShardPlan(Path(f"shard-{number}"), count * PIECE, Ranges.of(pieces), []))
    return found


def efficiency(workers: int) -> float:
    """Return which part of their time so many workers are at work."""
    executor = WaitingWorkers(workers)
    before, engines.engine_of = engines.engine_of, _Cluster
    try:
        read = sum(len(some.crcs) for some in range_checksums(plans(), executor))
    finally:
        engines.engine_of = before
    assert read == sum(len(plan.pieces) for plan in plans())
    return executor.efficiency


if __name__ == "__main__":
    for workers in map(int, sys.argv[1:] or ("8", "64")):
        print(f"{workers} workers: {efficiency(workers):.1%}")
