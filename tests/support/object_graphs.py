"""Object graphs from nested dicts, as `tf.train.Checkpoint` would save such objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.object_names import name_objects
from ckptkit.stores.base import Node, ObjectGraph, TensorSpec

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class Variable:
    """A variable; the same one in several places of a tree is one node of the graph."""

    def __init__(
        self, full_name: str = "", shape: tuple[int, ...] = (2, 3), dtype: str = "float32"
    ) -> None:
        self.full_name, self.shape, self.dtype = full_name, shape, dtype


def graph_of(root: Mapping[str, Any]) -> tuple[dict[str, TensorSpec], ObjectGraph]:
    """Return specs and graph of {edge: Variable or a dict of edges}; keys are shortest paths."""
    objects: list[Any] = [root]
    place = {id(root): 0}
    paths = {0: ""}
    queue = deque([0])
    edges: dict[int, tuple[tuple[str, int], ...]] = {}
    while queue:
        at = queue.popleft()
        found = []
        for edge, child in {} if isinstance(objects[at], Variable) else objects[at].items():
            if id(child) not in place:
                place[id(child)] = len(objects)
                paths[len(objects)] = f"{paths[at]}/{edge}".lstrip("/")
                queue.append(len(objects))
                objects.append(child)
            found.append((edge, place[id(child)]))
        edges[at] = tuple(found)
    specs: dict[str, TensorSpec] = {}
    nodes = []
    for at, each in enumerate(objects):
        attributes: tuple[tuple[str, str, str], ...] = ()
        if isinstance(each, Variable):
            key = paths[at] + SUFFIX
            attributes = (("VARIABLE_VALUE", each.full_name, key),)
            specs[key] = TensorSpec(key, each.dtype, each.shape, 4, 0, 4 * at, at)
        nodes.append(Node(edges[at], attributes, ()))
    return specs, ObjectGraph(tuple(nodes))


def namings_of(root: Mapping[str, Any]) -> dict[str, Naming]:
    """Return how the variables of such objects are called, by key without its suffix."""
    specs, graph = graph_of(root)
    return {key.removesuffix(SUFFIX): n for key, n in name_objects(specs, graph).items()}


def listed(*items: Any) -> dict[str, Any]:
    """Return a list, whose edges are numbers."""
    return {str(at): item for at, item in enumerate(items)}
