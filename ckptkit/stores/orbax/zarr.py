"""The metadata of a zarr array, versions 2 (`.zarray`) and 3 (`zarr.json`), as TensorStore has it.

Both say shape, dtype, the shape of chunks, how a chunk's key is made of its place in the grid, what
stands for chunks that were never written (the fill value), and the codecs of a chunk:

- version 2: one compressor or none, and the order of elements, C or F; `"chunks": [4, 3]`, keys
  "0.0"; dtypes as numpy spells them ("<f4"), or by name ("bfloat16");
- version 3: a list; first what acts on arrays (transpose), then what makes bytes of them (`bytes`,
  or `sharding_indexed`: smaller chunks in one, with an index of (offset, length) behind or before
  them), then what acts on bytes (zstd, gzip, blosc, crc32c); keys "c/0/0".

Chunks at the edge are stored whole.  What numpy's dtypes or these codecs do not cover is listed, as
a dtype "zarr#NAME" or with its codec, and its values are refused.
Source: zarr-specs v2, v3 and its codecs; tensorstore/driver/zarr{,3}/.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ckptkit.dtypes import DTYPES, itemsize
from ckptkit.errors import FormatError
from ckptkit.stores.containers import strict_json
from ckptkit.stores.orbax.layout import ZARRAY

MAX_METADATA = 1 << 20  # bytes
_MAX_RANK = 32  # of arrays, in TensorStore
_MAX_SHARDING = 4  # shards within each other
_MAX_SIZE = 1 << 62  # elements, and bytes
_NUMPY = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_SIZES = {
    "bool": (1,),
    "int": (1, 2, 4, 8),
    "uint": (1, 2, 4, 8),
    "float": (2, 4, 8),
    "complex": (8, 16),
}


class Codec(NamedTuple):
    """Something that acts on the bytes of a chunk: a name of `codecs.decompress`, or crc32c."""

    name: str


class Chunking(NamedTuple):
    """How an array, or a chunk of a shard, becomes bytes.

    order: axes in the order in which they are stored, () for as they are.  byteorder: little or
    big.  sharding: of the smaller chunks, None where this is none.  codecs: in the order in which
    they were applied.  unread: what is not read of it, "" for nothing.
    """

    order: tuple[int, ...]
    byteorder: str
    sharding: Sharding | None
    codecs: tuple[Codec, ...]
    unread: str = ""


class Sharding(NamedTuple):
    """Smaller chunks of a chunk, and where their index is.

    index_checksum: whether a crc32c follows the index.  at_start: whether it is before the chunks.
    """

    chunks: tuple[int, ...]
    inner: Chunking
    index_byteorder: str
    index_checksum: bool
    at_start: bool


class ArrayMetadata(NamedTuple):
    """What a zarr array says of itself.

    prefix, separator: a chunk's key is the prefix and the numbers of its place, joined.
    fill: the value of chunks that are not there.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    prefix: str
    separator: str
    fill: Any
    chunking: Chunking

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-n // step) for n, step in zip(self.shape, self.chunks, strict=True))

    def chunk_key(self, place: tuple[int, ...]) -> str:
        """Return the key of a chunk, below that of the array."""
        numbers = [str(number) for number in place]
        if self.prefix:
            return self.separator.join((self.prefix, *numbers))
        return self.separator.join(numbers) or "0"


def read_metadata(name: str, data: bytes, where: str) -> ArrayMetadata:
    """Return the metadata of an array.

    Args:
        name: `.zarray` or `zarr.json`.
        data: its content.
        where: for messages.

    Raises:
        FormatError: it is no such metadata.
    """
    found = strict_json.loads(data, where, max_bytes=MAX_METADATA)
    if not isinstance(found, dict):
        raise FormatError(where, "the metadata of an array is no JSON object")
    version = 2 if name == ZARRAY else 3
    if found.get("zarr_format") != version:
        raise FormatError(where, "zarr_format", expected=version, found=found.get("zarr_format"))
    array = (_version2 if version == 2 else _version3)(found, where)
    width = itemsize(array.dtype) or 1
    for what, shape in (("an array", array.shape), ("chunks", array.chunks)):
        if math.prod(shape) * width >= _MAX_SIZE:
            raise FormatError(where, f"{what} of {math.prod(shape):,} elements")
    return array


def _version2(found: dict[str, Any], where: str) -> ArrayMetadata:
    shape = _lengths(found, "shape", where, 0)
    chunks = _lengths(found, "chunks", where, 1)
    if len(chunks) != len(shape):
        raise FormatError(where, f"chunks of {len(chunks)} axes", expected=len(shape))
    dtype, byteorder = _dtype2(found.get("dtype"))
    order = found.get("order")
    if order not in ("C", "F"):
        raise FormatError(where, "order", expected="C or F", found=repr(order))
    separator = found.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise FormatError(where, "dimension_separator", expected=". or /", found=repr(separator))
    compressor = found.get("compressor")
    unread = "filters" if found.get("filters") else ""
    codecs: tuple[Codec, ...] = ()
    if compressor is not None:
        if not isinstance(compressor, dict) or not isinstance(compressor.get("id"), str):
            raise FormatError(where, "a compressor without a name")
        codecs = (Codec(compressor["id"]),)
    axes = tuple(reversed(range(len(shape)))) if order == "F" else ()
    chunking = Chunking(axes, byteorder, None, codecs, unread)
    return ArrayMetadata(dtype, shape, chunks, "", separator, found.get("fill_value"), chunking)


def _dtype2(dtype: Any) -> tuple[str, str]:
    """Return (our name, byte order) of a dtype of version 2."""
    if isinstance(dtype, str):
        if dtype in DTYPES and itemsize(dtype):
            return dtype, "little"
        order, kind, width = dtype[:1], _NUMPY.get(dtype[1:2], ""), dtype[2:]
        if kind and order in ("<", ">", "|") and width.isascii() and width.isdigit():
            size = int(width)
            if size in _SIZES[kind] and (order != "|" or size == 1):
                name = kind if kind == "bool" else f"{kind}{8 * size}"
                return name, "big" if order == ">" else "little"
    return f"zarr#{dtype}", "little"


def _version3(found: dict[str, Any], where: str) -> ArrayMetadata:
    if found.get("node_type") != "array":
        raise FormatError(where, "node_type", expected="array", found=found.get("node_type"))
    shape = _lengths(found, "shape", where, 0)
    grid = _named(found.get("chunk_grid"), where)
    if grid[0] != "regular":
        raise FormatError(where, "chunk_grid", expected="regular", found=grid[0])
    chunks = _lengths(grid[1], "chunk_shape", where, 1)
    if len(chunks) != len(shape):
        raise FormatError(where, f"chunks of {len(chunks)} axes", expected=len(shape))
    name = found.get("data_type")
    dtype = name if isinstance(name, str) and itemsize(name) else f"zarr#{name}"
    keys, settings = _named(found.get("chunk_key_encoding"), where)
    if keys not in ("default", "v2"):
        raise FormatError(where, "chunk_key_encoding", expected="default or v2", found=keys)
    separator = settings.get("separator", "/" if keys == "default" else ".")
    if separator not in (".", "/"):
        raise FormatError(where, "separator", expected=". or /", found=repr(separator))
    if found.get("storage_transformers"):
        raise FormatError(where, "an array with storage_transformers")
    chunking = _chunking(found.get("codecs"), chunks, where, 0)
    prefix = "c" if keys == "default" else ""
    return ArrayMetadata(dtype, shape, chunks, prefix, separator, found.get("fill_value"), chunking)


def _chunking(codecs: Any, chunks: tuple[int, ...], where: str, depth: int) -> Chunking:
    """Return what a list of codecs of version 3 makes of a chunk."""
    if not isinstance(codecs, list) or not codecs:
        raise FormatError(where, "an array without codecs")
    if depth > _MAX_SHARDING:
        raise FormatError(where, f"more than {_MAX_SHARDING} shards within each other")
    order: tuple[int, ...] = tuple(range(len(chunks)))
    byteorder, unread = "", ""
    sharding: Sharding | None = None
    behind: list[Codec] = []
    for codec in codecs:
        name, settings = _named(codec, where)
        if name == "transpose" and not byteorder and sharding is None:
            axes = _axes(settings.get("order"), len(chunks), where)
            order = tuple(order[axis] for axis in axes)
        elif name == "bytes" and not byteorder and sharding is None:
            byteorder = settings.get("endian", "little")
            if byteorder not in ("little", "big"):
                raise FormatError(where, "endian", expected="little or big", found=byteorder)
        elif name == "sharding_indexed" and not byteorder and sharding is None:
            stored = tuple(chunks[axis] for axis in order)
            sharding = _sharding(settings, stored, where, depth)
            unread = unread or sharding.inner.unread
        elif byteorder or sharding is not None:
            behind.append(Codec(name))
        else:
            unread = name
    if not byteorder and sharding is None and not unread:
        raise FormatError(where, "codecs that make no bytes of an array")
    plain = order == tuple(range(len(chunks)))
    return Chunking(() if plain else order, byteorder or "little", sharding, tuple(behind), unread)


def _sharding(
    settings: dict[str, Any], chunks: tuple[int, ...], where: str, depth: int
) -> Sharding:
    inner = _lengths(settings, "chunk_shape", where, 1)
    if len(inner) != len(chunks) or any(n % step for n, step in zip(chunks, inner, strict=True)):
        raise FormatError(where, f"chunks of {inner} in a shard of {chunks}")
    chunking = _chunking(settings.get("codecs"), inner, where, depth + 1)
    index = _chunking(settings.get("index_codecs"), (*inner, 2), where, _MAX_SHARDING)
    names = [codec.name for codec in index.codecs]
    if index.order or index.sharding or names not in ([], ["crc32c"]):
        chunking = chunking._replace(unread=f"an index of {', '.join(names)}")
    location = settings.get("index_location", "end")
    if location not in ("start", "end"):
        raise FormatError(where, "index_location", expected="start or end", found=location)
    return Sharding(inner, chunking, index.byteorder, bool(names), location == "start")


def _named(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return (name, configuration) of an extension point of version 3."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        settings = value.get("configuration", {})
        if isinstance(settings, dict):
            return value["name"], settings
    raise FormatError(where, f"no name and configuration: {str(value)[:40]}")


def _lengths(found: dict[str, Any], key: str, where: str, least: int) -> tuple[int, ...]:
    value = found.get(key)
    if (
        not isinstance(value, list)
        or len(value) > _MAX_RANK
        or any(type(n) is not int or not least <= n < _MAX_SIZE for n in value)
    ):
        raise FormatError(where, f"{key} is no list of lengths: {str(value)[:40]}")
    return tuple(value)


def _axes(order: Any, rank: int, where: str) -> tuple[int, ...]:
    if order == "C":
        return tuple(range(rank))
    if order == "F":
        return tuple(reversed(range(rank)))
    is_list = isinstance(order, list) and all(type(axis) is int for axis in order)
    if not is_list or sorted(order) != list(range(rank)):
        raise FormatError(where, f"no order of {rank} axes: {str(order)[:40]}")
    return tuple(order)
