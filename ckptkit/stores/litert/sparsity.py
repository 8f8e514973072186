"""Sparse tensors of LiteRT models: the values that are not zero, and a tree that says where.

    SparsityParameters   traversal_order, block_map, dim_metadata
    DimensionMetadata    format (0: dense, 1: compressed), dense_size, array_segments, array_indices

An axis may be cut into blocks (`block_map`), which are axes of their own behind those of the
tensor.  Axis after axis, in the order of `traversal_order`, each node has `dense_size` children, or
those that `array_indices` has from `array_segments[node]` on, up to the next.  The last level's
nodes are the values, in the order in which they are stored.
Source: tensorflow/compiler/mlir/lite/schema/schema.fbs;
tensorflow/compiler/mlir/lite/kernels/internal/utils/sparsity_format_converter.cc.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.errors import FormatError, UnsupportedError
from ckptkit.stores.litert.flatbuffer import Flatbuffer

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_ORDER, _BLOCKS, _LEVELS = 0, 1, 2  # fields of SparsityParameters
_FORMAT, _SIZE, _SEGMENTS, _INDICES = 0, 1, 2, 4  # of DimensionMetadata; a union's value is next
_VECTORS = {1: "i", 2: "H", 3: "B"}  # of the unions: Int32Vector, Uint16Vector, Uint8Vector
MAX_ZEROS = 1000  # for each value, so that a small file stands for no immense tensor
_FEW_ELEMENTS = 1 << 16


class _Level(NamedTuple):
    """One axis as it is stored.  segments, indices: () of one that is dense."""

    size: int
    is_compressed: bool
    segments: tuple[int, ...]
    indices: tuple[int, ...]


def places_of_values(
    file: Flatbuffer, table: int, shape: tuple[int, ...], counts: range, where: str
) -> Array:
    """Return where the values of a sparse tensor belong.

    Args:
        file: the model.
        table: place of the tensor's SparsityParameters.
        shape: of the tensor.
        counts: how many values there may be; the last byte of small ones may not be full.
        where: the tensor, for messages.

    Returns:
        int64, 1-D: for each value the index of its element, in row-major order.

    Raises:
        FormatError: the description contradicts itself, the shape, or the number of values.
        UnsupportedError: there are far more zeros than values.
    """
    import numpy as np

    size, count = math.prod(shape), counts[-1]
    if size > MAX_ZEROS * count + _FEW_ELEMENTS:
        message = f"{count:,} values among {size:,} elements"
        raise UnsupportedError(f"a sparse tensor of {message}", where=where)
    order = file.vector(table, _ORDER, "i")
    blocks = file.vector(table, _BLOCKS, "i")
    levels = [_level(file, place, where) for place in file.tables(table, _LEVELS)]
    rank = len(shape)
    if sorted(order) != list(range(rank + len(blocks))) or len(levels) != len(order):
        raise _broken(where, "an order of axes that is none")
    if len(set(blocks)) != len(blocks) or not set(blocks) <= set(range(rank)):
        raise _broken(where, "blocks of an axis that it does not have")
    sizes = {axis: levels[level].size for level, axis in enumerate(order)}
    for number, axis in enumerate(blocks):
        if levels[order.index(rank + number)].is_compressed or not sizes[rank + number]:
            raise _broken(where, "blocks without a size")
        if shape[axis] % sizes[rank + number]:
            raise _broken(where, "blocks that do not fill their axis")
    outer = list(shape)
    for number, axis in enumerate(blocks):
        outer[axis] //= sizes[rank + number]
    steps = _steps(shape, blocks, [sizes[rank + number] for number in range(len(blocks))])
    # each of them is a value, or has a segment of its own on a level below
    most = min(size, max(count, file.size))
    nodes, found = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for axis, level in zip(order, levels, strict=True):
        width = outer[axis] if axis < rank else level.size
        parents, nodes, own = _children(level, nodes, width, most, where)
        found = found[parents] + own * steps[axis]
    if len(nodes) not in counts:
        raise _broken(where, f"places for {len(nodes):,} values of {count:,}")
    places = np.empty(len(nodes), np.int64)
    places[nodes] = found
    if len(np.unique(found)) != len(nodes):
        raise _broken(where, "two values of one element")
    return places


def _steps(shape: tuple[int, ...], blocks: tuple[int, ...], sizes: list[int]) -> list[int]:
    """Return how many elements lie between two neighbours along each axis, those of blocks last."""
    whole = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    inner = [whole[axis] for axis in blocks]
    for axis, size in zip(blocks, sizes, strict=True):
        whole[axis] *= size
    return [*whole, *inner]


def _children(
    level: _Level, nodes: Array, width: int, most: int, where: str
) -> tuple[Array, Array, Array]:
    """Return (index of its parent, number, index along the axis) of each node of the next level.

    nodes: the numbers of those of this level.  width: of the axis.  most: nodes that there can be
    on any level.
    """
    import numpy as np

    if not level.is_compressed:
        if level.size != width:
            raise _broken(where, f"an axis of {width} elements as one of {level.size}")
        if len(nodes) * width > most:
            raise _broken(where, "places for more values than it has")
        own = np.tile(np.arange(width), len(nodes))
        parents = np.repeat(np.arange(len(nodes)), width)
        return parents, nodes[parents] * width + own, own
    segments, indices = np.array(level.segments, np.int64), np.array(level.indices, np.int64)
    is_whole = len(segments) == len(nodes) + 1 and segments[0] == 0
    if not is_whole or segments[-1] != len(indices) or (np.diff(segments) < 0).any():
        raise _broken(where, "segments that do not fit its indices")
    if len(indices) and (indices.min() < 0 or indices.max() >= width):
        raise _broken(where, "an index outside of its axis")
    starts, ends = segments[nodes], segments[nodes + 1]
    lengths = ends - starts
    parents = np.repeat(np.arange(len(nodes)), lengths)
    numbers = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return parents, numbers, indices[numbers]


def _level(file: Flatbuffer, table: int, where: str) -> _Level:
    size = int(file.scalar(table, _SIZE, "i"))
    kind = file.scalar(table, _FORMAT, "b")
    if kind not in (0, 1) or size < 0:
        raise _broken(where, "an axis that is neither dense nor compressed")
    if not kind:
        return _Level(size, False, (), ())
    segments, indices = (_vector(file, table, number, where) for number in (_SEGMENTS, _INDICES))
    return _Level(size, True, segments, indices)


def _vector(file: Flatbuffer, table: int, number: int, where: str) -> tuple[int, ...]:
    code = _VECTORS.get(file.scalar(table, number, "B"))
    place = file.child(table, number + 1)
    if code is None or not place:
        raise _broken(where, "a compressed axis without indices")
    return file.vector(place, 0, code)


def _broken(where: str, why: str) -> FormatError:
    return FormatError(where, f"a sparse tensor whose description is broken: {why}")
