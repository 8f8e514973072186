"""The constants of a SavedModel's graph as values: what restoring variables cannot change.

Source: tensorflow/core/framework/graph.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.dtypes import dtype_of_enum, itemsize
from ckptkit.errors import UnsupportedError
from ckptkit.stores.base import shaped
from ckptkit.stores.constant_roles import LARGE_CONSTANT
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.proto.tensors import numbers_of, text_of
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.saved_model.frozen import constants_of
from ckptkit.stores.saved_model.reader import SavedModel

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

MAX_CONSTANT = 1 << 28  # bytes of one; a graph is at most 2 GiB, and zeros may stand for more
_TABLE_FILLERS = (
    "InitializeTable",
    "InitializeTableV2",
    "LookupTableImport",
    "LookupTableImportV2",
)
_PASSING_ON = ("Identity", "Cast")


class ConstantValue(NamedTuple):
    """One constant.

    values: in its shape; text as an array of bytes objects.  captured: a function holds it as an
    object of the model.  large: it is data, not a shape, an axis or an epsilon.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Array
    captured: bool
    large: bool


def constant_values(model: SavedModel) -> Iterator[ConstantValue]:
    """Yield the constants that compute something: large or captured ones, and single floats.

    Those that only saving and restoring uses are left out, and those of dtypes that cannot be read.
    """
    for name, tensor, captured in const_nodes(model):
        value = _value(name, tensor, captured)
        if value is not None:
            yield value


def const_nodes(model: SavedModel) -> Iterator[tuple[str, Any, bool]]:
    """Yield (name, TensorProto, captured) of every Const of the graphs and of their functions.

    captured: a function holds it as an object of the model.  Those that only saving and restoring
    uses are left out.  Reads the whole of saved_model.pb.
    """
    for meta in model._message.meta_graphs:
        graph = parse("GraphDef", meta.graph_def, str(model.path / MODEL_FILE))
        objects = meta.object_graph_def.nodes
        captured = {node.constant.operation for node in objects if node.HasField("constant")} | {
            node.captured_tensor.name.partition(":")[0]
            for node in objects
            if node.HasField("captured_tensor")
        }
        for _function, name, tensor in constants_of(graph):
            yield name, tensor, name in captured


def table_constants(model: SavedModel) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (name, words as text) of the constants that lookup tables are filled with.

    TensorFlow 2 captures them as objects of the model; TensorFlow 1 leads them to the op that fills
    the table.  Numbers that only count (what a table maps its words to) are left out.
    Reads the whole of saved_model.pb.
    """
    for meta in model._message.meta_graphs:
        graph = parse("GraphDef", meta.graph_def, str(model.path / MODEL_FILE))
        nodes = {node.name: node for node in graph.node}
        wanted = dict.fromkeys(
            node.constant.operation
            for node in meta.object_graph_def.nodes
            if node.HasField("constant")
        )
        for node in graph.node:
            if node.op in _TABLE_FILLERS:
                wanted.update(dict.fromkeys(_sources(node.input[1:], nodes)))
        for name in wanted:
            if name in nodes and nodes[name].op == "Const":
                words = _words(nodes[name].attr["value"].tensor)
                if words:
                    yield name, words


def filling_constants(model: SavedModel) -> dict[int, list[bytes]]:
    """Return the words that each table of a SavedModel of TensorFlow 2 is filled with.

    A table's `_initialize` function captures what it fills it with.  Reads saved_model.pb.

    Args:
        model: the SavedModel.

    Returns:
        {the table's node in the object graph: words as text}.
    """
    found: dict[int, list[bytes]] = {}
    for meta in model._message.meta_graphs:
        objects, functions = meta.object_graph_def.nodes, meta.object_graph_def.concrete_functions
        words = dict(table_constants(model))
        for index, node in enumerate(objects):
            children = {child.local_name: child.node_id for child in node.children}
            start = children.get("_initialize")
            if start is None or not objects[start].HasField("function"):
                continue
            captured = [
                objects[place].constant.operation
                for name in objects[start].function.concrete_functions
                for place in functions[name].bound_inputs
                if objects[place].HasField("constant")
            ]
            filled = [words[name] for name in dict.fromkeys(captured) if name in words]
            if len(filled) == 1:
                found[index] = filled[0]
    return found


def _sources(inputs: Iterable[str], nodes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ops whose values some tensors are, behind those that pass a value on."""
    for tensor in inputs:
        name = tensor.partition(":")[0]
        seen = {name}
        while name in nodes and nodes[name].op in _PASSING_ON and nodes[name].input:
            name = nodes[name].input[0].partition(":")[0]
            if name in seen:
                break
            seen.add(name)
        yield name


def _words(tensor: Any) -> list[bytes]:
    """Return the elements of a list of words or numbers as text; [] for anything else."""
    dtype = dtype_of_enum(tensor.dtype)
    size = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if len(tensor.tensor_shape.dim) != 1 or not 0 < size * 8 <= MAX_CONSTANT:
        return []
    if dtype == "string":
        return list(text_of(tensor, size)) if tensor.string_val else []
    if dtype not in ("int64", "int32"):
        return []
    values = numbers_of(tensor, dtype, size)
    if values is None or (values[1:] - values[:-1] == 1).all():
        return []
    return [str(value).encode() for value in values.tolist()]


def _value(name: str, tensor: Any, captured: bool) -> ConstantValue | None:
    dtype = dtype_of_enum(tensor.dtype)
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if any(axis < 0 for axis in shape) or size * max(itemsize(dtype), 8) > MAX_CONSTANT:
        return None
    text = dtype == "string"
    if text and size and not tensor.string_val:
        return None
    nbytes = tensor.ByteSize() if text else size * itemsize(dtype)
    large = nbytes >= LARGE_CONSTANT
    single = size == 1 and dtype in ("float16", "bfloat16", "float32", "float64")
    trivial = shape == () and not single
    if not (large or single or (captured and not trivial)):
        return None
    values = text_of(tensor, size) if text else numbers_of(tensor, dtype, size)
    if values is None:
        return None
    try:
        array = shaped(values, shape, name)
    except UnsupportedError:  # empty, and of a shape that no array has
        return None
    return ConstantValue(name, dtype, shape, array, captured, large)
