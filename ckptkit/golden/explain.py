"""What happened to one tensor, from the sketch of what it was and the values that it has now."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ckptkit.compare.tensors import unravel
from ckptkit.dtypes import Array, itemsize, kind, numpy_dtype
from ckptkit.golden import sketch as _sketch
from ckptkit.golden.initial_values import MIN_SIZE, initial_value
from ckptkit.golden.sketch_types import Sketch
from ckptkit.stores.base import shaped
from ckptkit.text import plural

if TYPE_CHECKING:
    from ckptkit.golden.binding import Binding
    from ckptkit.stores.base import Store

MAX_TRIED = 1 << 23  # elements of a tensor that is read whole to try reorderings
MAX_BLOCKED = 1 << 21  # elements for which orders of blocks (gates) are tried: up to 58 of them
_WORD_LIMIT = 1 << 31  # words up to which the sums tell the place of one without overflow
_BLOCKS = (2, 3, 4)  # of an axis: gates of a GRU and an LSTM, halves of a GLU
_EVIDENCE = 4  # changes that a factor or a shift must fit: it has one parameter
_CLOSE = 0.999  # correlation from which values are those recorded, but for a small change


class Explanation(NamedTuple):
    """A code, a sentence, a hint; group: what to say of many alike.

    initial: what first value the tensor looks like now, None if like none.
    """

    code: str
    text: str
    hint: str = ""
    group: str = ""
    initial: str | None = None


class _ChangedTensor(NamedTuple):
    """One changed tensor: what it was, what it is, and where its values are."""

    old: Sketch
    new: Sketch
    store: Store
    key: str

    def values(self) -> Array | None:
        """Return the values in their shape, None where there are too many."""
        if self.new.size > MAX_TRIED:
            return None
        return shaped(self.store.read(self.key), self.new.shape, self.key)


def explain(old: Sketch, now: Binding, name: str) -> Explanation:
    """Return what happened to the variable that is called `name` now."""
    new = now.variables[name]
    if now.source is None or name not in now.keys:
        return Explanation("weight.changed", "the values differ")
    store, key = now.source.store, now.keys[name]
    if new.places is None:
        new = _sketch.sketch(store, key)
    case = _ChangedTensor(old, new, store, key)
    if old.dtype != new.dtype or old.shape != new.shape:
        return _explain_form(case)
    if old.places is None or new.places is None:
        return Explanation("weight.changed", f"the values differ ({old.dtype} {list(old.shape)})")
    # the surest question first: the first that has an answer ends it
    initial = initial_value(new)
    for question in _QUESTIONS:
        explanation = question(case)
        if explanation is not None:
            few = new.size < MIN_SIZE  # of which other questions say more than there is to say
            keep = few or explanation.code.startswith("weight.constant")
            return explanation._replace(initial=initial if keep else None)
    return _throughout(case, initial)


# --- another form ---------------------------------------------------------------------------------


def _explain_form(case: _ChangedTensor) -> Explanation:
    old, new = case.old, case.new
    if old.shape == new.shape:
        message = f"dtype {new.dtype}, recorded as {old.dtype}"
        if _agree_as(old.sampled, new.sampled, new.dtype):
            group = f"cast from {old.dtype} to {new.dtype}"
            return Explanation("weight.cast", f"{group}; the values agree", "", group)
        return Explanation("weight.dtype", f"{message}; the values differ too")
    message = f"shape {list(new.shape)}, recorded {list(old.shape)}"
    values = case.values() if old.dtype == new.dtype and old.size == new.size else None
    if values is not None and old.places is not None:
        for axes in _axis_orders(values.ndim):
            turned = values.transpose(axes)
            if turned.shape == old.shape and _sketch.places_sum(turned) == old.places:
                return Explanation("weight.transposed", f"transposed {_inverse(axes)}: {message}")
        if _sketch.places_sum(values) == old.places:
            return Explanation("weight.shape", f"reshaped: {message}; the same values in order")
    return Explanation("weight.shape", message)


def _agree_as(old: tuple[float, ...], new: tuple[float, ...], dtype: str) -> bool:
    """Whether the sampled values, cast to `dtype`, are those that are there now."""
    if not old or len(old) != len(new) or kind(dtype) not in ("float", "int", "uint"):
        return False
    with np.errstate(all="ignore"):
        cast = np.array(old).astype(numpy_dtype(dtype)).astype(np.float64)
    return bool(np.array_equal(cast, np.array(new), equal_nan=True))


# --- the questions, the surest first --------------------------------------------------------------


def _one_element(case: _ChangedTensor) -> Explanation | None:
    """One 32-bit word changed: the sums tell where, and what it was."""
    old, new = case.old, case.new
    width = itemsize(new.dtype)
    words = new.size * max(1, width // 4)
    by, first = (_signed(b - a) for a, b in zip(old.sums[:2], new.sums[:2], strict=True))
    if not by or words >= _WORD_LIMIT:
        return None
    # a change `by` of word p adds by to the sum, p * by to the next, p * p * by to the last
    place, rest = divmod(first, by)
    second = (new.sums[2] - old.sums[2] - place * place * by) % (1 << 64)
    if rest or second or not 0 <= place < words:
        return None
    per = max(1, width // 4)
    index = place // per
    element = case.store.read(case.key, index, index + 1)
    piece = element.view(f"u{min(width, 4)}").copy()
    piece[place % per] = (int(piece[place % per]) - by) % (1 << (8 * min(width, 4)))
    before = piece.view(element.dtype)
    message = (
        f"one element of {new.size:,} changed: {list(unravel(index, new.shape))} is "
        f"{_number(element)}, recorded {_number(before)}"
    )
    code = "weight.nonfinite" if new.nonfinite > old.nonfinite else "weight.element"
    return Explanation(code, message)


def _signed(number: int) -> int:
    number %= 1 << 64
    return number - (1 << 64) if number >> 63 else number


def _number(element: Array) -> str:
    value: Any = element[0]
    return f"{value:.9g}" if element.dtype.kind == "f" else str(value)


def _nonfinite(case: _ChangedTensor) -> Explanation | None:
    old, new = case.old, case.new
    if new.nonfinite <= old.nonfinite:
        return None
    message = f"{new.nonfinite:,} of {new.size:,} elements are NaN or infinite"
    values = case.values()
    if values is not None and values.ndim:
        with np.errstate(all="ignore"):
            bad = ~np.isfinite(values.astype(np.complex128 if values.dtype.kind == "c" else float))
        message += _where(bad)
    return Explanation("weight.nonfinite", message)


def _where(bad: Array) -> str:
    """Return the one slice along an axis that holds all of these elements, as text."""
    for axis in reversed(range(bad.ndim)):
        others = tuple(other for other in range(bad.ndim) if other != axis)
        hit = np.flatnonzero(bad.any(axis=others))
        if len(hit) == 1 and bad.shape[axis] > 1:
            word = "unit" if axis == bad.ndim - 1 else f"axis {axis}, place"
            tail = " of the last axis" if word == "unit" else ""
            return f", all in {word} {int(hit[0])}{tail}"
    return ""


def _constant(case: _ChangedTensor) -> Explanation | None:
    new = case.new
    if not new.is_constant or new.size == 1:
        return None
    if new.low == 0.0:
        code, message = "weight.constant.zero", f"zeroed: all {new.size:,} elements are 0"
    else:
        code, message = "weight.constant", f"all {new.size:,} elements are {new.low:.6g}"
    return Explanation(code, message)


def _reordered(case: _ChangedTensor) -> Explanation | None:
    old, new = case.old, case.new
    if old.values != new.values or new.size < 2:
        return None
    values = case.values()
    if values is not None:
        for axes in _axis_orders(values.ndim):
            turned = values.transpose(axes)
            if turned.shape == old.shape and _sketch.places_sum(turned) == old.places:
                return Explanation("weight.transposed", f"transposed {_inverse(axes)}")
        for axis in range(values.ndim):
            if _sketch.places_sum(np.flip(values, axis)) == old.places:
                return Explanation("weight.reordered", f"reversed along axis {axis}")
        found = _blocks(values, old)
        if found is not None:
            return found
    if old.columns is not None and old.columns == new.columns:
        return Explanation("weight.reordered", "columns (units of the last axis) in another order")
    if old.rows is not None and old.rows == new.rows:
        return Explanation("weight.reordered", "rows in another order")
    return Explanation("weight.reordered", "the same values in another order")


def _axis_orders(rank: int) -> Iterator[tuple[int, ...]]:
    if 1 < rank <= 5:
        yield from (axes for axes in permutations(range(rank)) if axes != tuple(range(rank)))


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(at) for at in np.argsort(axes))


def _blocks(values: Array, old: Sketch) -> Explanation | None:
    """Are two, three or four equal blocks of an axis in another order, as gates may be?"""
    if values.size > MAX_BLOCKED:
        return None
    for axis in dict.fromkeys((values.ndim - 1, 0)):
        for count in _BLOCKS:
            if values.shape[axis] % count or values.shape[axis] == count:
                continue
            parts = np.split(values, count, axis)
            for order in permutations(range(count)):
                moved = np.concatenate([parts[at] for at in order], axis)
                if _sketch.places_sum(moved) == old.places:
                    names = ", ".join(str(at) for at in _inverse(order))
                    where = "the last axis" if axis == values.ndim - 1 else f"axis {axis}"
                    message = f"the {count} blocks of {where} are in another order: [{names}]"
                    hint = "libraries order the gates of an LSTM or GRU differently"
                    return Explanation("weight.gates", message, hint)
    return None


def _rounded(case: _ChangedTensor) -> Explanation | None:
    for dtype in case.new.coarse:
        if dtype not in case.old.coarse and _agree_as(case.old.sampled, case.new.sampled, dtype):
            return Explanation("weight.rounded", f"rounded to {dtype}", "", f"rounded to {dtype}")
        if dtype not in case.old.coarse and _near(case, 0.01):
            message = f"rounded to {dtype} (cut off, not to the nearest)"
            return Explanation("weight.rounded", message, "", f"rounded to {dtype}")
    return None


def _near(case: _ChangedTensor, share: float) -> bool:
    """Whether every sampled value is within that share of what it was."""
    return bool(case.old.sampled) and all(
        math.isclose(a, b, rel_tol=share, abs_tol=1e-30)
        for a, b in zip(case.old.sampled, case.new.sampled, strict=True)
    )


def _formula(case: _ChangedTensor) -> Explanation | None:
    """All sampled values multiplied by one number, or moved by one."""
    old, new = case.old, case.new
    pairs = list(zip(old.sampled, new.sampled, strict=True))
    # zeros that stayed, and one change that occurs often, are no evidence
    changes = len({(a, b) for a, b in pairs if a != b})
    if changes < _EVIDENCE or old.nonfinite or new.nonfinite or old.is_constant:
        return None
    factors = [b / a for a, b in pairs if a]
    # the median is not moved by a few values that rounding made coarse
    middle = sorted(factors)[len(factors) // 2] if factors else 0.0
    tight = 1e-6 if new.dtype in ("float32", "float64") else 1e-2
    if middle and all(math.isclose(b, a * middle, rel_tol=tight) for a, b in pairs):
        same = math.isclose(new.rms, old.rms * abs(middle), rel_tol=tight)
        if same and not math.isclose(middle, 1.0, rel_tol=tight):
            factor = f"{middle:.6g}"
            for number in (255.0, 127.5, 256.0):
                if math.isclose(middle * number, 1.0, rel_tol=1e-5):
                    factor = f"1/{number:g}"
            return Explanation(
                "weight.scaled", f"all {new.size:,} elements are {factor} times so large"
            )
    # or moved by one number, which must stand out of rounding
    step = pairs[0][1] - pairs[0][0]
    room = tight * max(abs(step), old.rms)
    if step and all(abs(b - a - step) <= room for a, b in pairs) and abs(step) > 10 * room:
        return Explanation("weight.shifted", f"all {new.size:,} elements are moved by {step:.6g}")
    return None


# --- parts ----------------------------------------------------------------------------------------


def _some_units(case: _ChangedTensor) -> Explanation | None:
    """Only some units of the last axis changed."""
    old, new = case.old, case.new
    hit = [part for part, (a, b) in enumerate(zip(old.units, new.units, strict=True)) if a != b]
    if not hit or len(hit) > len(new.units) // 2:
        return None
    count = new.shape[-1]
    spans = [_span(part, len(new.units), count) for part in hit]
    message = f"only {_spans(spans, 'unit')} of the last axis (of {count:,}) changed"
    return Explanation("weight.units", message + _zeroed(case, new.size // count))


def _some_part(case: _ChangedTensor) -> Explanation | None:
    """Only some of the 16 parts of the flat tensor changed."""
    old, new = case.old, case.new
    parts = len(new.blocks)
    hit = [part for part, (a, b) in enumerate(zip(old.blocks, new.blocks, strict=True)) if a != b]
    if not hit or len(hit) > parts // 2 or new.size < MIN_SIZE:
        return None
    row = new.size // new.shape[0] if new.shape else 1
    spans = []
    for part in hit:
        low, high = _span(part, parts, new.size)
        spans.append((low // row, (high - 1) // row + 1))
    word = "element" if len(new.shape) == 1 else "row"
    message = f"changed only within {_spans(spans, word)} (of {new.shape[0]:,})"
    return Explanation("weight.part", message + _zeroed(case, row))


def _zeroed(case: _ChangedTensor, size: int) -> str:
    more = case.new.zeros - case.old.zeros
    return f"; {more:,} elements more are 0" if more >= max(1, size) else ""


def _span(part: int, parts: int, size: int) -> tuple[int, int]:
    return part * size // parts, (part + 1) * size // parts


def _spans(spans: list[tuple[int, int]], word: str) -> str:
    """Return [low, high) ranges as text, neighbours joined."""
    joined: list[list[int]] = []
    for low, high in spans:
        if joined and low <= joined[-1][1]:
            joined[-1][1] = max(high, joined[-1][1])
        else:
            joined.append([low, high])
    texts = [f"{low}" if high - low == 1 else f"{low} to {high - 1}" for low, high in joined]
    is_one = len(texts) == 1 and " " not in texts[0]
    return f"{word if is_one else plural(word)} {', '.join(texts)}"


def _throughout(case: _ChangedTensor, initial: str | None) -> Explanation:
    old, new = case.old, case.new
    gaps = [abs(b - a) for a, b in zip(old.sampled, new.sampled, strict=True)]
    gap = math.sqrt(sum(x * x for x in gaps) / len(gaps)) if gaps else math.inf
    correlation = _correlation(old.sampled, new.sampled)
    if (old.rms and gap <= 0.1 * old.rms) or (correlation is not None and correlation > _CLOSE):
        message = (
            f"changed throughout, by about {gap / old.rms if old.rms else math.inf:.1g} of its rms"
        )
        return Explanation("weight.drift", message, "as more training would")
    text = f"other values throughout: rms {new.rms:.3g}, recorded {old.rms:.3g}"
    if initial is not None:
        text += f"; like a first value ({initial})"
    return Explanation("weight.other", text, initial=initial)


def _correlation(old: tuple[float, ...], new: tuple[float, ...]) -> float | None:
    x, y = np.array(old), np.array(new)
    if len(x) < 4 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.dot(x, y)) / size if size else None


_QUESTIONS = (
    _one_element,
    _nonfinite,
    _constant,
    _reordered,
    _rounded,
    _formula,
    _some_units,
    _some_part,
)
