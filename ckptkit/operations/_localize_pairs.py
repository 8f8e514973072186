"""Which value inside one model is which inside another, by name.

Keras names a layer by the path of calls, `tower/project`; in a SavedModel the same layer is a scope
of ops, `multi_io_1/tower_1/project_1/BiasAdd`: the model's name comes before it, each part may
carry a counter, and its last op gives what the layer gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

COUNTER = re.compile(r"_\d+$")
Parts = tuple[str, ...]
Reading = Callable[[Parts], Parts]


class Shaped(NamedTuple):
    """A value's name and shape; is_op: whether it is the op of a graph, not a layer's path."""

    name: str
    shape: tuple[int, ...]
    is_op: bool


def pair_points(reference: Sequence[Shaped], new: Sequence[Shaped]) -> dict[str, str]:
    """Return {name in `new`: name in `reference`}, one to one; values of other shapes never pair.

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
        parts = tuple(item.name.split("/"))
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
    return {
        item.name: left[path].name
        for path, item in right.items()
        if path in left and left[path].shape == item.shape
    }


def _by_path(items: Sequence[Shaped], read: Reading) -> dict[Parts, Shaped]:
    """Return the values by their paths as read; a path that several have is none's."""
    found: dict[Parts, Shaped] = {}
    twice: set[Parts] = set()
    for item in items:
        parts = tuple(item.name.split("/"))
        path = (*read(parts[:-1]), parts[-1]) if item.is_op else read(parts)
        if path in found:
            twice.add(path)
        found[path] = item
    return {path: item for path, item in found.items() if path not in twice}


def _ends(
    ops: Sequence[Shaped], read: Reading, layers: Mapping[Parts, Shaped]
) -> dict[Parts, Shaped]:
    """Return, for each layer's path, the last op of its scope that has the layer's shape."""
    found: dict[Parts, Shaped] = {}
    for item in ops:
        scope = read(tuple(item.name.split("/"))[:-1])
        for length in range(1, len(scope) + 1):
            layer = layers.get(scope[:length])
            if layer is not None and layer.shape == item.shape:
                found[scope[:length]] = item
    taken: dict[str, Parts] = {}
    for path, item in found.items():  # an op ends the innermost of the layers that it could end
        if item.name not in taken or len(path) > len(taken[item.name]):
            taken[item.name] = path
    return {path: item for path, item in found.items() if taken[item.name] == path}


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


def layer_of_scope(scope: tuple[str, ...], layers: set[str]) -> str:
    """Return the innermost layer with variables that is in the scope, or all of the scope."""
    known = {tuple(layer.split("/")) for layer in layers}
    for end in range(len(scope), 0, -1):
        for start in range(end):
            if scope[start:end] in known:
                return "/".join(scope[start:end])
    return "/".join(scope[1:] or scope)
