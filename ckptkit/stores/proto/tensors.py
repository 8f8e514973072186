"""The elements of a TensorProto.

It keeps them as `tensor_content` (little-endian bytes), or in the list of its dtype, where the last
element stands for all that follow it and an empty list for zeros.
Sources: tensorflow/core/framework/{tensor,types}.proto, tensorflow/core/framework/tensor.cc.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import dtype_of_enum, itemsize, numpy_dtype

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_LISTS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}


def list_of(dtype: str) -> str:
    """Return the field that lists elements of a dtype one by one."""
    return "string_val" if dtype == "string" else _LISTS.get(dtype, "int_val")


def flaw_of(tensor: Any) -> str:
    """Return why TensorFlow makes no tensor of a TensorProto; "" where it makes one.

    It takes a list of any length, but `tensor_content` only where it fills the shape exactly.
    Source: Tensor::FromProto in tensorflow/core/framework/tensor.cc.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if any(length < 0 for length in shape):
        return "its shape is not known"
    dtype, content, size = dtype_of_enum(tensor.dtype), tensor.tensor_content, math.prod(shape)
    if not content or not size:
        return ""
    axes = ",".join(map(str, shape)) or "scalar"
    if dtype == "string":
        text = _packed_text(content, size)
        return f"its text does not fill its shape {axes}" if text is None else ""
    needed = size * itemsize(dtype)
    if needed and len(content) != needed:
        return f"its {len(content):,} bytes do not fill {dtype} {axes}, which takes {needed:,}"
    if dtype == "bool" and max(content) > 1:
        return "a byte of it is neither true nor false"
    return ""


def text_of(tensor: Any, size: int) -> Array:
    """Return the `size` strings of a TensorProto, 1-D, as bytes objects."""
    import numpy as np

    flat = np.empty(size, object)
    given = _packed_text(tensor.tensor_content, size) if tensor.tensor_content else None
    given = given or list(tensor.string_val)[:size] or [b""]
    for index in range(size):
        flat[index] = given[min(index, len(given) - 1)]
    return flat


def _packed_text(content: bytes, size: int) -> list[bytes] | None:
    """Return strings that lie one after another behind their lengths; None for other bytes.

    Source: DecodeStringList in tensorflow/core/platform/coding.cc.
    """
    if size > len(content):  # each length takes a byte at least
        return None
    lengths, position = [], 0
    for _ in range(size):
        length = shift = 0
        while True:
            if position == len(content) or shift > 28:
                return None
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        return None
    texts = []
    for length in lengths:
        texts.append(content[position : position + length])
        position += length
    return texts


def numbers_of(tensor: Any, dtype: str, size: int) -> Array | None:
    """Return the `size` elements of a TensorProto, 1-D; None where it does not hold them."""
    import numpy as np

    if not itemsize(dtype):
        return None
    wanted = numpy_dtype(dtype)
    content = tensor.tensor_content
    if content:
        if len(content) != size * wanted.itemsize:
            return None
        form = wanted.newbyteorder("<") if wanted.kind in "iufc" else wanted
        stored: Array = np.frombuffer(content, form)
        return stored
    given: Array = np.asarray(getattr(tensor, list_of(dtype)))
    if dtype in ("float16", "bfloat16"):
        given = given.astype(np.uint16).view(wanted)
    elif wanted.kind == "c":
        if len(given) % 2:
            return None
        # no product with the imaginary unit, which makes NaN of an infinite part
        given = given.astype(f"f{wanted.itemsize // 2}").view(wanted)
    if given.size > size:
        return None
    given = given.astype(wanted)
    last = given[-1:] if given.size else np.zeros(1, wanted)
    padded: Array = np.concatenate([given, np.repeat(last, size - given.size)])
    return padded
