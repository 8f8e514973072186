"""Serialized tf.train.Example messages, drawn for a model that parses them.

    Example  { features 1: Features { feature 1: map<string, Feature> } }
    Feature  { bytes_list 1 | float_list 2 | int64_list 3, each with `value` 1 repeated, packed }

Source: tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

KINDS = {"string": 1, "float32": 2, "int64": 3}
"""The dtypes of features, and the field of each."""


class Feature(NamedTuple):
    """One feature that a model asks for; size: values in it, None where that is open."""

    name: str
    dtype: str
    size: int | None


def serialized(values: Mapping[str, Array]) -> bytes:
    """Return an Example of one-dimensional arrays by name: float32, int64, or objects of bytes."""
    entries = (
        _message(1, _message(1, name.encode()) + _message(2, _feature(array)))
        for name, array in sorted(values.items())
    )
    return _message(1, b"".join(entries))


def _feature(array: Array) -> bytes:
    if array.dtype == object:
        return _message(KINDS["string"], b"".join(_message(1, bytes(text)) for text in array))
    if array.dtype.kind == "f":
        packed = struct.pack(f"<{len(array)}f", *array)
        return _message(KINDS["float32"], _message(1, packed))
    return _message(KINDS["int64"], _message(1, _varints(int(value) for value in array)))


def _message(field: int, content: bytes) -> bytes:
    return _varints([field << 3 | 2, len(content)]) + content


def _varints(values: Iterable[int]) -> bytes:
    out = bytearray()
    for value in values:
        left = value & 0xFFFFFFFFFFFFFFFF  # negative numbers are their two's complement
        while left > 0x7F:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)
    return bytes(out)


def features_of(rows: Sequence[Sequence[object]]) -> tuple[Feature, ...]:
    """Return features of plain values, as JSON has them."""
    return tuple(
        Feature(str(name), str(dtype), size if isinstance(size, int) else None)
        for name, dtype, size in rows
    )
