"""SHA-256 of a tensor's values: the same for the same values in any format."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ckptkit.dtypes import Array
from ckptkit.stores.base import Store


def digest(store: Store, key: str) -> str:
    """Return the SHA-256 of a tensor's values (little-endian; text with lengths), in hex."""
    total = hashlib.sha256()
    for _, values in store.blocks(key):
        for chunk in canonical_bytes(values):
            total.update(chunk)
    return total.hexdigest()


def digest_of(values: Array) -> str:
    """Return what `digest` returns, for an array."""
    total = hashlib.sha256()
    for chunk in canonical_bytes(values.reshape(-1)):
        total.update(chunk)
    return total.hexdigest()


def canonical_bytes(values: Array) -> Iterator[Any]:
    """Yield what is hashed of a 1-D array: little-endian bytes, strings with their lengths."""
    if values.dtype == object:
        for value in values:
            yield len(value).to_bytes(8, "little") + value
        return
    if sys.byteorder == "big":
        values = values.byteswap()
    yield np.ascontiguousarray(values).view(np.uint8).data
