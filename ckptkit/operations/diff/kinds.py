"""What kind of change lies between two files, where their values prove it: one line.

Nothing is judged by likeness.  Each kind is a statement on all values that differ, and is made only
where it holds for every one of them:

- they are 0 now ("pruned");
- they are those of OLD, rounded to another dtype ("rounded to bfloat16"), each to the nearest;
- each tensor differs by less than its dtype tells apart, as a vector ("no more than rounding");
- they are in layers that feed no layer which has kept its weights ("only the head");
- every kernel, and every unit of it, is as far from OLD's as one drawn anew ("nothing in common").

What "more training" would look like is measured in docs/diff.md: two runs that began at one
checkpoint look the same, so that nothing says it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.compare.statistics import SIGNIFICAND_DIGITS
from ckptkit.dtypes import kind, numpy_dtype
from ckptkit.operations.diff.result import (
    STATUSES,
    ChangesOnDemand,
    TensorDiff,
    forms_of,
    of_statuses,
    totals_of,
)
from ckptkit.stores.base import Store
from ckptkit.text import count_text, list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.operations.configuration.node import ConfigNode

MAX_READ = 1 << 24  # elements that are read once more to prove a kind: 128 MB of two float32
_NARROW = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32")
_FEW = 3


def kind_of_change(
    changes: Sequence[TensorDiff], stores: tuple[Store, Store], tree: ConfigNode | None
) -> str | None:
    """Return one line on what kind of change this is; None where no kind is proven.

    Args:
        changes: all of a comparison by value.
        stores: of OLD and NEW.
        tree: the configuration, where both files have one and the same layers.
    """
    weights, changed = _weights_and_changed(changes)
    forms = forms_of(changed)
    floats = all(kind(dtype) == "float" for side in forms for dtype, *_rest in side)
    if not changed or not floats:
        return None
    if not isinstance(weights, ChangesOnDemand) and not all(map(_is_measured_pair, weights)):
        return None
    if totals_of(changed)[0].elements <= MAX_READ:
        found = _by_values(changed, len(weights), stores)
        if found is not None:
            return found
    return _rounding(changed) or _head(changed, weights, tree) or _drawn_anew(weights, stores)


def _weights_and_changed(
    changes: Sequence[TensorDiff],
) -> tuple[Sequence[TensorDiff], Sequence[TensorDiff]]:
    """Return the weights, and those of them that are not equal."""
    if isinstance(changes, ChangesOnDemand):
        weights: Sequence[TensorDiff] = changes.of_weights()
    else:
        weights = [change for change in changes if change.role == "weight"]
    return weights, of_statuses(weights, [status for status in STATUSES if status != "equal"])


def _is_measured_pair(change: TensorDiff) -> bool:
    return change.status != "renamed" and change.delta is not None


def _each(changes: Sequence[TensorDiff]) -> Iterator[TensorDiff]:
    return changes.in_any_order() if isinstance(changes, ChangesOnDemand) else iter(changes)


def _by_values(
    changed: Sequence[TensorDiff], total: int, stores: tuple[Store, Store]
) -> str | None:
    """Return the kind that holds for each value; every tensor is read until none is left."""
    import numpy as np

    is_pruned = True
    dtypes = list(_NARROW)
    zeros = values = 0
    for change in _each(changed):
        is_pruned &= change.same_type
        old, new = _read(change, stores)
        with np.errstate(invalid="ignore"):
            differs = (old != new) & ~((old != old) & (new != new))
            is_pruned &= not new[differs].any()
            dtypes = [name for name in dtypes if _is_rounded(old, new, name)]
        zeros += int(differs.sum())
        values += old.size
        if not is_pruned and not dtypes:
            return None
    of = f"{len(changed):,} of {count_text(total, 'weight')}"
    if is_pruned:
        return f"pruned: {zeros:,} of {values:,} values in {of} are 0 now, all others as they were"
    if dtypes:
        return f"rounded to {dtypes[0]}: {of}, each value to the nearest"
    return None


def _read(change: TensorDiff, stores: tuple[Store, Store]) -> tuple[Array, Array]:
    assert change.old is not None and change.new is not None
    return stores[0].read(change.old.spec.key), stores[1].read(change.new.spec.key)


def _is_rounded(old: Array, new: Array, dtype: str) -> bool:
    """Whether new is old in a narrower dtype, kept in that or in a wider one.

    A number that became NaN or infinite is not, though the dtype may have no room for it: that
    looks the same whatever broke the value.
    """
    import numpy as np

    narrow = numpy_dtype(dtype)
    if narrow.itemsize >= old.dtype.itemsize or narrow.itemsize > new.dtype.itemsize:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        expected = old.astype(narrow).astype(new.dtype)
        if (np.isfinite(old) & ~np.isfinite(new)).any():
            return False
        return bool(((expected == new) | ((expected != expected) & (new != new))).all())


def _rounding(changed: Sequence[TensorDiff]) -> str | None:
    """Return that the changes are no larger than what the dtype of each tensor tells apart."""
    largest = 0.0
    dtypes = set()
    for change in _each(changed):
        assert change.delta is not None
        dtypes.add(change.some.spec.dtype)
        if not change.same_type or change.delta.nonfinite:
            return None
        if not change.delta.rel_l2 <= _epsilon(change.some.spec.dtype):
            return None
        largest = max(largest, change.delta.rel_l2)
    which = list_text(sorted(dtypes), _FEW)
    return f"no more than rounding of {which}: each weight by at most {largest:.1g} of its norm"


def _epsilon(dtype: str) -> float:
    """Return the distance from 1 to the next number of a dtype of floats."""
    return float(2.0 ** (1 - SIGNIFICAND_DIGITS[dtype]))


def _head(
    changed: Sequence[TensorDiff], weights: Sequence[TensorDiff], tree: ConfigNode | None
) -> str | None:
    """Return that only layers changed which feed none of those that have kept their weights."""
    if tree is None or tree.kind not in ("sequential", "functional"):
        return None
    names = {layer.name for layer in tree.layers}
    tops = [change.name.partition("/")[0] for change in weights]
    moved = {change.name.partition("/")[0] for change in changed}
    kept = set(tops) - moved
    if not kept or not {*tops} <= names or moved & _before(tree, kept):
        return None
    if not kept <= _before(tree, moved):  # another branch, and not what stands before
        return None
    which = list_text([layer.name for layer in tree.layers if layer.name in moved], _FEW)
    return f"only the head: {which}; {count_text(len(kept), 'layer')} before it unchanged"


def _before(tree: ConfigNode, names: set[str]) -> set[str]:
    """Return the layers that feed any of these, by however many others."""
    layers = {layer.name: layer for layer in tree.layers}
    if tree.kind == "sequential":
        order = list(layers)
        last = max(map(order.index, names))
        return set(order[:last]) - names
    found: set[str] = set()
    pending = list(names)
    while pending:
        for feed in layers[pending.pop()].calls.feeds:
            if feed.layer in layers and feed.layer not in found:
                found.add(feed.layer)
                pending.append(feed.layer)
    return found - names


_LEAST_ELEMENTS = 1024  # of a kernel that tells anything
_LEAST_VALUES = 32  # of a unit
_MOST_UNITS = 256  # of OLD that are looked for among all of NEW's
_UNLIKE = 4.0  # standard deviations of a cosine of what has nothing in common
_UNTELLABLE = 0.9  # from here on even a unit that was copied could be chance


def _drawn_anew(weights: Sequence[TensorDiff], stores: tuple[Store, Store]) -> str | None:
    """Return that no kernel has anything of OLD's: values, units in any order, or their signs.

    None where one of them is too small to tell, has kept its values, or is too large to be read.
    """
    forms, _its = forms_of(weights)
    sizes = [(math.prod(shape), n) for (_, shape, *_), n in forms.items() if len(shape) > 1]
    if sum(n for _, n in sizes) < 2 or sum(size * n for size, n in sizes) > MAX_READ:
        return None
    if min(sizes)[0] < _LEAST_ELEMENTS:
        return None
    kernels = [change for change in _each(weights) if len(change.some.spec.shape) > 1]
    if not all(change.status != "equal" and change.same_type for change in kernels):
        return None
    import numpy as np  # here, since large files that differ are measured without it

    for change in kernels:
        one, other = (
            side.reshape(-1, change.some.spec.shape[-1]).astype(np.float64)
            for side in _read(change, stores)
        )
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return None
        if _in_common(one, other) is not False:
            return None
    count = count_text(len(kernels), "kernel")
    return (
        f"nothing in common: each of {count} is as far from what it was as one drawn anew, unit "
        "by unit "
        "(another initialisation, or another model)"
    )


def _in_common(one: Array, other: Array) -> bool | None:
    """Whether two kernels, units in columns, have anything in common; None where chance may be it.

    Looked for: values in place; units, or rows, in another order or with another sign; both turned.
    """
    import numpy as np

    cosine = _cosines(one.reshape(-1, 1), other.reshape(-1, 1))
    if cosine is None:
        return None
    if abs(float(cosine[0, 0])) > _UNLIKE / float(np.sqrt(one.size)):
        return True
    pairs = [(one, other), (one.T, other.T)]
    if one.shape[0] == one.shape[1]:
        pairs += [(one, other.T), (one.T, other)]
    looked = False
    for a, b in pairs:
        values, units = a.shape
        if values < _LEAST_VALUES:
            continue
        found = _cosines(a[:, :_MOST_UNITS], b)
        # of so many pairs the largest cosine that chance gives, and more
        limit = float(np.sqrt((4 * np.log(max(units, 2)) + 9) / values))
        if found is None or limit > _UNTELLABLE:
            continue
        if float(np.abs(found).max()) > limit:
            return True
        looked = looked or a is one
    return False if looked else None


def _cosines(one: Array, other: Array) -> Array | None:
    """Return the cosines of the columns of two matrices about their means; None of a constant."""
    import numpy as np

    sides = [side - side.mean(axis=0) for side in (one, other)]
    norms = [np.sqrt((side**2).sum(axis=0)) for side in sides]
    if any((norm == 0).any() for norm in norms):
        return None
    return np.asarray((sides[0] / norms[0]).T @ (sides[1] / norms[1]))
