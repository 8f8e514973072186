"""Where work is done changes nothing of what is told: none, threads, processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptkit._io.worker_processes import WorkerProcesses
from support.command_line import ckptkit
from support.executor_work import reports, write_files


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


def test_the_command_line_makes_its_own_processes(files: Path) -> None:
    options = ("--executor", "processes", "--jobs", 1)
    done = ckptkit("verify", files / "damaged", *options)
    assert (done.code, done.err) == (1, "")
    assert done.out == ckptkit("verify", files / "damaged").out
    digest = ckptkit("ls", "--digest", files / "m.keras", *options)
    assert (digest.code, digest.out) == (0, ckptkit("ls", "--digest", files / "m.keras").out)


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
