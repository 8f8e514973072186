"""Matching two sets of slash-separated names, knowing that some of them count automatically.

Keras and TensorFlow number what they name: the second Dense layer of a process is `dense_1`.  A
model that is built second has `dense_2` where the first had `dense`, so equal names may belong to
different layers.  Names are therefore matched as two trees: below a matched scope, children whose
names differ only in such a number are matched either as they are or in order of their numbers,
whichever pairs more tensors of equal dtype and shape; as they are, when that decides nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

_COUNTED = re.compile(r"(.*?)_(\d+)")
_NUMBER = re.compile(r"(?:^|(?<=[/-]))(\d+)(?=/|$)")

Fit = Callable[[str, str], tuple[int, int]]
"""fit(old key, new key) -> (1 if dtype and shape agree, 1 if contents are known to be equal)."""


class NameMatch(NamedTuple):
    """Two keys whose names match; renumbered: only after automatic counters were renumbered."""

    old: str
    new: str
    renumbered: bool


class _Tree:
    """Names by their components; `key` is what lies at this very name."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.below: dict[str, _Tree] = {}


def uncounted(component: str) -> tuple[str, int]:
    """Return ("dense", 7) for `dense_7`, ("dense", 0) for `dense`."""
    match = _COUNTED.fullmatch(component)
    return (match[1], int(match[2])) if match else (component, 0)


def without_counters(name: str) -> str:
    """Return a name with the counter of every component taken off."""
    return "/".join(uncounted(part)[0] for part in name.split("/"))


def match_names(old: Mapping[str, str], new: Mapping[str, str], fit: Fit) -> list[NameMatch]:
    """Return the pairs of two mappings {name: key}."""
    return _match(_tree(old), _tree(new), fit, False)


def _tree(names: Mapping[str, str]) -> _Tree:
    root = _Tree()
    for name, key in names.items():
        node = root
        for part in name.split("/"):
            node = node.below.setdefault(part, _Tree())
        node.key = key
    return root


def _match(old: _Tree, new: _Tree, fit: Fit, renumbered: bool) -> list[NameMatch]:
    matches: list[NameMatch] = []
    if old.key is not None and new.key is not None:
        matches.append(NameMatch(old.key, new.key, renumbered))
    for left, right in _families(old, new):
        as_named = [
            match
            for name, node in left.items()
            if name in right
            for match in _match(node, right[name], fit, renumbered)
        ]
        if left.keys() == right.keys() or not left or not right:
            matches += as_named
            continue
        by_number = [
            match
            for left_name, right_name in zip(_by_number(left), _by_number(right), strict=False)
            for match in _match(
                left[left_name], right[right_name], fit, renumbered or left_name != right_name
            )
        ]
        matches += by_number if _score(by_number, fit) > _score(as_named, fit) else as_named
    return matches


def _families(old: _Tree, new: _Tree) -> Iterable[tuple[dict[str, _Tree], dict[str, _Tree]]]:
    """Yield the children of both nodes, in groups that differ only in a counter."""
    families: dict[str, tuple[dict[str, _Tree], dict[str, _Tree]]] = {}
    for side, tree in enumerate((old, new)):
        for name, node in tree.below.items():
            families.setdefault(uncounted(name)[0], ({}, {}))[side][name] = node
    return families.values()


def _by_number(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: uncounted(name)[1])


def _score(matches: Sequence[NameMatch], fit: Fit) -> tuple[int, int]:
    fits = [fit(match.old, match.new) for match in matches]
    return sum(f[0] for f in fits), sum(f[1] for f in fits)


# -- structural order ------------------------------------------------------------------------------


def places(paths: Iterable[str]) -> dict[str, int]:
    """Return {container: position} for every numbered step of some object paths.

    `model/layer-3/kernel` lies at 3 of `model/layer-#`, `a/_operations/3/w` at 3 of
    `a/_operations/#`.
    """
    positions: dict[str, int] = {}
    for path in paths:
        match = _NUMBER.search(path)
        if match:
            positions.setdefault(path[: match.start()] + "#", int(match[1]))
    return positions


def disordered(
    matches: Sequence[NameMatch],
    names: tuple[Mapping[str, str], Mapping[str, str]],
    paths: tuple[Mapping[str, Iterable[str]], Mapping[str, Iterable[str]]],
) -> list[NameMatch]:
    """Return the matches whose counted names contradict the structural order of the two sides.

    names, paths: of either side, by key.  Layers whose names differ only in an automatic counter
    must come in one order in both structures; where a structure has no order, nothing is said.
    """
    # Matches whose names differ only in counters, such as the kernels of dense, dense_1, dense_2.
    families: dict[tuple[str, str], list[NameMatch]] = defaultdict(list)
    for match in matches:
        scope, _, leaf = names[0][match.old].rpartition("/")
        families[without_counters(scope), leaf].append(match)
    wrong: list[NameMatch] = []
    for family in families.values():
        ranks = [
            _ranks([paths[0][match.old] for match in family]),
            _ranks([paths[1][match.new] for match in family]),
        ]
        if len(family) > 1 and ranks[0] and ranks[1] and ranks[0] != ranks[1]:
            wrong += [
                m
                for m, left_rank, right_rank in zip(family, *ranks, strict=True)
                if left_rank != right_rank
            ]
    return wrong


def _ranks(paths: Sequence[Iterable[str]]) -> list[int]:
    """Return the order of some tensors by their place in a container that holds all; else []."""
    places_of = [places(key_paths) for key_paths in paths]
    for container in places_of[0]:
        positions = [place.get(container) for place in places_of]
        known = [p for p in positions if p is not None]
        if len(set(known)) == len(positions):
            ordered = sorted(known)
            return [ordered.index(p) for p in known]
    return []
