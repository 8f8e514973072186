"""Protobuf messages of ONNX put together by hand, right or wrong, without onnx."""

from __future__ import annotations

from collections.abc import Sequence


def varint(value: int) -> bytes:
    """Return a number as a varint; a negative one as 64 bits."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field_number: int, value: int) -> bytes:
    """Return a field that holds a number."""
    return varint(field_number << 3) + varint(value)


def onnx_tensor(name: str, data_type: int, dims: Sequence[int], raw: bytes | None = None) -> bytes:
    """Return a TensorProto; without values where raw is None."""
    head = b"".join(number(1, size) for size in dims) + number(2, data_type)
    return head + field(8, name.encode()) + (b"" if raw is None else field(9, raw))


def onnx_model(*tensors: bytes, nodes: Sequence[bytes] = ()) -> bytes:
    """Return a ModelProto whose graph has these initializers."""
    graph = b"".join(field(1, node) for node in nodes) + field(2, b"g")
    graph += b"".join(field(5, tensor) for tensor in tensors)
    return number(1, 8) + field(2, b"by hand") + field(7, graph) + field(8, number(2, 21))
