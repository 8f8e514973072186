"""The tensor bundle: what `tf.train.Checkpoint` and `tf.compat.v1.train.Saver` (V2) write.

    PREFIX.index                  a LevelDB table: "" -> BundleHeaderProto, key -> BundleEntryProto
    PREFIX.data-00000-of-00002    shards: the tensors' bytes at the entries' offsets

An entry gives dtype, shape, shard, offset, size and the masked crc32c of the stored bytes.  A
partitioned tensor's entry has `slices` instead, and one more entry per slice (`slices.py`).  A
string tensor is: the varint lengths, 4 bytes masked crc32c of the lengths (each as uint32, or
uint64 when >= 2^32), then the bytes; the entry's crc32c covers lengths in fixed width, those 4
bytes and the bytes.  A variant tensor is, per element: varint length, bytes, masked crc32c so far
(4 bytes).
An object-based checkpoint keeps its object graph in the string `_CHECKPOINTABLE_OBJECT_GRAPH`.
Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc, core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.file_states import (
    check_unchanged,
    is_file,
    unchanged,
    unchanged_part,
)
from ckptkit._io.files import check_range, file_size
from ckptkit.dtypes import dtype_of_enum, itemsize, kind, numpy_dtype
from ckptkit.errors import FormatError, UnknownTensorError, UnsupportedError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, ObjectGraph, Slice, Structure, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.proto import wire
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.reopening import Opener, pickled
from ckptkit.stores.tensor_bundle import data_blocks
from ckptkit.stores.tensor_bundle import slices as _slices
from ckptkit.stores.tensor_bundle.files import MAX_SHARDS, index_path, shard_paths
from ckptkit.stores.tensor_bundle.object_graph import PackedNodes, parse_object_graph
from ckptkit.stores.tensor_bundle.table import iter_table

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
BUNDLE_VERSION = 1  # the newest bundle layout; tensor_bundle.cc: kTensorBundleVersion
MIN_PRODUCER = 0  # tensor_bundle.cc: kTensorBundleMinProducer
MAX_RANK = 254  # TensorShape::MaxDimensions()
MAX_ELEMENTS = (1 << 63) - 1
# Tags of the fields of a `BundleEntryProto`.
DTYPE_TAG, SHAPE_TAG, SHARD_TAG, OFFSET_TAG, SIZE_TAG, CHECKSUM_TAG = wire.ENTRY
MIN_ENTRY_BYTES = 9  # of an entry in the common form: dtype, empty shape, checksum
_LARGE_INDEX = 8 << 20  # bytes; of some 150,000 variables or more
_TOGETHER = 1 << 10  # specs that are packed at once
MAX_SLICES = 2_000  # per tensor; keeps the overlap check short


@dataclass(frozen=True)
class TensorBundle:
    """One checkpoint; made by `open_bundle`."""

    path: Path
    specs: Mapping[str, TensorSpec]
    shards: tuple[Path, ...]
    big_endian: bool = False
    format: str = "tensor-bundle"
    model: ModelInfo | None = None
    opener: Opener | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self.opener or open_bundle, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`; the data files too, one of which holds the object graph."""
        return (index_path(self.path), *self.shards)

    @property
    def style(self) -> str:
        return "object-based" if OBJECT_GRAPH_KEY in self.specs else "name-based"

    @property
    def producer(self) -> str | None:
        """What wrote it, as far as names tell: a bundle does not record versions."""
        if self.style == "name-based":
            return "tf.compat.v1.train.Saver"
        graph = self.structure
        if not isinstance(graph, ObjectGraph):
            return None
        assert isinstance(graph.nodes, PackedNodes)
        edges = graph.nodes.edge_names
        keras3 = {"_operations", "_trainable_variables", "_inbound_nodes"} & edges
        keras2 = any(edge.startswith("layer_with_weights-") for edge in edges) or (
            "keras_api" in edges and not keras3
        )
        return "tf.train.Checkpoint" + (" (Keras 3)" if keras3 else " (Keras 2)" if keras2 else "")

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return tuple(path for path in self.shards if not is_file(path))

    @cached_property
    def structure(self) -> Structure:
        """The object graph; None for a name-based checkpoint, or where its bytes are not there.

        Raises ChecksumError, FormatError when the graph's bytes are damaged.
        """
        if OBJECT_GRAPH_KEY not in self.specs:
            return None
        spec = self.specs[OBJECT_GRAPH_KEY]
        where = f"{self.path}: {OBJECT_GRAPH_KEY}"
        if spec.dtype != "string" or spec.shape != ():
            raise FormatError(where, "not a scalar string", found=f"{spec.dtype} {spec.shape}")
        if self._lost_graph():
            return None  # the list is of use without it
        return parse_object_graph(self.graph_bytes(), where)

    def graph_bytes(self) -> bytes:
        """Return the object graph as it is stored, where there is one; needs no numpy."""
        spec, where = self.specs[OBJECT_GRAPH_KEY], f"{self.path}: {OBJECT_GRAPH_KEY}"
        shard = self._shard(spec)
        [(_start, [data])] = data_blocks.string_lists(shard, spec, self.big_endian, where)
        return data

    def _lost_graph(self) -> bool:
        spec = self.specs.get(OBJECT_GRAPH_KEY)
        if spec is None or spec.shard is None or spec.offset is None:
            return False
        shard = self._shard(spec)
        return not shard.is_file() or shard.stat().st_size < spec.offset + spec.nbytes

    @property
    def notes(self) -> tuple[str, ...]:
        if not self._lost_graph():
            return ()
        return ("its object graph is in the data that is missing: roles are guessed from keys",)

    def mappable(self, key: str) -> bool:
        spec = self._spec(key)
        native = self.big_endian == (sys.byteorder == "big") or itemsize(spec.dtype) == 1
        return spec.offset is not None and native and itemsize(spec.dtype) > 0

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        spec = self._spec(key)
        if spec.slices:
            return self._sliced_blocks(spec, max_elements)
        shard = self._shard(spec)
        where = f"{shard}: {key}"
        if spec.dtype == "string":
            return data_blocks.string_blocks(shard, spec, self.big_endian, where)
        if spec.dtype == "variant":
            return data_blocks.variant_blocks(shard, spec, where)
        if not itemsize(spec.dtype):
            return data_blocks.opaque_blocks(shard, spec, where)
        return data_blocks.fixed_blocks(shard, spec, self.big_endian, max_elements, where)

    def read_through(self, key: str) -> None:
        """Read all bytes of a tensor, checksums compared; raises as taking its `blocks` does."""
        spec = self._spec(key)
        if spec.dtype != "string" or spec.slices:
            parts: Iterator[object] = self.blocks(key)
        else:  # no arrays are made of them
            shard = self._shard(spec)
            parts = data_blocks.string_lists(shard, spec, self.big_endian, f"{shard}: {key}")
        for _ in parts:
            pass

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        spec = self._spec(key)
        stop = spec.size if stop is None else min(stop, spec.size)
        start = min(start, stop)
        if kind(spec.dtype) == "opaque":
            raise UnsupportedError(
                f"{spec.dtype} tensors hold objects of TensorFlow, not numbers",
                where=f"{self.path}: {key}",
            )
        if spec.dtype == "string" or spec.slices:
            return self._gather(spec, start, stop)
        return data_blocks.read_fixed(self._shard(spec), spec, self.big_endian, start, stop)

    def _gather(self, spec: TensorSpec, start: int, stop: int) -> Array:
        """Return elements [start, stop) of a tensor that has to be walked from its beginning."""
        import numpy as np

        out = np.empty(stop - start, numpy_dtype(spec.dtype))
        for first, values in self.blocks(spec.key):
            low, high = max(first, start), min(first + len(values), stop)
            if low < high:
                out[low - start : high - start] = values[low - first : high - first]
        return out

    def _spec(self, key: str) -> TensorSpec:
        try:
            return self.specs[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None

    def _shard(self, spec: TensorSpec) -> Path:
        assert spec.shard is not None
        return self.shards[spec.shard]

    def _sliced_blocks(self, spec: TensorSpec, max_elements: int) -> Iterator[tuple[int, Array]]:
        import numpy as np

        for part in spec.slices:  # before anything of the tensor's size is allocated
            check_range(self.shards[part.shard], part.offset, part.nbytes)
        # Leading axes of one element would make a "row" the whole tensor.
        skip = next((i for i, size in enumerate(spec.shape[:-1]) if size != 1), len(spec.shape) - 1)
        shape = spec.shape[skip:]
        parts = [
            (part._replace(start=part.start[skip:], shape=part.shape[skip:]))
            for part in spec.slices
        ]
        readers = [self._slice_reader(spec, part) for part in parts]
        per_row = math.prod(shape[1:])
        for first, last in _slices.row_blocks(shape, max_elements):
            block = np.empty((last - first, *shape[1:]), numpy_dtype(spec.dtype))
            for part, reader in zip(parts, readers, strict=True):
                low = max(first, part.start[0]) - part.start[0]
                high = min(last, part.start[0] + part.shape[0]) - part.start[0]
                if low < high and part.nbytes:
                    rows = reader.rows(low, high).reshape(high - low, *part.shape[1:])
                    _slices.place(block, first, part, rows, low)
            flat = block.reshape(-1)  # at least one row, which may be more than was asked for
            for start in range(0, len(flat), max_elements):
                yield first * per_row + start, flat[start : start + max_elements]
        for part, reader in zip(parts, readers, strict=True):
            reader.finish(f"{self.shards[part.shard]}: {spec.key}, slice at {part.start}")

    def _slice_reader(self, spec: TensorSpec, part: Slice) -> data_blocks.RowReader:
        piece = TensorSpec(
            spec.key, spec.dtype, part.shape, part.nbytes, part.shard, part.offset, part.crc32c
        )
        return data_blocks.RowReader(self.shards[part.shard], piece, self.big_endian)


def graph_bytes(store: Store) -> bytes:
    """Return the object graph that a store of some format has, as it is stored."""
    if isinstance(store, TensorBundle):
        return store.graph_bytes()
    [(_start, values)] = store.blocks(OBJECT_GRAPH_KEY)
    data: bytes = values[0]
    return data


def open_bundle(prefix: Path) -> TensorBundle:
    """Return the checkpoint at `prefix`; reads PREFIX.index whole and no data file.

    Raises PathNotFoundError, TruncatedError, ChecksumError, FormatError, UnsupportedError (a newer
    layout), MissingDependencyError (snappy).
    """
    path = unchanged(index_path(prefix))
    items = iter_table(path)
    first = next(items, None)
    if first is None or first[0]:
        for _item in items:  # damage further on says more than that
            pass
        raise FormatError(str(path), "the first entry is not a bundle header")
    num_shards, big_endian = read_header(first[1], path)
    shards = tuple(map(unchanged_part, shard_paths(prefix, num_shards)))
    is_large = file_size(path) > _LARGE_INDEX
    specs = _specs(items, num_shards, str(path), is_large=is_large)
    check_unchanged([path])
    return TensorBundle(prefix, specs, shards, big_endian)


def read_header(data: bytes, path: Path) -> tuple[int, bool]:
    """Return (number of shards, whether big-endian); raises FormatError, UnsupportedError."""
    where = f"{path}: header"
    header: Any = wire.header(data) or parse("BundleHeaderProto", data, where)
    if header.version.min_consumer > BUNDLE_VERSION:
        raise UnsupportedError(
            f"written for readers of bundle version {header.version.min_consumer} or newer; "
            f"this one knows {BUNDLE_VERSION}",
            where=str(path),
            hint="pip install -U ckptkit-tf",
        )
    if header.version.producer < MIN_PRODUCER:
        raise FormatError(
            where,
            "version of its writer",
            expected=f"{MIN_PRODUCER} or newer",
            found=header.version.producer,
            hint="TensorFlow refuses it",
        )
    if BUNDLE_VERSION in header.version.bad_consumers:
        raise UnsupportedError("its writer says that this version must not read it", where=where)
    if not 0 < header.num_shards <= MAX_SHARDS:
        raise FormatError(where, "number of shards", expected="1..100000", found=header.num_shards)
    if header.endianness not in (0, 1):
        raise FormatError(where, "endianness", expected="0 or 1", found=header.endianness)
    return header.num_shards, header.endianness == 1


def _specs(
    items: Iterable[tuple[bytes, bytes]], num_shards: int, where: str, *, is_large: bool
) -> Mapping[str, TensorSpec]:
    """Return the specs of all entries behind the header; is_large: there may be very many."""
    specs: dict[str, TensorSpec] = {}
    packed = PackedSpecs() if is_large else None
    partitioned: list[tuple[int, bytes, str, Any]] = []
    odd: set[str] = set()  # keys of bytes that are no text, spelled out
    slice_entries: dict[bytes, tuple[str, bytes]] = {}
    kinds: dict[bytes, _EntryType] = {}
    for raw_key, value in items:
        try:
            key = raw_key.decode()
        except UnicodeDecodeError:
            key = raw_key.decode("utf-8", "backslashreplace")
            odd.add(key)
        if raw_key[0] == 0 and _slices.sliced_name(raw_key) is not None:
            slice_entries[raw_key] = key, value
            continue
        if odd and key in specs:  # bytes that are no text, spelled out, and that very spelling
            raise FormatError(where, f"two keys read {key!r}")
        spec = _plain_spec(key, value, kinds, num_shards)
        if spec is None:
            entry = _entry(value, f"{where}: {key}")
            if entry.slices:
                row = len(specs) + (0 if packed is None else len(packed))
                partitioned.append((row, raw_key, key, entry))
                spec = TensorSpec(key, "", (), 0)  # keeps the order of the file
            else:
                spec = entry_spec(key, entry, num_shards, where)
        specs[key] = spec
        if packed is not None and len(specs) == _TOGETHER:
            packed.add_all([*specs.values()])
            specs.clear()
    if packed is not None:
        packed.add_all([*specs.values()])
        if odd:  # other keys rise, so none of them is there twice
            for key in packed.keys_in_order.repeated():
                raise FormatError(where, f"two keys read {key!r}")
    for row, raw_key, key, entry in partitioned:
        whole = partitioned_spec(raw_key, key, entry, slice_entries, num_shards, where)
        if packed is None:
            specs[key] = whole
        else:
            packed.replace(row, whole)
    for raw_key in slice_entries:
        raise orphan_slice(raw_key, where)
    return MappingProxyType(specs) if packed is None else packed


def _entry(data: bytes, where: str) -> Any:
    """Return an entry, parsed; raises FormatError."""
    return wire.entry(data) or parse("RawBundleEntryProto", data, where)


def _plain_spec(
    key: str, value: bytes, kinds: dict[bytes, _EntryType], num_shards: int
) -> TensorSpec | None:
    """Return the spec of an entry of the common form, with nothing wrong in it; else None.

    That form: a dtype, a shape, shard, offset and size where they are not 0, a checksum; and a
    dtype of fixed size.  It is read once per variable, and `entry_spec` says what is wrong.
    kinds: what dtype and shape come to, by their bytes; they repeat.
    """
    if len(value) < MIN_ENTRY_BYTES or value[-5] != CHECKSUM_TAG:
        return None
    at, end = value[3] + 4, len(value) - 5
    if at > end:
        return None
    kind = kinds.get(value[:at])
    if kind is None:
        kind = _plain_kind(value[:at])
        if kind is None:
            return None
        kinds[value[:at]] = kind
    shard = offset = size = 0
    if value[at] == SHARD_TAG and value[at + 1] < 0x80:
        shard, at = value[at + 1], at + 2
    if value[at] == OFFSET_TAG:
        offset, at = value[at + 1], at + 2
        if offset > 0x7F:
            offset, at = _rest_of_varint(value, offset, at, end)
    if value[at] == SIZE_TAG and at < end:
        size, at = value[at + 1], at + 2
        if size > 0x7F:
            size, at = _rest_of_varint(value, size, at, end)
    dtype, shape, nbytes, _least = kind
    if at != end or size != nbytes or shard >= num_shards or offset + size > MAX_ELEMENTS:
        return None
    rotated = (int.from_bytes(value[-4:], "little") - 0xA282EAD8) & 0xFFFFFFFF  # as `entry_spec`
    crc = (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
    # all of the fields, in order: half the time of naming the last
    return TensorSpec(key, dtype, shape, size, shard, offset, crc, ())


def _plain_kind(head: bytes) -> _EntryType | None:
    """Return what the bytes of dtype and shape come to; None where they are no two plain fields."""
    if (
        len(head) < 4
        or head[0] != DTYPE_TAG
        or head[2] != SHAPE_TAG
        or max(head[1], head[3]) > 0x7F
    ):
        return None
    if wire.shape(head[4:]) is None or len(head) != 4 + head[3]:
        return None
    try:
        return _kind_of(head[1], head[4:], "")
    except FormatError:
        return None


def _rest_of_varint(data: bytes, value: int, at: int, end: int) -> tuple[int, int]:
    """Return (value, next position) of a varint whose first byte is `value`.

    One of more than eight bytes, or that does not end before `end`, is (-1, end + 1).
    """
    value &= 0x7F
    for shift in range(7, 56, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return -1, end + 1


def orphan_slice(raw_key: bytes, where: str) -> FormatError:
    """Return the refusal of a slice that no tensor of the index has.

    TensorFlow would list its binary key as the name of a tensor.
    """
    name = (_slices.sliced_name(raw_key) or b"").decode("utf-8", "backslashreplace")
    return FormatError(
        where,
        f"a slice of {name!r}, of which the index says nothing",
        hint="the index is damaged: the entry of the whole tensor is missing, or lost this slice",
    )


class _EntryType(NamedTuple):
    """What the dtype and shape of an entry come to; nbytes is None for strings and opaque ones."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int | None
    min_nbytes: int


@lru_cache(maxsize=4096)
def _kind_of(enum: int, raw_shape: bytes, where: str) -> _EntryType:
    """Return dtype and shape of an entry, checked; entries of one file share few of them."""
    shape = wire.shape(raw_shape)
    if shape is None:
        message = parse("TensorShapeProto", raw_shape, where)
        shape = None if message.unknown_rank else tuple(dim.size for dim in message.dim)
    if shape is None or len(shape) > MAX_RANK:
        rank = "unknown" if shape is None else len(shape)
        raise FormatError(where, "rank of the shape", expected=f"0..{MAX_RANK}", found=rank)
    elements = math.prod(shape)
    if any(size < 0 for size in shape) or elements > MAX_ELEMENTS:
        raise FormatError(where, f"impossible shape {shape}")
    dtype = dtype_of_enum(enum)
    nbytes = elements * itemsize(dtype) if itemsize(dtype) else None
    # A string tensor holds a length of at least one byte per element, and a checksum.
    least = elements + 4 if dtype == "string" and elements else 0
    return _EntryType(dtype, shape, nbytes, least)


def entry_spec(key: str, entry: Any, num_shards: int, where: str) -> TensorSpec:
    """Return the spec of an entry that is not partitioned, having checked every number in it."""
    try:
        dtype, shape, nbytes, least = _kind_of(entry.dtype, b"".join(entry.shape), where)
    except FormatError as error:
        raise FormatError(f"{where}: {key}", error.message) from None
    size, shard, offset = entry.size, entry.shard_id, entry.offset
    if size != nbytes and (nbytes is not None or size < least):
        raise FormatError(
            f"{where}: {key}",
            f"stored bytes of {dtype} {shape}",
            expected=f"at least {least}" if nbytes is None else nbytes,
            found=size,
        )
    if not 0 <= shard < num_shards:
        raise FormatError(f"{where}: {key}", "shard", expected=f"0..{num_shards - 1}", found=shard)
    if offset < 0 or offset + size > MAX_ELEMENTS:
        raise FormatError(f"{where}: {key}", f"impossible place: {size} bytes at {offset}")
    masked = entry.crc32c
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF  # _crc32c.unmask, inlined: called per variable
    crc = (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
    return TensorSpec(key, dtype, shape, size, shard, offset, crc)


def partitioned_spec(
    raw_key: bytes,
    key: str,
    entry: Any,
    slice_entries: dict[bytes, tuple[str, bytes]],
    num_shards: int,
    where: str,
) -> TensorSpec:
    """Return the spec of a partitioned tensor; takes its slices out of `slice_entries`.

    The entry's own shard, offset, size and checksum mean nothing (tensor_bundle.proto).
    """
    place = f"{where}: {key}"
    if len(entry.slices) > MAX_SLICES:
        raise FormatError(
            place, "slices", expected=f"at most {MAX_SLICES}", found=len(entry.slices)
        )
    dtype, shape, _nbytes, _least = _kind_of(entry.dtype, b"".join(entry.shape), place)
    if not itemsize(dtype) or not shape:
        raise FormatError(place, f"a {dtype} tensor of rank {len(shape)} cannot be partitioned")
    slices = []
    for proto in entry.slices:
        extents = [
            (extent.start, extent.length if extent.WhichOneof("has_length") else -1)
            for extent in proto.extent
        ]
        if len(extents) != len(shape):
            raise FormatError(place, f"a slice of rank {len(extents)} in a shape {shape}")
        if any(extent.WhichOneof("has_length") and extent.length < 0 for extent in proto.extent):
            raise FormatError(place, f"a slice of negative length: {extents}")
        found = slice_entries.pop(_slices.slice_key(raw_key, extents), None)
        if found is None:
            raise FormatError(place, f"the slice at {extents} is not in the index")
        part = entry_spec(key, _entry(found[1], place), num_shards, where)
        start = tuple(first if length >= 0 else 0 for first, length in extents)
        expected = tuple(
            length if length >= 0 else size
            for (_first, length), size in zip(extents, shape, strict=True)
        )
        if part.shape != expected or part.dtype != dtype:
            raise FormatError(
                place, f"slice at {start}", expected=expected, found=f"{part.dtype} {part.shape}"
            )
        assert part.shard is not None and part.offset is not None
        slices.append(Slice(start, part.shape, part.shard, part.offset, part.nbytes, part.crc32c))
    _slices.check_cover(place, shape, slices)
    return TensorSpec(key, dtype, shape, sum(part.nbytes for part in slices), slices=tuple(slices))
