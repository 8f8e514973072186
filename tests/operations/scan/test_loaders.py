"""`scan` judges a file by what its loaders make of it, not by its name or by our own reading."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._hostile_cases import CASES, WORD, Case, Place
from ckptkit.errors import PathNotFoundError
from ckptkit.operations.scan.api import Scan, scan
from ckptkit.operations.scan.keras import allowed_functions, config_findings, text_findings
from ckptkit.operations.scan.pickles import array_finding, is_pickle
from ckptkit.operations.scan.rule import path_inputs
from support.goldens import GOLDEN
from support.holes import const, hdf5_model, saver_tree
from support.hostile_models import (
    binary,
    keras_file,
    layer,
    model_with,
    nested,
    text,
    write_model,
)


def found(result: Scan) -> dict[str, str]:
    """Return the severities by code."""
    return {finding.code: finding.severity for finding in result.findings}


# --- a corpus that is proven to act ---------------------------------------------------------------

_BY_KERAS = ("TextVectorization", "SavedModel in a layer")  # to be made they need Keras itself


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not any(word in case.name for word in _BY_KERAS)],
    ids=lambda case: case.name,
)
def test_what_acts_in_numpy_h5py_or_keras_is_found(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    place = Place(tmp_path / "model", tmp_path / "outside", tmp_path / "secret.txt")
    place.directory.mkdir()
    place.outside.mkdir()
    place.secret.write_text(WORD)
    assert scan(case.make(place)).exit_code == 1


@pytest.mark.slow
@pytest.mark.needs_tf
def test_every_file_of_the_corpus_acts_and_is_found(tmp_path: Path) -> None:
    from benchmarks.hostile_corpus import proofs

    made = list(proofs(tmp_path))
    assert [proof.name for proof in made if not proof.acted] == []
    assert [proof.name for proof in made if scan(proof.path).exit_code != 1] == []
    assert len(made) >= 100


# --- graphs ---------------------------------------------------------------------------------------


def _saver(directory: Path, *more: dict[str, Any], **changed: Any) -> Scan:
    return scan(write_model(directory / "m", saver_tree(*more, **changed), "pb"))


def _node(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"name": name, "op": op, "input": list(inputs)}
    if attributes:
        node["attr"] = [{"key": k, "value": {"s": v}} for k, v in attributes.items()]
    return node


def test_a_plain_saver_is_in_order(tmp_path: Path) -> None:
    assert _saver(tmp_path, _node("more", "NoOp"), restore="restore").exit_code == 0


SNEAKED = {
    "what is joined leads out": [
        const("up", "/../../../../else/x"),
        _node("path", "StringJoin", "filename", "up"),
        _node("sneaked", "SaveV2", "path", "names", "names"),
    ],
    "the separator leads out": [
        const("there", "x"),
        _node("path", "StringJoin", "filename", "there", separator="/../../"),
        _node("sneaked", "SaveV2", "path", "names", "names"),
    ],
    "the second path of an op": [
        const("there", "/nowhere/at/all"),
        _node("list", "Pack", "filename"),
        _node("sneaked", "MergeV2Checkpoints", "list", "there"),
    ],
    "a default": [
        const("there", "pwn"),
        _node("path", "PlaceholderWithDefault", "there"),
        _node("sneaked", "SaveV2", "path", "names", "names"),
    ],
    "text kept in another way": [
        _node("there", "Const"),
        _node("path", "Pack", "filename", "there"),
        _node("sneaked", "RestoreV2", "path", "names", "names"),
    ],
    "a shared variable": [
        const("there", "/etc/x"),
        _node("one", "VarHandleOp", shared_name="v"),
        _node("two", "VarHandleOp", shared_name="v"),
        _node("a", "AssignVariableOp", "one", "there"),
        _node("b", "AssignVariableOp", "two", "filename"),
        _node("path", "ReadVariableOp", "two", "^a", "^b"),
        _node("sneaked", "RestoreV2", "path", "names", "names"),
    ],
    "another output of the op that is fed": [
        const("there", "/etc/x"),
        _node("sneaked", "RestoreV2", "filename:1", "names", "names"),
    ],
}


@pytest.mark.parametrize("name", SNEAKED)
def test_what_a_restore_op_sneaks_in_is_found(name: str, tmp_path: Path) -> None:
    result = _saver(tmp_path, *SNEAKED[name])
    (finding,) = [f for f in result.findings if f.severity == "error"]
    assert "sneaked" in finding.where
    assert finding.message.endswith("when the model is loaded")


def test_what_is_joined_to_a_prefix_may_stay_below_it(tmp_path: Path) -> None:
    more = [const("part", "/part"), _node("path", "StringJoin", "filename", "part")]
    read = _node("sneaked", "RestoreV2", "path", "names", "names")
    assert _saver(tmp_path, *more, read).exit_code == 0


ASSET = {"tensor_info": {"name": "asset:0"}, "filename": "words.txt"}


def _asset_tree(*nodes: dict[str, Any], asset: str = "Placeholder") -> dict[str, Any]:
    own = const("asset", "/etc/passwd") if asset == "Const" else _node("asset", asset)
    graph = {
        "graph_def": {"node": [own, *nodes]},
        "asset_file_def": [ASSET],
        "signature_def": {
            "key": "serving_default",
            "value": {"outputs": {"key": "y", "value": {"name": "read:0"}}},
        },
    }
    return {"meta_graphs": graph}


def test_only_the_asset_itself_is_the_models_own(tmp_path: Path) -> None:
    read = _node("read", "ReadFile", "asset")
    assert scan(write_model(tmp_path / "own", _asset_tree(read), "pb")).exit_code == 0
    joined = [
        const("up", "/../../etc/hostname"),
        _node("path", "StringJoin", "asset", "up"),
        _node("read", "ReadFile", "path"),
    ]
    (finding,) = scan(write_model(tmp_path / "up", _asset_tree(*joined), "pb")).findings
    assert "words.txt + '/../../etc/hostname', when it is called" in finding.message


def _function(name: str, *arguments: Any, ret: str, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    signature = {
        "name": name,
        "input_arg": [a if isinstance(a, dict) else {"name": a, "type": 7} for a in arguments],
        "output_arg": [{"name": "out", "type": 7}],
    }
    return {"signature": signature, "node_def": nodes, "ret": {"key": "out", "value": ret}}


def _calling(op: str, *inputs: str) -> dict[str, Any]:
    attribute = {"key": "body", "value": {"func": {"name": "f"}}}
    return {"name": "read", "op": op, "input": list(inputs), "attr": attribute}


NODES = [_node("inner", "ReadFile", "path"), const("secret", "/etc/x")]
# what calls the function f, its arguments, what it gives back
HANDED: dict[str, tuple[dict[str, Any], list[Any], str, int]] = {
    "a call": (_calling("PartitionedCall", "asset"), ["path"], "inner:contents:0", 0),
    "a branch": (_calling("If", "names", "asset"), ["path"], "inner:contents:0", 0),
    "what a map captures": (_calling("MapDataset", "names", "asset"), ["x", "path"], "path", 0),
    "a loop": (_calling("While", "asset"), ["path"], "path", 0),
    "a loop's next path": (_calling("While", "asset"), ["path"], "secret:output:0", 1),
    "an element": (_calling("MapDataset", "asset"), ["path"], "path", 1),
    "in parallel": (_calling("ParallelMapDataset", "names", "asset", "x"), ["path", "y"], "y", 1),
    "a scan": (_calling("ScanDataset", "names", "asset"), ["s", "path"], "s", 1),
    "a counted loop": (_calling("For", "n", "n", "n", "asset"), ["i", "path"], "path", 1),
    "a list": (
        _calling("PartitionedCall", "names", "asset"),
        [{"name": "path", "type": 7, "number_attr": "N"}],
        "inner:contents:0",
        1,
    ),
}


@pytest.mark.parametrize("name", HANDED)
def test_a_function_is_given_what_its_op_hands_over(name: str, tmp_path: Path) -> None:
    op, arguments, ret, code = HANDED[name]
    tree = _asset_tree(const("names", "/etc/y"), op)
    function = _function("f", *arguments, ret=ret, nodes=NODES)
    tree["meta_graphs"]["graph_def"]["library"] = {"function": [function]}
    assert scan(write_model(tmp_path / "m", tree, "pb")).exit_code == code


def test_a_variable_that_a_function_is_given_may_hold_anything(tmp_path: Path) -> None:
    nodes = [
        _node("path", "ReadVariableOp", "handle"),
        _node("inner", "ReadFile", "path:value:0"),
        _node("assign", "AssignVariableOp", "handle", "given"),
    ]
    function = _function("f", "handle", "given", ret="inner:contents:0", nodes=nodes)
    call = _calling("PartitionedCall", "variable", "asset")
    tree = _asset_tree(_node("variable", "VarHandleOp", shared_name="v"), call)
    tree["meta_graphs"]["graph_def"]["library"] = {"function": [function]}
    assert scan(write_model(tmp_path / "m", tree, "pb")).exit_code == 1


def test_a_variables_handle_is_followed_through_identities(tmp_path: Path) -> None:
    nodes = [
        const("secret", "/etc/x"),
        _node("variable", "VarHandleOp", shared_name="v"),
        _node("same", "Identity", "variable"),
        _node("one", "AssignVariableOp", "same", "secret"),
        _node("two", "AssignVariableOp", "variable", "asset"),
        _node("path", "ReadVariableOp", "variable", "^one", "^two"),
        _node("read", "ReadFile", "path"),
    ]
    assert scan(write_model(tmp_path / "m", _asset_tree(*nodes), "pb")).exit_code == 1
    del nodes[3]
    nodes[4] = _node("path", "ReadVariableOp", "variable", "^two")
    assert scan(write_model(tmp_path / "n", _asset_tree(*nodes), "pb")).exit_code == 0


def test_nobody_feeds_an_asset_to_a_signature(tmp_path: Path) -> None:
    """The path that stands in the graph is the one that is read."""
    tree = _asset_tree(_node("read", "ReadFile", "asset"), asset="Const")
    assert scan(write_model(tmp_path / "called", tree, "pb")).exit_code == 1
    tree["meta_graphs"]["signature_def"]["key"] = "__saved_model_init_op"
    assert scan(write_model(tmp_path / "loaded", tree, "pb")).exit_code == 0


def test_loaders_start_from_more_than_the_main_op(tmp_path: Path) -> None:
    """A local variable's initializer is run where there is no main op."""
    save = _node("start", "SaveV2", "filename", "names", "names")
    tree = saver_tree(save, restore="restore")
    assert found(scan(write_model(tmp_path / "m", tree, "pb"))) == {"graph.dormant-saver": "note"}
    tree = saver_tree(_node("y", "NoOp", "^start"), save, restore="restore")
    variable = binary("VariableDef", {"variable_name": "v", "initializer_name": "y"}).decode()
    held = {"bytes_list": {"value": variable}}
    tree["meta_graphs"]["collection_def"] = {"key": "local_variables", "value": held}
    (finding,) = scan(write_model(tmp_path / "n", tree, "pb")).findings
    assert "start" in finding.where
    assert finding.message == "writes files, when the model is loaded"


def test_a_function_that_is_called_like_an_op_is_ambiguous(tmp_path: Path) -> None:
    tree = model_with("NoOp", "function")
    functions = tree["meta_graphs"]["graph_def"]["library"]["function"]
    functions.append({"signature": {"name": "Identity"}, "node_def": []})
    assert found(scan(write_model(tmp_path / "m", tree, "pb"))) == {"graph.ambiguous": "warning"}


def test_a_graph_in_pieces_is_not_harmless(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", model_with("NoOp", "graph"), "pb")
    assert scan(model).exit_code == 0
    (model / "saved_model.cpb").write_bytes(b"x")
    assert found(scan(model)) == {"graph.unread": "warning"}


def test_a_damaged_graph_hides_no_other(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", model_with("WriteFile", "graph"), "pb")
    (model / "saved_model.pbtxt").write_text("{{{")
    assert found(scan(model)) == {"graph.writes-files": "error", "graph.unread": "warning"}


def test_paths_are_told_by_the_names_of_arguments() -> None:
    assert path_inputs("MergeV2Checkpoints") == (0, 1)
    assert path_inputs("SaveV2") == (0,)
    assert path_inputs("InitializeTableFromTextFileV2") == (1,)
    assert path_inputs("MatMul") == ()


@pytest.mark.needs_tf
def test_the_list_of_paths_is_what_the_rule_gives() -> None:
    from support.make_harmless_ops import paths

    assert {name: path_inputs(name) for name in paths()} == paths()


# --- directories ----------------------------------------------------------------------------------


def _model(directory: Path) -> Path:
    return write_model(directory, model_with("NoOp", "graph"), "pb")


def test_links_and_special_files_in_a_model(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    model = _model(tmp_path / "m")
    (model / "inside").symlink_to("saved_model.pb")
    assert scan(model).exit_code == 0
    (model / "variables").symlink_to(tmp_path / "outside")
    assert found(scan(model)) == {"file.link": "error"}
    broken = _model(tmp_path / "n")
    (broken / "assets").symlink_to(tmp_path / "gone")
    assert found(scan(broken)) == {"file.link": "warning"}
    if hasattr(os, "mkfifo"):
        pipe = _model(tmp_path / "p")
        os.mkfifo(pipe / "words.txt")
        assert found(scan(pipe)) == {"file.special": "error"}


def test_the_links_of_a_hubs_cache_are_its_own(tmp_path: Path) -> None:
    blobs = tmp_path / "models--x" / "blobs"
    model = tmp_path / "models--x" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    model.mkdir(parents=True)
    made = _model(tmp_path / "made") / "saved_model.pb"
    made.rename(blobs / "abc")
    (model / "saved_model.pb").symlink_to("../../blobs/abc")
    assert scan(model).exit_code == 0


def test_a_model_of_keras_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(PathNotFoundError):  # it is some other library's
        scan(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(layer("Lambda")))
    assert found(scan(tmp_path)) == {"keras.lambda": "error"}


def test_configs_and_arrays_in_a_directory(tmp_path: Path) -> None:
    """A directory stands for all in it that some loader takes."""
    (tmp_path / "weights.npy").write_bytes(b"c_io\nopen\n(S'x'\ntR.")
    assert found(scan(tmp_path)) == {"pickle": "error"}
    (tmp_path / "model.json").write_text(json.dumps(layer("Lambda")))
    assert found(scan(tmp_path)) == {"pickle": "error", "keras.lambda": "error"}
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/config.json").write_text(json.dumps(layer("Dense")))
    assert len(scan(tmp_path).units) == 3


def test_a_state_file_that_leads_out(tmp_path: Path) -> None:
    source = GOLDEN / "tf2.21.0" / "adam"
    run, other = tmp_path / "run", tmp_path / "other"
    for directory in (run, other):
        directory.mkdir()
        for name in ("ckpt.index", "ckpt.data-00000-of-00001"):
            (directory / name).write_bytes((source / name).read_bytes())
    (run / "checkpoint").write_text('model_checkpoint_path: "/somewhere/else/ckpt"\n')
    assert scan(run).exit_code == 0  # of the machine that wrote it
    (run / "checkpoint").write_text('model_checkpoint_path: "../other/ckpt"\n')
    assert found(scan(run)) == {"state.path": "warning"}


@pytest.mark.parametrize("as_text", [False, True])
def test_a_graph_beside_a_checkpoint(tmp_path: Path, as_text: bool) -> None:
    source = GOLDEN / "tf2.21.0" / "adam"
    for name in ("ckpt.index", "ckpt.data-00000-of-00001"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    tree = saver_tree(_node("data", "ReadFile", "names"))["meta_graphs"]
    meta = tmp_path / "ckpt.meta"

    def write() -> None:
        if as_text:
            meta.write_text(text("MetaGraphDef", tree))
        else:
            meta.write_bytes(binary("MetaGraphDef", tree))

    tree["saver_def"]["restore_op_name"] = "restore"
    collection = {"node_list": {"value": ["data"]}}  # who restores does not run it
    tree["collection_def"] = {"key": "table_initializer", "value": collection}
    write()
    assert found(scan(tmp_path / "ckpt")) == {"graph.reads-files": "note"}  # to train on
    tree["graph_def"]["node"].append(_node("sneaked", "WriteFile", "names", "names"))
    tree["saver_def"]["restore_op_name"] = "sneaked"
    write()
    for path in (tmp_path / "ckpt", tmp_path, meta):
        assert found(scan(path))["graph.writes-files"] == "error"
    meta.write_bytes(b"\xff\0")
    assert found(scan(tmp_path / "ckpt")) == {"graph.unread": "warning"}


def test_an_index_of_shards(tmp_path: Path) -> None:
    index = tmp_path / "m.weights.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../x.weights.h5"}}))
    assert found(scan(index)) == {"index.path": "error"}


# --- archives, arrays, pickles --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/evil.json", "/etc/evil.json", "..\\..\\evil.json", "assets/../../evil.json"],
)
def test_json_members_lead_out_too(name: str, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = keras_file(tmp_path / "m.keras", None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "{}")
    assert found(scan(path))["archive.path"] == "error"


def test_plain_archives_and_arrays_pass(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(3), b=np.array(["x"]), c=np.zeros(2, "f4,(2,3)i8"))
    np.savez_compressed(tmp_path / "b.npz", a=np.ones((3, 4), order="F"))
    np.save(tmp_path / "c.npy", np.zeros(2, [("x", "<M8[ns]"), ("y", [("z", "S3")])]))
    for path in tmp_path.iterdir():
        assert scan(path).exit_code == 0, scan(path).findings


def test_nothing_in_it_is_not_harmless(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    for path in tmp_path.iterdir():
        assert scan(path).exit_code == 2


def test_what_is_no_array_in_an_npz(tmp_path: Path) -> None:
    for name, data in (("b.pkl", b"(I1\n."), ("a.npy", b"no array"), ("c.zip", b"PK\3\4")):
        path = tmp_path / f"{name}.npz"
        buffer = io.BytesIO()
        np.save(buffer, np.ones(3))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", buffer.getvalue())
            archive.writestr(name, data)
        assert scan(path).exit_code == 1
        assert all(name in finding.where for finding in scan(path).findings)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|' + 'O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': ['<f4'], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': 'T', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': " + "(" * 200 + "'|O'" + ", (1,))" * 200 + "}",
        "[1]",
        "",
    ],
)
def test_a_header_that_is_not_understood_is_a_warning(header: str) -> None:
    data = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    finding = array_finding(data, "x")
    assert finding is not None
    assert (finding.severity, finding.code) == ("warning", "npz.unknown")


def test_other_bytes_are_no_pickle(tmp_path: Path) -> None:
    """A safetensors header of 640 bytes begins with the mark of the second protocol."""
    header = (640).to_bytes(8, "little") + b'{"a":{"dtype":"F32"' + b" " * 600
    for data in (header, b"import os\ncls\n(a tRick)\n", b"c two words\nx\n.", b""):
        assert not is_pickle(io.BytesIO(data))
    long = b"S'" + b"a" * 100_000 + b"'\n0c_io\nopen\n(S'x'\ntR."
    (tmp_path / "long.npy").write_bytes(long)
    assert found(scan(tmp_path / "long.npy")) == {"pickle": "error"}


OPEN = b"c_io\nopen\n(S'x'\ntR."
PADDED = {
    "a number that Python alone reads": b"I0x10\n0" + OPEN,
    "a long one": b"L0x10L\n0" + OPEN,
    "many values": b"N0" * 200_000 + OPEN,
    "a long value": b"B" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20) + b"0" + OPEN,
    "a long line": b"V" + b"x" * (1 << 20) + b"\n0" + OPEN,
    "a module that is only imported": b"cantigravity\nx\n.",
}


@pytest.mark.parametrize("name", PADDED)
def test_what_stands_before_a_call_does_not_hide_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(PADDED[name])
    assert found(scan(tmp_path / "x.npy")) == {"pickle": "error"}


def test_a_member_without_a_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    data = (tmp_path / "a.npz").read_bytes().replace(b"x.npy", b"\0.npy")
    (tmp_path / "a.npz").write_bytes(data)
    assert found(scan(tmp_path / "a.npz"))["archive.path"] == "error"


def test_an_archive_of_another_kind_could_not_be_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("export/saved_model.pb", b"x")
    assert scan(tmp_path / "a.zip").exit_code == 2


# --- HDF5 and configs -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reference", "record", "opaque", "array", "numbers"])
def test_a_config_of_another_type_is_not_harmless(kind: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    values: dict[str, Any] = {
        "record": np.zeros(1, [("a", "S9")]),
        "opaque": np.void(b"{}"),
        "array": np.array([b"{}", b"{}"]),
        "numbers": np.arange(3),
    }

    def write(_h5py: Any, file: Any) -> None:
        if kind == "reference":
            file.attrs["model_config"] = file["d"].ref
        else:
            file.attrs["model_config0"] = values[kind]

    assert h5py
    path = hdf5_model(tmp_path / "m.h5", None, write)
    assert "keras.unknown" in found(scan(path))


def test_values_that_are_no_numbers_are_not_understood(tmp_path: Path) -> None:
    def write(h5py: Any, file: Any) -> None:
        file.create_dataset("d/reference", (1,), h5py.ref_dtype)

    assert found(scan(hdf5_model(tmp_path / "m.h5", None, write))) == {"hdf5.unknown": "warning"}


@pytest.mark.parametrize("block", [512, 2048])
def test_hdf5_may_begin_later(block: int, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", userblock_size=block) as file:
        file.attrs["model_config"] = json.dumps(layer("Lambda"))
        file["x"] = [1.0]
    assert found(scan(path)) == {"keras.lambda": "error", "hdf5.odd": "note"}


ODD_CONFIGS: dict[str, Any] = {
    "a type of no module of TensorFlow's": {
        "class_name": "__typespec__",
        "spec_name": "system",
        "module": "os",
        "config": [],
        "registered_name": None,
    },
    "a type that is none": {
        "class_name": "__typespec__",
        "spec_name": "load",
        "module": "tensorflow.python.framework.ops",
    },
    "a registered name": {**layer("Dense"), "registered_name": "Dense2"},
    "a dotted name": {**layer("layers.Lambda"), "module": "keras"},
    "a vocabulary that is made": layer(
        "StringLookup", vocabulary={"class_name": "__numpy__", "config": {"value": "/etc/x"}}
    ),
    "a function that reads": {"class_name": "TFOpLambda", "config": {"function": "io.read_file"}},
    "a function that samples from a file": {
        "class_name": "TFOpLambda",
        "config": {"function": "random.fixed_unigram_candidate_sampler"},
    },
}


@pytest.mark.parametrize("name", ODD_CONFIGS)
def test_odd_configs(name: str) -> None:
    assert [f.severity for f in config_findings(nested(ODD_CONFIGS[name], 2), "c")]


def test_what_keras_writes_of_itself_passes() -> None:
    spec = {
        "class_name": "__typespec__",
        "spec_name": "TensorSpec",
        "module": "tensorflow.python.framework.tensor",
        "config": [[None, 3], "float32"],
        "registered_name": None,
    }
    loss = {
        "module": "builtins",
        "class_name": "function",
        "config": "mean_squared_error",
        "registered_name": "function",
    }
    plain = [
        layer("Dense", activation=loss),
        layer("InputLayer", spec=spec),
        layer("StringLookup", vocabulary=["/", "~", "http://x", "../y"], mask_token="/"),
        {"class_name": "TFOpLambda", "config": {"function": "math.multiply"}},
        {"class_name": "TFOpLambda", "config": {"function": "expand_dims"}},
        layer("LayerScale", "keras.src.applications.convnext", projection_dim=3),
        {
            **layer("CustomScaleLayer", "tf_keras.src.applications.inception_resnet_v2"),
            "registered_name": "Custom>CustomScaleLayer",
        },
        layer("Constant", "tensorflow.python.ops.init_ops_v2", value=1.0),
        {"class_name": "SlicingOpLambda", "config": {"function": "__operators__.getitem"}},
    ]
    for item in plain:
        assert list(config_findings(nested(item, 1), "c")) == []


@pytest.mark.needs_tf
def test_the_list_of_functions_is_what_keras_finds() -> None:
    from support.make_keras_classes import functions

    assert set(functions()) & allowed_functions()
    assert len(set(functions()) - allowed_functions()) < 20  # of another version


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (b'{"class_name": "Lambda", "class_name": "Dense"}', ["keras.ambiguous"]),
        (b'{"clip": Infinity, "mask": NaN}', []),
        (b"not JSON", ["keras.unknown"]),
        (b"[" * 100_000, ["keras.unknown"]),
        ('{"class_name": "Lambda"}'.encode("utf-16"), ["keras.lambda"]),
    ],
)
def test_configs_are_read_as_keras_reads_them(data: bytes, codes: list[str]) -> None:
    assert [finding.code for finding in text_findings(data, "c")] == codes


# --- LiteRT ---------------------------------------------------------------------------------------


def _litert(*names: str) -> bytes:
    """Return the smallest LiteRT model that names these custom ops."""
    vtable = struct.pack("<4H", 8, 8, 0, 4)  # two fields, of which a table has the second
    data = struct.pack("<I4s", 16, b"TFL3") + vtable
    data += struct.pack("<iI", 8, 4)  # the model, and its list of ops right behind it
    data += struct.pack("<I", len(names))
    first, each = len(data) + 4 * len(names), 56
    data += b"".join(
        struct.pack("<I", first + 8 + i * each - (len(data) + 4 * i)) for i in range(len(names))
    )
    for name in names:
        text = struct.pack("<I", len(name)) + name.encode()
        data += (vtable + struct.pack("<iI", 8, 4) + text).ljust(each, b"\0")
    return data


# StringLower of TensorFlow as its converter writes it (tf.lite, SELECT_TF_OPS, TensorFlow 2.21)
FLEX = Path(__file__).with_name("string_lower.tflite")


def test_what_a_flex_op_names_in_its_options_is_what_runs(tmp_path: Path) -> None:
    data = FLEX.read_bytes()
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    assert scan(path).findings == ()
    other = data.replace(b"\x0bStringLower\0", b"\x08ReadFile\0\0\0\0", 1)
    path.write_bytes(other)
    (finding,) = scan(path).findings
    assert (finding.severity, finding.code) == ("error", "graph.reads-files")
    options = data.index(b"\x0bStringLower\0")
    for at in range(options, options + 140):  # no flip is a crash; one in the name is a finding
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        assert scan(path).exit_code == (1 if at <= options + 11 else scan(path).exit_code)


def test_litert_models_name_their_ops(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(_litert("FlexAddV2"))
    assert scan(path).exit_code == 0
    path.write_bytes(_litert("FlexAddV2", "FlexWriteFile", "TFLite_Detection_PostProcess"))
    assert [(f.severity, f.code) for f in scan(path).findings] == [
        ("error", "graph.writes-files"),
        ("warning", "graph.unknown-op"),
    ]
    for size in (9, 20, 24, 30, 60):
        path.write_bytes(_litert("FlexWriteFile")[:size])
        assert scan(path).exit_code == 2
    path.write_bytes(b"\xff\xff\xff\xffTFL3" + b"\xff" * 40)
    assert scan(path).exit_code == 2
