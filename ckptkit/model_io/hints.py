"""What a difference between two outputs looks like: transposed, permuted, scaled, one unit, ...

A hint is a sentence about the numbers, never a guess at what the user did: "is 255 times the
recorded output" is said only if every element is, within a bound well under what separates the two
as they stand, and where damage at random would seldom look so (`ckptkit.model_io.chance`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np

from ckptkit.dtypes import Array, dtype_of_numpy, kind, numpy_dtype
from ckptkit.model_io.chance import (
    SURPLUS,
    changed_points,
    free_points,
    is_rare,
    kinds_drawn,
    kinds_of,
    log_combinations,
    log_factorial,
)
from ckptkit.model_io.formulas import (
    CLOSE,
    MAX_SLICES,
    ValuePair,
    formula_hints,
    moved_slices,
    permutation_text,
)
from ckptkit.model_io.results import OutputResult
from ckptkit.model_io.sampling import Sample
from ckptkit.text import plural

MAX_TRIED = 1 << 22  # elements; a few float64 copies are 100 MB
MAX_RANK = 5  # axes that are tried in every order
FEW = 4  # units, examples or places that a hint lists
_ROUNDED = ("bfloat16", "float16")


def hints(
    name: str,
    recorded: Mapping[str, Array | Sample],
    arrays: Mapping[str, Array],
    result: OutputResult,
) -> tuple[str, ...]:
    """Return what the difference of one failing output looks like, the surest first."""
    with np.errstate(all="ignore"):
        return _all_hints(name, recorded, arrays, result)


def _all_hints(
    name: str,
    recorded: Mapping[str, Array | Sample],
    arrays: Mapping[str, Array],
    result: OutputResult,
) -> tuple[str, ...]:
    ref, new = recorded[name], arrays[name]
    if isinstance(ref, Sample):
        if result.status in ("shape", "dtype") or new.size != ref.size:
            return ()
        new = new.reshape(-1)[ref.places]
        ref = ref.values
    if new.size > MAX_TRIED or ref.size > MAX_TRIED or not ref.size or not new.size:
        return ()
    # outputs that changed places explain all else
    other = _recorded_as(name, ref, recorded, new, result)
    if other and _tells(_pair(ref, new, result) if _is_number(ref) else None, ref, len(recorded)):
        return (f"equals recorded output {other!r}",)
    if not (_is_number(ref) and _is_number(new)):
        return tuple(_text_hints(ref, new)) if ref.shape == new.shape else ()
    pair = _pair(ref, new, result)
    if ref.shape != new.shape:
        return tuple(_shape_hints(pair))
    return tuple(dict.fromkeys(_hints(pair, ref, new)))


def renamed(
    results: tuple[OutputResult, ...],
    recorded: Mapping[str, Array | Sample],
    arrays: Mapping[str, Array],
) -> tuple[OutputResult, ...]:
    """Return the results with hints on missing outputs that have another name now."""
    extra = [result.name for result in results if result.status == "extra"]
    pairs: dict[str, str] = {}
    for result in results:
        ref = recorded.get(result.name)
        if result.status == "missing" and ref is not None and not isinstance(ref, Sample):
            with np.errstate(all="ignore"):
                twins = [n for n in extra if _equal_values(ref, arrays[n], result)]
            if len(twins) == 1 and _is_told_by_values(ref, len(extra)):
                pairs[result.name] = twins[0]
    back = {new: old for old, new in pairs.items()}
    if len(back) < len(pairs):
        return results
    with_hints = []
    for result in results:
        if result.status == "missing" and result.name in pairs:
            hint = f"output {pairs[result.name]!r} has the recorded values: it was renamed"
            result = replace(result, hints=(hint,))
        elif result.status == "extra" and result.name in back:
            hint = f"has the values recorded as {back[result.name]!r}: it was renamed"
            result = replace(result, hints=(hint,))
        with_hints.append(result)
    return tuple(with_hints)


def _is_told_by_values(values: Array, choices: int) -> bool:
    """Whether one of so many outputs would seldom have these values by chance."""
    return is_rare(math.log(choices), values.size, kinds_drawn(values))


def _is_number(array: Array) -> bool:
    return kind(dtype_of_numpy(array.dtype)) in ("float", "int", "uint", "bool")


def _pair(ref: Array, new: Array, result: OutputResult) -> ValuePair:
    wide, late = ref.astype(np.float64), new.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    spread = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    limit = result.tolerance
    tolerated = limit.atol * (spread if limit.scaled else min(1.0, spread)) + limit.rtol * spread
    exact = kind(dtype_of_numpy(ref.dtype)) != "float"
    return ValuePair(
        wide, late, 0.0 if exact else max(CLOSE * spread, min(tolerated, 0.01 * spread)), result
    )


def _equal_values(ref: Array, new: Array, result: OutputResult) -> bool:
    if ref.shape != new.shape or ref.dtype != new.dtype or not ref.size or ref.size > MAX_TRIED:
        return False
    if not (_is_number(ref) and _is_number(new)):
        return bool(np.array_equal(ref, new))
    pair = _pair(ref, new, result)
    return pair.near(pair.ref, pair.new)


def _recorded_as(
    name: str,
    ref: Array,
    recorded: Mapping[str, Array | Sample],
    new: Array,
    result: OutputResult,
) -> str | None:
    """Return the one other recorded output that has the new values."""
    equal = []
    for other, value in recorded.items():
        if other == name or isinstance(value, Sample) or value is ref:
            continue
        if _equal_values(value, new, result) and not _equal_values(value, ref, result):
            equal.append(other)
    return equal[0] if len(equal) == 1 else None


# --- the order of the questions -------------------------------------------------------------------


def _hints(pair: ValuePair, ref: Array, new: Array) -> Iterator[str]:
    if pair.result.status == "nonfinite":
        yield from _nonfinite_hints(pair)
        return
    # a constant has few digits, and is in any order what it is
    constant = list(_constant_hints(pair))
    sure = constant or [
        *_order_hints(pair),
        *formula_hints(pair),
        *_integer_hints(pair, ref),
        *_rounded_hints(ref, new),
    ]
    yield from sure
    # where it differs and by how much says less than what it is
    if sure:
        return
    yield from _place_hints(pair)


def _nonfinite_hints(pair: ValuePair) -> Iterator[str]:
    gone = ~np.isfinite(pair.new) & np.isfinite(pair.ref)
    word = "NaN" if np.isnan(pair.new[gone]).all() else "NaN or infinite"
    if not gone.any():
        yield "finite where the recorded output is not"
    elif gone.all():
        if is_rare(0.0, gone.size, 2):
            yield f"{word} everywhere"
    elif np.isinf(pair.new[gone]).all() and pair.result.dtype == "float16":
        yield "infinite: beyond 65504, the largest float16"
    else:
        yield from (f"{word} in {place} only" for place in _places(gone))
    rest = ~gone & np.isfinite(pair.ref) & np.isfinite(pair.new)
    ref, new = pair.ref[rest], pair.new[rest]
    tells = rest.any() and is_rare(0.0, ref.size, kinds_of(ref, new, pair.room))
    if gone.any() and tells and pair.near(ref, new):
        yield "everything else agrees"


def _constant_hints(pair: ValuePair) -> Iterator[str]:
    ref, new = pair.ref, pair.new
    # zero is what damage and a relu leave: each element is, or is not
    if not new.any() and is_rare(0.0, int((ref != 0).sum()), 2):
        yield "is all zeros"
        return
    # numbers of few kinds, such as labels, are equal by chance
    same = new.size - new[:1].size if new.ndim else 0
    if not new.any() or not is_rare(0.0, same, kinds_drawn(ref)):
        return
    if (new == new.flat[0]).all() and not (ref == ref.flat[0]).all():
        yield f"is {new.flat[0]:.6g} everywhere"
    elif new.ndim > 1 and _all_rows_equal(new) and not _all_rows_equal(ref):
        yield "is the same for every example: the input no longer reaches it"


def _all_rows_equal(array: Array) -> bool:
    return bool((array == array[:1]).all())


def _order_hints(pair: ValuePair) -> Iterator[str]:
    """Same values, other places."""
    ref, new = pair.ref, pair.new
    if pair.near(ref, new):  # they are where they were: it is the bits that differ
        return
    # another order of the same values is out of the question where they sort to others
    ref_sorted, new_sorted = np.sort(ref, axis=None), np.sort(new, axis=None)
    if not pair.near(ref_sorted, new_sorted):
        return
    points, kinds = free_points(ref, new, pair.room), kinds_of(ref, new, pair.room)
    for axes in _orders(ref.shape):
        if (
            ref.transpose(axes).shape == new.shape
            and pair.near(ref.transpose(axes), new)
            and is_rare(log_factorial(ref.ndim), points, kinds)
        ):
            yield f"is the recorded output transposed {axes}"
            return
    for axis in range(ref.ndim):
        moved = moved_slices(ref, new, axis, pair.near)
        if moved is not None and is_rare(log_factorial(len(moved)), points, kinds):
            yield f"{_axis_name(axis, ref.ndim)} in another order: {permutation_text(moved)}"
            return
    if is_rare(_log_orders(ref_sorted), points, kinds):
        yield "has the recorded values in another order"


def _log_orders(ordered: Array) -> float:
    """Return log of the number of orders that can be told apart."""
    _, times = np.unique(ordered, return_counts=True)
    return log_factorial(ordered.size) - sum(log_factorial(int(n)) for n in times if n > 1)


def _tells(pair: ValuePair | None, ref: Array, choices: int) -> bool:
    """Whether an output that equals one of so many would seldom do so by chance."""
    if pair is None:
        return is_rare(math.log(choices), ref.size, len(set(ref.reshape(-1).tolist())) + 1)
    points = free_points(pair.ref, pair.new, pair.room)
    return is_rare(math.log(choices), points, kinds_of(pair.ref, pair.new, pair.room))


def _orders(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if 1 < len(shape) <= MAX_RANK:
        for axes in permutations(range(len(shape))):
            if axes != tuple(range(len(shape))):
                yield axes


def _axis_name(axis: int, rank: int) -> str:
    if rank > 1 and axis == rank - 1:
        return "columns (units of the last axis)"
    return "rows (examples)" if axis == 0 else f"slices of axis {axis}"


def _shape_hints(pair: ValuePair) -> Iterator[str]:
    ref, new = pair.ref, pair.new
    kinds = kinds_of(ref, new, pair.room)
    if ref.size == new.size and is_rare(log_factorial(ref.ndim), ref.size, kinds):
        for axes in _orders(ref.shape):
            if ref.transpose(axes).shape == new.shape and pair.near(ref.transpose(axes), new):
                yield f"is the recorded output transposed {axes}"
                return
        if pair.near(ref.reshape(-1), new.reshape(-1)):
            yield "has the recorded values in another shape"
            return
    if ref.ndim == new.ndim:
        for axis in range(ref.ndim):
            sizes = [tuple(np.delete(x.shape, axis)) for x in (ref, new)]
            if sizes[0] == sizes[1]:
                yield from _longer(pair, axis)


def _longer(pair: ValuePair, axis: int) -> Iterator[str]:
    """One axis has another length: is a slice of it missing?"""
    ref, new = (np.moveaxis(x, axis, 0) for x in (pair.ref, pair.new))
    shorter, longer, word = (new, ref, "lacks") if len(new) < len(ref) else (ref, new, "has also")
    if len(longer) - len(shorter) > FEW or len(longer) > MAX_SLICES:
        return
    lacking, at = [], 0
    for index in range(len(longer)):
        if at < len(shorter) and pair.near(longer[index], shorter[at]):
            at += 1
        else:
            lacking.append(index)
    choices = log_combinations(len(longer), len(lacking))
    kinds = kinds_of(longer, shorter, pair.room)
    if at == len(shorter) and is_rare(choices, shorter.size, kinds):
        yield f"{word} {_listed(lacking, _unit_word(axis, pair.ref.ndim))}; the others agree"


# --- integers and text ----------------------------------------------------------------------------


def _integer_hints(pair: ValuePair, ref: Array) -> Iterator[str]:
    if ref.dtype.kind not in "iu":
        return
    gap = pair.new - pair.ref
    steps = np.unique(gap[gap != 0])
    if steps.size != 1:
        return
    step, moves = int(steps[0]), int((gap != 0).sum())
    log_sets = log_combinations(gap.size, moves)
    # each number that moved could have moved by any step no longer, and any others could have moved
    kinds = min(np.union1d(pair.ref, pair.new).size - 1, 2 * abs(step) + 1)
    if not is_rare(-log_sets, moves - 1, kinds):
        return
    if step > 0:
        size, cause = f"{step} higher", "a line before it is new"
    else:
        size, cause = f"{-step} lower", "a vocabulary line before it is gone"
    if (gap != 0).all():
        yield f"every number is {size}"
        return
    moved, unmoved = pair.ref[gap != 0], pair.ref[gap == 0]
    if moved.min() > unmoved.max():
        yield f"numbers from {int(moved.min())} on are {size}: {cause}, if these are indices"


def _text_hints(ref: Array, new: Array) -> Iterator[str]:
    unequal = np.asarray(ref != new, bool)
    words = sorted(ref.reshape(-1).tolist(), key=repr)
    if words == sorted(new.reshape(-1).tolist(), key=repr):
        times = Counter(words)
        log_orders = log_factorial(len(words)) - sum(map(log_factorial, times.values()))
        if is_rare(log_orders, len(words), len(times)):
            yield "has the recorded values in another order"
    elif not unequal.all():
        yield from (f"differs in {place} only" for place in _places(unequal))


def _rounded_hints(ref: Array, new: Array) -> Iterator[str]:
    if ref.dtype not in (np.dtype("float32"), np.dtype("float64")):
        return
    for name in _ROUNDED:
        rounded = np.array_equal(_rounded(ref, name), new.astype(np.float64))
        if rounded and changed_points(ref.astype(np.float64), new, 0.0) >= SURPLUS:
            yield f"is the recorded output rounded to {name}"
            return
        coarse = np.array_equal(_rounded(new, name), new.astype(np.float64))
        if coarse and new.size > 8 and not np.array_equal(_rounded(ref, name), ref):
            digits = _digits(new)
            if digits > 2:
                yield f"its values have {digits} binary digits: computed in {name}"
                return


def _rounded(values: Array, name: str) -> Array:
    with np.errstate(all="ignore"):
        return values.astype(numpy_dtype(name)).astype(np.float64)


def _digits(values: Array) -> int:
    """Return the binary digits that the values need; 8 at most in bfloat16."""
    mantissa, _ = np.frexp(values.astype(np.float64))
    bits = np.abs(mantissa * 2.0**53).astype(np.uint64)
    bits = bits[bits != 0]
    low = bits & (~bits + np.uint64(1))
    return 53 - int(np.log2(low.astype(np.float64)).min()) if bits.size else 0


# --- where, and how much --------------------------------------------------------------------------


def _place_hints(pair: ValuePair) -> Iterator[str]:
    limit = pair.result.tolerance
    scale = pair.result.rms if limit.scaled else 1.0
    with np.errstate(all="ignore"):
        bad = np.abs(pair.new - pair.ref) > limit.atol * scale + limit.rtol * np.abs(pair.ref)
    yield from (f"differs in {place} only" for place in _places(bad))


def _places(bad: Array) -> Iterator[str]:
    """Yield the axis along which all bad elements lie in a few slices."""
    if bad.size == 1:
        return
    for axis in dict.fromkeys((bad.ndim - 1, *range(bad.ndim))):
        others = tuple(other for other in range(bad.ndim) if other != axis)
        hit = np.flatnonzero(bad.any(axis=others))
        few = 0 < len(hit) <= min(FEW, bad.shape[axis] // 2)
        if few and _is_place(len(hit), bad.shape[axis], int(bad.sum())):
            yield _listed(hit.tolist(), _unit_word(axis, bad.ndim))
            return


def _is_place(hit: int, count: int, bad: int) -> bool:
    """Whether so many bad elements, anywhere, would seldom lie in so few of all slices."""
    return is_rare(log_combinations(count, hit), bad, count / hit)


def _unit_word(axis: int, rank: int) -> str:
    if rank > 1 and axis == 0:
        return "example"
    return "unit" if axis == rank - 1 else f"axis {axis}, place"


def _listed(numbers: list[int], word: str) -> str:
    tail = " of the last axis" if word == "unit" else ""
    return f"{plural(word) if len(numbers) > 1 else word} {', '.join(map(str, numbers))}{tail}"
