"""Where a dataset's values lie: layouts, filters, and the B-trees of chunks.

A layout says how many bytes there are, which follows from type and extent too; every chunk's place
in the grid follows from its neighbours'.  All of that must agree.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ckptkit.errors import FormatError, UnsupportedError
from ckptkit.stores.hdf5.bounded import UNDEFINED, BoundedReader, LeftToLibhdf5
from ckptkit.stores.hdf5.messages import Message
from ckptkit.stores.hdf5.types import (
    FILTERS as KNOWN_FILTERS,
)
from ckptkit.stores.hdf5.types import (
    MAX_CHUNK_BYTES,
    MAX_OBJECTS,
    check_place,
    check_stored,
)

_COMPACT, _CONTIGUOUS, _CHUNKED = range(3)
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_NAMES = {_DEFLATE: b"deflate", _SHUFFLE: b"shuffle", _FLETCHER32: b"fletcher32", _LZF: b"lzf"}
_CAN_FAIL = {_DEFLATE, _LZF}  # filters that leave a chunk as it is where they do not shrink it


class Filter(NamedTuple):
    """A filter: its registered number and its parameters."""

    number: int
    values: tuple[int, ...]


class StoredArray(NamedTuple):
    """The dataset whose layout is read: path, shape, what it may grow to, bytes per element."""

    path: str
    shape: tuple[int, ...]
    most: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize


class _Chunked(NamedTuple):
    tree: int
    chunk: tuple[int, ...]


def read_layout(
    source: BoundedReader,
    layout: Message,
    filters: tuple[Filter, ...],
    target: StoredArray,
    fanout: int,
) -> int | None:
    """Return where values lie in one run; None: nowhere yet, in the header itself, or in chunks.

    fanout: K of the B-trees of chunks.
    Raises FormatError, TruncatedError, UnsupportedError, LeftToLibhdf5.
    """
    data, address = layout.data, layout.address
    version = data[0]
    if version in (1, 2):
        kind, place, nbytes = _old(source, data, address, target)
    elif version == 3:
        kind, place, nbytes = _version3(source, data, address, target)
    elif version in (4, 5):
        if len(data) > 1 and data[1] in (_CHUNKED, 3):
            raise LeftToLibhdf5(f"{target.path} has chunks of a later kind, or is virtual")
        kind, place, nbytes = _version3(source, data, address, target)
    else:
        raise source.error(address, f"{target.path} has a layout of version {version}")
    if isinstance(place, _Chunked):
        _check_chunks(source, place, filters, target, fanout, address)
        return None
    if filters:
        raise source.error(address, f"{target.path} has filters, but no chunks")
    if target.most != target.shape:
        raise source.error(address, f"{target.path} may grow to {target.most}, but has no chunks")
    nowhere = kind == _CONTIGUOUS and place == UNDEFINED
    if nbytes != target.nbytes and not (nowhere and not nbytes):
        raise FormatError(
            str(source.byte_range.path),
            f"{target.path} declares more than it stores"
            if target.nbytes > nbytes
            else f"{target.path} stores more than it declares",
            expected=f"{nbytes} bytes",
            found=target.nbytes,
        )
    if nowhere:
        check_stored(source.byte_range.path, target.path, target.nbytes, 0)
    if kind == _COMPACT or nowhere:
        return None
    check_place(source.byte_range, place, nbytes, target.path)
    if nbytes and place + nbytes > source.end:
        raise source.error(address, f"{target.path} lies past the end that the superblock tells")
    source.claim(place, nbytes, f"the values of {target.path}")
    return place


def _version3(
    source: BoundedReader, data: bytes, address: int, target: StoredArray
) -> tuple[int, int | _Chunked, int]:
    """Return the kind, place and number of bytes."""
    kind = data[1]
    if kind == _COMPACT:
        (nbytes,) = struct.unpack_from("<H", data, 2)
        if len(data) < 4 + nbytes:
            raise source.error(address, f"{target.path} reaches past its header")
        source.zeros(data[4 + nbytes :], address, f"what follows the values of {target.path}")
        return kind, 0, nbytes
    if kind == _CONTIGUOUS:
        place, nbytes = struct.unpack_from("<2Q", data, 2)
        source.zeros(data[18:], address, f"the end of the layout of {target.path}")
        return kind, place, nbytes
    if kind != _CHUNKED:
        raise source.error(address, f"{target.path} has a layout of class {kind}")
    rank = data[2]
    (tree,) = struct.unpack_from("<Q", data, 3)
    sizes = struct.unpack_from(f"<{rank}I", data, 11)
    source.zeros(data[11 + 4 * rank :], address, f"the end of the layout of {target.path}")
    return kind, _chunked(source, tree, sizes, address, target), 0


def _old(
    source: BoundedReader, data: bytes, address: int, target: StoredArray
) -> tuple[int, int | _Chunked, int]:
    """Return the kind, place and number of bytes of a layout of version 1 or 2."""
    rank, kind = data[1], data[2]
    source.zeros(data[3:8], address, f"bytes 3 to 8 of the layout of {target.path}")
    at, place = 8, UNDEFINED
    if kind != _COMPACT:
        (place,) = struct.unpack_from("<Q", data, at)
        at += 8
    sizes = struct.unpack_from(f"<{rank}I", data, at)
    at += 4 * rank
    if kind == _COMPACT:
        (nbytes,) = struct.unpack_from("<I", data, at)
        if len(data) < at + 4 + nbytes:
            raise source.error(address, f"{target.path} reaches past its header")
        return kind, 0, nbytes
    if kind == _CONTIGUOUS:
        # sizes in bytes are those of the extent; the last may be that of an element
        if sizes not in (target.shape, (*target.shape, target.itemsize)):
            raise source.error(address, f"{target.path} has a layout of {sizes}")
        return kind, place, target.nbytes
    if kind != _CHUNKED:
        raise source.error(address, f"{target.path} has a layout of class {kind}")
    return kind, _chunked(source, place, sizes, address, target), 0


def _chunked(
    source: BoundedReader, tree: int, sizes: tuple[int, ...], address: int, target: StoredArray
) -> _Chunked:
    path = target.path
    if len(sizes) != len(target.shape) + 1 or len(sizes) < 2 or sizes[-1] != target.itemsize:
        raise source.error(address, f"{path} has chunks of {sizes}, for {target.shape}")
    if 0 in sizes:
        raise source.error(address, f"{path} has chunks of no elements")
    nbytes = math.prod(sizes)
    if nbytes > MAX_CHUNK_BYTES:
        raise FormatError(
            str(source.byte_range.path),
            f"{path}: chunks of {nbytes} bytes, at most {MAX_CHUNK_BYTES} do",
        )
    for size, extent, most in zip(sizes, target.shape, target.most, strict=False):
        if most != UNDEFINED and size > max(most, extent):
            raise source.error(address, f"{path} has chunks of {sizes}, larger than it may be")
    return _Chunked(tree, sizes)


# --- filters --------------------------------------------------------------------------------------


def read_filters(source: BoundedReader, message: Message | None, path: str) -> tuple[Filter, ...]:
    """Return the filters of a dataset, in the order in which they are written.

    Raises FormatError, UnsupportedError.
    """
    if message is None:
        return ()
    data, address = message.data, message.address
    version, count = data[0], data[1]
    if version not in (1, 2) or not 0 < count <= 32:
        raise source.error(address, f"{path} has {count} filters of version {version}")
    at = 2
    if version == 1:
        source.zeros(data[2:8], address, f"bytes 2 to 8 of the filters of {path}")
        at = 8
    filters: list[Filter] = []
    for _ in range(count):
        (number,) = struct.unpack_from("<H", data, at)
        at += 2
        width = 0
        if version == 1 or number >= 256:
            (width,) = struct.unpack_from("<H", data, at)
            at += 2
        flags, size = struct.unpack_from("<2H", data, at)
        at += 4
        name = data[at : at + width]
        at += width
        values = struct.unpack_from(f"<{size}I", data, at)
        at += 4 * size
        if version == 1 and size % 2:
            source.zeros(data[at : at + 4], address, f"what follows a filter of {path}")
            at += 4
        if flags > 1 or (version == 1 and width % 8) or len(name) < width:
            raise source.error(address, f"filter {number} of {path} with flags {flags}")
        if number not in KNOWN_FILTERS:
            raise UnsupportedError(
                f"HDF5 filter {number} on {path}",
                where=str(source.byte_range.path),
                hint="rewrite it with: h5repack -f NONE IN OUT",
            )
        if name.rstrip(b"\0") not in (b"", _NAMES[number]):
            raise source.error(address, f"filter {number} of {path} called {name!r}")
        filters.append(Filter(number, values))
    source.zeros(data[at:], address, f"the end of the filters of {path}")
    if len({f.number for f in filters}) < count:
        raise source.error(address, f"{path} has a filter twice")
    return tuple(filters)


def _check_filters(
    source: BoundedReader,
    filters: tuple[Filter, ...],
    target: StoredArray,
    nbytes: int,
    address: int,
) -> None:
    """Compare parameters with what they must be: a wrong one gives other values, in silence."""
    for number, values in filters:
        good = {
            _DEFLATE: len(values) == 1 and max(values, default=0) <= 9,
            _SHUFFLE: values == (target.itemsize,),
            _FLETCHER32: not values,
            _LZF: len(values) == 3 and values[-1] == nbytes,
        }[number]
        if not good:
            raise source.error(address, f"filter {number} of {target.path} with {values}")


# --- chunks ---------------------------------------------------------------------------------------


def _check_chunks(
    source: BoundedReader,
    layout: _Chunked,
    filters: tuple[Filter, ...],
    target: StoredArray,
    fanout: int,
    address: int,
) -> None:
    """Refuse chunks that do not lie in the grid, whose sizes cannot be, or that share bytes."""
    nbytes = math.prod(layout.chunk)
    _check_filters(source, filters, target, nbytes, address)
    optional = sum(1 << i for i, f in enumerate(filters) if f.number in _CAN_FAIL)
    shrinking = optional
    overhead = 4 * sum(f.number == _FLETCHER32 for f in filters)
    grid = [-(-size // step) for size, step in zip(target.shape, layout.chunk, strict=False)]
    stored = count = 0
    last: tuple[int, ...] = ()
    if layout.tree != UNDEFINED:
        for size, mask, offsets, place in _chunks(source, layout, fanout, target):
            if mask & ~optional:
                raise source.error(place, f"a chunk of {target.path} without filters {mask:#x}")
            plain = mask & shrinking == shrinking
            if (plain and size != nbytes + overhead) or not size:
                raise source.error(place, f"a chunk of {target.path} of {size} bytes")
            inside = all(
                at % step == 0 and at < number * step
                for at, step, number in zip(offsets, layout.chunk, grid, strict=False)
            )
            if not inside or offsets[-1]:
                raise source.error(place, f"a chunk of {target.path} at {offsets}, outside of it")
            if last and offsets <= last:
                raise source.error(place, f"a chunk of {target.path} at {offsets}, out of order")
            last = offsets
            source.read(place + size - 1, 1)
            source.claim(place, size, f"a chunk of {target.path}")
            stored += size
            count += 1
            if count > MAX_OBJECTS:
                raise source.error(place, f"{target.path} has more than {MAX_OBJECTS} chunks")
    check_stored(source.byte_range.path, target.path, target.nbytes, stored)


def _chunks(
    source: BoundedReader, layout: _Chunked, fanout: int, target: StoredArray
) -> Iterator[tuple[int, int, tuple[int, ...], int]]:
    """Yield (stored bytes, filters left out, offsets, place) of every chunk, in order."""
    rank = len(layout.chunk)
    width = 8 + 8 * rank  # bytes of a key
    step = width + 8
    nbytes = 24 + 2 * fanout * step + width
    # node, level above, keys beside it
    stack: list[tuple[int, int, tuple[bytes, bytes] | None]] = [(layout.tree, -1, None)]
    seen: set[int] = set()
    ends: dict[int, tuple[int, int]] = {}
    while stack:
        address, above, beside = stack.pop()
        if address in seen:
            raise source.error(address, "a B-tree that runs in circles")
        seen.add(address)
        source.claim(address, nbytes, f"a B-tree of {target.path}")
        data = source.signed(address, nbytes, b"TREE")
        kind, level, used, left, right = struct.unpack_from("<BBH2Q", data, 4)
        if kind != 1 or (above >= 0 and level != above - 1):
            raise source.error(address, f"a B-tree node of kind {kind} at level {level}")
        if used > 2 * fanout or (not used and (above >= 0 or level)):
            raise source.error(address, f"{used} entries in a B-tree node for {2 * fanout}")
        before, expected = ends.get(level, (UNDEFINED, address))
        if left != before or expected != address:
            raise source.error(address, "a B-tree node whose neighbours are others")
        ends[level] = address, right
        rest = range(24 + used * step + width, nbytes - width, step)
        places = [struct.unpack_from("<Q", data, at)[0] for at in rest]
        source.left_over(places, address, f"a B-tree of {target.path}")
        if not used:
            continue
        keys = [data[at : at + width] for at in range(24, 24 + used * step + 1, step)]
        places = [
            struct.unpack_from("<Q", data, at + width)[0]
            for at in range(24, 24 + used * step, step)
        ]
        offsets = [struct.unpack_from(f"<{rank}Q", key, 8) for key in keys]
        if any(one >= other for one, other in pairwise(offsets)):
            raise source.error(address, "a B-tree node whose keys are out of order")
        if beside is not None and keys[0][8:] != beside[0][8:]:
            raise source.error(address, "a B-tree node whose keys are not those above it")
        if level:
            pairs = pairwise(keys)
            for place, pair in reversed(list(zip(places, pairs, strict=True))):
                stack.append((place, level, pair))
            continue
        for key, at, place in zip(keys, offsets, places, strict=False):
            size, mask = struct.unpack_from("<2I", key)
            yield size, mask, at, place
    for address, right in ends.values():
        if right != UNDEFINED:
            raise source.error(address, "a B-tree node whose neighbours are others")
