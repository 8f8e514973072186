"""Where a call of the operating system is looked up, so that a test can stand in its way."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


def holders(name: str) -> list[Any]:
    """Return the objects whose attribute `name` has to be replaced for `os.NAME` to be another.

    Up to Python 3.10 pathlib keeps references of its own, made when it was imported; its `open`
    alone is that of `io`.
    """
    kept = getattr(pathlib, "_normal_accessor", None)
    return [os, kept] if name != "open" and hasattr(kept, name) else [os]


@contextmanager
def replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let `os.NAME` be another function."""
    with ExitStack() as restored:
        for holder in holders(name):
            restored.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, function)
        yield
