"""What the signatures of two SavedModels compute with, counted op by op.

Versions of TensorFlow and Keras write other ops for one model, so little can be said for certain:
only graphs of one version of TensorFlow are compared, and only an exchange of ops with one input
(Relu for Tanh), as many for as many, is a difference.  How a normalization is put together, or how
values are moved, follows from what saved the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ckptkit.operations.scan.flow import Flow
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.saved_model.graph import MetaGraph, read_graphs
from ckptkit.stores.saved_model.reader import SavedModel

_Ops = Counter[tuple[str, int]]  # of (op, inputs)

# Ops with one input that compute nothing: they move values, or read variables.
_PLUMBING = frozenset(
    (
        *("Const", "Identity", "NoOp", "Placeholder", "ReadVariableOp", "StopGradient", "Snapshot"),
        *("StatefulPartitionedCall", "PartitionedCall", "EnsureShape", "Cast", "Shape", "Squeeze"),
    )
)


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
        unary = all(inputs == 1 for _op, inputs in (*fewer, *more))
        if unary and fewer and fewer.total() == more.total():
            found.append(f"{key} computes with {_text(fewer)} → {_text(more)}")
    return found


def _text(ops: _Ops) -> str:
    names = [f"{op} ×{n}" if n > 1 else op for (op, _inputs), n in sorted(ops.items())]
    return "+".join(names[:3]) + ("+…" if len(names) > 3 else "")


def _ops(model: SavedModel) -> Iterator[dict[str, _Ops]]:
    """Yield, per graph of a SavedModel, the ops that each signature computes with."""
    for graph in read_graphs(model.path / MODEL_FILE):
        flow = Flow(graph)
        yield {
            signature.key: _counted(flow, graph, signature.outputs)
            for signature in graph.signatures
            if not signature.key.startswith("__saved_model")
        }


def _counted(flow: Flow, graph: MetaGraph, outputs: tuple[str, ...]) -> _Ops:
    reached = flow.reached(list(outputs), [])
    ops = (flow.scopes[scope][name] for scope, names in reached.items() for name in names)
    return Counter(
        (op.op, sum(not value.startswith("^") for value in op.inputs))
        for op in ops
        if op.op not in _PLUMBING
    )
