"""The `.meta` file beside a checkpoint as the graph of a SavedModel.

`tf.compat.v1.train.Saver.save` writes the graph that it saves, a MetaGraphDef, to PREFIX.meta.  A
SavedModel holds the same message with tags and signatures, without devices; a loader restores
`variables/` by the saver that the message names, and runs one op that fills lookup tables.
Source: tensorflow/core/protobuf/{meta_graph,saver}.proto, python/saved_model/builder_impl.py,
cc/saved_model/loader.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import dtype_of_enum
from ckptkit.errors import FormatError, UnsupportedError, UsageError
from ckptkit.stores.proto.messages import MAX_MESSAGE_BYTES, message_class, parse, parse_text
from ckptkit.stores.saved_model.signatures import SERVE
from ckptkit.text import lazy_pattern, list_text
from ckptkit.wording import say

SIGNATURE = "serving_default"  # signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY
METHOD = "tensorflow/serving/predict"  # signature_constants.PREDICT_METHOD_NAME
_TABLES, _MAIN_OP, _ASSETS = "table_initializer", "saved_model_main_op", "asset_filepaths"
_INIT = "init_all_tables_of_saved_model"
_NOT_OUTPUTS = ("NoOp", "Assert", "Const", "Placeholder", "MergeSummary", "SaveV2", "RestoreV2")
MAX_NAMED = 8
_V2 = 2  # SaverDef.CheckpointFormatVersion
_STRING = 7  # DT_STRING
_OF_SAVER = lazy_pattern(r"save(_\d+)?/")  # the scopes that each Saver makes


class ServedGraph(NamedTuple):
    """A SavedModel's graph.

    message: the content of saved_model.pb.  assets: {file of the graph: name below assets/}.
    notes: what was changed, or has to be known.
    """

    message: bytes
    assets: Mapping[Path, str]
    notes: tuple[str, ...]


def served_graph(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> ServedGraph:
    """Return a SavedModel's graph made of a MetaGraphDef.

    Args:
        path: the `.meta` file, or one in text form (`.pbtxt`).
        inputs, outputs: names of tensors, `NAME` or `KEY=NAME`; none where the file has signatures,
            or collections `inputs` and `outputs`.

    Raises:
        FormatError: the file holds no such graph.
        UnsupportedError: it has no saver.
        UsageError: a tensor is not in the graph, or nothing says what goes in and comes out.
    """
    meta = _read(path)
    where = str(path)
    if not meta.saver_def.restore_op_name:
        raise UnsupportedError("this graph has no saver, which restores its variables", where=where)
    notes = []
    devices = {node.device for node in meta.graph_def.node if node.device}
    for node in meta.graph_def.node:
        node.ClearField("device")
    if devices:
        notes.append(f"the graph was put on {list_text(sorted(devices))}; it is bound to none now")
    nodes = {node.name: node for node in meta.graph_def.node}
    _sign(meta, nodes, inputs, outputs, where)
    if meta.saver_def.version != _V2:
        _restore_v2(meta, nodes, where)
        notes.append("its saver read the V1 format; it reads V2 now, as variables/ has it")
    _fill_tables(meta)
    assets = dict(_assets(meta, nodes, where))
    del meta.meta_info_def.tags[:]
    meta.meta_info_def.tags.append(SERVE)
    saved = message_class("SavedModel")(saved_model_schema_version=1, meta_graphs=[meta])
    return ServedGraph(saved.SerializeToString(deterministic=True), assets, tuple(notes))


def _read(path: Path) -> Any:
    size, is_text = file_size(path), path.suffix == ".pbtxt"
    if size > MAX_MESSAGE_BYTES:
        raise FormatError(str(path), f"{size} bytes are more than a graph may have")
    read = parse_text if is_text else parse
    meta = read("MetaGraphDef", read_exact(path, 0, size), str(path))
    if not meta.graph_def.node:
        raise FormatError(str(path), "holds no graph", hint="it is damaged or no MetaGraphDef")
    return meta


# --- signatures -----------------------------------------------------------------------------------


def _sign(
    meta: Any,
    nodes: Mapping[str, Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    where: str,
) -> None:
    """Give the graph a signature, of the tensors that were named or of its collections."""
    if not inputs and not outputs:
        if meta.signature_def:
            return
        inputs, outputs = (_collected(meta, name) for name in ("inputs", "outputs"))
    if not inputs or not outputs:
        raise UsageError(
            "nothing in the graph says what goes in and what comes out",
            where=where,
            hint=say("‹inputs=NAME› and ‹outputs=NAME› do; ") + _candidates(meta),
        )
    meta.signature_def.clear()
    signature = meta.signature_def[SIGNATURE]
    signature.method_name = METHOD
    ops = {op.name: op for op in meta.meta_info_def.stripped_op_list.op}
    for texts, infos in ((inputs, signature.inputs), (outputs, signature.outputs)):
        for text in texts:
            key, tensor = _named(text)
            if key in infos:
                raise UsageError(f"two tensors are called {key!r}", hint=say("‹inputs=KEY=NAME›"))
            infos[key].CopyFrom(_tensor_info(tensor, nodes, ops, where, meta))


def _collected(meta: Any, name: str) -> list[str]:
    return list(meta.collection_def[name].node_list.value) if name in meta.collection_def else []


def _named(text: str) -> tuple[str, str]:
    """Return (key in the signature, name of the tensor) of `NAME` or `KEY=NAME`."""
    key, equals, tensor = text.rpartition("=")
    tensor = tensor if ":" in tensor else f"{tensor}:0"
    return (key if equals else tensor.partition(":")[0].rpartition("/")[2]), tensor


def _tensor_info(
    tensor: str, nodes: Mapping[str, Any], ops: Mapping[str, Any], where: str, meta: Any
) -> Any:
    name, _, number = tensor.partition(":")
    node = nodes.get(name)
    if node is None or not number.isdecimal():
        raise UsageError(f"no tensor {tensor!r} in the graph", where=where, hint=_candidates(meta))
    dtypes = list(_output_dtypes(node, ops.get(node.op)))
    if int(number) >= len(dtypes):
        raise UsageError(
            f"{name} ({node.op}) has {len(dtypes)} outputs, of which {tensor!r} is none",
            where=where,
        )
    info = message_class("TensorInfo")(name=tensor, dtype=dtypes[int(number)])
    shapes = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
    if int(number) < len(shapes):
        info.tensor_shape.CopyFrom(shapes[int(number)])
    elif "shape" in node.attr and node.op.startswith("Placeholder"):
        info.tensor_shape.CopyFrom(node.attr["shape"].shape)
    else:
        info.tensor_shape.unknown_rank = True
    return info


def _output_dtypes(node: Any, op: Any) -> Iterator[int]:
    """Yield the dtype of each output of a node, by what the graph says of its op (op_def.proto)."""
    for output in op.output_arg if op is not None else ():
        if output.type_list_attr:
            yield from node.attr[output.type_list_attr].list.type
            continue
        dtype = node.attr[output.type_attr].type if output.type_attr else output.type
        count = node.attr[output.number_attr].i if output.number_attr else 1
        yield from [dtype] * count


def _candidates(meta: Any) -> str:
    """Return which tensors may be meant: what is fed, and what the graph does not go on with."""
    nodes = meta.graph_def.node
    used = {name.lstrip("^").partition(":")[0] for node in nodes for name in node.input}
    fed = [n.name for n in nodes if n.op.startswith("Placeholder") and not _OF_SAVER.match(n.name)]
    ops = {op.name: op for op in meta.meta_info_def.stripped_op_list.op}
    ends = [
        node.name
        for node in nodes
        if node.name not in used
        and node.op not in _NOT_OUTPUTS
        and not _OF_SAVER.match(node.name)
        and _gives_values(node, ops.get(node.op))
    ]
    return f"fed: {_first(fed)}; not used further: {_first(ends)}"


def _gives_values(node: Any, op: Any) -> bool:
    told_nothing = ("resource", "bool", "string")
    return any(dtype_of_enum(dtype) not in told_nothing for dtype in _output_dtypes(node, op))


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (", ".join(names[:MAX_NAMED]) or "nothing") + more


# --- the saver ------------------------------------------------------------------------------------


def _restore_v2(meta: Any, nodes: Mapping[str, Any], where: str) -> None:
    """Let the ops that restore V1 checkpoints, one tensor each, read V2 (io_ops.cc: RestoreV2).

    RestoreV2 takes lists of names and slices, where Restore and RestoreSlice take one of each.
    """
    filename = meta.saver_def.filename_tensor_name.partition(":")[0]
    for node in list(meta.graph_def.node):
        if node.op not in ("Restore", "RestoreSlice"):
            continue
        lists = [nodes.get(name.partition(":")[0]) for name in node.input[1:3]]
        if node.op == "Restore":
            slices = meta.graph_def.node.add(name=f"{node.name}/shape_and_slice", op="Const")
            slices.attr["dtype"].type = _STRING
            slices.attr["value"].tensor.dtype = _STRING
            slices.attr["value"].tensor.string_val.append(b"")
            lists.append(slices)
        for constant in lists:
            if constant is None or constant.op != "Const":
                message = f"{node.name} restores a tensor whose name is no constant"
                raise UnsupportedError(message, where=where)
            shape = constant.attr["value"].tensor.tensor_shape
            if not shape.dim:
                shape.dim.add(size=1)
        dtype = node.attr["dt"].type
        node.attr.clear()
        node.attr["dtypes"].list.type.append(dtype)
        node.op = "RestoreV2"
        del node.input[:]
        node.input.extend([filename, *(constant.name for constant in lists if constant)])
    meta.saver_def.version = _V2


# --- tables and assets ----------------------------------------------------------------------------


def _fill_tables(meta: Any) -> None:
    """Let a loader fill the lookup tables: it runs one op, and nothing of that collection."""
    initializers = _collected(meta, _TABLES)
    if (
        not initializers
        or _MAIN_OP in meta.collection_def
        or "legacy_init_op" in meta.collection_def
    ):
        return
    node = meta.graph_def.node.add(name=_INIT, op="NoOp")
    node.input.extend(f"^{name.partition(':')[0]}" for name in initializers)
    meta.collection_def[_MAIN_OP].node_list.value.append(_INIT)


def _assets(meta: Any, nodes: Mapping[str, Any], where: str) -> Iterable[tuple[Path, str]]:
    """Yield (file, name below assets/) of the files that tables are filled from; declare them."""
    names: dict[str, Path] = {}
    for tensor in _collected(meta, _ASSETS):
        node = nodes.get(tensor.partition(":")[0])
        if node is None or len(node.attr["value"].tensor.string_val) != 1:
            raise UnsupportedError(f"{tensor}: an asset whose path is no constant", where=where)
        text = node.attr["value"].tensor.string_val[0]
        file = Path(text.decode("utf-8", "surrogateescape"))
        if not file.is_file():
            raise UsageError(
                f"the graph reads {file}, which is not there", where=where, hint="put it back first"
            )
        if names.setdefault(file.name, file) != file:
            raise UnsupportedError(f"two assets are called {file.name}", where=where)
        asset = meta.asset_file_def.add(filename=file.name)
        asset.tensor_info.name = tensor
        node.attr["value"].tensor.string_val[0] = file.name.encode()
        yield file, file.name
