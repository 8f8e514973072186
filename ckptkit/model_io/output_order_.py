"""Whether the slices of one array are those of another in another order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ckptkit.dtypes import Array

MAX_SLICES = 4096  # per axis: a permutation is searched by sorting, then verified
_SHOWN = 8


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
        found = search(old, late)
        if found is not None and near(old[found], late):
            places = [int(at) for at in found]
            return None if places == list(range(count)) else places
    return None


def _by_projection(old: Array, late: Array) -> Array | None:
    """Pair slices by the order of their projections onto one fixed direction."""
    width = old.shape[1]
    direction = np.cos(np.arange(width) * 1.618033988749895 + 0.5)
    ranks = (np.argsort(x @ direction, kind="stable") for x in (old, late))
    one, other = ranks
    found = np.empty(len(old), np.int64)
    found[other] = one
    return found


def _by_distance(old: Array, late: Array) -> Array | None:
    """Pair each slice with the nearest, where projections tie; None unless one-to-one."""
    count, width = old.shape
    if count * count * width > 1 << 26:
        return None
    found = np.empty(count, np.int64)
    free = np.ones(count, bool)
    for index in range(count):
        gaps = np.abs(old - late[index]).max(axis=1)
        gaps[~free] = np.inf
        found[index] = int(gaps.argmin())
        free[found[index]] = False
    return found


def said(places: list[int]) -> str:
    """Return a permutation in words, the commonest kinds by name."""
    count = len(places)
    if places == list(range(count - 1, -1, -1)):
        return "reversed" if count > 2 else "the two have changed places"
    moved = [index for index, place in enumerate(places) if place != index]
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} have changed places"
    step = places[0]
    if places == [(index + step) % count for index in range(count)]:
        return f"rotated by {step if step <= count // 2 else step - count}"
    shown = ", ".join(map(str, places[:_SHOWN]))
    return f"now [{shown}{', ...' if count > _SHOWN else ''}] of those recorded"
