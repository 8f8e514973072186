"""What the values of one tensor are like: extremes, moments, zeros, what is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptkit._io.pool import batched_map
from ckptkit._io.progress import Progress, ProgressMeter
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.compare import kernel
from ckptkit.compare.sums import ordered_sum
from ckptkit.dtypes import dtype_of_numpy, kind
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.text import json_number

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.dtypes import Array

BINS = 20  # of a histogram


@dataclass(frozen=True)
class Statistics:
    """Of one numeric tensor, in float64 over its finite elements (of the moduli, if complex).

    n_zero: counts -0.0 too.  std: of the population.  norm: the Euclidean one.
    bins: counts of equal-width bins from minimum to maximum; empty where none were asked for.
    """

    n: int
    n_nan: int
    n_inf: int
    n_zero: int
    minimum: float
    maximum: float
    mean: float
    std: float
    norm: float
    bins: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold.

        Returns:
            The fields by name; a number that is not finite as text.
        """
        return {name: json_number(value) for name, value in self.__dict__.items()}


def is_numeric(dtype: str) -> bool:
    """Whether tensors of a dtype have statistics: strings and opaque ones have none."""
    return kind(dtype) not in ("opaque", "string")


def statistics_of(checkpoint: Checkpoint, key: str, *, bins: int = 0) -> Statistics:
    """Return statistics of a numeric tensor, streamed: one pass, and one for a histogram.

    Raises what reading raises: TruncatedError, ChecksumError, ...
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest float64
        moments = _Moments()
        for _start, values in checkpoint.store.blocks(key):
            moments.add(values)
        counts = _histogram(checkpoint, key, moments, bins) if bins else ()
    return moments.statistics(counts)


def statistics_of_all(
    store: Store,
    specs: Sequence[TensorSpec],
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Statistics]:
    """Return statistics of numeric tensors by key; raises as `statistics_of` does.

    progress: is called with "statistics".
    """
    total = sum(spec.nbytes for spec in specs)
    meter = ProgressMeter(progress, "statistics", total, by_reads=True)
    items = [(store, spec) for spec in specs]
    counted = batched_map(
        executor, _of_one, items, lambda item: item[1].nbytes, lambda item: item[1].key
    )
    found = {}
    for spec, result in zip(specs, counted, strict=True):
        meter.add(spec.nbytes)
        found[spec.key] = result
    return found


def _of_one(item: tuple[Store, TensorSpec]) -> Statistics:
    store, spec = item
    return statistics_of(Checkpoint(store), spec.key)


class _Moments:
    """Count, extremes, mean and sum of squared deviations of what was added so far.

    Parts are joined as in Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979, equation 2.1.
    """

    def __init__(self) -> None:
        self.n = self.n_nan = self.n_inf = self.n_zero = self.count = 0
        self.low, self.high = math.inf, -math.inf
        self.mean = self.deviations = self.squares = 0.0

    def add(self, values: Array) -> None:
        """Add elements; without numpy's temporaries where all are finite, and plain numbers."""
        if values.flags.c_contiguous and values.dtype.isnative:
            address = values.__array_interface__["data"][0]
            found = kernel.moments(dtype_of_numpy(values.dtype), address, values.size)
            if found is not None:
                self.n += values.size
                self.n_zero += found.n_zero
                low, high = found.low + 0.0, found.high + 0.0
                self.low, self.high = min(self.low, low), max(self.high, high)
                self._join(values.size, found.mean, found.deviations, found.squares)
                return
        self._add_floats(_as_float(values))

    def _add_floats(self, block: Array) -> None:
        import numpy as np

        self.n += len(block)
        self.n_zero += int(len(block) - np.count_nonzero(block))
        is_finite = np.isfinite(block)
        if not is_finite.all():
            self.n_nan += int(np.isnan(block).sum())
            self.n_inf += int(np.isinf(block).sum())
            block = block[is_finite]
        if not len(block):
            return
        # of zeros, the positive one, whichever numpy finds
        low, high = float(block.min()) + 0.0, float(block.max()) + 0.0
        self.low, self.high = min(self.low, low), max(self.high, high)
        mean = ordered_sum(block) / len(block)
        deviations = ordered_sum(np.square(block - mean))
        self._join(len(block), mean, deviations, ordered_sum(np.square(block)))

    def _join(self, size: int, mean: float, deviations: float, squares: float) -> None:
        """Join finite elements to those before."""
        apart, count = mean - self.mean, self.count + size
        self.deviations += deviations + apart * apart * self.count * (size / count)
        self.mean += apart * (size / count)
        self.squares += squares
        self.count = count

    def statistics(self, bins: tuple[int, ...]) -> Statistics:
        """Return what was found."""
        counts = self.n, self.n_nan, self.n_inf, self.n_zero
        if not self.count:
            return Statistics(*counts, math.nan, math.nan, math.nan, math.nan, math.nan)
        std = math.sqrt(self.deviations / self.count)
        return Statistics(
            *counts, self.low, self.high, self.mean, std, math.sqrt(self.squares), bins
        )


def _histogram(checkpoint: Checkpoint, key: str, moments: _Moments, bins: int) -> tuple[int, ...]:
    """Return the counts of equal-width bins; none for a constant, or a width beyond float64."""
    import numpy as np

    low, width = moments.low, moments.high - moments.low
    if not (width > 0 and math.isfinite(width)):
        return ()
    counts = np.zeros(bins, np.int64)
    for _start, values in checkpoint.store.blocks(key):
        block = _as_float(values)
        places = ((block[np.isfinite(block)] - low) / width * bins).astype(np.int64)
        counts += np.bincount(np.minimum(places, bins - 1), minlength=bins)
    return tuple(map(int, counts))


def _as_float(values: Array) -> Array:
    import numpy as np

    if values.dtype.kind == "c":
        values = np.abs(values)
    return values.astype(np.float64)
