"""Arrays as tensor messages of TensorFlow and of ONNX, and records in a file.

TensorProto (tensorflow/core/framework/tensor.proto): `tensor_content`, little-endian, or
`string_val`.  ONNX's (onnx/onnx.proto): `raw_data`, little-endian, or `string_data`; its dtypes
have numbers of their own.  TFRecord (tensorflow/core/lib/io/record_writer.cc): u64 length, its
masked crc32c, the bytes, their masked crc32c; all little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ckptkit._io import crc32c
from ckptkit.dtypes import DTYPES, dtype_of_enum, dtype_of_numpy, numpy_dtype
from ckptkit.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.base import shaped
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.proto.tensors import numbers_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_ONNX_ORDER = (  # from 1 on
    *("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool"),
    *("float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)
ONNX_DTYPES = dict(enumerate(_ONNX_ORDER, start=1))
_ONNX_NUMBERS = {name: number for number, name in ONNX_DTYPES.items()}
_ONNX_LISTS = {
    "float32": "float_data",
    "float64": "double_data",
    "int64": "int64_data",
    "uint64": "uint64_data",
    "uint32": "uint64_data",
}
_EXTERNAL = 1  # data_location: the values are in another file
MAX_RECORD = 1 << 31  # bytes; a protobuf message is smaller


def to_tensor(array: Array) -> Any:
    """Return an array (of `_arrays.as_array`) as TensorFlow's TensorProto."""
    message = message_class("TensorProto")()
    dtype = dtype_of_numpy(array.dtype)
    message.dtype = DTYPES[dtype].enum
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    if dtype == "string":
        message.string_val.extend(array.reshape(-1).tolist())
    else:
        message.tensor_content = _little_endian(array)
    return message


def from_tensor(message: Any, where: str) -> Array:
    """Return the array of a TensorProto; raises FormatError, UnsupportedError."""
    dtype = dtype_of_enum(message.dtype)
    shape = _shape([dim.size for dim in message.tensor_shape.dim], where)
    size = math.prod(shape)
    if dtype == "string":
        return _text(list(message.string_val), shape, where)
    if size and not message.tensor_content and message.ByteSize() < size // 64:
        raise FormatError(where, f"{size} elements in {message.ByteSize()} bytes")
    values = numbers_of(message, dtype, size)
    if values is None:
        raise FormatError(where, f"no {dtype} values of shape {list(shape)}")
    return shaped(values, shape, where)


def to_onnx(name: str, array: Array) -> bytes:
    """Return an array as a serialized TensorProto of ONNX; raises UnsupportedError."""
    dtype = dtype_of_numpy(array.dtype)
    if dtype not in _ONNX_NUMBERS:
        raise UnsupportedError(f"ONNX has no {dtype}", where=name)
    message = message_class("OnnxTensorProto")(
        name=name, data_type=_ONNX_NUMBERS[dtype], dims=array.shape
    )
    if dtype == "string":
        message.string_data.extend(array.reshape(-1).tolist())
    else:
        message.raw_data = _little_endian(array)
    return bytes(message.SerializeToString(deterministic=True))


def from_onnx(data: bytes, where: str) -> tuple[str, Array]:
    """Return the name and the array; raises FormatError, UnsupportedError."""
    import numpy as np

    from ckptkit.stores.proto.messages import parse

    message = parse("OnnxTensorProto", data, where)
    dtype = ONNX_DTYPES.get(message.data_type)
    if dtype is None or message.data_location == _EXTERNAL:
        what = "values in another file" if dtype else f"data type {message.data_type}"
        raise UnsupportedError(what, where=where)
    shape = _shape(list(message.dims), where)
    if dtype == "string":
        return message.name, _text(list(message.string_data), shape, where)
    wanted = numpy_dtype(dtype)
    size = math.prod(shape)
    if message.raw_data or not size:
        if len(message.raw_data) != size * wanted.itemsize:
            raise FormatError(where, f"{len(message.raw_data)} bytes for {dtype} {list(shape)}")
        little = wanted.newbyteorder("<") if wanted.kind in "iufc" else wanted
        values = np.frombuffer(message.raw_data, little).astype(wanted)
        return message.name, shaped(values, shape, where)
    listed = np.asarray(getattr(message, _ONNX_LISTS.get(dtype, "int32_data")))
    if listed.size != size:
        raise FormatError(where, f"{listed.size} values for shape {list(shape)}")
    if wanted.kind not in "iufb" or dtype == "float16":  # bits, in integers
        bits = {1: np.uint8, 2: np.uint16}.get(wanted.itemsize)
        if bits is None:
            raise UnsupportedError(f"{dtype} that is not raw", where=where)
        return message.name, shaped(listed.astype(bits).view(wanted), shape, where)
    return message.name, shaped(listed.astype(wanted), shape, where)


def _little_endian(array: Array) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.kind in "iufc" else array
    return little.tobytes()


def _shape(sizes: list[int], where: str) -> tuple[int, ...]:
    if any(size < 0 for size in sizes):
        raise FormatError(where, f"shape {sizes}")
    return tuple(sizes)


def _text(values: list[bytes], shape: tuple[int, ...], where: str) -> Array:
    import numpy as np

    size = math.prod(shape)
    if len(values) != size:
        raise FormatError(where, f"{len(values)} strings for shape {list(shape)}")
    flat = np.empty(size, object)
    flat[:] = values
    return shaped(flat, shape, where)


def records(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a TFRecord file."""
    for data in messages:
        length = struct.pack("<Q", len(data))
        yield length
        yield struct.pack("<I", crc32c.mask(crc32c.value(length)))
        yield data
        yield struct.pack("<I", crc32c.mask(crc32c.value(data)))


def read_records(data: bytes, where: str) -> Iterator[bytes]:
    """Yield the records of a TFRecord file; raises TruncatedError, ChecksumError, FormatError."""
    at = 0
    while at < len(data):
        head = data[at : at + 12]
        if len(head) < 12:
            raise TruncatedError(where, f"a record's head at byte {at}")
        length, crc = struct.unpack("<QI", head)
        if crc32c.mask(crc32c.value(head[:8])) != crc:
            raise ChecksumError(where, f"the length of the record at byte {at}")
        if length > MAX_RECORD or at + 16 + length > len(data):
            raise TruncatedError(where, f"a record of {length} bytes at byte {at}")
        body = data[at + 12 : at + 12 + length]
        (crc,) = struct.unpack_from("<I", data, at + 12 + length)
        if crc32c.mask(crc32c.value(body)) != crc:
            raise ChecksumError(where, f"the record at byte {at}")
        yield body
        at += 16 + length
