"""The graph of a SavedModel or GraphDef file as plain values: ops, functions, who calls what.

Read for `verify` and `scan`; nothing is executed, and ops are names only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError
from ckptkit.stores.proto.messages import MAX_MESSAGE_BYTES
from ckptkit.stores.proto.text_format import MAX_TEXT_BYTES, from_text
from ckptkit.stores.proto.wire import Tree, from_binary, text_of, texts_of, tree_of

MAX_ATTRIBUTE_DEPTH = 100


class Op(NamedTuple):
    """One node.

    inputs: as written ("conv:0", "^init").  calls: functions that its attributes name.
    strings: what string constants among its attributes hold.  texts: attributes that are one
    string, by name (`shared_name`, `descriptor_source`).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    calls: tuple[str, ...]
    strings: tuple[bytes, ...]
    texts: Mapping[str, str]


class Function(NamedTuple):
    """One function of the library; `ret` are the tensors that it gives back."""

    name: str
    args: tuple[str, ...]
    ops: tuple[Op, ...]
    ret: tuple[str, ...]
    calls: tuple[str, ...]


class Signature(NamedTuple):
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

    init_ops: nodes that a loader runs.  gradients: functions that are named as gradients.
    object_functions: functions that the object graph offers for calling; saveable_functions:
    those of them that save or restore an object.  captures: per offered function what it captures,
    ("asset", file name) or ("unknown", "").  metadata: texts of user objects.
    """

    tags: tuple[str, ...]
    ops: tuple[Op, ...]
    functions: tuple[Function, ...]
    saver: tuple[str, str, str]
    signatures: tuple[Signature, ...]
    init_ops: tuple[str, ...]
    assets: tuple[Asset, ...]
    gradients: tuple[str, ...]
    object_functions: tuple[str, ...]
    captures: Mapping[str, tuple[tuple[str, str], ...]]
    saveable_functions: tuple[str, ...]
    metadata: tuple[tuple[str, str], ...]


def read_graphs(path: Path) -> list[MetaGraph]:
    """Return the graphs in a saved_model.pb, saved_model.pbtxt, or GraphDef (`.pb`, `.pbtxt`).

    Raises FormatError, TruncatedError, PathNotFoundError.
    """
    size = file_size(path)
    is_text = path.suffix == ".pbtxt"
    limit = MAX_TEXT_BYTES if is_text else MAX_MESSAGE_BYTES
    if size > limit:
        raise FormatError(str(path), "graph", expected=f"at most {limit} bytes", found=size)
    data = read_exact(path, 0, size)
    parse = from_text if is_text else from_binary
    if path.stem == "saved_model":
        graphs = parse("SavedModel", data, str(path)).get("meta_graphs", [])
        if not graphs:
            raise FormatError(str(path), "holds no graph", hint="it is damaged or unfinished")
        return [_meta_graph(graph, str(path)) for graph in graphs]
    graph = parse("GraphDef", data, str(path))
    if not graph:
        raise FormatError(str(path), "holds no graph", hint="it is damaged or no GraphDef")
    return [_meta_graph({"graph_def": [graph]}, str(path))]


def _meta_graph(tree: Tree, where: str) -> MetaGraph:
    graph, saver = tree_of(tree, "graph_def"), tree_of(tree, "saver_def")
    library, objects = tree_of(graph, "library"), tree_of(tree, "object_graph_def")
    collections = _entries(tree, "collection_def")
    saved, saveable = _object_functions(objects)
    return MetaGraph(
        tags=tuple(texts_of(tree_of(tree, "meta_info_def"), "tags")),
        ops=tuple(_op(node) for node in graph.get("node", ())),
        functions=tuple(_function(item) for item in library.get("function", ())),
        saver=(
            text_of(saver, "filename_tensor_name"),
            text_of(saver, "save_tensor_name"),
            text_of(saver, "restore_op_name"),
        ),
        signatures=tuple(
            Signature(
                key,
                tuple(_tensor_names(value, "inputs")),
                tuple(_tensor_names(value, "outputs")),
                text_of(value, "method_name"),
            )
            for key, value in _entries(tree, "signature_def")
        ),
        init_ops=tuple(_init_ops(collections)),
        assets=_unique(
            Asset(text_of(tree_of(item, "tensor_info"), "name"), text_of(item, "filename"))
            for item in [*tree.get("asset_file_def", ()), *_collected_assets(collections, where)]
        ),
        gradients=tuple(text_of(item, "gradient_func") for item in library.get("gradient", ())),
        object_functions=saved,
        captures=_captures(
            objects, [text_of(a, "filename") for a in tree.get("asset_file_def", ())]
        ),
        saveable_functions=saveable,
        metadata=tuple(
            (text_of(user, "identifier"), text_of(user, "metadata"))
            for node in objects.get("nodes", ())
            for user in node.get("user_object", ())
        ),
    )


def _entries(tree: Tree, name: str) -> list[tuple[str, Tree]]:
    """Return the pairs of a map of messages; of a key that occurs twice, all."""
    return [(text_of(item, "key"), tree_of(item, "value")) for item in tree.get(name, ())]


def _op(node: Tree) -> Op:
    calls: list[str] = []
    strings: list[bytes] = []
    texts: dict[str, str] = {}
    for key, value in _entries(node, "attr"):
        _attribute(value, calls, strings, 0)
        if "s" in value:
            texts[key] = text_of(value, "s")
    return Op(
        text_of(node, "name"),
        text_of(node, "op"),
        tuple(texts_of(node, "input")),
        tuple(calls),
        tuple(strings),
        texts,
    )


def _attribute(value: Tree, calls: list[str], strings: list[bytes], depth: int) -> None:
    """Collect the functions and strings of one attribute, those of its functions included."""
    for item in [value, *value.get("list", ())]:
        for tensor in item.get("tensor", ()):
            strings.extend(tensor.get("string_val", ()))
        for function in item.get("func", ()):
            calls.append(text_of(function, "name"))
            if depth < MAX_ATTRIBUTE_DEPTH:
                for _key, inner in _entries(function, "attr"):
                    _attribute(inner, calls, strings, depth + 1)


def _function(tree: Tree) -> Function:
    signature = tree_of(tree, "signature")
    calls: list[str] = []
    for _key, value in _entries(tree, "attr"):
        _attribute(value, calls, [], 0)
    return Function(
        text_of(signature, "name"),
        tuple(text_of(arg, "name") for arg in signature.get("input_arg", ())),
        tuple(_op(node) for node in tree.get("node_def", ())),
        tuple(text_of(item, "value") for item in tree.get("ret", ())),
        tuple(calls),
    )


def _tensor_names(signature: Tree, side: str) -> Iterator[str]:
    for _key, info in _entries(signature, side):
        pending = [info]
        while pending:
            item = pending.pop()
            yield from (name for name in (text_of(item, "name"),) if name)
            for sparse in item.get("coo_sparse", ()):
                for field in ("values", "indices", "dense_shape"):
                    yield text_of(sparse, f"{field}_tensor_name")
            for composite in item.get("composite_tensor", ()):
                pending.extend(composite.get("components", ()))


_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op", "table_initializer", "init_op")


def _init_ops(collections: list[tuple[str, Tree]]) -> Iterator[str]:
    for key, value in collections:
        if key in _INIT_COLLECTIONS or "init" in key:
            for values in value.get("node_list", ()):
                yield from texts_of(values, "value")


def _collected_assets(collections: list[tuple[str, Tree]], where: str) -> Iterator[Tree]:
    """Yield the AssetFileDefs that SavedModels of TensorFlow 1 keep in a collection."""
    for key, value in collections:
        if key == "saved_model_assets":
            for item in (
                item for items in value.get("any_list", ()) for item in items.get("value", ())
            ):
                yield from item.get("[tensorflow.AssetFileDef]", ())
                if "value" in item:
                    yield from_binary("AssetFileDef", item["value"][-1], where)


def _unique(assets: Iterable[Asset]) -> tuple[Asset, ...]:
    return tuple(dict.fromkeys(assets))


def _object_functions(objects: Tree) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of functions that the object graph offers, and of those that save."""
    nodes = objects.get("nodes", [])
    names = [
        texts_of(function, "concrete_functions")
        + [text_of(bare, "concrete_function_name") for bare in bares]
        for node in nodes
        for function, bares in [(tree_of(node, "function"), node.get("bare_concrete_function", ()))]
    ]
    saveable: list[str] = []
    for node in nodes:
        for _key, item in _entries(node, "saveable_objects"):
            for field in ("save_function", "restore_function"):
                for number in item.get(field, ()):
                    if number < len(names):
                        saveable.extend(names[number])
    offered = [name for group in names for name in group]
    offered.extend(key for key, _value in _entries(objects, "concrete_functions"))
    return tuple(dict.fromkeys(offered)), tuple(dict.fromkeys(saveable))


def _captures(objects: Tree, assets: list[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return what each function that the object graph offers captures, in order."""
    nodes = objects.get("nodes", [])

    def capture(number: int) -> tuple[str, str]:
        if number < len(nodes) and "asset" in nodes[number]:
            index = (tree_of(nodes[number], "asset").get("asset_file_def_index") or [0])[-1]
            if index < len(assets):
                return "asset", assets[index]
        return "unknown", ""

    captures = {
        key: tuple(capture(number) for number in value.get("bound_inputs", ()))
        for key, value in _entries(objects, "concrete_functions")
    }
    for node in nodes:
        for bare in node.get("bare_concrete_function", ()):
            captures.setdefault(text_of(bare, "concrete_function_name"), ())
    return captures
