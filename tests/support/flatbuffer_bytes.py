"""LiteRT models put together by hand, right or wrong, without any package."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

# Values of fields: a number as (struct code, value); a vector as (code of elements or "text", its
# bytes); a list of tables.
Table = dict[int, Any]


class Constant(NamedTuple):
    """A tensor with values.  kind: the number of its type."""

    name: str
    kind: int
    shape: Sequence[int]
    data: bytes
    scales: Sequence[float] = ()
    zero_points: Sequence[int] = ()
    sparsity: Table | None = None


def litert_model(*constants: Constant, description: str = "by hand") -> bytes:
    """Return a model whose one graph has these tensors, and no ops."""
    tensors, buffers = [], [dict[int, Any]()]
    for number, each in enumerate(constants, 1):
        tensor: Table = {
            0: ("i", struct.pack(f"<{len(each.shape)}i", *each.shape)),
            1: ("b", each.kind),
            2: ("I", number),
            3: ("text", each.name.encode()),
        }
        if each.scales:
            zeros = struct.pack(f"<{len(each.zero_points)}q", *each.zero_points)
            scales = struct.pack(f"<{len(each.scales)}f", *each.scales)
            tensor[4] = {2: ("f", scales), 3: ("q", zeros)}
        if each.sparsity is not None:
            tensor[6] = each.sparsity
        tensors.append(tensor)
        buffers.append({0: ("B", each.data)})
    text = ("text", description.encode())
    return flatbuffer({0: ("I", 3), 2: [{0: tensors}], 3: text, 4: buffers})


def flatbuffer(root: Table, magic: bytes = b"TFL3") -> bytes:
    """Return a flatbuffer."""
    out = bytearray(8)
    out[4:8] = magic
    place = _table(out, root)
    struct.pack_into("<I", out, 0, place)
    return bytes(out)


def _align(out: bytearray, width: int = 16) -> None:
    out.extend(bytes(-len(out) % width))


def _table(out: bytearray, fields: Table) -> int:
    """Put a vtable, the table and then what it refers to; return the place of the table."""
    _align(out)
    count = max(fields, default=-1) + 1
    vtable = len(out)
    out.extend(bytes(4 + 2 * count))
    _align(out, 8)
    place = len(out)
    out.extend(struct.pack("<i", place - vtable) + bytes(4 + 8 * count))
    struct.pack_into("<HH", out, vtable, 4 + 2 * count, 8 + 8 * count)
    for number, value in fields.items():
        at = place + 8 + 8 * number
        struct.pack_into("<H", out, vtable + 4 + 2 * number, at - place)
        if isinstance(value, tuple) and isinstance(value[1], int):
            struct.pack_into(f"<{value[0]}", out, at, value[1])
        else:
            target = _target(out, value)
            struct.pack_into("<I", out, at, target - at)
    return place


def _target(out: bytearray, value: Any) -> int:
    if isinstance(value, dict):
        return _table(out, value)
    _align(out)
    out.extend(bytes(12))  # so that elements are aligned
    place = len(out)
    if isinstance(value, tuple):
        code, data = value
        width = 1 if code == "text" else struct.calcsize(code)
        out.extend(struct.pack("<I", len(data) // width) + data + b"\0")
        return place
    out.extend(struct.pack("<I", len(value)) + bytes(4 * len(value)))
    for index, each in enumerate(value):
        at = place + 4 + 4 * index
        struct.pack_into("<I", out, at, _table(out, each) - at)
    return place
