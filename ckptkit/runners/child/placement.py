"""Where a live object lies in the object graph of a checkpoint.  Child process alone.

A place of the file and a live object are gone through together, along edges of one name.  A place
fits where every variable of the object meets a tensor of its shape.  Which of several that fit is
meant, nobody but the user knows: they are named, and nothing is restored.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import UsageError
from ckptkit.runners.child.object_tree import ObjectTree, is_variable
from ckptkit.stores.base import ObjectGraph
from ckptkit.text import count_text, list_text

_VALUE = "VARIABLE_VALUE"
COUNTER = "save_counter"
_MOST = 5  # candidates that a message names


@dataclass(frozen=True)
class FileGraph:
    """The object graph of a checkpoint.

    paths: {node: path}, the one with the fewest private edges, then the shortest; "" is the root.
    """

    file: Checkpoint
    graph: ObjectGraph
    paths: Mapping[int, str]

    def children(self, node: int) -> dict[str, int]:
        """Return {edge: node} of what a node leads to."""
        return dict(self.graph.nodes[node].children)

    def key(self, node: int) -> str | None:
        """Return the key of the variable that a node is, None where it is none."""
        for attribute, _full_name, key in self.graph.nodes[node].attributes:
            if attribute == _VALUE and key in self.file.specs:
                return key
        return None

    def shape(self, node: int) -> tuple[int, ...] | None:
        """Return the shape of the variable that a node is, None where it is none."""
        key = self.key(node)
        return None if key is None else self.file.specs[key].shape

    def node_at(self, path: str) -> int | None:
        """Return the node that a path leads to, None where it leads nowhere."""
        node = 0
        for edge in path.split("/") if path else ():
            found = self.children(node).get(edge)
            if found is None:
                return None
            node = found
        return node

    @property
    def has_counter(self) -> bool:
        """Whether tf.train.Checkpoint.save wrote it, and not write."""
        return COUNTER in self.children(0)


def file_graph(prefix: Path | str) -> FileGraph | None:
    """Return the object graph of a checkpoint; None of one that has names alone."""
    file = open_checkpoint(prefix)
    graph = file.structure
    return FileGraph(file, graph, _paths(graph)) if isinstance(graph, ObjectGraph) else None


def _paths(graph: ObjectGraph) -> dict[int, str]:
    found: dict[int, str] = {}
    waiting = [(0, 0, "", 0)]
    while waiting:
        private, depth, path, node = heapq.heappop(waiting)
        if node in found:
            continue
        found[node] = path
        for edge, child in graph.nodes[node].children:
            if child not in found:
                there = f"{path}/{edge}" if path else edge
                heapq.heappush(waiting, (private + edge.startswith("_"), depth + 1, there, child))
    return found


@dataclass(frozen=True)
class Place:
    """A place of the file that a live object may have been saved from.

    path: of the node.  nodes: {id of a live variable: node that it meets}; fitting: those of its
    shape.  visited: {id of a live object: node that it meets}.
    """

    path: str
    nodes: Mapping[int, int] = field(default_factory=dict)
    fitting: frozenset[int] = frozenset()
    visited: Mapping[int, int] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return len(self.path.split("/")) if self.path else 0

    def only(self, wanted: frozenset[int]) -> Place:
        """Return the place with these variables alone."""
        nodes = {live: node for live, node in self.nodes.items() if live in wanted}
        return replace(self, nodes=nodes, fitting=self.fitting & wanted)

    def is_less_than(self, other: Place) -> bool:
        """Whether all that this place has for the object another one has, and more."""
        mine = (self.fitting, frozenset(self.nodes))
        theirs = (other.fitting, frozenset(other.nodes))
        return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def objects_in(
    file: FileGraph, tree: ObjectTree, model: Any, optimizer: Any, place: str, what: str, where: str
) -> dict[str, Any]:
    """Return {path in the file: object} of a model and its optimizer; "" is the root itself.

    optimizer: None without one.  place: of the model, where the user told it.  what: what to call
    the model.  where: what to call the file.
    Raises UsageError where several places could be meant, or the one that is named is none.
    """
    if place:
        node = file.node_at(place)
        if node is None:
            names = list_text([name for name in file.children(0) if name != COUNTER], 5)
            hint = f"below its root there is {names}"
            raise UsageError(f"the file has no object {place!r}", where=where, hint=hint)
        there = overlap(tree, model, file, node)
        root = place
    else:
        found = place_of(tree, model, file, what, where)
        there = found or overlap(tree, model, file, 0)
        root = found.path if found is not None else "model"
    objects = {root: model}
    if optimizer is None or not root:
        return objects
    if id(optimizer) in there.visited:  # it hangs below the model already, and often beside it
        node = there.visited[id(optimizer)]
        beside = [edge for edge, number in file.children(0).items() if number == node]
        return objects | dict.fromkeys(beside[:1], optimizer)
    called = f"{type(optimizer).__name__}, the optimizer of the model,"
    at = place_of(tree, optimizer, file, called, where, there.nodes)
    name = at.path if at is not None and at.path else "optimizer"
    return {**objects, ("optimizer" if f"{name}/".startswith(f"{root}/") else name): optimizer}


def lists_in(file: FileGraph, model: Any) -> dict[str, list[Any]]:
    """Return {edge: live variables} of the lists in which a SavedModel of Keras has all variables.

    They are in the model's own order, which is all that an export tells.  {} where the file has no
    such lists, or a list and the model's do not fit one another.
    """
    inside = file.children(0)
    found: dict[str, list[Any]] = {}
    for edge in ("variables", "trainable_variables", "non_trainable_variables"):
        live = getattr(model, edge, None)
        if edge not in inside or live is None:
            continue
        nodes = file.children(inside[edge])
        shapes = [
            file.shape(nodes[str(place)]) for place in range(len(nodes)) if str(place) in nodes
        ]
        if shapes != [tuple(variable.shape) for variable in live]:
            return {}
        found[edge] = list(live)
    return found if "variables" in found else {}


def meets(tree: ObjectTree, file: FileGraph, objects: Mapping[str, Any]) -> bool:
    """Whether a variable of the objects, {path in the file: object}, has a place in the file."""
    nodes = ((item, file.node_at(path)) for path, item in objects.items())
    return any(node is not None and overlap(tree, item, file, node).nodes for item, node in nodes)


def place_of(
    tree: ObjectTree,
    item: Any,
    file: FileGraph,
    what: str,
    where: str,
    known: Mapping[int, int] | None = None,
) -> Place | None:
    """Return where a live object lies in the file; None where nothing of it does.

    what: what to call the object.  where: what to call the file.  known: {id of a live variable:
    node}, what is settled already; a place that contradicts it is none.
    Raises UsageError naming the places where several could be meant.
    """
    own = tree.variables_below(item, optimizers=False).values()
    wanted = frozenset(id(variable) for variable in own)
    found = [overlap(tree, item, file, node) for node in sorted(file.paths)]
    found = [place for place in found if not _contradicts(place, known or {})]
    places = _distinct([place for one in found if (place := one.only(wanted)).nodes])
    whole = [place for place in places if place.fitting == wanted]
    candidates = whole or _best(places)
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    raise _ambiguous(candidates, bool(whole), what, where)


def _contradicts(place: Place, known: Mapping[int, int]) -> bool:
    return any(known.get(live, node) != node for live, node in place.nodes.items())


def _distinct(places: Sequence[Place]) -> list[Place]:
    """Return the places, one for those that lead to the same tensors."""
    found: dict[tuple[tuple[int, int], ...], Place] = {}
    for place in sorted(places, key=lambda p: (p.depth, p.path)):
        found.setdefault(tuple(sorted(place.nodes.items())), place)
    return list(found.values())


def _best(places: Sequence[Place]) -> list[Place]:
    """Return the places that no other one surpasses: children of the root, or deeper ones."""
    near = [place for place in places if place.depth < 2]
    some = near or list(places)
    return [place for place in some if not any(place.is_less_than(other) for other in some)]


def _ambiguous(places: Sequence[Place], whole: bool, what: str, where: str) -> UsageError:
    names = [repr(place.path) if place.path else "the whole file" for place in places]
    fits = "" if whole else " alike, and none wholly"
    first = next((place.path for place in places if place.path), "model")
    edge = first.partition("/")[0]
    return UsageError(
        f"{what} fits {count_text(len(places), 'place')} of the file{fits}: "
        f"{list_text(names, _MOST)}; which one is meant is open",
        where=where,
        hint=f"name it: {where}#{first}; or let the code return "
        f"tf.train.Checkpoint({edge}=...), named as in the file",
    )


def overlap(
    tree: ObjectTree, item: Any, file: FileGraph, node: int, *, optimizers: bool = False
) -> Place:
    """Go through a live object and a place of the file together; return what they share.

    optimizers: whether what an optimizer below the object leads to belongs to it.
    """
    waiting = [(item, node)]
    visited: dict[int, int] = {}
    nodes: dict[int, int] = {}
    fitting = set()
    while waiting:
        live, number = waiting.pop()
        if id(live) in visited:
            continue
        visited[id(live)] = number
        if not optimizers and tree.is_optimizer(live) and live is not item:
            continue  # it leads to variables that are others', wherever they lie
        if is_variable(live):
            shape = file.shape(number)
            if shape is not None:
                nodes[id(live)] = number
                if shape == tuple(live.shape):
                    fitting.add(id(live))
            continue
        inside = file.children(number)
        waiting += [
            (child, inside[edge])
            for edge, child in tree.children_of(live).items()
            if edge in inside
        ]
    return Place(file.paths[node], nodes, frozenset(fitting), visited)
