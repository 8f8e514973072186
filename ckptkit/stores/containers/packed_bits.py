"""Elements of two and four bits that lie several to a byte, the first in the low bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptkit.dtypes import itemsize

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2}


def stored_bytes(dtype: str, size: int) -> int:
    """Return the bytes of so many elements; 0 where they have no fixed size."""
    return (size * BITS[dtype] + 7) // 8 if dtype in BITS else size * itemsize(dtype)


def unpacked(packed: Array, bits: int, size: int) -> Array:
    """Return elements as one byte each, their high bits 0.

    Args:
        packed: bytes, 1-D.
        bits: of an element, 2 or 4.
        size: number of elements; what is left of the last byte is dropped.
    """
    import numpy as np

    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:size]
