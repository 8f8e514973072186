"""Parts of a `.tflite` graph: the same file, made to run some ops alone.  Child process alone.

Source of the layout: tensorflow/lite/schema/schema.fbs.  A table's field n is found through its
vtable at 4 + 2n; vectors may lie anywhere behind what refers to them, so new ones are put at the
end of the file, and the list of ops is shortened in its place.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


_SUBGRAPHS, _SIGNATURES = 2, 7  # fields of Model
_INPUTS, _OUTPUTS, _OPERATORS = 1, 2, 3  # fields of SubGraph
_WORD = struct.Struct("<I")


def with_ops(
    data: bytes, ops: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """Return a model whose first subgraph runs these ops alone, on these tensors.

    data: a whole file.  Raises UnsupportedError where it has no such subgraph.
    """
    file = bytearray(data)
    model = _word(file, 0)
    graphs = _target(file, model, _SUBGRAPHS)
    graph = graphs + 4 + _word(file, graphs + 4)
    # tables stay where they are: the vector of ops is cut, that of signatures emptied
    _shorten(file, _target(file, graph, _OPERATORS), ops)
    if _field(file, model, _SIGNATURES):
        _WORD.pack_into(file, _target(file, model, _SIGNATURES), 0)
    # new vectors of inputs and outputs go to the end, each aligned to 4 bytes
    for field, tensors in ((_INPUTS, inputs), (_OUTPUTS, outputs)):
        file += bytes(-len(file) % 4)
        place = _field(file, graph, field)
        if not place:
            raise UnsupportedError("the model's first subgraph has no inputs or outputs")
        _WORD.pack_into(file, place, len(file) - place)
        file += struct.pack(f"<I{len(tensors)}i", len(tensors), *tensors)
    return bytes(file)


def _word(data: bytearray, place: int) -> int:
    return int(_WORD.unpack_from(data, place)[0])


def _field(data: bytearray, table: int, number: int) -> int:
    """Return where a field of a table lies; 0 where the table lacks it."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    entry = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + entry)[0] if entry < size else 0
    return table + offset if offset else 0


def _target(data: bytearray, table: int, number: int) -> int:
    """Return where the vector lies that a field refers to."""
    place = _field(data, table, number)
    if not place:
        raise UnsupportedError(f"a table of the .tflite file lacks field {number}")
    return place + _word(data, place)


def _shorten(data: bytearray, vector: int, keep: Sequence[int]) -> None:
    """Leave only some elements in a vector of tables."""
    places = [vector + 4 + 4 * number for number in keep]
    tables = [place + _word(data, place) for place in places]
    _WORD.pack_into(data, vector, len(keep))
    for number, table in enumerate(tables):
        place = vector + 4 + 4 * number
        _WORD.pack_into(data, place, table - place)


def float_of(value: Array, details: Mapping[str, Any]) -> Array:
    """Return the numbers that quantised integers stand for; other arrays as they are."""
    import numpy as np

    scale, zero = details["quantization"]
    if not scale or value.dtype.kind not in "iu":
        return value
    return np.asarray((value.astype(np.float32) - zero) * np.float32(scale))


def fitting(value: Array, details: Mapping[str, Any]) -> Array:
    """Return a value in a tensor's dtype, quantised where the tensor is."""
    import numpy as np

    dtype = np.dtype(details["dtype"])
    scale, zero = details["quantization"]
    if scale and dtype.kind in "iu" and value.dtype.kind == "f":
        limits = np.iinfo(dtype)
        value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
    return value.astype(dtype)
