"""Statistics of tensors over the steps of a run, and of what changed from one to the next.

Every checkpoint is read once.  The work goes by tensor: a span of it is read at one step after the
other, and the values of the step before are still there when the next is set against them.  So
memory grows neither with tensors nor with steps, and the update, and its angle to the update
before, cost no second read.

A span that was read joins the checksum of its tensor; what a file stores is compared with it.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io import crc32c as _crc32c
from ckptkit._io.files import Extent, aligned_buffer
from ckptkit._io.pool import bounded_map, some_names
from ckptkit._io.small_reads import SMALL, SmallReadCache
from ckptkit.compare.spans import FileSpan, TensorSource, extend_crc
from ckptkit.compare.step import StepBlock, compiled_step, dtype_code
from ckptkit.dtypes import itemsize
from ckptkit.errors import CkptkitError
from ckptkit.operations.statistics import Statistics

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.dtypes import Array

SPAN = 1 << 17  # elements read at once: four float64 rows of them stay in a core's caches
BATCH = 1 << 19  # elements of one task, of all its tensors at one step
STEPS_AT_ONCE = 32  # measured in one task
MAX_COLUMNS = 4096  # of matrices whose columns' norms are kept


class SpanRequest(NamedTuple):
    """Elements [start, stop) of one tensor at several steps, in the order of the run.

    sources: a step each; the first `known` of them are read for what follows, and not measured.
    columns: of the matrix, 0 where it is none.  saturated: see `HistoryThresholds`.
    """

    tensor: int
    sources: tuple[TensorSource, ...]
    known: int
    start: int
    stop: int
    columns: int


class SpanValues(NamedTuple):
    """What one span of one tensor holds at one step; sums are over finite elements.

    squares: sum of squares.  deviations: sum of squared deviations from `mean`.
    changes: sum of squares of the update; turns: sum of products with the update before.
    zero_columns, still_columns: packed bits, from the column `first_column` on.
    column_squares: sums of squares by column, None where they are not kept.
    problem: why it could not be read; the rest says nothing then.
    """

    n: int
    n_nan: int = 0
    n_inf: int = 0
    n_zero: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    mean: float = 0.0
    deviations: float = 0.0
    squares: float = 0.0
    changes: float = math.nan
    turns: float = math.nan
    crc: int = 0
    nbytes: int = 0
    zero_columns: Any = None
    still_columns: Any = None
    column_squares: Any = None
    problem: CkptkitError | None = None


def measure(
    requests: Iterable[SpanRequest],
    executor: Executor | None = None,
    name: Callable[[int], str] = str,
) -> Iterator[tuple[SpanRequest, list[SpanValues]]]:
    """Yield each request with what its span holds at the steps that are measured, in order.

    name: of the tensor that a request gives the number of, for a message.
    """

    def names(batch: tuple[SpanRequest, ...]) -> str:
        return some_names([name(request.tensor) for request in batch])

    for batch in bounded_map(executor, _measure_batch, _batches(requests), names):
        yield from batch


def spans_of(size: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of the spans of a tensor: whole rows of a matrix, or parts of one row."""
    if not size:
        yield 0, 0
        return
    if columns > SPAN:
        for row in range(0, size, columns):
            for start in range(row, row + columns, SPAN):
                yield start, min(start + SPAN, row + columns)
        return
    step = SPAN - SPAN % columns if columns else SPAN
    for start in range(0, size, step):
        yield start, min(start + step, size)


def _batches(requests: Iterable[SpanRequest]) -> Iterator[tuple[SpanRequest, ...]]:
    batch: list[SpanRequest] = []
    weight = 0
    for request in requests:
        batch.append(request)
        weight += max(request.stop - request.start, 1 << 10)  # a tiny tensor costs as much
        if weight >= BATCH:
            yield tuple(batch)
            batch, weight = [], 0
    if batch:
        yield tuple(batch)


def _measure_batch(
    requests: tuple[SpanRequest, ...],
) -> list[tuple[SpanRequest, list[SpanValues]]]:
    import numpy as np

    with np.errstate(all="ignore"):
        return [(request, found) for request, found in _measured(requests)]


def _measured(
    requests: tuple[SpanRequest, ...],
) -> Iterator[tuple[SpanRequest, list[SpanValues]]]:
    small: list[SpanRequest] = []
    for request in requests:
        if _is_small(request):
            small.append(request)
            continue
        yield from _measure_small(small)
        small = []
        if all(isinstance(source, FileSpan) for source in request.sources):
            yield request, _measure_one(request)
        else:
            yield from _measure_streamed(request)
    yield from _measure_small(small)


def _is_small(request: SpanRequest) -> bool:
    """Whether the span is few bytes at every step, so that neighbours are read together."""
    if request.start:
        return False
    return all(isinstance(s, FileSpan) and 0 < s.nbytes <= SMALL for s in request.sources)


def _measure_small(
    requests: list[SpanRequest],
) -> Iterator[tuple[SpanRequest, list[SpanValues]]]:
    """Measure small tensors a step at a time: those of one file lie side by side."""
    import numpy as np

    from ckptkit.dtypes import numpy_dtype

    meters = [_SpanMeter(request, own=True) for request in requests]
    found: list[list[SpanValues]] = [[] for _ in requests]
    for at in range(max((len(request.sources) for request in requests), default=0)):
        reads = SmallReadCache()
        for index, request in enumerate(requests):
            if at >= len(request.sources):
                continue
            source = request.sources[at]
            assert isinstance(source, FileSpan)
            try:
                data = reads.read(source.path, source.offset, source.nbytes)
                if data is None:
                    Extent(source.path, source.offset, source.nbytes)  # raises what is wrong
                    raise CkptkitError("cannot be read", where=str(source.path))
            except CkptkitError as error:
                if at >= request.known:
                    found[index].append(SpanValues(0, problem=error))
                continue
            values = np.frombuffer(data, numpy_dtype(source.dtype))
            crc = int(_crc32c.extend(0, data))
            result = meters[index].add(values, crc, measured=at >= request.known)
            if result is not None:
                found[index].append(result)
    yield from zip(requests, found, strict=True)


def _measure_one(request: SpanRequest) -> list[SpanValues]:
    """Measure a large span, a step after the other."""
    meter, found = _SpanMeter(request, own=False), []
    for at, source in enumerate(request.sources):
        is_measured = at >= request.known
        assert isinstance(source, FileSpan)
        try:
            values, crc = _read(source, request)
        except CkptkitError as error:
            if is_measured:
                found.append(SpanValues(0, problem=error))
            continue
        result = meter.add(values, crc, measured=is_measured)
        if result is not None:
            found.append(result)
    return found


def _measure_streamed(
    request: SpanRequest,
) -> Iterator[tuple[SpanRequest, list[SpanValues]]]:
    """Measure a whole tensor that its store has to read, span by span, all steps side by side."""
    parts = [
        request._replace(start=start, stop=stop)
        for start, stop in spans_of(request.stop, request.columns)
    ]
    streams = [_stream(source, parts) for source in request.sources]
    problems: dict[int, CkptkitError] = {}
    for part in parts:
        meter, found = _SpanMeter(part, own=False), []
        for at, stream in enumerate(streams):
            result: SpanValues | None = None
            if at not in problems:
                try:
                    values, crc = next(stream)
                    result = meter.add(values, crc, measured=at >= request.known)
                except CkptkitError as error:
                    problems[at] = error
            if at in problems:
                result = SpanValues(0, problem=problems[at])
            if at >= request.known:
                assert result is not None
                found.append(result)
        yield part, found


def _stream(source: TensorSource, parts: Sequence[SpanRequest]) -> Iterator[tuple[Array, int]]:
    """Yield values and crc of one span after the other; the last comes when all was verified."""
    if isinstance(source, FileSpan):
        for part in parts:
            yield _read(source, part)
        return
    import numpy as np

    blocks = source.store.blocks(source.key, SPAN)
    rest: Array | None = None
    for index, part in enumerate(parts):
        wanted, pieces = part.stop - part.start, []
        while wanted:
            if rest is None or not len(rest):
                rest = next(blocks)[1]
            pieces.append(rest[:wanted].copy())
            rest = rest[wanted:]
            wanted -= len(pieces[-1])
        if index == len(parts) - 1:
            for _ in blocks:  # a stored checksum is compared after the last block
                pass
        values = np.concatenate(pieces) if pieces else np.empty(0)
        yield values, extend_crc(0, values)


def _read(source: FileSpan, request: SpanRequest) -> tuple[Array, int]:
    """Return the values of a span, in a buffer that the next read overwrites, and their crc."""
    import numpy as np

    from ckptkit.dtypes import numpy_dtype

    count = request.stop - request.start
    if not count:
        return np.empty(0, numpy_dtype(source.dtype)), 0
    width = itemsize(source.dtype)
    nbytes = count * width
    buffer = _rows().bytes(nbytes)
    Extent(source.path, source.offset + request.start * width, nbytes).read_into(0, buffer.data)
    unlocked = _crc32c.unlocked_extend()
    if unlocked is not None:
        crc = unlocked(0, buffer.ctypes.data, nbytes)
    else:
        crc = int(_crc32c.extend(0, buffer))
    return np.frombuffer(buffer.data, numpy_dtype(source.dtype)), crc


class _Rows(threading.local):
    """Rows of float64 that one thread reuses."""

    def __init__(self) -> None:
        self._bytes: Array | None = None
        self._rows: list[Array] = []

    def bytes(self, nbytes: int) -> Array:
        """Return so many bytes to read into."""
        if self._bytes is None or len(self._bytes) < nbytes:
            self._bytes = aligned_buffer(max(nbytes, 16 * SPAN))
        return self._bytes[:nbytes]

    def rows(self) -> list[Array]:
        """Return four rows: of values and of updates, of this step and of the one before."""
        import numpy as np

        if not self._rows:
            self._rows = [aligned_buffer(8 * SPAN).view(np.float64) for _ in range(4)]
        return self._rows


_thread = _Rows()


def _rows() -> _Rows:
    return _thread


class _SpanMeter:
    """Measures one span at one step after the other.

    own: whether it keeps rows of its own, as one of several that take turns.
    """

    def __init__(self, request: SpanRequest, *, own: bool) -> None:
        import numpy as np

        count = request.stop - request.start
        if own or count > SPAN:
            self.rows = list(np.empty((4, count)))
        else:
            self.rows = [row[:count] for row in _rows().rows()]
        self.columns = min(request.columns, count) if count else 0
        if self.columns and count % self.columns:
            self.columns = 0
        self.keeps_columns = 0 < request.columns <= MAX_COLUMNS
        self.compiled = compiled_step()
        self.addresses = [row.ctypes.data for row in self.rows]
        self.sums = np.empty((2, self.columns))
        self.seen = 0  # steps that `rows` hold: values of the last, its update if more than one

    def add(self, stored: Array, crc: int, *, measured: bool) -> SpanValues | None:
        """Take the next step's values; return what there is to say of them, if it is wanted."""
        import numpy as np

        if stored.dtype.kind == "c":
            stored = np.abs(stored)
        values, before, update, update_before = self.rows
        if measured and self.compiled is not None:
            found = self._add_compiled(stored, crc)
            if found is not None:
                return found
        np.copyto(values, stored, casting="unsafe")
        if not measured:
            self._follow(values, before, update)
            return None
        squares, column_squares = self._squares(values)
        is_finite = math.isfinite(squares) or bool(np.isfinite(values).all())
        found = self._moments(stored, values, squares, column_squares, is_finite)
        changes = turns = math.nan
        still = None
        if self.seen:
            np.subtract(values, before, out=update)
            changes, column_changes = self._squares(update)
            if not math.isfinite(changes):
                # what is not finite on a side has no difference; the rest does
                update[~np.isfinite(update)] = 0.0
                changes, column_changes = self._squares(update)
            if column_changes is not None:
                still = np.packbits(self._zero_columns(update, column_changes))
            if self.seen > 1:
                turns = float(np.einsum("i,i->", update, update_before))
        zero = None
        if column_squares is not None:
            zero = np.packbits(self._zero_columns(values, column_squares))
        self._turn()
        return found._replace(
            changes=changes,
            turns=turns,
            crc=crc,
            nbytes=stored.nbytes,
            zero_columns=zero,
            still_columns=still,
            column_squares=column_squares if self.keeps_columns else None,
        )

    def _add_compiled(self, stored: Array, crc: int) -> SpanValues | None:
        """Do the same in one compiled pass; None where that cannot be."""
        import numpy as np

        code = dtype_code(stored.dtype.name)
        n = len(stored)
        if code is None or not n or self.compiled is None:
            return None
        values, _before, update, _update_before = self.rows
        sums, places = self.sums.copy() if self.keeps_columns else self.sums, self.addresses
        block = StepBlock(
            *(stored.ctypes.data, places[0], places[2], sums[0].ctypes.data, sums[1].ctypes.data),
            places[1] if self.seen else None,
            places[3] if self.seen > 1 else None,
            n,
            self.columns,
            code,
        )
        if not self.compiled(ctypes.addressof(block)):
            return None
        mean = block.total / n
        deviations = block.squares - n * mean * mean
        if not block.squares < 64 * deviations:  # as in `_moments`
            deviations = float(np.square(values - mean).sum())
        low, high = block.low, block.high
        if stored.dtype.kind in "iu":
            low, high = int(low), int(high)
        zero = still = None
        if self.columns:
            zero = np.packbits(self._zero_columns(values, sums[0]))
            if self.seen:
                still = np.packbits(self._zero_columns(update, sums[1]))
        found = SpanValues(
            n,
            *(0, 0, block.zeros, low, high, block.total, mean, deviations, block.squares),
            changes=block.changes if self.seen else math.nan,
            turns=block.turns if self.seen > 1 else math.nan,
            crc=crc,
            nbytes=stored.nbytes,
            zero_columns=zero,
            still_columns=still,
            column_squares=sums[0] if self.keeps_columns and self.columns else None,
        )
        self._turn()
        return found

    def _follow(self, values: Array, before: Array, update: Array) -> None:
        import numpy as np

        if self.seen:
            np.subtract(values, before, out=update)
            update[~np.isfinite(update)] = 0.0
        self._turn()

    def _turn(self) -> None:
        """Make this step's values and update those of the step before."""
        values, before, update, update_before = self.rows
        self.rows = [before, values, update_before, update]
        a, b, c, d = self.addresses
        self.addresses = [b, a, d, c]
        self.seen += 1

    def _squares(self, row: Array) -> tuple[float, Array | None]:
        """Return the sum of squares of a row, and by column."""
        import numpy as np

        if not self.columns:
            return float(np.einsum("i,i->", row, row)), None
        matrix = row.reshape(-1, self.columns)
        sums = np.einsum("ij,ij->j", matrix, matrix)
        return float(sums.sum()), sums

    def _zero_columns(self, row: Array, sums: Array) -> Array:
        """Return which columns are all zeros; the square of a small number may be 0, too."""
        zero: Array = sums == 0.0
        if zero.any():
            zero &= ~row.reshape(-1, self.columns).any(axis=0)
        return zero

    def _moments(
        self,
        stored: Array,
        values: Array,
        squares: float,
        column_squares: Array | None,
        is_finite: bool,
    ) -> SpanValues:
        import numpy as np

        n = len(values)
        if not n:
            return SpanValues(0)
        exact = stored if stored.dtype.isbuiltin == 1 else values
        n_zero = int(np.count_nonzero(exact == 0))  # of floats faster than to count the others
        n_nan = n_inf = 0
        finite, finite_values = exact, values
        if not is_finite:
            mask = np.isfinite(values)
            n_nan = int(np.count_nonzero(np.isnan(values)))
            n_inf = n - int(np.count_nonzero(mask)) - n_nan
            finite, finite_values = exact[mask], values[mask]
            if not len(finite):
                return SpanValues(n, n_nan, n_inf, n_zero)
            squares = float(np.einsum("i,i->", finite_values, finite_values))
            if column_squares is not None:
                bare = np.where(mask, values, 0.0).reshape(-1, self.columns)
                column_squares[:] = np.einsum("ij,ij->j", bare, bare)
        total = float(finite_values.sum())
        count = len(finite_values)
        mean = total / count
        deviations = squares - count * mean * mean
        if not squares < 64 * deviations:  # what is left of a difference of two large numbers
            deviations = float(np.square(finite_values - mean).sum())
        low, high = finite.min().item(), finite.max().item()
        return SpanValues(n, n_nan, n_inf, n_zero, low, high, total, mean, deviations, squares)


class TensorSums:
    """Joins the spans of one tensor at one step, in their order."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.n = self.n_nan = self.n_inf = self.n_zero = self.count = 0
        self.low, self.high = math.inf, -math.inf
        self.total = self.mean = self.deviations = self.squares = 0.0
        self.changes = self.turns = 0.0
        self.crc = 0
        self.problem: CkptkitError | None = None
        self.zero = self.still = self.column_squares = None  # type: Any

    def add(self, span: SpanValues, start: int) -> None:
        """Add the span that begins at the element `start`."""
        if span.problem is not None:
            self.problem = self.problem or span.problem
            return
        self.crc = _crc32c.combine(self.crc, span.crc, span.nbytes) if start else span.crc
        self.n += span.n
        self.n_nan += span.n_nan
        self.n_inf += span.n_inf
        self.n_zero += span.n_zero
        self.low, self.high = min(self.low, span.low), max(self.high, span.high)
        self.changes += span.changes
        self.turns += span.turns
        count = span.n - span.n_nan - span.n_inf
        if count:
            # Chan, Golub, LeVeque 1979, equation 2.1, as in `ckptkit.operations.statistics`
            both = self.count + count
            apart = span.mean - self.mean
            self.deviations += span.deviations + apart * apart * self.count * (count / both)
            self.total += span.total
            self.mean = self.total / both
            self.squares += span.squares
            self.count = both
        self._add_columns(span, start)

    def _add_columns(self, span: SpanValues, start: int) -> None:
        import numpy as np

        if not self.columns or span.zero_columns is None:
            return
        if self.zero is None:
            self.zero = np.ones(self.columns, bool)
            self.still = np.ones(self.columns, bool)
        first = start % self.columns
        width = min(span.n, self.columns)
        here = slice(first, first + width)
        self.zero[here] &= np.unpackbits(span.zero_columns, count=width).astype(bool)
        if span.still_columns is None:
            self.still[here] = False
        else:
            self.still[here] &= np.unpackbits(span.still_columns, count=width).astype(bool)
        if span.column_squares is not None:
            if self.column_squares is None:
                self.column_squares = np.zeros(self.columns)
            self.column_squares[here] += span.column_squares

    def statistics(self) -> Statistics:
        """Return the statistics of the whole tensor."""
        counts = self.n, self.n_nan, self.n_inf, self.n_zero
        if not self.count:
            return Statistics(*counts, math.nan, math.nan, math.nan, math.nan, math.nan)
        std = math.sqrt(max(self.deviations, 0.0) / self.count)
        norm = math.sqrt(self.squares)
        return Statistics(*counts, self.low, self.high, self.mean, std, norm)

    def zero_units(self) -> int:
        """Return a bit for each column of zeros; 0 where all or none are."""
        return _mask(self.zero)

    def still_units(self) -> int:
        """Return a bit for each column that did not change; 0 where all or none did not."""
        return _mask(self.still)

    def saturated_units(self, times: float) -> int:
        """Return how many columns have a norm of more than `times` the median of all."""
        import numpy as np

        if self.column_squares is None:
            return 0
        norms = np.sqrt(self.column_squares)
        median = float(np.median(norms))
        return int(np.count_nonzero(norms > times * median)) if median > 0 else 0


def _mask(flags: Any) -> int:
    """Return booleans as the bits of a number, the first as the lowest."""
    if flags is None or flags.all() or not flags.any():
        return 0
    import numpy as np

    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")
