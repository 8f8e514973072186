"""What a runner's child can do wrong becomes an error in the parent; no TensorFlow needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptkit.errors import UsageError
from ckptkit.runners import process, registry
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.process import run
from support import places

RUNTIME = """
import os, sys, time
import faulthandler
from ckptkit.errors import MissingDependencyError, UsageError

def echo(request):
    print("chatter")
    return {"got": request["value"], "pid": os.getpid(), "set": os.environ.get("CKPTKIT_X")}

def fail(request):
    raise ValueError("line one\\n\\nline two")

def refuse(request):
    raise UsageError("not this", where="there", hint="try that")

def die(request):
    print("last words", flush=True)
    os.abort()

def crash(request):
    faulthandler._sigsegv()

def kill(request):
    os.kill(os.getpid(), 9)

def allocate(request):
    raise MemoryError("no more")

def lack(request):
    raise MissingDependencyError("this needs x", hint="pip install x")

def leave(request):
    sys.exit(3)

def hang(request):
    open(request["mark"], "w").close()
    while True:
        time.sleep(600)

def subprocess_of(request):
    import subprocess
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        start_new_session=request.get("apart", False),
    )
    with open(request["mark"] + ".part", "w") as file:
        file.write(f"{os.getpid()} {other.pid}")
    os.replace(request["mark"] + ".part", request["mark"])

def start(request):
    subprocess_of(request)
    if not request.get("leave"):
        time.sleep(600)
    return {}

def hold(request):
    import ctypes
    subprocess_of(request)
    ctypes.PyDLL(None).sleep(600)  # holds the interpreter, as a compiler does

def ramble(request):
    raise TypeError("a" * 500 + "b" * 42_000 + "the end")

def look_up(request):
    return {"got": os.environ[request["name"]]}

def variables(request):
    return {"got": sorted(os.environ)}

def eat(request):
    held = bytearray(400 << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(600)

ACTIONS = {f.__name__: f for f in (
    echo, fail, refuse, die, leave, hang, eat, crash, kill, allocate, lack,
    start, hold, ramble, look_up, variables
)}
"""


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


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a runner called "test", of the actions above."""
    (tmp_path / "runtime_for_test.py").write_text(RUNTIME)
    monkeypatch.setitem(registry.RUNNERS.built_in, "test", registry.Runtime("runtime_for_test"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("runtime")
def test_a_child_answers() -> None:
    request = {"action": "echo", "value": [1, "é"]}
    result = run("test", request, timeout_s=600, environment={"CKPTKIT_X": "1"})
    assert result["got"] == [1, "é"] and result["set"] == "1" and result["pid"] != os.getpid()


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
    """The time is up once it hangs, however long it took to come that far."""
    mark = tmp_path / "mark"
    clock = SimpleNamespace(monotonic=lambda: 100.0 * mark.exists(), sleep=time.sleep)
    monkeypatch.setattr(process, "time", clock)
    with pytest.raises(RunnerError, match=r"more than 9 s \(in hang, runtime_for") as caught:
        run("test", {"action": "hang", "mark": str(mark)}, timeout_s=9)
    assert caught.value.kind == "timeout"


@pytest.mark.usefixtures("runtime")
def test_a_child_that_grows_is_ended() -> None:
    with pytest.raises(RunnerError, match="bytes of memory"):
        run("test", {"action": "eat"}, timeout_s=600, max_rss_bytes=200 << 20)


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(UsageError, match="no runner 'x'"):
        run("x", {}, timeout_s=1)


PARENT = """
import sys
from ckptkit.runners import process, registry
registry.RUNNERS.built_in["test"] = registry.Runtime("runtime_for_test")
process.run("test", {"action": sys.argv[2], "mark": sys.argv[1]}, timeout_s=600)
"""


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("number", "action"),
    [
        (signal.SIGHUP, "start"),
        (signal.SIGKILL, "start"),
        (signal.SIGTERM, "start"),
        (signal.SIGKILL, "hold"),
    ],
)
def test_a_child_and_what_it_started_end_with_the_parent(
    number: int, action: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    paths = [str(tmp_path), places.environment()["PYTHONPATH"]]
    environment = places.environment() | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", PARENT, str(mark), action]
    with subprocess.Popen(command, env=environment, preexec_fn=_default_sighup) as parent:
        try:
            _wait_for(mark.exists)
        finally:
            parent.send_signal(number)
    pids = [int(pid) for pid in mark.read_text().split()]
    _wait_for(lambda: not any(_is_running(pid) for pid in pids))


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
        assert child.wait(300)
    assert not result.exists()


def _default_sighup() -> None:
    """Have SIGHUP end this process, though `nohup` may have started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
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
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


@pytest.mark.usefixtures("runtime")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process has started")
@pytest.mark.parametrize("leaves", [True, False])
def test_what_a_child_started_in_a_session_of_its_own_ends(tmp_path: Path, *, leaves: bool) -> None:
    mark = tmp_path / "mark"
    request = {"action": "start", "mark": str(mark), "apart": True, "leave": leaves}
    with suppress(RunnerError):
        run("test", request, timeout_s=600 if leaves else 3)
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
    got = set(run("test", {"action": "variables"}, timeout_s=600)["got"])
    assert got.isdisjoint([*secrets, "DATA_AT"]) and got >= {*needed, "PATH", "HOME"}
    with pytest.raises(RunnerError, match=r"KeyError: 'DATA_AT' \(CKPTKIT_PASS_ENV=DATA_AT passes"):
        run("test", {"action": "look_up", "name": "DATA_AT"}, timeout_s=600)
    monkeypatch.setenv("CKPTKIT_PASS_ENV", "DATA_AT, OTHER")
    assert run("test", {"action": "look_up", "name": "DATA_AT"}, timeout_s=600)["got"] == "1"
    with pytest.raises(RunnerError, match=r"KeyError: 'NOWHERE'$"):
        run("test", {"action": "look_up", "name": "NOWHERE"}, timeout_s=600)
