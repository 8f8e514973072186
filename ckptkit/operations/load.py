"""`load`: every tensor in memory, every checksum compared.

Tensors that lie in the file as plain bytes with a crc32c are read by parts, a large one by several
threads, and the checksums of the parts are joined.  All others come from their store's `blocks`.
Without a copy, the memory is the system's own cache of the file, mapped privately.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io import crc32c
from ckptkit._io.crc32c import combine
from ckptkit._io.file_states import is_local
from ckptkit._io.files import Extent, mapped, taking_paths
from ckptkit._io.memory import FreshMemory
from ckptkit._io.pool import bounded_map
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.selection import Selection
from ckptkit.dtypes import kind, numpy_dtype
from ckptkit.errors import ChecksumError
from ckptkit.stores.archive_checksums import ArchiveChecksums
from ckptkit.stores.base import shaped
from ckptkit.stores.following import following_latest

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store, TensorSpec

PART_BYTES = 1 << 24  # one work item: so large that threads rarely wait for each other
STEP_BYTES = 1 << 18  # read and checksum in steps that stay in a core's cache
MAX_BATCH = 256  # small tensors in one work item
SLOW_BYTES_PER_S = 1e9  # a part read slower than that stops the asking for huge pages
MAX_JOBS = 8  # more threads than that only queue for the memory


@taking_paths
@following_latest
def load(
    path: str | os.PathLike[str],
    *,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    jobs: int | None = None,
    copy: bool = True,
) -> dict[str, Array]:
    """Read all tensors (or those that pass the filter) into memory.

    Every stored checksum is compared on the way.

    Args:
        path: as `ckptkit.open` takes it.
        roles: which to read, of "weight", "slot", "ema", "counter", "metric", "table", "config",
            "other"; all by default.
        names: globs over readable names, keys and full names; "!GLOB" leaves out.
        jobs: threads, by default one per processor, eight at most.
        copy: False gives private views of the mapped file where its layout allows, in a third of
            the time and memory: writing to an array does not touch the file, but the file must not
            be cut short or written over in place while arrays live (replacing or deleting it is
            harmless).

    Returns:
        {readable name: array} in the file's dtypes and shapes, the caller's own; opaque tensors are
        left out.

    Raises:
        ChecksumError: the stored bytes are not those that were written.
        TruncatedError: a data file is cut short.
        UsageError: no such role, or the filter leaves nothing.
        ChangedError: a file was replaced or written to, time after time, while it was read.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    checkpoint = open_checkpoint(path)
    selected = Selection(roles, names).of(checkpoint)
    tensors = [tensor for tensor in selected if kind(tensor.spec.dtype) != "opaque"]
    keys = [tensor.spec.key for tensor in tensors]
    ArchiveChecksums().compare(checkpoint.store, keys, is_part=bool(names or roles))
    jobs = jobs or min(os.cpu_count() or 1, MAX_JOBS)
    loader = _Loader(checkpoint.store, copy)
    batches = loader.batches([tensor.spec for tensor in tensors])
    with ThreadPoolExecutor(jobs) as pool:
        for _ in bounded_map(pool, loader.read, batches):
            pass
    return {naming.name: loader.finished(spec) for spec, naming in tensors}


class _Part(NamedTuple):
    """Bytes [start, start + nbytes) of a tensor, to be read from `source` into `raw`.

    With no `source` they are in `raw` already; with no `raw` the tensor is to be read whole.
    """

    spec: TensorSpec
    nbytes: int
    start: int = 0
    raw: Array | None = None
    source: Extent | None = None
    memory: FreshMemory | None = None


class _Loader:
    """The arrays of one `load` by key, and (nbytes, crc32c) of their parts by key and start."""

    def __init__(self, store: Store, copy: bool) -> None:
        self._store = store
        self._copy = copy
        self._maps: dict[int, mmap.mmap] = {}
        self._huge_pages = True
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
        is_placed = self._copy or is_local(self._store.shards[spec.shard])
        if not is_placed or not self._store.mappable(spec.key):
            yield _Part(spec, spec.nbytes)
            return
        source = Extent(self._store.shards[spec.shard], spec.offset, spec.nbytes)
        memory = FreshMemory(spec.nbytes) if self._copy else None
        raw = memory.array if memory else self._mapped(spec)
        where = f"{self._store.path}: {spec.key}"
        self._arrays[spec.key] = shaped(raw.view(numpy_dtype(spec.dtype)), spec.shape, where)
        self._crcs[spec.key] = {}
        for start in range(0, spec.nbytes, PART_BYTES):
            piece = raw[start : start + PART_BYTES]
            yield _Part(spec, len(piece), start, piece, source if memory else None, memory)

    def _mapped(self, spec: TensorSpec) -> Array:
        """Return the tensor's bytes in its shard, mapped so that writing changes only the copy."""
        import numpy as np

        assert spec.shard is not None and spec.offset is not None
        if spec.shard not in self._maps:
            shard = self._store.shards[spec.shard]
            self._maps[spec.shard] = mapped(shard, mmap.ACCESS_COPY)
        return np.frombuffer(self._maps[spec.shard], np.uint8, spec.nbytes, spec.offset)

    def read(self, batch: Sequence[_Part]) -> None:
        """Carry out one work item, in whichever thread."""
        for part in batch:
            key = part.spec.key
            if part.raw is None:
                self._arrays[key] = _whole(self._store, part.spec)
            elif part.source is None:
                self._crcs[key][part.start] = part.nbytes, crc32c.value(part.raw)
            else:
                self._crcs[key][part.start] = part.nbytes, self._fill(part, part.raw, part.source)

    def _fill(self, part: _Part, raw: Array, source: Extent) -> int:
        """Read one part; return the crc32c of its bytes."""
        if self._huge_pages and part.memory:
            part.memory.use_huge_pages(part.start, part.nbytes)
        began = time.perf_counter()
        view, crc = raw.data, 0
        for at in range(0, part.nbytes, STEP_BYTES):
            source.read_into(part.start + at, view[at : at + STEP_BYTES])
            crc = crc32c.extend(crc, raw[at : at + STEP_BYTES])
        if part.nbytes == PART_BYTES:
            seconds = time.perf_counter() - began
            self._huge_pages = self._huge_pages and part.nbytes / seconds > SLOW_BYTES_PER_S
        return crc

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


def _whole(store: Store, spec: TensorSpec) -> Array:
    """Return one tensor whole: a store that can yields it as one block, which is then ours."""
    import numpy as np

    where = f"{store.path}: {spec.key}"
    blocks = list(store.blocks(spec.key, max_elements=max(1, spec.size)))
    if len(blocks) == 1:
        return shaped(blocks[0][1], spec.shape, where)
    out = np.empty(spec.size, numpy_dtype(spec.dtype))
    for start, values in store.blocks(spec.key):
        out[start : start + len(values)] = values
    return shaped(out, spec.shape, where)
