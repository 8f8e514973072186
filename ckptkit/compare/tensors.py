"""Comparing tensors by value: what differs, by how much, and where it is worst.

Values are read in one pass over both files, in spans, and the stored checksums are compared on the
way, so a difference is never damage in disguise.  Memory does not grow with the tensors.  The rules
of equality are in `ckptkit.compare.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.pool import bounded_map
from ckptkit.compare import spans as _work
from ckptkit.compare.spans import Partial, Piece, Run, Source
from ckptkit.compare.statistics import EXACT, Scaled, Tally, Tolerance, comparable, is_exact
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import ChecksumError, UsageError

if TYPE_CHECKING:
    from ckptkit.stores.base import Store

__all__ = ["Comparison", "Delta", "Pair", "Tolerance", "Worst", "compare", "compare_all"]


@dataclass(frozen=True, slots=True)
class Worst:
    """The element that exceeds the tolerance by most: its index (one item per axis) and values."""

    index: tuple[int, ...]
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Delta:
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
    def equal(self) -> bool:
        """Whether no element differs."""
        return self.n_diff == 0

    @property
    def passes(self) -> bool:
        """Whether every element is within the tolerance."""
        return self.n_outside == 0


class Pair(NamedTuple):
    """Two tensors to compare: a store and a key on each side, and how."""

    old: Store
    old_key: str
    new: Store
    new_key: str
    tolerance: Tolerance = EXACT
    bitwise: bool = False


class Comparison(NamedTuple):
    """A Delta, and the crc32c of the values of either side (of numbers: of their bytes)."""

    delta: Delta
    old_crc: int
    new_crc: int


def compare(pair: Pair) -> Comparison:
    """Compare two tensors of one shape.

    Raises UsageError when shapes differ or the dtypes have nothing in common; ChecksumError,
    TruncatedError, FormatError and UnsupportedError as the stores do.
    """
    return next(compare_all([pair]))


def compare_all(
    pairs: Sequence[Pair],
    executor: Executor | None = None,
    window: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Comparison]:
    """Yield a Comparison for each of `pairs`, in order, at most `window` pieces of work under way.

    Large tensors are cut into spans and small ones are put together, so that any executor is kept
    busy; results do not depend on it.  progress: called with the bytes of OLD done since the last
    call.  Raises as `compare` does.
    """
    for pair in pairs:
        _check(pair)
    sources = [
        (_work.source_of(pair.old, pair.old_key), _work.source_of(pair.new, pair.new_key))
        for pair in pairs
    ]
    partials: list[Partial] = []
    waiting = 0
    for done in bounded_map(executor, _work.work, _work.batches(_pieces(pairs, sources)), window):
        for part in done:
            while waiting < part.pair:  # all pieces of the pair before are in
                yield _finish(waiting, pairs, sources, partials, executor)
                waiting, partials = waiting + 1, []
            partials.append(part)
            if progress is not None:
                progress((part.stop - part.start) * itemsize(sources[part.pair][0].dtype))
    while waiting < len(pairs):
        yield _finish(waiting, pairs, sources, partials, executor)
        waiting, partials = waiting + 1, []


def _check(pair: Pair) -> None:
    old, new = pair.old.specs[pair.old_key], pair.new.specs[pair.new_key]
    if old.shape != new.shape:
        raise UsageError(
            f"{pair.old_key} has shape {old.shape}, {pair.new_key} {new.shape}: values of "
            "different shapes are not compared"
        )
    if not comparable(old.dtype, new.dtype):
        raise UsageError(f"{pair.old_key}: {old.dtype} cannot be compared with {new.dtype}")


def _pieces(pairs: Sequence[Pair], sources: Sequence[tuple[Source, Source]]) -> Iterator[Piece]:
    for number, (pair, (old, new)) in enumerate(zip(pairs, sources, strict=True)):
        size = pair.old.specs[pair.old_key].size
        runs = isinstance(old, Run) and isinstance(new, Run)
        want = "equality" if runs and _may_be_equal(old, new) else "metrics"
        # an empty tensor in a store of its own kind still has a checksum to verify
        for start, stop in _work.spans(size) if runs else [(0, size)]:
            yield Piece(number, old, new, start, stop, want, pair.tolerance, pair.bitwise)


def _may_be_equal(old: Source, new: Source) -> bool:
    """Whether it is worth looking at the bytes first: not when the stored checksums differ."""
    if old.dtype != new.dtype or not isinstance(old, Run) or not isinstance(new, Run):
        return False
    return old.crc32c is None or new.crc32c is None or old.crc32c == new.crc32c


def _finish(
    number: int,
    pairs: Sequence[Pair],
    sources: Sequence[tuple[Source, Source]],
    partials: list[Partial],
    executor: Executor | None,
) -> Comparison:
    """Join the pieces of one pair and verify the checksums."""
    pair, (old, new) = pairs[number], sources[number]
    crcs = (
        _work.combined_crc(partials, itemsize(old.dtype), 0),
        _work.combined_crc(partials, itemsize(new.dtype), 1),
    )
    _verify(old, crcs[0], pair.old_key)
    _verify(new, crcs[1], pair.new_key)
    spec = pair.old.specs[pair.old_key]
    if all(part.tally is None for part in partials):
        delta = _equal_delta(spec.size, pair.tolerance, old.dtype, new.dtype)
        return Comparison(delta, *crcs)
    tally = Tally()
    for part in _with_norms(pair, old, new, partials, executor):
        assert part.tally is not None
        tally.join(part.tally)
    return Comparison(_delta(tally, spec.shape, pair, old.dtype, new.dtype), *crcs)


def _verify(source: Source, crc: int, key: str) -> None:
    if isinstance(source, Run) and source.crc32c is not None and source.crc32c != crc:
        raise ChecksumError(
            f"{source.path}: {key}",
            "crc32c of the values does not match the stored one",
            expected=f"{source.crc32c:08x}",
            found=f"{crc:08x}",
            hint="the file is damaged; `ckptkit verify` lists every damaged tensor",
        )


def _with_norms(
    pair: Pair, old: Source, new: Source, partials: list[Partial], executor: Executor | None
) -> list[Partial]:
    """Measure the spans that were only found equal, now that other spans differ."""
    todo = [
        Piece(part.pair, old, new, part.start, part.stop, "norm", pair.tolerance, pair.bitwise)
        for part in partials
        if part.tally is None
    ]
    found = iter(
        [
            part
            for done in bounded_map(executor, _work.work, _work.batches(iter(todo)))
            for part in done
        ]
    )
    return [next(found) if part.tally is None else part for part in partials]


@lru_cache(maxsize=256)
def _equal_delta(size: int, tolerance: Tolerance, old: str, new: str) -> Delta:
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


def _delta(tally: Tally, shape: tuple[int, ...], pair: Pair, old: str, new: str) -> Delta:
    exact = is_exact(old, new)
    count = max(tally.n_finite, 1)
    gap = tally.dd.root()
    worst = None
    if tally.worst is not None:
        _, flat, left, right = tally.worst
        worst = Worst(unravel(flat, shape), left, right)
    return Delta(
        n=tally.n,
        n_diff=tally.n_diff,
        n_outside=tally.n_outside,
        nonfinite=tally.nonfinite,
        max_abs=int(tally.max_abs) if exact and math.isfinite(tally.max_abs) else tally.max_abs,
        max_rel=tally.max_rel,
        mean_abs=tally.sum_abs / count,
        rmse=Scaled(gap.mantissa / math.sqrt(count), gap.exponent).number(),
        max_ulp=tally.max_ulp if kind(old) == "float" and old == new else None,
        rel_l2=gap.over(tally.aa.root()),
        cosine=cosine_of(tally) if tally.n_diff else 1.0,
        needed_rtol=None if exact else _round_up(tally.needed_rtol),
        worst=worst,
        rtol=pair.tolerance.rtol,
        atol=pair.tolerance.atol,
        rule=pair.tolerance.rule,
        same_norm=abs(tally.bb.over(tally.aa) - 1.0)
        < 1e-12,  # two sums of the same squares, in another order
    )


def cosine_of(tally: Tally) -> float | None:
    """Return the cosine of the angle, by way of 1 - cos, which is exact where they are close.

    1 - cos = (||d||^2 - (||a|| - ||b||)^2) / (2 ||a|| ||b||), with d = b - a.
    """
    if not tally.aa.mantissa or not tally.bb.mantissa:
        return None
    a, b, d = (x.root() for x in (tally.aa, tally.bb, tally.dd))
    if not all(math.isfinite(x.mantissa) for x in (a, b, d)):
        return None
    # scaled by ||a||, so that nothing overflows; then by ||b|| / ||a||
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
