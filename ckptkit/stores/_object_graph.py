"""The object graph of a TF2 checkpoint, parsed into plain values."""

from __future__ import annotations

from ckptkit.errors import FormatError
from ckptkit.stores._schema import parse
from ckptkit.stores.base import Node, ObjectGraph


def parse_object_graph(data: bytes, where: str) -> ObjectGraph:
    """Return the graph held in a serialised TrackableObjectGraph.

    Raises FormatError for bytes that do not parse, and for references to nodes that do not exist.
    Source: tensorflow/core/protobuf/trackable_object_graph.proto.
    """
    graph = parse("TrackableObjectGraph", data, where)
    nodes = [
        Node(
            tuple([(child.local_name, child.node_id) for child in node.children]),
            tuple([(a.name, a.full_name, a.checkpoint_key) for a in node.attributes]),
            tuple(
                [
                    (s.original_variable_node_id, s.slot_name, s.slot_variable_node_id)
                    for s in node.slot_variables
                ]
            ),
        )
        for node in graph.nodes
    ]
    check_references(nodes, where)
    return ObjectGraph(tuple(nodes))


def check_references(nodes: list[Node], where: str) -> None:
    """Raise FormatError when a child or slot names a node that is not there."""
    count = len(nodes)
    for index, node in enumerate(nodes):
        for name, child in node.children:
            if not 0 <= child < count:
                raise FormatError(
                    where, f"child {name!r} of node {index}", expected=f"< {count}", found=child
                )
        for original, name, slot in node.slots:
            if not (0 <= original < count and 0 <= slot < count):
                raise FormatError(
                    where,
                    f"slot {name!r} of node {index}",
                    expected=f"< {count}",
                    found=max(original, slot),
                )
