"""What a comparison counts and sums, without numpy: a comparison that finds nothing needs none.

`DiffStatistics` are a partial result; those of neighbouring spans are joined in order, so the
outcome does not depend on how the work was cut or by how many threads it was done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.dtypes import DTYPES, kind

# Elements.  Fewer, and what numpy's calls cost beside their work is felt; more, and the float64
# rows of them leave a core's second-level cache.  Sums are taken block by block: the last digits
# of a report depend on it.
METRIC_BLOCK = 1 << 16
SAFE_LOW, SAFE_HIGH = 1e-200, 1e200  # sums of squares in between lost nothing that counts

# binary digits of the significand, the hidden one included
SIGNIFICAND_DIGITS = {
    "float64": 53,
    "float32": 24,
    "float16": 11,
    "bfloat16": 8,
    "float8_e3m4": 5,
    "float8_e4m3": 4,
    "float8_e4m3fn": 4,
    "float8_e4m3fnuz": 4,
    "float8_e4m3b11fnuz": 4,
    "float8_e5m2": 3,
    "float8_e5m2fnuz": 3,
    "float4_e2m1fn": 2,
    "float8_e8m0fnu": 1,
}


class ElementTolerance(NamedTuple):
    """How far apart two numbers may be; `rule` says where the numbers come from."""

    rtol: float = 0.0
    atol: float = 0.0
    rule: str = "default"


EXACT = ElementTolerance()


class ScaledFloat(NamedTuple):
    """mantissa * 2**exponent: a sum of squares that neither overflows nor underflows."""

    mantissa: float = 0.0
    exponent: int = 0

    def plus(self, other: ScaledFloat) -> ScaledFloat:
        """Return the sum."""
        if not other.mantissa:
            return self
        if not self.mantissa:
            return other
        top = max(self.exponent, other.exponent)
        total = math.ldexp(self.mantissa, self.exponent - top)
        return scaled_float(total + math.ldexp(other.mantissa, other.exponent - top), top)

    def root(self) -> ScaledFloat:
        """Return the square root."""
        odd = self.exponent & 1
        return scaled_float(math.sqrt(math.ldexp(self.mantissa, odd)), (self.exponent - odd) // 2)

    def over(self, other: ScaledFloat) -> float:
        """Return self / other; inf when only `other` is zero, 0 when both are."""
        if not other.mantissa:
            return math.inf if self.mantissa else 0.0
        return _ldexp(self.mantissa / other.mantissa, self.exponent - other.exponent)

    def number(self) -> float:
        """Return the plain float, inf or 0 where it does not fit."""
        return _ldexp(self.mantissa, self.exponent)


def scaled_float(value: float, exponent: int = 0) -> ScaledFloat:
    """Return value * 2**exponent, with a mantissa of 0.5 or more and below 1."""
    if not math.isfinite(value):
        return ScaledFloat(value, 0)
    mantissa, shift = math.frexp(value)
    return ScaledFloat(mantissa, exponent + shift)


def _ldexp(mantissa: float, exponent: int) -> float:
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf


@dataclass(slots=True)
class DiffStatistics:
    """Sums and extremes over a span of element pairs.

    n counts all pairs, n_finite those with two finite members; only these are in the sums.
    sum_sq_old, sum_sq_new, sum_sq_diff: sums of squares of old, new and new - old.
    worst: (excess over the tolerance, flat index, old, new), among elements that differ.
    """

    n: int = 0
    n_finite: int = 0
    n_diff: int = 0
    n_outside: int = 0
    nonfinite: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: int = 0
    sum_abs: float = 0.0
    needed_rtol: float = 0.0
    sum_sq_old: ScaledFloat = field(default_factory=ScaledFloat)
    sum_sq_new: ScaledFloat = field(default_factory=ScaledFloat)
    sum_sq_diff: ScaledFloat = field(default_factory=ScaledFloat)
    worst: tuple[float, int, Any, Any] | None = None

    def join(self, other: DiffStatistics) -> None:
        """Add the statistics of the span that follows this one."""
        self.n += other.n
        self.n_finite += other.n_finite
        self.n_diff += other.n_diff
        self.n_outside += other.n_outside
        self.nonfinite += other.nonfinite
        self.sum_abs += other.sum_abs
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        self.max_ulp = max(self.max_ulp, other.max_ulp)
        self.needed_rtol = max(self.needed_rtol, other.needed_rtol)
        self.sum_sq_old, self.sum_sq_new = (
            self.sum_sq_old.plus(other.sum_sq_old),
            self.sum_sq_new.plus(other.sum_sq_new),
        )
        self.sum_sq_diff = self.sum_sq_diff.plus(other.sum_sq_diff)
        if other.worst is not None:
            self.update_worst(*other.worst)

    def update_worst(self, excess: float, index: int, old: Any, new: Any) -> None:
        """Take this element as the worst if it exceeds the tolerance by more than the last one."""
        if self.worst is None or excess > self.worst[0]:
            self.worst = (excess, index, old, new)


def element_tolerance(
    old: str, new: str, tolerance: ElementTolerance, bitwise: bool = False
) -> ElementTolerance:
    """Return the tolerance that holds between two dtypes: none where they are exact."""
    return EXACT if bitwise or is_exact(old, new) else tolerance


def is_exact(old: str, new: str) -> bool:
    """Whether two dtypes are compared without any tolerance."""
    return not ({kind(old), kind(new)} & {"float", "complex"})


def comparable(old: str, new: str) -> bool:
    """Whether values of two dtypes can be set against each other at all."""
    if old == new:
        return True
    plain = {"float", "int", "uint", "bool", "complex"}
    return old in DTYPES and new in DTYPES and {kind(old), kind(new)} <= plain
