"""Whether what a difference looks like would be seen in damage at random too.

A hint is tested against a null: every value came out as one of `kinds` that can be told apart, each
as likely as the others.  It is said only where that would show the same in fewer than one of a
hundred cases, all questions that are asked of a difference together.  What follows from other
values, such as the last of probabilities that sum to one, is no evidence.
"""

from __future__ import annotations

import math

import numpy as np

from ckptkit.dtypes import Array

RARE = 0.01 / 10  # of one question, of the about ten that are asked
SURPLUS = 3  # points that a formula must fit beyond as many as it has parameters
MAX_COUNTED = 4096  # points: more are not needed to be sure


def log_of_chance(points: float, kinds: float) -> float:
    """Return log of the chance that `points` values of `kinds` each come out as they should."""
    return -points * math.log(max(kinds, 1.0))


def never_by_chance(choices: int, log_chance: float) -> bool:
    """Whether one of so many choices, each with that chance, would seldom fit."""
    return choices > 0 and math.log(choices) + log_chance < math.log(RARE)


def is_rare(log_choices: float, points: float, kinds: float) -> bool:
    """Whether one of that many choices would seldom fit `points` values of `kinds` each.

    log_choices: natural logarithm of how many choices could have been found to fit.
    """
    return log_choices + log_of_chance(points, kinds) < math.log(RARE)


def log_factorial(count: int) -> float:
    """Return log(count!), which is log of the number of orders."""
    return math.lgamma(count + 1)


def log_combinations(count: int, chosen: int) -> float:
    """Return log of the number of ways to choose some of `count` things."""
    return log_factorial(count) - log_factorial(chosen) - log_factorial(count - chosen)


def kinds_of(ref: Array, new: Array, room: float) -> float:
    """Return how many values can be told apart; room: how far apart is still the same."""
    distinct = float(np.union1d(ref, new).size)
    if room <= 0.0:
        return distinct
    spread = float(np.sqrt(np.mean(ref**2))) if ref.size else 0.0
    return min(distinct, max(2.0, spread / (2 * room)))


def kinds_drawn(values: Array) -> float:
    """Return of how many kinds values were drawn, as far as pairs that are alike tell.

    Of `kinds` that are equally likely, one pair in `kinds` is alike; a few values that all differ
    show no more than that there are about as many kinds as pairs of them.
    """
    _, times = np.unique(values, return_counts=True)
    pairs = values.size * (values.size - 1) / 2
    alike = float((times * (times - 1.0)).sum()) / 2
    return (pairs + 1) / (alike + 1)


def free_points(ref: Array, new: Array, room: float) -> int:
    """Return how many values do not follow from others of their row, in reference and new alike.

    Rows of probabilities sum to one, those of unit vectors have one length: there the last follows.
    """
    if ref.ndim and ref.shape[-1] > 1 and _is_bound(ref, new, room):
        return int(ref.size // ref.shape[-1] * (ref.shape[-1] - 1))
    return int(ref.size)


def _is_bound(ref: Array, new: Array, room: float) -> bool:
    width = ref.shape[-1]
    rows = np.concatenate([x.reshape(ref.size // width, width) for x in (ref, new)])
    each = rows.sum(axis=1), np.linalg.norm(rows, axis=1)
    return any(np.isfinite(x).all() and np.ptp(x) <= width * room for x in each)


def changed_points(ref: Array, new: Array, room: float) -> int:
    """Return how many different changes there are: pairs of a recorded and another new value."""
    if ref.ndim and ref.shape[-1] > 1 and _is_bound(ref, new, room):
        ref, new = ref[..., :-1], new[..., :-1]
    at = np.flatnonzero(np.abs(new - ref) > room)[:MAX_COUNTED]
    pairs = np.stack([ref.reshape(-1)[at], new.reshape(-1)[at]], axis=1)
    return len(np.unique(pairs, axis=0))
