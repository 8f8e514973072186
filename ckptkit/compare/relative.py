"""Relative changes and representable values apart: what only few elements can change.

Most blocks hold no element that changes by more, for its size, than was found before.  So a product
tells first which elements may: only they are divided.
"""

from __future__ import annotations

import math

import numpy as np

from ckptkit.compare.scratch import Floats, MetricBuffers
from ckptkit.compare.statistics import SIGNIFICAND_DIGITS, DiffStatistics
from ckptkit.dtypes import Array


class RelativeChanges:
    """Updates max_rel, max_ulp and needed_rtol of statistics by pairs of finite numbers.

    dtype: of both, where ulps are counted.  is_narrow: neither is float64.
    """

    def __init__(
        self, dtype: str, *, ulps: bool, is_narrow: bool, atol: float, scratch: MetricBuffers
    ) -> None:
        self.dtype, self.ulps, self.atol = dtype, ulps, atol
        self._is_narrow, self._scratch = is_narrow, scratch

    def low(self, statistics: DiffStatistics) -> float:
        """Return a number that each relative change exceeds that max_rel or max_ulp hang on.

        0: it is not known.  A product tells sooner than a quotient; but of the widest floats it may
        be subnormal, and is then rounded by more than there is room for.
        """
        if not self._is_narrow:
            return 0.0
        low = statistics.max_rel * (1 - 2**-50)
        if self.ulps:
            low = min(low, self._least_relative(statistics))
        return low if low < math.inf else 0.0

    def low_of_all(self, statistics: DiffStatistics, largest: float) -> float:
        """Return what `low` does, for needed_rtol too.

        largest: the maximum of |new - old|; what does not exceed atol needs no rtol.
        """
        low, needed = self.low(statistics), statistics.needed_rtol
        if self.atol and largest > self.atol and needed < math.inf:
            # gap - atol > size * needed says gap > size * needed
            return min(low, needed * (1 - 2**-50))
        return low

    def update(
        self,
        statistics: DiffStatistics,
        a: Array,
        b: Array,
        gap: Floats,
        size: Floats,
        out: Floats,
    ) -> None:
        """Update max_rel, max_ulp, and the smallest rtol under which every element would pass.

        a, b: the values as stored.  gap: |new - old|.  size: |old|.  out: is overwritten.
        """
        above, with_atol = self._scratch.above[: len(gap)], self.atol != 0.0
        low = self.low(statistics)
        if low:  # most blocks do not reach what was found so far
            np.greater(gap, np.multiply(size, low, out=out), out=above)
            if not above.any():
                if with_atol:
                    self._needed_beyond(statistics, gap, size, out)
                return
        np.divide(gap, size, out=out)
        largest = float(out.max())  # NaN where both elements of a pair are 0
        if self.ulps:
            self._update_ulps(statistics, a, b, out, largest)
        if not math.isfinite(largest):  # somewhere old is 0, or the quotient overflows
            zero = np.equal(size, 0.0, out=above)
            if not with_atol and np.logical_and(zero, gap).any():
                statistics.needed_rtol = math.inf
            np.copyto(out, 0.0, where=zero)
            largest = float(out.max())
        statistics.max_rel = max(statistics.max_rel, largest)
        if with_atol:
            self._needed_beyond(statistics, gap, size, out)
        else:
            statistics.needed_rtol = max(statistics.needed_rtol, largest)

    def _needed_beyond(
        self, statistics: DiffStatistics, gap: Floats, size: Floats, out: Floats
    ) -> None:
        """Update needed_rtol by what exceeds atol; out: is overwritten."""
        beyond = np.subtract(gap, self.atol, out=self._scratch.spare[: len(gap)])
        low = statistics.needed_rtol * (1 - 2**-50)
        if low == math.inf:
            return
        if self._is_narrow and low > 0.0:
            above = self._scratch.above[: len(gap)]
            np.greater(beyond, np.multiply(size, low, out=out), out=above)
            if not above.any():
                return
        # What does not exceed atol gives a quotient below 0, or NaN beside an old of 0.
        needed = float(np.fmax.reduce(np.divide(beyond, size, out=out)))
        statistics.needed_rtol = max(statistics.needed_rtol, needed)  # NaN is never the larger

    def _least_relative(self, statistics: DiffStatistics) -> float:
        """Return the relative change up to which no element can have more ulps than max_ulp.

        A float of p digits lies less than |x| * 2**-p from the next, so a relative change r spans
        fewer than r / (1 - r) * 2**p of them.
        """
        reach = statistics.max_ulp * 2.0 ** -SIGNIFICAND_DIGITS[self.dtype]
        return reach / (1 + reach) * (1 - 1e-9)  # room for rounding

    def _update_ulps(
        self, statistics: DiffStatistics, a: Array, b: Array, relative: Floats, largest: float
    ) -> None:
        """Update max_ulp, looking closely only at elements that can exceed it.

        largest: the maximum of `relative`, NaN where both elements of a pair are 0.
        """
        least = self._least_relative(statistics)
        if largest <= least:
            return
        above = np.greater(relative, least, out=self._scratch.above[: len(a)])
        count = int(np.count_nonzero(above))
        if not count:
            return
        if count * 4 < len(a):
            places = np.flatnonzero(above)
            a, b = a[places], b[places]
        statistics.max_ulp = max(statistics.max_ulp, self._max_ulp(a, b))

    def _max_ulp(self, a: Array, b: Array) -> int:
        """Return the most representable values that lie between two elements.

        The bits of an IEEE-like float, read as sign and magnitude, count its values in order.
        """
        itemsize = a.dtype.itemsize
        left, right = a.view(f"i{itemsize}"), b.view(f"i{itemsize}")
        step = 1
        if self.dtype == "float8_e8m0fnu":  # no sign bit: widen, so that none is seen
            left, right = (
                left.view(np.uint8).astype(np.int16),
                right.view(np.uint8).astype(np.int16),
            )
        elif self.dtype == "float4_e2m1fn":  # the sign is bit 3 of a byte
            left, right, step = left << 4, right << 4, 16
        signs = np.bitwise_xor(left, right, out=self._scratch.integers(left.itemsize, len(left)))
        crossing = np.flatnonzero(signs < 0) if signs.min() < 0 else None
        apart = np.subtract(left, right, out=signs)
        most = 0
        if crossing is not None:
            magnitude = np.uint64((1 << (8 * left.itemsize - 1)) - 1)
            sides = (left[crossing].astype(np.uint64), right[crossing].astype(np.uint64))
            most = int(((sides[0] & magnitude) + (sides[1] & magnitude)).max())
            apart[crossing] = 0
        return max(most, int(np.abs(apart, out=apart).max())) // step
