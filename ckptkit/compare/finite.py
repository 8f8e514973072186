"""Blocks of finite numbers by numpy, each array taken as few times as its calls allow.

What `kernel.c` does, with its results.  A block with a NaN, an infinity, or a sum of squares that
lost something is left to `metrics`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ckptkit.compare.relative import RelativeChanges
from ckptkit.compare.scratch import Floats, MetricBuffers
from ckptkit.compare.statistics import (
    SAFE_HIGH,
    SAFE_LOW,
    DiffStatistics,
    ElementTolerance,
    ScaledFloat,
    scaled_float,
)
from ckptkit.compare.sums import ordered_sum
from ckptkit.dtypes import Array


class FiniteMeter:
    """Measures pairs of numbers that float64 holds exactly."""

    def __init__(
        self, tolerance: ElementTolerance, changes: RelativeChanges, scratch: MetricBuffers
    ) -> None:
        self._rtol, self._atol = tolerance.rtol, tolerance.atol
        self._is_tolerant = bool(self._rtol or self._atol)
        self._changes, self._scratch = changes, scratch

    def add(
        self, statistics: DiffStatistics, start: int, a: Array, b: Array
    ) -> DiffStatistics | None:
        """Return the statistics with a block added; None where `metrics` has to measure it.

        start: the flat index of the first element.  a, b: the values as stored.
        """
        statistics = replace(statistics)
        sums = self._measure(statistics, start, a, b)
        if sums is None:
            return None
        total, sum_sq_old, sum_sq_new, sum_sq_diff = sums
        if not (_is_safe(sum_sq_old, a) and _is_safe(sum_sq_new, b)):
            return None
        if total and not SAFE_LOW < sum_sq_diff < SAFE_HIGH:
            return None
        statistics.n_finite += len(a)
        statistics.sum_abs += total
        statistics.sum_sq_old = _plus(statistics.sum_sq_old, sum_sq_old)
        statistics.sum_sq_new = _plus(statistics.sum_sq_new, sum_sq_new)
        statistics.sum_sq_diff = _plus(statistics.sum_sq_diff, sum_sq_diff)
        return statistics

    def _measure(
        self, statistics: DiffStatistics, start: int, a: Array, b: Array
    ) -> tuple[float, float, float, float] | None:
        """Return the sums of |new - old| and of the squares of old, new and new - old.

        None: something is not finite.
        """
        old, new, gap = self._scratch.rows[:, : len(a)]
        old[...] = a
        new[...] = b
        np.subtract(new, old, out=gap)
        np.abs(gap, out=gap)
        total = ordered_sum(gap)
        if not math.isfinite(total):
            return None
        # A row that is no longer needed is squared in place, which takes half the time.
        sum_sq_new = ordered_sum(np.multiply(new, new, out=new))
        if not total:  # equal: the squares are the same
            return 0.0, sum_sq_new, sum_sq_new, 0.0
        differs = self._differing(a, b, gap)
        n_diff = int(np.count_nonzero(differs))
        statistics.n_diff += n_diff
        at = int(gap.argmax())
        largest = float(gap[at])
        statistics.max_abs = max(statistics.max_abs, largest)
        low = self._changes.low_of_all(statistics, largest)
        needs_size = self._is_tolerant or not low
        sum_sq_old = ordered_sum(np.multiply(old, old, out=new if needs_size else old))
        # The worst element: without a tolerance, the one with the largest gap.
        found: tuple[int, float] | None = at, largest
        if needs_size:
            size, spare = np.abs(old, out=old), new
            if self._is_tolerant:
                found = self.tolerate(statistics, gap, size, differs, spare)
            if not low:
                self._changes.update(statistics, a, b, gap, size, spare)
        if not self._is_tolerant:
            statistics.n_outside += n_diff
        if found is not None:
            at, excess = found
            statistics.update_worst(excess, start + at, a[at].item(), b[at].item())
        # Which relative changes may count: by sizes, or by their squares.
        above = self._scratch.above[: len(a)]
        if low and needs_size:
            np.greater(gap, np.multiply(size, low, out=size), out=above)
        squares = np.multiply(gap, gap, out=gap)
        if low and not needs_size:
            np.greater(squares, np.multiply(old, low * low, out=old), out=above)
        if low and above.any():
            self._look_closely(statistics, a, b, above)
        return total, sum_sq_old, sum_sq_new, ordered_sum(squares)

    def _differing(self, a: Array, b: Array, gap: Floats) -> Array:
        differs = self._scratch.differs[: len(a)]
        if a.dtype == b.dtype and a.dtype.isbuiltin == 1 and a.itemsize > 2:
            # finite numbers, as stored: fewer bytes than gaps
            np.not_equal(a, b, out=differs)
        else:
            np.greater(gap, 0.0, out=differs)
        return differs

    def _look_closely(self, statistics: DiffStatistics, a: Array, b: Array, above: Array) -> None:
        """Update relative changes by the elements of which `above` says that they may matter."""
        places = np.flatnonzero(above)
        if len(places) * 8 < len(a):
            a, b = a[places], b[places]
        old = a.astype(np.float64)
        gap = np.abs(b.astype(np.float64) - old)
        self._changes.update(statistics, a, b, gap, np.abs(old, out=old), np.empty(len(a)))

    def tolerate(
        self, statistics: DiffStatistics, gap: Floats, size: Floats, differs: Array, spare: Floats
    ) -> tuple[int, float] | None:
        """Count the elements outside; return the place and excess of the worst that differs.

        None where none of them is worse than the worst so far.  spare: is overwritten, and so is
        differs.
        """
        limit = np.multiply(size, self._rtol, out=spare)
        if self._atol:
            limit += self._atol
        outside = np.greater(gap, limit, out=self._scratch.above[: len(gap)])
        statistics.n_outside += int(np.count_nonzero(outside))
        excess = np.subtract(gap, limit, out=limit)
        at = int(excess.argmax())
        worst = statistics.worst
        if worst is not None and not excess[at] > worst[0]:
            return None
        if not differs[at]:  # equal elements have an excess too, below 0
            np.copyto(excess, -math.inf, where=np.logical_not(differs, out=differs))
            at = int(excess.argmax())
        return at, float(excess[at])


def _is_safe(sum_of_squares: float, values: Array) -> bool:
    """Whether a sum of squares lost nothing that counts."""
    if sum_of_squares == 0.0:
        return not values.any()
    return SAFE_LOW < sum_of_squares < SAFE_HIGH


def _plus(total: ScaledFloat, number: float) -> ScaledFloat:
    return total.plus(scaled_float(number))
