"""End a child process, and all that it started, when the process that asked for it is gone.

A parent that is killed ends nobody.  So the child holds the reading end of a pipe whose other end
the parent alone has, and a process beside the child waits for the end of it: not a thread, which
would wait for native code that holds the interpreter.  On Linux the kernel ends the child as well
(prctl(2), PR_SET_PDEATHSIG), where a fork of the parent keeps the pipe open.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # orphans of this process's children become its own
_LOOK_S = 0.5  # between two looks at whether the child itself is still there


def guard(pipe: int) -> Callable[[], None]:
    """Start a process that ends this process group once nobody holds the other end of `pipe`.

    Must be called before this process has threads.  Returns what ends that process.  Where nobody
    holds it any more, this process ends here.
    """
    if select.select([pipe], [], [], 0)[0]:  # it died while this process was starting
        os._exit(1)
    child = os.getpid()
    os.set_inheritable(pipe, False)
    guardian = os.fork()
    if not guardian:
        _watch(pipe, child)
    os.close(pipe)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def end() -> None:
        end_descendants(child, but=guardian)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(guardian, signal.SIGKILL)
            os.waitpid(guardian, 0)

    return end


def _watch(pipe: int, child: int) -> None:
    """Wait until the pipe or the child ends; then end the process group, with this process."""
    try:
        while os.getppid() == child:
            if select.select([pipe], [], [], _LOOK_S)[0]:
                break
    finally:
        end_descendants(child, but=os.getpid())
        os.killpg(0, signal.SIGKILL)


def end_descendants(pid: int, but: int = 0) -> None:
    """End all processes that a process started, and those that these started, of any session.

    Those that have a session of their own are in no group that could be ended.  On Linux; elsewhere
    nobody tells who they are.  Once the process itself is gone, nobody tells there either.

    Args:
        pid: of the process, which itself goes on.
        but: one of them that is left.
    """
    for other in _descendants(pid):
        if other != but:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(other, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Return the processes below one, from /proc/PID/stat: `pid (name) state ppid ...`, proc(5)."""
    children: dict[int, list[int]] = {}
    with suppress(OSError):
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                number = int(folder.name)
                parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(number)
    found = list(children.get(pid, ()))
    for other in found:
        found += children.get(other, ())
    return found
