"""`scan`: every op that acts on the outside is found wherever it hides, and plain models pass."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.goldens import GOLDEN, goldens

from ckptkit.cli.main import cli
from ckptkit.errors import PathNotFoundError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.scan.keras import allowed_classes, config_findings
from ckptkit.operations.scan.rule import effect_of, harmless_ops
from ckptkit.stores.proto.text_format import from_text
from ckptkit.stores.proto.wire import MESSAGES, from_binary

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
UNKNOWN_OPS = ["MyCompanyOp", "XlaCallModule", "GeneratorDataset", "IteratorGetNext", "_Internal"]
PLACES = ("graph", "function", "nested function", "initializer")
MODEL = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"


# --- graphs ---------------------------------------------------------------------------------------
# A message is written as {field: value or list of values}, in both forms, from our own table.


def binary(message: str, tree: dict[str, Any]) -> bytes:
    """Serialise a tree."""
    numbers = {name: (number, what) for number, (name, what) in MESSAGES[message].items()}
    out = b""
    for name, values in tree.items():
        number, what = numbers[name]
        for value in values if isinstance(values, list) else [values]:
            if what == "int":
                out += _varint(number << 3) + _varint(value)
                continue
            data = value.encode() if what == "bytes" else binary(what, value)
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def text(message: str, tree: dict[str, Any]) -> str:
    """Write a tree as protobuf text."""
    kinds = dict(MESSAGES[message].values())
    out = ""
    for name, values in tree.items():
        for value in values if isinstance(values, list) else [values]:
            if kinds[name] == "bytes":
                out += f"{name}: {json.dumps(value)}\n"
            elif kinds[name] == "int":
                out += f"{name}: {value}\n"
            else:
                out += f"{name} {{ {text(kinds[name], value)} }} # a comment\n"
    return out


def _varint(value: int) -> bytes:
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


@pytest.mark.parametrize("form", ["pb", "pbtxt"])
@pytest.mark.parametrize("place", PLACES)
def test_hostile_and_unknown_ops_are_found_in_every_place(
    tmp_path: Path, place: str, form: str
) -> None:
    for op in [*HOSTILE_OPS, *UNKNOWN_OPS]:
        result = scan(write_model(tmp_path / op, model_with(op, place), form))
        (finding,) = result.findings
        assert f"hidden ({op})" in finding.where, op
        assert finding.severity == ("error" if op in HOSTILE_OPS else "warning"), op
        assert result.exit_code == 1
    plain = scan(write_model(tmp_path / "plain", model_with("Identity", place), form))
    assert plain.findings == ()
    assert plain.exit_code == 0


def test_both_forms_of_a_graph_are_read_alike() -> None:
    tree = model_with("ReadFile", "nested function")
    one = from_binary("SavedModel", binary("SavedModel", tree), "binary")
    assert one == from_text("SavedModel", text("SavedModel", tree).encode(), "text")
    assert one["meta_graphs"][0]["graph_def"][0]["library"][0]["function"][1]["node_def"]


@pytest.mark.parametrize("name", ["graph.pb", "graph.pbtxt"])
def test_a_bare_graph_is_scanned(tmp_path: Path, name: str) -> None:
    tree = {"node": [{"name": "a", "op": "Const"}, {"name": "b", "op": "WriteFile"}]}
    path = tmp_path / name
    if name.endswith("txt"):
        path.write_text(text("GraphDef", tree))
    else:
        path.write_bytes(binary("GraphDef", tree))
    (finding,) = scan(path).findings
    assert finding.code == "graph.writes-files"


def test_the_last_of_two_values_counts_as_in_protobuf(tmp_path: Path) -> None:
    """A scanner that takes the first would pass what the loader runs."""
    twice = binary("NodeDef", {"name": "n", "op": "NoOp"}) + binary("NodeDef", {"op": "WriteFile"})
    graph = b"\x0a" + _varint(len(twice)) + twice
    (tmp_path / "graph.pb").write_bytes(graph)
    assert [f.code for f in scan(tmp_path / "graph.pb").findings] == ["graph.writes-files"]


def test_two_functions_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    tree = model_with("NoOp", "function")
    functions = tree["meta_graphs"]["graph_def"]["library"]["function"]
    functions.append({"signature": {"name": "outer"}, "node_def": [{"name": "x", "op": "Abort"}]})
    codes = {f.code for f in scan(write_model(tmp_path / "m", tree, "pb")).findings}
    assert codes == {"graph.ambiguous", "graph.stops-or"}


def _file_op(op: str, position: int, source: dict[str, Any]) -> dict[str, Any]:
    inputs = ["other"] * position + ["source"]
    nodes = [{"name": "other", "op": "NoOp"}, source, {"name": "f", "op": op, "input": inputs}]
    return {"meta_graphs": {"graph_def": {"node": nodes}}}


ASSET = {"tensor_info": {"name": "source:0"}, "filename": "words.txt"}


def test_a_table_may_read_the_models_own_asset(tmp_path: Path) -> None:
    tree = _file_op("InitializeTableFromTextFileV2", 1, {"name": "source", "op": "Placeholder"})
    assert scan(write_model(tmp_path / "a", tree, "pb")).exit_code == 1
    tree["meta_graphs"]["asset_file_def"] = [ASSET]
    assert scan(write_model(tmp_path / "b", tree, "pb")).exit_code == 0
    tree["meta_graphs"]["asset_file_def"] = [{**ASSET, "filename": "../../secret"}]
    codes = [f.code for f in scan(write_model(tmp_path / "c", tree, "pb")).findings]
    assert codes == ["graph.reads-files", "asset.path"]


def test_saving_is_in_order_only_where_the_saver_says(tmp_path: Path) -> None:
    source = {"name": "source", "op": "Placeholder"}
    tree = _file_op("SaveV2", 0, source)
    graph = tree["meta_graphs"]
    graph["saver_def"] = {"filename_tensor_name": "source:0", "save_tensor_name": "f:0"}
    assert scan(write_model(tmp_path / "saver", tree, "pb")).exit_code == 0
    graph["signature_def"] = {
        "key": "serving_default",
        "value": {"outputs": {"key": "y", "value": {"name": "f:0"}}},
    }
    assert scan(write_model(tmp_path / "signature", tree, "pb")).exit_code == 1
    del graph["signature_def"]
    source["op"] = "Const"
    source["attr"] = {"key": "value", "value": {"tensor": {"string_val": "/home/x/.ssh/id"}}}  # type: ignore[assignment]
    graph["saver_def"]["filename_tensor_name"] = "other:0"
    (finding,) = scan(write_model(tmp_path / "elsewhere", tree, "pb")).findings
    assert "'/home/x/.ssh/id'" in finding.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        b"\x0a\x7f",
        b"\x0b\x0c",  # a group
        b"\x12\x02\x12\xff",
        b"\x12\x06" + b"\x12\x04" * 3,
    ],
)
def test_a_graph_that_cannot_be_read_is_a_finding(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(data)
    result = scan(tmp_path)
    assert result.exit_code == 1
    assert [f.code for f in result.findings] == ["file.malformed"]


@pytest.mark.parametrize(
    "data",
    [
        "meta_graphs {",
        "meta_graphs }",
        "meta_graphs: 3 4 {{",
        "meta_graphs { graph_def { node [ { name: 'a' } ] } }",
        "meta_graphs { graph_def { node { name: 7 } } }",
        'meta_graphs { graph_def { node { name: "unclosed } } }',
        "a {" * 200,
        "\0",
    ],
)
def test_text_that_cannot_be_read_is_a_finding(tmp_path: Path, data: str) -> None:
    (tmp_path / "saved_model.pbtxt").write_text(data)
    assert [f.code for f in scan(tmp_path).findings] == ["file.malformed"]


def test_deep_messages_are_refused(tmp_path: Path) -> None:
    """Attributes may hold functions with attributes, without end."""
    inner: dict[str, Any] = {"name": "f"}
    for _ in range(150):
        inner = {"name": "f", "attr": {"key": "k", "value": {"func": inner}}}
    attr = {"key": "k", "value": {"func": inner}}
    tree = {"node": [{"name": "a", "op": "NoOp", "attr": attr}]}
    (tmp_path / "graph.pb").write_bytes(binary("GraphDef", tree))
    assert "nest deeper" in scan(tmp_path / "graph.pb").findings[0].message


def test_the_lists_do_not_contradict_each_other() -> None:
    assert not [op for op in harmless_ops() if effect_of(op)]
    assert not [op for op in HOSTILE_OPS if effect_of(op) is None or op in harmless_ops()]
    assert {"MatMul", "Conv2D", "VarHandleOp", "StatefulPartitionedCall"} <= harmless_ops()


@pytest.mark.needs_tf
def test_the_list_of_ops_is_what_the_rule_gives() -> None:
    from make_harmless_ops import derived, registered

    known = {op.name for op in registered()}
    assert harmless_ops() & known == set(derived()) & harmless_ops()
    assert len(set(derived()) - harmless_ops()) < 50  # ops of another version


# --- Keras ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_configs_are_found_at_any_depth(name: str, depth: int) -> None:
    findings = list(config_findings(nested(HOSTILE_CONFIGS[name], depth), "config.json"))
    assert findings
    assert all(finding.severity in ("error", "warning") for finding in findings)
    assert findings[0].where.startswith("config.json" + ".config.la" * bool(depth))


def test_a_config_without_anything_odd_passes() -> None:
    plain = nested(layer("Dense", units=3, activation="relu", name="a/b"), 6)
    assert list(config_findings(plain, "config.json")) == []


@pytest.mark.needs_tf
def test_the_list_of_classes_is_what_the_rule_gives() -> None:
    from make_keras_classes import derived

    names = set(derived())
    assert names & allowed_classes() == names & set(allowed_classes())
    assert len(names - allowed_classes()) < 60  # of another version
    assert "Lambda" not in allowed_classes()
    assert "TFSMLayer" not in allowed_classes()


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


def test_a_keras_file_is_scanned(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    assert scan(keras_file(tmp_path / "plain.keras", None)).exit_code == 0
    model = nested(HOSTILE_CONFIGS["lambda"], 3)
    found = scan(keras_file(tmp_path / "lambda.keras", model)).findings
    assert {f.code for f in found} == {"keras.lambda"}
    extra = scan(keras_file(tmp_path / "extra.keras", None, **{"payload.pkl": b"x"}))
    assert [f.code for f in extra.findings] == ["archive.stranger"]
    outside = scan(keras_file(tmp_path / "out.keras", None, **{"..__..__x": b"x"}))
    assert [f.code for f in outside.findings] == ["archive.path"]


def test_a_damaged_config_is_a_finding(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = keras_file(tmp_path / "m.keras", None)
    data = path.read_bytes().replace(b'"Functional"', b'"Functionel"')
    path.write_bytes(data)
    assert [f.code for f in scan(path).findings] == ["file.checksum"]


def test_pickled_objects_in_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3), b=np.array([{}], object))
    (tmp_path / "x.npz").write_bytes(buffer.getvalue())
    assert [f.code for f in scan(tmp_path / "x.npz").findings] == ["npz.pickle"]


def test_weights_alone_hold_nothing_that_runs() -> None:
    result = scan(GOLDEN / "tf2.21.0" / "adam" / "ckpt")
    assert result.exit_code == 0
    assert result.units[0].format == "tensor-bundle"


def test_what_is_no_model_is_neither_clean_nor_an_alarm(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04abc")
    assert scan(tmp_path / "x.pkl").exit_code == 2
    with pytest.raises(PathNotFoundError):
        scan(tmp_path / "none")


# --- plain models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "golden",
    goldens("saved-model", "saved-model-pbtxt", "keras", "h5", "weights.h5", "checkpoint"),
    ids=lambda golden: golden.name,
)
def test_plain_exports_raise_no_alarm(golden: Any) -> None:
    result = scan(golden.path)
    assert [finding for finding in result.findings if finding.severity != "note"] == []
    assert result.exit_code == 0


# --- command line ---------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad", model_with("WriteFile", "graph"), "pb")
    run = CliRunner().invoke(cli, ["scan", str(MODEL), str(bad)])
    assert run.exit_code == 1
    assert "only ops and classes that are known to be harmless" in run.output
    assert "error: bad/saved_model.pb: graph: hidden (WriteFile): writes files" in run.output
    run = CliRunner().invoke(cli, ["scan", str(bad), "--format", "json"])
    document = json.loads(run.output)
    assert document["schema"] == "ckptkit.scan/1"
    assert document["units"][0]["findings"][0]["code"] == "graph.writes-files"
    run = CliRunner().invoke(cli, ["scan", str(MODEL), "-q"])
    assert (run.exit_code, run.output) == (0, "")


def test_names_from_the_file_are_printed_escaped(tmp_path: Path) -> None:
    tree = {"node": [{"name": "\x1b[31mred\u202e", "op": "WriteFile"}]}
    (tmp_path / "graph.pb").write_bytes(binary("GraphDef", tree))
    output = CliRunner().invoke(cli, ["scan", str(tmp_path / "graph.pb")]).output
    assert "\\x1b[31mred\\u202e" in output
    assert output.isprintable() or all(c.isprintable() or c == "\n" for c in output)
