"""What a comparison counts and sums, without numpy: a comparison that finds nothing needs none.

A `Tally` is a partial result; tallies of neighbouring runs are joined in order, so the outcome does
not depend on how the work was cut or by how many threads it was done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.dtypes import DTYPES, kind


class Tolerance(NamedTuple):
    """How far apart two numbers may be; `rule` says where the numbers come from."""

    rtol: float = 0.0
    atol: float = 0.0
    rule: str = "default"


EXACT = Tolerance()


class Scaled(NamedTuple):
    """mantissa * 2**exponent: a sum of squares that neither overflows nor underflows."""

    mantissa: float = 0.0
    exponent: int = 0

    def plus(self, other: Scaled) -> Scaled:
        """Return the sum."""
        if not other.mantissa:
            return self
        if not self.mantissa:
            return other
        top = max(self.exponent, other.exponent)
        total = math.ldexp(self.mantissa, self.exponent - top)
        return scaled(total + math.ldexp(other.mantissa, other.exponent - top), top)

    def root(self) -> Scaled:
        """Return the square root."""
        odd = self.exponent & 1
        return scaled(math.sqrt(math.ldexp(self.mantissa, odd)), (self.exponent - odd) // 2)

    def over(self, other: Scaled) -> float:
        """Return self / other; inf when only `other` is zero, 0 when both are."""
        if not other.mantissa:
            return math.inf if self.mantissa else 0.0
        return _ldexp(self.mantissa / other.mantissa, self.exponent - other.exponent)

    def number(self) -> float:
        """Return the plain float, inf or 0 where it does not fit."""
        return _ldexp(self.mantissa, self.exponent)


def scaled(value: float, exponent: int = 0) -> Scaled:
    if not math.isfinite(value):
        return Scaled(value, 0)
    mantissa, shift = math.frexp(value)
    return Scaled(mantissa, exponent + shift)


def _ldexp(mantissa: float, exponent: int) -> float:
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf


@dataclass(slots=True)
class Tally:
    """Sums and extremes of a run of element pairs.

    n counts all pairs, n_finite those with two finite members; only these are in the sums.
    aa, bb, dd: sums of squares of old, new and their difference.  worst: (excess over the
    tolerance, flat index, old, new), among elements that differ.
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
    aa: Scaled = field(default_factory=Scaled)
    bb: Scaled = field(default_factory=Scaled)
    dd: Scaled = field(default_factory=Scaled)
    worst: tuple[float, int, Any, Any] | None = None

    def join(self, other: Tally) -> None:
        """Add the tally of the run that follows this one."""
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
        self.aa, self.bb = self.aa.plus(other.aa), self.bb.plus(other.bb)
        self.dd = self.dd.plus(other.dd)
        if other.worst is not None:
            self.offer(*other.worst)

    def offer(self, excess: float, index: int, old: Any, new: Any) -> None:
        """Keep an element if it exceeds the tolerance by more than the worst so far."""
        if self.worst is None or excess > self.worst[0]:
            self.worst = (excess, index, old, new)


def is_exact(old: str, new: str) -> bool:
    """Whether two dtypes are compared without any tolerance."""
    return not ({kind(old), kind(new)} & {"float", "complex"})


def comparable(old: str, new: str) -> bool:
    """Whether values of two dtypes can be set against each other at all."""
    if old == new:
        return True
    plain = {"float", "int", "uint", "bool", "complex"}
    return old in DTYPES and new in DTYPES and {kind(old), kind(new)} <= plain
