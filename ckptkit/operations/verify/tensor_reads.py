"""Reading tensors to their ends: one by one, and of a file of very many a run of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import Extent
from ckptkit._io.read_buffer import ReadBuffer
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import CkptkitError, WorkerLostError
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.registry import format_of

_RUN_BYTES = 16 << 20  # of tensors that are read at once
_RUN_TENSORS = 1 << 14
_READ_BYTES = 1 << 18  # which fit a core's cache


class TensorRead(NamedTuple):
    """What reading one tensor or archive member to its end came to."""

    name: str
    nbytes: int
    error: CkptkitError | None


def read_tensor(item: tuple[Store, str, int]) -> TensorRead:
    """Read a tensor to its end.  item: its store, key and bytes.  Raises WorkerLostError."""
    store, key, nbytes = item
    spec = store.specs[key]
    shard = _shard_of_bytes(store, spec)
    if (
        shard is not None
        and spec.offset is not None
        and spec.nbytes == spec.size * itemsize(spec.dtype)
    ):
        try:
            _read_bytes(store.shards[shard], spec.offset, spec.nbytes)
        except CkptkitError:
            pass  # what is wrong is said as of any other tensor
        else:
            return TensorRead(key, nbytes, None)
    try:
        for _ in store.blocks(key):
            pass
    except WorkerLostError:  # which tells nothing of the tensor; the next might lose another one
        raise
    except CkptkitError as error:
        return TensorRead(key, nbytes, error)
    return TensorRead(key, nbytes, None)


class TensorRun(NamedTuple):
    """Tensors of neighbouring rows of packed specs.

    shard, offset: where they follow each other, if the bytes of all are their values.
    """

    store: Store
    rows: range
    nbytes: int
    shard: int | None
    offset: int

    def specs(self) -> Iterator[TensorSpec]:
        """Yield the specs of the tensors."""
        assert isinstance(self.store.specs, PackedSpecs)
        return self.store.specs.some(self.rows)

    @property
    def name(self) -> str:
        """What to call it in a message: the key of its first tensor."""
        return next(self.specs()).key


def runs_of(store: Store, specs: PackedSpecs) -> Iterator[TensorRun]:
    """Yield all tensors of packed specs; what cannot be read as bytes alone is a run of its own."""
    shards = _ShardsOfForms(store, specs)
    first = start = end = 0
    shard: int | None = None
    for row, (form, (offset, nbytes)) in enumerate(zip(specs.form_of, specs.places(), strict=True)):
        its_shard = shards.of(row, form)
        if (
            its_shard is None
            or its_shard != shard
            or offset != end
            or end - start >= _RUN_BYTES
            or row - first >= _RUN_TENSORS
        ):
            if row:
                yield TensorRun(store, range(first, row), end - start, shard, start)
            first, start, end, shard = row, offset, offset, its_shard
        end += nbytes
    if len(specs):
        yield TensorRun(store, range(first, len(specs)), end - start, shard, start)


class _ShardsOfForms:
    """Tells which file has the values of a row; None where these are not the bytes that it has."""

    def __init__(self, store: Store, specs: PackedSpecs) -> None:
        self._store, self._specs = store, specs
        self._known: dict[int, int | None] = {}

    def of(self, row: int, form: int) -> int | None:
        """Return the shard of a row of a form, looked up once for all of the form."""
        if form in self._known:
            return self._known[form]
        self._known[form] = _shard_of_bytes(self._store, self._specs.at(row)) if form >= 0 else None
        return self._known[form]


def _shard_of_bytes(store: Store, spec: TensorSpec) -> int | None:
    """Return the number of the file whose bytes are the values, none of which is wrong; else None.

    Such values are read without numpy.  Of flags not every byte is one.
    """
    has_checksums = format_of(store.format).has_checksums
    is_plain = not has_checksums and kind(spec.dtype) != "bool" and store.mappable(spec.key)
    return spec.shard if is_plain else None


def read_run(run: TensorRun) -> list[TensorRead]:
    """Read the tensors of a run; return those that could not be read."""
    if run.shard is not None and len(run.rows) > 1:
        try:
            _read_bytes(run.store.shards[run.shard], run.offset, run.nbytes)
        except CkptkitError:
            pass  # which of them it is, is seen one by one
        else:
            return []
    reads = (read_tensor((run.store, spec.key, spec.nbytes)) for spec in run.specs())
    return [read for read in reads if read.error is not None]


def _read_bytes(path: Path, offset: int, nbytes: int) -> None:
    extent = Extent(path, offset, nbytes)
    buffer = ReadBuffer(_READ_BYTES)
    for at in range(0, nbytes, _READ_BYTES):
        extent.read_into(at, buffer.view[: nbytes - at])
