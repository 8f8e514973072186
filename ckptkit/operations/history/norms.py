"""Findings about sizes and directions: not finite, exploding, vanishing, made anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from statistics import median

from ckptkit.dtypes import kind
from ckptkit.operations.history.identity import Repeats
from ckptkit.operations.history.record import MeasuredRun, has_no_numbers, layers_text, names_text
from ckptkit.operations.history.types import HistoryFinding, TensorHistory

_GROWS, _SHRINKS = 1.05, 0.95  # from one step to the next, in a stretch that goes one way
_EARLY = 3  # updates, in which small initial values may grow many times
_FEW = 8  # elements, whose norm says little as long as it is small
_LARGE = 1.0  # root mean square of a weight that is no longer small
_EVEN = 0.7  # of the growth of a stretch's first half, in its second: what slows down settles


def value_findings(run: MeasuredRun) -> Iterator[HistoryFinding]:
    """Yield where NaN and infinities come first, weights and optimizer state apart."""
    for what, text in (("nan", "NaN"), ("infinite", "infinities")):
        firsts: dict[tuple[str, int, bool], list[TensorHistory]] = {}
        for tensor in run.tensors:
            at = next((i for i in sorted(tensor.measured) if _count(tensor, i, what)), None)
            if at is not None:
                is_mask = what == "infinite" and _never_moves(tensor)
                firsts.setdefault((tensor.role, at, is_mask), []).append(tensor)
        for (role, at, is_mask), tensors in sorted(firsts.items(), key=lambda item: item[0][1]):
            count = sum(_count(t, at, what) for t in tensors)
            numbers = sum(t.measured[at].statistics.n for t in tensors)
            yield run.finding(
                "note" if is_mask else "error",
                f"{role}.{what}",
                at,
                f"first {text} at step {run.number(at)} in {names_text(tensors)} "
                f"({role}; {count:,} of {numbers:,} values"
                + ("; it never changes)" if is_mask else ")"),
                tensors,
                value=float(count),
            )


def _count(tensor: TensorHistory, at: int, what: str) -> int:
    statistics = tensor.measured[at].statistics
    return statistics.n_nan if what == "nan" else statistics.n_inf


def _never_moves(tensor: TensorHistory) -> bool:
    return len({m.content for m in tensor.measured.values()}) == 1


# --- exploding and vanishing ----------------------------------------------------------------------


def norm_findings(run: MeasuredRun, repeats: Repeats) -> Iterator[HistoryFinding]:
    """Yield where norms explode or vanish; steps with NaN or infinities are left out."""
    exploding: dict[int, list[tuple[TensorHistory, float]]] = {}
    vanishing: dict[int, list[tuple[TensorHistory, float]]] = {}
    for tensor in run.weights:
        if kind(tensor.dtype) not in ("float", "complex"):
            continue
        norms = _norms(tensor, repeats)
        grown = _exploding(norms, tensor, run.thresholds.growth)
        if grown is not None:
            exploding.setdefault(grown[0], []).append((tensor, grown[1]))
        if tensor in run.matrices:
            shrunk = _vanishing(norms, run.thresholds.decay)
            if shrunk is not None:
                vanishing.setdefault(shrunk[0], []).append((tensor, shrunk[1]))
    for code, found, verb in (
        ("norm.exploding", exploding, "grows"),
        ("norm.vanishing", vanishing, "shrinks"),
    ):
        for at, pairs in sorted(found.items()):
            tensors = [tensor for tensor, _ in pairs]
            worst = max((times for _, times in pairs), key=lambda x: abs(math.log(x or 1e-300)))
            yield run.finding(
                "warning",
                code,
                at,
                f"the norm of {names_text(tensors)} {verb} from step {run.number(at)} on, to "
                f"{worst:.3g} times what it was",
                tensors,
                value=worst,
            )


def _norms(tensor: TensorHistory, repeats: Repeats) -> list[tuple[int, float]]:
    """Return (index, norm), of values that vary: constants are initial values, or one number."""
    return [
        (at, m.statistics.norm)
        for at in repeats.own(tensor)
        for m in (tensor.measured[at],)
        if not has_no_numbers(tensor, at) and (m.statistics.std > 0 or m.statistics.norm == 0)
    ]


def _exploding(
    norms: Sequence[tuple[int, float]], tensor: TensorHistory, growth: float
) -> tuple[int, float] | None:
    """Return (first index that grew, times), of one step or a stretch that does not slow down."""
    norms = [(at, norm) for at, norm in norms if norm > 0]
    for first, last in _stretches(norms, lambda ratio: ratio >= _GROWS):
        before = [norm for _, norm in norms[: first + 1]]
        for end in range(first + 1, last + 1):
            times = norms[end][1] / norms[first][1]
            size = norms[end][1] / math.sqrt(max(1, tensor.size))
            # what was near zero for a step, a bias that changes its sign, comes back to what it was
            usual = max(median(before[-10:]) * growth, max(before) * 2)
            is_early = size < _LARGE and (end <= _EARLY or tensor.size < _FEW)
            is_slow = end - first > 1 and size < _LARGE
            if (
                times < growth
                or norms[end][1] < usual
                or is_early
                or is_slow
                or not _is_even(norms[first : end + 1])
            ):
                continue
            return norms[_onset(norms, first, end)][0], norms[last][1] / norms[first][1]
    return None


def _onset(norms: Sequence[tuple[int, float]], first: int, end: int) -> int:
    """Return the place of the first large step of a stretch: small growth before is as usual."""
    steps = [math.log(b / a) for (_, a), (_, b) in _neighbours(norms[first : end + 1])]
    largest = max(steps)
    return first + 1 + next(i for i, step in enumerate(steps) if step >= largest / 4)


def _vanishing(norms: Sequence[tuple[int, float]], decay: float) -> tuple[int, float] | None:
    """Return (first index that shrank, times), as `_exploding` does."""
    for place, ((_, before), (at, norm)) in enumerate(_neighbours(norms)):
        if before > 0 and norm <= decay * before and place + 1 > _EARLY:
            return at, norm / before
    norms = [(at, norm) for at, norm in norms if norm > 0]
    for first, last in _stretches(norms, lambda ratio: ratio <= _SHRINKS):
        for end in range(first + 2, last + 1):
            times = norms[end][1] / norms[first][1]
            if times <= decay and _is_even(norms[first : end + 1]) and end > _EARLY:
                return norms[first + 1][0], norms[last][1] / norms[first][1]
    return None


def _neighbours(
    norms: Sequence[tuple[int, float]],
) -> Iterator[tuple[tuple[int, float], tuple[int, float]]]:
    return itertools.pairwise(norms)


def _stretches(norms: Sequence[tuple[int, float]], fits: object) -> Iterator[tuple[int, int]]:
    """Yield (first, last) places between which each ratio to the one before fits."""
    assert callable(fits)
    first = 0
    for place, ((_, a), (_, b)) in enumerate(_neighbours(norms)):
        if not fits(b / a):
            if place > first:
                yield first, place
            first = place + 1
    if len(norms) - 1 > first:
        yield first, len(norms) - 1


def _is_even(norms: Sequence[tuple[int, float]]) -> bool:
    """Whether a stretch grows (or shrinks) in its second half nearly as it does in its first."""
    if len(norms) < 3:
        return True
    middle = len(norms) // 2
    first = abs(math.log(norms[middle][1] / norms[0][1]))
    second = abs(math.log(norms[-1][1] / norms[middle][1]))
    steps = middle, len(norms) - 1 - middle
    return second / steps[1] >= _EVEN * first / steps[0]


# --- made anew ------------------------------------------------------------------------------------


def direction_findings(run: MeasuredRun, repeats: Repeats) -> Iterator[HistoryFinding]:
    """Yield where a kernel points elsewhere than a step before, as it does at no other step."""
    jumps: dict[int, list[tuple[TensorHistory, float]]] = {}
    for tensor in run.matrices:
        turned = _turns(tensor, repeats)
        for place, (at, turn) in enumerate(turned):
            others = [t for i, t in turned if i != at]
            before = [t for _, t in turned[:place]]
            if turn < run.thresholds.jump or len(others) < 3 or not before:
                continue
            if median(others) <= turn / 10 and max(before[-3:]) <= turn / 5:
                jumps.setdefault(at, []).append((tensor, turn))
    for at, pairs in sorted(jumps.items()):
        tensors = [tensor for tensor, _ in pairs]
        is_all = len(tensors) > 1 and len(tensors) >= 0.8 * len(run.matrices)
        yield run.finding(
            "warning",
            "weights.reinitialised" if is_all else "layer.reinitialised",
            at,
            f"{'all layers' if is_all else layers_text(tensors)} at step {run.number(at)} "
            f"{'have' if is_all else 'has'} nothing of the step before: made anew, or of another "
            "run",
            tensors,
            value=max(turn for _, turn in pairs),
        )


def _turns(tensor: TensorHistory, repeats: Repeats) -> list[tuple[int, float]]:
    """Return (index, 1 - cosine between the values and those a step before)."""
    found = []
    order = sorted(tensor.measured)
    for before, at in itertools.pairwise(order):
        update = tensor.measured[at].update
        if update is None or has_no_numbers(tensor, at) or has_no_numbers(tensor, before):
            continue
        if at in repeats.older or before in repeats.older or at in repeats.equal:
            continue
        a, b = tensor.measured[before].statistics.norm, tensor.measured[at].statistics.norm
        if not a or not b or not math.isfinite(a * b):
            continue
        gap, ratio = update.norm / a, b / a
        cosine = (1 + ratio * ratio - gap * gap) / (2 * ratio)
        found.append((at, max(0.0, 1 - cosine)))
    return found
