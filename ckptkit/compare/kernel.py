"""The compiled measure of differences (`kernel.c`), where it was built and loads.

It reads, checksums and measures in one call that holds no interpreter's lock, and needs no numpy.
`metrics` says what is measured, does it for what the library leaves to it, and is what the library
is tested against: its results are the same to the last bit.  Without the library all is slower, and
nothing else.

CKPTKIT_KERNEL in the environment says who measures, whatever is here: numpy; baseline, the code for
any processor; avx2, avx512.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.compare.statistics import (
    EXACT,
    METRIC_BLOCK,
    SAFE_HIGH,
    SAFE_LOW,
    DiffStatistics,
    ElementTolerance,
    ScaledFloat,
    scaled_float,
)
from ckptkit.errors import UsageError

VARIABLE = "CKPTKIT_KERNEL"
_VERSION = 2
LIBRARY = f"kernel.so.{_VERSION}"  # as setup.py calls it; what ends in .so is taken for a module
_PROCESSORS = ("baseline", "avx2", "avx512")  # as kernel.c numbers them
_MAX_RTOL = 1e6  # beyond it `rtol * |old|` may overflow


class _Dtype(NamedTuple):
    """code: what kernel.c calls it.  form: of one value, as `struct` has it; digits: see there."""

    code: int
    form: str
    ulp_digits: int = 0  # binary digits of the significand


_DTYPES = {
    "float64": _Dtype(0, "=d", 53),
    "float32": _Dtype(1, "=f", 24),
    "float16": _Dtype(2, "=e", 11),
    "bfloat16": _Dtype(3, "", 8),
    "int8": _Dtype(4, "=b"),
    "int16": _Dtype(5, "=h"),
    "int32": _Dtype(6, "=i"),
    "uint8": _Dtype(7, "=B"),
    "uint16": _Dtype(8, "=H"),
    "uint32": _Dtype(9, "=I"),
}


class _State(ctypes.Structure):
    """`State` of kernel.c."""

    _fields_ = (
        ("rtol", ctypes.c_double),
        ("atol", ctypes.c_double),
        ("ulp_step", ctypes.c_double),
        ("block", ctypes.c_int64),
        ("old_dtype", ctypes.c_int32),
        ("new_dtype", ctypes.c_int32),
        ("processor", ctypes.c_int32),
        ("is_tolerant", ctypes.c_int32),
        ("n", ctypes.c_int64),
        ("n_diff", ctypes.c_int64),
        ("n_outside", ctypes.c_int64),
        ("max_ulp", ctypes.c_uint64),
        ("max_abs", ctypes.c_double),
        ("max_rel", ctypes.c_double),
        ("needed_rtol", ctypes.c_double),
        ("sum_abs", ctypes.c_double),
        ("sum_sq_old", ctypes.c_double),
        ("sum_sq_new", ctypes.c_double),
        ("sum_sq_diff", ctypes.c_double),
        ("worst", ctypes.c_double),
        ("worst_at", ctypes.c_int64),
        ("worst_old", ctypes.c_char * 8),
        ("worst_new", ctypes.c_char * 8),
    )


class BlockMoments(ctypes.Structure):
    """What the numbers of one block are like; deviations: sum of squares, from the mean."""

    _fields_ = (
        ("low", ctypes.c_double),
        ("high", ctypes.c_double),
        ("mean", ctypes.c_double),
        ("deviations", ctypes.c_double),
        ("squares", ctypes.c_double),
        ("n_zero", ctypes.c_int64),
    )


class _Library(NamedTuple):
    """What was loaded, and for which processor it is to be used."""

    measure: Callable[..., int]
    measure_files: Callable[..., int]
    moments: Callable[..., int]
    processor: int


class _Loaded(NamedTuple):
    library: _Library | None
    why: str  # one line for `doctor`


class FileValues(NamedTuple):
    """Where the values of one side are: an open file, the byte at which they start."""

    descriptor: int
    offset: int


def _loaded() -> _Loaded:
    return _load(os.environ.get(VARIABLE, ""))


@cache
def _load(wanted: str) -> _Loaded:
    """Return the library as the environment wants it, where it is here and computes as numpy."""
    if wanted not in ("", "numpy", *_PROCESSORS):
        choices = ", ".join(("numpy", *_PROCESSORS))
        raise UsageError(f"{VARIABLE} is {wanted!r}", hint=f"it may be {choices}, or not set")
    if wanted == "numpy":
        return _Loaded(None, f"numpy: {VARIABLE} says so")
    path = Path(__file__).with_name(LIBRARY)
    try:
        loaded = ctypes.CDLL(str(path))
        if loaded.ckptkit_kernel_version() != _VERSION:
            return _Loaded(None, f"numpy: {path} is of another version of ckptkit")
    except (OSError, AttributeError):
        how = "cannot be loaded here" if path.exists() else "was not built"
        return _Loaded(None, f"numpy: the compiled library {how}")
    integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
    loaded.ckptkit_measure.argtypes = (pointer, pointer, pointer, size, size)
    loaded.ckptkit_measure.restype = size
    loaded.ckptkit_measure_files.argtypes = (
        *(pointer, integer, size, integer, size, size, size),
        *(pointer, pointer, pointer, pointer, pointer),
    )
    loaded.ckptkit_measure_files.restype = size
    here = int(loaded.ckptkit_processor())
    processor = _PROCESSORS.index(wanted) if wanted else here
    if processor > here:
        raise UsageError(f"{VARIABLE} is {wanted!r}, and this processor has no {wanted}")
    loaded.ckptkit_moments.argtypes = (pointer, integer, integer, pointer, size)
    library = _Library(
        loaded.ckptkit_measure, loaded.ckptkit_measure_files, loaded.ckptkit_moments, processor
    )
    if not _is_sound(library):
        return _Loaded(None, "numpy: the compiled library was built to compute otherwise")
    forced = f", since {VARIABLE} says so" if wanted else ""
    return _Loaded(library, f"compiled, {_PROCESSORS[processor]}{forced}")


def _is_sound(library: _Library) -> bool:
    """Whether a sample gives what Python computes; options of a compiler can change that."""
    old = [0.1 * place for place in range(1, 9)]
    new = [value * 1.1 for value in old]
    new[3] = math.nan
    for values in (new, [value * 1.1 for value in old]):
        meter = CompiledMeter(library, _DTYPES["float64"], _DTYPES["float64"], _state(library))
        statistics = DiffStatistics()
        left, right = ((ctypes.c_double * 8)(*numbers) for numbers in (old, values))
        addresses = ctypes.addressof(left), ctypes.addressof(right)
        done = meter.add(statistics, 0, *addresses, 8, METRIC_BLOCK)
        if done != (0 if values is new else 8):
            return False
    gaps = [b - a for a, b in zip(left, right, strict=True)]
    return (
        statistics.sum_abs == _joined(gaps)
        and statistics.sum_sq_new.number() == _joined([value * value for value in right])
        and statistics.sum_sq_diff.number() == _joined([value * value for value in gaps])
        and statistics.max_rel == max(gap / value for gap, value in zip(gaps, left, strict=True))
    )


def _joined(lanes: list[float]) -> float:
    a, b, c, d, e, f, g, h = lanes
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


def description() -> str:
    """Return in one line what measures differences here, and why; raises UsageError."""
    return _loaded().why


class CompiledMeter:
    """Measures blocks of one pair of dtypes into statistics, as `metrics.Meter` does."""

    def __init__(self, library: _Library, old: _Dtype, new: _Dtype, state: _State) -> None:
        self._library, self._old, self._new, self._state = library, old, new, state

    def add(
        self, statistics: DiffStatistics, start: int, old: int, new: int, size: int, block: int
    ) -> int:
        """Measure pairs of numbers that lie at two addresses.

        start: the flat index of the first.  block: METRIC_BLOCK, or another number of elements.

        Returns the number of pairs measured; a block that follows them is for numpy.
        """
        state = self._state
        if not _begin(state, statistics, block):
            return 0
        done = self._library.measure(ctypes.addressof(state), old, new, size, start)
        self._end(statistics)
        return done

    def add_files(
        self,
        statistics: DiffStatistics,
        start: int,
        old: FileValues,
        new: FileValues,
        size: int,
        buffers: tuple[int, int],
        crcs: ctypes.Array[ctypes.c_uint32],
        extend: int,
    ) -> tuple[int, int]:
        """Read, checksum and measure pairs of numbers from two files.

        start: the flat index of the first.  buffers: addresses of room for a block of each side.
        crcs: the checksums of both sides, extended.  extend: the address of a crc32c in C.

        Returns the number of pairs measured, and 0 where these are all, 1 where the block that
        follows was read and checksummed and is for numpy, 2 where it was not read.
        """
        state, status = self._state, ctypes.c_int(2)
        if not _begin(state, statistics, METRIC_BLOCK):
            return 0, 2
        done = self._library.measure_files(
            ctypes.addressof(state),
            *(old.descriptor, old.offset, new.descriptor, new.offset, size, start),
            *(*buffers, extend, ctypes.addressof(crcs), ctypes.addressof(status)),
        )
        self._end(statistics)
        return done, status.value

    def _end(self, statistics: DiffStatistics) -> None:
        state = self._state
        statistics.n += state.n
        statistics.n_finite += state.n
        statistics.n_diff += state.n_diff
        statistics.n_outside += state.n_outside
        for name in ("max_abs", "max_rel", "max_ulp", "needed_rtol", "sum_abs"):
            setattr(statistics, name, getattr(state, name))
        for name in _SQUARES:
            setattr(statistics, name, scaled_float(getattr(state, name)))
        if state.worst_at >= 0:
            raw = bytes(state)[_WORST : _WORST + 16]
            old, new = _value(self._old, raw[:8]), _value(self._new, raw[8:])
            statistics.worst = (state.worst, state.worst_at, old, new)


_SQUARES = ("sum_sq_old", "sum_sq_new", "sum_sq_diff")
_WORST = _State.worst_old.offset


def _begin(state: _State, statistics: DiffStatistics, block: int) -> bool:
    """Set what is added to; return whether a float64 holds the sums so far."""
    for name in _SQUARES:
        total: ScaledFloat = getattr(statistics, name)
        number = total.number()
        if number and not SAFE_LOW < number < SAFE_HIGH:
            return False
        setattr(state, name, number)
    for name in ("max_abs", "max_rel", "max_ulp", "needed_rtol", "sum_abs"):
        setattr(state, name, getattr(statistics, name))
    state.n = state.n_diff = state.n_outside = 0
    state.block, state.worst_at = block, -1
    state.worst = -math.inf if statistics.worst is None else statistics.worst[0]
    return True


def _value(dtype: _Dtype, raw: bytes) -> Any:
    if not dtype.form:  # bfloat16 is the upper half of a float32
        return struct.unpack("=f", b"\0\0" + raw[:2])[0]
    return struct.unpack_from(dtype.form, raw)[0]


def compiled_meter(old: str, new: str, tolerance: ElementTolerance) -> CompiledMeter | None:
    """Return what measures a pair of dtypes, element by element; None where numpy has to.

    Raises UsageError where the environment asks for what there is not.
    """
    library = _loaded().library
    if library is None or old not in _DTYPES or new not in _DTYPES:
        return None
    if not (0 <= tolerance.rtol <= _MAX_RTOL and 0 <= tolerance.atol < math.inf):
        return None
    left, right = _DTYPES[old], _DTYPES[new]
    state = _state(library, left, right, tolerance)
    return CompiledMeter(library, left, right, state)


def moments(dtype: str, address: int, size: int) -> BlockMoments | None:
    """Describe numbers that lie at an address; None where numpy has to, as where one is not finite.

    Raises UsageError as `compiled_meter` does.
    """
    library = _loaded().library
    if library is None or dtype not in _DTYPES or not size:
        return None
    found = BlockMoments()
    code = _DTYPES[dtype].code
    is_whole = library.moments(ctypes.byref(found), library.processor, code, address, size)
    return found if is_whole else None


def _state(
    library: _Library,
    old: _Dtype = _DTYPES["float64"],
    new: _Dtype = _DTYPES["float64"],
    tolerance: ElementTolerance = EXACT,
) -> _State:
    return _State(
        rtol=tolerance.rtol,
        atol=tolerance.atol,
        ulp_step=2.0**-old.ulp_digits if old.ulp_digits and old == new else 0.0,
        old_dtype=old.code,
        new_dtype=new.code,
        processor=library.processor,
        is_tolerant=bool(tolerance.rtol or tolerance.atol),
    )
