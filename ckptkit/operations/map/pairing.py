"""Which layer of one file is which of another: by what fits, by names, numbers and order.

Two layers may be one where the tensors of one can become those of the other (`layouts`).  Of
several that may, these decide, in this order, until none does:

    name     the whole paths are the same, and gaps in the numbers of one file show that they were
             kept; or the last parts of both paths are the same, of no other pair that fits as
             many, and no other word in them is one of another layer that fits
    shape    nothing else fits
    scope    all other layers of its scope lie in one scope of the other file
    words    the words in the paths that not all of them have, or else how many have the same; of
             equally many, the k-th number goes with the k-th, where no file's order contradicts it
    numbers  the numbers in both paths stand for one another as they do in all pairs so far
    order    both files have the same layers in the same order, which is not the same backwards,
             names of one side only count, and between any two of these lies a layer that is a pair

What is left has several candidates, and is not paired.  No step has a direction.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

from ckptkit.align.name_tree import uncounted
from ckptkit.operations.map.layers import IN_FIRST, OUT_FIRST, RECURRENT, LayerWeights
from ckptkit.operations.map.layouts import LayerMoves, fit

_ENOUGH = 4  # pairs from which it is learned what numbers stand for
T = TypeVar("T")
Class = tuple[str, ...]


class LayerPair(NamedTuple):
    """Two layers that are taken for one; why: one of the words above."""

    source: LayerWeights
    target: LayerWeights
    fit: LayerMoves
    why: str


class Undecided(NamedTuple):
    """Layers of which several fit, on either side, and how each would become the other."""

    sources: tuple[LayerWeights, ...]
    targets: tuple[LayerWeights, ...]
    fits: Mapping[tuple[LayerWeights, LayerWeights], LayerMoves]


class LayerPairing(NamedTuple):
    """pairs, in the order of the target; left: layers of either side that nothing fits."""

    pairs: tuple[LayerPair, ...]
    undecided: tuple[Undecided, ...]
    left: tuple[tuple[LayerWeights, ...], tuple[LayerWeights, ...]]


def pair_layers(sources: Sequence[LayerWeights], targets: Sequence[LayerWeights]) -> LayerPairing:
    """Return which layer of one file is which of the other; what no layer fits, by tensor.

    Files of converted models have no layers: there each tensor stands for itself.
    """
    found = _Pairer(sources, targets).run()
    if not all(found.left):
        return found
    singles = [[single for layer in side for single in layer.singles()] for side in found.left]
    more = _Pairer(singles[0], singles[1]).run()
    return LayerPairing((*found.pairs, *more.pairs), (*found.undecided, *more.undecided), more.left)


class _Pairer:
    """Goes through the evidence; `fits` has the candidates that are left, by (source, target)."""

    def __init__(self, sources: Sequence[LayerWeights], targets: Sequence[LayerWeights]) -> None:
        self.sides = tuple(sources), tuple(targets)
        self.fits: dict[tuple[LayerWeights, LayerWeights], LayerMoves] = {}
        self._look(sources, targets, may_lack=False)
        fitting = {layer for pair in self.fits for layer in pair}
        others = ([layer for layer in side if layer not in fitting] for side in self.sides)
        self._look(*others, may_lack=True)
        self.could_fit = frozenset(self.fits)
        self.pairs: dict[LayerWeights, LayerPair] = {}
        # `dense` beside `dense_1` is the first of them, and no name that a person chose.
        parts = {part for side in self.sides for layer in side for part in layer.parts}
        self.counted = frozenset(part.rpartition("_")[0] for part in parts if _counts(part))

    def _look(
        self, sources: Iterable[LayerWeights], targets: Iterable[LayerWeights], *, may_lack: bool
    ) -> None:
        """Note which layers fit."""
        by_size: dict[int, list[LayerWeights]] = defaultdict(list)
        for layer in sources:
            by_size[_largest(layer)].append(layer)
        for target in targets:
            for source in by_size.get(_largest(target), ()):
                found = fit(source, target, may_lack=may_lack)
                if found is not None:
                    self.fits[source, target] = found

    def run(self) -> LayerPairing:
        steps: tuple[tuple[str, Callable[[], Iterable[tuple[LayerWeights, LayerWeights]]]], ...] = (
            ("name", self._by_kept_paths),
            ("name", self._by_names),
            ("shape", self._by_shapes),
            ("scope", self._by_scopes),
            ("words", self._by_words),
            ("numbers", self._by_known_numbers),
            ("order", self._by_order),
        )
        while any(self._take(step(), why) for why, step in steps) or self._narrow():
            pass
        undecided = tuple(
            Undecided(one, other, {key: f for key, f in self.fits.items() if key[0] in one})
            for one, other in self._groups()
        )
        taken = {layer for pair in self.pairs.values() for layer in pair[:2]}
        taken |= {layer for item in undecided for layer in (*item.sources, *item.targets)}
        left = tuple(tuple(x for x in side if x not in taken) for side in self.sides)
        at = {layer: number for number, layer in enumerate(self.sides[1])}
        known = [layer.place is not None for layer in self.sides[1]]
        if all(known):
            at = {layer: layer.place or 0 for layer in self.sides[1]}
        ordered = sorted(self.pairs.values(), key=lambda pair: at[pair.target])
        return LayerPairing(tuple(ordered), undecided, (left[0], left[1]))

    def _take(self, found: Iterable[tuple[LayerWeights, LayerWeights]], why: str) -> bool:
        """Make pairs of what a step found; return whether it found anything."""
        pairs = list(found)
        for source, target in pairs:
            self.pairs[target] = LayerPair(source, target, self.fits[source, target], why)
        taken = {layer for pair in pairs for layer in pair}
        self.fits = {k: f for k, f in self.fits.items() if taken.isdisjoint(k)}
        return bool(pairs)

    def _narrow(self) -> bool:
        """Drop candidates that the pairs so far speak against; return whether there were any.

        Kernels lie one way in all of a file, and numbers stand for one another in one way.
        """
        turned = {way for pair in self.pairs.values() for way in _turned(pair.fit)}
        known = _relations(
            [(p.source.numbering[1], p.target.numbering[1]) for p in self.pairs.values()]
        )
        kept = {
            (source, target): found
            for (source, target), found in self.fits.items()
            if len(turned) != 1 or _turned(found) <= turned
            if _agree(source.numbering[1], target.numbering[1], known)
        }
        left = {layer for pair in kept for layer in pair}
        kept |= {pair: f for pair, f in self.fits.items() if not left.issuperset(pair)}
        is_narrower = len(kept) < len(self.fits)
        self.fits = kept
        return is_narrower

    # -- evidence ---------------------------------------------------------------------------------

    def _by_kept_paths(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield those of one path, where no program can have counted anew.

        `layer_0` and `layer_2` stand for themselves beside `layer_0`, `layer_1` and `layer_2`: who
        counts leaves no gap.  `layer_0` and `layer_1` could be any two of them.
        """
        numbers = [_numbers_by_place(side) for side in self.sides]
        pairs = [
            (source, target)
            for source, target in self.fits
            if source.path == target.path
            and all(_are_kept(*(side[place] for side in numbers)) for place in _places(source))
        ]
        pairs.sort(key=lambda pair: pair[0].place or 0)
        places = [target.place for _, target in pairs]
        if None in places or places == sorted(places, key=lambda place: place or 0):
            yield from pairs

    def _by_names(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield those whose paths end alike, further than with any other that fits."""
        scores = {pair: _common_end(*pair, self.counted) for pair in self.fits}
        common = [set.intersection(*(set(x.words) for x in side)) for side in self.sides]
        words = {
            layer: set(layer.words) - common[at]
            for at, side in enumerate(self.sides)
            for layer in side
        }
        near: dict[LayerWeights, set[str]] = defaultdict(set)
        found = list(_best(scores))
        if found:
            for source, target in self.fits:  # the words of all that fit a layer
                near[source] |= words[target]
                near[target] |= words[source]
        for source, target in found:
            alone = words[source] - words[target], words[target] - words[source]
            if near[source].isdisjoint(alone[0]) and near[target].isdisjoint(alone[1]):
                yield source, target

    def _by_shapes(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield the targets that one source alone fits, which is the only one of no other."""
        of_target: dict[LayerWeights, list[LayerWeights]] = defaultdict(list)
        for source, target in self.fits:
            of_target[target].append(source)
        only = {target: found[0] for target, found in of_target.items() if len(found) == 1}
        counts = Counter(only.values())
        yield from ((source, target) for target, source in only.items() if counts[source] == 1)

    def _by_scopes(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield what is left of two scopes, all other layers of which are pairs."""
        scopes: dict[str, set[str]] = defaultdict(set)
        back: dict[str, set[str]] = defaultdict(set)
        for pair in self.pairs.values():
            scopes[pair.target.scope].add(pair.source.scope)
            back[pair.source.scope].add(pair.target.scope)
        within = [
            (source, target)
            for source, target in self.fits
            if scopes[target.scope] == {source.scope} and back[source.scope] == {target.scope}
        ]
        counts = Counter(layer for pair in within for layer in pair)
        yield from (pair for pair in within if counts[pair[0]] == counts[pair[1]] == 1)

    def _by_words(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield what words tell apart, and numbers within the same words."""
        for group in self._groups():
            if any(pair not in self.fits for pair in _product(*group)):
                continue  # not all fit all: which are alike is not clear
            classes = _classes(group[0]), _classes(group[1])
            if len(classes[0]) == len(classes[1]) == 1:
                matched = [(next(iter(classes[0])), next(iter(classes[1])))]
            else:
                shared = {
                    (one, other): len(set(one) & set(other)) for one, other in _product(*classes)
                }
                matched = list(_best(shared)) or list(_by_count(*classes))
            for one, other in matched:
                yield from _by_numbers(classes[0][one], classes[1][other])

    def _by_known_numbers(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield what is left where the numbers in paths mean what they mean in the known pairs.

        `layer1.0.conv2` and `conv2_block1_2_conv`, `layer2.1.conv1` and `conv3_block2_1_conv`, ...:
        the first number is one less, the second, too, and the last is the same.
        """
        if not self.fits:
            return
        known = _relations(
            [(p.source.numbering[1], p.target.numbering[1]) for p in self.pairs.values()]
        )
        agreeing = [
            (source, target)
            for source, target in self.fits
            if known and _agree(source.numbering[1], target.numbering[1], known)
        ]
        counts = Counter(layer for pair in agreeing for layer in pair)
        yield from (pair for pair in agreeing if counts[pair[0]] == counts[pair[1]] == 1)

    def _by_order(self) -> Iterator[tuple[LayerWeights, LayerWeights]]:
        """Yield what is left where both files have the same layers in the same order.

        Between any two of them lies a layer that is a pair: of neighbours in a list either may be
        the first.
        """
        orders = [sorted(side, key=lambda layer: layer.place or 0) for side in self.sides]
        if any(layer.place is None for side in self.sides for layer in side):
            return
        if len(orders[0]) != len(orders[1]):
            return
        pairs = list(zip(*orders, strict=True))
        backwards = list(zip(orders[0], reversed(orders[1]), strict=True))
        if not self._may_be(pairs) or self._may_be(backwards):
            return  # where either may be the first layer, nothing tells that both go one way
        partner = dict(pairs)
        for group in self._groups():
            only_count = any(len(_classes(side)) == 1 for side in group)
            places = [at for at, (source, _) in enumerate(pairs) if source in group[0]]
            are_apart = all(
                any(target in self.pairs for _, target in pairs[one:other])
                for one, other in pairwise(places)
            )
            if only_count and are_apart and {partner[s] for s in group[0]} == set(group[1]):
                yield from ((source, partner[source]) for source in group[0])

    def _may_be(self, pairs: Iterable[tuple[LayerWeights, LayerWeights]]) -> bool:
        """Whether all of these could be pairs, and none contradicts what is one."""
        return all(
            self.pairs[target].source is source
            if target in self.pairs
            else (source, target) in self.could_fit
            for source, target in pairs
        )

    def _groups(self) -> Iterator[tuple[tuple[LayerWeights, ...], tuple[LayerWeights, ...]]]:
        """Yield the layers that are candidates of one another, both sides in their order."""
        near: dict[LayerWeights, set[LayerWeights]] = defaultdict(set)
        for source, target in self.fits:
            near[source].add(target)
            near[target].add(source)
        seen: set[LayerWeights] = set()
        for start in self.sides[1]:
            if start not in near or start in seen:
                continue
            group, waiting = {start}, [start]
            while waiting:
                more = near[waiting.pop()] - group
                group |= more
                waiting += more
            seen |= group
            yield (
                tuple(layer for layer in self.sides[0] if layer in group),
                tuple(layer for layer in self.sides[1] if layer in group),
            )


_Place = tuple[str, str]  # the path before a part, and the part without its number


def _places(layer: LayerWeights) -> Iterator[_Place]:
    """Yield the places of the numbers in a path."""
    for at, part in enumerate(layer.parts):
        yield "/".join(layer.parts[:at]), uncounted(part)[0]


def _numbers_by_place(layers: Iterable[LayerWeights]) -> Mapping[_Place, set[int]]:
    """Return which numbers the layers of a file have at each place; a name without one has 0."""
    found: dict[_Place, set[int]] = defaultdict(set)
    for layer in layers:
        for place, part in zip(_places(layer), layer.parts, strict=True):
            found[place].add(uncounted(part)[1])
    return found


def _are_kept(one: set[int], other: set[int]) -> bool:
    """Whether the numbers of two files at one place stand for the same."""
    fewer, more = sorted((one, other), key=len)
    return one == other or (fewer < more and max(fewer) - min(fewer) >= len(fewer))


Relation = tuple[int, int, dict[int, int], dict[int, int]]
"""Places of two numbers in paths, what one is where the other is known, and back."""


def _relations(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Relation]:
    """Return which numbers of pairs go together: one to one, in one order, in many pairs."""
    found = []
    widths = [max((len(pair[side]) for pair in pairs), default=0) for side in (0, 1)]
    for one, other in _product(range(widths[0]), range(widths[1])):
        both = [(a[one], b[other]) for a, b in pairs if len(a) > one and len(b) > other]
        there, back = dict(both), {right: left for left, right in both}
        is_one_to_one = len(there) == len(back) == len(set(both)) > 1
        values = [there[left] for left in sorted(there)]
        if len(both) >= _ENOUGH and is_one_to_one and values == sorted(values):
            found.append((one, other, there, back))
    return found


def _agree(source: tuple[int, ...], target: tuple[int, ...], relations: list[Relation]) -> bool:
    """Whether two paths' numbers are as they are in all pairs; one that no pair has may be any."""
    for one, other, there, back in relations:
        if len(source) > one and len(target) > other:
            left, right = source[one], target[other]
            if there.get(left, right) != right or back.get(right, left) != left:
                return False
    return True


def _turned(found: LayerMoves) -> set[bool]:
    """Return whether kernels of two axes are transposed, where both names tell what lies where."""
    return {
        bool(move.options[0])
        for move in found.moves
        if len(move.source.shape) == len(move.target.shape) == 2
        and len(set(move.source.shape)) == 2
        and {move.source.order, move.target.order} == {IN_FIRST, OUT_FIRST}
    }


def _largest(layer: LayerWeights) -> int:
    """Return how many elements the largest tensor of a layer has; equal in layers that fit."""
    members = [m for m in layer.members if m.role == RECURRENT] or layer.members
    return max(math.prod(member.shape) for member in members)


def _common_end(one: LayerWeights, other: LayerWeights, counted: frozenset[str]) -> int:
    """Return how many last parts of two paths are the same, up to one that only counts.

    counted: parts that stand with a counter elsewhere, so that without one they count, too.
    """
    count = 0
    for left, right in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if left != right or _counts(left) or left in counted:
            break
        count += 1
    return count


def _counts(part: str) -> bool:
    """Whether a part of a path has a counter that a program gave it: `dense_1`, `3`."""
    return part.isdecimal() or part.rpartition("_")[2].isdecimal()


def _best(scores: Mapping[tuple[T, T], int]) -> Iterator[tuple[T, T]]:
    """Yield the pairs whose score is above that of all others of either."""
    top: tuple[dict[T, list[int]], dict[T, list[int]]] = (defaultdict(list), defaultdict(list))
    for (one, other), score in scores.items():
        top[0][one].append(score)
        top[1][other].append(score)
    for (one, other), score in scores.items():
        if score and all(
            max(found) == score and found.count(score) == 1
            for found in (top[0][one], top[1][other])
        ):
            yield one, other


def _classes(layers: Sequence[LayerWeights]) -> dict[Class, list[LayerWeights]]:
    """Return layers by the words of their paths that not all of them have."""
    common = set.intersection(*(set(layer.words) for layer in layers))
    classes: dict[Class, list[LayerWeights]] = defaultdict(list)
    for layer in layers:
        classes[tuple(word for word in layer.words if word not in common)].append(layer)
    return classes


def _by_count(
    sources: Mapping[Class, Sequence[LayerWeights]], targets: Mapping[Class, Sequence[LayerWeights]]
) -> Iterator[tuple[Class, Class]]:
    """Yield the classes of one size, where no two of a side are of one, and both have the same."""
    both = sources, targets
    sizes = [{len(layers): words for words, layers in classes.items()} for classes in both]
    are_told = [len(by_size) for by_size in sizes] == [len(classes) for classes in both]
    if are_told and sizes[0].keys() == sizes[1].keys():
        yield from ((words, sizes[1][size]) for size, words in sizes[0].items())


def _by_numbers(
    sources: Sequence[LayerWeights], targets: Sequence[LayerWeights]
) -> Iterator[tuple[LayerWeights, LayerWeights]]:
    """Yield the k-th with the k-th of as many, where numbers and orders agree."""
    if len(sources) != len(targets):
        return
    sorted_sides = []
    for side in (sources, targets):
        if len({layer.numbering[0] for layer in side}) != 1:
            return
        if len({layer.numbering[1] for layer in side}) != len(side):
            return
        in_turn = sorted(side, key=lambda layer: layer.numbering[1])
        places = [layer.place for layer in in_turn]
        if None not in places and places != sorted(places, key=lambda place: place or 0):
            return
        sorted_sides.append(in_turn)
    yield from zip(*sorted_sides, strict=True)


def _product(one: Iterable[T], other: Iterable[T]) -> Iterator[tuple[T, T]]:
    others = tuple(other)
    return ((left, right) for left in one for right in others)
