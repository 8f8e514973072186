"""Runs that share an import: what they share, and when they do not; no TensorFlow needed.

That a fork ends, fails and is ended as a process of its own does is tested in `test_runners`.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from ckptkit.errors import UsageError
from ckptkit.runners import process, registry
from ckptkit.runners.child.garbage import uncollected
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.fork_server import SharedImports, sharing_imports
from ckptkit.runners.process import run
from support.odd_runtime import MODULE, NAME, add_runtime, make_runtime

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="children are forked on Linux alone"
)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a runner whose children can be forked, where no GPU is visible."""
    make_runtime(tmp_path)
    monkeypatch.setitem(registry.RUNNERS.built_in, NAME, registry.Runtime(MODULE))
    add_runtime(forked=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture
def shared(runtime: None) -> Iterator[SharedImports]:
    imports = SharedImports(most=1)
    try:
        with sharing_imports(imports):
            yield imports
    finally:
        imports.close()


def ask(action: str = "pids", **more: Any) -> dict[str, Any]:
    environment = more.pop("environment", {})
    return run(NAME, {"action": action, **more}, timeout_s=600, environment=environment)


def is_fork(answer: dict[str, Any]) -> bool:
    """Whether a child's parent is a process that has what is imported first."""
    return bool(answer["imported"]) and answer["parent"] != os.getpid()


def server_of(imports: SharedImports) -> Any:
    (server,) = imports._servers
    return server


@pytest.mark.usefixtures("shared")
def test_runs_are_forks_of_one_process() -> None:
    first, second = ask(), ask()
    assert is_fork(first) and is_fork(second)
    assert first["parent"] == second["parent"] and first["pid"] != second["pid"]


@pytest.mark.usefixtures("shared")
def test_what_one_run_does_another_does_not_see() -> None:
    ask("draw")  # imports numpy, and moves its generator
    answers = [ask("draw")["got"] for _ in range(2)]
    assert answers[0][0] != answers[1][0] and answers[0][1] != answers[1][1]
    assert ask("variables")["got"] == ask("variables")["got"]


@pytest.mark.usefixtures("runtime")
def test_a_block_inside_of_another_has_its_server() -> None:
    def blocks() -> int:
        with sharing_imports():
            outer = ask()
            with sharing_imports():
                assert ask()["parent"] == outer["parent"]
            assert ask()["parent"] == outer["parent"]
        return int(outer["parent"])

    server = Context().run(blocks)  # outside of the block in which all tests are
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


@pytest.mark.parametrize("change", ["variable", "directory", "limit", "processors"])
def test_other_surroundings_get_a_process_of_their_own_and_then_a_server(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: SharedImports
) -> None:
    first = ask()
    with pytest.MonkeyPatch.context() as patch:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        processors = os.sched_getaffinity(0)
        if change == "variable":
            patch.setenv("TF_X", "1")
        elif change == "directory":
            patch.chdir(tmp_path)
        elif change == "limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        elif len(processors) > 1:
            os.sched_setaffinity(0, {min(processors)})
        else:
            pytest.skip("there is one processor")
        try:
            once, twice = ask(), ask()
            assert not is_fork(once) and is_fork(twice)
            assert twice["parent"] != first["parent"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.sched_setaffinity(0, processors)
    assert not is_fork(ask())


def test_two_surroundings_have_a_server_each(
    shared: SharedImports, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = SharedImports(most=2)
    parents = []
    with sharing_imports(imports):
        for variable in "1212":
            monkeypatch.setenv("TF_X", variable)
            parents.append(ask()["parent"])
    imports.close()
    assert parents[:2] == parents[2:] and parents[0] != parents[1]


@pytest.mark.parametrize("visible", ["0", "", None])
@pytest.mark.usefixtures("shared")
def test_where_a_gpu_may_be_visible_nothing_is_forked(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert not is_fork(ask()) and not is_fork(ask())


@pytest.mark.usefixtures("shared")
def test_a_runtime_that_imports_nothing_first_is_not_forked() -> None:
    add_runtime(forked=False)
    assert not is_fork(ask()) and not is_fork(ask())


def test_a_server_that_is_lost_is_replaced_once_it_has_forked(shared: SharedImports) -> None:
    first = ask()
    server_of(shared).process.send_signal(signal.SIGKILL)
    assert not is_fork(ask())  # is told that it is gone
    later = ask()
    assert is_fork(later) and later["parent"] != first["parent"]


def test_what_cannot_be_imported_is_told_by_a_process_of_its_own(
    shared: SharedImports, tmp_path: Path
) -> None:
    row = registry.Runtime(MODULE, imported_first=("no_such_module",))
    registry.RUNNERS.built_in[NAME] = row
    assert not is_fork(ask()) and not is_fork(ask())
    assert not server_of(shared).has_forked


def test_a_crash_is_told_by_a_process_of_its_own(shared: SharedImports) -> None:
    for _ in range(2):
        with pytest.raises(RunnerError, match="SIGSEGV: a crash in native code"):
            ask("crash")
    server = server_of(shared)
    assert not server.lost and is_fork(ask()) and server is server_of(shared)


def test_runs_at_the_same_time_do_not_wait_for_each_other(
    shared: SharedImports, tmp_path: Path
) -> None:
    answers: list[dict[str, Any]] = []

    def other() -> None:
        with sharing_imports(shared):
            answers.append(ask())

    ask()
    with shared._lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert not is_fork(answers[0]) and is_fork(ask())


def test_what_was_not_waited_for_is_not_taken_for_the_next(
    shared: SharedImports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    first = ask()
    with monkeypatch.context() as patch:
        patch.setattr(process, "_watched", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask()
    later = ask()
    assert is_fork(later) and later["parent"] != first["parent"]


def test_garbage_is_collected_again_where_it_was() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


THREADS = """
import threading, time

def work():
    until = time.monotonic() + 600
    while time.monotonic() < until:
        pass

threading.Thread(target=work, daemon=True).start()
"""


@pytest.mark.parametrize("works", [False, True])
@pytest.mark.filterwarnings("error")
def test_nothing_is_forked_beside_a_thread_at_work(
    shared: SharedImports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, works: bool
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error::DeprecationWarning")
    code = THREADS if works else THREADS.replace("        pass", "        time.sleep(600)")
    (tmp_path / "has_a_thread.py").write_text(code)
    row = registry.Runtime(MODULE, imported_first=("queue", "has_a_thread"))
    registry.RUNNERS.built_in[NAME] = row
    assert is_fork(ask()) is not works


def test_a_message_says_what_a_run_said(shared: SharedImports) -> None:
    with pytest.raises(RunnerError, match="not this") as caught:
        ask("refuse")
    assert caught.value.kind == UsageError.__name__
    assert is_fork(ask())
