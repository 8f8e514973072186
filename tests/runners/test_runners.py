"""What a runner's child can do wrong becomes an error in the parent; no TensorFlow needed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptkit.errors import UsageError
from ckptkit.runners import process, registry
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.process import run

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

def eat(request):
    held = bytearray(400 << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(600)

ACTIONS = {f.__name__: f for f in (
    echo, fail, refuse, die, leave, hang, eat, crash, kill, allocate, lack
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
