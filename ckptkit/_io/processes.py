"""Processes that others started: who they are, and their end."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


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
