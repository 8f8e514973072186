"""The dtypes that TensorFlow, Keras and safetensors store, and what each is called where.

A dtype is a string in this package (`"float32"`), spelled as `tf.dtypes.DType.name` spells it, so
that listing a file needs no numpy.  `numpy_dtype` gives the numpy (or ml_dtypes) twin on demand.

Source of the enum numbers: tensorflow/core/framework/types.proto.  Sub-byte integers take one
whole byte per element in a tensor bundle and in ml_dtypes arrays.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

# Strings, so that they may be imported at run time without numpy.
Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = "Mapping[str, Array]"
"""Arrays by the name of an input, output or tensor."""


class DType(NamedTuple):
    """One row of the table: names of a dtype and its size in bytes (0: not of fixed size)."""

    name: str
    enum: int
    itemsize: int
    numpy: str
    kind: str  # float | int | uint | bool | complex | string | opaque


_ROWS = (
    DType("float32", 1, 4, "float32", "float"),
    DType("float64", 2, 8, "float64", "float"),
    DType("int32", 3, 4, "int32", "int"),
    DType("uint8", 4, 1, "uint8", "uint"),
    DType("int16", 5, 2, "int16", "int"),
    DType("int8", 6, 1, "int8", "int"),
    DType("string", 7, 0, "object", "string"),
    DType("complex64", 8, 8, "complex64", "complex"),
    DType("int64", 9, 8, "int64", "int"),
    DType("bool", 10, 1, "bool", "bool"),
    DType("qint8", 11, 1, "int8", "int"),
    DType("quint8", 12, 1, "uint8", "uint"),
    DType("qint32", 13, 4, "int32", "int"),
    DType("bfloat16", 14, 2, "bfloat16", "float"),
    DType("qint16", 15, 2, "int16", "int"),
    DType("quint16", 16, 2, "uint16", "uint"),
    DType("uint16", 17, 2, "uint16", "uint"),
    DType("complex128", 18, 16, "complex128", "complex"),
    DType("float16", 19, 2, "float16", "float"),
    DType("resource", 20, 0, "", "opaque"),
    DType("variant", 21, 0, "", "opaque"),
    DType("uint32", 22, 4, "uint32", "uint"),
    DType("uint64", 23, 8, "uint64", "uint"),
    DType("float8_e5m2", 24, 1, "float8_e5m2", "float"),
    DType("float8_e4m3fn", 25, 1, "float8_e4m3fn", "float"),
    DType("float8_e4m3fnuz", 26, 1, "float8_e4m3fnuz", "float"),
    DType("float8_e4m3b11fnuz", 27, 1, "float8_e4m3b11fnuz", "float"),
    DType("float8_e5m2fnuz", 28, 1, "float8_e5m2fnuz", "float"),
    DType("int4", 29, 1, "int4", "int"),
    DType("uint4", 30, 1, "uint4", "uint"),
    DType("int2", 31, 1, "int2", "int"),
    DType("uint2", 32, 1, "uint2", "uint"),
    DType("float4_e2m1fn", 33, 1, "float4_e2m1fn", "float"),
    # Known to ml_dtypes and safetensors alone; TensorFlow has no enum for them.
    DType("float8_e3m4", 0, 1, "float8_e3m4", "float"),
    DType("float8_e4m3", 0, 1, "float8_e4m3", "float"),
    DType("float8_e8m0fnu", 0, 1, "float8_e8m0fnu", "float"),
)

DTYPES = {row.name: row for row in _ROWS}
_ITEMSIZES = {row.name: row.itemsize for row in _ROWS}
_KINDS = {row.name: row.kind for row in _ROWS}
BY_ENUM = {row.enum: row for row in _ROWS if row.enum}


def dtype_of_enum(enum: int) -> str:
    """Return the name for a `DataType` enum value; an unknown one reads `dtype#NN`."""
    row = BY_ENUM.get(enum)
    return row.name if row else f"dtype#{enum}"


def itemsize(dtype: str) -> int:
    """Return the bytes of one element; 0 for strings, opaque and unknown dtypes."""
    return _ITEMSIZES.get(dtype, 0)


def kind(dtype: str) -> str:
    """Return float, int, uint, bool, complex, string or opaque (which unknown dtypes are too)."""
    return _KINDS.get(dtype, "opaque")


@cache
def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype of `dtype`, from ml_dtypes where numpy has none.

    Raises UnsupportedError for opaque and unknown dtypes, and where ml_dtypes is too old.
    """
    import numpy as np

    from ckptkit.errors import UnsupportedError

    row = DTYPES.get(dtype)
    if row is None or not row.numpy:
        raise UnsupportedError(f"dtype {dtype} has no array form")
    try:
        return np.dtype(row.numpy)
    except TypeError:
        pass
    import ml_dtypes

    try:
        twin: np.dtype[Any] = np.dtype(getattr(ml_dtypes, row.numpy))
    except AttributeError:
        raise UnsupportedError(
            f"ml_dtypes {ml_dtypes.__version__} does not know {dtype}",
            hint="pip install -U ml_dtypes",
        ) from None
    return twin


def dtype_of_numpy(dtype: np.dtype[Any]) -> str:
    """Return the name for a numpy dtype (either byte order); raises UnsupportedError."""
    from ckptkit.errors import UnsupportedError

    name = dtype.newbyteorder("=").name if dtype.kind in "biufc" else dtype.name
    if dtype.kind in "OSU":
        return "string"
    if name in DTYPES:
        return name
    raise UnsupportedError(f"numpy dtype {dtype} has no counterpart in a checkpoint")
