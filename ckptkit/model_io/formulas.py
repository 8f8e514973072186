"""Whether one output is a plain function of the recorded one.

Of its values: scaled, shifted, an activation (`formula_hints`).  Of their places: the slices of one
axis in another order (`moved_slices`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ckptkit.dtypes import Array
from ckptkit.model_io.chance import SURPLUS, changed_points
from ckptkit.model_io.results import OutputResult

MAX_SLICES = 4096  # per axis: a permutation is searched by sorting, then verified
_SHOWN = 8  # places that a permutation in words lists
_RELU_POINTS = 8  # it changes only signs: each is one of two
CLOSE = 1e-5  # relative; a hint holds within this or within the output's own tolerance


class ValuePair(NamedTuple):
    """Reference and new values in float64, of one shape; room: how far apart is still the same.

    near(a, b) is judged against the spread of the reference, so that units do not matter.
    """

    ref: Array
    new: Array
    room: float
    result: OutputResult

    def near(self, ref: Array, new: Array) -> bool:
        """Whether pair arrays of one shape agree, NaN with NaN."""
        with np.errstate(all="ignore"):
            close = np.abs(new - ref) <= self.room + 1e-6 * np.abs(ref)
            return bool((close | (ref == new) | (np.isnan(ref) & np.isnan(new))).all())


_FACTORS = {255.0: "255", 1 / 255: "1/255", 127.5: "127.5", 1 / 127.5: "1/127.5", 256.0: "256"}


def formula_hints(pair: ValuePair) -> Iterator[str]:
    """Yield what function of the reference every new element is, the plainest first."""
    ref, new = pair.ref, pair.new
    if not (np.isfinite(ref).all() and np.isfinite(new).all()) or pair.room == 0.0:
        return
    points = changed_points(ref, new, pair.room)
    # the least squares factor, then shift, then both; each must hold for every element
    with np.errstate(all="ignore"):
        factor = float(np.vdot(ref, new) / np.vdot(ref, ref)) if ref.any() else 0.0
    if points >= 1 + SURPLUS and factor and _follows(pair, ref * factor, factor):
        yield f"is {_factor(factor)} the recorded output"
        return
    shift = float(np.mean(new - ref))
    if points >= 1 + SURPLUS and np.ptp(ref) > 0 and _follows(pair, ref + shift, 1.0):
        yield f"is the recorded output {'plus' if shift > 0 else 'minus'} {abs(shift):.6g}"
        return
    if points >= 2 + SURPLUS and np.ptp(ref) > 0:
        centred = ref - ref.mean()
        slope = float(np.vdot(centred, new) / np.vdot(centred, centred))
        offset = float(np.mean(new) - slope * np.mean(ref))
        if (
            abs(slope) * np.ptp(ref) > pair.room  # or it is a constant
            and math.isfinite(slope)
            and math.isfinite(offset)
            and _follows(pair, ref * slope + offset, float(slope))
        ):
            yield f"is {slope:.6g} times the recorded output {offset:+.6g}"
            return
    yield from _activation_hints(pair, points)


def _follows(pair: ValuePair, wanted: Array, factor: float) -> bool:
    """Whether new is `wanted`, far closer than it is to the reference."""
    gap = float(np.abs(pair.new - wanted).max())
    gap_as_is = float(np.abs(pair.new - pair.ref).max())
    return gap <= pair.room * max(1.0, abs(factor)) and gap < 0.05 * gap_as_is


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


def _activation_hints(pair: ValuePair, points: int) -> Iterator[str]:
    if pair.ref.ndim < 1 or points < SURPLUS:
        return
    with np.errstate(all="ignore"):
        for name, function in _FUNCTIONS.items():
            if name == "relu" and points < _RELU_POINTS:
                continue
            of_ref, of_new = function(pair.ref), function(pair.new)
            if _near_enough(pair.new, of_ref) and not _near_enough(pair.ref, of_ref):
                yield f"is the {name} of the recorded output"
                return
            if _near_enough(pair.ref, of_new) and not _near_enough(pair.new, of_new):
                yield f"lacks the {name}: that of it is the recorded output"
                return


def _near_enough(values: Array, wanted: Array) -> bool:
    if not np.isfinite(wanted).all() or not np.ptp(wanted):
        return False
    room = CLOSE * float(np.sqrt(np.mean(wanted**2)))
    return bool((np.abs(values - wanted) <= room + CLOSE * np.abs(wanted)).all())


# --- the same slices in another order -------------------------------------------------------------


def moved_slices(
    ref: Array, new: Array, axis: int, near: Callable[[Array, Array], bool]
) -> list[int] | None:
    """Return for each slice of `new` along `axis` which slice of `ref` it is; None if it is none.

    The identity, and axes of one slice, give None.
    """
    count = ref.shape[axis]
    if not 1 < count <= MAX_SLICES or ref.shape != new.shape:
        return None
    old = np.moveaxis(ref, axis, 0).reshape(count, -1)
    late = np.moveaxis(new, axis, 0).reshape(count, -1)
    if not (np.isfinite(old).all() and np.isfinite(late).all()):
        return None
    for search in (_by_projection, _by_distance):
        order = search(old, late)
        # a search may be wrong where values tie or are noisy: the order is verified
        if order is not None and near(old[order], late):
            places = [int(at) for at in order]
            return None if places == list(range(count)) else places
    return None


def _by_projection(old: Array, late: Array) -> Array | None:
    """Pair slices by the order of their projections onto one fixed direction."""
    width = old.shape[1]
    direction = np.cos(np.arange(width) * 1.618033988749895 + 0.5)
    old_ranks, late_ranks = (np.argsort(x @ direction, kind="stable") for x in (old, late))
    order = np.empty(len(old), np.int64)
    order[late_ranks] = old_ranks
    return order


def _by_distance(old: Array, late: Array) -> Array | None:
    """Pair each slice with the nearest, where projections tie; None unless one-to-one."""
    count, width = old.shape
    if count * count * width > 1 << 26:
        return None
    order = np.empty(count, np.int64)
    free = np.ones(count, bool)
    for index in range(count):
        gaps = np.abs(old - late[index]).max(axis=1)
        gaps[~free] = np.inf
        order[index] = int(gaps.argmin())
        free[order[index]] = False
    return order


def permutation_text(places: list[int]) -> str:
    """Return a permutation in words, the commonest kinds by name."""
    count = len(places)
    if places == list(range(count - 1, -1, -1)):
        return "reversed" if count > 2 else "the pair have changed places"
    moved = [index for index, place in enumerate(places) if place != index]
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} have changed places"
    step = places[0]
    if places == [(index + step) % count for index in range(count)]:
        return f"rotated by {step if step <= count // 2 else step - count}"
    shown = ", ".join(map(str, places[:_SHOWN]))
    return f"now [{shown}{', ...' if count > _SHOWN else ''}] of those recorded"
