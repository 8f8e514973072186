"""The values that say "not restored": a NaN of one payload, or an integer, that no training makes.

Before a restore every variable is filled with the mark of its dtype.  One that still holds it
afterwards was not restored, whatever the restore itself says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

# {dtype: the bits of one element, as an unsigned integer of its width}.  A dtype that is not here
# has no value that training could not make.
MARKS = {
    "bfloat16": 0x7FDA,
    "float16": 0x7E5A,
    "float32": 0x7FC5A5A5,
    "float64": 0x7FF8A5A5A5A5A5A5,
    "int32": 0x7A5A5A5A,
    "int64": 0x7A5A5A5A5A5A5A5A,
    "uint32": 0xFA5A5A5A,
    "uint64": 0xFA5A5A5A5A5A5A5A,
}


def mark(dtype: str, shape: tuple[int, ...]) -> Array | None:
    """Return an array of the mark; None where the dtype has none, or there are no elements."""
    import numpy as np

    from ckptkit.dtypes import numpy_dtype

    bits = MARKS.get(dtype)
    if bits is None or 0 in shape:
        return None
    numpy = numpy_dtype(dtype)
    return np.full(shape, bits, f"u{numpy.itemsize}").view(numpy)


def is_marked(array: Array) -> bool:
    """Whether every element is the mark of its dtype, to the bit; False where there are none."""
    import numpy as np

    bits = MARKS.get(array.dtype.name)
    if bits is None or array.size == 0:
        return False
    values = np.ascontiguousarray(array)
    return bool((values.view(f"u{values.dtype.itemsize}") == bits).all())
