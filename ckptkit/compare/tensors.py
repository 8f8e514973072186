"""Comparing tensors by value: what differs, by how much, and where it is worst.

Values are read in one pass over both files, in spans, and the stored checksums are compared on the
way, so a difference is never damage in disguise.  Memory does not grow with the tensors.  The rules
of equality are in `ckptkit.compare.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.pool import bounded_map, some_names, task_bytes
from ckptkit._io.progress import ProgressMeter
from ckptkit.compare import spans
from ckptkit.compare.spans import FileSpan, TensorSource, WorkItem, WorkResult
from ckptkit.compare.statistics import (
    EXACT,
    DiffStatistics,
    ElementTolerance,
    ScaledFloat,
    comparable,
    is_exact,
)
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import ChecksumError, UsageError
from ckptkit.results import Result
from ckptkit.stores.archive_checksums import ArchiveChecksums

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.stores.base import Store

__all__ = [
    "Delta",
    "ElementTolerance",
    "Pair",
    "TensorComparison",
    "Worst",
    "compare",
    "compare_all",
]


@dataclass(frozen=True, slots=True)
class Worst:
    """The element that exceeds the tolerance by most: its index (one item per axis) and values."""

    index: tuple[int, ...]
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Delta(Result):
    """Numbers between two tensors of one shape; OLD is the reference.

    n: elements.  n_diff: those that differ.  n_outside: those that differ by more than
    `atol + rtol * |old|`.  nonfinite: pairs with a NaN or infinity that the other does not have.
    max_abs: largest |new - old| (an int for integers).  max_rel: largest |new - old| / |old| over
    old != 0.  mean_abs, rmse: over pairs of finite numbers.  max_ulp: most representable values
    between two elements; None unless both are floats of one dtype.  rel_l2: |new - old| / |old|, as
    vectors.
    cosine: of the angle between the two; None when one is all zeros.  needed_rtol: the smallest
    rtol under which all would pass at this atol; inf when none would, None for exact dtypes.
    worst: the worst element among those that differ, against the tolerance.
    Of strings only the counts and `worst` say something.
    """

    n: int
    n_diff: int = 0
    n_outside: int = 0
    nonfinite: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    rmse: float = 0.0
    max_ulp: int | None = None
    rel_l2: float = 0.0
    cosine: float | None = None
    needed_rtol: float | None = None
    worst: Worst | None = None
    rtol: float = 0.0
    atol: float = 0.0
    rule: str = "default"
    same_norm: bool = False

    @property
    def defined_max_rel(self) -> float | None:
        """`max_rel`, or None where nothing that differs has a relative change.

        What was 0 has none, nor has what is NaN or infinite on one side alone.
        """
        return None if self.n_diff and not self.max_rel else self.max_rel

    @property
    def equal(self) -> bool:
        """Whether no element differs."""
        return self.n_diff == 0

    @property
    def ok(self) -> bool:
        """Whether every element is within the tolerance."""
        return self.n_outside == 0


class Pair(NamedTuple):
    """Two tensors to compare: a store and a key on each side, and how."""

    old: Store
    old_key: str
    new: Store
    new_key: str
    tolerance: ElementTolerance = EXACT
    bitwise: bool = False


class TensorComparison(NamedTuple):
    """A Delta, and the crc32c of the values of either side (of numbers: of their bytes)."""

    delta: Delta
    old_crc: int
    new_crc: int


def compare(pair: Pair) -> TensorComparison:
    """Compare two tensors of one shape.

    Args:
        pair: the tensors and the tolerance.

    Returns:
        The numbers of the difference, and the crc32c of the values of either side.

    Raises:
        UsageError: the shapes differ, or the dtypes have nothing in common.
        ChecksumError: the values of a side do not have the checksum that its file stores.
        TruncatedError, FormatError, UnsupportedError: as the stores raise them.
    """
    return next(compare_all([pair]))


def compare_all(
    pairs: Sequence[Pair],
    executor: Executor | None = None,
    meter: ProgressMeter | None = None,
) -> Iterator[TensorComparison]:
    """Yield a TensorComparison for each of `pairs`, in order.

    Large tensors are cut into spans and small ones are put together, so that any executor is kept
    busy; the numbers do not depend on it.

    Args:
        pairs: what to compare; all are checked before any value is read.
        executor: where the work is done; None does it here.
        meter: counts the bytes of OLD that were compared.

    Yields:
        One TensorComparison per pair.

    Raises:
        As `compare` does.
    """
    for pair in pairs:
        _check(pair)
    sources = [
        (spans.source_of(pair.old, pair.old_key), spans.source_of(pair.new, pair.new_key))
        for pair in pairs
    ]
    results: list[WorkResult] = []
    next_pair = 0
    items = _work_items(pairs, sources)
    archives = ArchiveChecksums()
    total = sum(pair.old.specs[pair.old_key].nbytes for pair in pairs)
    batches = spans.batched(items, task_bytes(executor, total) if executor is not None else 0)

    def name(items: Sequence[WorkItem]) -> str:
        return some_names([pairs[item.pair].old_key for item in items])

    for batch_results in bounded_map(executor, spans.do_items, batches, name):
        for result in batch_results:
            # Results come in order, so one of a later pair says that this pair is complete.
            while next_pair < result.pair:
                yield _comparison_of(next_pair, pairs, sources, results, executor, archives)
                next_pair, results = next_pair + 1, []
            results.append(result)
            if meter is not None:
                meter.add((result.stop - result.start) * itemsize(sources[result.pair][0].dtype))
    while next_pair < len(pairs):
        yield _comparison_of(next_pair, pairs, sources, results, executor, archives)
        next_pair, results = next_pair + 1, []


def _check(pair: Pair) -> None:
    old, new = pair.old.specs[pair.old_key], pair.new.specs[pair.new_key]
    if old.shape != new.shape:
        raise UsageError(
            f"{pair.old_key} has shape {old.shape}, {pair.new_key} {new.shape}: values of "
            "different shapes are not compared"
        )
    if not comparable(old.dtype, new.dtype):
        raise UsageError(f"{pair.old_key}: {old.dtype} cannot be compared with {new.dtype}")


def _work_items(
    pairs: Sequence[Pair], sources: Sequence[tuple[TensorSource, TensorSource]]
) -> Iterator[WorkItem]:
    for number, (pair, (old, new)) in enumerate(zip(pairs, sources, strict=True)):
        size = pair.old.specs[pair.old_key].size
        both_in_files = isinstance(old, FileSpan) and isinstance(new, FileSpan)
        task = "equality" if both_in_files and _may_be_equal(old, new) else "metrics"
        # A store reads its own kind in one piece; even an empty tensor has a checksum to verify.
        for start, stop in spans.span_bounds(size) if both_in_files else [(0, size)]:
            yield WorkItem(number, old, new, start, stop, task, pair.tolerance, pair.bitwise)


def _may_be_equal(old: TensorSource, new: TensorSource) -> bool:
    """Whether it is worth looking at the bytes first: not when the stored checksums differ."""
    if old.dtype != new.dtype or not isinstance(old, FileSpan) or not isinstance(new, FileSpan):
        return False
    return old.crc32c is None or new.crc32c is None or old.crc32c == new.crc32c


def _comparison_of(
    number: int,
    pairs: Sequence[Pair],
    sources: Sequence[tuple[TensorSource, TensorSource]],
    results: list[WorkResult],
    executor: Executor | None,
    archives: ArchiveChecksums,
) -> TensorComparison:
    """Join the results of one pair and verify the stored checksums.

    Those of archives cover more than a tensor: they are read where something differs.
    """
    pair, (old, new) = pairs[number], sources[number]
    crcs = (
        spans.combined_crc(results, itemsize(old.dtype), 0),
        spans.combined_crc(results, itemsize(new.dtype), 1),
    )
    _verify_checksum(old, crcs[0], pair.old_key)
    _verify_checksum(new, crcs[1], pair.new_key)
    spec = pair.old.specs[pair.old_key]
    if all(result.statistics is None for result in results):
        delta = _equal_delta(spec.size, pair.tolerance, old.dtype, new.dtype)
        return TensorComparison(delta, *crcs)
    archives.compare(pair.old, (pair.old_key,))
    archives.compare(pair.new, (pair.new_key,))
    statistics = DiffStatistics()
    for result in _with_norms(pair, old, new, results, executor):
        assert result.statistics is not None
        statistics.join(result.statistics)
    return TensorComparison(_delta(statistics, spec.shape, pair, old.dtype, new.dtype), *crcs)


def _verify_checksum(source: TensorSource, crc: int, key: str) -> None:
    if isinstance(source, FileSpan) and source.crc32c is not None and source.crc32c != crc:
        raise ChecksumError(
            f"{source.path}: {key}",
            "crc32c of the values does not match the stored one",
            expected=f"{source.crc32c:08x}",
            found=f"{crc:08x}",
            hint="the file is damaged; `ckptkit verify` lists every damaged tensor",
        )


def _with_norms(
    pair: Pair,
    old: TensorSource,
    new: TensorSource,
    results: list[WorkResult],
    executor: Executor | None,
) -> list[WorkResult]:
    """Measure the spans that were only found equal, now that other spans differ."""
    unmeasured = [
        WorkItem(
            result.pair, old, new, result.start, result.stop, "norm", pair.tolerance, pair.bitwise
        )
        for result in results
        if result.statistics is None
    ]
    if not unmeasured:
        return results
    measured = iter(
        [
            result
            for batch_results in bounded_map(
                executor,
                spans.do_items,
                spans.batched(iter(unmeasured)),
                lambda _items: pair.old_key,
            )
            for result in batch_results
        ]
    )
    return [next(measured) if result.statistics is None else result for result in results]


@lru_cache(maxsize=256)
def _equal_delta(size: int, tolerance: ElementTolerance, old: str, new: str) -> Delta:
    exact = is_exact(old, new)
    return Delta(
        n=size,
        max_ulp=0 if kind(old) == "float" and old == new else None,
        cosine=1.0,
        needed_rtol=None if exact else 0.0,
        rtol=tolerance.rtol,
        atol=tolerance.atol,
        rule=tolerance.rule,
        same_norm=True,
    )


def _delta(
    statistics: DiffStatistics, shape: tuple[int, ...], pair: Pair, old: str, new: str
) -> Delta:
    exact = is_exact(old, new)
    count = max(statistics.n_finite, 1)
    norm_diff = statistics.sum_sq_diff.root()
    worst = None
    if statistics.worst is not None:
        _, flat, left, right = statistics.worst
        worst = Worst(unravel(flat, shape), left, right)
    return Delta(
        n=statistics.n,
        n_diff=statistics.n_diff,
        n_outside=statistics.n_outside,
        nonfinite=statistics.nonfinite,
        max_abs=int(statistics.max_abs)
        if exact and math.isfinite(statistics.max_abs)
        else statistics.max_abs,
        max_rel=statistics.max_rel,
        mean_abs=statistics.sum_abs / count,
        rmse=ScaledFloat(norm_diff.mantissa / math.sqrt(count), norm_diff.exponent).number(),
        max_ulp=statistics.max_ulp if kind(old) == "float" and old == new else None,
        rel_l2=norm_diff.over(statistics.sum_sq_old.root()),
        cosine=cosine_of(statistics) if statistics.n_diff else 1.0,
        needed_rtol=None if exact else _round_up(statistics.needed_rtol),
        worst=worst,
        rtol=pair.tolerance.rtol,
        atol=pair.tolerance.atol,
        rule=pair.tolerance.rule,
        # Room for rounding: two sums of the same squares, taken in another order.
        same_norm=abs(statistics.sum_sq_new.over(statistics.sum_sq_old) - 1.0) < 1e-12,
    )


def cosine_of(statistics: DiffStatistics) -> float | None:
    """Return the cosine of the angle between two tensors as vectors.

    It is found by way of 1 - cos, which is exact where the two are close:
    1 - cos = (||d||^2 - (||a|| - ||b||)^2) / (2 ||a|| ||b||), with a old, b new and d = b - a.

    Args:
        statistics: the sums of squares of old, new and difference.

    Returns:
        A number from -1 to 1; None when a tensor is all zeros or a sum is not finite.
    """
    if not statistics.sum_sq_old.mantissa or not statistics.sum_sq_new.mantissa:
        return None
    a, b, d = (
        x.root() for x in (statistics.sum_sq_old, statistics.sum_sq_new, statistics.sum_sq_diff)
    )
    if not all(math.isfinite(x.mantissa) for x in (a, b, d)):
        return None
    # Everything in units of ||a||, so that nothing overflows.
    ratio, gap = b.over(a), d.over(a)
    if not 0 < ratio < math.inf or not math.isfinite(gap):
        return None
    distance = (gap * gap - (1 - ratio) * (1 - ratio)) / (2 * ratio)
    return min(1.0, max(-1.0, 1.0 - distance))


def _round_up(rtol: float) -> float:
    """Return an rtol that passes in spite of rounding in `atol + rtol * |old|`."""
    return rtol * (1 + 2**-50) if 0 < rtol < math.inf else rtol


def unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index, one item per axis, of the element at a flat row-major position."""
    index: list[int] = []
    for axis in reversed(shape):
        flat, place = divmod(flat, axis)
        index.append(place)
    return tuple(reversed(index))
