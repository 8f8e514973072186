"""Difference metrics of two runs of values, block by block, in float64.

The rules, once for the whole package:

- An element passes when `|new - old| <= atol + rtol * |old|`, computed in float64 (complex128);
  OLD is the reference.  Integers, booleans and strings are always exact.
- NaN equals NaN in the same place, infinities are equal by sign, -0.0 equals 0.0.  Any other pair
  with a non-finite member is a *non-finite mismatch*: it fails every tolerance and stays out of the
  averages.
- With `bitwise`, two elements are equal when their bits are.
- Sums are taken in one order, whoever takes them: squares are rounded, then added by halves (see
  `sums`), whichever numpy there is.  A BLAS, whose order is another on
  another processor, would be faster; its last digits would say where a report was made.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ckptkit.compare.kernel import compiled_meter
from ckptkit.compare.statistics import (
    METRIC_BLOCK,
    SAFE_HIGH,
    SAFE_LOW,
    SIGNIFICAND_DIGITS,
    DiffStatistics,
    ElementTolerance,
    ScaledFloat,
    element_tolerance,
    scaled_float,
)
from ckptkit.compare.sums import ordered_sum, ordered_sums
from ckptkit.dtypes import Array, kind

Floats = npt.NDArray[np.float64]
# old, new, |new - old|: three rows, or one by one
Rows: TypeAlias = "Array | tuple[Array, Array, Array]"

_WIDE = ("int64", "uint64")


class _MetricBuffers:
    """Buffers that one thread reuses for every block."""

    def __init__(self) -> None:
        self.rows = np.empty((3, METRIC_BLOCK))  # old, new, |new - old|
        self.squares = np.empty((3, METRIC_BLOCK))  # of the rows; then other numbers
        self.flags = np.empty(METRIC_BLOCK, bool)
        self.above = np.empty(METRIC_BLOCK, bool)
        self.bits: dict[int, Array] = {}

    def integers(self, itemsize: int, n: int) -> Array:
        """Return n signed integers of `itemsize` bytes."""
        if itemsize not in self.bits:
            self.bits[itemsize] = np.empty(METRIC_BLOCK, f"i{itemsize}")
        return self.bits[itemsize][:n]


class _ThreadScratch(threading.local):
    def __init__(self) -> None:
        self.buffers: _MetricBuffers | None = None

    def scratch(self) -> _MetricBuffers:
        """Return this thread's buffers; those of another block size are not reused."""
        if self.buffers is None or len(self.buffers.flags) != METRIC_BLOCK:
            self.buffers = _MetricBuffers()
        return self.buffers


_thread = _ThreadScratch()


class Meter:
    """Measures blocks of one pair of tensors, in the thread that made it.

    `add(start, old, new)` takes 1-D arrays of equal length, of the two dtypes named at the start;
    `start` is the flat index of their first element.
    """

    def __init__(
        self, old: str, new: str, tolerance: ElementTolerance, bitwise: bool = False
    ) -> None:
        kinds = {kind(old), kind(new)}
        exact = kinds <= {"int", "uint", "bool"}
        self.rtol, self.atol, _ = limits = element_tolerance(old, new, tolerance, bitwise)
        self.bitwise = bitwise and old == new
        self.ulps = old == new and kinds == {"float"}
        self._is_narrow = not {old, new} & {"float64", "complex128"}
        self.dtype = old
        self.statistics = DiffStatistics()
        self._scratch = _thread.scratch()
        self._measure = self._choose(kinds, old, new, exact)
        self._compiled = None if bitwise else compiled_meter(old, new, limits)

    def _choose(
        self, kinds: set[str], old: str, new: str, exact: bool
    ) -> Callable[[int, Array, Array], None]:
        if kinds & {"string", "opaque"}:
            return self._add_objects
        if "complex" in kinds:
            return self._add_complex
        if old in _WIDE or new in _WIDE:
            return self._add_wide if exact and old == new else self._add_mixed
        return self._add_numbers

    def add(self, start: int, old: Array, new: Array) -> None:
        """Measure one block, in pieces that fit the scratch arrays."""
        low = 0
        while low < len(old):
            low += self._add_compiled(start + low, old[low:], new[low:])
            a, b = old[low : low + METRIC_BLOCK], new[low : low + METRIC_BLOCK]
            low += len(a)
            self._add_piece(start + low - len(a), a, b)

    def _add_compiled(self, start: int, a: Array, b: Array) -> int:
        """Measure pieces without numpy; return the number of elements before one that needs it."""
        if self._compiled is None or not (_lies_plainly(a) and _lies_plainly(b)):
            return 0
        left, right = (x.__array_interface__["data"][0] for x in (a, b))
        return self._compiled.add(self.statistics, start, left, right, len(a), METRIC_BLOCK)

    def _add_piece(self, start: int, a: Array, b: Array) -> None:
        if len(a):
            self.statistics.n += len(a)
            with np.errstate(all="ignore"):
                if self.bitwise and kind(self.dtype) != "string":
                    self._add_bits(start, a, b)
                else:
                    self._measure(start, a, b)

    def _add_bits(self, start: int, a: Array, b: Array) -> None:
        """Measure as numbers, but count by bits."""
        # The numbers go into statistics of their own, whose counts are then replaced.
        before = self.statistics
        self.statistics = DiffStatistics()
        self._measure(start, a, b)
        part = self.statistics
        unequal = bits_differ(a, b)
        part.n_diff = part.n_outside = int(np.count_nonzero(unequal))
        if part.worst is None and part.n_diff:
            at = int(unequal.argmax())
            part.worst = (0.0, start + at, a[at].item(), b[at].item())
        before.join(part)
        self.statistics = before

    def _add_objects(self, start: int, a: Array, b: Array) -> None:
        unequal = np.asarray(a != b, bool)
        count = int(np.count_nonzero(unequal))
        self._unequal(count)
        if count:
            at = int(unequal.argmax())
            self.statistics.update_worst(
                math.inf, start + at, _python_value(a[at]), _python_value(b[at])
            )

    def _unequal(self, count: int) -> None:
        self.statistics.n_diff += count
        self.statistics.n_outside += count

    def _add_numbers(self, start: int, a: Array, b: Array) -> None:
        """Floats of any width, and integers of up to 32 bits: all exact in float64."""
        rows = self._scratch.rows[:, : len(a)]
        old, new, gap = rows
        old[...] = a
        new[...] = b
        np.subtract(new, old, out=gap)
        np.abs(gap, out=gap)
        total = ordered_sum(gap)
        if math.isfinite(total):
            self._finite(start, a, b, rows, total)
        else:
            same = (old == new) | (np.isnan(old) & np.isnan(new))
            self._split(start, a, b, rows, same)

    def _add_complex(self, start: int, a: Array, b: Array) -> None:
        old, new = a.astype(np.complex128), b.astype(np.complex128)
        gap = np.abs(new - old)
        total = ordered_sum(gap)
        if math.isfinite(total):
            self._finite(start, a, b, (old, new, gap), total)
            return
        left, right = old.view(np.float64), new.view(np.float64)
        parts = (left == right) | (np.isnan(left) & np.isnan(right))
        self._split(start, a, b, (old, new, gap), parts.reshape(-1, 2).all(axis=1))

    def _split(self, start: int, a: Array, b: Array, rows: Rows, same: Array) -> None:
        """Count the pairs that are not both finite; measure the others."""
        old, new, _gap = rows
        finite = np.isfinite(old) & np.isfinite(new)
        bad = ~finite & ~same
        count = int(np.count_nonzero(bad))
        if count:
            self._unequal(count)
            self.statistics.nonfinite += count
            self.statistics.needed_rtol = math.inf
            at = int(bad.argmax())
            self.statistics.update_worst(math.inf, start + at, a[at].item(), b[at].item())
        # What is left are pairs of finite numbers, brought together.
        places = np.flatnonzero(finite)
        if len(places):
            left, right, gap = (row[places] for row in rows)
            rows = left, right, gap
            self._finite(start, a[places], b[places], rows, ordered_sum(gap), places)

    def _add_wide(self, start: int, a: Array, b: Array) -> None:
        """64-bit integers of one dtype: differences are taken without going through floats."""
        top, low = np.maximum(a, b), np.minimum(a, b)
        gap = np.subtract(top.view(np.uint64), low.view(np.uint64))
        largest, numbers = int(gap.max(initial=0)), gap.astype(np.float64)
        old, new = a.astype(np.float64), b.astype(np.float64)
        rows = old, new, numbers
        self._finite(start, a, b, rows, ordered_sum(numbers), largest=largest)

    def _add_mixed(self, start: int, a: Array, b: Array) -> None:
        """A 64-bit integer against another dtype: equality as Python sees it, which is exact."""
        old, new = a.astype(np.float64), b.astype(np.float64)
        unequal = np.asarray(a.astype(object) != b.astype(object), bool)
        gap = np.abs(new - old)
        # unequal, but rounded to the same float64: they are half a step of that size apart at most
        hidden = unequal & (gap == 0)
        gap[hidden] = np.spacing(np.abs(old[hidden])) / 2
        total = ordered_sum(gap)
        if math.isfinite(total):
            self._finite(start, a, b, (old, new, gap), total)
        else:
            same = ~unequal | (np.isnan(old) & np.isnan(new))
            self._split(start, a, b, (old, new, gap), same)

    def _finite(
        self,
        start: int,
        a: Array,
        b: Array,
        rows: Rows,
        total: float,
        places: Array | None = None,
        largest: float | None = None,
    ) -> None:
        """Measure pairs of finite numbers; old and new may be overwritten.

        a, b: the values as stored.  rows: old, new, gap = |new - old|.  total: the sum of gap.
        places: index of each pair within the block, where some were left out.  largest: the
        maximum of gap, if gap is rounded.
        """
        old, new, gap = rows
        statistics, n = self.statistics, len(gap)
        statistics.n_finite += n
        squares = self._scratch.squares[:, :n]
        # Where nothing differs, old and new have the same squares, and there is no more to measure.
        sum_sq_old, *others = _sums_of_squares(rows if total else rows[:1], squares)
        statistics.sum_sq_old = statistics.sum_sq_old.plus(sum_sq_old)
        if not others:
            statistics.sum_sq_new = statistics.sum_sq_new.plus(sum_sq_old)
            return
        sum_sq_new, sum_sq_diff = others
        statistics.sum_sq_new = statistics.sum_sq_new.plus(sum_sq_new)
        statistics.sum_sq_diff = statistics.sum_sq_diff.plus(sum_sq_diff)
        statistics.sum_abs += total
        # Which elements differ, and which of them by most.
        flags = self._scratch.flags[:n]
        if a.dtype == b.dtype and a.dtype.isbuiltin == 1 and largest is None:
            np.not_equal(a, b, out=flags)  # finite numbers, as stored: fewer bytes than gaps
        else:
            np.greater(gap, 0.0, out=flags)
        n_diff = int(np.count_nonzero(flags))
        statistics.n_diff += n_diff
        at = int(gap.argmax())
        excess = float(gap[at])
        statistics.max_abs = max(statistics.max_abs, excess if largest is None else largest)
        is_tolerant = bool(self.rtol or self.atol)
        if is_tolerant or not isinstance(rows, np.ndarray) or self._reaches_low(squares):
            # Old and new are no longer needed, so their rows take other numbers.
            size: Floats = np.abs(old, out=old if old.dtype == np.float64 else None)
            self._relative(a, b, gap, size, new if new.dtype == np.float64 else np.empty(n))
        # The worst element: without a tolerance, the one with the largest gap.
        if is_tolerant:
            found = self._tolerate(gap, size, flags)
            if found is None:
                return
            at, excess = found
        else:
            statistics.n_outside += n_diff
        index = at if places is None else int(places[at])
        statistics.update_worst(excess, start + index, a[at].item(), b[at].item())

    def _low(self) -> float:
        """Return a number that each relative change exceeds that max_rel or max_ulp hang on.

        0: it is not known.  A product tells sooner than a quotient; but of the widest floats it may
        be subnormal, and is then rounded by more than there is room for.
        """
        if not self._is_narrow:
            return 0.0
        low = self.statistics.max_rel * (1 - 2**-50)
        if self.ulps:
            low = min(low, self._least_relative())
        return low if low < math.inf else 0.0

    def _reaches_low(self, squares: Floats) -> bool:
        """Whether a relative change may count; squares of new and gap are overwritten."""
        low = self._low()
        if not low:
            return True
        reached = np.multiply(squares[0], low * low, out=squares[1])
        above = np.greater(squares[2], reached, out=self._scratch.above[: len(reached)])
        return bool(above.any())

    def _relative(self, a: Array, b: Array, gap: Floats, size: Floats, out: Floats) -> None:
        """Update max_rel, max_ulp, and the smallest rtol under which every element would pass.

        out: is overwritten.
        """
        statistics, above = self.statistics, self._scratch.above[: len(gap)]
        with_atol, low = self.atol != 0.0, self._low()
        if low:  # most blocks do not reach what was found so far
            np.greater(gap, np.multiply(size, low, out=out), out=above)
            if not above.any():
                if with_atol:
                    self._needed_beyond(gap, size, out)
                return
        np.divide(gap, size, out=out)
        largest = float(out.max())  # NaN where both elements of a pair are 0
        if self.ulps:
            self._update_ulps(a, b, out, largest)
        if not math.isfinite(largest):  # somewhere old is 0, or the quotient overflows
            zero = np.equal(size, 0.0, out=above)
            if not with_atol and np.logical_and(zero, gap).any():
                statistics.needed_rtol = math.inf
            np.copyto(out, 0.0, where=zero)
            largest = float(out.max())
        statistics.max_rel = max(statistics.max_rel, largest)
        if with_atol:
            self._needed_beyond(gap, size, out)
        else:
            statistics.needed_rtol = max(statistics.needed_rtol, largest)

    def _needed_beyond(self, gap: Floats, size: Floats, out: Floats) -> None:
        """Update needed_rtol by what exceeds atol; out: is overwritten."""
        statistics, beyond = self.statistics, self._scratch.squares[0, : len(gap)]
        np.subtract(gap, self.atol, out=beyond)
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

    def _tolerate(self, gap: Floats, size: Floats, differs: Array) -> tuple[int, float] | None:
        """Count the elements outside; return the place and excess of the worst that differs.

        None where none of them is worse than the worst so far.
        """
        limit = np.multiply(size, self.rtol, out=self._scratch.squares[0, : len(gap)])
        limit += self.atol
        outside = np.greater(gap, limit, out=self._scratch.above[: len(gap)])
        self.statistics.n_outside += int(np.count_nonzero(outside))
        excess = np.subtract(gap, limit, out=limit)
        at = int(excess.argmax())
        worst = self.statistics.worst
        if worst is not None and not excess[at] > worst[0]:
            return None
        if not differs[at]:  # equal elements have an excess too, below 0
            np.copyto(excess, -math.inf, where=np.logical_not(differs, out=differs))
            at = int(excess.argmax())
        return at, float(excess[at])

    def _least_relative(self) -> float:
        """Return the relative change up to which no element can have more ulps than max_ulp.

        A float of p digits lies less than |x| * 2**-p from the next, so a relative change r spans
        fewer than r / (1 - r) * 2**p of them.
        """
        reach = self.statistics.max_ulp * 2.0 ** -SIGNIFICAND_DIGITS[self.dtype]
        return reach / (1 + reach) * (1 - 1e-9)  # room for rounding

    def _update_ulps(self, a: Array, b: Array, relative: Floats, largest: float) -> None:
        """Update max_ulp, looking closely only at elements that can exceed it.

        largest: the maximum of `relative`, NaN where both elements of a pair are 0.
        """
        least = self._least_relative()
        if largest <= least:
            return
        above = np.greater(relative, least, out=self._scratch.above[: len(a)])
        count = int(np.count_nonzero(above))
        if not count:
            return
        if count * 4 < len(a):
            places = np.flatnonzero(above)
            a, b = a[places], b[places]
        self.statistics.max_ulp = max(self.statistics.max_ulp, self._max_ulp(a, b))

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


def _lies_plainly(values: Array) -> bool:
    """Whether values lie side by side, as the processor keeps them."""
    return values.flags.c_contiguous and values.dtype.isnative


def bits_differ(a: Array, b: Array) -> Array:
    """Return, per element of two arrays of one dtype, whether any bit differs."""
    n, itemsize = len(a), a.dtype.itemsize
    if itemsize in (1, 2, 4, 8):
        return np.asarray(a.view(f"u{itemsize}") != b.view(f"u{itemsize}"))
    left, right = (x.view(np.uint8).reshape(n, itemsize) for x in (a, b))
    return np.asarray((left != right).any(axis=1))


def _sums_of_squares(rows: Array | tuple[Array, ...], out: Floats) -> list[ScaledFloat]:
    """Return the sum of squares of each row; out: takes the squares of rows of one array."""
    if isinstance(rows, np.ndarray):
        squares = np.multiply(rows, rows, out=out[: len(rows)])
        totals = ordered_sums(squares)
        return [_in_range(*pair) for pair in zip(totals.tolist(), rows, strict=True)]
    flat = [row.view(np.float64) if row.dtype == np.complex128 else row for row in rows]
    return [_in_range(ordered_sum(row * row), row) for row in flat]


def _in_range(total: float, values: Floats) -> ScaledFloat:
    """Return the sum of squares, taken again where `total` lost something."""
    if SAFE_LOW < total < SAFE_HIGH:
        return scaled_float(total)
    largest = float(np.abs(values).max()) if len(values) else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return ScaledFloat(largest, 0)
    # In units of a power of two that brings the largest value to 1, no square overflows.
    exponent = math.frexp(largest)[1]
    small = np.ldexp(values, -exponent)
    mantissa, shift = math.frexp(ordered_sum(small * small))
    return ScaledFloat(mantissa, shift + 2 * exponent)


def _python_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
