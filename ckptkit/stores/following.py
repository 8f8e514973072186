"""Training directories that move on: the latest checkpoint may be removed while it is read.

An operand that is a directory means its latest checkpoint.  Where a program saves on, that one is
removed sooner or later; then the operand means another one, and the work is done again with that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from ckptkit.errors import ChangedError, CkptkitError, PathNotFoundError, TruncatedError

_TRIES = 5

_STILL_S, _PAUSE_S, _LOOKS = 1.0, 0.2, 10


class _Opened(Protocol):
    """What was opened: where it lies, and what of it is missing or cut short."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    def problems(self) -> list[CkptkitError]:
        """Return what of it is missing or cut short.

        Returns:
            One error per file.
        """
        ...


Opened = TypeVar("Opened", bound=_Opened)
P = ParamSpec("P")
R = TypeVar("R")


def following_latest(function: Callable[P, R]) -> Callable[P, R]:
    """Do the work again where a file changed meanwhile, or one right in a given directory went."""

    @wraps(function)
    def following(*args: P.args, **keywords: P.kwargs) -> R:
        for _ in range(_TRIES):
            try:
                return function(*args, **keywords)
            except ChangedError:
                continue
            except PathNotFoundError as error:
                if not _is_right_in(error.where, [*args, *keywords.values()]):
                    raise
        return function(*args, **keywords)

    return following


def opened_still(open_file: Callable[[], Opened]) -> tuple[Opened, list[CkptkitError]]:
    """Return a checkpoint and its problems, opened again while files go in a directory.

    A program that removes a checkpoint removes one file after the other; once the index is gone
    too, opening says so, or finds another one.  A directory that was still for a second is
    believed.
    """
    for _ in range(_LOOKS):
        try:
            opened = open_file()
        except (TruncatedError, PathNotFoundError) as error:
            # TensorFlow writes an index under its final name, and removes it before the data.
            is_passing = isinstance(error, TruncatedError) or "index" in error.message
            if not is_passing or not _was_just_changed(Path(error.where).parent):
                raise
            time.sleep(_PAUSE_S)
            continue
        problems = opened.problems()
        for problem in problems:
            if isinstance(problem, ChangedError):
                raise problem
        is_missing = any(isinstance(one, PathNotFoundError) for one in problems)
        if not is_missing or not _was_just_changed(opened.path.parent):
            return opened, problems
        time.sleep(_PAUSE_S)
    opened = open_file()
    return opened, opened.problems()


def _was_just_changed(directory: Path) -> bool:
    try:
        return directory.stat().st_mtime > time.time() - _STILL_S
    except OSError:
        return False


def _is_right_in(where: str, given: Iterable[object]) -> bool:
    """Whether a path is that of an entry of a directory among the arguments."""
    parent = Path(where).parent
    return any(path == parent and path.is_dir() for path in _paths(given))


def _paths(given: Iterable[object]) -> Iterator[Path]:
    for value in given:
        if isinstance(value, str) and value and "\0" not in value and len(value) < 4096:
            yield Path(value)
        elif isinstance(value, Path):
            yield value
        elif isinstance(value, os.PathLike):
            yield Path(os.fspath(value))
        elif isinstance(value, list | tuple):
            yield from _paths(value)
