"""The object graph of a TF2 checkpoint, parsed into plain values."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

from ckptkit.errors import FormatError
from ckptkit.stores.base import Node, ObjectGraph
from ckptkit.stores.proto import wire
from ckptkit.stores.proto.messages import parse

_KEPT = 400_000  # nodes of a graph, 300 bytes each


class PackedNodes(Sequence[Node]):
    """The nodes of a graph, kept as the bytes that they were read from.

    A node of a large graph is parsed when it is asked for.  Whoever goes over all of them once does
    so by `access` or in a loop; all are kept from the first that is asked for by its number.
    edge_names: of all edges.
    """

    def __init__(self, data: bytes, where: str) -> None:
        raws = wire.split_nodes(data)
        self._where = where
        self._edges: dict[bytes, str] = {}
        if raws is None:
            self._data, self._bounds = _joined(parse("RawTrackableObjectGraph", data, where).nodes)
        else:
            self._data, self._bounds = data, raws
        self.edge_names = self._checked()

    def access(self) -> Callable[[int], Node]:
        """Return what gives a node by its number, for whoever asks for each but once."""
        return self._all.__getitem__ if self._is_kept() else self._parsed

    def _is_kept(self) -> bool:
        return len(self) <= _KEPT or "_all" in self.__dict__

    def _parsed(self, index: int) -> Node:
        return _node(self._raw(index), self._edges, self._where)

    def _raw(self, index: int) -> bytes:
        return self._data[self._bounds[2 * index] : self._bounds[2 * index + 1]]

    @cached_property
    def _all(self) -> tuple[Node, ...]:
        data, edges, where = self._data, self._edges, self._where
        bounds = zip(self._bounds[::2], self._bounds[1::2], strict=True)
        return tuple([_node(data[start:end], edges, where) for start, end in bounds])

    def __len__(self) -> int:
        return len(self._bounds) // 2

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Node, ...]: ...
    def __getitem__(self, index: int | slice) -> Node | tuple[Node, ...]:
        return self._all[index]

    def __iter__(self) -> Iterator[Node]:
        if self._is_kept():
            return iter(self._all)
        return map(self._parsed, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def _checked(self) -> frozenset[str]:
        """Return the names of edges; raise FormatError for a reference that leads nowhere."""
        count = len(self)
        names: set[str] = set()
        for index, node in enumerate(self):
            if node.children or node.slots:
                _check_node(index, node, count, self._where)
                names.update([edge for edge, _child in node.children])
        return frozenset(names)


def parse_object_graph(data: bytes, where: str) -> ObjectGraph:
    """Return the graph held in a serialised TrackableObjectGraph.

    Raises FormatError for bytes that do not parse, and for references to nodes that do not exist.
    Source: tensorflow/core/protobuf/trackable_object_graph.proto.
    """
    return ObjectGraph(PackedNodes(data, where))


def _joined(raws: Sequence[bytes]) -> tuple[bytes, array[int]]:
    """Return nodes behind one another, and where each begins and ends."""
    bounds = array("I")  # which bytes of a message fit
    end = 0
    for raw in raws:
        bounds.extend((end, end + len(raw)))
        end += len(raw)
    return b"".join(raws), bounds


def _node(raw: bytes, edges: dict[bytes, str], where: str) -> Node:
    """Return a node, by the fastest way that its bytes allow."""
    attribute = wire.leaf(raw)
    if attribute is not None:
        return Node((), (attribute,), ())
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


def _check_node(index: int, node: Node, count: int, where: str) -> None:
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
