"""Column-major arrays given out in row-major order, a slab of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.stores.containers.encoded_array import EncodedArray

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

SLAB_BYTES = 64 << 20  # of rows held at a time (twice while they are turned)
_PIECE_BYTES = 4096  # from this size on, pieces of columns are read one by one
_CHUNK_BYTES = 1 << 20  # smaller pieces are cut out of whole columns, read so many bytes at a time


def blocks(
    encoded: EncodedArray, shape: tuple[int, ...], max_elements: int
) -> Iterator[tuple[int, Array]]:
    """Yield (start, values) over the array in row-major order."""
    row = math.prod(shape[1:])
    rows = max(1, SLAB_BYTES // (row * encoded.width))
    for first in range(0, shape[0], rows):
        slab = _rows(encoded, shape, first, min(shape[0], first + rows))
        for start in range(0, len(slab), max_elements):
            yield first * row + start, slab[start : start + max_elements]


def read(encoded: EncodedArray, shape: tuple[int, ...], start: int, stop: int) -> Array:
    """Return elements [start, stop) of the row-major order."""
    row = math.prod(shape[1:])
    first = start // row
    slab = _rows(encoded, shape, first, max(first, -(-stop // row)))
    return slab[start - first * row : stop - first * row].copy()


def _rows(encoded: EncodedArray, shape: tuple[int, ...], first: int, last: int) -> Array:
    """Return rows [first, last) of axis 0, 1-D.  In the file axis 0 varies fastest."""
    import numpy as np

    columns, length, rows = math.prod(shape[1:]), shape[0], last - first
    width = encoded.width
    if rows == length:
        turned: Array = encoded.read(0, encoded.size).reshape(columns, length)
    else:
        step = max(1, _CHUNK_BYTES // (length * width))
        if rows * width >= _PIECE_BYTES or step == 1:
            pieces = [
                encoded.read(column * length + first, column * length + last)
                for column in range(columns)
            ]
        else:
            pieces = [
                encoded.read(column * length, min(columns, column + step) * length)
                .reshape(-1, length)[:, first:last]
                .ravel()
                for column in range(0, columns, step)
            ]
        turned = np.concatenate(pieces) if pieces else encoded.read(0, 0)
        turned = turned.reshape(columns, rows)
    return np.ascontiguousarray(turned.reshape(*reversed(shape[1:]), rows).T).reshape(-1)
