"""What a person would ask next about a tensor that changed: is it transposed, permuted, swapped?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.align.matching import constant_digests
from ckptkit.align.types import may_be_chance
from ckptkit.compare.tensors import Delta, Pair, compare_all
from ckptkit.dtypes import kind
from ckptkit.errors import UnsupportedError
from ckptkit.stores.base import shaped

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store

MAX_TRIED = 1 << 23  # elements: two float32 tensors and a copy of one are 100 MB
MAX_RANK = 5  # 120 orders of axes
_READ_BYTES = 16 << 20  # of tensors that seem to have moved: so much is soon read


class ContentChange(NamedTuple):
    """The values of one changed pair by checksum: those of OLD, and those of NEW."""

    name: str
    old_key: str
    new_key: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    old_crc: int
    new_crc: int


def shape_hint(old: Store, old_key: str, new: Store, new_key: str, read_values: bool) -> str | None:
    """Say what would turn the one shape into the other, and whether the values then agree."""
    old_shape, new_shape = old.specs[old_key].shape, new.specs[new_key].shape
    ways = list(_ways(old_shape, new_shape))
    if not ways:
        return None
    comparable = kind(old.specs[old_key].dtype) not in ("string", "opaque")
    if not read_values or old.specs[old_key].size > MAX_TRIED or not comparable:
        return f"a {ways[0][0]} has this shape; values not tried"
    # Both fit into memory: every way is tried on the values themselves.
    try:
        left = shaped(old.read(old_key), old_shape, old_key)
        right = shaped(new.read(new_key), new_shape, new_key)
    except UnsupportedError:  # no array has such a shape, though an empty tensor may
        return f"a {ways[0][0]} has this shape"
    for way, order in ways:
        rearranged = left.transpose(order) if order else left.reshape(new_shape)
        if _same(rearranged, right):
            return f"a {way} of the old values gives the new, value for value"
    return f"a {ways[0][0]} has this shape, but other values"


def _ways(
    old_shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Yield (name, order of axes) of what turns one shape into the other; no order: a reshape."""
    if [n for n in old_shape if n != 1] == [n for n in new_shape if n != 1]:
        yield "squeeze" if len(new_shape) < len(old_shape) else "reshape by axes of size 1", None
    if len(old_shape) == len(new_shape) <= MAX_RANK and sorted(old_shape) == sorted(new_shape):
        for order in permutations(range(len(old_shape))):
            if tuple(old_shape[axis] for axis in order) == new_shape:
                yield f"transpose {order}", order
    elif _product(old_shape) == _product(new_shape):
        yield "reshape", None


def _product(shape: Iterable[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _same(left: Array, right: Array) -> bool:
    """Whether two arrays are equal element by element, NaN equal to NaN."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        if left.dtype != right.dtype:
            left, right = left.astype(np.float64), right.astype(np.float64)
        return bool(((left == right) | ((left != left) & (right != right))).all())


def order_hint(old: Store, old_key: str, new: Store, new_key: str, delta: Delta) -> str | None:
    """Say whether NEW holds the values of OLD in another order.

    Only asked where the norms agree, so that an ordinary change costs nothing.
    """
    spec = old.specs[old_key]
    number = kind(spec.dtype) in ("float", "int", "uint")
    if not delta.same_norm or not number or not 1 < spec.size <= MAX_TRIED or delta.nonfinite:
        return None
    import numpy as np  # here, since most differences need no numpy

    # The same values at all, in any order?  Then, whether an order of axes explains them.
    left, right = old.read(old_key), new.read(new_key)
    with np.errstate(invalid="ignore"):  # a NaN that signals
        one, two = (np.sort(values.astype(np.float64)) for values in (left, right))
    if not np.array_equal(one, two):
        return None
    try:
        old_values = shaped(left, spec.shape, old_key)
        new_values = shaped(right, spec.shape, new_key)
    except UnsupportedError:
        return "the same values in another order"
    for way, order in _ways(spec.shape, spec.shape):
        changes_order = order is not None and order != tuple(range(len(order)))
        if changes_order and _same(old_values.transpose(order), new_values):
            return f"a {way} of the old values gives the new, value for value"
    return f"the same values in another order{_moved_axis(old_values, new_values)}"


def _moved_axis(old: Array, new: Array) -> str:
    """Return the one axis along which whole slices have changed places, as text, else nothing."""
    from collections import Counter

    import numpy as np

    for axis in range(old.ndim):
        if 1 < old.shape[axis] < old.size:
            slices = []
            for values in (old, new):
                rows = np.ascontiguousarray(np.moveaxis(values, axis, 0))
                slices.append(Counter(row.tobytes() for row in rows))
            if slices[0] == slices[1]:
                return f" along axis {axis}"
    return ""


def swapped(contents: Sequence[ContentChange], old: Store, new: Store) -> Mapping[str, str]:
    """Return {name: hint} for changed tensors that now hold what another one held before."""
    by_old_content: dict[tuple[object, ...], list[ContentChange]] = {}
    for content in contents:
        if content.old_crc not in constant_digests(content.dtype, content.nbytes):
            key = content.dtype, content.shape, content.old_crc
            by_old_content.setdefault(key, []).append(content)
    held: list[tuple[ContentChange, ContentChange]] = []
    keys: dict[tuple[str, str], None] = {}
    for content in contents:
        matches = by_old_content.get((content.dtype, content.shape, content.new_crc), [])
        if len(matches) != 1 or matches[0].name == content.name:
            continue
        owner = matches[0]
        held.append((owner, content))
        keys[owner.old_key, content.new_key] = None
        if owner.new_crc == content.old_crc:
            keys[content.old_key, owner.new_key] = None
    moved = set(values_moved(old, new, list(keys), len(contents)))
    hints: dict[str, str] = {}
    for owner, content in held:
        if (owner.old_key, content.new_key) not in moved:
            continue
        if (content.old_key, owner.new_key) in moved:
            hints[content.name] = f"contents swapped with {owner.name}"
        else:
            hints[content.name] = f"now holds what {owner.name} held before"
    return hints


def values_moved(
    old: Store, new: Store, keys: Sequence[tuple[str, str]], changed: int
) -> Sequence[tuple[str, str]]:
    """Return those keys of OLD and NEW of equal checksums whose values are equal, bit for bit.

    Of many tensors two may have one checksum by chance.  Values that take long to read are not
    read where chance does not give so many pairs, of so many tensors that changed.
    """
    nbytes = sum(old.specs[key].nbytes for key, _ in keys)
    if nbytes > _READ_BYTES and not may_be_chance(len(keys), changed):
        return keys
    pairs = [Pair(old, old_key, new, new_key, bitwise=True) for old_key, new_key in keys]
    return [
        pair
        for pair, comparison in zip(keys, compare_all(pairs), strict=True)
        if comparison.delta.equal
    ]
