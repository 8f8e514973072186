"""Values of a zarr array: from its chunks, decoded and put in their places.

A chunk is decoded whole, since its codecs know no part of it.  So a tensor is read in bands of
whole chunks along its first axis, and the last band is kept, for the next span is often in it.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io import crc32c
from ckptkit._io.file_states import is_file
from ckptkit._io.files import read_exact
from ckptkit.dtypes import itemsize, kind, numpy_dtype
from ckptkit.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.orbax.codecs import decompress
from ckptkit.stores.orbax.ocdbt import StoredValue
from ckptkit.stores.orbax.zarr import ArrayMetadata, Chunking, Sharding

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_ABSENT = (1 << 64) - 1  # offset and length of a chunk that a shard does not have
_KEPT_BYTES = 1 << 28  # of the band that is kept
_MAX_CHUNKS = 50_000_000


class ZarrArray(NamedTuple):
    """An array and where its chunks are.

    values: of its chunks, by key (`ArrayMetadata.chunk_key`).  needs_all: whether its writer left
    no chunk out, so that one that is not there is lost.  where: for messages.
    """

    metadata: ArrayMetadata
    values: Mapping[str, StoredValue]
    needs_all: bool
    where: str
    most_bytes: int = 0

    def blocks(self, max_elements: int) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) as `Store.blocks` promises."""
        size = self.metadata.size
        if not size:
            return
        self.check()
        row = max(1, math.prod(self.metadata.shape[1:]))
        for first, band in self._bands(0, self.metadata.shape[0] if self.metadata.shape else 1):
            for start in range(0, len(band), max_elements):
                yield first * row + start, band[start : start + max_elements]

    def read(self, start: int, stop: int) -> Array:
        """Return elements [start, stop)."""
        import numpy as np

        self.check()
        found = np.empty(stop - start, numpy_dtype(self.metadata.dtype))
        if start == stop:
            return found
        row = max(1, math.prod(self.metadata.shape[1:]))
        for first, band in self._bands(start // row, -(-stop // row)):
            at = first * row
            low, high = max(start, at), min(stop, at + len(band))
            found[low - start : high - start] = band[low - at : high - at]
        return found

    def check(self) -> None:
        """Raise UnsupportedError for what is not read, FormatError for more than was written."""
        array = self.metadata
        if kind(array.dtype) == "opaque":
            raise UnsupportedError(f"dtype {array.dtype} has no array form", where=self.where)
        if array.chunking.unread:
            raise UnsupportedError(
                f"values stored by {array.chunking.unread}, which is not read", where=self.where
            )
        for size in (array.size, math.prod(array.chunks)):  # one at the edge is whole all the same
            nbytes = size * itemsize(array.dtype)
            if nbytes > self.most_bytes:
                raise FormatError(
                    self.where, f"an array or chunk of {nbytes:,} bytes, far more than is stored"
                )
        if math.prod(array.grid) > _MAX_CHUNKS:
            raise UnsupportedError(
                f"an array in {math.prod(array.grid):,} chunks", where=self.where
            )

    def _bands(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield (first row, values) of whole rows of chunks that hold rows [start, stop)."""
        array = self.metadata
        step = array.chunks[0] if array.chunks else 1
        for number in range(start // step, -(-stop // step)):
            yield number * step, self._band(number)

    def _band(self, number: int) -> Array:
        kept: _LastBand | None = getattr(_last, "band", None)
        if kept is not None and kept.array is self and kept.number == number:
            return kept.values
        values = self._decoded_band(number)
        _last.band = _LastBand(self, number, values) if values.nbytes <= _KEPT_BYTES else None
        return values

    def _decoded_band(self, number: int) -> Array:
        import numpy as np

        array = self.metadata
        if not array.shape:
            return self._chunk(()).reshape(-1)
        first = number * array.chunks[0]
        rows = min(array.chunks[0], array.shape[0] - first)
        grid = array.grid[1:]
        if math.prod(grid) == 1:
            chunk = self._chunk((number, *(0 for _ in grid)))
            inside = chunk[tuple(map(slice, (rows, *array.shape[1:])))]
            return inside.reshape(-1)
        band = np.empty((rows, *array.shape[1:]), numpy_dtype(array.dtype))
        for place in itertools.product(*map(range, grid)):
            chunk = self._chunk((number, *place))
            starts = [at * step for at, step in zip(place, array.chunks[1:], strict=True)]
            sides = zip((0, *starts), (rows, *array.chunks[1:]), strict=True)
            part = band[tuple(slice(start, start + size) for start, size in sides)]
            part[...] = chunk[tuple(map(slice, part.shape))]
        return band.reshape(-1)

    def _chunk(self, place: tuple[int, ...]) -> Array:
        key = self.metadata.chunk_key(place)
        value = self.values.get(key)
        where = f"{self.where}/{key}"
        if value is None:
            return self._absent(self.metadata.chunks, where)
        return self._decode(
            _bytes_of(value, where), self.metadata.chunking, self.metadata.chunks, where
        )

    def _absent(self, shape: tuple[int, ...], where: str) -> Array:
        """Return a chunk that was not written, for all its values are the fill value."""
        import numpy as np

        if self.needs_all:
            raise TruncatedError(
                where,
                "a chunk of values is missing",
                hint="the save was not finished or not all files were copied",
            )
        return np.full(shape, _fill_value(self.metadata, where), numpy_dtype(self.metadata.dtype))

    def _decode(self, data: bytes, chunking: Chunking, shape: tuple[int, ...], where: str) -> Array:
        """Return the values of a chunk of this shape."""
        stored = tuple(shape[axis] for axis in chunking.order) if chunking.order else shape
        if chunking.sharding is not None:
            plain = _plain_bytes(data, chunking, None, where)
            chunk = self._shard(plain, chunking.sharding, stored, where)
        else:
            nbytes = math.prod(shape) * itemsize(self.metadata.dtype)
            plain = _plain_bytes(data, chunking, nbytes, where)
            chunk = _as_values(plain, self.metadata.dtype, chunking.byteorder).reshape(stored)
        if not chunking.order:
            return chunk
        return chunk.transpose([chunking.order.index(axis) for axis in range(len(shape))])

    def _shard(
        self, data: bytes | bytearray, sharding: Sharding, shape: tuple[int, ...], where: str
    ) -> Array:
        import numpy as np

        grid = tuple(n // step for n, step in zip(shape, sharding.chunks, strict=True))
        index = _index(data, sharding, math.prod(grid), where)
        if len(index) == 1:
            return self._inner(data, index[0], sharding, where)
        chunk = np.empty(shape, numpy_dtype(self.metadata.dtype))
        for place, entry in zip(itertools.product(*map(range, grid)), index, strict=True):
            to = tuple(
                slice(at * step, (at + 1) * step)
                for at, step in zip(place, sharding.chunks, strict=True)
            )
            chunk[to] = self._inner(data, entry, sharding, f"{where}{list(place)}")
        return chunk

    def _inner(
        self, data: bytes | bytearray, entry: tuple[int, int], sharding: Sharding, where: str
    ) -> Array:
        offset, nbytes = entry
        if offset == nbytes == _ABSENT:
            return self._absent(sharding.chunks, where)
        part = data[offset : offset + nbytes]
        if len(part) != nbytes:
            raise FormatError(where, "a chunk that reaches past its shard")
        return self._decode(bytes(part), sharding.inner, sharding.chunks, where)


class _LastBand(NamedTuple):
    array: ZarrArray
    number: int
    values: Array


_last = threading.local()


def _bytes_of(value: StoredValue, where: str) -> bytes:
    if value.path is None:
        return value.inline
    if not is_file(value.path):
        raise TruncatedError(
            where,
            f"the file with its values is missing: {value.path.name}",
            hint="the save was not finished or not all files were copied",
        )
    return read_exact(value.path, value.offset, value.nbytes)


def _plain_bytes(
    data: bytes, chunking: Chunking, nbytes: int | None, where: str
) -> bytes | bytearray:
    """Return bytes with all codecs undone; nbytes: how many they must be, None for any number."""
    codecs = [codec.name for codec in chunking.codecs]
    plain: bytes | bytearray = data
    while codecs and codecs[-1] == "crc32c":
        codecs.pop()
        stored = int.from_bytes(plain[-4:], "little")
        plain = plain[:-4]
        found = crc32c.value(bytes(plain))
        if len(plain) + 4 > len(data) or stored != found:
            raise ChecksumError(where, "crc32c", expected=f"{stored:#010x}", found=f"{found:#010x}")
    if not codecs:
        if nbytes is not None and len(plain) != nbytes:
            raise FormatError(where, "bytes of a chunk", expected=nbytes, found=len(plain))
        return plain
    if len(codecs) > 1 or nbytes is None:
        raise UnsupportedError(f"values stored by {' and '.join(codecs)}", where=where)
    return decompress(codecs[0], bytes(plain), nbytes, where)


def _index(
    data: bytes | bytearray, sharding: Sharding, count: int, where: str
) -> list[tuple[int, int]]:
    """Return (offset, length) of each chunk of a shard; a checksum is compared."""
    nbytes = 16 * count + (4 if sharding.index_checksum else 0)
    if len(data) < nbytes:
        raise TruncatedError(where, "a shard without its index", expected=nbytes, found=len(data))
    index = bytes(data[:nbytes] if sharding.at_start else data[len(data) - nbytes :])
    if sharding.index_checksum:
        stored, found = int.from_bytes(index[-4:], "little"), crc32c.value(index[:-4])
        if stored != found:
            raise ChecksumError(
                where,
                "crc32c of a shard's index",
                expected=f"{stored:#010x}",
                found=f"{found:#010x}",
            )
    order: Any = sharding.index_byteorder
    numbers = [int.from_bytes(index[at : at + 8], order) for at in range(0, 16 * count, 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _as_values(data: bytes | bytearray, dtype: str, byteorder: str) -> Array:
    import numpy as np

    values = np.frombuffer(data, numpy_dtype(dtype))
    width = itemsize(dtype) // (2 if kind(dtype) == "complex" else 1)
    if width > 1 and byteorder != sys.byteorder:
        swapped = np.frombuffer(data, f"u{width}").byteswap()
        return swapped.view(numpy_dtype(dtype))
    return values


def _fill_value(array: ArrayMetadata, where: str) -> Any:
    """Return the value that stands for what was not written; None stands for zero."""
    import numpy as np

    fill = array.fill
    if fill is None:
        return 0
    try:
        if isinstance(fill, str) and fill.startswith("0x"):  # the bits of a number
            width = itemsize(array.dtype)
            return np.frombuffer(
                int(fill, 16).to_bytes(width, sys.byteorder), numpy_dtype(array.dtype)
            )[0]
        if isinstance(fill, list) and kind(array.dtype) == "complex":
            return complex(float(fill[0]), float(fill[1]))
        if isinstance(fill, str):
            return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[fill]
        if isinstance(fill, int | float):
            return np.array(fill).astype(numpy_dtype(array.dtype))
    except (KeyError, ValueError, OverflowError, IndexError, TypeError):
        pass
    raise UnsupportedError(f"a fill value of {str(fill)[:40]}", where=where)
