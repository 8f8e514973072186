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

from ckptkit._io.processes import end_descendants

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
