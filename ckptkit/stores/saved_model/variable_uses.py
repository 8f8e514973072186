"""How the functions of a SavedModel use its variables: the names of the ops that take each.

Keras 3 exports variables as plain lists; a subclassed model's are often all called alike
(`net/kernel`).  The ops that read them lie in the name scopes of the layers' calls
(`net_1/block_0_1/Cast/ReadVariableOp`), so the graph tells whose they are.  A function's arguments
end with what it captures, in the order of `bound_inputs`.
Sources: tensorflow/core/protobuf/saved_object_graph.proto,
tensorflow/core/framework/function.proto.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckptkit.stores.base import VariableUse
from ckptkit.stores.proto.messages import parse

_SAVING = ("__inference__traced_save", "__inference__traced_restore")


def variable_uses(message: Any, path: Path) -> Mapping[int, VariableUse]:
    """Return {node of the object graph: use} for every variable.

    message: the RawSavedModel.  path: of its file, for messages.

    Raises FormatError for a graph that does not parse.
    """
    uses: dict[int, VariableUse] = {}
    for meta in message.meta_graphs:
        objects = meta.object_graph_def
        ops: dict[int, list[str]] = defaultdict(list)
        functions = {
            function.signature.name: function
            for function in parse("GraphDef", meta.graph_def, str(path)).library.function
            if not function.signature.name.startswith(_SAVING)
        }
        for name, concrete in objects.concrete_functions.items():
            if name in functions:
                for node, op in _captured(functions[name], list(concrete.bound_inputs)):
                    ops[node].append(op)
        for index, node in enumerate(objects.nodes):
            if node.HasField("variable"):
                names = tuple(dict.fromkeys(ops[index]))
                uses.setdefault(index, VariableUse(node.variable.trainable, names))
    return uses


def _captured(function: Any, captured: list[int]) -> Iterator[tuple[int, str]]:
    """Yield (node of the object graph, name of an op) for what a function captures."""
    arguments = [argument.name for argument in function.signature.input_arg]
    if not captured or len(captured) > len(arguments):
        return
    node_of = dict(zip(arguments[-len(captured) :], captured, strict=True))
    for op in function.node_def:
        for taken in op.input:
            node = node_of.get(taken)
            if node is not None:
                yield node, op.name
