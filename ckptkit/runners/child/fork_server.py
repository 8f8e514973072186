"""A process that imports a runtime once, and is forked for each run; the child's side of it.

Python and TensorFlow together take seconds to start, and a small model a fifth of one.  So the
process that `ckptkit.runners.fork_server` starts imports what every run needs, does nothing with
it, and waits for requests.  Each gets a fork, which is a child like any other from there on: in a
session of its own, with a pipe and a file of its own, ended by whatever ends one.

Over the socket, a message each (SOCK_SEQPACKET):

    {"argv": [...]} and the descriptors of its pipe and of its output    there, a request
    {"pid": n}                                                           back, from the fork
    {"status": n}                                                        back, when it has ended
    {"refused": why}                                                     back, in place of both

An ended fork is kept until the next message, so that its number is nobody else's meanwhile.  On
Linux alone.  A fork has one thread, that which forked; what another holds at that moment would be
held for ever.  What a runtime imports may start some (OpenBLAS's do nothing until they are given
work, and OpenBLAS stops them for a fork), so nothing is forked while one of them runs.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptkit.runners.child.garbage import uncollected
from ckptkit.runners.child.guardian import Guardian, guard

MAX_MESSAGE = 1 << 16  # bytes: paths of three files
_LOOKS = 100  # at other threads, before they are taken to be at work
_LOOK_S = 0.005


def serve() -> None:
    """Import, then fork for each request; return in the forks, as the children of their runs.

    argv: descriptors of a socket and of a pipe, the module of a runner, then what it imports.  What
    is returned to calls `ckptkit.runners.child.__main__.run`, which finds the argv of a request.
    """
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    guardian = guard(int(sys.argv[2]))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    _import(sys.argv[3:])
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 2)
        _reap(guardian)
        if not message:  # the other end is closed
            guardian.end()
            os._exit(0)
        if _is_settled():
            child = _fork()
            if not child:
                if os.getppid() != guardian.child:  # the server has died meanwhile
                    os._exit(1)
                _become_child(channel, json.loads(message)["argv"], *descriptors)
                return
            status = _status(child)
            guardian.end_others()  # what the child has left behind is this process's by now
            _send(channel, {"status": status})
        else:
            _send(channel, {"refused": "a thread is at work"})
        for descriptor in descriptors:
            os.close(descriptor)


def _import(modules: list[str]) -> None:
    """Import modules as a child does, which finds those of the current directory first."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    with uncollected():
        for name in modules:
            import_module(name)
    gc.freeze()  # a fork that looked for garbage among what is here would copy every page
    sys.path.remove(here)  # a child inserts it itself


def _is_settled() -> bool:
    """Whether all other threads sleep, at one moment at least."""
    main = str(os.getpid())
    for _ in range(_LOOKS):
        tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != main]
        if all(_sleeps(task) for task in tasks):
            return True
        time.sleep(_LOOK_S)
    return False


def _sleeps(task: Path) -> bool:
    """Whether a thread sleeps: `pid (name) state ...`, proc(5)."""
    try:
        return (task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"S"
    except (OSError, IndexError):  # it has ended
        return True


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python >= 3.12 warns of a fork beside threads, which have just been looked at
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def _become_child(channel: socket.socket, argv: list[str], pipe: int, output: int) -> None:
    """Make of a fork what a child is when it starts, but for what is imported already."""
    os.setsid()
    _send(channel, {"pid": os.getpid()})
    channel.close()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    sys.argv[1:] = [*argv, str(pipe)]
    numpy = sys.modules.get("numpy")
    if numpy is not None:  # else all forks draw the same; Python's own `random` sees to itself
        numpy.random.seed()


def _status(child: int) -> int:
    """Wait for the end of a process and return it as `subprocess` does: a signal is negative."""
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _reap(guardian: Guardian) -> None:
    """Take note of all children that have ended but the guardian."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == guardian.pid:
            return
        os.waitpid(ended.si_pid, 0)


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    try:
        channel.send(json.dumps(message).encode())
    except OSError:  # nobody is there to read it
        os._exit(1)
