"""The object graph of a TF2 checkpoint, parsed into plain values."""

from __future__ import annotations

from typing import Any

from ckptkit.errors import FormatError
from ckptkit.stores.base import Node, ObjectGraph
from ckptkit.stores.proto.messages import parse


def parse_object_graph(data: bytes, where: str) -> ObjectGraph:
    """Return the graph held in a serialised TrackableObjectGraph.

    Raises FormatError for bytes that do not parse, and for references to nodes that do not exist.
    Source: tensorflow/core/protobuf/trackable_object_graph.proto.
    """
    nodes = [
        _plain_leaf(raw) or _node(parse("TrackableObjectGraph.TrackableObject", raw, where))
        for raw in parse("RawObjectGraph", data, where).nodes
    ]
    check_references(nodes, where)
    return ObjectGraph(tuple(nodes))


def _node(node: Any) -> Node:
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


# Nearly all nodes of a large graph are variables without children, and read the same: one
# attribute (field 2) of name "VARIABLE_VALUE" (1), a full name (2) and a checkpoint key (3),
# perhaps followed by has_checkpoint_values (5) = true.  Cut out by hand they take a third.
_LEAF_HEAD = b"\x0a\x0eVARIABLE_VALUE\x12"
_LEAF_TAIL = b"\x2a\x02\x08\x01"


def _plain_leaf(raw: bytes) -> Node | None:
    """Return the node if its bytes are exactly those of a plain variable, else None."""
    size = len(raw)
    # behind the tag and the attribute's length, which takes one or two bytes
    if raw.startswith(_LEAF_HEAD, 2):
        start, length, is_plain = 2, raw[1], raw[1] < 0x80
    elif raw.startswith(_LEAF_HEAD, 3):
        start, length = 3, (raw[1] & 0x7F) | raw[2] << 7
        is_plain = raw[1] >= 0x80 > raw[2]
    else:
        return None
    head = start + len(_LEAF_HEAD)
    if not is_plain or raw[0] != 0x12 or size < head + 3:
        return None
    full_name_end = head + 1 + raw[head]
    key_start, end = full_name_end + 2, start + length
    if raw[head] >= 0x80 or key_start > size or raw[full_name_end] != 0x1A:
        return None
    if raw[key_start - 1] >= 0x80 or end != key_start + raw[key_start - 1]:
        return None
    if size != end and not (size == end + len(_LEAF_TAIL) and raw.endswith(_LEAF_TAIL)):
        return None
    try:
        full_name, key = raw[head + 1 : full_name_end].decode(), raw[key_start:end].decode()
    except UnicodeDecodeError:
        return None
    return Node((), (("VARIABLE_VALUE", full_name, key),), ())


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
