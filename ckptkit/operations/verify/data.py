"""The data files of a tensor bundle, every byte read once: checksums, gaps, overlaps, ends.

What lies where is planned from the index: *pieces* (a tensor, or one slice of a partitioned one),
and gaps between them.  The plan is cut into *batches*, neighbouring bytes of one file, which
threads read through one buffer each.  A piece cut in two is put together again by joining its
checksums.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, tee
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.crc32c import combine
from ckptkit._io.files import Extent, file_size
from ckptkit._io.pool import batched_map, some_names
from ckptkit._io.progress import Progress, ProgressMeter
from ckptkit._io.read_buffer import Bytes, ReadBuffer
from ckptkit._io.read_buffer import lent as lent_bytes
from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Finding
from ckptkit.operations.verify.ranges import DECODED, ChecksummedRange, Ranges, range_of
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs

if TYPE_CHECKING:
    from concurrent.futures import Executor

BATCH_BYTES = 16 << 20  # of one work item
BATCH_PARTS = 1 << 14  # of one; of small tensors there are many to a byte
READ_BYTES = 1 << 18  # read and checksummed while they are in a core's cache
MAX_REPEATED = 4  # overlapping pieces are read again up to this many times the size of the files


class ReadBatch(NamedTuple):
    """Neighbouring pieces of one file, from number `first` on.

    sizes: bytes that are in the batch, of each piece.  before, after: bytes of the first piece that
    are in earlier batches, and of the last one that are in later ones.
    """

    path: Path
    offset: int
    first: int
    sizes: array[int]
    before: int
    after: int

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(self.sizes)


class ShardPlan(NamedTuple):
    """What lies in one data file, by rising offset, gaps filled in; and what is wrong with it."""

    path: Path
    size: int
    pieces: Ranges
    findings: list[Finding]


# --- planning -------------------------------------------------------------------------------------


def ranges_by_shard(store: Store) -> Sequence[Ranges]:
    """Return the pieces in each data file, by offset."""
    specs = store.specs
    packed = specs if isinstance(specs, PackedSpecs) else None
    shards = [Ranges(packed) for _ in store.shards]
    if packed is None:
        for spec in specs.values():
            _add_ranges(shards, spec)
    else:
        add_row = [None if form[3] is None else shards[form[3]].append_row for form in packed.forms]
        for row, form in enumerate(packed.form_of):
            if form < 0:
                _add_ranges(shards, packed.at(row))
            elif (add := add_row[form]) is not None:
                add(row)
    for pieces in shards:
        pieces.sort()
    return shards


def _add_ranges(shards: Sequence[Ranges], spec: TensorSpec) -> None:
    """Add the pieces of a tensor to those of their files."""
    for shard, piece in _slices_of(spec):
        shards[shard].append(piece)
    if not spec.slices and spec.shard is not None and spec.offset is not None:
        shards[spec.shard].append(range_of(spec))


def _slices_of(spec: TensorSpec) -> Iterator[tuple[int, ChecksummedRange]]:
    """Yield (shard, piece) for each slice of a partitioned tensor."""
    for part in spec.slices:
        label = f"{spec.key}, slice at {list(part.start)}"
        decoded = spec.dtype in DECODED
        yield (
            part.shard,
            ChecksummedRange(part.offset, part.nbytes, spec.key, label, part.crc32c, decoded),
        )


def plan_shard(path: Path, pieces: Ranges) -> ShardPlan:
    """Return the pieces that the file holds whole, with gaps between, and what is wrong."""
    size = file_size(path)
    planned = pieces.emptied()
    findings: list[Finding] = []
    end, last, budget = 0, 0, MAX_REPEATED * size
    done = 0  # number of those that are planned or left out
    for at, (offset, nbytes) in enumerate(pieces.places()):
        stop = offset + nbytes
        if offset == end and nbytes and stop <= size:  # as writers lay them, and so most of them
            end, last = stop, at
            continue
        planned.extend(pieces, done, at)
        done = at + 1
        if stop > size:
            findings.append(_past_the_end(path, pieces[at], size))
            continue
        if not nbytes:
            piece = pieces[at]
            if not piece.decoded and piece.crc32c:  # that of no bytes is 0
                findings.append(_empty(path, piece))
            continue
        if offset < end:
            findings.append(_overlap(path, pieces[last], pieces[at]))
            budget -= nbytes
            if budget < 0:
                continue
        else:
            planned.append(_gap(end, offset))
        done = at
        if stop > end:
            end, last = stop, at
    planned.extend(pieces, done, len(pieces))
    if end < size and not any(f.code == "data.truncated" for f in findings):
        planned.append(_gap(end, size))
    if budget < 0:
        message = "tensors overlap so much that not all of them were read"
        findings.append(Finding("error", "data.overlap", path.name, message))
    return ShardPlan(path, size, planned, findings)


def _gap(start: int, stop: int) -> ChecksummedRange:
    return ChecksummedRange(start, stop - start, None, "", None)


def _past_the_end(path: Path, piece: ChecksummedRange, size: int) -> Finding:
    return Finding(
        "error",
        "data.truncated",
        f"{path.name}: {piece.label}",
        f"its bytes {piece.offset} to {piece.offset + piece.nbytes} reach past the end of the "
        f"file at {size}",
        "the file was cut short; copy it again",
        key=piece.key or "",
    )


def _empty(path: Path, piece: ChecksummedRange) -> Finding:
    return Finding(
        "error",
        "tensor.checksum",
        f"{path.name}: {piece.label}",
        f"stored checksum {piece.crc32c:#010x} of an empty tensor, whose checksum is 0",
        key=piece.key or "",
    )


def _overlap(path: Path, one: ChecksummedRange, other: ChecksummedRange) -> Finding:
    stop = min(one.offset + one.nbytes, other.offset + other.nbytes)
    return Finding(
        "error",
        "data.overlap",
        f"{path.name}: {other.label}",
        f"shares bytes {other.offset} to {stop} with {one.label}",
        "no writer does that: the index is forged or damaged",
        key=other.key or "",
    )


def batches_of(plan: ShardPlan) -> Iterator[ReadBatch]:
    """Yield the work on one file: batches of at most BATCH_BYTES and BATCH_PARTS, in order."""
    sizes = array("q")
    first = start = end = before = 0
    pieces = zip(plan.pieces.places(), plan.pieces.are_decoded(), strict=True)
    for index, ((at, nbytes), is_decoded) in enumerate(pieces):
        if is_decoded:
            continue
        stop = at + nbytes
        while at < stop:
            follows = at == end and index <= first + len(sizes)
            is_full = end - start >= BATCH_BYTES or len(sizes) >= BATCH_PARTS
            if sizes and (is_full or not follows):
                after = stop - at if index < first + len(sizes) else 0
                yield ReadBatch(plan.path, start, first, sizes, before, after)
                sizes = array("q")
            if not sizes:
                first, start, end, before = index, at, at, at + nbytes - stop
            step = min(stop - at, BATCH_BYTES - (end - start))
            sizes.append(step)
            at = end = at + step
    if sizes:
        yield ReadBatch(plan.path, start, first, sizes, before, 0)


# --- reading --------------------------------------------------------------------------------------


_thread = threading.local()


def _buffer() -> ReadBuffer:
    """Return this thread's buffer."""
    if not hasattr(_thread, "buffer"):
        _thread.buffer = ReadBuffer(READ_BYTES)
    buffer: ReadBuffer = _thread.buffer
    return buffer


class _Reader:
    """Reads neighbouring pieces of a file front to back, a buffer at a time."""

    def __init__(self, path: Path, offset: int, sizes: Sequence[int]) -> None:
        self.ends = [*accumulate(sizes)]
        self.total = self.ends[-1]
        self.extent = Extent(path, offset, self.total)
        self.buffer: Bytes = _buffer()

    def checksums(self) -> list[int]:
        """Return the crc32c of each piece; raises TruncatedError."""
        crcs: list[int] = []
        start = crc = 0  # crc: of what came before of a piece that has not ended
        while start < self.total:
            loaded = start + self._load(start)
            ended = bisect_right(self.ends, loaded, len(crcs))
            bounds = [end - start for end in self.ends[len(crcs) : ended]]
            rest = 0  # where in the buffer the piece begins that does not end in it
            if bounds:
                crcs.append(self.buffer.crc(crc, bounds[0]))
                crcs += self.buffer.crcs(bounds)
                crc, rest = 0, bounds[-1]
            if start + rest < loaded:
                crc = self.buffer.crc(crc, loaded - start - rest, rest)
            start = loaded
        return crcs

    def _load(self, start: int) -> int:
        """Have the next bytes of the batch in the buffer; return how many."""
        lent = self.extent.lent(start, self.total - start)
        if lent is not None:
            self.buffer = lent_bytes(lent)
            return len(lent)
        if not isinstance(self.buffer, ReadBuffer):
            self.buffer = _buffer()
        count = min(self.total - start, READ_BYTES)
        self.extent.read_into(start, self.buffer.view[:count])
        return count


class RangeChecksums(NamedTuple):
    """Neighbouring pieces of a data file, from number `first` on, and the crc32c of each.

    In place of a checksum stands why the bytes cannot be read, if so.
    """

    plan: ShardPlan
    first: int
    crcs: Sequence[int | CkptkitError]

    def hold(self) -> bool:
        """Whether the pieces are whole tensors that have these checksums."""
        return self.plan.pieces.have(self.first, self.crcs)

    def each(self) -> Iterator[tuple[ChecksummedRange, int | CkptkitError]]:
        """Yield each piece and its checksum."""
        pieces = self.plan.pieces[self.first : self.first + len(self.crcs)]
        return zip(pieces, self.crcs, strict=True)


def range_checksums(
    plans: list[ShardPlan], executor: Executor | None, progress: Progress | None = None
) -> Iterator[RangeChecksums]:
    """Yield the checksums of all pieces that are not decoded, file by file."""
    by_path = {plan.path: plan for plan in plans}
    total = sum(plan.pieces.nbytes for plan in plans)
    meter = ProgressMeter(progress, "read", total)
    work, read = tee(batch for plan in plans for batch in batches_of(plan))
    results = batched_map(
        executor,
        _read_batch,
        read,
        lambda batch: batch.nbytes,
        lambda batch: _named(by_path[batch.path], batch),
        total,
    )
    begun: int | CkptkitError = 0  # checksum of what earlier batches have of a piece
    for batch, (*crcs,) in zip(work, results, strict=True):
        if batch.before:
            crcs[0] = _joined(begun, crcs[0], batch.sizes[0])
        if batch.after:
            begun = crcs.pop()
        if crcs:
            yield RangeChecksums(by_path[batch.path], batch.first, crcs)
        meter.add(batch.nbytes)


def _named(plan: ShardPlan, batch: ReadBatch) -> str:
    """Return what lies in a batch, for a message."""
    pieces = plan.pieces[batch.first : batch.first + len(batch.sizes)]
    names = [piece.label for piece in pieces if piece.key is not None]
    return some_names(names) or f"{batch.path} at byte {batch.offset}"


def _joined(before: int | CkptkitError, crc: int | CkptkitError, nbytes: int) -> int | CkptkitError:
    if isinstance(before, CkptkitError):
        return before
    return crc if isinstance(crc, CkptkitError) else combine(before, crc, nbytes)


def _read_batch(batch: ReadBatch) -> Sequence[int | CkptkitError]:
    """Return the checksums of a batch; where the disk fails, of those pieces that can be read."""
    try:
        return _Reader(batch.path, batch.offset, batch.sizes).checksums()
    except CkptkitError:
        pass
    crcs: list[int | CkptkitError] = []
    offset = batch.offset
    for nbytes in batch.sizes:
        try:
            crcs += _Reader(batch.path, offset, (nbytes,)).checksums()
        except CkptkitError as error:
            crcs.append(error)
        offset += nbytes
    return crcs
