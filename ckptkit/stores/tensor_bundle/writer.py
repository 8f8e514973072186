"""Writing a tensor bundle: `PREFIX.data-00000-of-00001` (more with `shard_size`) and
`PREFIX.index`.

The layout is that of `ckptkit.stores.tensor_bundle.reader`.  Values lie in the order of falling
element size, then key, so that every tensor is aligned to its dtype with no padding; strings come
last.  Each entry carries the masked crc32c of its bytes.  Partitioned variables are written whole.

The index is renamed into place last: data files without it are no checkpoint.  Where a checkpoint
of the same prefix is replaced, the new one gets a number of shards whose file names are free (its
last shards may then be empty), so that the old checkpoint stays whole until the new index takes
its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io import crc32c as _crc32c
from ckptkit._io.atomic import free_count, replacing_files
from ckptkit._io.claims import Claim, claiming
from ckptkit._io.file_states import is_local
from ckptkit._io.filling import FilledFile, check_size, filling
from ckptkit._io.places import can_list
from ckptkit._io.pool import bounded_map, some_names
from ckptkit._io.workers import check_shared, here
from ckptkit.dtypes import DTYPES, itemsize
from ckptkit.errors import FormatError, OutputError, PathNotFoundError
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.data_blocks import crc_of_variants
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.table_writer import BLOCK_BYTES, TableWriter, varint
from ckptkit.stores.writing import (
    Blocks,
    SeparableBlocks,
    StoredBytes,
    TensorToWrite,
    blocks_of,
    checked_blocks,
    checked_tensors,
    element_bytes,
    numeric_chunks,
    plan_shards,
    raw_bytes,
)
from ckptkit.text import lazy_pattern
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.dtypes import Array

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VARIANT = "variant"  # of iterators of datasets; its values mean nothing outside of TensorFlow
_DATA_FILE = lazy_pattern(r"\.data-\d{5}-of-\d{5}\Z")


class _IndexEntry(NamedTuple):
    shard: int
    offset: int
    size: int
    crc32c: int


def write_tensor_bundle(
    prefix: str | Path,
    tensors: Iterable[TensorToWrite],
    blocks: Blocks | SeparableBlocks,
    *,
    object_graph: bytes | None = None,
    shard_size: int | None = None,
    shards: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    overwrite: bool = False,
    destined: str | Path | None = None,
    executor: Executor | None = None,
) -> tuple[Path, ...]:
    """Write the tensors as a checkpoint.

    Args:
        prefix: of its files.
        tensors: what to write, in any order.
        blocks: gives the values of a key; of variants the bytes as a bundle stores them (uint8).
        object_graph: a serialised TrackableObjectGraph, stored under the key that TensorFlow looks
            for; None writes none.
        shard_size: bytes after which a new data file is begun; None sets no limit.
        shards: how many data files, about as large as one another, in place of that.
        block_bytes: of the index's blocks.
        overwrite: replace the files of a checkpoint that is there.
        destined: the prefix that the files will be moved to; their names are free there too.
        executor: where data files are written, each by one task; `blocks` are then such as can be
            sent there.  None writes them here, one after the other.

    Returns:
        The files written, the index last.

    Raises:
        OutputError: a file is there already or cannot be written, two tensors have one key, or the
            values are not those announced; nothing is at `prefix` then that was not there before.
        UsageError: there are more `shards` than tensors.
        WorkerLostError: as `ckptkit._io.pool.bounded_map`.
    """
    prefix = os.fspath(prefix)
    ordered = _with_graph(checked_tensors(tensors, prefix, {VARIANT}), object_graph, prefix)
    if object_graph is not None:
        blocks = _BlocksWithGraph(blocks, object_graph)
    if not overwrite:
        _refuse_existing(prefix)
    placed = plan_shards([_nbytes(tensor) for tensor in ordered], shard_size, shards)
    # Which names are free is asked by whoever alone may take them.
    with claiming(Path(f"{prefix}.index")) as claim:
        if not overwrite:
            _refuse_existing(prefix)
        return _write_files(
            prefix,
            ordered,
            placed,
            blocks,
            block_bytes,
            overwrite,
            destined or prefix,
            claim,
            executor,
        )


def _write_files(
    prefix: str,
    ordered: list[TensorToWrite],
    shards: list[int],
    blocks: Blocks | SeparableBlocks,
    block_bytes: int,
    overwrite: bool,
    destined: str | os.PathLike[str],
    claim: Claim,
    executor: Executor | None,
) -> tuple[Path, ...]:
    old = data_files(prefix) if overwrite else []
    prefixes = (prefix, os.fspath(destined))
    count = free_count(
        lambda count: [name for p in prefixes for name in shard_names(p, count)],
        max(shards, default=0) + 1,
    )
    paths = [*shard_names(prefix, count), Path(f"{prefix}.index")]
    with replacing_files(paths, overwrite=overwrite, obsolete=old, claim=claim) as temporaries:
        entries = _write_data(temporaries[:-1], ordered, shards, blocks, prefix, executor)
        with temporaries[-1].open("wb") as file:
            table = TableWriter(file, block_bytes=block_bytes)
            for key, value in index_items(ordered, entries, count):
                table.add(key, value)
            table.finish()
    return tuple(paths)


def index_items(
    tensors: Iterable[TensorToWrite], entries: dict[str, _IndexEntry], num_shards: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of the index, in order; the header is under the key ""."""
    header = message_class("BundleHeaderProto")(num_shards=num_shards)
    header.version.producer = 1
    yield b"", header.SerializeToString(deterministic=True)
    for key, tensor in sorted((encoded_key(tensor.key), tensor) for tensor in tensors):
        place = entries[tensor.key]
        entry = message_class("BundleEntryProto")(
            dtype=DTYPES[tensor.dtype].enum,
            shard_id=place.shard,
            offset=place.offset,
            size=place.size,
            crc32c=_crc32c.mask(place.crc32c),
        )
        entry.shape.SetInParent()  # present for a scalar too, as TensorFlow writes it
        for size in tensor.shape:
            entry.shape.dim.add(size=size)
        yield key, entry.SerializeToString(deterministic=True)


def encoded_key(key: str) -> bytes:
    """Return the bytes of a key in the index."""
    return key.encode("utf-8", "surrogateescape")


def _nbytes(tensor: TensorToWrite) -> int:
    return tensor.size * DTYPES[tensor.dtype].itemsize


def shard_names(prefix: str, count: int) -> list[Path]:
    """Return the data files of a checkpoint of so many shards."""
    return [Path(f"{prefix}.data-{shard:05d}-of-{count:05d}") for shard in range(count)]


def data_files(prefix: str) -> list[Path]:
    """Return the data files that lie at `prefix`, of whatever number of shards."""
    directory, name = os.path.split(prefix)
    try:
        found = sorted(Path(directory or ".").iterdir())
    except OSError:
        return []  # `replacing_files` says what is wrong with the directory
    return [
        path
        for path in found
        if path.name.startswith(name) and _DATA_FILE.fullmatch(path.name[len(name) :])
    ]


def _refuse_existing(prefix: str) -> None:
    index = Path(f"{prefix}.index")
    for path in [index] * os.path.lexists(index) + data_files(prefix):
        raise OutputError("already exists", where=str(path), hint=say("‹overwrite› replaces it"))


def _with_graph(
    tensors: list[TensorToWrite], object_graph: bytes | None, where: str
) -> list[TensorToWrite]:
    """Return the tensors in the order of their bytes in the files."""
    for tensor in tensors:
        if DTYPES[tensor.dtype].enum == 0:
            raise OutputError(
                f"{tensor.key!r}: TensorFlow has no dtype {tensor.dtype}",
                where=where,
                hint="safetensors or npz can hold it",
            )
        if tensor.key[:1] in ("", "\0") or (
            object_graph is not None and tensor.key == OBJECT_GRAPH_KEY
        ):
            raise OutputError(f"the key {tensor.key!r} is taken by the format", where=where)
    if object_graph is not None:
        tensors = [*tensors, TensorToWrite(OBJECT_GRAPH_KEY, "string", ())]
    return sorted(tensors, key=lambda tensor: (-DTYPES[tensor.dtype].itemsize, tensor.key))


class _BlocksWithGraph:
    """The values of all tensors but the object graph, which is written as it is."""

    def __init__(self, blocks: Blocks | SeparableBlocks, object_graph: bytes) -> None:
        self.blocks = blocks
        self.object_graph = object_graph

    def __call__(self, key: str) -> Iterator[tuple[int, Array]]:
        return self.blocks(key)

    @property
    def stored_bytes(self) -> StoredBytes | None:
        """See there; the graph is no key that it is asked for."""
        found: StoredBytes | None = getattr(self.blocks, "stored_bytes", None)
        return found

    def only(self, keys: Iterable[str]) -> Blocks:
        """Return what gives the values of these keys alone."""
        wanted = set(keys)
        others = blocks_of(self.blocks, wanted - {OBJECT_GRAPH_KEY})
        if OBJECT_GRAPH_KEY not in wanted:
            return others
        return _BlocksWithGraph(others, self.object_graph)


class _DataFile(NamedTuple):
    """A data file to write: its number, where, its tensors in order; machine: which made `path`."""

    shard: int
    path: Path
    tensors: tuple[TensorToWrite, ...]
    blocks: Blocks
    where: str
    machine: str


def _write_data(
    paths: Sequence[Path],
    tensors: list[TensorToWrite],
    shards: list[int],
    blocks: Blocks | SeparableBlocks,
    where: str,
    executor: Executor | None,
) -> dict[str, _IndexEntry]:
    """Fill the data files; return where each tensor came to lie."""
    members: dict[int, list[TensorToWrite]] = {}
    for shard, tensor in zip(shards, tensors, strict=True):
        members.setdefault(shard, []).append(tensor)
    # Nothing is written to those behind the last: they are empty, as they were made.
    files = (
        _DataFile(
            shard,
            paths[shard].absolute(),
            tuple(its),
            blocks_of(blocks, [tensor.key for tensor in its]),
            where,
            here(),
        )
        for shard, its in sorted(members.items())
    )
    entries: dict[str, _IndexEntry] = {}
    written = bounded_map(
        executor if len(members) > 1 else None, _write_data_file, files, _tensors_of
    )
    for shard, found in zip(sorted(members), written, strict=True):
        entries.update(found)
        check_size(paths[shard], sum(entry.size for entry in found.values()), where)
    return entries


def _tensors_of(file: _DataFile) -> str:
    return some_names([tensor.key for tensor in file.tensors])


def _write_data_file(file: _DataFile) -> dict[str, _IndexEntry]:
    """Fill one data file; return where each of its tensors came to lie."""
    check_shared(file.path, file.machine)
    entries: dict[str, _IndexEntry] = {}
    # strings take some more
    room = sum(tensor.size * itemsize(tensor.dtype) for tensor in file.tensors)
    with filling(file.path, room, flushed=file.machine != here()) as out:
        offset = 0
        for tensor in file.tensors:
            write = _WRITERS.get(tensor.dtype, write_numbers)
            size, crc = write(out, tensor, file.blocks, file.where)
            entries[tensor.key] = _IndexEntry(file.shard, offset, size, crc)
            offset += size
    return entries


def write_numbers(
    file: FilledFile, tensor: TensorToWrite, blocks: Blocks, where: str
) -> tuple[int, int]:
    """Write the little-endian values; return (bytes written, their crc32c)."""
    size = crc = 0
    for piece in numeric_chunks(tensor, blocks, where):
        nbytes = len(piece.view)
        crc = piece.crc(crc, nbytes)
        file.write(piece.view)
        size += nbytes
    return size, crc


def write_strings(
    file: FilledFile, tensor: TensorToWrite, blocks: Blocks, where: str
) -> tuple[int, int]:
    """Write varint lengths, their masked crc32c, and the bytes; return (bytes written, crc32c).

    The crc32c of the entry covers the lengths as fixed-width integers (uint32, or uint64 from 4 GiB
    on), then the stored checksum, then the bytes.  Source: tensor_bundle.cc, WriteStringTensor.
    """
    size = crc = total = written = 0
    for strings in _string_lists(tensor, blocks, where):
        encoded, fixed = bytearray(), bytearray()
        for length in map(len, strings):
            encoded += varint(length)
            fixed += length.to_bytes(4 if length < 1 << 32 else 8, "little")
            total += length
        crc = _crc32c.extend(crc, bytes(fixed))
        file.write(encoded)
        size += len(encoded)
    checksum = _crc32c.mask(crc).to_bytes(4, "little")
    crc = _crc32c.extend(crc, checksum)
    file.write(checksum)
    for joined in map(b"".join, _string_lists(tensor, blocks, where)):
        crc = _crc32c.extend(crc, joined)
        file.write(joined)
        written += len(joined)
    if written != total:
        raise OutputError(f"the strings of {tensor.key!r} changed while written", where=where)
    return size + len(checksum) + written, crc


def _string_lists(tensor: TensorToWrite, blocks: Blocks, where: str) -> Iterator[list[bytes]]:
    if isinstance(blocks, _BlocksWithGraph) and tensor.key == OBJECT_GRAPH_KEY:
        yield [blocks.object_graph]
        return
    for values in checked_blocks(tensor, blocks, where):
        yield [element_bytes(value, tensor, where) for value in values]


def write_variants(
    file: FilledFile, tensor: TensorToWrite, blocks: Blocks, where: str
) -> tuple[int, int]:
    """Write variants as another bundle stores them; return (bytes written, crc32c)."""
    data = b"".join(raw_bytes(values).tobytes() for _start, values in blocks(tensor.key))
    crc = crc_of_variants(data, tensor.size, where)
    file.write(data)
    return len(data), crc


_WRITERS = {"string": write_strings, VARIANT: write_variants}


def _shards_told(prefix: Path) -> tuple[Path, ...]:
    """Return the data files that the index tells; none where there is no index, or a damaged one.

    Raises CkptkitError where it cannot be asked for.
    """
    try:
        return tuple(open_bundle(prefix).shards)
    except (FormatError, PathNotFoundError):
        return ()


def files_of_bundle(prefix: Path) -> list[Path]:
    """Return the index and data files of the bundle at `prefix`, there or not."""
    index = index_path(prefix)
    if not is_local(prefix):
        stem = index.name.removesuffix(".index")
        names = index.parent.iterdir() if can_list(index.parent) else _shards_told(prefix)
        data = [
            path
            for path in names
            if path.name.startswith(stem) and _DATA_FILE.fullmatch(path.name[len(stem) :])
        ]
    else:
        data = [*data_files(os.fspath(prefix)), *data_files(f"{prefix}/")]
    return [prefix, index, *data]
