"""Matching two sets of slash-separated names as trees, knowing that some of them count.

Below a matched scope, children whose names differ only in a number are matched as `families` tells.
A scope that one side alone has around scopes (`sequential/...`, `model/...`) is no difference: it
is looked through where that pairs more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ckptkit.align.families import Sides, decide
from ckptkit.align.name_tree import (
    Family,
    Scope,
    families,
    is_dotted,
    is_place,
    lonely,
    opened,
    tree_of,
    uncounted,
    unwrapped,
    without_counters,
)
from ckptkit.align.types import Ambiguity
from ckptkit.text import list_text

_LOOK_THROUGH = 4  # levels of names; a scope looked through doubles the work below it
_NAMELESS = "vars"


class NameMatch(NamedTuple):
    """Two keys whose names match, and what besides equal names that rests on.

    how: "", "place" (the same number in a list), or as `families.Decision` has it.
    """

    old: str
    new: str
    how: str


@dataclass
class NameMatches:
    """Pairs of keys, and keys on either side of which only their group is known."""

    pairs: list[NameMatch] = field(default_factory=list)
    undecided: list[Ambiguity] = field(default_factory=list)


def match_names(old: Mapping[str, str], new: Mapping[str, str], sides: Sides) -> NameMatches:
    """Return the pairs of two mappings {name: key}; sides: the files that the keys are of."""
    has_dots = is_dotted(old) or is_dotted(new)
    matcher = _Matcher(sides, has_dots)
    trees = tree_of(old), tree_of(new)
    if has_dots:
        trees = unwrapped(*trees)
    found = NameMatches()
    if trees[0].key is not None and trees[1].key is not None:
        found.pairs.append(NameMatch(trees[0].key, trees[1].key, ""))
    matcher.below((trees[0].below, trees[1].below), "", found, _LOOK_THROUGH)
    return found


class _Matcher:
    """Goes down two trees; has_dots: whether a side's names have dots for slashes."""

    def __init__(self, sides: Sides, has_dots: bool) -> None:
        self.sides = sides
        self.has_dots = has_dots

    def below(self, scopes: Family, how: str, found: NameMatches, look_through: int) -> None:
        """Match what two scopes hold, as it is, or without a scope that one of them lacks."""
        plain = self._families(scopes, how, look_through)
        through = opened(*scopes) if look_through else None
        if through is not None:
            other = NameMatches()
            self.below(through, how, other, look_through - 1)
            if self._score(other) > self._score(plain):
                plain = other
        elif look_through and self.has_dots:
            plain = self._one_of_several(scopes, how, plain, look_through - 1)
        found.pairs += plain.pairs
        found.undecided += plain.undecided

    def _one_of_several(
        self, scopes: Family, how: str, plain: NameMatches, look_through: int
    ) -> NameMatches:
        """Match what one side holds several times over, `model.fc` and `ema.fc` against `fc`.

        Where the shapes of one of them alone fit, that is the one; else it is undecided.
        """
        for side, names in enumerate((lonely(*scopes), lonely(*reversed(scopes)))):
            if len(names) < 2:
                continue
            claims: list[NameMatches] = []
            for name in names:
                claim = NameMatches()
                inner = scopes[side][name].below
                pair = (inner, scopes[1]) if side == 0 else (scopes[0], inner)
                self.below(pair, how, claim, look_through)
                if self._score(claim)[0]:
                    claims.append(claim)
            if len(claims) == 1 and self._score(claims[0]) > self._score(plain):
                return claims[0]
            if len(claims) > 1 and not plain.pairs:
                matches = [match for claim in claims for match in claim.pairs]
                theirs = Counter((match.old, match.new)[1 - side] for match in matches)
                twice = [m for m in matches if theirs[(m.old, m.new)[1 - side]] > 1]
                if twice:
                    old = tuple(dict.fromkeys(match.old for match in twice))
                    new = tuple(dict.fromkeys(match.new for match in twice))
                    reason = f"{list_text(names)} hold the same names"
                    plain.undecided.append(Ambiguity(old, new, reason))
        return plain

    def _families(self, scopes: Family, how: str, look_through: int) -> NameMatches:
        found = NameMatches()
        for family in families(*scopes).values():
            decision = decide(family, self.sides)
            for left, right, how_here in decision.pairs:
                placed = "place" if left == right and is_place(left) else ""
                nodes = family[0][left], family[1][right]
                self._node(nodes, how_here or how or placed, found, look_through)
            if any(decision.undecided):
                keys = [
                    tuple(key for name in names for _, key in family[side][name].leaves)
                    for side, names in enumerate(decision.undecided)
                ]
                weights = [
                    not side.weights.isdisjoint(side_keys)
                    for side, side_keys in zip(self.sides, keys, strict=True)
                ]
                if all(weights):  # `beta_1` and `beta_2` are two settings, and no matter
                    found.undecided.append(Ambiguity(keys[0], keys[1], decision.reason))
        return found

    def _node(
        self, nodes: tuple[Scope, Scope], how: str, found: NameMatches, look_through: int
    ) -> None:
        old, new = nodes
        here = NameMatches()
        if old.key is not None and new.key is not None:
            here.pairs.append(NameMatch(old.key, new.key, how))
        if old.below and new.below:
            self.below((old.below, new.below), how, here, max(look_through - 1, 0))
            self._leftovers(old, new, how, here)
        found.pairs += here.pairs
        found.undecided += here.undecided

    def _leftovers(self, old: Scope, new: Scope, how: str, found: NameMatches) -> None:
        """Pair what one name abridges of the other: wrappers may write their layer's scope or not.

        A file without config and names has `vars/0` in place of a variable's name.
        """
        taken = {key for match in found.pairs for key in (match.old, match.new)}
        taken |= {key for item in found.undecided for key in (*item.old, *item.new)}
        for full in (True, False):
            groups: dict[tuple[object, ...], tuple[list[tuple[str, str]], ...]] = {}
            for at, (node, side) in enumerate(zip((old, new), self.sides, strict=True)):
                for name, key in node.leaves:
                    if name and key not in taken and key in side.weights:
                        spec = side.specs[key]
                        layer, last = _split(name)
                        label = without_counters(last) if full else without_counters(layer)
                        group = label, spec.dtype, spec.shape
                        groups.setdefault(group, ([], []))[at].append((name, key))
            for left, right in groups.values():
                if len(left) == len(right) == 1:
                    (left_name, left_key), (right_name, right_key) = left[0], right[0]
                    nameless = _is_nameless(left_name) or _is_nameless(right_name)
                    if _abridges(left_name, right_name) if full else nameless:
                        found.pairs.append(NameMatch(left_key, right_key, how))
                        taken |= {left_key, right_key}

    def _score(self, found: NameMatches) -> tuple[int, int, int]:
        """Return how many pairs fit, how many are known to be equal, how many are undecided."""
        old, new = self.sides
        fits = equal = 0
        for match in found.pairs:
            specs = old.specs[match.old], new.specs[match.new]
            if specs[0].dtype == specs[1].dtype and specs[0].shape == specs[1].shape:
                fits += 1
                digest = old.digest(match.old)
                equal += digest is not None and digest == new.digest(match.new)
        undecided = sum(min(len(item.old), len(item.new)) for item in found.undecided)
        return fits, equal, undecided


def _split(name: str) -> tuple[str, str]:
    """Return the layer's part of a name and its variable's."""
    parts = name.split("/")
    if _is_nameless(name):
        return "/".join(parts[:-2]), "/".join(parts[-2:])
    return "/".join(parts[:-1]), parts[-1]


def _is_nameless(name: str) -> bool:
    parts = name.split("/")
    return len(parts) > 1 and parts[-2] == _NAMELESS and parts[-1].isdecimal()


def _abridges(left: str, right: str) -> bool:
    """Whether one name is the other with some of its parts left out, numbers aside."""
    short, long = sorted(
        ([uncounted(part)[0] for part in name.split("/")] for name in (left, right)), key=len
    )
    rest = iter(long)
    return all(part in rest for part in short)
