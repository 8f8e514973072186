"""Which value inside one model is which inside another, by name.

Keras names a layer by the path of calls, `tower/project`; in a SavedModel the same layer is a scope
of ops, `multi_io_1/tower_1/project_1/BiasAdd`: the model's name comes before it, each part may
carry a counter, and its last op gives what the layer gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from itertools import product
from typing import NamedTuple

from ckptkit.model_io.layouts import layouts
from ckptkit.operations.localize.op_names import alike, is_begun, is_moved
from ckptkit.text import lazy_pattern

COUNTER = lazy_pattern(r"_\d+$")
Parts = tuple[str, ...]
Reading = Callable[[Parts], Parts]


class Shaped(NamedTuple):
    """A value's name and shape; is_op: whether it is the op of a graph, not a layer's path.

    op: the op that it means, where that is called otherwise (`op_names`).
    moves: whether its axes may be in another order, as converters have them.
    owner: path of the object whose method computes it, where that is known; "" of the model itself.
    """

    name: str
    shape: tuple[int, ...]
    is_op: bool
    dtype: str = "float32"
    op: str = ""
    moves: bool = False
    owner: str = ""

    @property
    def parts(self) -> Parts:
        """The parts of what it means."""
        return tuple((self.op or self.name).split("/"))

    def fits(self, other: Shaped) -> bool:
        """Whether both can hold the same values; axes of one element do not count."""
        if not alike(self.dtype, other.dtype):
            return False
        moved = self.moves or other.moves
        return any(moved or order.is_plain for order in layouts(self.shape, other.shape))


def pair_points(reference: Sequence[Shaped], new: Sequence[Shaped]) -> dict[str, str]:
    """Return {name in `new`: name in `reference`}, one to one; values that do not fit never pair.

    Of several ways to read the names (with counters, counted anew, or without; with or without the
    model's name) the one that pairs most is taken; names that are equal as they are come first.
    """
    best: dict[str, str] = {}
    for one, two in product(_readings(reference), _readings(new)):
        found = _paired(reference, new, one, two)
        if len(found) > len(best):
            best = found
        if len(best) == min(len(reference), len(new)):
            break
    return best


def _plain(parts: Parts) -> Parts:
    return parts


def uncounted(parts: Parts) -> Parts:
    """Return the parts without their counters: `dense_1` is `dense`."""
    return tuple(COUNTER.sub("", part) for part in parts)


def _inner(parts: Parts) -> Parts:
    return parts[1:] if len(parts) > 1 else parts


def _inner_uncounted(parts: Parts) -> Parts:
    return _inner(uncounted(parts))


def _readings(items: Sequence[Shaped]) -> tuple[Reading, ...]:
    return _plain, _counted_anew(items), uncounted, _inner, _inner_uncounted


def _counted_anew(items: Sequence[Shaped]) -> Reading:
    """Return the reading that counts from 0 in every scope.

    Keras counts through a process: the first model's `dense` and `dense_1` are `dense_2` and
    `dense_3` in one that is built later.
    """
    counters: dict[tuple[Parts, str], set[int]] = {}
    for item in items:
        parts = item.parts
        for end, part in enumerate(parts[:-1] if item.is_op else parts):
            counters.setdefault((parts[:end], COUNTER.sub("", part)), set()).add(_counter(part))
    ranks = {
        (scope, name, counter): rank
        for (scope, name), found in counters.items()
        for rank, counter in enumerate(sorted(found))
    }

    def read(parts: Parts) -> Parts:
        bare = uncounted(parts)
        return tuple(
            f"{name}_{ranks.get((parts[:end], name, _counter(part)), 0)}"
            for end, (name, part) in enumerate(zip(bare, parts, strict=True))
        )

    return read


def _counter(part: str) -> int:
    found = COUNTER.search(part)
    return int(found[0][1:]) if found else 0


def _paired(
    reference: Sequence[Shaped],
    new: Sequence[Shaped],
    one: Reading,
    two: Reading,
) -> dict[str, str]:
    if not reference or not new or reference[0].is_op == new[0].is_op:
        left, right = _by_path(reference, one), _by_path(new, two)
    elif reference[0].is_op:
        right = _by_path(new, two)
        left = _ends(reference, one, right)
    else:
        left = _by_path(reference, one)
        right = _ends(new, two, left)
    found = {}
    for path, items in right.items():
        fitting = [(a.name, b.name) for a in left.get(path, ()) for b in items if a.fits(b)]
        if len(fitting) == 1:  # a path that several have is none's
            found[fitting[0][1]] = fitting[0][0]
    if reference and new and reference[0].is_op and new[0].is_op:
        found |= _scope_ends(reference, new, one, two, found)
    return found


def _scope_ends(
    reference: Sequence[Shaped],
    new: Sequence[Shaped],
    one: Reading,
    two: Reading,
    found: Mapping[str, str],
) -> dict[str, str]:
    """Pair the last values of a scope, which is a layer's output, whatever computes it.

    An activation may be another op, and a converter computes a loop by one op of its own and moves
    what comes of it into place.  A product, or one with its bias, may have more behind it.
    """
    last, ends = _last(reference, one), _last(new, two)
    taken = set(found.values())
    more: dict[str, str] = {}
    for scope, item in ends.items():
        other = last.get(scope)
        if other is None or item.name in found or other.name in taken or not other.fits(item):
            continue
        ops = ["/".join(end.parts) for end in (item, other)]
        if any(map(is_moved, ops)) or not any(map(is_begun, ops)):
            more[item.name] = other.name
            taken.add(other.name)
    return more


def _last(items: Sequence[Shaped], read: Reading) -> dict[Parts, Shaped]:
    """Return {scope below the model's: the last value in it}, as read."""
    found: dict[Parts, Shaped] = {}
    shortest = len(read(("model", "layer")))
    for item in items:
        scope = read(item.parts[:-1])
        for end in range(shortest, len(scope) + 1):
            found[scope[:end]] = item
    return found


def _by_path(items: Sequence[Shaped], read: Reading) -> dict[Parts, list[Shaped]]:
    """Return the values by their paths as read."""
    found: dict[Parts, list[Shaped]] = {}
    for item in items:
        parts = item.parts
        path = (*read(parts[:-1]), parts[-1]) if item.is_op else read(parts)
        found.setdefault(path, []).append(item)
    return found


def _ends(
    ops: Sequence[Shaped], read: Reading, layers: Mapping[Parts, Sequence[Shaped]]
) -> dict[Parts, list[Shaped]]:
    """Return, for each layer's path, the last op of its scope that has the layer's shape.

    Where none has, the last that has but for axes of one element.
    """
    found: dict[Parts, Shaped] = {}
    for item in ops:
        scope = read(item.parts[:-1])
        for length in range(1, len(scope) + 1):
            layer, *others = layers.get(scope[:length]) or (None,)
            if layer is None or others or not layer.fits(item):
                continue
            before = found.get(scope[:length])
            if before is None or layer.shape == item.shape or layer.shape != before.shape:
                found[scope[:length]] = item
    taken: dict[str, Parts] = {}
    for path, item in found.items():  # an op ends the innermost of the layers that it could end
        if item.name not in taken or len(path) > len(taken[item.name]):
            taken[item.name] = path
    return {path: [item] for path, item in found.items() if taken[item.name] == path}


def scope_of(name: str) -> tuple[str, ...]:
    """Return the scopes of an op, without those that the model's name and its layers lack.

    Keras counts the calls of a model, and gives all its scopes one counter: in
    `net_1/up_1/Gelu/mul` the scopes are `net` and `up`; `Gelu` belongs to the op.
    """
    scope = tuple(name.split("/"))[:-1]
    counter = COUNTER.search(scope[0]) if scope else None
    if counter is None:
        return scope
    ending = counter[0]
    counted = [part for part in scope if part.endswith(ending)]
    return tuple(part.removesuffix(ending) for part in counted)


def layer_of_scope(scope: tuple[str, ...], layers: Set[str]) -> str:
    """Return the innermost layer with variables that is in the scope, or all of the scope."""
    known = {tuple(layer.split("/")) for layer in layers}
    for end in range(len(scope), 0, -1):
        for start in range(end):
            if scope[start:end] in known:
                return "/".join(scope[start:end])
    return "/".join(scope[1:] or scope)
