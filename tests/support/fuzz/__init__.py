"""Mutants of good files, for every reader; `make fuzz` goes on until the time is up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ckptkit.operations.verify import in_use


@contextmanager
def nobody_writes() -> Iterator[None]:
    """Let `verify` believe its first look, where nobody else writes: at mutants."""
    before, in_use.STILL_S = in_use.STILL_S, 0.0
    try:
        yield
    finally:
        in_use.STILL_S = before
