"""Writing safetensors, one file or several under `STEM.safetensors.index.json`.

The format is that of `ckptkit.stores.safetensors.reader`.  Tensors lie in the order of falling
element size, then name, so that all are aligned; the header is padded to 64 bytes.  Dtypes that the
format lacks are encoded as `ckptkit.stores.metadata` says, which is also what the metadata holds
under "ckptkit".

A set of files that is replaced stays whole until its index is: see `ckptkit._io.atomic`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.atomic import free_count, replacing, replacing_files
from ckptkit._io.claims import Claim, claiming
from ckptkit._io.filling import check_size, filling
from ckptkit._io.pool import bounded_map, some_names
from ckptkit._io.workers import check_shared, here
from ckptkit.dtypes import itemsize
from ckptkit.errors import OutputError, UsageError
from ckptkit.stores import metadata as tensor_metadata
from ckptkit.stores.safetensors.header import CODES, MAX_HEADER, METADATA
from ckptkit.stores.safetensors.reader import INDEX_SUFFIX
from ckptkit.stores.writing import (
    Blocks,
    SeparableBlocks,
    TensorToWrite,
    blocks_of,
    checked_tensors,
    encoded_string_chunks,
    measure_strings,
    metadata_of,
    numeric_chunks,
    plan_shards,
)
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

SUFFIX = ".safetensors"
_ALIGNMENT = 64  # bytes, of the first value in the file
# F4 packs two elements to a byte, so four-bit floats are encoded instead.
_CODE_OF = {code.dtype: name for name, code in CODES.items() if code.bits >= 8}


class _PlacedTensor(NamedTuple):
    """A tensor with what the header says of it."""

    tensor: TensorToWrite
    code: str
    shape: tuple[int, ...]
    nbytes: int
    encoded: bool


def write_safetensors(
    path: Path,
    tensors: Iterable[TensorToWrite],
    blocks: Blocks | SeparableBlocks,
    *,
    shard_size: int | None = None,
    shards: int | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    destined: Path | None = None,
    executor: Executor | None = None,
) -> tuple[Path, ...]:
    """Write the tensors to one safetensors file, or to several and an index.

    Args:
        path: `x.safetensors`, or `x.safetensors.index.json` for several files
            `x-00001-of-00002.safetensors` beside it, which `shard_size` and `shards` ask for as
            well.
        tensors: what to write; a file has those of wide dtypes first, then in the order of keys.
        blocks: gives the values of a key.
        shard_size: bytes of values per file; None sets no limit.
        shards: how many files, about as large as one another, in place of that.
        metadata: more entries for `__metadata__`.
        overwrite: replace files that are there.
        destined: where the files will be moved to: the names of shards are free there too.
        executor: where the files of a set are written, each by one task; `blocks` are then such as
            can be sent there.  None writes them here, one after the other.

    Returns:
        The files written, an index last.

    Raises:
        OutputError: a file is there already or cannot be written, two tensors have one key, or the
            values are not those announced.
        UsageError: `metadata` has the key that this package keeps its own under, or there are more
            `shards` than tensors.
        WorkerLostError: as `ckptkit._io.pool.bounded_map`.
    """
    where = str(path)
    metadata = dict(metadata or {})
    if tensor_metadata.KEY in metadata:
        raise UsageError(f"the metadata key {tensor_metadata.KEY!r} is taken")
    placed = [_place(tensor, blocks, where) for tensor in checked_tensors(tensors, where)]
    placed.sort(key=lambda item: (-itemsize(item.tensor.dtype), item.tensor.key))
    if shard_size is None and shards is None and not path.name.endswith(INDEX_SUFFIX):
        with replacing(path, overwrite=overwrite) as temporary:
            _write_file(_File(temporary, tuple(placed), metadata, blocks, where, here()))
        return (path,)
    index = _index_of(path)
    if not overwrite:
        _refuse_existing(index)
    # Which names are free is asked by whoever alone may take them.
    with claiming(index) as claim:
        if not overwrite:
            _refuse_existing(index)
        return _write_files(
            path,
            placed,
            plan_shards([item.nbytes for item in placed], shard_size, shards),
            metadata,
            blocks,
            overwrite,
            destined or path,
            claim,
            executor,
        )


def _place(tensor: TensorToWrite, blocks: Blocks, where: str) -> _PlacedTensor:
    if tensor.key == METADATA:
        raise OutputError(f"no tensor can be called {METADATA!r}", where=where)
    try:
        tensor.key.encode("utf-8")
    except UnicodeEncodeError:
        raise OutputError(f"the name {tensor.key!r} is no Unicode text", where=where) from None
    if tensor.dtype == "string":
        nbytes = 8 * tensor.size + measure_strings(tensor, blocks, where).total
        return _PlacedTensor(tensor, "U8", (nbytes,), nbytes, encoded=True)
    stored = tensor_metadata.stored_type(tensor.dtype, tensor.shape, _CODE_OF)
    dtype, shape = stored or (tensor.dtype, tensor.shape)
    nbytes = tensor.size * itemsize(tensor.dtype)
    return _PlacedTensor(tensor, _CODE_OF[dtype], shape, nbytes, stored is not None)


class _File(NamedTuple):
    """A file to write: where, and its tensors in order; machine: which made `path`."""

    path: Path
    placed: tuple[_PlacedTensor, ...]
    metadata: dict[str, str]
    blocks: Blocks
    where: str
    machine: str

    @property
    def names(self) -> str:
        """What lies in it, for a message."""
        return some_names([item.tensor.key for item in self.placed])


def _write_file(file: _File) -> int:
    """Fill one file; return how many bytes it has."""
    check_shared(file.path, file.machine)
    header = _header(file.placed, file.metadata, file.where)
    nbytes = len(header) + sum(item.nbytes for item in file.placed)
    with filling(file.path, nbytes, flushed=file.machine != here()) as out:
        out.write(header)
        for item in file.placed:
            for chunk in _chunks(item.tensor, file.blocks, file.where):
                out.write(chunk)
    return nbytes


def _chunks(tensor: TensorToWrite, blocks: Blocks, where: str) -> Iterator[bytes | memoryview]:
    if tensor.dtype == "string":
        yield from encoded_string_chunks(tensor, blocks, where)
    else:
        for piece in numeric_chunks(tensor, blocks, where):
            yield piece.view


def _header(placed: Sequence[_PlacedTensor], metadata: dict[str, str], where: str) -> bytes:
    """Return the length and the header; tensors in the order of their bytes."""
    by_key = sorted(placed, key=lambda item: item.tensor.key)
    entries = [(item.tensor.key, metadata_of(item.tensor, encoded=item.encoded)) for item in by_key]
    content: dict[str, object] = {
        METADATA: dict(
            sorted({**metadata, tensor_metadata.KEY: tensor_metadata.dump(entries)}.items())
        )
    }
    offset = 0
    for item in placed:
        content[item.tensor.key] = {
            "dtype": item.code,
            "shape": item.shape,
            "data_offsets": [offset, offset + item.nbytes],
        }
        offset += item.nbytes
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    data += b" " * (-(8 + len(data)) % _ALIGNMENT)
    if len(data) > MAX_HEADER:
        raise OutputError(
            f"the header would have {len(data)} bytes, more than the {MAX_HEADER} of the format",
            where=where,
            hint="write several files, or a tensor bundle",
        )
    return len(data).to_bytes(8, "little") + data


def _write_files(
    path: Path,
    placed: list[_PlacedTensor],
    shards: list[int],
    metadata: dict[str, str],
    blocks: Blocks | SeparableBlocks,
    overwrite: bool,
    destined: Path,
    claim: Claim,
    executor: Executor | None,
) -> tuple[Path, ...]:
    index = _index_of(path)
    stem = index.name.removesuffix(INDEX_SUFFIX)
    old = shards_beside(index) if overwrite else []

    def names(count: int) -> list[Path]:
        return [
            path.with_name(f"{stem}-{n:05d}-of-{count:05d}{SUFFIX}") for n in range(1, count + 1)
        ]

    count = free_count(
        lambda count: [
            folder / name.name for name in names(count) for folder in (path.parent, destined.parent)
        ],
        max(shards, default=0) + 1,
    )
    paths = [*names(count), index]
    where = str(path)
    with replacing_files(paths, overwrite=overwrite, obsolete=old, claim=claim) as temporaries:
        files = _files_of(temporaries[:-1], placed, shards, metadata, blocks, where)
        on = executor if count > 1 else None
        written = bounded_map(on, _write_file, files, lambda file: file.names)
        for temporary, nbytes in zip(temporaries[:-1], written, strict=True):
            check_size(temporary, nbytes, where)
        weight_map = {
            item.tensor.key: paths[shard].name for item, shard in zip(placed, shards, strict=True)
        }
        content = {
            "metadata": {"total_size": sum(item.nbytes for item in placed)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        temporaries[-1].write_text(text, encoding="utf-8")
    return tuple(paths)


def _files_of(
    paths: Sequence[Path],
    placed: list[_PlacedTensor],
    shards: list[int],
    metadata: dict[str, str],
    blocks: Blocks | SeparableBlocks,
    where: str,
) -> Iterator[_File]:
    """Yield what is written to each path; nothing, where there are more than needed."""
    members: dict[int, list[_PlacedTensor]] = {}
    for item, shard in zip(placed, shards, strict=True):
        members.setdefault(shard, []).append(item)
    for shard, path in enumerate(paths):
        its = members.get(shard, [])
        values = blocks_of(blocks, [item.tensor.key for item in its])
        yield _File(path.absolute(), tuple(its), metadata, values, where, here())


def _index_of(path: Path) -> Path:
    """Return the index of the set that `x.safetensors`, or that index itself, is written as."""
    stem = path.name.removesuffix(INDEX_SUFFIX).removesuffix(SUFFIX)
    return path.with_name(stem + INDEX_SUFFIX)


def _refuse_existing(index: Path) -> None:
    for path in shards_beside(index)[:1]:
        raise OutputError("already exists", where=str(path), hint=say("‹overwrite› replaces it"))


def shards_beside(index: Path) -> list[Path]:
    """Return the files of the set of an index `x.safetensors.index.json`, of whatever number."""
    stem = index.name.removesuffix(INDEX_SUFFIX)
    pattern = re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}" + re.escape(SUFFIX))
    try:
        return sorted(path for path in index.parent.iterdir() if pattern.fullmatch(path.name))
    except OSError:
        return []  # `replacing_files` says what is wrong with the directory
