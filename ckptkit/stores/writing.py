"""What every writer is given: a list of tensors known beforehand, and blocks of values on demand.

A writer lays its file out from the list alone, then asks for the values tensor by tensor, so memory
does not grow with the model.  String tensors are asked for twice (their lengths come first in a
file), so `blocks` must give the same values each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckptkit._io.read_buffer import Bytes
from ckptkit.dtypes import DTYPES, itemsize, numpy_dtype
from ckptkit.errors import OutputError, UsageError
from ckptkit.stores import metadata as tensor_metadata
from ckptkit.text import count_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


class TensorToWrite(NamedTuple):
    """One tensor to write.

    key: its name in the file.  dtype, shape: as in `TensorSpec`.  The rest is kept by formats with
    metadata.  name: the readable name, where it is not the key.  role: one of `names.ROLES`.
    slot_of: readable name of the variable that a slot belongs to.
    checkpoint_key: the tensor's key in the tensor bundle that it came from.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    name: str = ""
    role: str = "weight"
    slot_of: str | None = None
    checkpoint_key: str | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Blocks = Callable[[str], Iterator[tuple[int, "Array"]]]
"""blocks(key) yields (start, values) in order over the whole tensor, as `Store.blocks` does."""


StoredBytes = Callable[[str, str], Iterator[Bytes] | None]
"""`blocks.stored_bytes(key, dtype)`: the bytes of a key, where a file holds them as they are to be
written; each piece lasts until the next.  None where values have to be made.
"""


class SeparableBlocks(Protocol):
    """Blocks of which those of some keys can be sent to a worker."""

    def __call__(self, key: str) -> Iterator[tuple[int, Array]]:
        """Yield the values of a key, as `Store.blocks` does.

        Args:
            key: of a tensor.

        Yields:
            (start, values) in order over the whole tensor.
        """

    def only(self, keys: Iterable[str]) -> Blocks:
        """Take some keys out of what a worker is sent.

        Args:
            keys: of tensors.

        Returns:
            What gives the values of these keys alone.
        """


def blocks_of(blocks: Blocks | SeparableBlocks, keys: Iterable[str]) -> Blocks:
    """Return what gives the values of these keys, as little else as can be told apart."""
    only: Callable[[Iterable[str]], Blocks] | None = getattr(blocks, "only", None)
    return blocks if only is None else only(keys)


def checked_tensors(
    tensors: Iterable[TensorToWrite], where: str, stored: Collection[str] = ()
) -> list[TensorToWrite]:
    """Return the tensors sorted by key; raises OutputError for a key given twice or a bad shape.

    stored: dtypes without values that the format has a form for.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.key)
    for tensor, following in pairwise(ordered):
        if tensor.key == following.key:
            raise OutputError(
                f"two tensors would be written as {tensor.key!r}",
                where=where,
                hint="map one of them to another name",
            )
    for tensor in ordered:
        if any(size < 0 for size in tensor.shape):
            raise OutputError(f"{tensor.key!r} has the shape {tensor.shape}", where=where)
        row = DTYPES.get(tensor.dtype)
        if row is None or (row.kind == "opaque" and tensor.dtype not in stored):
            raise OutputError(
                f"{tensor.key!r} is of dtype {tensor.dtype}, which has no form in other formats",
                where=where,
                hint="leave it out",
            )
    return ordered


def checked_blocks(tensor: TensorToWrite, blocks: Blocks, where: str) -> Iterator[Array]:
    """Yield the blocks of `tensor`, making sure that they cover it once, in order, in its dtype.

    Raises OutputError otherwise.
    """
    import numpy as np

    dtype = np.dtype(object) if tensor.dtype == "string" else numpy_dtype(tensor.dtype)
    done = 0
    for start, values in blocks(tensor.key):
        if start != done or values.ndim != 1:
            raise OutputError(
                f"block of {tensor.key!r} starts at element {start}, not {done}", where=where
            )
        if values.dtype != dtype:
            raise OutputError(
                f"block of {tensor.key!r} is of dtype {values.dtype}, not {dtype}", where=where
            )
        done += len(values)
        yield values
    if done != tensor.size:
        raise _wrong_size(tensor, done, where)


def _wrong_size(tensor: TensorToWrite, done: int, where: str) -> OutputError:
    return OutputError(
        f"blocks of {tensor.key!r} hold {done} of {tensor.size} elements", where=where
    )


def raw_bytes(values: Array) -> Array:
    """Return the little-endian bytes of `values` (1-D, fixed size) as a uint8 array."""
    import sys

    import numpy as np

    if sys.byteorder == "big":
        values = values.byteswap()
    return np.ascontiguousarray(values).view(np.uint8)


def element_bytes(value: object, tensor: TensorToWrite, where: str) -> bytes:
    """Return one element of a string tensor; raises OutputError if it is no bytes."""
    if not isinstance(value, bytes):
        raise OutputError(
            f"{tensor.key!r} holds a {type(value).__name__} among its strings", where=where
        )
    return value


def plan_shards(
    sizes: Sequence[int], shard_size: int | None, count: int | None = None
) -> list[int]:
    """Return the shard of each item, filled in order up to `shard_size` bytes (None: one shard).

    An item larger than that has a shard for itself.  count: of shards that are about as large as
    one another, in place of a size; each has an item.

    Raises UsageError where there are fewer items than shards.
    """
    if count is not None:
        return _even_shards(sizes, count)
    shards: list[int] = []
    shard = filled = 0
    for size in sizes:
        if filled and shard_size is not None and filled + size > shard_size:
            shard, filled = shard + 1, 0
        filled += size
        shards.append(shard)
    return shards


def _even_shards(sizes: Sequence[int], count: int) -> list[int]:
    if count > len(sizes):
        tensors = count_text(len(sizes), "tensor")
        raise UsageError(say(f"‹shards› {count}: more than the {tensors} to write"))
    shards: list[int] = []
    left = sum(sizes)
    shard = filled = 0
    for number, size in enumerate(sizes):
        # Where half of an item or more would be over what is a fair part of the rest, it is begun
        # a new shard with; so is one where the rest is just enough for one item each.
        fair = (left + filled) / (count - shard)
        is_over = 2 * (filled + size - fair) > size
        is_last_chance = len(sizes) - number <= count - shard - 1
        if number and shard + 1 < count and (is_over or is_last_chance):
            shard, filled = shard + 1, 0
        filled += size
        left -= size
        shards.append(shard)
    return shards


class StringSizes(NamedTuple):
    """What a pass over a string tensor finds: all bytes, the longest element, NUL at an end."""

    total: int
    longest: int
    ends_in_nul: bool


def measure_strings(tensor: TensorToWrite, blocks: Blocks, where: str) -> StringSizes:
    """Return the sizes of the elements of a string tensor."""
    total = longest = 0
    ends_in_nul = False
    for values in checked_blocks(tensor, blocks, where):
        for value in values:
            data = element_bytes(value, tensor, where)
            total += len(data)
            longest = max(longest, len(data))
            ends_in_nul = ends_in_nul or data.endswith(b"\0")
    return StringSizes(total, longest, ends_in_nul)


def numeric_chunks(
    tensor: TensorToWrite, blocks: Blocks | SeparableBlocks, where: str
) -> Iterator[Bytes]:
    """Yield the little-endian bytes of a tensor of fixed-size elements; a piece is soon reused.

    Where `blocks` has the bytes as they are to be written (`StoredBytes`), no values are made.
    """
    stored: StoredBytes | None = getattr(blocks, "stored_bytes", None)
    pieces = None if stored is None else stored(tensor.key, tensor.dtype)
    if pieces is None:
        for values in checked_blocks(tensor, blocks, where):
            data = raw_bytes(values)
            yield Bytes(data.data, int(data.ctypes.data))
        return
    done = 0
    for piece in pieces:
        done += len(piece.view)
        yield piece
    width = itemsize(tensor.dtype)
    if done != tensor.size * width:
        raise _wrong_size(tensor, done // width, where)


def encoded_string_chunks(tensor: TensorToWrite, blocks: Blocks, where: str) -> Iterator[bytes]:
    """Yield the bytes of a string tensor as `stores.metadata` has them: end offsets, then data."""
    end = written = 0
    for values in checked_blocks(tensor, blocks, where):
        ends = bytearray()
        for value in values:
            end += len(element_bytes(value, tensor, where))
            ends += end.to_bytes(8, "little")
        yield bytes(ends)
    for values in checked_blocks(tensor, blocks, where):
        data = b"".join(element_bytes(value, tensor, where) for value in values)
        written += len(data)
        yield data
    if written != end:
        raise OutputError(f"the strings of {tensor.key!r} changed while written", where=where)


def metadata_of(tensor: TensorToWrite, *, encoded: bool) -> tensor_metadata.TensorMetadata:
    """Return what is kept of a tensor beside its values."""
    return tensor_metadata.TensorMetadata(
        tensor.name or tensor.key,
        tensor.role,
        tensor.slot_of,
        tensor.checkpoint_key,
        tensor.dtype if encoded else None,
        tensor.shape if encoded else None,
    )
