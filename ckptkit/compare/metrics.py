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
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ckptkit.compare.finite import FiniteMeter
from ckptkit.compare.kernel import compiled_meter
from ckptkit.compare.relative import RelativeChanges
from ckptkit.compare.scratch import Floats, thread_buffers
from ckptkit.compare.statistics import (
    METRIC_BLOCK,
    SAFE_HIGH,
    SAFE_LOW,
    DiffStatistics,
    ElementTolerance,
    ScaledFloat,
    element_tolerance,
    scaled_float,
)
from ckptkit.compare.sums import ordered_sum
from ckptkit.dtypes import Array, kind

Rows: TypeAlias = "tuple[Array, Array, Array]"  # old, new, |new - old|

_WIDE = ("int64", "uint64")


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
        self.dtype = old
        self.statistics = DiffStatistics()
        self._scratch = scratch = thread_buffers()
        self._changes = RelativeChanges(
            old,
            ulps=self.ulps,
            is_narrow=not {old, new} & {"float64", "complex128"},
            atol=self.atol,
            scratch=scratch,
        )
        self._finite_numbers = FiniteMeter(limits, self._changes, scratch)
        self._measure = self._choose(kinds, old, new, exact)
        self._compiled = None if bitwise else compiled_meter(old, new, limits)

    def _choose(
        self, kinds: set[str], old: str, new: str, exact: bool
    ) -> Callable[[int, Array, Array], None]:
        if kinds & {"string", "opaque"}:
            return self._add_objects
        if old in _WIDE or new in _WIDE:
            return self._add_wide if exact and old == new else self._add_mixed
        if "complex" in kinds:
            return self._add_complex
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
        found = self._finite_numbers.add(self.statistics, start, a, b)
        if found is not None:
            self.statistics = found
            return
        old, new = a.astype(np.float64), b.astype(np.float64)
        gap = np.abs(new - old)
        total = ordered_sum(gap)
        if math.isfinite(total):
            self._finite(start, a, b, (old, new, gap), total)
        else:
            same = (old == new) | (np.isnan(old) & np.isnan(new))
            self._split(start, a, b, (old, new, gap), same)

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
        form = np.result_type(np.float64, *(x.dtype for x in (a, b) if x.dtype.kind == "c"))
        old, new = a.astype(form), b.astype(form)
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
        """Measure pairs of finite numbers.

        a, b: the values as stored.  rows: old, new, gap = |new - old|.  total: the sum of gap.
        places: index of each pair within the block, where some were left out.  largest: the
        maximum of gap, if gap is rounded.
        """
        old, new, gap = rows
        statistics, n = self.statistics, len(gap)
        statistics.n_finite += n
        sum_sq_old = _sum_of_squares(old)
        statistics.sum_sq_old = statistics.sum_sq_old.plus(sum_sq_old)
        if not total:  # nothing differs: both have the same squares, and there is no more
            statistics.sum_sq_new = statistics.sum_sq_new.plus(sum_sq_old)
            return
        statistics.sum_sq_new = statistics.sum_sq_new.plus(_sum_of_squares(new))
        statistics.sum_sq_diff = statistics.sum_sq_diff.plus(_sum_of_squares(gap))
        statistics.sum_abs += total
        # Which elements differ, and which of them by most.
        differs = np.greater(gap, 0.0, out=self._scratch.differs[:n])
        n_diff = int(np.count_nonzero(differs))
        statistics.n_diff += n_diff
        at = int(gap.argmax())
        excess = float(gap[at])
        statistics.max_abs = max(statistics.max_abs, excess if largest is None else largest)
        size: Floats = np.abs(old)
        spare = np.empty(n)
        self._changes.update(statistics, a, b, gap, size, spare)
        # The worst element: without a tolerance, the one with the largest gap.
        if self.rtol or self.atol:
            found = self._finite_numbers.tolerate(statistics, gap, size, differs, spare)
            if found is None:
                return
            at, excess = found
        else:
            statistics.n_outside += n_diff
        index = at if places is None else int(places[at])
        statistics.update_worst(excess, start + index, a[at].item(), b[at].item())


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


def _sum_of_squares(row: Array) -> ScaledFloat:
    flat = row.view(np.float64) if row.dtype == np.complex128 else row
    return _in_range(ordered_sum(flat * flat), flat)


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
