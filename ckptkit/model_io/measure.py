"""The numbers behind one verdict of `ckptkit.model_io.compare_outputs`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ckptkit.compare import statistics
from ckptkit.compare.metrics import Meter
from ckptkit.compare.tensors import Worst, cosine_of, unravel
from ckptkit.dtypes import Array, dtype_of_numpy, kind
from ckptkit.model_io.array_files import as_array
from ckptkit.model_io.results import Chooser, OutputResult, number
from ckptkit.model_io.sampling import Norms, Sample, norms_of
from ckptkit.model_io.tiers import BOUNDS, OutputTolerance

NOISE_FACTOR = 4.0  # times the recorded noise still passes
MEANINGLESS = 0.1  # of the largest value: a tolerance from here on says nothing
_MIN_SNR = 100.0  # 20 dB, as a ratio of squares
_STEP = 1 << 18  # elements per part, so that temporaries stay small


def comparable_form(value: Any) -> Array | Sample:
    """Return an array as `as_array` makes it; samples as they are."""
    return value if isinstance(value, Sample) else as_array(value)


def compare_output(
    name: str,
    ref: Array | Sample,
    new: Array,
    tolerance: Chooser,
    noise: Mapping[str, float],
) -> OutputResult:
    """Compare one output that both sides have.

    Args:
        ref, new: as `comparable_form` returns them.
        tolerance: chooses by name and dtype of the reference.
        noise: as `noise_between` measures it; {} where none is known.
    Returns:
        The verdict, without hints.
    """
    dtype = ref.dtype if isinstance(ref, Sample) else dtype_of_numpy(ref.dtype)
    shape, new_dtype = ref.shape, dtype_of_numpy(new.dtype)
    limit = tolerance(name, dtype)
    result = OutputResult(name, "differs", dtype, shape, tolerance=limit)
    # what cannot be compared, or has nothing to compare, is a verdict of its own
    if shape != new.shape:
        return replace(
            result, status="shape", message=f"shape {list(new.shape)}, recorded {list(shape)}"
        )
    if not math.prod(shape):
        return replace(result, status="empty", message="no elements, so nothing was compared")
    if not statistics.comparable(dtype, new_dtype):
        return replace(result, status="dtype", message=f"{new_dtype}, recorded as {dtype}")
    if isinstance(ref, Sample):
        result = _compare_sample(result, ref, new, noise)
    else:
        norms = norms_of(ref) if kind(dtype) != "string" else None
        result = _compare_elements(result, ref.reshape(-1), new.reshape(-1), norms, noise)
        result = replace(result, argmax_agreement=_argmax_agreement(ref, new))
    # values of another dtype never pass, but how far apart they are says what happened
    if dtype != new_dtype:
        message = f"{new_dtype}, recorded as {dtype}; {result.message}"
        return replace(result, status="dtype", message=message)
    return result


def _compare_sample(
    result: OutputResult, ref: Sample, new: Array, noise: Mapping[str, float]
) -> OutputResult:
    """Compare the sampled elements, then the norms of all of them."""
    places, limit = ref.places, result.tolerance
    result = _compare_elements(result, ref.values, new.reshape(-1)[places], ref.norms, noise)
    worst = result.worst
    if worst is not None:
        worst = replace(worst, index=unravel(int(places[worst.index[0]]), ref.shape))
    whole = _unravelled(result, worst)
    if ref.norms is None or not result.ok:
        return whole
    norms, old = norms_of(new), ref.norms
    if norms.nonfinite != old.nonfinite:
        message = f"{norms.nonfinite} NaN or infinite elements, recorded {old.nonfinite}"
        return replace(whole, status="nonfinite", message=message)
    extremes = ((norms.lowest, old.lowest), (norms.highest, old.highest), (norms.rms, old.rms))
    unit = old.rms if limit.scaled else 1.0
    room = limit.atol * unit + limit.rtol * max(abs(old.lowest), abs(old.highest))
    room = max(room, NOISE_FACTOR * noise.get("max_abs", 0.0))
    if limit.min_cosine is None and any(abs(a - b) > room for a, b in extremes):
        message = "sampled elements agree, but the range or rms of all elements does not"
        return replace(whole, status="differs", message=message)
    return whole


def _unravelled(result: OutputResult, worst: Worst | None) -> OutputResult:
    """Return the result of a sample with the index that its worst element has in the whole."""
    message = result.message
    if result.worst is not None and worst is not None:
        message = message.replace(str(list(result.worst.index)), str(list(worst.index)))
    return replace(result, worst=worst, sampled=True, message=message)


def _compare_elements(
    result: OutputResult,
    ref: Array,
    new: Array,
    norms: Norms | None,
    noise: Mapping[str, float],
) -> OutputResult:
    """Fill in the numbers and the status of two flat arrays; norms: of all the reference."""
    old_dtype, new_dtype = dtype_of_numpy(ref.dtype), dtype_of_numpy(new.dtype)
    exact = statistics.is_exact(old_dtype, new_dtype)
    limit, rms = result.tolerance, norms.rms if norms is not None else 0.0
    unit = rms if limit.scaled else 1.0
    meter = Meter(old_dtype, new_dtype, statistics.ElementTolerance(limit.rtol, limit.atol * unit))
    meter.add(0, ref, new)
    counts = meter.statistics
    needed = None if exact else _needed(ref, new, unit) if counts.n_diff else 0.0
    result = replace(
        result,
        n=counts.n,
        n_bad=counts.n_outside,
        max_abs=counts.max_abs,
        max_rel=counts.max_rel,
        max_ulp=counts.max_ulp if meter.ulps else None,
        cosine=None if norms is None else cosine_of(counts) if counts.n_diff else 1.0,
        rms=rms,
        needed=math.inf if counts.nonfinite and not exact else needed,
        worst=_worst(counts, result.shape, len(ref)),
    )
    if not counts.n_diff:
        return replace(result, status="equal", message="equal")
    if counts.nonfinite:
        return replace(result, status="nonfinite", message=_nonfinite(counts.nonfinite, result))
    if exact:
        return replace(result, message=_far(result))
    if limit.min_cosine is not None:
        return _by_angle(result, counts)
    if not counts.n_outside:
        return _within(result, unit, norms)
    # outside of the tolerance, but perhaps no further than the model's own runs are apart
    floor = NOISE_FACTOR * float(noise.get("max_abs", 0.0))
    if floor and not _outside(ref, new, limit, unit, floor, result.dtype):
        message = f"{_near(result)}; within {NOISE_FACTOR:g} times the noise recorded"
        return replace(result, status="noise", message=message)
    return replace(result, message=_far(result))


def _worst(counts: statistics.DiffStatistics, shape: tuple[int, ...], size: int) -> Worst | None:
    """Return the element furthest outside; by its flat place where `size` is not the shape's."""
    if counts.worst is None:
        return None
    whole = shape if shape and size == math.prod(shape) else (size,)
    return Worst(unravel(counts.worst[1], whole), *counts.worst[2:])


def _within(result: OutputResult, unit: float, norms: Norms | None) -> OutputResult:
    """Judge elements that are all within the tolerance, unless that lets anything pass."""
    limit = result.tolerance
    largest = max(abs(norms.lowest), abs(norms.highest)) if norms is not None else 0.0
    room = limit.atol * unit + limit.rtol * largest
    if room <= MEANINGLESS * largest * (1 + 1e-9):
        return replace(result, status="within", message=_near(result))
    share = number(room / largest) if largest else "inf"
    message = f"any value would do: the tolerance of {number(room)} is {share} of the largest value"
    return replace(result, status="meaningless", message=message)


def _by_angle(result: OutputResult, counts: statistics.DiffStatistics) -> OutputResult:
    """Judge a quantised output by its angle and its ratio of signal to noise."""
    ratio = counts.sum_sq_old.over(counts.sum_sq_diff)
    least = result.tolerance.min_cosine or 0.0
    passes = result.cosine is not None and result.cosine >= least and ratio >= _MIN_SNR
    decibels = 10 * math.log10(ratio) if ratio > 0 else -math.inf
    cosine = "none" if result.cosine is None else f"{result.cosine:.6g}"
    message = f"cosine {cosine}, signal to noise {decibels:.3g} dB"
    return replace(
        result,
        status="within" if passes else "differs",
        n_bad=0 if passes else result.n_bad,
        message=message,
    )


def _parts(ref: Array, new: Array) -> Any:
    """Yield (|new - ref|, |ref|) in float64, part by part; pairs that are not finite left out."""
    for start in range(0, len(ref), _STEP):
        a, b = ref[start : start + _STEP], new[start : start + _STEP]
        wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
        with np.errstate(all="ignore"):
            a, b = a.astype(wide), b.astype(wide)
            finite = np.isfinite(a) & np.isfinite(b)
            yield np.abs(b - a)[finite], np.abs(a)[finite]


def _needed(ref: Array, new: Array, unit: float) -> float:
    """Return the least t with |new - ref| <= t * unit + t * |ref| for all finite pairs."""
    needed = 0.0
    with np.errstate(all="ignore"):
        for gap, size in _parts(ref, new):
            ratio = gap / (unit + size)
            ratio[gap == 0] = 0.0
            needed = max(needed, float(ratio.max(initial=0.0)))
    return needed * (1 + 2**-50)


def _outside(
    ref: Array, new: Array, limit: OutputTolerance, unit: float, floor: float, dtype: str
) -> bool:
    """Whether an element is outside both the tolerance and the noise (itself bounded by tier 3)."""
    rtol, atol = BOUNDS["T3"].get(dtype, BOUNDS["T3"]["float32"])
    scale = norms_of(ref).rms
    for gap, size in _parts(ref, new):
        noise = np.minimum(floor, atol * scale + rtol * size)
        if bool((gap > np.maximum(noise, limit.atol * unit + limit.rtol * size)).any()):
            return True
    return False


def _argmax_agreement(ref: Array, new: Array) -> float | None:
    """Return the share of rows of the last axis with their maximum at the same place."""
    if ref.ndim < 2 or ref.shape[-1] < 2 or ref.dtype.kind in "Oc" or new.dtype.kind in "Oc":
        return None
    if kind(dtype_of_numpy(ref.dtype)) not in ("float", "int", "uint"):
        return None
    rows = ref.size // ref.shape[-1]
    a, b = ref.reshape(rows, -1), new.reshape(rows, -1)
    step = max(1, _STEP // ref.shape[-1])
    agree = 0
    for start in range(0, rows, step):
        old, late = (x[start : start + step].astype(np.float64) for x in (a, b))
        agree += int(np.count_nonzero(old.argmax(axis=-1) == late.argmax(axis=-1)))
    return float(agree / rows)


def noise_between(ref: Array, runs: Sequence[Array]) -> dict[str, Any] | None:
    """Return how far repeated runs were from the first; None for text and for other shapes."""
    dtype = dtype_of_numpy(ref.dtype)
    if kind(dtype) in ("string", "opaque") or not ref.size:
        return None
    total = statistics.DiffStatistics()
    ulps = False
    for run in runs:
        if run.shape != ref.shape or run.dtype != ref.dtype:
            return None
        meter = Meter(dtype, dtype, statistics.EXACT)
        meter.add(0, ref.reshape(-1), run.reshape(-1))
        total.join(meter.statistics)
        ulps = meter.ulps
    rms = norms_of(ref).rms
    largest = math.inf if total.nonfinite else float(total.max_abs)
    return {
        "max_abs": largest,
        "max_scaled": largest / rms if rms else (math.inf if largest else 0.0),
        "max_ulp": total.max_ulp if ulps else None,
        "runs": len(runs),
    }


# --- one line of text -----------------------------------------------------------------------------


def _near(result: OutputResult) -> str:
    return f"max abs {number(result.max_abs)}, needs {number(result.needed or 0.0)}"


def _far(result: OutputResult) -> str:
    share = f"{result.n_bad:,} of {result.n:,} elements outside"
    if result.needed is None:
        return f"{result.n_bad:,} of {result.n:,} elements differ{_at(result)}"
    return f"{share}; max abs {number(result.max_abs)}{_at(result)}; needs {number(result.needed)}"


def _nonfinite(count: int, result: OutputResult) -> str:
    return f"{count:,} of {result.n:,} elements are NaN or infinite on one side{_at(result)}"


def _at(result: OutputResult) -> str:
    worst = result.worst
    if worst is None:
        return ""
    return f" at {list(worst.index)}: {_shown(worst.new)}, recorded {_shown(worst.old)}"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)[:60]
