"""Frozen graphs and frozen SavedModels of the installed TensorFlow: constants as tensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.stores.proto.messages import message_class
from support.command_line import ckptkit as run
from support.command_line import refused
from support.goldens import golden

needs_tf = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with model.ckpt, frozen.pb and saved_model/ of it, and those of TensorFlow 2."""
    from ckptkit.runners.tensorflow.module import tensorflow

    tf = tensorflow()
    v1, folder = tf.compat.v1, tmp_path_factory.mktemp("frozen")
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], "image")
        with v1.variable_scope("net"):
            kernel = v1.get_variable("conv/weights", [3, 3, 3, 16], use_resource=False)
            bias = v1.get_variable("conv/biases", [16], use_resource=False)
            half = v1.get_variable("half", [16], tf.bfloat16, use_resource=False)
        y = tf.nn.conv2d(x, kernel, 1, "SAME") + bias + tf.cast(half, tf.float32)
        y = tf.identity(tf.reduce_mean(y, [1, 2]), "scores")
        with v1.Session(graph=graph) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "model.ckpt"))
            constants = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), ["scores"]
            )
    (folder / "frozen.pb").write_bytes(constants.SerializeToString())
    with tf.Graph().as_default() as graph:
        v1.import_graph_def(constants, name="")
        x, y = (graph.get_tensor_by_name(name) for name in ("image:0", "scores:0"))
        signature = v1.saved_model.signature_def_utils.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(folder / "saved_model"))
        with v1.Session(graph=graph) as session:
            builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    (folder / "saved_model/variables").mkdir(exist_ok=True)
    return folder


@needs_tf
@pytest.mark.parametrize("name", ["frozen.pb", "saved_model"])
def test_constants_are_listed_and_are_the_variables_values(frozen: Path, name: str) -> None:
    listing = ckptkit.ls(frozen / name)
    weights = {spec.key for spec, naming in listing.tensors if naming.role == "weight"}
    assert weights == {"net/conv/weights", "net/conv/biases", "net/half"}
    shown = run("ls", frozen / name)
    assert "frozen: 4 constants of the graph, 3 of them with 464 parameters" in shown.out
    checkpoint = ckptkit.load(frozen / "model.ckpt")
    for key, values in ckptkit.load(frozen / name).items():
        if key in weights:
            assert values.dtype == checkpoint[key].dtype
            assert values.tobytes() == checkpoint[key].tobytes()


@needs_tf
@pytest.mark.parametrize("name", ["frozen.pb", "saved_model"])
def test_they_are_a_side_of_diff_and_a_source(frozen: Path, tmp_path: Path, name: str) -> None:
    assert run("diff", frozen / name, frozen / "model.ckpt").code == 0
    assert run("diff", frozen / "model.ckpt", frozen / name).code == 0
    out = tmp_path / "new.ckpt"
    assert run("convert", frozen / name, out, "--to", "tensor-bundle", "--weights-only").code == 0
    assert run("diff", out, frozen / "model.ckpt").code == 0
    assert run("verify", frozen / name).code == 0
    assert run("scan", frozen / name).code == 0
    shown = run("show", frozen / name, "net/conv/biases")
    assert "16 elements" in shown.out


@needs_tf
@pytest.mark.parametrize("like", [True, False])
def test_nothing_can_be_put_into_one(frozen: Path, tmp_path: Path, like: bool) -> None:
    arguments = [frozen / "model.ckpt", tmp_path / "out", "--like", frozen / "saved_model"]
    if not like:
        arguments = [frozen / "saved_model", tmp_path / "out"]
    said = refused("convert", *arguments, "--to", "saved-model")
    assert "its weights are constants of its graph" in said
    assert not (tmp_path / "out").exists()


@needs_tf
def test_content_tells_a_graph_not_its_name(frozen: Path, tmp_path: Path) -> None:
    shutil.copy(frozen / "frozen.pb", tmp_path / "model.bin")
    assert run("ls", tmp_path / "model.bin").code == 0
    (tmp_path / "other.pb").write_bytes(b"no graph at all, but some text")
    assert "no TensorFlow graph, as its name says" in refused("ls", tmp_path / "other.pb")
    saved = golden("tf2.21.0/module_saved_model/model").path / "saved_model.pb"
    shutil.copy(saved, tmp_path / "graph.pb")
    assert "a SavedModel under another name" in refused("ls", tmp_path / "graph.pb")


def test_constants_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Functions name their nodes as they like; what is equal is listed once."""
    graph = message_class("GraphDef")()
    for function, value in (("", 1.0), ("", 1.0), ("f", 2.0), ("g", 3.0), ("h", 3.0)):
        if function:
            body = graph.library.function.add()
            body.signature.name = function
            node = body.node_def.add(name="w", op="Const")
        else:
            node = graph.node.add(name="w", op="Const")
        tensor = node.attr["value"].tensor
        tensor.dtype = 1
        tensor.tensor_shape.dim.add(size=2)
        tensor.float_val.append(value)
    path = tmp_path / "g.pb"
    path.write_bytes(graph.SerializeToString())
    loaded = {key: values.tolist() for key, values in ckptkit.load(path).items()}
    assert loaded == {"w": [1.0, 1.0], "f/w": [2.0, 2.0], "g/w": [3.0, 3.0], "h/w": [3.0, 3.0]}


def test_values_that_do_not_fill_their_shape_are_refused(tmp_path: Path) -> None:
    graph = message_class("GraphDef")()
    tensor = graph.node.add(name="w", op="Const").attr["value"].tensor
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=3)
    tensor.tensor_content = np.zeros(2, np.float32).tobytes()
    path = tmp_path / "g.pb"
    path.write_bytes(graph.SerializeToString())
    assert "do not fill the shape (3,)" in refused("show", path, "w")
    verified = run("verify", path)
    assert verified.code == 1
    assert "w: its values do not fill the shape" in verified.out


FLOAT, INT32, STRING, BOOL, INT4 = 1, 3, 7, 10, 29  # of DataType


@pytest.mark.parametrize(
    ("dtype", "size", "fields", "is_taken"),
    [
        (FLOAT, 2, {"tensor_content": bytes(8)}, True),
        (FLOAT, 3, {"tensor_content": bytes(8)}, False),
        (FLOAT, 1, {"tensor_content": bytes(8)}, False),
        (FLOAT, 0, {"tensor_content": bytes(8)}, True),
        (FLOAT, 2, {"float_val": [1.0, 2.0, 3.0]}, True),
        (FLOAT, 2, {}, True),
        (FLOAT, -1, {"float_val": [1.0]}, False),
        (BOOL, 2, {"tensor_content": b"\1\0"}, True),
        (BOOL, 2, {"tensor_content": b"\2\0"}, False),
        (INT4, 2, {"tensor_content": b"\1\2"}, True),
        (INT4, 2, {"tensor_content": b"\x12"}, False),
        (STRING, 3, {}, True),
        (STRING, 1, {"string_val": [b"a", b"b"]}, True),
        (STRING, 2, {"tensor_content": b"\1\2abc"}, True),
        (STRING, 2, {"tensor_content": b"\1\3abc"}, False),
        (STRING, 9, {"tensor_content": b"\1\2abc"}, False),
    ],
)
def test_constants_of_a_saved_model_must_have_values(
    tmp_path: Path, dtype: int, size: int, fields: Mapping[str, object], is_taken: bool
) -> None:
    """`is_taken`: what TensorFlow 2.21 makes of each when the op runs."""
    verified = run("verify", saved_model_of(tmp_path, dtype, size, fields, dtype))
    assert verified.code == (0 if is_taken else 1)
    assert ("graph: constant w has no value: " in verified.out) is not is_taken


def test_constants_must_be_of_their_dtype(tmp_path: Path) -> None:
    verified = run("verify", saved_model_of(tmp_path, FLOAT, 2, {}, INT32))
    assert verified.code == 1
    assert "constant w has no value: it is to be int32, and its value is float32" in verified.out


def test_a_frozen_saved_model_counts_what_was_checked(tmp_path: Path) -> None:
    content = {"tensor_content": bytes(8)}
    verified = run("verify", saved_model_of(tmp_path, FLOAT, 2, content, FLOAT))
    assert "sound (1 tensor, 8 B read, " in verified.out


def test_a_value_repeated_beyond_memory_is_refused(tmp_path: Path) -> None:
    graph = message_class("GraphDef")()
    fill_constant(graph, FLOAT, 1 << 45, {"float_val": [1.0]}, FLOAT)
    path = tmp_path / "g.pb"
    path.write_bytes(graph.SerializeToString())
    assert run("ls", path).code == 0
    for command in (["show", path, "w"], ["diff", path, path], ["verify", path]):
        shown = run(*command)
        assert shown.code == 2
        assert "a constant of 35,184,372,088,832 elements" in shown.out + shown.err


def saved_model_of(
    folder: Path, dtype: int, size: int, fields: Mapping[str, object], declared: int
) -> Path:
    """Write a SavedModel of one constant, of `size` elements, as `fields` of its TensorProto."""
    model = message_class("SavedModel")(saved_model_schema_version=1)
    meta = model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    fill_constant(meta.graph_def, dtype, size, fields, declared)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def fill_constant(
    graph: Any, dtype: int, size: int, fields: Mapping[str, object], declared: int
) -> None:
    node = graph.node.add(name="w", op="Const")
    node.attr["dtype"].type = declared
    tensor = message_class("TensorProto")(dtype=dtype, **fields)
    tensor.tensor_shape.dim.add(size=size)
    node.attr["value"].tensor.CopyFrom(tensor)
