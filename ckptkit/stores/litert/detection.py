"""Whether a file is a LiteRT model, by its content."""

from __future__ import annotations

from ckptkit.stores.registry import Head

_MAGIC_AT, _MAGIC = 4, b"TFL3"


def is_litert_model(head: Head) -> bool:
    """Say whether a file begins as a LiteRT model does."""
    return head.start[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC
