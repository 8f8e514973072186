"""An object graph as alignment walks it: objects that hold weights, and lists of all variables.

Optimizers are taken out, and so is every object that leads to no weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from ckptkit.align.own_variables import OwnVariable
from ckptkit.align.types import TensorSet
from ckptkit.checkpoint.object_trees import VALUE
from ckptkit.checkpoint.optimizer_slots import optimizer_nodes
from ckptkit.stores.base import ObjectGraph, VariableUse
from ckptkit.text import lazy_pattern

# What Keras 2 and 3 call the layers that a model lists.
LAYER_LISTS = ("layers", "_layers", "_operations", "_self_tracked_trackables")
_WITH_WEIGHTS = lazy_pattern(r"layer_with_weights-(\d+)")
# Attributes of a layer that repeat what others lead to.
_REPEATS = frozenset(
    (
        *("keras_api", "variables", "trainable_variables", "non_trainable_variables", "layers"),
        *("_layers", "_operations", "_self_tracked_trackables", "_functional", "signatures"),
    )
)


MAX_NESTED = 8  # a Sequential model holds one Functional, which holds none


class Objects:
    """The objects of one side, by node."""

    def __init__(self, side: TensorSet, graph: ObjectGraph) -> None:
        self.side, self.graph = side, graph
        self.key_of = {
            index: key
            for index, node in enumerate(graph.nodes)
            for attribute, _full_name, key in node.attributes
            if attribute == VALUE and key in side.weights
        }
        self.optimizers = optimizer_nodes(graph)
        self._reaching = self._nodes_above()

    def _nodes_above(self) -> set[int]:
        """Return the nodes that lead to a weight, not through an optimizer."""
        parents: dict[int, list[int]] = defaultdict(list)
        for index, node in enumerate(self.graph.nodes):
            if index not in self.optimizers:
                for _edge, child in node.children:
                    parents[child].append(index)
        found, queue = set(self.key_of), list(self.key_of)
        while queue:
            for parent in parents[queue.pop()]:
                if parent not in found:
                    found.add(parent)
                    queue.append(parent)
        return found

    def children(self, node: int) -> list[tuple[str, int]]:
        """Return (edge, node) of the objects below, those that lead to weights, in their order."""
        return [
            (edge, child)
            for edge, child in self.graph.nodes[node].children
            if child in self._reaching and child not in self.key_of
        ]

    def own(self, node: int) -> list[OwnVariable]:
        """Return the variables that are attributes of an object, in the order they were made."""
        found: dict[int, OwnVariable] = {}
        for edge, child in self.graph.nodes[node].children:
            if child in self.key_of and child not in found:
                key = self.key_of[child]
                spec = self.side.specs[key]
                found[child] = OwnVariable(
                    key, (spec.dtype, spec.shape), edge.lstrip("_"), self._trainable(child)
                )
        variables = list(found.values())
        if any(v.trainable for v in variables):  # the layer is trained: the others are no weights
            return [v._replace(trainable=bool(v.trainable)) for v in variables]
        return variables

    def _trainable(self, node: int) -> bool | None:
        use = self.uses.get(node)
        if use is not None:
            return use.trainable
        return True if self.key_of[node] in self.places else None

    @cached_property
    def uses(self) -> Mapping[int, VariableUse]:
        """What a SavedModel's functions do with each variable, by node."""
        return self.graph.uses()

    @cached_property
    def below(self) -> dict[int, tuple[str, ...]]:
        """Keys of the weights at or below each node; filled by `weights`."""
        return {}

    def weights(self, node: int) -> tuple[str, ...]:
        """Return the keys of all weights at or below a node, each once."""
        if node not in self.below:
            keys: dict[str, None] = {}
            seen, queue = {node}, [node]
            while queue:
                here = queue.pop()
                if here in self.key_of:
                    keys.setdefault(self.key_of[here])
                for _edge, child in self.graph.nodes[here].children:
                    inside = child in self._reaching and child not in self.optimizers
                    if inside and child not in seen:
                        seen.add(child)
                        queue.append(child)
            self.below[node] = tuple(keys)
        return self.below[node]

    def listed_layers(self, node: int, above: frozenset[int] = frozenset()) -> Iterator[list[int]]:
        """Yield the layers that a model lists, as each of its lists has them, in order."""
        if node in above or len(above) > MAX_NESTED:
            return
        children = dict(self.children(node))
        for edge in LAYER_LISTS:
            if edge in children:
                yield self.items(children[edge])
        if "_functional" in children:
            yield from self.listed_layers(children["_functional"], above | {node})
        numbered = {
            int(match[1]): child
            for edge, child in children.items()
            if (match := _WITH_WEIGHTS.fullmatch(edge))
        }
        if numbered:
            yield [numbered[number] for number in sorted(numbered)]

    def items(self, node: int) -> list[int]:
        """Return the members of a list in its order, those of a dict as they came into it."""
        children = self.children(node)
        if children and all(edge.isdecimal() for edge, _child in children):
            children.sort(key=lambda item: int(item[0]))
        return [child for _edge, child in children]

    def members(self, node: int) -> list[int]:
        """Return the objects that are attributes, members of lists in their place."""
        found: dict[int, None] = {}
        seen, stack = {node}, [node]
        while stack:
            here = stack.pop()
            if here != node and self._is_object(here):
                found.setdefault(here)
                continue
            inner = [c for edge, c in self.children(here) if edge not in _REPEATS and c not in seen]
            seen.update(inner)
            stack += reversed(inner)
        return list(found)

    def is_in_one_list(self, nodes: Sequence[int]) -> bool:
        """Whether some list has all these objects, of which there are some, in this order."""
        if len(nodes) == 1:
            return True
        lists = set.intersection(*(self._lists_of.get(node, set()) for node in nodes))
        wanted = set(nodes)
        return any(
            [item for item in self.items(list_) if item in wanted] == list(nodes) for list_ in lists
        )

    @cached_property
    def _lists_of(self) -> dict[int, set[int]]:
        """The lists that an object is a member of."""
        found: dict[int, set[int]] = defaultdict(set)
        for index, node in enumerate(self.graph.nodes):
            if node.children and not self._is_object(index):
                for _edge, child in node.children:
                    found[child].add(index)
        return found

    def _is_object(self, node: int) -> bool:
        """Whether a node is a layer, not a list or dict of layers, as far as that shows."""
        edges = [edge for edge, _child in self.graph.nodes[node].children]
        return not edges or not all(edge.isdecimal() for edge in edges)

    def tops(self, depth: int = 3) -> list[int]:
        """Return the root and the objects near it, nearest first."""
        found, ring = {0: None}, [0]
        for _ in range(depth):
            ring = [
                child for node in ring for edge, child in self.children(node) if child not in found
            ]
            found.update(dict.fromkeys(ring))
        return list(found)

    # -- lists of variables ------------------------------------------------------------------------

    @cached_property
    def trained(self) -> list[tuple[str, ...]]:
        """The trainable variables in the model's order, as each optimizer or export lists them."""
        lists = [
            container
            for node in sorted(self.optimizers)
            for edge, container in self.graph.nodes[node].children
            if edge == "_trainable_variables"
        ]
        lists += self._root_lists("trainable_variables")
        return [keys for keys in map(self._variables, lists) if keys]

    @cached_property
    def untrained(self) -> list[tuple[str, ...]]:
        """The other variables in the model's order, as an export lists them."""
        found = map(self._variables, self._root_lists("non_trainable_variables"))
        return [keys for keys in found if keys]

    def _root_lists(self, name: str) -> list[int]:
        return [child for edge, child in self.graph.nodes[0].children if edge == name]

    def _variables(self, container: int) -> tuple[str, ...]:
        """Return the weights that a list of variables has, in its order."""
        members = [
            (int(edge), child)
            for edge, child in self.graph.nodes[container].children
            if edge.isdecimal() and len(edge) < 10
        ]
        return tuple(self.key_of[child] for _n, child in sorted(members) if child in self.key_of)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Place of each trained variable in the model's order; of several lists, the first."""
        places: dict[str, int] = {}
        for keys in self.trained:
            for at, key in enumerate(keys):
                places.setdefault(key, at)
        return places
