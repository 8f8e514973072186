"""Whether a tensor looks like one that nothing was restored into: as initialisers leave it.

Sources: keras/src/initializers/{constant,random}_initializers.py.  Variance-scaling initialisers
draw from a uniform distribution within sqrt(3 * scale / n), or a normal one of variance scale / n
cut off at two of its standard deviations, n being the fan in, or the mean of fan in and fan out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ckptkit.dtypes import kind
from ckptkit.golden.sketch_types import Sketch

MIN_SIZE = 16  # elements from which the spread of a sample says something by itself
CONSTANT = frozenset({"all zeros", "all ones", "zeros and ones"})  # first values that none draws
_LEAST = 4  # elements of which it says something beside other evidence
_CUT = 0.87962566  # standard deviation of a normal distribution cut off at two of its own


def initial_value(sketch: Sketch) -> str | None:
    """Return the first value that a tensor looks like, in words; None if like none.

    Of a kernel of fewer than MIN_SIZE elements that means little.
    """
    if sketch.places is None or sketch.nonfinite or kind(sketch.dtype) != "float":
        return None
    if sketch.is_constant and sketch.low in (0.0, 1.0):
        return "all zeros" if sketch.low == 0.0 else "all ones"
    ones = sketch.size - sketch.zeros
    if len(sketch.shape) < 2 and sketch.low == 0.0 and sketch.high == 1.0:
        alike = math.isclose(sketch.rms**2 * sketch.size, ones, rel_tol=1e-9)
        return "zeros and ones" if alike and 4 * ones == sketch.size else None
    if sketch.size < _LEAST or len(sketch.shape) < 2:
        return None
    return next((name for name, fits in _candidates(sketch) if fits), None)


def _candidates(sketch: Sketch) -> Iterator[tuple[str, bool]]:
    receptive = math.prod(sketch.shape[:-2])
    fan_in, fan_out = receptive * sketch.shape[-2], receptive * sketch.shape[-1]
    rows, columns = math.prod(sketch.shape[:-1]), sketch.shape[-1]
    orthogonal = 1 / math.sqrt(max(rows, columns))
    within = max(-sketch.low, sketch.high)
    yield "orthogonal", math.isclose(sketch.rms, orthogonal, rel_tol=1e-4) and within <= 1.0
    scales = {
        "glorot": 2 / (fan_in + fan_out),
        "he": 2 / fan_in,
        "lecun": 1 / fan_in,
    }
    for name, variance in scales.items():
        limit = math.sqrt(3 * variance)
        yield f"{name} uniform", _spread(sketch, limit / math.sqrt(3), limit)
    for name, variance in scales.items():
        yield f"{name} normal", _spread(sketch, math.sqrt(variance), 2 * math.sqrt(variance) / _CUT)
    yield "uniform within 0.05", _spread(sketch, 0.05 / math.sqrt(3), 0.05)
    yield "normal of 0.05", _spread(sketch, 0.05, 0.05 * 7)


def _spread(sketch: Sketch, rms: float, limit: float) -> bool:
    """Whether all is within `limit` and the rms is what a sample of that size would have."""
    within = max(-sketch.low, sketch.high) <= limit * (1 + 1e-5)
    return within and abs(sketch.rms / rms - 1) < 2.5 / math.sqrt(sketch.size)
