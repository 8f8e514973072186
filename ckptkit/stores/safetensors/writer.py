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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.atomic import free_count, replacing, replacing_files
from ckptkit._io.claims import Claim, claiming
from ckptkit._io.filling import filling
from ckptkit.dtypes import itemsize
from ckptkit.errors import OutputError, UsageError
from ckptkit.stores import metadata as tensor_metadata
from ckptkit.stores.safetensors.header import CODES, MAX_HEADER, METADATA
from ckptkit.stores.safetensors.reader import INDEX_SUFFIX
from ckptkit.stores.writing import (
    Blocks,
    TensorToWrite,
    checked_tensors,
    encoded_string_chunks,
    measure_strings,
    metadata_of,
    numeric_chunks,
    plan_shards,
)
from ckptkit.wording import say

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
    blocks: Blocks,
    *,
    shard_size: int | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    destined: Path | None = None,
) -> tuple[Path, ...]:
    """Write the tensors to one safetensors file, or to several and an index.

    Args:
        path: `x.safetensors`, or `x.safetensors.index.json` for several files
            `x-00001-of-00002.safetensors` beside it, which `shard_size` asks for as well.
        tensors: what to write; a file has those of wide dtypes first, then in the order of keys.
        blocks: gives the values of a key.
        shard_size: bytes of values per file; None sets no limit.
        metadata: more entries for `__metadata__`.
        overwrite: replace files that are there.
        destined: where the files will be moved to: the names of shards are free there too.

    Returns:
        The files written, an index last.

    Raises:
        OutputError: a file is there already or cannot be written, two tensors have one key, or the
            values are not those announced.
        UsageError: `metadata` has the key that this package keeps its own under.
    """
    where = str(path)
    metadata = dict(metadata or {})
    if tensor_metadata.KEY in metadata:
        raise UsageError(f"the metadata key {tensor_metadata.KEY!r} is taken")
    placed = [_place(tensor, blocks, where) for tensor in checked_tensors(tensors, where)]
    placed.sort(key=lambda item: (-itemsize(item.tensor.dtype), item.tensor.key))
    if shard_size is None and not path.name.endswith(INDEX_SUFFIX):
        with replacing(path, overwrite=overwrite) as temporary:
            _write_file(temporary, placed, metadata, blocks, where)
        return (path,)
    index = _index_of(path)
    if not overwrite:
        _refuse_existing(index)
    # Which names are free is asked by whoever alone may take them.
    with claiming(index) as claim:
        if not overwrite:
            _refuse_existing(index)
        return _write_files(
            path, placed, metadata, blocks, shard_size, overwrite, destined or path, claim
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


def _write_file(
    path: Path, placed: list[_PlacedTensor], metadata: dict[str, str], blocks: Blocks, where: str
) -> None:
    header = _header(placed, metadata, where)
    with filling(path, len(header) + sum(item.nbytes for item in placed)) as file:
        file.write(header)
        for item in placed:
            for chunk in _chunks(item.tensor, blocks, where):
                file.write(chunk)


def _chunks(tensor: TensorToWrite, blocks: Blocks, where: str) -> Iterator[bytes | memoryview]:
    if tensor.dtype == "string":
        yield from encoded_string_chunks(tensor, blocks, where)
    else:
        for data in numeric_chunks(tensor, blocks, where):
            yield data.data


def _header(placed: list[_PlacedTensor], metadata: dict[str, str], where: str) -> bytes:
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
    metadata: dict[str, str],
    blocks: Blocks,
    shard_size: int | None,
    overwrite: bool,
    destined: Path,
    claim: Claim,
) -> tuple[Path, ...]:
    index = _index_of(path)
    stem = index.name.removesuffix(INDEX_SUFFIX)
    old = shards_beside(index) if overwrite else []
    shards = plan_shards([item.nbytes for item in placed], shard_size)

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
        for number, temporary in enumerate(temporaries[:-1]):
            its = [item for item, shard in zip(placed, shards, strict=True) if shard == number]
            _write_file(temporary, its, metadata, blocks, where)
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
