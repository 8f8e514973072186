"""SavedModels and Keras files that want to act on the outside, without TensorFlow.

A message is written as {field: value or list of values}, in both forms, by the schema.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from ckptkit.stores.proto.messages import message_class
from support.goldens import GOLDEN

# The seed list of bypass reports against other scanners, and more of the same kinds.
HOSTILE_OPS = """
    ReadFile WriteFile PrintV2 Print SaveV2 Save SaveSlices MergeV2Checkpoints RestoreV2 Restore
    MatchingFiles WholeFileReader WholeFileReaderV2 TextLineReaderV2 TFRecordReaderV2 LMDBReader
    InitializeTableFromTextFile InitializeTableFromTextFileV2 CreateSummaryFileWriter
    CreateSummaryDbWriter WriteSummary WriteGraphSummary PyFunc PyFuncStateless EagerPyFunc
    FileSystemSetConfiguration LoadAndRemapMatrix GenerateVocabRemapping Abort ImmutableConst
    TRTEngineOp RemoteCall RpcCall RpcServer DataServiceDatasetV4 Send Recv CollectiveReduce
    DebugIdentityV2 DatasetToTFRecord TextLineDataset SqlDataset DecodeProtoV2 DumpTensor
    SnapshotDatasetV2 FixedUnigramCandidateSampler XlaCustomCallV2 SleepOp
    """.split()  # noqa: SIM905 (a table of words)
UNKNOWN_OPS = [
    "MyCompanyOp",
    "XlaCallModule",
    "DatasetFromGraph",
    "MultiDeviceIterator",
    "_Internal",
]
PLACES = ("graph", "function", "nested function", "initializer")


def binary(message: str, tree: dict[str, Any]) -> bytes:
    """Serialise a tree."""
    return _binary(message_class(message).DESCRIPTOR, tree)


def text(message: str, tree: dict[str, Any]) -> str:
    """Write a tree as protobuf text."""
    return _text(message_class(message).DESCRIPTOR, tree)


def _binary(message: Any, tree: dict[str, Any]) -> bytes:
    out = b""
    for name, values in tree.items():
        field = message.fields_by_name[name]
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(field.number << 3) + varint(value)
                continue
            data = value.encode() if isinstance(value, str) else _binary(field.message_type, value)
            out += varint(field.number << 3 | 2) + varint(len(data)) + data
    return out


def _text(message: Any, tree: dict[str, Any]) -> str:
    out = ""
    for name, values in tree.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, dict):
                inner = _text(message.fields_by_name[name].message_type, value)
                out += f"{name} {{ {inner} }} # a comment\n"
            else:
                out += f"{name}: {json.dumps(value)}\n"
    return out


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def model_with(op: str, place: str) -> dict[str, Any]:
    """Return a SavedModel that holds `op` in one place, harmless ops elsewhere."""
    node = {"name": "hidden", "op": op, "input": ["where"]}
    where = {
        "name": "where",
        "op": "Const",
        "attr": {"key": "value", "value": {"tensor": {"string_val": "/etc/passwd"}}},
    }
    call = {
        "name": "call",
        "op": "PartitionedCall",
        "attr": {"key": "f", "value": {"func": {"name": "outer"}}},
    }
    plain = {"name": "plain", "op": "NoOp"}
    nested = {**call, "name": "inner_call"}
    nested["attr"] = {"key": "f", "value": {"func": {"name": "inner"}}}
    functions = {
        "function": [{"signature": {"name": "outer"}, "node_def": [where, node]}],
        "nested function": [
            {"signature": {"name": "outer"}, "node_def": [nested]},
            {"signature": {"name": "inner"}, "node_def": [where, node]},
        ],
    }.get(place, [{"signature": {"name": "outer"}, "node_def": [plain]}])
    main = [plain, call] + ([where, node] if place in ("graph", "initializer") else [])
    graph: dict[str, Any] = {
        "graph_def": {"node": main, "library": {"function": functions}},
        "signature_def": {
            "key": "serving_default",
            "value": {"outputs": {"key": "y", "value": {"name": "call:0"}}},
        },
    }
    if place == "initializer":
        graph["collection_def"] = {
            "key": "saved_model_main_op",
            "value": {"node_list": {"value": ["hidden"]}},
        }
    return {"saved_model_schema_version": 1, "meta_graphs": graph}


def write_model(directory: Path, tree: dict[str, Any], form: str) -> Path:
    directory.mkdir(exist_ok=True)
    if form == "pb":
        (directory / "saved_model.pb").write_bytes(binary("SavedModel", tree))
    else:
        (directory / "saved_model.pbtxt").write_text(text("SavedModel", tree))
    return directory


def layer(class_name: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


# The shapes of published holes, one each, and near relatives.
HOSTILE_CONFIGS = {
    "lambda": layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wAA"}}),
    "lambda value": layer("Dense", activation={"class_name": "__lambda__", "config": {}}),
    "lambda by name": layer("Lambda", function="os.system"),
    "torch module": layer("TorchModuleWrapper", module_bytes="gASV"),
    "TFSM layer": layer("TFSMLayer", filepath="/tmp/model"),
    "jax layer": layer("JaxLayer"),
    "module of python": layer("system", "os"),
    "builtin": layer("eval", "builtins"),
    "function of a module": {
        "module": "builtins",
        "class_name": "function",
        "config": "run",
        "registered_name": "function",
    },
    "load function of keras": layer("load_model", "keras.models", filepath="x.keras"),
    "get_file": layer("get_file", "keras.utils", origin="http://x"),
    "unsafe switch": layer("enable_unsafe_deserialization", "keras.config"),
    "numpy loader": layer("load", "numpy"),
    "vocabulary file": layer("StringLookup", vocabulary="/etc/passwd"),
    "vocabulary url": layer("StringLookup", vocabulary="gs://bucket/words.txt"),
    "relative vocabulary": layer("TextVectorization", vocabulary="words.txt"),
    "registered class": {**layer("Dense", None), "registered_name": "mine>Dense"},
    "custom class": layer("MyLayer", "mypackage.layers"),
    "legacy custom": {"class_name": "Custom>Evil", "config": {}},
    "legacy function op": {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
    "class of no name": {"class_name": ["Dense"], "config": {}},
    "windows path": layer("Embedding", weights="C:\\x"),
}


def nested(item: Any, depth: int) -> Any:
    """Wrap a config in models and wrappers."""
    for level in range(depth):
        if level % 2:
            item = layer("TimeDistributed", layer=item)
        else:
            item = layer("Functional", "keras.src.models.functional", layers=[layer("Dense"), item])
    return item


def keras_file(path: Path, config: Any, **members: bytes) -> Path:
    """Copy a golden `.keras` file with another config, and more members."""
    source = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == "config.json" and config is not None:
                data = json.dumps(config).encode()
            new.writestr(item.filename, data)
        for name, data in members.items():
            new.writestr(name.replace("__", "/"), data)
    return path
