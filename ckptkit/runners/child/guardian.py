"""End a child process, and all that it started, when the process that asked for it is gone.

A parent that is killed ends nobody.  So the child holds the reading end of a pipe whose other end
the parent alone has, and a process beside the child waits for the end of it: not a thread, which
would wait for native code that holds the interpreter.  On Linux the kernel ends the child as well
(prctl(2), PR_SET_PDEATHSIG), where a fork of the parent keeps the pipe open, or where the process
that forked the child (`ckptkit.runners.child.fork_server`) is not the one that asked for it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress
from typing import NamedTuple

from ckptkit._io.processes import descendants, end_descendants, end_marked, end_processes

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # orphans of this process's children become its own
# What a child starts inherits it: the marks of the processes that it is within, outermost first.
_WITHIN = "CKPTKIT_WITHIN"
_LOOK_S = 0.5  # between two looks at whether the child itself is still there


class Guardian(NamedTuple):
    """The process beside a child; pid: its number, child: that of the child."""

    pid: int
    child: int

    def end_others(self) -> None:
        """End all that the child has started, but this process."""
        end_descendants(self.child, but=self.pid)

    def end(self) -> None:
        """End all that the child has started, and this process."""
        self.end_others()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def guard(pipe: int) -> Guardian:
    """Start a process that ends this process group once nobody holds the other end of `pipe`.

    Must be called before this process has threads.  Where nobody holds it any more, or the parent
    of this process is gone already, this process ends here.
    """
    child, parent = os.getpid(), os.getppid()
    if _has_ended(pipe, 0):  # it died while this process was starting
        os._exit(1)
    os.set_inheritable(pipe, False)
    mark = f"{os.environ.get(_WITHIN, '')}{os.urandom(8).hex()}/"
    guardian = os.fork()
    if not guardian:
        _watch(pipe, child, mark)
    os.environ[_WITHIN] = mark
    os.close(pipe)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)
    return Guardian(guardian, child)


def _has_ended(pipe: int, within_s: float) -> bool:
    """Whether nobody holds the writing end of a pipe, which is read from by nobody else.

    The number of its descriptor may be any: `select` takes none above 1,023.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _watch(pipe: int, child: int, mark: str) -> None:
    """Wait until the pipe or the child ends; then end the process group, with this process.

    The kernel may have ended the child first, and then nobody tells what it had started: what has a
    session of its own is known from the last look, and what came after that by its mark.
    """
    known: dict[int, int] = {}
    try:
        while os.getppid() == child:
            known = descendants(child)
            if _has_ended(pipe, _LOOK_S):
                break
    finally:
        end_descendants(child, but=os.getpid())
        end_processes(known, but=os.getpid())
        if sys.platform == "linux":
            end_marked(_WITHIN, mark)
        os.killpg(0, signal.SIGKILL)
