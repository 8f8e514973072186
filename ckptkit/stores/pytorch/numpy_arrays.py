"""Arrays and scalars of numpy within a pickle: their bytes stand there, so nothing has to be built.

    numpy.core.multiarray._reconstruct(ndarray, (0,), b"b"), and by BUILD
        (version, shape, dtype, is in Fortran's order, bytes)             up to protocol 4
    numpy.core.numeric._frombuffer(bytes, dtype, shape, "C" or "F")       from protocol 5 on
    numpy.core.multiarray.scalar(dtype, bytes)                            a scalar
    numpy.dtype("f4", False, True), and by BUILD (3, "<", ...)            a dtype

numpy 2 says `numpy._core`.  Pickles of Python 2's protocols hold bytes as text, which is encoded by
a call (`_codecs.encode(text, "latin1")`).  Whatever is not just so (objects, text, records, dates,
classes of other packages) is no array to us.
Source: numpy/_core/src/multiarray/{methods.c (array_setstate), descriptor.c (arraydescr_reduce)}.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.dtypes import DTYPES, itemsize
from ckptkit.stores.pytorch.pickle_machine import Global, PickledCall

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
_ORDERS = {"<": "little", ">": "big", "|": "little", "=": "little"}
_MAX_AXES = 64


class PickledArray(NamedTuple):
    """An array whose bytes stand in the pickle.

    byteorder: "little" or "big".  is_transposed: whether the first axis is the fastest (Fortran).
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    byteorder: str
    is_transposed: bool

    def values(self) -> Array:
        """Return all elements, 1-D, row-major, in this machine's byte order."""
        import numpy as np

        from ckptkit.dtypes import numpy_dtype

        width = itemsize(self.dtype)
        part = width // 2 if self.dtype.startswith("complex") else width
        raw = np.frombuffer(self.data, np.uint8)
        if self.byteorder != sys.byteorder and part > 1:
            raw = np.ascontiguousarray(raw.reshape(-1, part)[:, ::-1]).reshape(-1)
        elements: Array = raw.view(numpy_dtype(self.dtype))
        if self.is_transposed:
            elements = elements.reshape(self.shape[::-1]).T.reshape(-1)
        return elements


Encoded = dict[int, "bytes | None"]
"""What texts of a pickle are as bytes, by their ids: one that many arrays name is encoded once."""


def pickled_array(call: PickledCall, encoded: Encoded) -> PickledArray | None:
    """Return the array or scalar that a call makes; None for a call of anything else.

    encoded: of the pickle whose call it is; it is added to.
    """
    name, args = _numpy_name(call.function), call.args
    if name == "_reconstruct" and args and _is_class_of_arrays(args[0]):
        state = call.state
        if isinstance(state, tuple) and len(state) in (4, 5):
            shape, dtype, is_transposed, data = state[-4:]
            return _array(dtype, shape, _bytes(data, encoded), bool(is_transposed))
    elif name == "_frombuffer" and len(args) == 4:
        data, dtype, shape, order = args
        return _array(dtype, shape, _bytes(data, encoded), order == "F")
    elif name == "scalar" and len(args) == 2:
        return _array(args[0], (), _bytes(args[1], encoded), False)
    return None


def is_of_numpy(call: PickledCall) -> bool:
    """Whether a call makes an array of whatever kind, plain or not (masked, of objects, text)."""
    name = _numpy_name(call.function)
    return name.endswith(("reconstruct", "_frombuffer")) or name == "scalar"


def _array(dtype: Any, shape: Any, raw: bytes | None, is_transposed: bool) -> PickledArray | None:
    kind = _dtype(dtype)
    if kind is None or raw is None or not isinstance(shape, tuple) or len(shape) > _MAX_AXES:
        return None
    name, order = kind
    if any(type(size) is not int or size < 0 for size in shape):
        return None
    if math.prod(shape) * itemsize(name) != len(raw):
        return None
    return PickledArray(name, shape, raw, order, is_transposed)


def _dtype(call: Any) -> tuple[str, str] | None:
    """Return (dtype, byte order) of what a pickle makes a dtype of; None for one we do not know."""
    if not isinstance(call, PickledCall) or not call.args:
        return None
    if not isinstance(call.function, Global) or call.function != ("numpy", "dtype"):
        return None
    code, state = call.args[0], call.state
    order = "|"
    if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
        order = state[1]
    if order not in _ORDERS:
        return None
    if isinstance(code, Global) and code.module == "ml_dtypes":
        name = code.name
    elif not isinstance(code, str):
        return None
    elif code == "b1":
        name = "bool"
    else:
        width = code[1:]
        if code[:1] not in _KINDS or not width.isascii() or not width.isdecimal():
            return None
        name = f"{_KINDS[code[0]]}{8 * int(width[:3])}"
    if name not in DTYPES or not itemsize(name):
        return None
    return name, _ORDERS[order]


def _bytes(value: Any, encoded: Encoded) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):  # of Python 2
        return _latin(value, encoded)
    if isinstance(value, PickledCall) and isinstance(value.function, Global):
        in_latin = value.args[1:] in (("latin1",), ("latin-1",))
        if value.function == ("_codecs", "encode") and in_latin:
            return _latin(value.args[0], encoded) if isinstance(value.args[0], str) else None
        if value.function.name == "bytes" and not value.args:
            return b""
        if value.function.name == "bytearray" and len(value.args) == 1:
            return value.args[0] if isinstance(value.args[0], bytes) else None
    return None


def _latin(text: str, encoded: Encoded) -> bytes | None:
    if id(text) not in encoded:
        try:
            encoded[id(text)] = text.encode("latin-1")
        except UnicodeEncodeError:
            encoded[id(text)] = None
    return encoded[id(text)]


def _numpy_name(function: Any) -> str:
    """Return the name of a function of numpy's own, "" of any other."""
    if isinstance(function, Global) and function.module.partition(".")[0] == "numpy":
        return function.name
    return ""


def _is_class_of_arrays(value: Any) -> bool:
    return isinstance(value, Global) and value == ("numpy", "ndarray")
