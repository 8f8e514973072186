"""Whether one output is a plain function of the recorded one: scaled, shifted, an activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ckptkit.dtypes import Array
from ckptkit.model_io.compare_outputs import OutputResult

CLOSE = 1e-5  # relative; a hint holds within this or within the output's own tolerance


class Two(NamedTuple):
    """Reference and new values in float64, of one shape; room: how far apart is still the same.

    near(a, b) is judged against the spread of the reference, so that units do not matter.
    """

    ref: Array
    new: Array
    room: float
    result: OutputResult

    def near(self, ref: Array, new: Array) -> bool:
        """Whether two arrays of one shape agree, NaN with NaN."""
        with np.errstate(all="ignore"):
            close = np.abs(new - ref) <= self.room + 1e-6 * np.abs(ref)
            return bool((close | (ref == new) | (np.isnan(ref) & np.isnan(new))).all())


_FACTORS = {255.0: "255", 1 / 255: "1/255", 127.5: "127.5", 1 / 127.5: "1/127.5", 256.0: "256"}


def formula_hints(two: Two) -> Iterator[str]:
    """new = f(ref), for every element."""
    ref, new = two.ref, two.new
    if not (np.isfinite(ref).all() and np.isfinite(new).all()) or two.room == 0.0:
        return
    with np.errstate(all="ignore"):
        factor = float(np.vdot(ref, new) / np.vdot(ref, ref)) if ref.any() else 0.0
    if ref.size > 2 and factor and _follows(two, ref * factor, factor):
        yield f"is {_factor(factor)} the recorded output"
        return
    shift = float(np.mean(new - ref))
    if ref.size > 2 and np.ptp(ref) > 0 and _follows(two, ref + shift, 1.0):
        yield f"is the recorded output {'plus' if shift > 0 else 'minus'} {abs(shift):.6g}"
        return
    if ref.size > 3 and np.ptp(ref) > 0:
        centred = ref - ref.mean()
        slope = float(np.vdot(centred, new) / np.vdot(centred, centred))
        offset = float(np.mean(new) - slope * np.mean(ref))
        if (
            slope
            and math.isfinite(slope)
            and math.isfinite(offset)
            and _follows(two, ref * slope + offset, float(slope))
        ):
            yield f"is {slope:.6g} times the recorded output {offset:+.6g}"
            return
    yield from _activation_hints(two)


def _follows(two: Two, wanted: Array, factor: float) -> bool:
    """Whether new is `wanted`, far closer than it is to the reference."""
    gap = float(np.abs(two.new - wanted).max())
    now = float(np.abs(two.new - two.ref).max())
    return gap <= two.room * max(1.0, abs(factor)) and gap < 0.05 * now


def _factor(factor: float) -> str:
    for value, text in _FACTORS.items():
        if math.isclose(factor, value, rel_tol=1e-4):
            return f"{text} times"
    if math.isclose(factor, -1.0, rel_tol=1e-4):
        return "the negative of"
    return f"{factor:.6g} times"


def _softmax(x: Array) -> Array:
    power = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(power / power.sum(axis=-1, keepdims=True))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "softmax": _softmax,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "log": np.log,
    "log softmax": lambda x: np.log(_softmax(x)),
}


def _activation_hints(two: Two) -> Iterator[str]:
    if two.ref.ndim < 1 or two.ref.size < 3:
        return
    with np.errstate(all="ignore"):
        for name, function in _FUNCTIONS.items():
            one, other = function(two.ref), function(two.new)
            if _near_enough(two.new, one) and not _near_enough(two.ref, one):
                yield f"is the {name} of the recorded output"
                return
            if _near_enough(two.ref, other) and not _near_enough(two.new, other):
                yield f"lacks the {name}: that of it is the recorded output"
                return


def _near_enough(values: Array, wanted: Array) -> bool:
    if not np.isfinite(wanted).all() or not np.ptp(wanted):
        return False
    room = CLOSE * float(np.sqrt(np.mean(wanted**2)))
    return bool((np.abs(values - wanted) <= room + CLOSE * np.abs(wanted)).all())
