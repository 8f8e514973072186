"""Sums of float64 numbers, in one order whichever numpy takes them.

numpy adds numbers that lie side by side by halves (pairwise_sum in
numpy/_core/src/umath/loops_utils.h.src), which is the order of `kernel.c` too.  But before 2.3 it
does so for each buffer of 8192 numbers alone, and adds the buffers one after the other.  So what is
longer is halved here, at the places where numpy would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_LEAF = 8192  # numbers that each numpy takes at once, unless `numpy.setbufsize` was called


def ordered_sum(numbers: Array) -> float:
    """Return the sum of a row of float64 numbers that lie side by side."""
    return float(ordered_sums(numbers))


def ordered_sums(rows: Array) -> Array:
    """Return the sum of each row of float64 numbers, of which those of a row lie side by side.

    rows: of shape [..., n].

    Returns an array of shape [...]; of one row, a numpy scalar.
    """
    import numpy as np

    n = rows.shape[-1]
    if n <= _LEAF:
        sums: Array = np.add.reduce(rows, axis=-1)
        return sums
    if n % _LEAF == 0 and n & (n - 1) == 0:  # all leaves are whole ones
        sums = np.add.reduce(rows.reshape(*rows.shape[:-1], -1, _LEAF), axis=-1)
        while sums.shape[-1] > 1:
            sums = sums[..., ::2] + sums[..., 1::2]
        return sums[..., 0]
    half = n // 2
    half -= half % 8
    left, right = ordered_sums(rows[..., :half]), ordered_sums(rows[..., half:])
    return np.add(left, right)
