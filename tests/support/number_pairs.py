"""Pairs of arrays that differ in all the ways that measuring differences has to tell apart."""

from __future__ import annotations

import numpy as np

from ckptkit.compare.statistics import ElementTolerance
from ckptkit.dtypes import numpy_dtype
from support.weights import Array

# What is measured by compiled code, and beside it what is left to numpy.
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int8", "int16", "int32"),
    *("uint8", "uint16", "uint32", "int64", "bool", "float8_e4m3fn", "complex64"),
)
SIZES = (0, 1, 7, 8, 9, 127, 128, 129, 1000, 65_535, 65_536, 65_537, 70_001)
LIMITS = (0.0, 1e-8, 1e-6, 1e-3, 0.1, 2.0)


def pair(seed: int, largest: int = SIZES[-1]) -> tuple[str, str, Array, Array, ElementTolerance]:
    """Return two dtypes, two arrays of one size, and a tolerance; `largest`: no more elements."""
    rng = np.random.default_rng(seed)
    old = str(rng.choice(DTYPES[:10] if rng.random() < 0.8 else DTYPES))
    new = old if rng.random() < 0.7 else str(rng.choice(DTYPES))
    size = int(rng.choice([n for n in (*SIZES, int(rng.integers(1, 40_000))) if n <= largest]))
    with np.errstate(all="ignore"):
        left = _numbers(rng, old, size)
        right = _changed(rng, left, old) if new == old else _numbers(rng, new, size)
        if new != old and rng.random() < 0.5:
            right = left.real.astype(numpy_dtype(new))
    rtol, atol = map(float, rng.choice(LIMITS, 2))
    return old, new, left, right, ElementTolerance(rtol, atol)


def _numbers(rng: np.random.Generator, dtype: str, size: int) -> Array:
    """Return ordinary numbers, or some that are not: any bits, zeros, tiny, huge, not finite."""
    form, kind = numpy_dtype(dtype), int(rng.integers(7))
    if dtype == "bool":
        return rng.random(size) < 0.5
    if "int" in dtype:
        info = np.iinfo(form)
        if kind < 3:
            return rng.integers(info.min, info.max, size, endpoint=True, dtype=form)
        return rng.integers(0, 3, size).astype(form)
    if kind == 0:
        return rng.integers(0, 256, size * form.itemsize, dtype=np.uint8).view(form).copy()
    values = rng.standard_normal(size)
    if kind == 1:
        values *= 10.0 ** rng.integers(-300, 300)
    elif kind == 2:
        values[rng.random(size) < 0.5] = 0
    elif kind == 3:
        values[:] = 0
    elif kind == 4 and size:
        values[rng.integers(size)] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == 5:
        values *= 10.0 ** rng.integers(-300, 300, size)
    return values.astype(form)


def _changed(rng: np.random.Generator, values: Array, dtype: str) -> Array:
    """Return values as they were, others, one moved, all moved a little, bits flipped, negated."""
    kind, size = int(rng.integers(6)), len(values)
    changed = values.copy()
    if kind == 0 or not size:
        return changed
    if kind == 1:
        return _numbers(rng, dtype, size)
    if kind == 2:
        changed[rng.integers(size)] = values[rng.integers(size)]
        return changed
    if kind == 3 and dtype != "bool" and "int" not in dtype:
        moved: Array = values.astype(np.complex128) * (1 + 1e-3 * rng.standard_normal(size))
        return (moved if values.dtype.kind == "c" else moved.real).astype(values.dtype)
    if kind == 4 and dtype != "bool":
        raw = changed.view(np.uint8).reshape(size, -1)
        raw[rng.random(size) < 0.1, 0] ^= 1
        return changed
    return ~values if dtype == "bool" else np.negative(values)
