"""How the comparison of many tensors is cut into work items, and one item is done.

A tensor whose bytes lie side by side in native order (bundles, safetensors, most of HDF5 and npz)
is read with plain positional reads into a small reused buffer, and may be cut into spans that are
worked on at once: the checksums of the spans are then joined (`crc_combine`).  Anything else goes
through `Store.blocks`, in one item.

Equal bytes are the common case and need neither arithmetic nor a second checksum: a span is first
compared as bytes, and measured only if that finds a difference.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io import crc32c as _crc32c
from ckptkit._io import files
from ckptkit._io.file_states import is_local
from ckptkit._io.read_buffer import ReadBuffer
from ckptkit._io.small_reads import SMALL, SmallReadCache
from ckptkit.compare.kernel import CompiledMeter, FileValues, compiled_meter
from ckptkit.compare.statistics import (
    EXACT,
    METRIC_BLOCK,
    DiffStatistics,
    ElementTolerance,
    element_tolerance,
)
from ckptkit.dtypes import itemsize

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store

READ_BYTES = 1 << 18  # two such buffers stay in a core's second-level cache
SPAN_ELEMENTS = 1 << 22  # one work item: 16 MiB of float32


class FileSpan(NamedTuple):
    """Values that lie side by side in a file, in native order."""

    path: Path
    offset: int
    nbytes: int
    dtype: str
    crc32c: int | None


class StreamedValues(NamedTuple):
    """Values that only the store itself can read."""

    store: Store
    key: str
    dtype: str


TensorSource = FileSpan | StreamedValues


class WorkItem(NamedTuple):
    """Elements [start, stop) of the pair numbered `pair`.

    task: "equality" (bytes first, measure on a difference), "metrics" (measure at once) or
    "norm" (the bytes are known to be equal: only the sum of squares is missing).
    """

    pair: int
    old: TensorSource
    new: TensorSource
    start: int
    stop: int
    task: str
    tolerance: ElementTolerance
    bitwise: bool


class WorkResult(NamedTuple):
    """What one item gave: statistics (None: equal bytes, not measured) and both checksums.

    The checksums are of the item's bytes; None where nothing was read of that side.
    """

    pair: int
    start: int
    stop: int
    statistics: DiffStatistics | None
    old_crc: int | None
    new_crc: int | None


def source_of(store: Store, key: str) -> TensorSource:
    """Return how the values of `key` are read."""
    spec = store.specs[key]
    width = itemsize(spec.dtype)
    offset, shard = spec.offset, spec.shard
    if offset is None or shard is None or not store.mappable(key):
        return StreamedValues(store, key, spec.dtype)
    if spec.nbytes != spec.size * width:
        return StreamedValues(store, key, spec.dtype)
    return FileSpan(store.shards[shard], offset, spec.nbytes, spec.dtype, spec.crc32c)


class _ThreadBuffers(threading.local):
    def __init__(self) -> None:
        self.small: tuple[ReadBuffer, ReadBuffer] | None = None
        self.large: tuple[ReadBuffer, ReadBuffer] | None = None

    def pair(self) -> tuple[ReadBuffer, ReadBuffer]:
        """Return two buffers of READ_BYTES."""
        if self.small is None:
            self.small = ReadBuffer(READ_BYTES), ReadBuffer(READ_BYTES)
        return self.small

    def blocks(self) -> tuple[ReadBuffer, ReadBuffer]:
        """Return two buffers that hold one block of metrics of the widest dtype (16 bytes)."""
        if self.large is None:
            self.large = ReadBuffer(16 * METRIC_BLOCK), ReadBuffer(16 * METRIC_BLOCK)
        return self.large


_thread = _ThreadBuffers()


def do_items(items: tuple[WorkItem, ...]) -> list[WorkResult]:
    """Do several items, one after the other; small neighbours in a file are read together."""
    small_reads = SmallReadCache() if len(items) > 1 else None
    return [
        (_compare_small(item, small_reads) if small_reads else None) or _do_item(item)
        for item in items
    ]


def _compare_small(item: WorkItem, small_reads: SmallReadCache) -> WorkResult | None:
    """Return the result where the bytes are few, and equal."""
    old, new = item.old, item.new
    if item.task != "equality" or not isinstance(old, FileSpan) or not isinstance(new, FileSpan):
        return None
    if not 0 < old.nbytes <= SMALL or old.nbytes != new.nbytes:
        return None
    data = small_reads.read(old.path, old.offset, old.nbytes)
    if data is None or data != small_reads.read(new.path, new.offset, new.nbytes):
        return None
    crc = _crc32c.extend(0, data)
    return WorkResult(item.pair, item.start, item.stop, None, crc, crc)


def _do_item(item: WorkItem) -> WorkResult:
    old, new = item.old, item.new
    if isinstance(old, FileSpan) and isinstance(new, FileSpan):
        if item.task == "norm":
            return _sum_of_squares(item, old)
        if item.task == "equality":
            width = itemsize(old.dtype)
            crc = equal_bytes(old, new, item.start * width, item.stop * width)
            if crc is not None:
                return WorkResult(item.pair, item.start, item.stop, None, crc, crc)
    return _measure(item)


def equal_bytes(old: FileSpan, new: FileSpan, start: int, stop: int) -> int | None:
    """Return the crc32c of bytes [start, stop) if they are the same in both files, else None."""
    left, right = _thread.pair()
    old_extent = files.Extent(old.path, old.offset + start, stop - start)
    new_extent = files.Extent(new.path, new.offset + start, stop - start)
    crc = 0
    for at in range(0, stop - start, READ_BYTES):
        count = min(READ_BYTES, stop - start - at)
        old_extent.read_into(at, left.view[:count])
        new_extent.read_into(at, right.view[:count])
        if not left.equals(right, count):
            return None
        crc = left.crc(crc, count)
    return crc


def _measure(item: WorkItem) -> WorkResult:
    """Measure in one pass in C where that is possible, else in blocks of arrays."""
    limits = element_tolerance(item.old.dtype, item.new.dtype, item.tolerance, item.bitwise)
    meter = None if item.bitwise else compiled_meter(item.old.dtype, item.new.dtype, limits)
    extend = _crc32c.extend_address()
    if (
        meter
        and extend
        and isinstance(item.old, FileSpan)
        and isinstance(item.new, FileSpan)
        and is_local(item.old.path)
        and is_local(item.new.path)
    ):
        return _measure_files(item, item.old, item.new, meter, extend)
    return _measure_arrays(item)


def _measure_files(
    item: WorkItem, old: FileSpan, new: FileSpan, meter: CompiledMeter, extend: int
) -> WorkResult:
    size = item.stop - item.start
    buffers, crcs = _thread.blocks(), (ctypes.c_uint32 * 2)()
    extents = [_extent_of(span, item) for span in (old, new)]
    widths = [itemsize(span.dtype) for span in (old, new)]
    statistics = DiffStatistics()
    at = 0
    while at < size:
        left, right = (
            FileValues(extent.descriptor, extent.offset + at * width)
            for extent, width in zip(extents, widths, strict=True)
        )
        done, status = meter.add_files(
            statistics,
            item.start + at,
            left,
            right,
            size - at,
            (buffers[0].address, buffers[1].address),
            crcs,
            extend,
        )
        for extent in extents:
            extent.check_still()
        at += done
        if not status:
            break
        # One block by numpy; where it could not be read, reading it here says why.
        count = min(METRIC_BLOCK, size - at)
        if status == 2:
            for side, (extent, width) in enumerate(zip(extents, widths, strict=True)):
                extent.read_into(at * width, buffers[side].view[: count * width])
                crcs[side] = buffers[side].crc(crcs[side], count * width)
        _add_block(statistics, item, item.start + at, count)
        at += count
    return WorkResult(item.pair, item.start, item.stop, statistics, crcs[0], crcs[1])


def _add_block(statistics: DiffStatistics, item: WorkItem, start: int, count: int) -> None:
    """Measure the block that the buffers of this thread hold, with numpy."""
    import numpy as np

    from ckptkit.compare.metrics import Meter
    from ckptkit.dtypes import numpy_dtype

    meter = Meter(item.old.dtype, item.new.dtype, item.tolerance, item.bitwise)
    meter.statistics = statistics
    old, new = (
        np.frombuffer(buffer.data, numpy_dtype(source.dtype), count)
        for buffer, source in zip(_thread.blocks(), (item.old, item.new), strict=True)
    )
    meter.add(start, old, new)


def _extent_of(span: FileSpan, item: WorkItem) -> files.Extent:
    """Return the bytes of an item's elements."""
    width = itemsize(span.dtype)
    first = span.offset + item.start * width
    return files.Extent(span.path, first, (item.stop - item.start) * width)


def _measure_arrays(item: WorkItem) -> WorkResult:
    from ckptkit.compare.metrics import Meter

    meter = Meter(item.old.dtype, item.new.dtype, item.tolerance, item.bitwise)
    old, new = _ValueStream(item.old, item, 0), _ValueStream(item.new, item, 1)
    left, right = iter(old), iter(new)
    for start, a, b in _lockstep(left, right, item.start):
        if a is not None and b is not None:
            meter.add(start, a, b)
            continue
        # Opaque values need not be of one length: what one side has alone differs.
        extra = len(b if a is None else a)  # type: ignore[arg-type]
        meter.statistics.n_diff += extra
        meter.statistics.n_outside += extra
    return WorkResult(item.pair, item.start, item.stop, meter.statistics, old.crc, new.crc)


def _lockstep(
    left: Iterator[Array], right: Iterator[Array], start: int
) -> Iterator[tuple[int, Array | None, Array | None]]:
    """Yield (start, a, b) of equal length from streams that are not cut at the same places.

    Where one stream is longer, its rest comes with None for the other.
    """
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        n = min(len(x) for x in (a, b) if x is not None)
        yield start, None if a is None else a[:n], None if b is None else b[:n]
        start += n
        # A used-up block is let go before the next is read: its buffer may be reused.
        if a is not None:
            a = a[n:] if n < len(a) else next(left, None)
        if b is not None:
            b = b[n:] if n < len(b) else next(right, None)


def differences(old: TensorSource, new: TensorSource, size: int) -> Iterator[Array]:
    """Yield new - old in float64, block by block; for tensors of numbers."""
    import numpy as np

    item = WorkItem(0, old, new, 0, size, "metrics", EXACT, False)
    left, right = iter(_ValueStream(old, item, 0)), iter(_ValueStream(new, item, 1))
    for _, a, b in _lockstep(left, right, 0):
        if a is not None and b is not None:
            with np.errstate(all="ignore"):
                yield b.astype(np.float64) - a.astype(np.float64)


class _ValueStream:
    """One pass over the values of an item, with their checksum."""

    def __init__(self, source: TensorSource, item: WorkItem, side: int) -> None:
        self.source = source
        self.start, self.stop = item.start, item.stop
        self.crc = 0
        self._side = side

    def __iter__(self) -> Iterator[Array]:
        return (
            self._from_file(self.source)
            if isinstance(self.source, FileSpan)
            else self._from_store(self.source)
        )

    def _from_file(self, span: FileSpan) -> Iterator[Array]:
        import numpy as np

        from ckptkit.dtypes import numpy_dtype

        buffer, width = _thread.blocks()[self._side], itemsize(span.dtype)
        values = np.frombuffer(buffer.data, numpy_dtype(span.dtype))
        size = self.stop - self.start
        extent = files.Extent(span.path, span.offset + self.start * width, size * width)
        for at in range(0, size, METRIC_BLOCK):
            count = min(METRIC_BLOCK, size - at)
            extent.read_into(at * width, buffer.view[: count * width])
            self.crc = buffer.crc(self.crc, count * width)
            yield values[:count]

    def _from_store(self, source: StreamedValues) -> Iterator[Array]:
        for _, values in source.store.blocks(source.key, METRIC_BLOCK):
            self.crc = extend_crc(self.crc, values)
            yield values


def extend_crc(crc: int, values: Array) -> int:
    """Extend a checksum by values; of numbers it is that of their bytes, as bundles store them."""
    if values.dtype == object:
        for value in values:
            crc = _crc32c.extend(crc, len(value).to_bytes(8, "little") + value)
        return crc
    import numpy as np

    return int(_crc32c.extend(crc, np.ascontiguousarray(values).view(np.uint8)))


def _sum_of_squares(item: WorkItem, span: FileSpan) -> WorkResult:
    """Measure one side against itself."""
    from ckptkit.compare.metrics import Meter

    meter = Meter(span.dtype, span.dtype, item.tolerance)
    for at, values in enumerate(_ValueStream(span, item, 0)):
        meter.add(item.start + at, values, values)
    return WorkResult(item.pair, item.start, item.stop, meter.statistics, None, None)


def span_bounds(size: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of the spans that a tensor of `size` elements is cut into."""
    for start in range(0, size, SPAN_ELEMENTS):
        yield start, min(start + SPAN_ELEMENTS, size)


def batched(items: Iterator[WorkItem], nbytes: int = 0) -> Iterator[tuple[WorkItem, ...]]:
    """Group small items until they are worth handing to another thread; order is preserved.

    nbytes: of OLD, that are worth handing over; at least a span of float32.
    """
    batch: list[WorkItem] = []
    weight = 0
    enough = max(SPAN_ELEMENTS, nbytes // 4)
    for item in items:
        batch.append(item)
        # A tiny tensor costs as much as 4 Ki elements.
        weight += max(item.stop - item.start, 1 << 12)
        if weight >= enough:
            yield tuple(batch)
            batch, weight = [], 0
    if batch:
        yield tuple(batch)


def combined_crc(results: list[WorkResult], width: int, side: int) -> int:
    """Return the checksum of a whole tensor from those of its items; side 0 is old, 1 is new."""
    total: int | None = None
    for result in results:
        crc = (result.old_crc if side == 0 else result.new_crc) or 0
        nbytes = (result.stop - result.start) * width
        total = crc if total is None else _crc32c.combine(total, crc, nbytes)
    return total or 0
