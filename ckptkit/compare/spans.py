"""How the comparison of many tensors is cut into work, and one piece of it done.

A tensor whose bytes lie in one run in native order (bundles, safetensors, most of HDF5 and npz) is
read with plain positional reads into a small reused buffer, and may be cut into spans that are
worked on at once: the checksums of the spans are then joined (`_crc_combine`).  Anything else goes
through `Store.blocks`, in one piece.

Equal bytes are the common case and need neither arithmetic nor a second checksum: a span is first
compared as bytes, and measured only if that finds a difference.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io import crc32c as _crc32c
from ckptkit._io import files as _files
from ckptkit._io.small_reads import SMALL, Windows
from ckptkit.dtypes import itemsize

if TYPE_CHECKING:
    from ckptkit.compare.statistics import Tally, Tolerance
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store

READ_BYTES = 1 << 18  # two such buffers stay in a core's second-level cache
SPAN_ELEMENTS = 1 << 22  # one piece of work: 16 MiB of float32


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Run(NamedTuple):
    """Values that lie in one run of bytes, in native order."""

    path: Path
    offset: int
    nbytes: int
    dtype: str
    crc32c: int | None


class Streamed(NamedTuple):
    """Values that only the store itself can read."""

    store: Store
    key: str
    dtype: str


Source = Run | Streamed


class Piece(NamedTuple):
    """Elements [start, stop) of the pair numbered `pair`.

    want: "equality" (bytes first, measure on a difference), "metrics" (measure at once) or
    "norm" (the bytes are known to be equal: only the sum of squares is missing).
    """

    pair: int
    old: Source
    new: Source
    start: int
    stop: int
    want: str
    tolerance: Tolerance
    bitwise: bool


class Partial(NamedTuple):
    """What one piece gave: a tally (None: equal bytes, not measured) and both checksums.

    The checksums are of the piece's bytes; None where the store has verified its own.
    """

    pair: int
    start: int
    stop: int
    tally: Tally | None
    old_crc: int | None
    new_crc: int | None


def source_of(store: Store, key: str) -> Source:
    """Return how the values of `key` are read."""
    spec = store.specs[key]
    width = itemsize(spec.dtype)
    offset, shard = spec.offset, spec.shard
    if offset is None or shard is None or spec.slices or not width:
        return Streamed(store, key, spec.dtype)
    if spec.nbytes == spec.size * width and store.mappable(key):
        return Run(store.shards[shard], offset, spec.nbytes, spec.dtype, spec.crc32c)
    return Streamed(store, key, spec.dtype)


class _Buffer:
    """Reused bytes of one thread, seen three ways: to read into, to compare, to checksum.

    Anonymous maps start on a page: the kernel copies into them several times faster than into a
    bytearray, which does not.
    """

    def __init__(self, nbytes: int) -> None:
        self.data = mmap.mmap(-1, nbytes)
        self.view = memoryview(self.data)
        # google_crc32c takes no memoryview of writable memory, but does take a ctypes array
        self.whole = (ctypes.c_char * nbytes).from_buffer(self.data)
        self.address = ctypes.addressof(self.whole)

    def crc(self, crc: int, nbytes: int) -> int:
        """Return `crc` extended by the first `nbytes` bytes; other threads run meanwhile."""
        unlocked = _crc32c.unlocked_extend()
        if unlocked is not None:
            return unlocked(crc, self.address, nbytes)
        return int(_crc32c.extend(crc, (ctypes.c_char * nbytes).from_buffer(self.data)))

    def equals(self, other: _Buffer, nbytes: int) -> bool:
        """Whether the first `nbytes` bytes of both are the same; other threads run meanwhile."""
        return bool(_memcmp(self.address, other.address, nbytes) == 0)


class _Local(threading.local):
    def __init__(self) -> None:
        self.small: tuple[_Buffer, _Buffer] | None = None
        self.large: tuple[_Buffer, _Buffer] | None = None

    def pair(self) -> tuple[_Buffer, _Buffer]:
        """Return two buffers of READ_BYTES."""
        if self.small is None:
            self.small = _Buffer(READ_BYTES), _Buffer(READ_BYTES)
        return self.small

    def blocks(self) -> tuple[_Buffer, _Buffer]:
        """Return two buffers that hold one block of metrics of the widest dtype (16 bytes)."""
        from ckptkit.compare.metrics import METRIC_BLOCK

        if self.large is None:
            self.large = _Buffer(16 * METRIC_BLOCK), _Buffer(16 * METRIC_BLOCK)
        return self.large


_local = _Local()


def work(pieces: tuple[Piece, ...]) -> list[Partial]:
    """Do several pieces, one after the other; runs of small ones are read together."""
    windows = Windows() if len(pieces) > 1 else None
    return [(_small(piece, windows) if windows else None) or _work(piece) for piece in pieces]


def _small(piece: Piece, windows: Windows) -> Partial | None:
    """Return the result where the bytes are few, and equal."""
    old, new = piece.old, piece.new
    if piece.want != "equality" or not isinstance(old, Run) or not isinstance(new, Run):
        return None
    if not 0 < old.nbytes <= SMALL or old.nbytes != new.nbytes:
        return None
    data = windows.read(old.path, old.offset, old.nbytes)
    if data is None or data != windows.read(new.path, new.offset, new.nbytes):
        return None
    crc = _crc32c.extend(0, data)
    return Partial(piece.pair, piece.start, piece.stop, None, crc, crc)


def _work(piece: Piece) -> Partial:
    old, new = piece.old, piece.new
    if isinstance(old, Run) and isinstance(new, Run):
        if piece.want == "norm":
            return _norm(piece, old)
        if piece.want == "equality":
            width = itemsize(old.dtype)
            crc = equal_bytes(old, new, piece.start * width, piece.stop * width)
            if crc is not None:
                return Partial(piece.pair, piece.start, piece.stop, None, crc, crc)
    return _measure(piece)


def equal_bytes(old: Run, new: Run, start: int, stop: int) -> int | None:
    """Return the crc32c of bytes [start, stop) if they are the same in both runs, else None."""
    left, right = _local.pair()
    one = _files.Extent(old.path, old.offset + start, stop - start)
    two = _files.Extent(new.path, new.offset + start, stop - start)
    crc = 0
    for at in range(0, stop - start, READ_BYTES):
        count = min(READ_BYTES, stop - start - at)
        one.read_into(at, left.view[:count])
        two.read_into(at, right.view[:count])
        if not left.equals(right, count):
            return None
        crc = left.crc(crc, count)
    return crc


def _measure(piece: Piece) -> Partial:
    from ckptkit.compare.metrics import Meter

    meter = Meter(piece.old.dtype, piece.new.dtype, piece.tolerance, piece.bitwise)
    old, new = _Reading(piece.old, piece, 0), _Reading(piece.new, piece, 1)
    left, right = iter(old), iter(new)
    for start, a, b in _lockstep(left, right, piece.start):
        if a is not None and b is not None:
            meter.add(start, a, b)
            continue
        extra = len(b if a is None else a)  # type: ignore[arg-type]
        meter.tally.n_diff += extra  # opaque values need not be of one length
        meter.tally.n_outside += extra
    return Partial(piece.pair, piece.start, piece.stop, meter.tally, old.crc, new.crc)


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
        # a used-up block is let go before the next is asked for: its buffer may be reused
        if a is not None:
            a = a[n:] if n < len(a) else next(left, None)
        if b is not None:
            b = b[n:] if n < len(b) else next(right, None)


def gaps(old: Source, new: Source, size: int) -> Iterator[Array]:
    """Yield new - old in float64, block by block; for tensors of numbers."""
    import numpy as np

    from ckptkit.compare.statistics import EXACT

    piece = Piece(0, old, new, 0, size, "metrics", EXACT, False)
    left, right = iter(_Reading(old, piece, 0)), iter(_Reading(new, piece, 1))
    for _, a, b in _lockstep(left, right, 0):
        if a is not None and b is not None:
            with np.errstate(all="ignore"):
                yield b.astype(np.float64) - a.astype(np.float64)


class _Reading:
    """One pass over the values of a piece, with their checksum."""

    def __init__(self, source: Source, piece: Piece, side: int) -> None:
        self.source = source
        self.start, self.stop = piece.start, piece.stop
        self.crc = 0
        self._side = side

    def __iter__(self) -> Iterator[Array]:
        return self._run(self.source) if isinstance(self.source, Run) else self._stream(self.source)

    def _run(self, run: Run) -> Iterator[Array]:
        import numpy as np

        from ckptkit.compare.metrics import METRIC_BLOCK
        from ckptkit.dtypes import numpy_dtype

        buffer, width = _local.blocks()[self._side], itemsize(run.dtype)
        values = np.frombuffer(buffer.data, numpy_dtype(run.dtype))
        first, size = run.offset + self.start * width, self.stop - self.start
        extent = _files.Extent(run.path, first, size * width)
        for at in range(0, size, METRIC_BLOCK):
            count = min(METRIC_BLOCK, size - at)
            extent.read_into(at * width, buffer.view[: count * width])
            self.crc = buffer.crc(self.crc, count * width)
            yield values[:count]

    def _stream(self, source: Streamed) -> Iterator[Array]:
        from ckptkit.compare.metrics import METRIC_BLOCK

        for _, values in source.store.blocks(source.key, METRIC_BLOCK):
            self.crc = extend_values(self.crc, values)
            yield values


def extend_values(crc: int, values: Array) -> int:
    """Extend a checksum by values; of numbers it is that of their bytes, as bundles store them."""
    if values.dtype == object:
        for value in values:
            crc = _crc32c.extend(crc, len(value).to_bytes(8, "little") + value)
        return crc
    import numpy as np

    return int(_crc32c.extend(crc, np.ascontiguousarray(values).view(np.uint8)))


def _norm(piece: Piece, run: Run) -> Partial:
    """Measure one side against itself."""
    from ckptkit.compare.metrics import Meter

    meter = Meter(run.dtype, run.dtype, piece.tolerance)
    for at, values in enumerate(_Reading(run, piece, 0)):
        meter.add(piece.start + at, values, values)
    return Partial(piece.pair, piece.start, piece.stop, meter.tally, None, None)


def spans(size: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of the pieces of a tensor of `size` elements."""
    for start in range(0, size, SPAN_ELEMENTS):
        yield start, min(start + SPAN_ELEMENTS, size)


def batches(pieces: Iterator[Piece]) -> Iterator[tuple[Piece, ...]]:
    """Group small pieces until they are worth handing over; order is kept."""
    batch: list[Piece] = []
    weight = 0
    for piece in pieces:
        batch.append(piece)
        weight += max(
            piece.stop - piece.start, 1 << 12
        )  # a tiny tensor costs as much as 4 Ki elements
        if weight >= SPAN_ELEMENTS:
            yield tuple(batch)
            batch, weight = [], 0
    if batch:
        yield tuple(batch)


def combined_crc(partials: list[Partial], width: int, side: int) -> int:
    """Return the checksum of a whole tensor from those of its pieces; side 0 is old, 1 is new."""
    if len(partials) == 1:
        return (partials[0].old_crc if side == 0 else partials[0].new_crc) or 0
    from ckptkit._io.crc_combine_ import combine

    total = 0
    for at, part in enumerate(partials):
        crc = part.old_crc if side == 0 else part.new_crc
        total = crc or 0 if at == 0 else combine(total, crc or 0, (part.stop - part.start) * width)
    return total
