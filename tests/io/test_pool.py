"""Work that is fanned out: in order, in batches, and what a lost worker comes to."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ckptkit._io import engines
from ckptkit._io.engines import BATCH_BYTES, LEAST_WINDOW, engine_of
from ckptkit._io.pool import batched_map, bounded_map, some_names
from ckptkit._io.worker_processes import WorkerProcesses, pool_of
from ckptkit.errors import WorkerLostError
from ckptkit.operations.verify.api import verify
from support import in_workers
from support.in_workers import doubled, killed_at
from support.keras_files import write_keras


def test_batches_come_in_order() -> None:
    numbers = list(range(1000))
    wanted = [2 * number for number in numbers]
    with ThreadPoolExecutor(2) as threads:
        for executor in (None, threads):
            assert list(batched_map(executor, doubled, numbers, lambda n: n)) == wanted
            assert list(batched_map(executor, doubled, numbers, lambda n: BATCH_BYTES)) == wanted
            assert list(batched_map(executor, doubled, [], lambda n: n)) == []


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras")
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(
            WorkerLostError, match=r"^item [12]: a worker ended before its work was"
        ):
            for _ in range(100):
                list(bounded_map(executor, doubled, [1, 2], "item {}".format))
        result = verify(path, executor=executor)
    assert result.exit_code == 2
    assert "BrokenProcessPool" in str(result.refusals[0])
    assert "\n" not in str(result.refusals[0])


def test_processes_of_our_own_are_made_anew_once(tmp_path: Path) -> None:
    numbers = range(20)
    with WorkerProcesses(2) as executor:
        for directory, times in (("once", 1), ("always", 9)):
            (tmp_path / directory).mkdir()
            items = [(tmp_path / directory, number, 7, times) for number in numbers]
            done = bounded_map(executor, killed_at, items, lambda item: f"tensor {item[1]}")
            if times == 1:
                assert list(done) == [2 * number for number in numbers]
                assert executor.generation == 1
                continue
            with pytest.raises(WorkerLostError, match=r"^tensor \d+: a worker ended") as caught:
                list(done)
            assert caught.value.exit_code == 2


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="a pool gives up only once that one is started"
)
def test_a_worker_that_is_killed_while_another_is_started() -> None:
    """The pool closes its pipes, which the new process was to have."""
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        pool: Any = executor
        first = pool.submit(os.getpid).result()
        spawn = pool._spawn_process

        def killing() -> None:
            os.kill(first, signal.SIGKILL)
            while not pool._call_queue._reader.closed:
                time.sleep(0.01)
            spawn()

        pool._spawn_process = killing
        with pytest.raises(WorkerLostError, match="a worker ended before its work was done"):
            list(bounded_map(executor, doubled, range(20), "item {}".format))


def test_processes_of_our_own_are_all_started_before_the_first_task() -> None:
    """One that is started while another is found ended may be missed, and then waits for ever."""
    with WorkerProcesses(3) as executor:
        executor.submit(os.getpid).result()
        pool: Any = pool_of(executor)
        assert len(pool._processes) == 3
        pool._spawn_process = None
        assert list(bounded_map(executor, doubled, range(20))) == [2 * n for n in range(20)]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("step", ["terminate_broken", "join_executor_internals"])
def test_a_pool_whose_own_thread_fails_as_it_gives_up(
    step: str, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12 it may, of a task or a process that is added meanwhile."""
    monkeypatch.setattr(engines, "_LOOKED_AGAIN_S", 0.1)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("dictionary changed size during iteration")

    executor: Any = WorkerProcesses(2) if own else ProcessPoolExecutor(2, get_context("spawn"))
    with executor:
        pool: Any = pool_of(executor)
        for task in [pool.submit(time.sleep, 0.1) for _ in range(2)]:
            task.result()
        processes = [*pool._processes.values()]
        for of_thread in (step, "_" + step):  # 3.12 calls the second, where there is one
            monkeypatch.setattr(pool._executor_manager_thread, of_thread, fail, raising=False)
        items = [(tmp_path, number, 1, 1) for number in range(20)]
        done = bounded_map(executor, killed_at, items, "item {}".format)
        if own:
            assert list(done) == [2 * number for number in range(20)]
        else:
            with pytest.raises(WorkerLostError, match="a worker ended before its work was done"):
                list(done)
        for process in processes:
            process.join(600)
            assert process.exitcode is not None


def test_work_within_work_survives_a_pool_that_is_made_anew(tmp_path: Path) -> None:
    """What was under way in the pool before is no second failure."""
    with WorkerProcesses(1) as executor:
        outer = bounded_map(executor, doubled, range(3))
        assert next(outer) == 0
        items = [(tmp_path, number, 1, 1) for number in range(3)]
        assert list(bounded_map(executor, killed_at, items)) == [0, 2, 4]
        assert list(outer) == [2, 4]


def test_a_worker_that_is_killed_as_it_sends_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python waits for ever for the rest of it."""
    monkeypatch.setattr(engines, "_LOOKED_AGAIN_S", 0.1)
    for own in (True, False):
        directory = tmp_path / str(own)
        directory.mkdir()
        pool: Any = WorkerProcesses(1) if own else ProcessPoolExecutor(1, get_context("spawn"))
        with pool as executor:
            monkeypatch.setattr(in_workers, "results_of", [pool_of(executor)])
            items = [(directory, number) for number in range(3)]
            done = bounded_map(executor, in_workers.large_or_fatal, items, "item {}".format)
            if own:
                assert next(done) == 1
                assert [int(result[-1]) for result in done] == [1, 2]
                assert executor.generation == 1
                continue
            with pytest.raises(WorkerLostError, match="a worker ended before its work was done"):
                list(done)


def test_a_closed_pool_is_one_line() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(WorkerLostError, match="item 1: "):
        list(bounded_map(executor, doubled, [1], "item {}".format))


def test_the_window_fits_the_workers() -> None:
    for workers, window in ((1, LEAST_WINDOW), (64, 256)):
        with ThreadPoolExecutor(workers) as executor:
            assert engine_of(executor).window() == window


def test_what_a_task_is_about_is_told_in_a_few_words() -> None:
    assert some_names(["a"]) == "a"
    assert some_names(["a", "a", "b", "c"]) == "a and 2 more"
    assert some_names([]) == ""
