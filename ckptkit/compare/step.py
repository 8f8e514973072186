"""The compiled measure of one block at one step of a run (`step.c`), where the library has it.

It is part of the library of `kernel.c`, and CKPTKIT_KERNEL=numpy does without it, too.  What it
leaves to numpy, and what there is without it, is in `ckptkit.operations.history.measure`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ckptkit.compare.kernel import LIBRARY, VARIABLE

# As step.c numbers them.  float16 is converted by numpy.
_DTYPES = {
    "float64": 0,
    "float32": 1,
    "bfloat16": 3,
    "int8": 4,
    "int16": 5,
    "int32": 6,
    "uint8": 7,
    "uint16": 8,
    "uint32": 9,
}


class StepBlock(ctypes.Structure):
    """`Block` of step.c."""

    _fields_ = (
        ("stored", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("update", ctypes.c_void_p),
        ("column_squares", ctypes.c_void_p),
        ("column_changes", ctypes.c_void_p),
        ("before", ctypes.c_void_p),
        ("update_before", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("dtype", ctypes.c_int64),
        ("total", ctypes.c_double),
        ("squares", ctypes.c_double),
        ("low", ctypes.c_double),
        ("high", ctypes.c_double),
        ("changes", ctypes.c_double),
        ("turns", ctypes.c_double),
        ("zeros", ctypes.c_int64),
    )


def dtype_code(dtype: str) -> int | None:
    """Return what step.c calls a dtype, None for one that numpy converts."""
    return _DTYPES.get(dtype)


def compiled_step() -> Callable[[int], int] | None:
    """Return what measures the block at an address, and returns 0 where numpy has to; else None."""
    return _load(os.environ.get(VARIABLE, ""))


@cache
def _load(wanted: str) -> Callable[[int], int] | None:
    if wanted == "numpy":
        return None
    try:
        function = ctypes.CDLL(str(Path(__file__).with_name(LIBRARY))).ckptkit_measure_step
    except (OSError, AttributeError):  # not built here, or before there was this part
        return None
    function.argtypes = (ctypes.c_void_p,)
    function.restype = ctypes.c_int
    measure: Callable[[int], int] = function
    return measure if _is_sound(measure) else None


def _is_sound(measure: Callable[[int], int]) -> bool:
    """Whether a sample gives what Python computes; options of a compiler can change that."""
    numbers = [0.5, -2.0, 0.0, 3.0, 1.0, 8.0, -1.0, 4.0, 2.0, 0.0]
    row_of = ctypes.c_double * len(numbers)
    rows = [row_of(*numbers), *(row_of() for _ in range(4))]
    before = row_of(*(1.0 for _ in numbers))
    places = [ctypes.addressof(row) for row in rows]
    one = ctypes.addressof(before)
    block = StepBlock(*places, one, one, len(numbers), 5, _DTYPES["float64"])
    if not measure(ctypes.addressof(block)):
        return False
    changes = [number - 1.0 for number in numbers]
    return (
        (block.total, block.low, block.high, block.zeros) == (sum(numbers), -2.0, 8.0, 2)
        and block.squares == sum(number * number for number in numbers)
        and block.changes == sum(change * change for change in changes)
        and block.turns == sum(changes)
        and rows[3][0] == numbers[0] ** 2 + numbers[5] ** 2
    )
