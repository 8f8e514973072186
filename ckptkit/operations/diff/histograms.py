"""How the change of a tensor is distributed: for the tensors that changed most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ckptkit.compare import spans
from ckptkit.compare.tensors import Delta
from ckptkit.dtypes import kind
from ckptkit.operations.diff.result import DiffResult, TensorDiff

BINS = 61  # odd, so that one bin has zero in its middle
_ENOUGH = 256  # elements
MAX_ELEMENTS = 1 << 26  # read for all histograms together: well under a second


class Histogram(NamedTuple):
    """Counts of new - old in equal bins from -limit to limit; `change` is an index of changes."""

    change: int
    limit: float
    counts: tuple[int, ...]


def histograms(result: DiffResult, most: int = 12) -> list[Histogram]:
    """Return how the changes of some tensors are distributed, the largest relative change first.

    Tensors are read once more for it, in bounded memory.

    Args:
        result: of a `diff` that compared values.
        most: how many histograms at most.

    Raises:
        FormatError, ChecksumError and others: as the stores raise them.
    """
    drawn: list[Histogram] = []
    budget = MAX_ELEMENTS
    for index in _largest(result.changes):
        change = result.changes[index]
        assert change.delta is not None
        if len(drawn) == most:
            break
        if change.some.spec.size <= budget:
            budget -= change.some.spec.size
            drawn.append(Histogram(index, change.delta.max_abs, _counts(result, change)))
    return drawn


def _largest(changes: Sequence[TensorDiff]) -> list[int]:
    """Return the indexes of changed tensors of numbers, those first that are worth a picture.

    Weights come before training state, and tensors with enough elements for a shape before others.
    """
    ranked = [
        (_rank(change, change.delta), index)
        for index, change in enumerate(changes)
        if change.delta is not None
        and change.delta.n_diff
        and change.delta.n > 1
        and 0 < change.delta.max_abs < math.inf
        and kind(change.some.spec.dtype) in ("float", "int", "uint")
    ]
    return [index for _rank_of_it, index in sorted(ranked)]


def _rank(change: TensorDiff, delta: Delta) -> tuple[bool, bool, float]:
    few, from_zero = delta.n < _ENOUGH, math.isinf(delta.rel_l2)
    return few or from_zero, change.role != "weight", -delta.rel_l2


def _counts(result: DiffResult, change: TensorDiff) -> tuple[int, ...]:
    import numpy as np

    assert change.old is not None and change.new is not None and change.delta is not None
    limit = float(change.delta.max_abs)
    counts = np.zeros(BINS, np.int64)
    old, new = (
        spans.source_of(store, side.spec.key)
        for store, side in zip(result.stores, (change.old, change.new), strict=True)
    )
    for gap in spans.differences(old, new, change.old.spec.size):
        # in units of the limit, so that neither tiny nor huge ones break the arithmetic of bins
        counts += np.histogram(gap[np.isfinite(gap)] / limit, BINS, (-1.0, 1.0))[0]
    return tuple(counts.tolist())
