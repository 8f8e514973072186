"""A part of a large array that stands for it: elements at seeded places, and norms of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.compare.statistics import ScaledFloat, scaled_float
from ckptkit.dtypes import dtype_of_numpy, kind

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

SAMPLED = 1 << 16  # elements kept of a large array


@dataclass(frozen=True)
class Norms:
    """Of all elements: how many are not finite, and of the finite ones the root mean square.

    lowest, highest: of the finite ones; 0 where there are none.
    """

    nonfinite: int
    rms: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Sample:
    """Elements of an array at `places_of(size, len(values), seed)`, 1-D, and norms of all of it."""

    dtype: str
    shape: tuple[int, ...]
    seed: int
    values: Array
    norms: Norms | None  # None for text

    @property
    def size(self) -> int:
        """Elements of the whole array."""
        return math.prod(self.shape)

    @property
    def places(self) -> Array:
        """Flat row-major places of the values."""
        return places_of(self.size, len(self.values), self.seed)


def sample(array: Array, seed: int, count: int = SAMPLED) -> Sample:
    """Return a sample of at most `count` elements of an array that `as_array` made."""
    dtype = dtype_of_numpy(array.dtype)
    places = places_of(array.size, min(count, array.size), seed)
    numeric = kind(dtype) not in ("string", "opaque")
    return Sample(
        dtype, array.shape, seed, array.reshape(-1)[places], norms_of(array) if numeric else None
    )


def places_of(size: int, count: int, seed: int) -> Array:
    """Return `count` places below `size`, ascending: one drawn in each of as many equal parts.

    There is one at least, and no more than `size`.
    PCG64's raw stream is the same in every version of numpy.
    """
    import numpy as np

    bounds = np.array([index * size // count for index in range(count + 1)], np.uint64)
    raw = np.random.PCG64(seed).random_raw(count)
    low = bounds[:-1]
    return np.asarray(low + raw % (bounds[1:] - low), np.int64)


def norms_of(array: Array) -> Norms:
    """Return the norms of an array of numbers, in float64, part by part."""
    import numpy as np

    flat = array.reshape(-1)
    count = bad = 0
    squares, lowest, highest = ScaledFloat(), math.inf, -math.inf
    for start in range(0, flat.size, 1 << 18):
        part = flat[start : start + (1 << 18)]
        numbers: Any = np.abs(part) if part.dtype.kind == "c" else part
        numbers = numbers.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        bad += numbers.size - finite.size
        count += finite.size
        if not finite.size:
            continue
        low, high = float(finite.min()), float(finite.max())
        lowest, highest = min(lowest, low), max(highest, high)
        exponent = math.frexp(max(-low, high))[1]  # so that no square overflows
        finite = np.ldexp(finite, -exponent)
        squares = squares.plus(scaled_float(float(np.dot(finite, finite)), 2 * exponent))
    if not count:
        return Norms(bad, 0.0, 0.0, 0.0)
    root = squares.root()
    rms = ScaledFloat(root.mantissa / math.sqrt(count), root.exponent).number()
    return Norms(bad, rms, lowest, highest)


def save_values(file: Path, values: Mapping[str, Array | Sample]) -> dict[str, Any]:
    """Write outputs, some of them as samples, to an npz file; return what `load_values` takes."""
    from ckptkit.model_io.array_files import save_arrays

    arrays = {n: v.values if isinstance(v, Sample) else v for n, v in values.items()}
    samples = {
        name: [
            *(value.dtype, list(value.shape), value.seed),
            None if value.norms is None else list(astuple(value.norms)),
        ]
        for name, value in values.items()
        if isinstance(value, Sample)
    }
    return {"file": str(file), "described": save_arrays(file, arrays), "samples": samples}


def load_values(written: Mapping[str, Any]) -> dict[str, Array | Sample]:
    """Return what `save_values` wrote."""
    from ckptkit.model_io.array_files import load_arrays

    found: dict[str, Any] = dict(load_arrays(Path(written["file"]), written["described"]))
    for name, (dtype, shape, seed, norms) in written["samples"].items():
        numbers = None if norms is None else Norms(*norms)
        found[name] = Sample(dtype, tuple(shape), seed, found[name], numbers)
    return found
