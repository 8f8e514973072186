"""The graph of a SavedModel or GraphDef file as plain values: ops, functions, who calls what.

Read for `verify` and `scan`; nothing is executed, and ops are names only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import dtype_of_enum
from ckptkit.errors import FormatError
from ckptkit.stores.proto.messages import (
    MAX_MESSAGE_BYTES,
    MAX_TEXT_BYTES,
    message_class,
    parse,
    parse_text,
)
from ckptkit.stores.proto.tensors import flaw_of

MAX_ATTRIBUTE_DEPTH = 100


class Op(NamedTuple):
    """One node.

    inputs: as written ("conv:0", "^init").  calls: functions that its attributes name.
    strings: what string constants among its attributes hold.  texts: attributes that are one
    string, by name (`shared_name`, `descriptor_source`).  device: where it is to run ("" for any).
    flaw: why a constant has no value ("" for one that has one, and for every other op).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    calls: tuple[str, ...]
    strings: tuple[bytes, ...]
    texts: Mapping[str, str]
    device: str = ""
    flaw: str = ""


class Function(NamedTuple):
    """One function of the library; `ret` are the tensors that it gives back, in order.

    is_plain: whether each argument and each result is one tensor, and not a list of them.
    """

    name: str
    args: tuple[str, ...]
    ops: tuple[Op, ...]
    ret: tuple[str, ...]
    calls: tuple[str, ...]
    is_plain: bool


class GraphSignature(NamedTuple):
    """One SignatureDef: key, names of input and output tensors, method name."""

    key: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    method_name: str


class Asset(NamedTuple):
    """One asset: the tensor that its path is fed to, and its file name below assets/."""

    tensor: str
    filename: str


class MetaGraph(NamedTuple):
    """One graph.  saver: filename, save and restore names of its SaverDef ("" where absent).

    init_ops: nodes that a loader runs.  initializers: nodes that fill variables.
    gradients: functions that are named as gradients.
    object_functions: functions that the object graph offers for calling; saveable_functions:
    those of them that save or restore an object, restore_functions those that restore one;
    creator_functions: those that make and fill a resource, which a loader runs.
    captures: per offered function what it captures, ("asset", file name) or ("unknown", "").
    metadata: texts of user objects.
    tensorflow_version: of the writer, "" where it does not say.  min_consumer: the oldest version
    of GraphDef readers that it is for.
    """

    tags: tuple[str, ...]
    ops: tuple[Op, ...]
    functions: tuple[Function, ...]
    saver: tuple[str, str, str]
    signatures: tuple[GraphSignature, ...]
    init_ops: tuple[str, ...]
    initializers: tuple[str, ...]
    assets: tuple[Asset, ...]
    gradients: tuple[str, ...]
    object_functions: tuple[str, ...]
    captures: Mapping[str, tuple[tuple[str, str], ...]]
    saveable_functions: tuple[str, ...]
    restore_functions: tuple[str, ...]
    creator_functions: tuple[str, ...]
    metadata: tuple[tuple[str, str], ...]
    tensorflow_version: str = ""
    min_consumer: int = 0


def read_graphs(path: Path) -> list[MetaGraph]:
    """Return the graphs in a saved_model.pb, saved_model.pbtxt, `.meta` or GraphDef file.

    A `.meta` file holds the MetaGraphDef that TensorFlow 1 writes beside a checkpoint, binary or as
    text; any other `.pb` or `.pbtxt` a GraphDef.
    Raises FormatError, TruncatedError, PathNotFoundError.
    """
    size = file_size(path)
    is_text = path.suffix == ".pbtxt"
    limit = MAX_TEXT_BYTES if is_text else MAX_MESSAGE_BYTES
    if size > limit:
        raise FormatError(str(path), "graph", expected=f"at most {limit} bytes", found=size)
    data = read_exact(path, 0, size)
    read = parse_text if is_text else parse
    where = str(path)
    if path.stem == "saved_model":
        graphs = read("SavedModel", data, where).meta_graphs
        if not graphs:
            raise FormatError(where, "holds no graph", hint="it is damaged or unfinished")
        return [_meta_graph(meta, meta.graph_def, where) for meta in graphs]
    if path.name.endswith(".meta"):
        meta = _either_form("MetaGraphDef", data, where)
        return [_meta_graph(meta, meta.graph_def, where)]
    graph = read("GraphDef", data, where)
    if not graph.node and not graph.library.function:
        raise FormatError(where, "holds no graph", hint="it is damaged or no GraphDef")
    return [_meta_graph(message_class("MetaGraphDef")(), graph, where)]


def _either_form(message: str, data: bytes, where: str) -> Any:
    """Return a message from its binary form, or else from its text, as TensorFlow 1 reads it."""
    try:
        return parse(message, data, where)
    except FormatError:
        if b"\0" in data or len(data) > MAX_TEXT_BYTES:
            raise
        return parse_text(message, data, where)


def _meta_graph(meta: Any, graph: Any, where: str) -> MetaGraph:
    objects = meta.object_graph_def
    saved, saveable, restoring = _object_functions(objects)
    return MetaGraph(
        tags=tuple(meta.meta_info_def.tags),
        ops=tuple(map(_op, graph.node)),
        functions=tuple(map(_function, graph.library.function)),
        saver=(
            meta.saver_def.filename_tensor_name,
            meta.saver_def.save_tensor_name,
            meta.saver_def.restore_op_name,
        ),
        signatures=tuple(
            GraphSignature(
                key,
                tuple(_tensor_names(signature.inputs)),
                tuple(_tensor_names(signature.outputs)),
                signature.method_name,
            )
            for key, signature in _entries(meta.signature_def)
        ),
        init_ops=tuple(_init_ops(meta)),
        initializers=tuple(_initializers(meta, where)),
        assets=_unique(
            Asset(item.tensor_info.name, item.filename) for item in asset_files(meta, where)
        ),
        gradients=tuple(item.gradient_func for item in graph.library.gradient),
        object_functions=saved,
        captures=_captures(objects, [asset.filename for asset in meta.asset_file_def]),
        saveable_functions=saveable,
        restore_functions=restoring,
        creator_functions=_creator_functions(objects),
        metadata=tuple(
            (node.user_object.identifier, node.user_object.metadata)
            for node in objects.nodes
            if node.HasField("user_object")
        ),
        tensorflow_version=meta.meta_info_def.tensorflow_version,
        min_consumer=graph.versions.min_consumer,
    )


def _entries(messages: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of a map by rising key: protobuf gives them in any order."""
    return sorted(messages.items(), key=lambda item: item[0])


def _op(node: Any) -> Op:
    calls: list[str] = []
    strings: list[bytes] = []
    texts: dict[str, str] = {}
    for key, value in _entries(node.attr):
        _attribute(value, calls, strings, 0)
        if value.HasField("s"):
            texts[key] = value.s.decode("utf-8", "backslashreplace")
    inputs = tuple(node.input)
    flaw = _flaw_of_constant(node) if node.op in _CONSTANTS else ""
    return Op(node.name, node.op, inputs, tuple(calls), tuple(strings), texts, node.device, flaw)


_CONSTANTS = ("Const", "HostConst")


def _flaw_of_constant(node: Any) -> str:
    """Return why TensorFlow makes no tensor of a constant, or "".

    Source: ConstantOp in tensorflow/core/kernels/constant_op.cc.
    """
    declared, tensor = node.attr["dtype"].type, node.attr["value"].tensor
    if declared and declared != tensor.dtype:
        of, given = dtype_of_enum(declared), dtype_of_enum(tensor.dtype)
        return f"it is to be {of}, and its value is {given}"
    return flaw_of(tensor)


def _attribute(value: Any, calls: list[str], strings: list[bytes], depth: int) -> None:
    """Collect the functions and strings of one attribute, those of its functions included."""
    kind = value.WhichOneof("value")
    tensors = (value.tensor,) if kind == "tensor" else value.list.tensor if kind == "list" else ()
    functions = (value.func,) if kind == "func" else value.list.func if kind == "list" else ()
    for tensor in tensors:
        strings.extend(tensor.string_val)
    for function in functions:
        calls.append(function.name)
        if depth < MAX_ATTRIBUTE_DEPTH:
            for _key, inner in _entries(function.attr):
                _attribute(inner, calls, strings, depth + 1)


def _function(message: Any) -> Function:
    calls: list[str] = []
    for _key, value in _entries(message.attr):
        _attribute(value, calls, [], 0)
    given = dict(_entries(message.ret))
    arguments = [*message.signature.input_arg, *message.signature.output_arg]
    ordered = [given.pop(result.name, "") for result in message.signature.output_arg]
    return Function(
        message.signature.name,
        tuple(argument.name for argument in message.signature.input_arg),
        tuple(map(_op, message.node_def)),
        (*(tensor for tensor in ordered if tensor), *given.values()),
        tuple(calls),
        is_plain=not given
        and all(ordered)
        and not any(item.number_attr or item.type_list_attr for item in arguments),
    )


def _tensor_names(infos: Any) -> Iterator[str]:
    for _key, info in _entries(infos):
        pending = [info]
        while pending:
            item = pending.pop()
            kind = item.WhichOneof("encoding")
            if kind == "name" and item.name:
                yield item.name
            elif kind == "coo_sparse":
                yield item.coo_sparse.values_tensor_name
                yield item.coo_sparse.indices_tensor_name
                yield item.coo_sparse.dense_shape_tensor_name
            elif kind == "composite_tensor":
                pending.extend(item.composite_tensor.components)


INIT_SIGNATURE = "__saved_model_init_op"  # names the op that a loader runs after restoring


def _init_ops(meta: Any) -> Iterator[str]:
    """Yield the nodes that a loader may run by itself, beside the saver's restore op.

    These are the main op, by collection or signature, and where there is none the initializers of
    tables and resources (tensorflow/python/saved_model/{loader_impl,load_v1_in_v2}.py).
    """
    for key, collection in _entries(meta.collection_def):
        if "init" in key or key in ("saved_model_main_op", "resources", "local_resources"):
            yield from collection.node_list.value
    if INIT_SIGNATURE in meta.signature_def:
        yield from _tensor_names(meta.signature_def[INIT_SIGNATURE].outputs)


def _initializers(meta: Any, where: str) -> Iterator[str]:
    """Yield the nodes that fill variables, of which a loader runs those of local ones."""
    for key, collection in _entries(meta.collection_def):
        if key.endswith("variables"):
            for item in collection.bytes_list.value:
                yield parse("VariableDef", item, where).initializer_name


def asset_files(meta: Any, where: str) -> Iterator[Any]:
    """Yield the AssetFileDefs of a MetaGraphDef, its own and those in a collection.

    TensorFlow 1 kept them in the latter alone (tensorflow/python/saved_model/constants.py,
    ASSETS_KEY), later versions write a graph of TensorFlow 1 with both.
    """
    yield from meta.asset_file_def
    for key, collection in _entries(meta.collection_def):
        if key == "saved_model_assets":
            for item in collection.any_list.value:
                yield parse("AssetFileDef", item.value, where)


def _unique(assets: Iterable[Asset]) -> tuple[Asset, ...]:
    return tuple(dict.fromkeys(assets))


def _function_names(node: Any) -> list[str]:
    """Return the names of the functions that a node of the object graph stands for."""
    names = list(node.function.concrete_functions)
    if node.HasField("bare_concrete_function"):
        names.append(node.bare_concrete_function.concrete_function_name)
    return names


def _object_functions(
    objects: Any,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the functions that the object graph offers, those that save or restore, the latter."""
    names = [_function_names(node) for node in objects.nodes]
    saveable: list[str] = []
    restoring: list[str] = []
    for node in objects.nodes:
        for _key, item in _entries(node.saveable_objects):
            for number in (item.save_function, item.restore_function):
                if 0 <= number < len(names):
                    saveable.extend(names[number])
            if 0 <= item.restore_function < len(names):
                restoring.extend(names[item.restore_function])
    offered = [name for group in names for name in group]
    offered.extend(key for key, _value in _entries(objects.concrete_functions))
    return tuple(dict.fromkeys(offered)), tuple(dict.fromkeys(saveable)), tuple(restoring)


# What a loader calls of a resource (tensorflow/python/trackable/resource.py), and of an object
# that is restored from tensors.
_RUN_BY_LOADERS = ("_create_resource", "_initialize", "_destroy_resource", "_restore_from_tensors")


def _creator_functions(objects: Any) -> tuple[str, ...]:
    """Return the functions that make, fill and remove resources: a loader calls them."""
    nodes = objects.nodes
    found = [
        name
        for node in nodes
        for child in node.children
        if child.local_name in _RUN_BY_LOADERS and 0 <= child.node_id < len(nodes)
        for name in _function_names(nodes[child.node_id])
    ]
    return tuple(dict.fromkeys(found))


def _captures(objects: Any, assets: list[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return what each function that the object graph offers captures, in order."""
    nodes = objects.nodes

    def capture(number: int) -> tuple[str, str]:
        if 0 <= number < len(nodes) and nodes[number].HasField("asset"):
            index = nodes[number].asset.asset_file_def_index
            if 0 <= index < len(assets):
                return "asset", assets[index]
        return "unknown", ""

    captures = {
        key: tuple(map(capture, value.bound_inputs))
        for key, value in _entries(objects.concrete_functions)
    }
    for node in nodes:
        if node.HasField("bare_concrete_function"):
            captures.setdefault(node.bare_concrete_function.concrete_function_name, ())
    return captures
