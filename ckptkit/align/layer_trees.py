"""Joining the groups of a Keras 3 weights file with the objects of an object graph.

Both follow a model's attributes: `refine/down/vars/0` is the first variable of the object
`model/refine/down`.  Members of lists are paired by order: of the list itself, or of the model's
trainable variables where a checkpoint does not show the list.  Layers are paired only where all
their weights have one dtype and shape on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckptkit.align.numbered_layers import LISTS, NumberedLayer, types_of
from ckptkit.align.objects import Objects
from ckptkit.align.own_variables import pair_own

Pairs = list[tuple[str, str]]
MAX_TOPS = 60  # objects near the root that the file may be of


def join_trees(root: NumberedLayer, objects: Objects) -> Pairs:
    """Return (key of the file, key of the graph) for the object of the graph that fits best.

    Of two objects that fit equally well, as the twin towers of a model do, neither is taken.
    """
    best: Pairs = []
    is_tie = False
    undecided = 0
    for top in objects.tops()[:MAX_TOPS]:
        join = _Join(objects)
        pairs = sorted(join.run(root, top))
        if len(pairs) > len(best):
            best, is_tie, undecided = pairs, False, join.undecided
        elif pairs and len(pairs) == len(best) and pairs != best:
            is_tie = True
    wanted = min(len(root.weights()), len(objects.side.weights)) - undecided
    return best if len(best) * 2 > wanted and not is_tie else []


class _Join:
    """One walk over both trees.

    undecided: how many variables of members of lists fit, each of them several others.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.pairs: Pairs = []
        self.undecided = 0
        self.visited: set[tuple[str, int]] = set()

    def run(self, layer: NumberedLayer, node: int) -> Pairs:
        self._object(layer, node)
        return self.pairs

    def _object(self, layer: NumberedLayer, node: int) -> None:
        """Pair the variables of an object, then those of what its attributes hold."""
        if (layer.path, node) in self.visited:
            return
        self.visited.add((layer.path, node))
        self.pairs += pair_own(layer.own, self.objects.own(node))
        children = dict(self.objects.children(node))
        paired: set[int] = set()
        for part, child in layer.children.items():
            if part in LISTS and child.is_list:
                continue
            other = children.get(part, children.get(f"_{part}"))
            if other is None:
                continue
            paired.add(other)
            if child.is_list:
                self._list(child.items(), self.objects.items(other))
            else:
                self._object(child, other)
        for part in LISTS:
            if part in layer.children and layer.children[part].is_list:
                self._listed_layers(layer.children[part], node, paired)

    def _listed_layers(self, listed: NumberedLayer, node: int, paired: set[int]) -> None:
        """Pair the layers that a model lists with those of the graph's lists, or its attributes."""
        items = listed.items()
        if items is None:
            return
        for candidates in self.objects.listed_layers(node):
            if self._in_order(items, candidates):
                return
        # A subclassed model lists its attributes, without those that the file holds elsewhere.
        members = [child for child in self.objects.members(node) if child not in paired]
        self._list(items, members, in_order=False)

    def _list(
        self, items: list[NumberedLayer] | None, nodes: Sequence[int], in_order: bool = True
    ) -> None:
        """Pair the members of two lists: by their order, else where only one fits."""
        if items is None or (in_order and self._in_order(items, nodes)):
            return
        places = {node: self._place(node) for node in nodes}
        if all(place is not None for place in places.values()):
            by_place = sorted(nodes, key=lambda node: places[node] or 0)
            if self._in_order(items, by_place):
                return
        self._by_type(items, nodes)

    def _in_order(self, items: Sequence[NumberedLayer], nodes: Sequence[int]) -> bool:
        """Pair two lists of equal length whose members fit one by one."""
        if len(items) != len(nodes):
            return False
        if any(types_of(i.weights()) != self._types(n) for i, n in zip(items, nodes, strict=True)):
            return False
        for item, node in zip(items, nodes, strict=True):
            self._member(item, node)
        return True

    def _member(self, item: NumberedLayer, node: int) -> None:
        if item.is_list:
            self._list(item.items(), self.objects.items(node))
        else:
            self._object(item, node)

    def _by_type(self, items: Sequence[NumberedLayer], nodes: Sequence[int]) -> None:
        """Pair the members that fit one member of the other side, and that one no other.

        Several that are alike go by their order where one list of the graph has all of them.
        """
        alike: dict[str, tuple[list[NumberedLayer], list[int]]] = {}
        for item in items:
            alike.setdefault(repr(types_of(item.weights())), ([], []))[0].append(item)
        for node in nodes:
            alike.setdefault(repr(self._types(node)), ([], []))[1].append(node)
        for ours, theirs in alike.values():
            if len(ours) != len(theirs):
                continue
            if not self.objects.is_in_one_list(theirs):
                self.undecided += sum(len(item.weights()) for item in ours)
                continue
            for item, node in zip(ours, theirs, strict=True):
                self._member(item, node)

    def _types(self, node: int) -> list[tuple[object, ...]]:
        specs = self.objects.side.specs
        keys = self.objects.weights(node)
        return sorted(((specs[k].dtype, specs[k].shape) for k in keys), key=repr)

    def _place(self, node: int) -> int | None:
        """Return where a layer's first trained variable stands in the model's order."""
        places = self.objects.places
        return min((places[k] for k in self.objects.weights(node) if k in places), default=None)
