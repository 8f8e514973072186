"""Work on a real Dask cluster: two worker processes that a scheduler of this process leads."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit as package
from ckptkit._io import dask_cluster, engines
from ckptkit._io.pool import bounded_map
from ckptkit.errors import CkptkitError, WorkerLostError
from support.command_line import ckptkit
from support.executor_work import (
    WORK,
    answers,
    fixtures_by_format,
    reports,
    write_files,
    write_large_run,
)
from support.in_workers import killed_at
from support.places import DOCS, environment
from support.signals import default_signals
from support.weights import write_bundle

distributed = pytest.importorskip("distributed", reason="`make test-dask` installs it")
pytestmark = [pytest.mark.dask, pytest.mark.filterwarnings("ignore:::distributed")]

PAGE = DOCS / "clusters.md"
ADDRESS = "dask://10.0.0.7:8786"  # what the page calls the scheduler
_SESSION = re.compile(r"(?ms)^```console\n(.*?)^```\n")
_COMMAND = re.compile(r"(?m)^\$ ckptkit (.*)$")


def two_workers() -> Any:
    """Return a cluster, to be closed by the caller."""
    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_workers() as found:
        yield found


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def doomed_cluster() -> Iterator[Any]:
    """Yield a cluster whose workers tests kill, and which starts others in their place."""
    import dask

    # A task is given up with its first worker, so that sending it again is seen to.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), two_workers() as cluster:
        yield cluster


@pytest.fixture
def doomed(doomed_cluster: Any) -> Iterator[Any]:
    """Yield a client of a cluster that has both workers, those of earlier tests replaced."""
    with distributed.Client(doomed_cluster, set_as_default=False) as client:
        deadline_s = time.monotonic() + 600
        while len(_pids(client)) < 2:
            assert time.monotonic() < deadline_s, "no worker came in place of the one killed"
            # Dask itself starts none in place of one that was killed while it began.
            doomed_cluster.scale(2)
            time.sleep(0.1)
        yield client


def _pids(client: Any) -> set[int]:
    """Return the processes of the workers that answer; of one that was just killed, none does."""
    answers = client.run(os.getpid, on_error="ignore")
    return {pid for pid in answers.values() if isinstance(pid, int)}


@pytest.fixture
def where(cluster: Any) -> str:
    return str(cluster.scheduler_address.replace("tcp://", dask_cluster.SCHEME))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("work") / "files")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_run(tmp_path_factory.mktemp("large"))


def test_reports_and_outputs_are_the_same(files: Path, client: Any, tmp_path: Path) -> None:
    expected = reports(files, None, tmp_path / "none")
    with client.get_executor() as executor:  # which takes equal calls for one, if let
        assert reports(files, executor, tmp_path / "dask") == expected


def test_answers_about_every_format_are_the_same(client: Any, tmp_path: Path) -> None:
    (tmp_path / "written").mkdir()
    with client.get_executor() as executor:
        for name, files in fixtures_by_format(tmp_path / "written").items():
            expected = answers(files[0], files[-1], None, tmp_path / f"{name} none")
            assert answers(files[0], files[-1], executor, tmp_path / f"{name} dask") == expected


def test_an_executor_that_was_shut_down_takes_no_task(client: Any) -> None:
    executor = client.get_executor()
    assert list(bounded_map(executor, str, [1, 2])) == ["1", "2"]
    executor.shutdown()
    with pytest.raises(WorkerLostError, match=r"takes no work \(.* after shutdown\)"):
        list(bounded_map(executor, str, [1, 2]))


def test_a_shutdown_waits_for_tasks(client: Any, tmp_path: Path) -> None:
    executor = client.get_executor()
    task = engines.engine_of(executor).submit(_write_late, tmp_path / "written")
    executor.shutdown()
    assert (tmp_path / "written").exists()
    assert task.result() is None


def _write_late(path: Path) -> None:
    time.sleep(0.5)
    path.touch()


def test_a_file_that_changed_between_two_calls_is_read_again(client: Any, tmp_path: Path) -> None:
    digests = []
    with client.get_executor(pure=True) as executor:
        for value in (1, 2):
            path = tmp_path / "c"
            for old in tmp_path.iterdir():
                old.unlink()
            write_bundle(path, {"v": np.full(3, value, np.float32)})
            digests.append(package.ls(path, digest=True, executor=executor).digest)
    assert digests[0] != digests[1]


def test_the_command_line_works_on_a_cluster(files: Path, where: str, tmp_path: Path) -> None:
    old, new = files / "run" / "ckpt-1", files / "run" / "ckpt-3"
    for command in (
        ("verify", files / "damaged"),
        ("verify", "--values", old, files / "m.keras"),
        ("diff", old, new, "--full"),
        ("history", files / "run", "--no-cache"),
        ("ls", "--digest", old),
        ("ls", "--stats", old),
    ):
        here = ckptkit(*command)
        assert ckptkit(*command, "--executor", where, "--jobs", 2) == here
        assert ckptkit(*command, "--executor", where) == here
    out = tmp_path / "w.safetensors"
    done = ckptkit("convert", old, out, "--shards", 3, "--executor", where)
    assert (done.code, len(list(tmp_path.iterdir()))) == (0, 4)


def test_a_task_that_kills_its_worker_is_sent_once_more(doomed: Any, tmp_path: Path) -> None:
    with doomed.get_executor(pure=False) as executor:
        for directory, times in (("once", 1), ("always", 9)):
            (tmp_path / directory).mkdir()
            items = [(tmp_path / directory, number, 3, times) for number in range(6)]
            done = bounded_map(executor, killed_at, items, lambda item: f"tensor {item[1]}")
            if times == 1:
                assert list(done) == [2 * number for number in range(6)]
                continue
            with pytest.raises(WorkerLostError, match=r"^tensor 3: .*\(KilledWorker\)") as caught:
                list(done)
            assert caught.value.exit_code == 2


def test_a_worker_that_is_killed_as_it_is_asked_for_its_version(
    files: Path, doomed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not answer any more is no worker without this package."""
    pid, version = min(_pids(doomed)), package.__version__

    def asked() -> str:  # sent by value
        if os.getpid() == pid:
            os.kill(pid, signal.SIGKILL)
        return version

    monkeypatch.setattr(dask_cluster, "_version_asker", lambda: asked)
    place = doomed.scheduler.address.replace("tcp://", dask_cluster.SCHEME)
    here = ckptkit("verify", files / "m.keras")
    assert ckptkit("verify", files / "m.keras", "--executor", place) == here


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("after_s", [0.02, 0.15])
def test_a_worker_that_is_killed_meanwhile(
    kind: str, after_s: float, large: Path, doomed: Any, tmp_path: Path
) -> None:
    """The answer is the one that there is without a cluster, or one line that names a tensor."""
    with ThreadPoolExecutor(2) as threads:
        expected = WORK[kind](large, threads, tmp_path)
    pid = min(_pids(doomed))
    killer = threading.Timer(after_s, os.kill, [pid, signal.SIGKILL])
    with doomed.get_executor(pure=False) as executor:
        killer.start()
        try:
            found = WORK[kind](large, executor, tmp_path)
        except WorkerLostError as error:
            assert error.where and "\n" not in str(error)
        else:
            assert found == expected or (kind, found) == ("verify", 2)
    killer.join()


def test_a_result_whose_worker_is_lost_when_it_has_come(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is pending again, since its worker ended, has still given its result."""
    gather = distributed.Client._gather

    async def gather_and_lose(self: Any, futures: list[Any], **options: Any) -> Any:
        results = await gather(self, futures, **options)
        for future in futures:
            self._handle_lost_data(key=future.key)  # as at the scheduler's message
        return results

    monkeypatch.setattr(distributed.Client, "_gather", gather_and_lose)
    with client.get_executor(pure=False) as executor:
        assert list(bounded_map(executor, divmod_by_seven, range(20))) == [
            divmod(number, 7) for number in range(20)
        ]


def divmod_by_seven(number: int) -> tuple[int, int]:
    return divmod(number, 7)


def test_an_interrupt_ends_the_command_and_its_tasks(
    where: str, client: Any, tmp_path: Path
) -> None:
    # more than any machine reads before it is interrupted
    nbytes, names = 100 << 20, [f"t{number}" for number in range(4000)]
    header = json.dumps(
        {
            name: {"dtype": "U8", "shape": [nbytes], "data_offsets": [at, at + nbytes]}
            for name, at in zip(names, range(0, len(names) * nbytes, nbytes), strict=True)
        }
    ).encode()
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + len(names) * nbytes)  # a hole: it takes no room
    while any(client.processing().values()):  # of other tests
        time.sleep(0.05)
    command = subprocess.Popen(
        [sys.executable, "-m", "ckptkit", "ls", "--digest", file.name, "--executor", where],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    while command.poll() is None and not any(client.processing().values()):
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=600)
    assert (command.returncode, out, err.strip()) == (130, "", "ckptkit: interrupted")
    deadline_s = time.monotonic() + 600
    while any(client.processing().values()):
        assert time.monotonic() < deadline_s, "tasks of an interrupted command are still there"
        time.sleep(0.1)


def test_a_scheduler_that_is_not_there(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_S", 1)
    done = ckptkit("verify", files / "m.keras", "--executor", "dask://127.0.0.1:1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        "ckptkit: dask://127.0.0.1:1: no Dask scheduler answers there within 1 seconds"
    )


def _worker_of(address: str, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    code = "from distributed.cli.dask_worker import main; main()"
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", code, address, *options],
        cwd=folder.parent,
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_workers_without_this_version_are_refused(files: Path, tmp_path: Path) -> None:
    """Another distribution has a package of this name, too."""
    (tmp_path / "ckptkit").mkdir()
    (tmp_path / "ckptkit" / "__init__.py").touch()
    (tmp_path / "ckptkit" / "_version.py").write_text('__version__ = "9.9"\n')
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
        worker = _worker_of(cluster.scheduler_address, tmp_path / "scratch", PYTHONPATH=path)
        try:
            with distributed.Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=600)
            place = cluster.scheduler_address.replace("tcp://", dask_cluster.SCHEME)
            done = ckptkit("verify", files / "m.keras", "--executor", place)
        finally:
            worker.kill()
            worker.wait()
    assert (done.code, done.out) == (2, "")
    assert re.search(r"the worker at tcp://\S+ has ckptkit 9.9, and here is ", done.err)


def test_a_cluster_without_workers_is_told(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that loses its last, which nobody starts again."""
    monkeypatch.setattr(engines, "NO_WORKERS_S", 1.0)
    monkeypatch.setattr(engines, "_LOOKED_AGAIN_S", 0.3)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        place = cluster.scheduler_address.replace("tcp://", dask_cluster.SCHEME)
        done = ckptkit("verify", files / "m.keras", "--executor", place)
        assert (done.code, done.err) == (2, "")
        assert "metadata.json and 2 more: the cluster" in done.out
        assert "has had no worker for 1 seconds" in done.out
        worker = _worker_of(cluster.scheduler_address, tmp_path)
        with distributed.Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=600)
            results = bounded_map(client.get_executor(pure=False), time.sleep, [0, 600], str)
            assert next(results) is None
            worker.kill()
            worker.wait()
            with pytest.raises(CkptkitError, match="600: the cluster has had no worker"):
                next(results)


def test_a_scheduler_that_ends_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "NO_WORKERS_S", 2.0)
    monkeypatch.setattr(engines, "_LOOKED_AGAIN_S", 0.5)
    code = "from distributed.cli.dask_scheduler import main; main()"
    file = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    worker = None
    try:
        while not file.exists() or not file.read_text():
            assert scheduler.poll() is None
            time.sleep(0.1)
        # As long as this, a client also waits for a scheduler that is gone to come back.
        timeout_s = dask_cluster.CONNECT_TIMEOUT_S
        with distributed.Client(
            scheduler_file=str(file), set_as_default=False, timeout=timeout_s
        ) as client:
            worker = _worker_of(client.scheduler.address, tmp_path / "scratch")
            client.wait_for_workers(1, timeout=600)
            executor = client.get_executor(pure=False)
            results = bounded_map(executor, time.sleep, [0, 600], "tensor {}".format)
            assert next(results) is None
            scheduler.kill()
            with pytest.raises(WorkerLostError, match=r"^tensor 600: "):
                next(results)
    finally:
        for process in filter(None, (scheduler, worker)):
            process.kill()
            process.wait()


def test_the_page_on_clusters(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """What the sessions of docs/clusters.md print, on this cluster; `--regen` rewrites it."""
    monkeypatch.chdir(tmp_path)
    assert ckptkit("sample", "first").code == 0

    def session(match: re.Match[str]) -> str:
        lines: list[str] = []
        for words in _COMMAND.findall(match[1]):
            done = ckptkit(*shlex.split(words.replace(ADDRESS, where)))
            printed = [*done.out.splitlines(), *done.err.splitlines()]
            lines += ["", f"$ ckptkit {words}", *(line.replace(where, ADDRESS) for line in printed)]
            lines += [f"[exit code {done.code}]"] if done.code else []
        body = "\n".join(line.rstrip() for line in lines[1:])
        return f"```console\n{body}\n```\n" if lines else match[0]

    text = PAGE.read_text(encoding="utf-8")
    expected = _SESSION.sub(session, text)
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected, "run: make docs-dask"
