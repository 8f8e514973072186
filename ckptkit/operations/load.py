"""`load`: every tensor in memory, every checksum compared.

Tensors that lie in the file as plain bytes with a crc32c are read by parts, a large one by several
threads, and the checksums of the parts are joined.  All others come from their store's `blocks`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from ckptkit import _crc32c
from ckptkit._crc_combine import combine
from ckptkit._files import Extent
from ckptkit._memory import fresh_buffer
from ckptkit._pool import bounded_map
from ckptkit.checkpoint import open as open_checkpoint
from ckptkit.dtypes import kind, numpy_dtype
from ckptkit.errors import ChecksumError
from ckptkit.operations.select import Selection

if TYPE_CHECKING:
    from ckptkit.stores.base import Array, Store, TensorSpec

PART_BYTES = 1 << 24  # one work item: so large that threads rarely wait for each other
STEP_BYTES = 1 << 18  # read and checksum in steps that stay in a core's cache
MAX_BATCH = 256  # small tensors in one work item
MAX_JOBS = 8  # more threads than that only queue for the memory


def load(
    path: str | os.PathLike[str],
    *,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    jobs: int | None = None,
) -> dict[str, Array]:
    """Return {readable name: array} of all tensors (or of those that pass the filter).

    Arrays have the file's dtype and shape and are the caller's own; opaque tensors are left out.
    Every stored checksum is compared on the way.  jobs: threads, by default one per processor.
    Raises ChecksumError, TruncatedError, and what `ckptkit.open` raises.
    """
    checkpoint = open_checkpoint(path)
    selected = Selection(roles, names).of(checkpoint)
    tensors = [tensor for tensor in selected if kind(tensor.spec.dtype) != "opaque"]
    jobs = jobs or min(os.cpu_count() or 1, MAX_JOBS)
    loading = _Loading(checkpoint.store)
    batches = loading.batches([tensor.spec for tensor in tensors])
    with ThreadPoolExecutor(jobs) as pool:
        for _ in bounded_map(pool, loading.read, batches, window=4 * jobs):
            pass
    return {naming.name: loading.finished(spec) for spec, naming in tensors}


class _Part(NamedTuple):
    """Bytes [start, start + len(raw)) of a tensor; with no `raw`, the tensor whole."""

    spec: TensorSpec
    nbytes: int
    start: int = 0
    raw: Array | None = None
    source: Extent | None = None


class _Loading:
    """The arrays of one `load` by key, and (nbytes, crc32c) of their parts by key and start."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._arrays: dict[str, Array] = {}
        self._crcs: dict[str, dict[int, tuple[int, int]]] = {}

    def batches(self, specs: Sequence[TensorSpec]) -> Iterator[list[_Part]]:
        """Yield work items of about PART_BYTES; memory is made when its turn comes."""
        batch: list[_Part] = []
        nbytes = 0
        for spec in specs:
            for part in self._parts(spec):
                if batch and (nbytes + part.nbytes > PART_BYTES or len(batch) >= MAX_BATCH):
                    yield batch
                    batch, nbytes = [], 0
                batch.append(part)
                nbytes += part.nbytes
        if batch:
            yield batch

    def _parts(self, spec: TensorSpec) -> Iterator[_Part]:
        if spec.shard is None or spec.offset is None or spec.crc32c is None or not spec.nbytes:
            yield _Part(spec, spec.nbytes)
            return
        if not self._store.mappable(spec.key):
            yield _Part(spec, spec.nbytes)
            return
        source = Extent(self._store.shards[spec.shard], spec.offset, spec.nbytes)
        raw = fresh_buffer(spec.nbytes)
        self._arrays[spec.key] = raw.view(numpy_dtype(spec.dtype)).reshape(spec.shape)
        self._crcs[spec.key] = {}
        for start in range(0, spec.nbytes, PART_BYTES):
            piece = raw[start : start + PART_BYTES]
            yield _Part(spec, len(piece), start, piece, source)

    def read(self, batch: Sequence[_Part]) -> None:
        """Carry out one work item, in whichever thread."""
        for spec, nbytes, start, raw, source in batch:
            if raw is None or source is None:
                self._arrays[spec.key] = _whole(self._store, spec)
            else:
                self._crcs[spec.key][start] = nbytes, _fill(raw, source, start)

    def finished(self, spec: TensorSpec) -> Array:
        """Return the array, its parts' checksums joined and compared; raises ChecksumError."""
        parts = self._crcs.get(spec.key)
        if parts is not None:
            crcs = [crc for _start, crc in sorted(parts.items())]
            _, crc = reduce(lambda a, b: (a[0] + b[0], combine(a[1], b[1], b[0])), crcs)
            if crc != spec.crc32c:
                assert spec.shard is not None and spec.crc32c is not None
                raise ChecksumError(
                    f"{self._store.shards[spec.shard]}: {spec.key}",
                    "checksum of the stored bytes",
                    expected=f"{spec.crc32c:#010x}",
                    found=f"{crc:#010x}",
                    hint="the data file is damaged, or belongs to another save than the index",
                )
        return self._arrays[spec.key]


def _fill(raw: Array, source: Extent, start: int) -> int:
    """Fill `raw` from byte `start` of its tensor; return the crc32c of the bytes."""
    view, crc = raw.data, 0
    for at in range(0, len(raw), STEP_BYTES):
        source.read_into(start + at, view[at : at + STEP_BYTES])
        crc = _crc32c.extend(crc, raw[at : at + STEP_BYTES])
    return crc


def _whole(store: Store, spec: TensorSpec) -> Array:
    """Return one tensor whole: a store that can yields it as one block, which is then ours."""
    import numpy as np

    blocks = list(store.blocks(spec.key, max_elements=max(1, spec.size)))
    if len(blocks) == 1:
        return blocks[0][1].reshape(spec.shape)
    out = np.empty(spec.size, numpy_dtype(spec.dtype))
    for start, values in store.blocks(spec.key):
        out[start : start + len(values)] = values
    return out.reshape(spec.shape)
