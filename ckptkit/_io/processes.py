"""Processes that others started: who they are, and their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_LOOKS, _LOOK_S = 100, 0.01


def end_descendants(pid: int, but: int = 0) -> None:
    """End all processes that a process started, and those that these started, of any session.

    Those that have a session of their own are in no group that could be ended.  On Linux; elsewhere
    nobody tells who they are.  Once the process itself is gone, nobody tells there either.

    Args:
        pid: of the process, which itself goes on.
        but: one of them that is left.
    """
    _end(other for other in descendants(pid) if other != but)


def end_processes(known: Mapping[int, int], but: int = 0) -> None:
    """End those of some processes that are still there.

    Args:
        known: as `descendants` tells them; another process that has a number now is left.
        but: one of them that is left.
    """
    there = {number: started for number, _, started in _processes()}
    _end(pid for pid, started in known.items() if pid != but and there.get(pid) == started)


def end_marked(variable: str, mark: str) -> None:
    """End all processes that were started with a mark in their environment, of any session.

    So those are found that nobody tells of any more, since what started them is gone.  On Linux;
    elsewhere nobody tells what the environment of a process is.

    Args:
        variable: of the environment, which whoever is to be found inherited.
        mark: what its value begins with; must end in what no longer mark goes on with.
    """
    wanted = os.fsencode(f"{variable}={mark}")
    for _ in range(_LOOKS):  # one that has not ended yet may have started another
        found = [pid for pid, started_with in _environments() if wanted in started_with]
        if not found:
            return
        _end(found)
        time.sleep(_LOOK_S)


def _environments() -> Iterator[tuple[int, bytes]]:
    """Yield (number, `NAME=TEXT` after `NAME=TEXT`, as it was started with) from /proc, proc(5)."""
    with suppress(OSError):
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):  # of another user, or gone
                    yield int(folder.name), (folder / "environ").read_bytes()


def _end(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> dict[int, int]:
    """Tell which processes are below one.

    Args:
        pid: of the process.

    Returns:
        {number of a process: when it started, in ticks since the system did}.
    """
    children: dict[int, list[tuple[int, int]]] = {}
    for number, parent, started in _processes():
        children.setdefault(parent, []).append((number, started))
    found = list(children.get(pid, ()))
    for other, _ in found:
        found += children.get(other, ())
    return dict(found)


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield (number, parent, start) from /proc/PID/stat: `pid (name) state ppid ...`, proc(5)."""
    with suppress(OSError):
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                yield int(folder.name), int(fields[1]), int(fields[19])
