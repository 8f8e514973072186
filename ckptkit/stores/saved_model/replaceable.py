"""What a SavedModel holds beside its variables, for putting other values under the same graph.

The graph in `saved_model.pb` reads its variables by object, from `variables/`; those can be
replaced.  What it holds itself cannot: constants in its nodes (a vocabulary given as a list, a
captured array), tensors captured by functions, and files in `assets/`.
Sources: tensorflow/core/protobuf/{saved_object_graph,meta_graph,fingerprint}.proto,
tensorflow/core/framework/{graph,function,tensor}.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import dtype_of_enum, itemsize
from ckptkit.errors import FormatError
from ckptkit.stores.base import ObjectGraph, TensorSpec
from ckptkit.stores.constant_roles import LARGE_CONSTANT
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.saved_model.constants import const_nodes
from ckptkit.stores.saved_model.reader import SavedModel

FINGERPRINT = "fingerprint.pb"


class GraphConstant(NamedTuple):
    """A tensor that lies in the graph; captured: a function holds it as an object of the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    captured: bool = False


class ExpectedVariable(NamedTuple):
    """What the graph says of one variable; keys: of its tensors; captured: a function reads it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    keys: tuple[str, ...]
    captured: bool


def constants(model: SavedModel) -> list[GraphConstant]:
    """Return the constants that hold data: large ones, and all that functions capture as objects.

    Reads the whole of saved_model.pb.
    """
    found: dict[str, GraphConstant] = {}
    for name, tensor, captured in const_nodes(model):
        constant = _constant(name, tensor, captured)
        if constant.nbytes >= LARGE_CONSTANT or (constant.captured and not _trivial(constant)):
            found.setdefault(constant.name, constant)
    return sorted(found.values(), key=lambda constant: (-constant.nbytes, constant.name))


def variables(model: SavedModel) -> Iterator[ExpectedVariable]:
    """Yield what the graph says of each variable that has values in the bundle.

    The two object graphs of a SavedModel, in saved_model.pb and in the bundle, number their nodes
    alike; where they do not, nothing is yielded.
    """
    graph = model.structure
    if not isinstance(graph, ObjectGraph):
        return
    for meta in _graphs(model):
        nodes = meta.object_graph_def.nodes
        if len(nodes) < len(graph.nodes):
            continue
        captured = Counter(
            index
            for function in meta.object_graph_def.concrete_functions.values()
            for index in function.bound_inputs
        )
        for index, node in enumerate(graph.nodes):
            saved = nodes[index]
            if not saved.HasField("variable") or saved.variable.shape.unknown_rank:
                continue
            keys = tuple(key for name, _, key in node.attributes if name == "VARIABLE_VALUE")
            if keys:
                yield ExpectedVariable(
                    saved.variable.name,
                    dtype_of_enum(saved.variable.dtype),
                    tuple(dim.size for dim in saved.variable.shape.dim),
                    keys,
                    captured[index] > 0,
                )


def disagreement(expected: ExpectedVariable, spec: TensorSpec) -> str | None:
    """Return how a stored tensor differs from what the graph says of its variable."""
    fits = len(expected.shape) == len(spec.shape) and all(
        size in (-1, stored) for size, stored in zip(expected.shape, spec.shape, strict=True)
    )
    if expected.dtype == spec.dtype and fits:
        return None
    return f"{expected.dtype} {expected.shape} in the graph, {spec.dtype} {spec.shape} stored"


def tables(model: SavedModel) -> int:
    """Return how many lookup tables and other resources the model makes when it is loaded."""
    return sum(
        node.HasField("resource") for meta in _graphs(model) for node in meta.object_graph_def.nodes
    )


def list_members(model: SavedModel) -> list[str]:
    """Return the keys of variables that only lists and optimizers lead to.

    Keras 3 shows tf.train.Checkpoint no plain lists, tuples and dicts of layers, so restoring into
    a live model passes these variables by; a SavedModel does record them.
    """
    graph = model.structure
    if not isinstance(graph, ObjectGraph):
        return []
    meta = next(_graphs(model))
    saved = meta.object_graph_def.nodes
    if len(saved) < len(graph.nodes) or not _is_keras3(graph):
        return []
    seen, queue = {0}, [0]
    for node in queue:
        for edge, child in graph.nodes[node].children:
            hidden = _is_wrapper(saved[child]) and edge not in _TRACKED_LISTS
            if child not in seen and not hidden and edge != "optimizer":
                seen.add(child)
                queue.append(child)
    held = {
        key
        for index, node in enumerate(graph.nodes)
        if index not in seen and saved[index].HasField("variable")
        for name, _, key in node.attributes
        if name == "VARIABLE_VALUE"
    }
    return sorted(held)


# Lists that Keras 3 itself shows to tf.train.Checkpoint.
_TRACKED_LISTS = frozenset({"_operations", "_tracked", "_layers", "layers"})


def _is_keras3(graph: ObjectGraph) -> bool:
    edges = {edge for node in graph.nodes for edge, _ in node.children}
    return "_inbound_nodes" in edges and "keras_api" not in edges


def _is_wrapper(node: Any) -> bool:
    kind = node.user_object.identifier if node.HasField("user_object") else ""
    return kind in ("trackable_list_wrapper", "trackable_dict_wrapper", "trackable_tuple_wrapper")


def renewed_fingerprint(path: Path) -> bytes | None:
    """Return fingerprint.pb without what it says of the variables; None where there is none.

    `checkpoint_hash` is of the old values, and `uuid` names the SavedModel that they made.
    """
    if not path.is_file():
        return None
    try:
        message = parse("FingerprintDef", read_exact(path, 0, file_size(path)), str(path))
    except FormatError:
        return None
    message.ClearField("checkpoint_hash")
    message.ClearField("uuid")
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _graphs(model: SavedModel) -> Iterator[Any]:
    yield from model._message.meta_graphs


def _constant(name: str, tensor: Any, captured: bool) -> GraphConstant:
    dtype = dtype_of_enum(tensor.dtype)
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = 1
    for axis in shape:
        size *= axis
    # a string's bytes are counted as stored; of numbers one value may stand for all
    nbytes = size * itemsize(dtype) if itemsize(dtype) else tensor.ByteSize()
    return GraphConstant(name, dtype, shape, nbytes, captured)


def _trivial(constant: GraphConstant) -> bool:
    """Whether a captured constant is one number of bookkeeping: a default, an axis."""
    return constant.shape == () and constant.dtype not in ("float32", "float64")
