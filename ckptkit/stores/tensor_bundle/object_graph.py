"""The object graph of a TF2 checkpoint, parsed into plain values."""

from __future__ import annotations

from typing import Any

from ckptkit.errors import FormatError
from ckptkit.stores.base import Node, ObjectGraph
from ckptkit.stores.proto import wire
from ckptkit.stores.proto.messages import parse


def parse_object_graph(data: bytes, where: str) -> ObjectGraph:
    """Return the graph held in a serialised TrackableObjectGraph.

    Raises FormatError for bytes that do not parse, and for references to nodes that do not exist.
    Source: tensorflow/core/protobuf/trackable_object_graph.proto.
    """
    raws = wire.split_nodes(data)
    if raws is None:
        raws = parse("RawTrackableObjectGraph", data, where).nodes
    edges: dict[bytes, str] = {}
    nodes = [_node(raw, edges, where) for raw in raws]
    check_references(nodes, where)
    return ObjectGraph(tuple(nodes))


def _node(raw: bytes, edges: dict[bytes, str], where: str) -> Node:
    """Return a node, by the fastest way that its bytes allow."""
    leaf = wire.leaf(raw)
    if leaf is not None:
        return Node((), (("VARIABLE_VALUE", *leaf),), ())
    children = wire.children(raw, edges)
    if children is not None:
        return Node(children, (), ())
    plain = wire.node(raw)
    if plain is not None:
        return Node(*plain)
    return _node_of(parse("TrackableObjectGraph.TrackableObject", raw, where))


def _node_of(node: Any) -> Node:
    return Node(
        tuple([(child.local_name, child.node_id) for child in node.children]),
        tuple([(a.name, a.full_name, a.checkpoint_key) for a in node.attributes]),
        tuple(
            [
                (s.original_variable_node_id, s.slot_name, s.slot_variable_node_id)
                for s in node.slot_variables
            ]
        ),
    )


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
