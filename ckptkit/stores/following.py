"""Training directories that move on: the latest checkpoint may be removed while it is read.

An operand that is a directory means its latest checkpoint.  Where a program saves on, that one is
removed sooner or later; then the operand means another one, and the work is done again with that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from ckptkit.errors import PathNotFoundError

_TRIES = 5

P = ParamSpec("P")
R = TypeVar("R")


def following_latest(function: Callable[P, R]) -> Callable[P, R]:
    """Do the work again where a file right in a directory that was given went meanwhile."""

    @wraps(function)
    def following(*args: P.args, **keywords: P.kwargs) -> R:
        for _ in range(_TRIES):
            try:
                return function(*args, **keywords)
            except PathNotFoundError as error:
                if not _is_right_in(error.where, [*args, *keywords.values()]):
                    raise
        return function(*args, **keywords)

    return following


def _is_right_in(where: str, given: Iterable[object]) -> bool:
    """Whether a path is that of an entry of a directory among the arguments."""
    parent = Path(where).parent
    return any(path == parent and os.path.isdir(path) for path in _paths(given))  # noqa: PTH112


def _paths(given: Iterable[object]) -> Iterator[Path]:
    for value in given:
        if isinstance(value, str) and value and "\0" not in value and len(value) < 4096:
            yield Path(value)
        elif isinstance(value, os.PathLike):
            yield Path(os.fspath(value))
        elif isinstance(value, list | tuple):
            yield from _paths(value)
