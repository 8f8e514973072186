"""`scan`: every op that acts on the outside is found wherever it hides, and plain models pass."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptkit.cli.main import cli
from ckptkit.errors import FormatError, PathNotFoundError, UsageError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.scan.keras import allowed_classes, config_findings
from ckptkit.operations.scan.rule import effect_of, harmless_ops
from ckptkit.stores.proto.messages import parse, parse_text
from support.goldens import GOLDEN, goldens
from support.hostile_models import (
    HOSTILE_CONFIGS,
    HOSTILE_OPS,
    PLACES,
    UNKNOWN_OPS,
    binary,
    keras_file,
    layer,
    model_with,
    nested,
    text,
    varint,
    write_model,
)
from support.weights import write_bundle

MODEL = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"


# --- graphs ---------------------------------------------------------------------------------------
# A message is written as {field: value or list of values}, in both forms, by the schema.


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
    one = parse("SavedModel", binary("SavedModel", tree), "binary")
    assert one == parse_text("SavedModel", text("SavedModel", tree).encode(), "text")
    assert one.meta_graphs[0].graph_def.library.function[1].node_def


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
    graph = b"\x0a" + varint(len(twice)) + twice
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
def test_a_graph_that_cannot_be_read_could_not_be_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(data)
    result = scan(tmp_path)
    assert result.exit_code == 2
    assert [type(error) for error in result.refusals] == [FormatError]


@pytest.mark.parametrize(
    "data",
    [
        "meta_graphs {",
        "meta_graphs }",
        "meta_graphs: 3 4 {{",
        "meta_graphs { graph_def { node { name: 7 } } }",
        'meta_graphs { graph_def { node { name: "unclosed } } }',
        "a {" * 200,
        "\0",
    ],
)
def test_text_that_cannot_be_read_could_not_be_told(tmp_path: Path, data: str) -> None:
    (tmp_path / "saved_model.pbtxt").write_text(data)
    assert scan(tmp_path).exit_code == 2


def test_deep_messages_are_refused(tmp_path: Path) -> None:
    """Attributes may hold functions with attributes, without end; protobuf's own limit is 100."""
    inner: dict[str, Any] = {"name": "f"}
    for _ in range(150):
        inner = {"name": "f", "attr": {"key": "k", "value": {"func": inner}}}
    attr = {"key": "k", "value": {"func": inner}}
    tree = {"node": [{"name": "a", "op": "NoOp", "attr": attr}]}
    (tmp_path / "graph.pb").write_bytes(binary("GraphDef", tree))
    (refusal,) = scan(tmp_path / "graph.pb").refusals
    assert refusal.message == "not a GraphDef message"


def test_the_lists_do_not_contradict_each_other() -> None:
    assert not [op for op in harmless_ops() if effect_of(op)]
    assert not [op for op in HOSTILE_OPS if effect_of(op) is None or op in harmless_ops()]
    assert {"MatMul", "Conv2D", "VarHandleOp", "StatefulPartitionedCall"} <= harmless_ops()


@pytest.mark.needs_tf
def test_the_list_of_ops_is_what_the_rule_gives() -> None:
    from support.make_harmless_ops import derived, registered

    known = {op.name for op in registered()}
    assert harmless_ops() & known == set(derived()) & harmless_ops()
    assert len(set(derived()) - harmless_ops()) < 50  # ops of another version


# --- Keras ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_configs_are_found_at_any_depth(name: str, depth: int) -> None:
    findings = list(config_findings(nested(HOSTILE_CONFIGS[name], depth), "config.json"))
    assert findings
    assert all(finding.severity in ("error", "warning") for finding in findings)
    assert findings[0].where.startswith("config.json" + ".config.la" * bool(depth))


@pytest.mark.parametrize(
    ("kind", "severity"), [("lambda", "error"), ("function", "warning"), ("raw", None)]
)
def test_a_function_whose_kind_stands_beside_it(kind: str, severity: str | None) -> None:
    config = {"class_name": "Merge", "config": {"mode": ["4wEA", None], "mode_type": kind}}
    found = [finding.severity for finding in config_findings({"layers": [config]}, "config")]
    assert found == ([severity] if severity else [])


def test_a_config_without_anything_odd_passes() -> None:
    plain = nested(layer("Dense", units=3, activation="relu", name="a/b"), 6)
    assert list(config_findings(plain, "config.json")) == []


@pytest.mark.needs_tf
def test_the_list_of_classes_is_what_the_rule_gives() -> None:
    from support.make_keras_classes import derived

    names = set(derived())
    assert names & allowed_classes() == names & set(allowed_classes())
    assert len(names - allowed_classes()) < 60  # of another version
    assert "Lambda" not in allowed_classes()
    assert "TFSMLayer" not in allowed_classes()


def test_a_keras_file_is_scanned(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    assert scan(keras_file(tmp_path / "plain.keras", None)).exit_code == 0
    model = nested(HOSTILE_CONFIGS["lambda"], 3)
    found = scan(keras_file(tmp_path / "lambda.keras", model)).findings
    assert {f.code for f in found} == {"keras.lambda"}
    extra = scan(keras_file(tmp_path / "extra.keras", None, **{"payload.pkl": b"x"}))
    assert [f.code for f in extra.findings] == ["archive.stranger"]
    outside = scan(keras_file(tmp_path / "out.keras", None, **{"..__..__x": b"x"}))
    assert [f.code for f in outside.findings] == ["archive.path", "archive.stranger"]


def test_a_damaged_config_could_not_be_told(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = keras_file(tmp_path / "m.keras", None)
    data = path.read_bytes().replace(b'"Functional"', b'"Functionel"')
    path.write_bytes(data)
    result = scan(path)
    assert result.exit_code == 2
    assert "Bad CRC-32" in str(result.refusals[0])


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
    (tmp_path / "x.txt").write_bytes(b"import os\nnothing of the kind\n")
    assert scan(tmp_path / "x.txt").exit_code == 2
    (tmp_path / "x.h5").write_bytes(b"")
    assert scan(tmp_path / "x.h5").exit_code == 2
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
    [document] = json.loads(run.output)["results"]
    assert document["schema"] == "ckptkit.scan/2"
    assert document["units"][0]["findings"][0]["code"] == "graph.writes-files"
    run = CliRunner().invoke(cli, ["scan", str(MODEL), "-q"])
    assert (run.exit_code, run.output) == (0, "")


@pytest.mark.parametrize("name", ["nope", "layers", "layers/dense"])
def test_a_part_of_a_file_is_no_model(name: str) -> None:
    path = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
    with pytest.raises(UsageError, match="a whole file is scanned, not a part of it"):
        scan(f"{path}#{name}")


def test_names_from_the_file_are_printed_escaped(tmp_path: Path) -> None:
    tree = {"node": [{"name": "\x1b[31mred\u202e", "op": "WriteFile"}]}
    (tmp_path / "graph.pb").write_bytes(binary("GraphDef", tree))
    output = CliRunner().invoke(cli, ["scan", str(tmp_path / "graph.pb")]).output
    assert "\\x1b[31mred\\u202e" in output
    assert output.isprintable() or all(c.isprintable() or c == "\n" for c in output)


def test_a_prefix_that_ends_in_a_slash_is_a_directory_and_no_special_file(tmp_path: Path) -> None:
    write_bundle(tmp_path / "ckpt", {"w": np.ones(3, np.float32)})
    (tmp_path / "model").mkdir()
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"ckpt{suffix}").rename(tmp_path / "model" / suffix)
    assert scan(tmp_path / "model").ok
    (tmp_path / "model" / ".meta").write_bytes(b"\xff" * 30)  # the graph beside it is looked at
    units = scan(tmp_path / "model").units
    codes = {f.code for unit in units for check in unit.checks for f in check.findings}
    assert "graph.unread" in codes and "file.special" not in codes
