"""What a runner's child can do wrong becomes an error in the parent; no TensorFlow needed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptkit.errors import UsageError
from ckptkit.runners import process, registry
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.fork_server import SharedImports, sharing_imports
from ckptkit.runners.process import run
from support import places
from support.odd_runtime import MODULE, add_runtime, make_runtime
from support.signals import default_signals

THEIRS = """
import contextlib, os

def build():
    with contextlib.ExitStack() as stack:
        stack.callback(os.abort)
"""
CALLS_THEIRS = """
from their_code import build

ACTIONS = {"theirs": lambda request: build()}
"""


@pytest.fixture(params=["started", "forked"])
def runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[bool]:
    """Make a runner called "test", whose children are started or forked; yield which."""
    forked = bool(request.param == "forked")
    make_runtime(tmp_path)
    monkeypatch.setitem(registry.RUNNERS.built_in, "test", registry.Runtime(MODULE))
    add_runtime(forked=forked)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    if forked and sys.platform != "linux":
        pytest.skip("children are forked on Linux alone")
    shared = SharedImports()
    try:
        with sharing_imports(shared):
            yield forked
    finally:
        shared.close()


@pytest.mark.usefixtures("runtime")
def test_a_child_answers() -> None:
    request = {"action": "echo", "value": [1, "é"]}
    result = run("test", request, timeout_s=600, environment={"CKPTKIT_X": "1"})
    assert result["got"] == [1, "é"] and result["set"] == "1" and result["pid"] != os.getpid()


@pytest.mark.usefixtures("runtime")
def test_a_process_with_many_open_files_has_children() -> None:
    """Descriptors above 1,023 are no numbers for select()."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), limits[1]))
    except ValueError:
        pytest.skip("this process may not open so many files")
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(open(os.devnull))  # noqa: PTH123
        assert run("test", {"action": "echo", "value": 1}, timeout_s=600)["got"] == 1
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        ("fail", "ValueError", "ValueError: line one line two"),
        ("refuse", "UsageError", r"there: not this \(try that\)"),
        (
            "die",
            "died",
            r"died \(signal 6, SIGABRT: .*\), in die, runtime_for_test.py:\d+: last words",
        ),
        ("crash", "died", r"SIGSEGV: a crash in native code\), in crash, runtime_for_test.py:\d+"),
        ("kill", "died", r"SIGKILL: killed from outside, as the system does when memory runs out"),
        ("allocate", "memory", "MemoryError: no more"),
        ("lack", "missing", r"this needs x \(pip install x\)"),
        ("leave", "died", r"died \(exit code 3\)"),
    ],
)
def test_a_child_that_fails_is_an_error(action: str, kind: str, message: str) -> None:
    with pytest.raises(RunnerError, match=message) as caught:
        run("test", {"action": action}, timeout_s=600)
    assert caught.value.kind == kind and caught.value.exit_code == 2


@pytest.mark.parametrize("folder", ["lib", "ckptkit/runners", "ckptkit/fixtures/lib"])
def test_code_of_users_is_told_from_ours_wherever_it_lies(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "their_code.py").write_text(THEIRS)
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "runtime_for_test.py").write_text(CALLS_THEIRS)
    monkeypatch.setitem(registry.RUNNERS.built_in, "test", registry.Runtime("runtime_for_test"))
    paths = [str(tmp_path / "site-packages"), str(tmp_path / folder)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    # their frame is neither the innermost (contextlib's) nor the outermost (the child's own)
    with pytest.raises(RunnerError, match=r"SIGABRT.*, in build, their_code.py:5"):
        run("test", {"action": "theirs"}, timeout_s=600)


@pytest.mark.usefixtures("runtime")
def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    _time_is_up_at(mark, monkeypatch)
    with pytest.raises(RunnerError, match=r"more than 9 s \(in hang, runtime_for") as caught:
        run("test", {"action": "hang", "mark": str(mark)}, timeout_s=9)
    assert caught.value.kind == "timeout"


def test_a_stack_is_waited_for_until_all_of_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python writes it piece by piece, and where this process seeks to in the file of both."""
    frames = [
        '"<frozen x>", line 1 in wait',
        '"m.py", line 3 in step',
        '"<string>", line 1 in <module>',
    ]
    stack = ["Current thread 0x1 (most recent call first):\n", *(f"  File {f}\n" for f in frames)]
    with (tmp_path / "output").open("w+b", buffering=0) as output:
        output.write(b'  File "<string>", line 1, in <module>, of something else\n')
        pieces = iter(stack)

        def sleep(_seconds: float) -> None:
            output.write(next(pieces, "").encode())

        monkeypatch.setattr(process, "time", SimpleNamespace(sleep=sleep))
        child = SimpleNamespace(send_signal=lambda _number: None)
        assert process._where_it_is(child, output) == " (in step, m.py:3)"  # type: ignore[arg-type]
        assert next(pieces, "all") == "all"


@pytest.mark.usefixtures("runtime")
def test_a_child_that_grows_is_ended() -> None:
    with pytest.raises(RunnerError, match="bytes of memory"):
        run("test", {"action": "eat"}, timeout_s=600, max_rss_bytes=200 << 20)


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(UsageError, match="no runner 'x'"):
        run("x", {}, timeout_s=1)


PARENT = """
import sys
from ckptkit.runners import process
from ckptkit.runners.fork_server import sharing_imports
from support.odd_runtime import add_runtime
mark, action, forked = sys.argv[1:]
add_runtime(forked=forked == "True")
with sharing_imports():
    process.run("test", {"action": "pids"}, timeout_s=600)
    request = {"action": action.removesuffix(" apart"), "mark": mark}
    process.run("test", {**request, "apart": action.endswith(" apart")}, timeout_s=600)
"""


@contextmanager
def running(tmp_path: Path, action: str, *, forked: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Run a parent whose child is in the midst of an action, having run another before."""
    mark = tmp_path / "mark"
    paths = [str(tmp_path), places.environment()["PYTHONPATH"]]
    environment = places.environment() | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", PARENT, str(mark), action, str(forked)]
    with subprocess.Popen(
        command, env=environment, preexec_fn=default_signals, stderr=subprocess.DEVNULL
    ) as parent:
        try:
            _wait_for(mark.exists)
            yield parent
        finally:
            parent.kill()


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (signal.SIGHUP, "start"),
        (signal.SIGINT, "start"),
        (signal.SIGKILL, "start"),
        (signal.SIGTERM, "start"),
        (signal.SIGKILL, "hold"),
        pytest.param(signal.SIGKILL, "start apart", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "hold apart", marks=pytest.mark.slow),
    ],
)
def test_a_child_and_what_it_started_end_with_the_parent(
    number: int, action: str, tmp_path: Path, *, runtime: bool
) -> None:
    with running(tmp_path, action, forked=runtime) as parent:
        pids = [int(pid) for pid in (tmp_path / "mark").read_text().split()]
        pids += _children(parent.pid)  # the server, where there is one
        parent.send_signal(number)
        parent.wait()
    _wait_for(lambda: not any(_is_running(pid) for pid in pids))


@pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux alone")
@pytest.mark.parametrize("action", ["start", "hold"])
@pytest.mark.parametrize("runtime", ["forked"], indirect=True)
def test_a_child_and_what_it_started_end_with_their_server(
    action: str, tmp_path: Path, *, runtime: bool
) -> None:
    mark = tmp_path / "mark"
    with running(tmp_path, action, forked=runtime) as parent:
        pids = [int(pid) for pid in mark.read_text().split()]
        (server,) = _children(parent.pid)
        assert pids[0] in _children(server)
        mark.unlink()
        os.kill(server, signal.SIGKILL)
        _wait_for(lambda: not any(_is_running(pid) for pid in [*pids, server]))
        _wait_for(mark.exists)  # a process of its own begins anew
        (child,) = _children(parent.pid)
        assert child == int(mark.read_text().split()[0])
        parent.send_signal(signal.SIGTERM)
        parent.wait()
    _wait_for(lambda: not _is_running(child))


@pytest.mark.usefixtures("runtime")
def test_a_child_whose_parent_died_before_it_began_does_not_begin(tmp_path: Path) -> None:
    """The parent may die while the child is still importing: nobody is left to read an answer."""
    request, result = tmp_path / "request.json", tmp_path / "result.json"
    request.write_text(
        json.dumps({"runner": "runtime_for_test", "action": "hang", "mark": str(tmp_path / "mark")})
    )
    reading, writing = os.pipe()
    os.close(writing)
    command = [sys.executable, "-c", process._PROGRAM, str(request), str(result), str(reading)]
    environment = places.environment()
    with subprocess.Popen(
        command, env=environment, pass_fds=(reading,), start_new_session=True
    ) as child:
        os.close(reading)
        assert child.wait(600)
    assert not result.exists()


def _time_is_up_at(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass until a child has left its mark, however slow it is; then far too much."""
    clock = SimpleNamespace(monotonic=lambda: 100.0 * mark.exists(), sleep=time.sleep)
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "_STACK_POLLS", 12_000)


def _children(pid: int) -> list[int]:
    """Return the processes that one has started, and that have not ended."""
    command = ["ps", "-o", "pid=,stat=", "--ppid", str(pid)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")
    rows = [line.split() for line in lines if line.strip()]
    return [int(number) for number, state in rows if not state.startswith("Z")]


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, which stays where nobody asks how it ended."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.mark.usefixtures("runtime")
def test_a_child_leaves_no_process_behind(tmp_path: Path) -> None:
    pid = run("test", {"action": "echo", "value": 0}, timeout_s=600)["pid"]
    lines = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout
    in_group = [line.split()[1] for line in lines.splitlines() if line.split()[0] == str(pid)]
    assert all(state.startswith("Z") for state in in_group)


@pytest.mark.usefixtures("runtime")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process has started")
@pytest.mark.parametrize("leaves", [True, False])
def test_what_a_child_started_in_a_session_of_its_own_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, leaves: bool
) -> None:
    mark = tmp_path / "mark"
    request = {"action": "start", "mark": str(mark), "apart": True, "leave": leaves}
    if not leaves:
        _time_is_up_at(mark, monkeypatch)
    with nullcontext() if leaves else pytest.raises(RunnerError, match="more than 9 s"):
        run("test", request, timeout_s=600 if leaves else 9)
    pids = [int(pid) for pid in mark.read_text().split()]
    _wait_for(lambda: not any(_is_running(pid) for pid in pids))


@pytest.mark.usefixtures("runtime")
def test_a_long_message_is_cut_in_the_middle() -> None:
    with pytest.raises(RunnerError) as caught:
        run("test", {"action": "ramble"}, timeout_s=600)
    message = caught.value.message
    assert len(message) < 1000 and message.startswith("TypeError: aaa")
    assert message.endswith("bthe end") and " characters ...]" in message


@pytest.mark.usefixtures("runtime")
def test_a_child_gets_what_decides_how_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "TF_TOKEN_app_terraform_io", "TF_VAR_db"]
    needed = ["TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "JAX_ENABLE_X64"]
    for name in [*secrets, *needed, "DATA_AT"]:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOME", os.environ.get("HOME", "/"))
    got = set(run("test", {"action": "variables"}, timeout_s=600)["got"])
    assert got.isdisjoint([*secrets, "DATA_AT"]) and got >= {*needed, "PATH", "HOME"}
    with pytest.raises(RunnerError, match=r"KeyError: 'DATA_AT' \(CKPTKIT_PASS_ENV=DATA_AT passes"):
        run("test", {"action": "look_up", "name": "DATA_AT"}, timeout_s=600)
    monkeypatch.setenv("CKPTKIT_PASS_ENV", "DATA_AT, OTHER")
    assert run("test", {"action": "look_up", "name": "DATA_AT"}, timeout_s=600)["got"] == "1"
    with pytest.raises(RunnerError, match=r"KeyError: 'NOWHERE'$"):
        run("test", {"action": "look_up", "name": "NOWHERE"}, timeout_s=600)
