"""What a child says that it is doing, for the parent to show: a line in a file beside its result.

A child that imports TensorFlow does nothing else for seconds; who waits for it is told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from ckptkit._io.progress import phase

_NAME = "doing"
_MAX_CHARACTERS = 80
_file: Path | None = None  # of this process, which is a child


def followed(result_file: Path, starting: str) -> AbstractContextManager[None]:
    """Show inside the block what the child that will write this result is doing.

    Args:
        result_file: as the child gets it.
        starting: what is done until the child says anything.
    """
    file = result_file.with_name(_NAME)

    def said() -> str:
        with suppress(OSError, UnicodeDecodeError):
            return file.read_text(encoding="utf-8")[:_MAX_CHARACTERS]
        return starting

    return phase(said)


def report_beside(result_file: Path) -> None:
    """Have this process say what it is doing, where the parent looks for it."""
    global _file
    _file = result_file.with_name(_NAME)
    _say("")


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Say inside the block that a module is being imported, where it has not been yet."""
    if module in sys.modules:
        yield
        return
    _say(f"importing {module}")
    try:
        yield
    finally:
        _say("")


def _say(text: str) -> None:
    if _file is not None:
        with suppress(OSError):  # a full disk is told of where it matters
            _file.write_text(text, encoding="utf-8")
