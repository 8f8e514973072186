"""What the signatures of two SavedModels compute with, counted op by op.

Versions of TensorFlow write other ops for one model, so only graphs of one version are compared.
What moves values, reads variables or makes shapes does not count: it follows from how a model was
saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ckptkit.operations.scan.flow import Flow
from ckptkit.stores.saved_model.graph import MetaGraph, read_graphs
from ckptkit.stores.saved_model.reader import MODEL_FILE, SavedModel

# Ops of plumbing, by their names or the beginnings of their names.
_PLUMBING = (
    *("Const", "Identity", "NoOp", "Placeholder", "StatefulPartitionedCall", "PartitionedCall"),
    *("ReadVariableOp", "VarHandleOp", "VariableV2", "Variable", "VarIsInitializedOp", "Assign"),
    *("Cast", "Shape", "StridedSlice", "Pack", "Unpack", "Fill", "ExpandDims", "Range", "Prod"),
    *("Reshape", "Squeeze", "StopGradient", "Snapshot", "EnsureShape", "Assert", "CheckNumerics"),
    *("Save", "Restore", "Merge", "Sharded", "HashTable", "MutableHashTable", "LookupTableImport"),
    *("InitializeTable", "BroadcastTo", "BroadcastArgs", "ConcatV2", "GatherV2", "StringJoin"),
    *("AddV2", "Add", "Mul", "Sub", "Maximum", "Minimum", "Greater", "Less", "Equal", "Select"),
)
_EXACT = frozenset(_PLUMBING)


def op_differences(old: SavedModel, new: SavedModel) -> list[str]:
    """Return a sentence per signature of both whose graph has other ops."""
    if old.producer is None or old.producer != new.producer:
        return []
    sides = [list(_ops(model)) for model in (old, new)]
    if len(sides[0]) != 1 or len(sides[1]) != 1:
        return []
    (left,), (right,) = sides
    found = []
    for key in sorted(set(left) & set(right)):
        fewer, more = left[key] - right[key], right[key] - left[key]
        if fewer or more:
            found.append(f"{key} computes with {_text(fewer)} → {_text(more)}")
    return found


def _text(ops: Mapping[str, int]) -> str:
    names = [f"{name} ×{count}" if count > 1 else name for name, count in sorted(ops.items())]
    return "+".join(names[:3]) + ("+…" if len(names) > 3 else "") if names else "nothing"


def _ops(model: SavedModel) -> Iterator[dict[str, Counter[str]]]:
    """Yield, per graph of a SavedModel, the ops that each signature computes with."""
    for graph in read_graphs(model.path / MODEL_FILE):
        flow = Flow(graph)
        yield {
            signature.key: _counted(flow, graph, signature.outputs)
            for signature in graph.signatures
            if not signature.key.startswith("__saved_model")
        }


def _counted(flow: Flow, graph: MetaGraph, outputs: tuple[str, ...]) -> Counter[str]:
    reached = flow.reached(list(outputs), [])
    return Counter(
        kind
        for scope, names in reached.items()
        for name in names
        if (kind := flow.scopes[scope][name].op) not in _EXACT
    )
