"""The graph below a concrete function: all calls inlined, any tensor of it to be had.

A ConcreteFunction of a SavedModel is one call of an inner function.  TensorFlow's own inliner gives
the flat graph; a part of it, imported with the captured handles, computes what the whole does.
Freezing the variables first would not: constants are folded, and bits change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.types import owned_name

# Ops that move or shape values, or are no computation at all.
_PLUMBING = frozenset(
    {
        *("Placeholder", "Const", "Identity", "IdentityN", "NoOp", "ReadVariableOp", "VarHandleOp"),
        *("Shape", "StridedSlice", "Pack", "Unpack", "Reshape", "ExpandDims", "Squeeze", "Cast"),
        *("Assert", "StopGradient", "Fill", "Range", "Size", "Rank", "ConcatV2", "GatherNd"),
        *("_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "_DeviceArg"),
        *("_DeviceRetval", "_EagerConst", "PlaceholderWithDefault", "Enter", "Exit", "Switch"),
        *("Merge", "NextIteration", "LoopCond", "ControlTrigger"),
    }
)
_VALUES = frozenset(
    {"float16", "bfloat16", "float32", "float64", "int32", "int64", "int8", "uint8"}
)
_HANDS_ON = frozenset({"Identity", "IdentityN", "StopGradient"})  # a custom gradient's last op
Owner = Callable[["FlatGraph", Mapping[str, Any], str], str]
_BODIES = ("body", "then_branch", "branches")  # attributes of loops and branches: their functions
_CALLS = ("StatefulPartitionedCall/", "PartitionedCall/")


def count(nodes: Iterator[Any]) -> dict[str, int]:
    """Return {"ops": computing nodes, "heavy": those that multiply matrices or convolve}."""
    ops = Counter(node.op for node in nodes)
    return {
        "ops": sum(number for op, number in ops.items() if op not in _PLUMBING),
        "heavy": sum(number for op, number in ops.items() if is_heavy(op)),
    }


@dataclass(frozen=True)
class GraphPoint:
    """A value inside of a graph; name: as reported, tensor: in the graph."""

    name: str
    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """The graph of a concrete function; inlined: whether the calls in it are resolved."""

    function: Any
    inlined: bool = True

    @cached_property
    def graph(self) -> Any:
        """The GraphDef; control flow stays as it is."""
        if not self.inlined:
            return self.function.graph.as_graph_def()
        from tensorflow.python.framework import convert_to_constants

        try:
            return convert_to_constants._run_inline_graph_optimization(self.function, False, True)
        except ValueError:  # graphs of TensorFlow 1 may not be optimised so; they call nothing
            return self.function.graph.as_graph_def()

    @cached_property
    def captured(self) -> dict[str, Any]:
        """{placeholder: the handle or value that the function captured for it}."""
        inner = self.function.graph.internal_captures
        outer = self.function.captured_inputs
        return {a.op.name: b for a, b in zip(inner, outer, strict=True)}

    @property
    def inputs(self) -> list[str]:
        """Names of the placeholders of the flat inputs, in their order."""
        captured = self.captured
        names = [tensor.op.name for tensor in self.function.graph.inputs]
        return [name for name in names if name not in captured]

    @property
    def results(self) -> list[str]:
        """Names of the tensors that the function returns, in flat order."""
        return [tensor.name for tensor in self.function.graph.outputs]

    def fetch(self, inputs: Sequence[Any], tensors: Sequence[str], *, xla: bool = False) -> Any:
        """Return the values of these tensors, computed by the part of the graph that they need."""
        tf = tensorflow()
        wanted = {name.partition(":")[0] for name in tensors}
        part = needed_part(self.graph, wanted)
        nodes = {node.name for node in part.node}
        fed_in = {*self.inputs, *self.captured} - wanted  # XLA would compile their placeholders
        without_nodes(part, fed_in)
        handles = {name: value for name, value in self.captured.items() if name in nodes}

        def body(*arguments: Any) -> Any:
            inside = tf.compat.v1.get_default_graph()
            fed = dict(zip(self.inputs, arguments, strict=True))
            fed |= {name: inside.capture(value) for name, value in handles.items()}
            used = {f"{name}:0": value for name, value in fed.items() if name in nodes}
            return tf.graph_util.import_graph_def(
                part, input_map=used, return_elements=list(tensors), name=""
            )

        return tf.function(body, jit_compile=xla, autograph=False)(*inputs)

    def points(self, owner_of: Owner | None = None) -> list[GraphPoint]:
        """Return values worth looking at, in the order of computation: see `points_of`.

        Args:
            owner_of: tells the path of the object that an op belongs to, "" of none.
        """
        tf = tensorflow()
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(self.graph, name="")
        nodes = {node.name: node for node in self.graph.node}
        owners = {name: owner_of(self, nodes, name) for name in nodes} if owner_of else {}
        return points_of(self.graph, graph.get_operations(), owners)


def points_of(
    graph: Any, operations: Iterable[Any], owners: Mapping[str, str] | None = None
) -> list[GraphPoint]:
    """Return values of a graph that are worth looking at, in the order of computation.

    Those are what leaves a name scope (a layer, as a rule) or the object whose method computes it,
    and every matrix product, convolution, normalisation, softmax and lookup.

    graph: a GraphDef.  operations: the tf.Operations that it becomes, or some of them.  owners:
    paths of the objects that ops belong to; a value is then called by both.
    """
    users, owned = _users(graph), owners or {}

    def scope_of(name: str) -> tuple[str, str]:
        return owned.get(name, ""), _scope(name)

    points: dict[str, GraphPoint] = {}
    for operation in operations:
        if operation.type in _PLUMBING or not operation.outputs:
            continue
        if not _is_point(operation, users, scope_of):
            continue
        owner = owned.get(operation.name, "")
        for value in _values_of(operation, graph):
            end = f":{value.value_index}" if value.value_index else ""
            name = owned_name(owner, f"{readable(operation.name)}{end}")
            name = name if name not in points else owned_name(owner, f"{operation.name}{end}")
            shape = None if value.shape.rank is None else tuple(value.shape.as_list())
            points[name] = GraphPoint(name, value.name, value.dtype.name, shape)
    return list(points.values())


def _values_of(operation: Any, graph: Any) -> list[Any]:
    """Return what an op gives that is a value: of a loop or a branch all that is read."""
    outputs = operation.outputs[:1]
    if any(name in operation.node_def.attr for name in _BODIES):
        sources = (source.partition(":") for node in graph.node for source in node.input)
        read = {int(place or 0) for name, _, place in sources if name == operation.name}
        outputs = [value for value in operation.outputs if value.value_index in read]
    return [value for value in outputs if value.dtype.name in _VALUES]


def _users(graph: Any) -> dict[str, list[str]]:
    """Return {node: those that read it}, also through what only hands a value on."""
    nodes = {node.name: node for node in graph.node}
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            source, _, place = name.lstrip("^").partition(":")
            users.setdefault(source, []).append(node.name)
            while nodes[source].op in _HANDS_ON and int(place or 0) < len(nodes[source].input):
                source, _, place = nodes[source].input[int(place or 0)].partition(":")
                users.setdefault(source, []).append(node.name)
    return users


def _is_point(
    operation: Any,
    users: Mapping[str, Sequence[str]],
    scope_of: Callable[[str], tuple[str, str]],
) -> bool:
    kind = operation.type
    if is_heavy(kind) or "Norm" in kind or "Softmax" in kind or "LookupTableFind" in kind:
        return True
    scope = scope_of(operation.name)
    readers = users.get(operation.name, ())
    return any(scope_of(reader) != scope for reader in readers) or (not scope[1] and bool(readers))


def needed_part(graph: Any, wanted: Iterable[str], given: Set[str] = frozenset()) -> Any:
    """Return a GraphDef of the nodes that the wanted ones need, control inputs too.

    given: nodes whose own inputs are not needed.
    """
    nodes = {node.name: node for node in graph.node}
    needed, waiting = set(), list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name in given:
                continue
            waiting += [source.lstrip("^").partition(":")[0] for source in nodes[name].input]
    part = type(graph)(versions=graph.versions, library=graph.library)
    part.node.extend(node for node in graph.node if node.name in needed)
    return part


def without_nodes(graph: Any, names: Set[str]) -> None:
    """Take nodes out of a GraphDef, and the wishes of others to be colocated with them."""
    nodes = [node for node in graph.node if node.name not in names]
    for node in nodes:
        classes = node.attr["_class"].list.s if "_class" in node.attr else []
        if any(item.removeprefix(b"loc:@").decode() in names for item in classes):
            del node.attr["_class"]
    del graph.node[:]
    graph.node.extend(nodes)


def readable(name: str) -> str:
    """Return a node's name without the calls that it was inlined from."""
    for call in _CALLS:
        while name.startswith(call) or f"/{call}" in name:
            name = name[len(call) :] if name.startswith(call) else name.replace(f"/{call}", "/", 1)
    return name


def _scope(name: str) -> str:
    return readable(name).rpartition("/")[0]
