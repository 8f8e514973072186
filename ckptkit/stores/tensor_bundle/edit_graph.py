"""Changing the object graph of a checkpoint: another root, a part of it, fewer tensors.

The graph is what TensorFlow restores by: it walks the live objects and the graph together, edge by
edge, and reads what the attributes of a node point at.  Keys are only pointers, so they may be
changed as long as the index has them.  Fields that this package does not know stay as they are.
Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ckptkit.errors import UsageError
from ckptkit.stores.proto.messages import message_class, parse
from ckptkit.stores.tensor_bundle.attribute_keys import added_keys

SAVE_COUNTER_KEY = "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
_VALUE = "VARIABLE_VALUE"


class EditedGraph(NamedTuple):
    """A changed graph, serialised, and {key in the old graph: key in the new one}.

    save_counter: key of the counter that a new root was given, or None.
    """

    data: bytes
    keys: dict[str, str]
    save_counter: str | None = None


def edit_graph(
    data: bytes,
    where: str,
    *,
    keep: Iterable[str],
    below: str | None = None,
    root: str | None = None,
) -> EditedGraph:
    """Return the graph with only the tensors `keep`, from node `below` on, under a new `root`.

    below: object path of the node that becomes the root.  root: edge from a new root, which is
    given a `save_counter` as tf.train.Checkpoint has one, to the old root.
    Raises UsageError for a path or a root that cannot be, FormatError.
    """
    graph = parse("TrackableObjectGraph", data, where)
    strip = ""
    if below is not None:
        graph = _part(graph, _find(graph, below, where))
        strip = f"{below.strip('/')}/"
    keys = _rename(graph, keep, strip, f"{root}/" if root else "")
    if root is None:
        return EditedGraph(graph.SerializeToString(deterministic=True), keys)
    return EditedGraph(_rooted(graph, root), keys, SAVE_COUNTER_KEY)


def graph_without(data: bytes, where: str, *, keep: Iterable[str]) -> bytes:
    """Return the graph with only the tensors `keep`, and without the objects that lose theirs.

    An object whose last tensor goes is taken out with every edge and slot that leads to it: where
    it stayed, TensorFlow would bind a live variable to it, give it no value, and
    `assert_existing_objects_matched` would pass.  All other objects stay, in their order.
    Raises FormatError.
    """
    before = parse("TrackableObjectGraph", data, where)
    graph = parse("TrackableObjectGraph", edit_graph(data, where, keep=keep).data, where)
    gone = {
        index
        for index, (old, new) in enumerate(zip(before.nodes, graph.nodes, strict=True))
        # One with objects of its own below it stays, since it leads to them.
        if old.attributes and not new.attributes and not new.children
    }
    numbers = {
        old: new for new, old in enumerate(i for i in range(len(graph.nodes)) if i not in gone)
    }
    thinned = message_class("TrackableObjectGraph")()
    for index in numbers:
        node = thinned.nodes.add()
        node.CopyFrom(graph.nodes[index])
        children = [_copy(child) for child in node.children if child.node_id not in gone]
        del node.children[:]
        node.children.extend(children)
        for child in node.children:
            child.node_id = numbers[child.node_id]
        _keep_slots(
            node,
            [
                slot
                for slot in node.slot_variables
                if gone.isdisjoint((slot.original_variable_node_id, slot.slot_variable_node_id))
            ],
        )
        for slot in node.slot_variables:
            slot.original_variable_node_id = numbers[slot.original_variable_node_id]
            slot.slot_variable_node_id = numbers[slot.slot_variable_node_id]
    serialised: bytes = thinned.SerializeToString(deterministic=True)
    return serialised


def check_root(root: str) -> None:
    """Raise UsageError unless `root` can be the name of an edge."""
    if not root or "/" in root or root.startswith(".") or root == "save_counter":
        raise UsageError(
            f"{root!r} cannot be the name of a root child", hint="a plain word, such as model"
        )


def _find(graph: Any, path: str, where: str) -> int:
    node = 0
    for step in path.strip("/").split("/"):
        edges = {child.local_name: child.node_id for child in graph.nodes[node].children}
        if step not in edges:
            known = ", ".join(sorted(edges)[:8]) or "nothing"
            raise UsageError(
                f"no object {path!r} in the graph", where=where, hint=f"at {step!r} it has {known}"
            )
        node = edges[step]
    return node


def _part(graph: Any, start: int) -> Any:
    """Return the nodes that `start` leads to, it first, renumbered."""
    order: dict[int, int] = {start: 0}
    queue = [start]
    for node in queue:
        for child in graph.nodes[node].children:
            if child.node_id not in order:
                order[child.node_id] = len(order)
                queue.append(child.node_id)
    part = message_class("TrackableObjectGraph")()
    for node in queue:
        copy = part.nodes.add()
        copy.CopyFrom(graph.nodes[node])
        for child in copy.children:
            child.node_id = order[child.node_id]
        _keep_slots(
            copy,
            [
                slot
                for slot in graph.nodes[node].slot_variables
                if slot.original_variable_node_id in order and slot.slot_variable_node_id in order
            ],
        )
        for slot in copy.slot_variables:
            slot.original_variable_node_id = order[slot.original_variable_node_id]
            slot.slot_variable_node_id = order[slot.slot_variable_node_id]
    return part


def _keep_slots(node: Any, slots: Iterable[Any]) -> None:
    kept = [_copy(slot) for slot in slots]
    del node.slot_variables[:]
    node.slot_variables.extend(kept)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _rename(graph: Any, keep: Iterable[str], strip: str, prefix: str) -> dict[str, str]:
    """Give every kept attribute its new key, drop the others; return {old key: new key}."""
    keep = set(keep)
    named = {attribute.checkpoint_key for node in graph.nodes for attribute in node.attributes}
    families = added_keys(keep, named)
    keys: dict[str, str] = {}
    empty: set[int] = set()
    for index, node in enumerate(graph.nodes):
        kept = [
            _copy(attribute)
            for attribute in node.attributes
            if attribute.checkpoint_key in keep or attribute.checkpoint_key in families
        ]
        if len(kept) != len(node.attributes):
            if not kept:
                empty.add(index)
            del node.attributes[:]
            node.attributes.extend(kept)
        for attribute in node.attributes:
            old = attribute.checkpoint_key
            attribute.checkpoint_key = new = prefix + old.removeprefix(strip)
            for key in families.get(old, [old]):
                keys[key] = new + key.removeprefix(old)
    for node in graph.nodes:
        if any(slot.slot_variable_node_id in empty for slot in node.slot_variables):
            slots = [s for s in node.slot_variables if s.slot_variable_node_id not in empty]
            _keep_slots(node, slots)
    return keys


def _rooted(graph: Any, root: str) -> bytes:
    """Return the graph under a new root, with every node one further on, and a save counter."""
    rooted = message_class("TrackableObjectGraph")()
    top = rooted.nodes.add()
    top.children.add(node_id=1, local_name=root)
    top.children.add(node_id=len(graph.nodes) + 1, local_name="save_counter")
    top.has_checkpoint_values.value = True
    for node in graph.nodes:
        copy = rooted.nodes.add()
        copy.CopyFrom(node)
        for child in copy.children:
            child.node_id += 1
        for slot in copy.slot_variables:
            slot.original_variable_node_id += 1
            slot.slot_variable_node_id += 1
    counter = rooted.nodes.add()
    counter.attributes.add(name=_VALUE, full_name="save_counter", checkpoint_key=SAVE_COUNTER_KEY)
    counter.has_checkpoint_values.value = True
    data: bytes = rooted.SerializeToString(deterministic=True)
    return data
