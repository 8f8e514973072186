"""The elements of a TensorProto.

It keeps them as `tensor_content` (little-endian bytes), or in the list of its dtype, where the last
element stands for all that follow it and an empty list for zeros.
Sources: tensorflow/core/framework/{tensor,types}.proto, tensorflow/core/framework/tensor.cc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import itemsize, numpy_dtype

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


def text_of(tensor: Any, size: int) -> Array:
    """Return the `size` strings of a TensorProto, 1-D, as bytes objects; it must hold one."""
    import numpy as np

    flat = np.empty(size, object)
    given = list(tensor.string_val)[:size]
    for index in range(size):
        flat[index] = given[min(index, len(given) - 1)]
    return flat


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
        return np.frombuffer(content, wanted.newbyteorder("<") if wanted.kind in "iufc" else wanted)
    given = np.asarray(getattr(tensor, list_of(dtype)))
    if dtype in ("float16", "bfloat16"):
        given = given.astype(np.uint16).view(wanted)
    elif wanted.kind == "c":
        if len(given) % 2:
            return None
        given = given[0::2] + 1j * given[1::2]
    if given.size > size:
        return None
    given = given.astype(wanted)
    last = given[-1:] if given.size else np.zeros(1, wanted)
    return np.concatenate([given, np.repeat(last, size - given.size)])
