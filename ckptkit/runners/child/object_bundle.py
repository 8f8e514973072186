"""Writing live objects as a checkpoint, as tf.train.Checkpoint does it.  Child process alone.

The graph has the objects, edge by edge, and each variable is one attribute of its node; so what
reads checkpoints of TensorFlow reads this one, and calls its variables by the same names.
Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptkit.runners.child.by_name import HOLDER
from ckptkit.runners.child.object_tree import ObjectTree, is_variable, own_name
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_KEY = "{}/.ATTRIBUTES/VARIABLE_VALUE"


def write_objects(
    out: str,
    tree: ObjectTree,
    objects: Mapping[str, Any],
    weights: Mapping[str, Any],
    value_of: Callable[[Any], Array],
) -> None:
    """Write objects to a checkpoint of the prefix `out`.

    objects: {path: object}, "" for the root itself.  weights: {name: variable}, shown below HOLDER
    too.  value_of: gives the values of a variable.  Raises OutputError.
    """
    graph = _Graph(tree)
    root = graph.node_of_new()
    for path, item in sorted(objects.items()):
        graph.hang(root, path, item)
    holder = graph.node_of_new()
    graph.edges[root][HOLDER] = holder
    for name, variable in weights.items():
        graph.edges[holder][name] = graph.node_of(variable)
    tensors = {}
    message = message_class("TrackableObjectGraph")()
    for number, edges in enumerate(graph.edges):
        node = message.nodes.add()
        for edge, child in edges.items():
            node.children.add(node_id=child, local_name=edge)
        variable = graph.variables.get(number)
        if variable is not None:
            key = _KEY.format(graph.paths[number])
            values = value_of(variable)
            node.attributes.add(
                name="VARIABLE_VALUE", full_name=own_name(variable), checkpoint_key=key
            )
            tensors[key] = values
    rows = [TensorToWrite(k, v.dtype.name, v.shape, k, "weight") for k, v in tensors.items()]

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        yield 0, tensors[key].reshape(-1)

    write_tensor_bundle(out, rows, blocks, object_graph=message.SerializeToString())


@dataclass
class _Graph:
    """Nodes by number, 0 the root; paths: of those that are variables, for their keys."""

    tree: ObjectTree
    edges: list[dict[str, int]] = field(default_factory=list)
    variables: dict[int, Any] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # id of an object: its node
    alive: list[Any] = field(default_factory=list)  # an id is that of one object while it lives

    def node_of_new(self) -> int:
        self.edges.append({})
        return len(self.edges) - 1

    def node_of(self, item: Any) -> int:
        """Return the node of an object, made with all that it leads to."""
        if id(item) in self.numbers:
            return self.numbers[id(item)]
        number = self.numbers[id(item)] = self.node_of_new()
        self.alive.append(item)
        if is_variable(item):
            self.variables[number] = item
            self.paths[number] = f"variable-{number:06d}"
        for edge, child in self.tree.children_of(item).items():
            self.edges[number][edge] = self.node_of(child)
        return number

    def hang(self, root: int, path: str, item: Any) -> None:
        """Put an object at a path below the root."""
        if not path:
            for edge, child in self.tree.children_of(item).items():
                self.edges[root][edge] = self.node_of(child)
            return
        *between, last = path.split("/")
        for edge in between:
            root = self.edges[root].setdefault(edge, len(self.edges))
            if root == len(self.edges):
                self.node_of_new()
        self.edges[root][last] = self.node_of(item)
