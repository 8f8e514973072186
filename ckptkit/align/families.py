"""Which of several scopes or tensors is which, where names differ only in a number.

Keras and TensorFlow number what they name: the second Dense layer of a process is `dense_1`.  A
model that is built second has `dense_2` where the first had `dense`, so equal names may belong to
different layers, and a number is weak evidence.  Four things are asked of a family:

- *type*: what cannot fit in dtype and shape is no partner while something that fits is there;
- *number*: equal names where both sides count alike, else the k-th with the k-th;
- *order*: the place of each in a list of the object graph, where both sides have one;
- *content*: equal values, of one member on either side.

Number and order that agree decide.  Where they disagree, or where there is no order and content
contradicts the number, content decides.  What then has two candidates is undecided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ckptkit.align.name_tree import Family, Scope, by_number, is_place, uncounted
from ckptkit.align.types import TensorSet

Sides = tuple[TensorSet, TensorSet]
Kind = tuple[tuple[str, str, tuple[int, ...]], ...]


class Decision(NamedTuple):
    """Pairs of names as (old, new, how), and the names on either side that stay undecided.

    how: "" where names are equal; "renumbered"; "by order", where structure and content overrule
    the numbers; "by content", where numbers left several partners; "content", where equal content
    alone contradicts the numbers.
    """

    pairs: list[tuple[str, str, str]]
    undecided: tuple[list[str], list[str]] = ([], [])
    reason: str = ""


def decide(family: Family, sides: Sides) -> Decision:
    """Pair the members of a family, as far as there is evidence."""
    old, new = family
    if not old or not new:
        return Decision([])
    if len(old) == len(new) == 1:
        [left], [right] = old, new
        if left == right or _fits(old[left], new[right], sides):
            return Decision([(left, right, "" if left == right else "renumbered")])
        return Decision([])
    kinds = (
        {name: _kind(node, sides[0]) for name, node in old.items()},
        {name: _kind(node, sides[1]) for name, node in new.items()},
    )
    numbered, unsure = _by_number(family, kinds, sides)
    ordered = _by_order(family, kinds, sides)
    if ordered == numbered:
        return Decision([(a, b, "" if a == b else "renumbered") for a, b in numbered.items()])
    equal = _by_content(family, sides)
    if ordered is not None:
        kept = {a: b for a, b in numbered.items() if ordered.get(a) == b}
        kept |= {a: b for a, b in ordered.items() if a in unsure[0] and b in unsure[1]}
        reason = "numbered names and structural order disagree"
    elif not _conflict(numbered, equal):
        kept = numbered
        reason = "the numbers in their names do not tell which is which"
    else:
        kept = {}
        reason = "equal contents contradict the numbers in their names"
    taken = set(equal.values())
    pairs = {a: b for a, b in kept.items() if a not in equal and b not in taken} | equal
    asked = unsure[0] | numbered.keys(), unsure[1] | set(numbered.values())
    taken = set(pairs.values())
    rest = (
        [name for name in by_number(old) if name in asked[0] and name not in pairs],
        [name for name in by_number(new) if name in asked[1] and name not in taken],
    )
    if equal:
        pairs |= _between(pairs, rest, kinds)
        taken = set(pairs.values())
    undecided = [n for n in rest[0] if n not in pairs], [n for n in rest[1] if n not in taken]
    if not undecided[0] or not undecided[1]:
        undecided = [], []
    hows = [(a, b, _how(a, b, numbered, ordered or {})) for a, b in pairs.items()]
    return Decision(hows, undecided, reason)


def _conflict(one: Mapping[str, str], two: Mapping[str, str]) -> bool:
    """Whether two ways to pair give some name two partners."""
    back = {new: old for old, new in one.items()}
    return any(one.get(old, new) != new or back.get(new, old) != old for old, new in two.items())


def _how(old: str, new: str, numbered: Mapping[str, str], ordered: Mapping[str, str]) -> str:
    if numbered.get(old) == new:
        return "" if old == new else "renumbered"
    if ordered.get(old) == new:
        return "by order"
    return "content" if _conflict(numbered, {old: new}) else "by content"


def _kind(node: Scope, side: TensorSet) -> Kind:
    """Return the last part of the name, dtype and shape of all weights (else tensors) of a scope.

    Wrappers may or may not write the scope of the layer that they wrap, so it does not count.
    """
    leaves = [leaf for leaf in node.leaves if leaf[1] in side.weights] or list(node.leaves)
    return tuple(
        sorted(
            (uncounted(name.rpartition("/")[2])[0], side.specs[key].dtype, side.specs[key].shape)
            for name, key in leaves
        )
    )


def _fits(old: Scope, new: Scope, sides: Sides) -> bool:
    """Whether some tensor of one has the name, dtype and shape of some tensor of the other."""
    return not set(_kind(old, sides[0])).isdisjoint(_kind(new, sides[1]))


# -- number ----------------------------------------------------------------------------------------


def _by_number(
    family: Family, kinds: tuple[Mapping[str, Kind], Mapping[str, Kind]], sides: Sides
) -> tuple[dict[str, str], tuple[set[str], set[str]]]:
    """Return the pairs that numbers make, and the names for which they leave several partners."""
    old, new = family
    same_names = old.keys() == new.keys()
    pairs: dict[str, str] = {}
    if same_names:
        pairs = {name: name for name in old if _fits(old[name], new[name], sides)}
    # Those of one type: what fits goes with what fits.
    groups: dict[Kind, tuple[list[str], list[str]]] = {}
    for side in (0, 1):
        for name in by_number(family[side]):
            if name not in pairs:
                groups.setdefault(kinds[side][name], ([], []))[side].append(name)
    unsure: tuple[set[str], set[str]] = (set(), set())
    for left, right in groups.values():
        if len(left) == len(right):
            pairs.update(zip(left, right, strict=True))
        elif left and right and _count_alike(left, right):
            pairs.update((name, name) for name in left if name in right)
        elif left and right:
            unsure[0].update(left)
            unsure[1].update(right)
    # Those whose shapes changed, or that gained or lost a tensor.
    taken = set(pairs.values())
    rest = (
        [n for n in by_number(old) if n not in pairs and n not in unsure[0]],
        [n for n in by_number(new) if n not in taken and n not in unsure[1]],
    )
    if same_names:
        pairs.update((name, name) for name in rest[0] if name in rest[1])
    elif len(rest[0]) == len(rest[1]) and len(old) == len(new):
        pairs_of_rest = list(zip(*rest, strict=True))
        if pairs or any(_fits(old[left], new[right], sides) for left, right in pairs_of_rest):
            pairs.update(pairs_of_rest)
    elif _count_alike(list(old), list(new)):
        pairs.update((name, name) for name in rest[0] if name in rest[1])
    return pairs, unsure


def _count_alike(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether two sets of numbered names seem to count from one start, so that equal is equal.

    One holds the other, and both begin with the same or the smaller has a gap, which nothing that
    was numbered afresh would have.  Places in a list shift where something is put in.
    """
    small, large = sorted((set(old), set(new)), key=len)
    if not small <= large or any(is_place(name) for name in small):
        return False
    numbers, others = (sorted(uncounted(n)[1] for n in names) for names in (small, large))
    return numbers[0] == others[0] or any(b - a > 1 for a, b in pairwise(numbers))


# -- order -----------------------------------------------------------------------------------------


def _by_order(
    family: Family, kinds: tuple[Mapping[str, Kind], Mapping[str, Kind]], sides: Sides
) -> dict[str, str] | None:
    """Return the pairs that the order of both structures makes, None where one has no order."""
    old, new = family
    if len(old) != len(new):
        return None
    orders = _order(old, sides[0]), _order(new, sides[1])
    if orders[0] is None or orders[1] is None:
        return None
    # As with numbers, what fits goes with what fits.
    groups: dict[Kind, tuple[list[str], list[str]]] = {}
    for side in (0, 1):
        for name in orders[side] or ():
            groups.setdefault(kinds[side][name], ([], []))[side].append(name)
    if all(len(left) == len(right) for left, right in groups.values()):
        return {
            left: right for group in groups.values() for left, right in zip(*group, strict=True)
        }
    return dict(zip(orders[0], orders[1], strict=True))


def _order(members: Mapping[str, Scope], side: TensorSet) -> list[str] | None:
    """Return the members in the order of the lists that hold all of them, where these agree."""
    positions: dict[str, dict[str, int]] = {}
    for name, node in members.items():
        for _, key in node.leaves:
            for container, position in side.places(key).items():
                found = positions.setdefault(container, {})
                found[name] = min(position, found.get(name, position))
    orders = {
        tuple(sorted(found, key=found.__getitem__))
        for found in positions.values()
        if len(found) == len(members) == len(set(found.values()))
    }
    return list(orders.pop()) if len(orders) == 1 else None


# -- content ---------------------------------------------------------------------------------------


def _by_content(family: Family, sides: Sides) -> dict[str, str]:
    """Return the members that share values with one member of the other side, and only one."""
    owners: dict[tuple[object, ...], tuple[set[str], set[str]]] = {}
    for at, (members, side) in enumerate(zip(family, sides, strict=True)):
        for name, node in members.items():
            for _, key in node.leaves:
                content = side.content(key)
                if content is not None:
                    owners.setdefault(content, (set(), set()))[at].add(name)
    partners: tuple[dict[str, set[str]], dict[str, set[str]]] = (
        defaultdict(set),
        defaultdict(set),
    )
    for left, right in owners.values():
        if len(left) == len(right) == 1:
            [one], [two] = left, right
            partners[0][one].add(two)
            partners[1][two].add(one)
    return {
        left: right
        for left, found in partners[0].items()
        if len(found) == 1
        for right in found
        if len(partners[1][right]) == 1
    }


def _between(
    pairs: Mapping[str, str],
    rest: tuple[list[str], list[str]],
    kinds: tuple[Mapping[str, Kind], Mapping[str, Kind]],
) -> dict[str, str]:
    """Pair what lies between pairs that are known, where these keep the order of the numbers."""
    known = sorted((uncounted(left)[1], uncounted(right)[1]) for left, right in pairs.items())
    if any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairwise(known)):
        # no order to go by: the one that is left goes with the one that is left
        [*left], [*right] = rest
        alone = len(left) == len(right) == 1 and kinds[0][left[0]] == kinds[1][right[0]]
        return {left[0]: right[0]} if alone else {}
    gaps: dict[int, tuple[list[str], list[str]]] = {}
    for side in (0, 1):
        for name in rest[side]:
            gap = sum(pair[side] < uncounted(name)[1] for pair in known)
            gaps.setdefault(gap, ([], []))[side].append(name)
    found: dict[str, str] = {}
    for left, right in gaps.values():
        if [kinds[0][name] for name in left] == [kinds[1][name] for name in right]:
            found.update(zip(left, right, strict=True))
    return found
