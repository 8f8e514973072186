"""What is so on the other side of an executor: a worker that may be of another machine.

A worker that sees another file by the same path, or none, or has another version of this package,
would give an answer about something else.  It says so by an error that is in no tree of refusals,
so that nothing on the way takes it for damage; `pool.bounded_map` makes a refusal of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from ckptkit._version import __version__

T = TypeVar("T")
R = TypeVar("R")


class UnsuitableWorkerError(Exception):
    """A worker cannot do what it was given; the message is a line, of what a worker lacks."""


def sees_another_file(path: object) -> UnsuitableWorkerError:
    """Return the error of a worker that does not see the file that its task is about."""
    return UnsuitableWorkerError(
        f"the worker on {os.uname().nodename} does not find {path} as it is here"
    )


@cache
def here() -> str:
    """Return what tells this machine, and what it has mounted, from others.

    Many machines are called alike.  Linux tells one boot from another, and a container, which sees
    files of its own, from its host.
    """
    told = [os.uname().nodename]
    with suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
    with suppress(OSError):
        told.append(os.readlink("/proc/self/ns/mnt"))  # noqa: PTH115  # names nothing
    return " ".join(told)


def check_shared(path: Path, machine: str) -> None:
    """Raise UnsuitableWorkerError where a file that was made on `machine` is not to be seen."""
    if machine != here() and not path.exists():
        raise sees_another_file(path)


class Task(Generic[T, R]):
    """A function on its way to a worker that need not be of this installation."""

    def __init__(self, fn: Callable[[T], R]) -> None:
        self.fn = fn
        self.version = __version__

    def __call__(self, item: T) -> R:
        """Do the work; raises UnsuitableWorkerError where another version would do it."""
        if self.version != __version__:
            there = f"the worker on {os.uname().nodename} has ckptkit {__version__}"
            raise UnsuitableWorkerError(f"{there}, and here is {self.version}")
        return self.fn(item)
