"""Tensors of every dtype and many shapes; what others use is in `ckptkit.testing.formats`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from ckptkit.dtypes import DTYPES
from ckptkit.stores.writing import Blocks
from ckptkit.testing.formats import (
    FIXED_DTYPES,
    SHAPES,
    STRINGS,
    blocks_of,
    check_same_bytes,
    check_store,
    corpus,
    same_bits,
    values_of,
)
from ckptkit.testing.formats import tensors_to_write as out_tensors

__all__ = [
    "FIXED_DTYPES",
    "SHAPES",
    "STRINGS",
    "TF_DTYPES",
    "Array",
    "blocks_of",
    "check_same_bytes",
    "check_store",
    "corpus",
    "out_tensors",
    "same_bits",
    "values_of",
    "yielding",
]

Array = npt.NDArray[Any]
TF_DTYPES = [name for name in [*FIXED_DTYPES, "string"] if DTYPES[name].enum]


def yielding(parts: list[tuple[int, Any]]) -> Blocks:
    """Return blocks that yield these parts for any key."""
    return lambda key: iter(parts)
