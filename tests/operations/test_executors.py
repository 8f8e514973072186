"""Where work is done changes nothing of what is told: none, threads, processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckptkit._io.worker_processes import WorkerProcesses, _processes_of, end_with_a_killed_one
from ckptkit.cli.executors import executor_of
from ckptkit.errors import WorkerLostError
from ckptkit.stores.registry import FORMATS
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite, plan_shards
from support.command_line import ckptkit
from support.executor_work import (
    WORK,
    answers,
    fixtures_by_format,
    reports,
    write_files,
    write_large_run,
)
from support.in_workers import KillingBlocks


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("work") / "files")


@pytest.fixture(scope="module")
def processes() -> Iterator[WorkerProcesses]:
    with WorkerProcesses(2) as executor:
        yield executor


def test_reports_and_outputs_are_the_same(
    files: Path, processes: WorkerProcesses, tmp_path: Path
) -> None:
    expected = reports(files, None, tmp_path / "none")
    assert (expected["verify"]["exit_code"], expected["damaged"]["exit_code"]) == (0, 1)
    with ThreadPoolExecutor(3) as threads:
        assert reports(files, threads, tmp_path / "threads") == expected
    assert reports(files, processes, tmp_path / "processes") == expected


def test_answers_about_every_format_are_the_same(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    """Reports and refusals alike, over the smallest real files of each format."""
    (tmp_path / "written").mkdir()
    found = fixtures_by_format(tmp_path / "written")
    # of which formats no fixture has a file
    assert set(FORMATS.built_in) - set(found) <= {"frozen-graph", "pytorch-index", "weights.json"}
    with ThreadPoolExecutor(3) as threads:
        for name, files in found.items():
            expected = answers(files[0], files[-1], None, tmp_path / f"{name} none")
            assert expected["ls"]["tensors"] and expected["verify"]["exit_code"] == 0
            assert answers(files[0], files[-1], threads, tmp_path / f"{name} threads") == expected
            there = answers(files[0], files[-1], processes, tmp_path / f"{name} processes")
            assert there == expected


def test_the_command_line_makes_its_own_processes(files: Path) -> None:
    options = ("--executor", "processes", "--jobs", 1)
    done = ckptkit("verify", files / "damaged", *options)
    assert (done.code, done.err) == (1, "")
    assert done.out == ckptkit("verify", files / "damaged").out
    digest = ckptkit("ls", "--digest", files / "m.keras", *options)
    assert (digest.code, digest.out) == (0, ckptkit("ls", "--digest", files / "m.keras").out)


def test_an_interrupt_while_processes_begin_is_left_to_the_command() -> None:
    """A terminal sends Ctrl-C to all of them, also to those that are still importing."""
    with WorkerProcesses(1) as executor:
        blocked = executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, [])
        for process in _processes_of(executor._pool):
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
        assert signal.SIGINT not in blocked.result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_ends_processes_at_work() -> None:
    options = {"executor": "processes", "jobs": 2}
    with pytest.raises(KeyboardInterrupt), executor_of(options) as executor:
        assert isinstance(executor, WorkerProcesses)
        tasks = [executor.submit(time.sleep, 600) for _ in range(8)]
        at_work = _processes_of(executor._pool)
        raise KeyboardInterrupt
    # the pool itself asks the second to end, where it sees the first go before that is killed, too
    ended = {process.exitcode for process in at_work}
    assert ended <= {-signal.SIGKILL, -signal.SIGTERM}
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize("where", ["dask", "dask://host", "dask://:1", "ray", "thread"])
def test_another_executor_is_refused(files: Path, where: str) -> None:
    done = ckptkit("verify", files / "m.keras", "--executor", where)
    assert done.code == 2
    assert f"'{where}' is not one of threads, processes, dask://HOST:PORT" in done.err


def test_an_executor_for_a_listing_that_reads_nothing_is_refused(files: Path) -> None:
    for option in (("--executor", "threads"), ("--jobs", 2)):
        done = ckptkit("ls", files / "m.keras", *option)
        assert done.code == 2
        assert f"{option[0]} goes with --stats or --digest" in done.err


@pytest.mark.parametrize("writer", [write_safetensors, write_tensor_bundle])
def test_a_worker_that_is_killed_as_it_writes(writer: Any, tmp_path: Path) -> None:
    """Processes of our own finish; a pool of the caller's leaves nothing, and names the tensor."""
    tensors = [TensorToWrite(f"t{number}", "float32", (10,)) for number in range(6)]
    for name in ("plain", "killed", "lost", "deaths", "more"):
        (tmp_path / name).mkdir()
    file = "x.safetensors" if writer is write_safetensors else "x"
    plain = writer(tmp_path / "plain" / file, tensors, KillingBlocks(tmp_path, "", 0), shards=3)
    assert len(plain) == 4
    blocks = KillingBlocks(tmp_path / "deaths", "t3", 1)
    with WorkerProcesses(2) as own:
        done = writer(tmp_path / "killed" / file, tensors, blocks, shards=3, executor=own)
    assert [path.read_bytes() for path in done] == [path.read_bytes() for path in plain]
    blocks = KillingBlocks(tmp_path / "more", "t0", 1)
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as callers,
        pytest.raises(WorkerLostError, match="t0 and 1 more: a worker ended before"),
    ):
        writer(tmp_path / "lost" / file, tensors, blocks, shards=3, executor=callers)
    assert not list((tmp_path / "lost").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORK)
def test_a_worker_that_is_killed_meanwhile(kind: str, tmp_path: Path) -> None:
    """Processes of our own finish with the same answer; a pool of the caller's may be an error."""
    run = write_large_run(tmp_path)
    expected = WORK[kind](run, None, tmp_path)
    for after_s in (0.01, 0.05, 0.2):
        for own in (True, False):
            pool: Any = WorkerProcesses(2) if own else ProcessPoolExecutor(2, get_context("spawn"))
            with pool as executor:
                pid = executor.submit(os.getpid).result()
                killer = threading.Timer(after_s, os.kill, [pid, signal.SIGKILL])
                killer.start()
                try:
                    found = WORK[kind](run, executor, tmp_path)
                except WorkerLostError as error:
                    assert not own and error.where and "\n" not in str(error)
                else:
                    assert found == expected or (not own and (kind, found) == ("verify", 2))
                killer.join()
                if not own:  # a killed worker may have held the lock that the others wait at
                    for process in [*(executor._processes or {}).values()]:
                        process.kill()


def test_workers_that_wait_end_with_one_that_was_killed() -> None:
    """It may have held the lock of their queue: they would wait for ever."""
    context = get_context("spawn")
    pair = [context.Process(target=time.sleep, args=(600,)) for _ in range(2)]
    for process in pair:
        process.start()
    assert pair[0].pid is not None
    os.kill(pair[0].pid, signal.SIGKILL)
    pool: Any = SimpleNamespace(
        _processes=dict(enumerate(pair)), _executor_manager_thread=None, _result_queue=None
    )
    end_with_a_killed_one(pool)
    pair[1].join(600)
    assert [process.exitcode for process in pair] == [-signal.SIGKILL] * 2


def test_files_of_about_one_size() -> None:
    assert plan_shards([1] * 10, None, 3) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert plan_shards([100, 1, 1, 1], None, 4) == [0, 1, 2, 3]
    assert plan_shards([1, 1, 1, 100], None, 2) == [0, 0, 0, 1]
    assert plan_shards([0, 0, 0], None, 2) == [0, 0, 1]
    assert plan_shards([5, 5], None, 1) == [0, 0]
    sizes = [1 + 7919 * number % 997 for number in range(1000)]
    shards = plan_shards(sizes, None, 16)
    assert sorted(set(shards)) == list(range(16)) and shards == sorted(shards)
    totals = [0] * 16
    for size, shard in zip(sizes, shards, strict=True):
        totals[shard] += size
    assert max(totals) - min(totals) < 2 * max(sizes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shards", 2, "--shard-size", "1MB"), "--shard-size and --shards exclude each other"),
        (("--shards", 99), "--shards 99: more than the 15 tensors to write"),
        (("--shards", 0), "0 is not in the range x>=1"),
    ],
)
def test_shards_that_cannot_be(files: Path, tmp_path: Path, options: Any, said: str) -> None:
    done = ckptkit("convert", files / "run" / "ckpt-1", tmp_path / "w.safetensors", *options)
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert said in done.err


def test_shards_of_what_is_one_file_are_refused(files: Path, tmp_path: Path) -> None:
    done = ckptkit("convert", files / "run" / "ckpt-1", tmp_path / "w.npz", "--shards", 2)
    assert (done.code, "--shards: this npz is not cut into shards" in done.err) == (2, True)


def test_as_many_files_as_were_asked_for(files: Path, tmp_path: Path) -> None:
    source = files / "run" / "ckpt-1"
    assert ckptkit("convert", source, tmp_path / "c", "--to", "checkpoint", "--shards", 3).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"c.data-0000{number}-of-00003" for number in range(3)),
        "c.index",
    ]
    assert "shards 3/3" in ckptkit("ls", tmp_path / "c").out
