"""Names as a tree: components between slashes, and which children differ only in a number.

Modules of PyTorch, and trees of other frameworks, write dots where TensorFlow writes slashes: names
of a file in which no name has a slash are cut at their dots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache

from ckptkit.text import lazy_pattern

_COUNTED = lazy_pattern(r"(.*?)_(\d+)")
_PLACED = lazy_pattern(r"(|.*-)(\d+)")

_DEEPEST = 48  # components; what is below is one name (a hostile file may nest thousands)


class Scope:
    """Names by their components; `key` is what lies at this very name."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.below: dict[str, Scope] = {}

    @cached_property
    def leaves(self) -> tuple[tuple[str, str], ...]:
        """(name from here on, key) of every tensor at this name or below it; no name: here."""
        own = [] if self.key is None else [("", self.key)]
        return (
            *own,
            *(
                (f"{part}/{rest}" if rest else part, key)
                for part, child in self.below.items()
                for rest, key in child.leaves
            ),
        )

    @property
    def has_scopes(self) -> bool:
        """Whether there are scopes below this one, not tensors alone."""
        return any(child.below for child in self.below.values())


def is_dotted(names: Iterable[str]) -> bool:
    """Whether the scopes of a file's names end with dots, `encoder.0.weight`: no slash is there."""
    return not any("/" in name for name in names)


def slashed(name: str) -> str:
    """Return a name of a file with dotted names as names with slashes are; empty parts stay."""
    return name.replace(".", "/")


def tree_of(names: Mapping[str, str]) -> Scope:
    """Return the tree of {name: key}."""
    root = Scope()
    separator = "." if is_dotted(names) else "/"
    for name, key in names.items():
        node = root
        for part in name.split(separator, _DEEPEST):
            node = node.below.setdefault(part, Scope())
        node.key = key
    return root


@lru_cache(maxsize=1 << 16)
def uncounted(component: str) -> tuple[str, int]:
    """Return ("dense", 7) for `dense_7`, ("dense", 0) for `dense`, ("layer-", 3) for `layer-3`.

    `7` alone is a place in a list: ("", 7).
    """
    match = _PLACED.fullmatch(component) or _COUNTED.fullmatch(component)
    return (match[1], int(match[2])) if match else (component, 0)


def is_place(component: str) -> bool:
    """Whether a component is a place in a list (`7`, `layer-7`) and no name."""
    return _PLACED.fullmatch(component) is not None


def without_counters(name: str) -> str:
    """Return a name with the counter of every component taken off."""
    return "/".join(uncounted(part)[0] for part in name.split("/"))


Family = tuple[dict[str, Scope], dict[str, Scope]]


def families(old: Mapping[str, Scope], new: Mapping[str, Scope]) -> dict[str, Family]:
    """Return the children of two scopes, in groups that differ only in a counter."""
    grouped: dict[str, Family] = {}
    for side, below in enumerate((old, new)):
        for name, node in below.items():
            grouped.setdefault(uncounted(name)[0], ({}, {}))[side][name] = node
    return grouped


def by_number(names: Iterable[str]) -> list[str]:
    """Return names that differ only in a counter, in its order; equal numbers in that of text."""
    return sorted(names, key=lambda name: (uncounted(name)[1], name))


def opened(old: Mapping[str, Scope], new: Mapping[str, Scope]) -> Family | None:
    """Return the children of two scopes, with those in place of a scope that only one side has.

    Keras 3 calls the layers of a Sequential `sequential/dense`, Keras 2 calls them `dense`; a model
    within a checkpoint is `model/dense`.  None where there is no such scope, where both sides have
    one (it was renamed, which is a difference), or where names would clash.
    """
    alone = lonely(old, new), lonely(new, old)
    if all(alone):
        # One scope around all of a side, within which are the names of the other: only that counts.
        around = [_is_around(*both) for both in ((old, new), (new, old))]
        if sum(around) != 1:
            return None
        alone = ([], alone[1]) if around[1] else (alone[0], [])
    if not any(alone):
        return None
    sides: list[dict[str, Scope]] = []
    for below, names in zip((old, new), alone, strict=True):
        opened_below = {name: node for name, node in below.items() if name not in names}
        for name in names:
            inner = below[name].below
            if below[name].key is not None or not opened_below.keys().isdisjoint(inner):
                return None
            opened_below.update(inner)
        sides.append(opened_below)
    return sides[0], sides[1]


def _is_around(below: Mapping[str, Scope], other: Mapping[str, Scope]) -> bool:
    """Whether there is one scope alone, and it holds names like those of the other side."""
    inner = [part for node in below.values() for part in node.below]
    known = {uncounted(name)[0] for name in other}
    return len(below) == 1 < len(other) and any(uncounted(part)[0] in known for part in inner)


def lonely(below: Mapping[str, Scope], other: Mapping[str, Scope]) -> list[str]:
    """Return the scopes that hold scopes and have none like them on the other side."""
    known = {uncounted(name)[0] for name in other}
    return [
        name for name, node in below.items() if node.has_scopes and uncounted(name)[0] not in known
    ]


def unwrapped(old: Scope, new: Scope) -> tuple[Scope, Scope]:
    """Return two trees without the scopes around all of one in which are the names of the other.

    `module.net.0` (DataParallel) or `_orig_mod.net.0` (torch.compile) against `net.0`: where both
    sides have one scope at their top, `opened` leaves open which of them is around the other.
    """
    within = _inner(old, new), _inner(new, old)
    if within[0] is not None and within[1] is None:
        return within[0], new
    if within[1] is not None and within[0] is None:
        return old, within[1]
    if within[0] is None:  # wrapped on both sides, `module.net.0` and `_orig_mod.net.0`
        for one in _wrapped(old):
            other = _inner(new, one) if one.has_scopes else None
            if other is not None and other.below.keys() == one.below.keys():
                return one, other
    return old, new


def _inner(tree: Scope, other: Scope) -> Scope | None:
    """Return what a tree has within the scopes around all of it, where that is like the other."""
    if not tree.below.keys().isdisjoint(other.below):
        return None
    for inner in _wrapped(tree):
        if inner.below.keys() == other.below.keys() or (
            inner.has_scopes and not inner.below.keys().isdisjoint(other.below)
        ):
            return inner
    return None


def _wrapped(tree: Scope) -> Iterator[Scope]:
    """Yield what lies in the one scope of a tree, in the one scope of that, and so on."""
    while len(tree.below) == 1 and tree.key is None:
        [tree] = tree.below.values()
        yield tree


# -- structural order ------------------------------------------------------------------------------

_NUMBER = lazy_pattern(r"(?:^|(?<=[/-]))(\d+)(?=/|$)")
# Keras 3's export() keeps this list in no order (facts of Keras 3.15: `_all_variables` of a model
# with a dict of layers is not in the order of `variables`).
_UNORDERED = "_all_variables/"


def places(paths: Iterable[str]) -> dict[str, int]:
    """Return {container: position} for every numbered step of some object paths.

    `model/layer-3/kernel` lies at 3 of `model/layer-#`, `a/_operations/3/w` at 3 of
    `a/_operations/#`.
    """
    positions: dict[str, int] = {}
    for path in paths:
        for container, position in _steps(path):
            positions.setdefault(container, position)
    return positions


def _steps(path: str) -> Iterator[tuple[str, int]]:
    if path.startswith(_UNORDERED):
        return
    for match in _NUMBER.finditer(path):
        yield path[: match.start()] + "#", int(match[1])
