"""Where a live object lies in the object graph of a checkpoint.  Child process alone.

A place of the file and a live object are gone through together, along edges of one name.  A place
fits where every variable of the object meets a tensor of its shape.  Which of several that fit is
meant, nobody but the user knows: they are named, and nothing is restored.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckptkit.errors import UsageError
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.trackables import (
    children_of,
    is_optimizer,
    is_variable,
    variables_below,
)
from ckptkit.text import count_text, list_text

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
COUNTER = "save_counter"
_MOST = 5  # candidates that a message names


@dataclass(frozen=True)
class FileGraph:
    """The object graph of a checkpoint.

    graph: a TrackableObjectGraph.  shapes: {key: sizes} of all tensors.  paths: {node: path}, the
    one with the fewest private edges, then the shortest; "" is the root.
    """

    graph: Any
    shapes: Mapping[str, Sequence[int]]
    paths: Mapping[int, str]

    def children(self, node: int) -> dict[str, int]:
        """Return {edge: node} of what a node leads to."""
        return {child.local_name: child.node_id for child in self.graph.nodes[node].children}

    def shape(self, node: int) -> tuple[int, ...] | None:
        """Return the shape of the variable that a node is, None where it is none."""
        for attribute in self.graph.nodes[node].attributes:
            if attribute.name == _VALUE:
                sizes = self.shapes.get(attribute.checkpoint_key)
                return None if sizes is None else tuple(sizes)
        return None

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


def file_graph(prefix: str) -> FileGraph | None:
    """Return the object graph of a checkpoint; None of one that has names alone."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = tensorflow().train.load_checkpoint(prefix)
    if not reader.has_tensor(_GRAPH_KEY):
        return None
    message = trackable_object_graph_pb2.TrackableObjectGraph
    graph = message.FromString(reader.get_tensor(_GRAPH_KEY))
    return FileGraph(graph, reader.get_variable_to_shape_map(), _paths(graph))


def _paths(graph: Any) -> dict[int, str]:
    found: dict[int, str] = {}
    waiting = [(0, 0, "", 0)]
    while waiting:
        private, depth, path, node = heapq.heappop(waiting)
        if node in found:
            continue
        found[node] = path
        for child in graph.nodes[node].children:
            if child.node_id not in found:
                edge = child.local_name
                there = f"{path}/{edge}" if path else edge
                step = (private + edge.startswith("_"), depth + 1)
                heapq.heappush(waiting, (*step, there, child.node_id))
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


def place_of(
    item: Any, file: FileGraph, what: str, where: str, known: Mapping[int, int] | None = None
) -> Place | None:
    """Return where a live object lies in the file; None where nothing of it does.

    what: what to call the object.  where: what to call the file.  known: {id of a live variable:
    node}, what is settled already; a place that contradicts it is none.
    Raises UsageError naming the places where several could be meant.
    """
    own = variables_below(item, optimizers=False).values()
    wanted = frozenset(id(variable) for variable in own)
    found = [overlap(item, file, node) for node in sorted(file.paths)]
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


def overlap(item: Any, file: FileGraph, node: int) -> Place:
    """Go through a live object and a place of the file together; return what they share.

    What an optimizer below the object leads to is left out.
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
        if is_optimizer(live) and live is not item:
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
            (child, inside[edge]) for edge, child in children_of(live).items() if edge in inside
        ]
    return Place(file.paths[node], nodes, frozenset(fitting), visited)
