"""The data files of a tensor bundle, every byte read once: checksums, gaps, overlaps, ends.

What lies where is planned from the index: *pieces* (a tensor, or one slice of a partitioned one),
and gaps between them.  The plan is cut into *batches*, neighbouring bytes of one file, which
threads read through one buffer each.  A piece cut in two is put together again by joining its
checksums.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import tee
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
from ckptkit.operations.verify.ranges import (
    DECODED,
    ChecksummedRange,
    PackedRanges,
    Ranges,
    nbytes_of,
    range_of,
)
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs

if TYPE_CHECKING:
    from concurrent.futures import Executor

BATCH_BYTES = 16 << 20  # of one work item
BATCH_PARTS = 1 << 14  # of one; of small tensors there are many to a byte
READ_BYTES = 1 << 18  # read and checksummed while they are in a core's cache
MAX_REPEATED = 4  # overlapping pieces are read again up to this many times the size of the files


class ReadBatch(NamedTuple):
    """Neighbouring (parts of) pieces of one file: (index into the pieces, bytes)."""

    path: Path
    offset: int
    parts: tuple[tuple[int, int], ...]


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
    if isinstance(specs, PackedSpecs):
        return _packed_ranges(specs, len(store.shards))
    shards: list[list[ChecksummedRange]] = [[] for _ in store.shards]
    for spec in specs.values():
        for shard, piece in _slices_of(spec):
            shards[shard].append(piece)
        if not spec.slices and spec.shard is not None and spec.offset is not None:
            shards[spec.shard].append(range_of(spec))
    for pieces in shards:
        pieces.sort(key=lambda piece: (piece.offset, piece.nbytes))
    return shards


def _packed_ranges(specs: PackedSpecs, shards: int) -> list[PackedRanges]:
    found = [PackedRanges(specs) for _ in range(shards)]
    for row, spec in enumerate(specs.values()):
        for shard, piece in _slices_of(spec):
            found[shard].append(piece)
        if not spec.slices and spec.shard is not None and spec.offset is not None:
            found[spec.shard].append_row(row)
    for pieces in found:
        pieces.sort()
    return found


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
    planned: Ranges = PackedRanges(pieces.specs) if isinstance(pieces, PackedRanges) else []
    findings: list[Finding] = []
    end, last, budget = 0, None, MAX_REPEATED * size
    for at, piece in enumerate(pieces):
        stop = piece.offset + piece.nbytes
        if stop > size:
            findings.append(_past_the_end(path, piece, size))
            continue
        if not piece.nbytes:
            if not piece.decoded and piece.crc32c:  # that of no bytes is 0
                findings.append(_empty(path, piece))
            continue
        if piece.offset < end and last is not None:
            findings.append(_overlap(path, last, piece))
            budget -= piece.nbytes
            if budget < 0:
                continue
        elif piece.offset > end:
            planned.append(_gap(end, piece.offset))
        if isinstance(planned, PackedRanges) and isinstance(pieces, PackedRanges):
            planned.append_from(pieces, at)
        else:
            planned.append(piece)
        if stop > end:
            end, last = stop, piece
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
    parts: list[tuple[int, int]] = []
    start = end = 0
    for index, piece in enumerate(plan.pieces):
        if piece.decoded:
            continue
        at, stop = piece.offset, piece.offset + piece.nbytes
        while at < stop:
            is_full = end - start >= BATCH_BYTES or len(parts) >= BATCH_PARTS
            if parts and (at != end or is_full):
                yield ReadBatch(plan.path, start, tuple(parts))
                parts = []
            if not parts:
                start = end = at
            step = min(stop - at, BATCH_BYTES - (end - start))
            parts.append((index, step))
            at = end = at + step
    if parts:
        yield ReadBatch(plan.path, start, tuple(parts))


# --- reading --------------------------------------------------------------------------------------


_thread = threading.local()


def _buffer() -> ReadBuffer:
    """Return this thread's buffer."""
    if not hasattr(_thread, "buffer"):
        _thread.buffer = ReadBuffer(READ_BYTES)
    buffer: ReadBuffer = _thread.buffer
    return buffer


def checksums(batch: ReadBatch) -> list[int]:
    """Return the crc32c of each part of a batch; raises TruncatedError."""
    return _Reader(batch).all()


class _Reader:
    """Reads a batch front to back, a buffer at a time."""

    def __init__(self, batch: ReadBatch) -> None:
        self.batch = batch
        self.total = sum(nbytes for _index, nbytes in batch.parts)
        self.extent = Extent(batch.path, batch.offset, self.total)
        self.buffer: Bytes = _buffer()

    def all(self) -> list[int]:
        crcs: list[int] = []
        loaded = at = 0  # bytes of the batch in the buffer end at `loaded`; `at` have been used
        start = 0
        for _index, nbytes in self.batch.parts:
            crc, left = 0, nbytes
            while left:
                if at == loaded:
                    start, loaded = loaded, loaded + self._load(loaded)
                step = min(left, loaded - at)
                crc = self.buffer.crc(crc, step, at - start)
                at, left = at + step, left - step
            crcs.append(crc)
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


def range_checksums(
    plans: list[ShardPlan], executor: Executor | None, progress: Progress | None = None
) -> Iterator[tuple[ShardPlan, ChecksummedRange, int | CkptkitError]]:
    """Yield (plan, piece, its crc32c) for all pieces that are not decoded, file by file.

    In place of the checksum stands why the bytes cannot be read, if so.
    """
    by_path = {plan.path: plan for plan in plans}
    meter = ProgressMeter(progress, "read", sum(nbytes_of(plan.pieces) for plan in plans))
    # path, piece, bytes left, crc32c so far
    open_piece: tuple[Path, int, int, int | CkptkitError] | None = None
    work, read = tee(batch for plan in plans for batch in batches_of(plan))
    results = batched_map(
        executor,
        _read_batch,
        read,
        lambda batch: sum(nbytes for _index, nbytes in batch.parts),
        lambda batch: _named(by_path, batch),
        sum(nbytes_of(plan.pieces) for plan in plans),
    )
    for batch, crcs in zip(work, results, strict=True):
        plan = by_path[batch.path]
        batch_bytes = 0
        for (index, nbytes), crc in zip(batch.parts, crcs, strict=True):
            piece = plan.pieces[index]
            if open_piece is None or open_piece[:2] != (batch.path, index):
                open_piece = batch.path, index, piece.nbytes, 0
            left = open_piece[2] - nbytes
            joined = _joined(open_piece[3], crc, nbytes) if left + nbytes < piece.nbytes else crc
            open_piece = batch.path, index, left, joined
            batch_bytes += nbytes
            if not left:
                yield plan, piece, joined
                open_piece = None
        meter.add(batch_bytes)


def _named(plans: Mapping[Path, ShardPlan], batch: ReadBatch) -> str:
    """Return what lies in a batch, for a message."""
    pieces = plans[batch.path].pieces
    names = [pieces[index].label for index, _nbytes in batch.parts if pieces[index].key is not None]
    return some_names(names) or f"{batch.path} at byte {batch.offset}"


def _joined(before: int | CkptkitError, crc: int | CkptkitError, nbytes: int) -> int | CkptkitError:
    if isinstance(before, CkptkitError):
        return before
    return crc if isinstance(crc, CkptkitError) else combine(before, crc, nbytes)


def _read_batch(batch: ReadBatch) -> Sequence[int | CkptkitError]:
    """Return the checksums of a batch; where the disk fails, of those parts that can be read."""
    try:
        return checksums(batch)
    except CkptkitError:
        pass
    crcs: list[int | CkptkitError] = []
    offset = batch.offset
    for index, nbytes in batch.parts:
        try:
            crcs += checksums(ReadBatch(batch.path, offset, ((index, nbytes),)))
        except CkptkitError as error:
            crcs.append(error)
        offset += nbytes
    return crcs
