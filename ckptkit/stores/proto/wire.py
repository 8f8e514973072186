"""SavedModel messages as plain trees, from their binary form; `_protos_text` reads the text form.

Only fields named in `MESSAGES` are kept.  Both parsers are our own because the graph of a stranger
is to be read exactly as TensorFlow would read it, and refused where that is in doubt: a field that
occurs twice is joined or overridden as protobuf does, and a depth of 100 messages is the limit, as
in protobuf.  Nothing in a tree refers to code.
Source: protobuf.dev/programming-guides/encoding; field numbers from
tensorflow/core/framework/*.proto and core/protobuf/{saved_model,meta_graph,saver,
saved_object_graph}.proto.
"""

from __future__ import annotations

from typing import Any

from ckptkit.errors import FormatError

MAX_DEPTH = 100

Tree = dict[str, list[Any]]
"""Values by field name, in the order of the file: bytes, int, or Tree."""

# message -> field number -> (name, what: "bytes", "int", or a message).
# A map field is a message of key and value.
MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "SavedModel": {1: ("saved_model_schema_version", "int"), 2: ("meta_graphs", "MetaGraphDef")},
    "MetaGraphDef": {
        1: ("meta_info_def", "MetaInfoDef"),
        2: ("graph_def", "GraphDef"),
        3: ("saver_def", "SaverDef"),
        4: ("collection_def", "CollectionEntry"),
        5: ("signature_def", "SignatureEntry"),
        6: ("asset_file_def", "AssetFileDef"),
        7: ("object_graph_def", "SavedObjectGraph"),
    },
    "MetaInfoDef": {4: ("tags", "bytes"), 5: ("tensorflow_version", "bytes")},
    "GraphDef": {1: ("node", "NodeDef"), 2: ("library", "FunctionDefLibrary")},
    "FunctionDefLibrary": {1: ("function", "FunctionDef"), 2: ("gradient", "GradientDef")},
    "GradientDef": {1: ("function_name", "bytes"), 2: ("gradient_func", "bytes")},
    "FunctionDef": {
        1: ("signature", "OpDef"),
        3: ("node_def", "NodeDef"),
        4: ("ret", "StringEntry"),
        5: ("attr", "AttrEntry"),
        6: ("control_ret", "StringEntry"),
    },
    "OpDef": {1: ("name", "bytes"), 2: ("input_arg", "ArgDef")},
    "ArgDef": {1: ("name", "bytes")},
    "NodeDef": {
        1: ("name", "bytes"),
        2: ("op", "bytes"),
        3: ("input", "bytes"),
        4: ("device", "bytes"),
        5: ("attr", "AttrEntry"),
    },
    "AttrEntry": {1: ("key", "bytes"), 2: ("value", "AttrValue")},
    "AttrValue": {
        1: ("list", "ListValue"),
        2: ("s", "bytes"),
        8: ("tensor", "TensorProto"),
        10: ("func", "NameAttrList"),
    },
    "ListValue": {2: ("s", "bytes"), 8: ("tensor", "TensorProto"), 9: ("func", "NameAttrList")},
    "NameAttrList": {1: ("name", "bytes"), 2: ("attr", "AttrEntry")},
    "TensorProto": {8: ("string_val", "bytes")},
    "StringEntry": {1: ("key", "bytes"), 2: ("value", "bytes")},
    "SaverDef": {
        1: ("filename_tensor_name", "bytes"),
        2: ("save_tensor_name", "bytes"),
        3: ("restore_op_name", "bytes"),
    },
    "CollectionEntry": {1: ("key", "bytes"), 2: ("value", "CollectionDef")},
    "CollectionDef": {1: ("node_list", "Values"), 5: ("any_list", "AnyList")},
    "AnyList": {1: ("value", "Any")},
    "Any": {1: ("type_url", "bytes"), 2: ("value", "bytes")},
    "Values": {1: ("value", "bytes")},
    "SignatureEntry": {1: ("key", "bytes"), 2: ("value", "SignatureDef")},
    "SignatureDef": {
        1: ("inputs", "TensorInfoEntry"),
        2: ("outputs", "TensorInfoEntry"),
        3: ("method_name", "bytes"),
    },
    "TensorInfoEntry": {1: ("key", "bytes"), 2: ("value", "TensorInfo")},
    "TensorInfo": {
        1: ("name", "bytes"),
        4: ("coo_sparse", "CooSparse"),
        5: ("composite_tensor", "CompositeTensor"),
    },
    "CooSparse": {
        1: ("values_tensor_name", "bytes"),
        2: ("indices_tensor_name", "bytes"),
        3: ("dense_shape_tensor_name", "bytes"),
    },
    "CompositeTensor": {2: ("components", "TensorInfo")},
    "AssetFileDef": {1: ("tensor_info", "TensorInfo"), 2: ("filename", "bytes")},
    "SavedObjectGraph": {1: ("nodes", "SavedObject"), 2: ("concrete_functions", "ConcreteEntry")},
    "SavedObject": {
        1: ("children", "ObjectReference"),
        4: ("user_object", "SavedUserObject"),
        5: ("asset", "SavedAsset"),
        6: ("function", "SavedFunction"),
        7: ("variable", "SavedVariable"),
        8: ("bare_concrete_function", "SavedBareFunction"),
        11: ("saveable_objects", "SaveableEntry"),
    },
    "ObjectReference": {1: ("node_id", "int"), 2: ("local_name", "bytes")},
    "SavedUserObject": {1: ("identifier", "bytes"), 3: ("metadata", "bytes")},
    "SavedAsset": {1: ("asset_file_def_index", "int")},
    "SavedFunction": {1: ("concrete_functions", "bytes")},
    "SavedBareFunction": {1: ("concrete_function_name", "bytes")},
    "SavedVariable": {6: ("name", "bytes")},
    "SaveableEntry": {1: ("key", "bytes"), 2: ("value", "SaveableObject")},
    "SaveableObject": {2: ("save_function", "int"), 3: ("restore_function", "int")},
    "ConcreteEntry": {1: ("key", "bytes"), 2: ("value", "ConcreteFunction")},
    "SavedMetadata": {1: ("nodes", "MetadataNode")},
    "MetadataNode": {
        3: ("node_path", "bytes"),
        4: ("identifier", "bytes"),
        5: ("metadata", "bytes"),
    },
    "FingerprintDef": {
        1: ("saved_model_checksum", "int"),
        5: ("checkpoint_hash", "int"),
        6: ("version", "VersionDef"),
        7: ("uuid", "bytes"),
    },
    "VersionDef": {1: ("producer", "int")},
    "ConcreteFunction": {2: ("bound_inputs", "int")},
}


def text_of(tree: Tree, name: str) -> str:
    """Return a string field ("" where absent; the last, where it occurs twice)."""
    values = tree.get(name)
    return values[-1].decode("utf-8", "backslashreplace") if values else ""


def texts_of(tree: Tree, name: str) -> list[str]:
    """Return a repeated string field."""
    return [value.decode("utf-8", "backslashreplace") for value in tree.get(name, ())]


def tree_of(tree: Tree, name: str) -> Tree:
    """Return a message field, all its occurrences joined, as protobuf joins them."""
    values = tree.get(name, ())
    if len(values) == 1:
        return values[0]  # type: ignore[no-any-return]
    joined: Tree = {}
    for value in values:
        for key, items in value.items():
            joined.setdefault(key, []).extend(items)
    return joined


# --- binary ---------------------------------------------------------------------------------------


def from_binary(message: str, data: bytes, where: str) -> Tree:
    """Return the tree of a serialised message; raises FormatError."""
    return _binary(MESSAGES[message], memoryview(data), 0, where)


def _binary(fields: dict[int, tuple[str, str]], data: memoryview, depth: int, where: str) -> Tree:
    if depth > MAX_DEPTH:
        raise FormatError(where, f"messages nest deeper than {MAX_DEPTH}")
    tree: Tree = {}
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, where)
        kind = tag & 7
        if not tag >> 3 or tag >> 32:
            raise FormatError(where, f"not a message: tag {tag}")
        if kind == 2:
            size, at = _varint(data, at, where)
            value: Any = data[at : at + size]
            at += size
        elif kind == 0:
            value, at = _varint(data, at, where)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            value = None
        else:
            raise FormatError(where, f"not a message: wire type {kind}")
        if at > end:
            raise FormatError(where, "a message is cut short")
        field = fields.get(tag >> 3)
        if field is not None:
            _keep(tree, field, kind, value, depth, where)
    return tree


def _keep(
    tree: Tree, field: tuple[str, str], kind: int, value: Any, depth: int, where: str
) -> None:
    """Add one field to the tree; one of the wrong wire type is unknown to protobuf too."""
    name, what = field
    if what == "int":
        if kind == 0:
            tree.setdefault(name, []).append(value)
        elif kind == 2:  # packed
            at = 0
            while at < len(value):
                number, at = _varint(value, at, where)
                tree.setdefault(name, []).append(number)
    elif kind == 2:
        if what == "bytes":
            tree.setdefault(name, []).append(bytes(value))
        else:
            inner = _binary(MESSAGES[what], value, depth + 1, where)
            tree.setdefault(name, []).append(inner)


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise FormatError(where, "a message is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise FormatError(where, "a number of more than 10 bytes")
