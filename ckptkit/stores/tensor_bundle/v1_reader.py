"""Checkpoints of the V1 format: what `tf.compat.v1.train.Saver(write_version=V1)` writes.

    PREFIX                       one LevelDB table, or, from `sharded=True`, one for each shard:
    PREFIX-00000-of-00002

The first entry of a table, under the key "", is a SavedTensorSlices message whose `meta` names all
tensors of the file with dtype, shape and slices; each slice's entry lies under its ordered code
(`slices.py`) and has the values as a TensorProto.  A tensor's slices may lie in several shards.
Nothing but the blocks of the table has checksums, and a value is read with its block.
Source: tensorflow/core/util/saved_tensor_slice.proto, tensor_slice_{writer,reader}.cc.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.file_states import FileState, file_state, unchanged
from ckptkit._io.places import names_in
from ckptkit.dtypes import dtype_of_enum, itemsize, numpy_dtype
from ckptkit.errors import (
    CkptkitError,
    FormatError,
    UnknownTensorError,
    UnsupportedError,
)
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, Slice, Structure, TensorSpec
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.proto.tensors import list_of, numbers_of, text_of
from ckptkit.stores.reopening import pickled
from ckptkit.stores.tensor_bundle.files import is_table
from ckptkit.stores.tensor_bundle.reader import MAX_ELEMENTS, MAX_RANK, MAX_SLICES
from ckptkit.stores.tensor_bundle.slices import check_cover, place, slice_key
from ckptkit.stores.tensor_bundle.table import TableIndex, block_entries, read_block_of, read_index
from ckptkit.stores.tensor_bundle.v1_files import prefix_of, shards_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

VERSION = 1  # the newest layout; tensorflow/core/public/version.h: TF_CHECKPOINT_VERSION
_KEPT_BLOCK = 1 << 20  # bytes; small tensors share blocks of 256 KiB


class _StoredSlice(NamedTuple):
    """One stored slice: `key` is that of its entry in the table of a shard."""

    shard: int
    key: bytes
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointV1:
    """One checkpoint; made by `open_checkpoint_v1`."""

    path: Path
    specs: Mapping[str, TensorSpec]
    shards: tuple[Path, ...]
    indexes: tuple[TableIndex | None, ...]
    parts: Mapping[str, tuple[_StoredSlice, ...]]
    format: str = "checkpoint-v1"
    style: str = "name-based"
    model: ModelInfo | None = None
    structure: Structure = None
    producer: str | None = "tf.compat.v1.train.Saver (V1)"
    notes: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_checkpoint_v1, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return self.shards

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return tuple(path for path in self.shards if not path.is_file())

    def mappable(self, key: str) -> bool:
        self._spec(key)
        return False  # values are lists of protobuf messages

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        if self._spec(key).size == 0:
            return
        values = self._values(key)
        for start in range(0, len(values), max_elements):
            yield start, values[start : start + max_elements]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        return self._values(key)[start:stop].copy()

    def _spec(self, key: str) -> TensorSpec:
        try:
            return self.specs[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None

    def _values(self, key: str) -> Array:
        """Return all elements of a tensor, 1-D."""
        import numpy as np

        spec, parts = self._spec(key), self.parts[key]
        if len(parts) == 1:
            return self._part(spec, parts[0])
        whole = np.empty(spec.shape, numpy_dtype(spec.dtype))
        for part in parts:
            if math.prod(part.shape):
                stored = Slice(part.start, part.shape, part.shard, 0, 0, None)
                place(whole, 0, stored, self._part(spec, part).reshape(part.shape), 0)
        return whole.reshape(-1)

    def _part(self, spec: TensorSpec, part: _StoredSlice) -> Array:
        path, index = self.shards[part.shard], self.indexes[part.shard]
        where = f"{path}: {spec.key}"
        assert index is not None
        value = _entry(index, part.key, where)
        tensor = parse("SavedTensorSlices", value, where).data.data
        size, dtype = math.prod(part.shape), spec.dtype
        if tensor.dtype and dtype_of_enum(tensor.dtype) != dtype:  # writers leave it out
            found = dtype_of_enum(tensor.dtype)
            raise FormatError(where, "dtype of the values", expected=dtype, found=found)
        held = len(getattr(tensor, list_of(dtype))) // (2 if dtype.startswith("complex") else 1)
        if tensor.tensor_content and itemsize(dtype):
            held = len(tensor.tensor_content) // itemsize(dtype)
        if held != size:
            raise FormatError(where, "stored elements", expected=size, found=held)
        values = text_of(tensor, size) if dtype == "string" else numbers_of(tensor, dtype, size)
        if values is None:
            raise UnsupportedError(f"{dtype} tensors of V1 checkpoints are not read", where=where)
        return values


def _entry(index: TableIndex, key: bytes, where: str) -> bytes:
    """Return the value of a key of a table; raises FormatError where there is none."""
    number = bisect_left(index.separators, key)
    if number < len(index.handles):
        state = file_state(index.path)
        large = index.handles[number][1] > _KEPT_BLOCK
        read = _block.__wrapped__ if large else _block
        value: bytes | None = read(index, number, state).get(key)
        if value is not None:
            return value
    raise FormatError(where, "its values are not in the file")


@lru_cache(maxsize=4)
def _block(index: TableIndex, number: int, state: FileState | None) -> dict[bytes, bytes]:
    """Return the entries of a data block; `state` tells a file that was replaced from this one."""
    where = f"{index.path} @ {index.handles[number][0]}"
    return dict(block_entries(read_block_of(index, number), where))


def open_checkpoint_v1(path: Path) -> CheckpointV1:
    """Return the checkpoint at a file, or of the shards of a prefix; reads each file's first block.

    Raises PathNotFoundError, TruncatedError, ChecksumError, FormatError, UnsupportedError (a newer
    layout), MissingDependencyError (snappy).
    """
    shards = tuple(map(unchanged, (path,) if path.is_file() else shards_of(path)))
    indexes = tuple(read_index(shard) if shard.is_file() else None for shard in shards)
    reading = _Reading(str(path))
    for number, index in enumerate(indexes):
        if index is not None:
            reading.add(number, index)
    specs, parts = reading.finish(complete=None not in indexes)
    store = CheckpointV1(path, MappingProxyType(specs), shards, indexes, MappingProxyType(parts))
    for key, spec in specs.items():
        if spec.dtype == "string":
            specs[key] = spec._replace(nbytes=_text_bytes(store, key))
    return store


def _text_bytes(store: CheckpointV1, key: str) -> int:
    """Return the bytes of a string tensor, which only its values tell; 0 where they are damaged."""
    try:
        return sum(map(len, store.read(key)))
    except CkptkitError:
        return 0


class _Reading:
    """The tensors of all shards, gathered."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.types: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.parts: dict[str, list[_StoredSlice]] = {}

    def add(self, shard: int, index: TableIndex) -> None:
        """Add the tensors of one file; raises FormatError, UnsupportedError."""
        where = str(index.path)
        meta = parse("SavedTensorSlices", _entry(index, b"", where), where).meta
        _check_version(meta.versions, where)
        for tensor in meta.tensor:
            place = f"{where}: {tensor.name}"
            kind = dtype_of_enum(tensor.type), _shape(tensor.shape, place)
            known = self.types.setdefault(tensor.name, kind)
            if known != kind:
                raise FormatError(place, "dtype and shape", expected=known, found=kind)
            parts = self.parts.setdefault(tensor.name, [])
            parts += [_part(tensor.name, kind[1], part, shard, place) for part in tensor.slice]
            if len(parts) > MAX_SLICES:
                raise FormatError(place, f"more than {MAX_SLICES} slices")

    def finish(
        self, *, complete: bool
    ) -> tuple[dict[str, TensorSpec], dict[str, tuple[_StoredSlice, ...]]]:
        """Return specs and parts; complete: whether all shards were there, so that gaps are faults.

        A tensor whose other slices are in a missing shard is left out.
        """
        specs: dict[str, TensorSpec] = {}
        parts: dict[str, tuple[_StoredSlice, ...]] = {}
        for key in sorted(self.types):
            (dtype, shape), mine = self.types[key], self.parts[key]
            stored = tuple(
                Slice(p.start, p.shape, p.shard, 0, math.prod(p.shape) * itemsize(dtype), None)
                for p in mine
            )
            try:
                if shape:
                    check_cover(f"{self.where}: {key}", shape, stored)
                elif len(mine) != 1:
                    raise FormatError(f"{self.where}: {key}", f"a scalar in {len(mine)} slices")
            except FormatError:
                if complete:
                    raise
                continue
            shard = mine[0].shard if len(mine) == 1 else None
            nbytes = math.prod(shape) * itemsize(dtype)
            several = stored if len(stored) > 1 else ()
            specs[key] = TensorSpec(key, dtype, shape, nbytes, shard, slices=several)
            parts[key] = tuple(mine)
        return specs, parts


def _check_version(versions: Any, where: str) -> None:
    """Refuse what TensorFlow refuses (core/framework/versions.cc: CheckVersions)."""
    if versions.producer < 0:
        raise FormatError(where, "version of its writer", expected="0 or more", found="-1")
    if versions.min_consumer > VERSION or VERSION in versions.bad_consumers:
        raise UnsupportedError(
            f"written for readers of version {versions.min_consumer} of this format or newer; "
            f"this one knows {VERSION}",
            where=where,
        )


def _shape(message: Any, where: str) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in message.dim)
    if message.unknown_rank or len(shape) > MAX_RANK:
        raise FormatError(where, "rank of the shape", expected=f"0..{MAX_RANK}", found=len(shape))
    if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise FormatError(where, f"impossible shape {shape}")
    return shape


def _part(name: str, shape: tuple[int, ...], message: Any, shard: int, where: str) -> _StoredSlice:
    if len(message.extent) != len(shape):
        raise FormatError(where, f"a slice of rank {len(message.extent)} in a shape {shape}")
    given = [extent.WhichOneof("has_length") is not None for extent in message.extent]
    extents = [
        (extent.start, extent.length if cut else -1)
        for extent, cut in zip(message.extent, given, strict=True)
    ]
    return _StoredSlice(
        shard,
        slice_key(name.encode(), extents),
        tuple(start if cut else 0 for (start, _length), cut in zip(extents, given, strict=True)),
        tuple(
            length if cut else size
            for (_start, length), size, cut in zip(extents, shape, given, strict=True)
        ),
    )


def begins_as_v1(path: Path) -> bool:
    """Say whether the first entry of a table is that of a V1 checkpoint.

    The index of a V2 checkpoint is such a table too: its first value, a BundleHeaderProto, begins
    with a number, a SavedTensorSlices with the message in its field 1.
    """
    index = read_index(path)
    first = next(iter(_block(index, 0, file_state(path)).items())) if index.handles else None
    return first is not None and first[0] == b"" and first[1][:1] == b"\x0a"


def v1_prefixes(directory: Path, passed_over: Callable[[str], bool]) -> list[Path]:
    """Return the checkpoints of the V1 format in a directory: files, and prefixes of shards.

    Args:
        directory: where they lie.
        passed_over: whether a file of this name cannot be one.
    """
    found: dict[Path, None] = {}
    for name, is_directory in names_in(directory):
        path = directory / name
        if not passed_over(name) and not is_directory and path.is_file():
            try:
                is_one = is_table(path) and begins_as_v1(path)
            except CkptkitError:  # damaged, or not to be read: not for this question to say
                continue
            if is_one:
                found[prefix_of(path)] = None
    return list(found)
