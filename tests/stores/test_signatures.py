"""Signatures of all kinds, of one graph and of several, as TensorFlow writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.diff.beside.signatures import BREAKING, COMPATIBLE, _of_defaults
from ckptkit.stores.base import Signature
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.proto.tensors import numbers_of
from ckptkit.stores.saved_model.signatures import _values_text
from support import places
from support.command_line import ckptkit as run
from support.command_line import json_results, refused
from support.weights import write_bundle

needs_tf = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def tf() -> Any:
    from ckptkit.runners.tensorflow.module import tensorflow

    return tensorflow()


def _predict(tf: Any, x: Any, y: Any) -> Any:
    return tf.compat.v1.saved_model.signature_def_utils.predict_signature_def({"x": x}, {"y": y})


@pytest.fixture(scope="module")
def several(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with the graphs train, serve and serve,gpu."""
    v1, path = tf.compat.v1, tmp_path_factory.mktemp("several") / "export"
    builder = v1.saved_model.Builder(str(path))
    for number, tags in enumerate((["train"], ["serve"], ["serve", "gpu"])):
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            weights = [v1.get_variable(f"v{n}", [3], use_resource=False) for n in range(2)]
            x = v1.placeholder(tf.float32, [None, 3], "x")
            signatures = {"serving_default": _predict(tf, x, x * weights[0])}
            if number == 0:
                session.run(v1.global_variables_initializer())
                builder.add_meta_graph_and_variables(session, tags, signatures)
            else:
                v1.train.Saver()
                signatures["double"] = _predict(tf, x, 2 * x * weights[1])
                builder.add_meta_graph(tags, signatures)
    builder.save()
    return path


@needs_tf
def test_each_graph_has_signatures_of_its_own(several: Path) -> None:
    shown = run("ls", several).out
    for line in (
        "signature serving_default of train(x: float32[?,3]) -> y: float32[?,3]",
        "signature serving_default of serve(x: float32[?,3]) -> y: float32[?,3]",
        "signature double of serve, gpu(x: float32[?,3]) -> y: float32[?,3]",
    ):
        assert line in shown
    assert "no graph is tagged" not in shown
    told = json_results("ls", several)[0]["signatures"]
    assert [(item["key"], item["tags"]) for item in told] == [
        ("serving_default", ["train"]),
        ("double", ["serve"]),
        ("serving_default", ["serve"]),
        ("double", ["serve", "gpu"]),
        ("serving_default", ["serve", "gpu"]),
    ]


@needs_tf
def test_one_graph_is_asked_for_by_its_tags(several: Path) -> None:
    shown = run("ls", several, "--tags", "gpu,serve").out
    assert shown.count("\nsignature ") == 2
    assert "of train" not in shown
    listing = ckptkit.ls(several, tags=["train"])
    assert [signature.key for signature in listing.signatures] == ["serving_default"]
    said = refused("ls", several, "--tags", "tpu")
    assert "no graph has the tags tpu" in said
    assert "those there: train; serve; serve,gpu" in said


@needs_tf
def test_a_graph_that_no_loader_asks_for_is_pointed_out(tf: Any, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    for name, tags in (("train", ["train"]), ("letters", "serve")):
        builder = v1.saved_model.Builder(str(tmp_path / name))
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            v = v1.get_variable("v", [3], use_resource=False)
            x = v1.placeholder(tf.float32, [None, 3], "x")
            session.run(v.initializer)
            builder.add_meta_graph_and_variables(
                session, tags, {"serving_default": _predict(tf, x, x * v)}
            )
        builder.save()
    assert "no graph is tagged 'serve'" in run("ls", tmp_path / "train").out
    assert "a tag for each letter" not in run("ls", tmp_path / "train").out
    assert "tags: s, e, r, v, e (a tag for each letter" in run("ls", tmp_path / "letters").out


@needs_tf
def test_sparse_and_ragged_inputs_are_no_dense_ones(tf: Any, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.sparse_placeholder(tf.float32, [None, 5], "x")
        r = v1.ragged.placeholder(tf.int64, 1, name="r")
        w = v1.get_variable("w", [5, 2], use_resource=False)
        y = tf.sparse.sparse_dense_matmul(x, w)
        session.run(w.initializer)
        out = {"y": y, "r2": r.with_values(r.values + 1)}
        v1.saved_model.simple_save(session, str(tmp_path / "v1"), {"x": x, "r": r}, out)
    shown = run("ls", tmp_path / "v1").out
    assert "x: sparse float32[?,5]" in shown
    assert "(r: ragged int64[" in shown
    assert "r2: ragged int64[" in shown
    assert "y: float32[?,2]" in shown


def _export(path: Path, version: str, shape: list[int] | None) -> Path:
    """Write a SavedModel whose signature has an empty shape, and whose placeholder has `shape`."""
    model = message_class("SavedModel")(saved_model_schema_version=1)
    meta = model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.meta_info_def.tensorflow_version = version
    node = meta.graph_def.node.add(name="x", op="Placeholder")
    if shape is not None:
        for size in shape:
            node.attr["shape"].shape.dim.add(size=size)
    info = meta.signature_def["serving_default"].inputs["x"]
    info.name, info.dtype = "x:0", 1
    info.tensor_shape.SetInParent()
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    write_bundle(path / "variables/variables", {"w": np.ones((2, 3), np.float32)})
    return path


@pytest.mark.parametrize(
    ("version", "shape", "shown"),
    [
        ("1.0.1", [-1, 784], "x: float32[?,784]"),
        ("0.12.1", None, "x: float32[unknown]"),
        ("1.13.1", [-1, 784], "x: float32[scalar]"),
    ],
)
def test_an_empty_shape_of_an_old_tensorflow_is_an_unknown_one(
    tmp_path: Path, version: str, shape: list[int] | None, shown: str
) -> None:
    assert shown in run("ls", _export(tmp_path / "export", version, shape)).out


DEFAULTS = r"""
import sys
import tensorflow as tf

def save(path, scale, words, many):
    module = tf.Module()
    specs = [
        tf.TensorSpec([None], name="x"),
        tf.TensorSpec([], name="scale"),
        tf.TensorSpec([2], tf.string, name="words"),
        tf.TensorSpec([3, 3], tf.int32, name="many"),
    ]

    @tf.function(input_signature=specs)
    def call(x, scale=scale, words=words, many=many):
        return {"y": x * scale + tf.cast(many[0, 0], tf.float32)}

    module.call = call
    tf.saved_model.save(module, path, signatures=call)

words = tf.constant(["a", b"\xff"])
save("old", tf.constant(0.1), words, tf.zeros([3, 3], tf.int32))
save("same", tf.constant(0.1), words, tf.zeros([3, 3], tf.int32))
save("new", tf.constant(0.2), words, tf.eye(3, dtype=tf.int32))
"""


@needs_tf
def test_defaults_of_inputs_are_part_of_a_signature(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", DEFAULTS],
        cwd=tmp_path,
        env={**os.environ, **places.environment()},
        check=True,
        capture_output=True,
    )
    old, same, new = (tmp_path / name for name in ("old", "same", "new"))
    assert ', scale: float32[scalar] = 0.1, words: string[2] = ["a", "\\udcff"], x: ' in (
        run("ls", old).out
    )
    by_name = {
        item["name"]: item for item in json_results("ls", old)[0]["signatures"][-1]["inputs"]
    }
    assert by_name["scale"]["default"] == "0.1" and "default" not in by_name["x"]
    assert by_name["many"]["default"].startswith("sha256:")

    def signature(path: Path) -> str | None:
        return ckptkit.ls(path, digest=["signature"]).digests["signature"]

    assert signature(old) == signature(same) != signature(new)
    assert run("diff", "--config", old, same).code == 0
    told = run("diff", "--config", old, new)
    assert told.code == 1
    assert "serving_default input scale default 0.1 → 0.2 (breaking)" in told.out
    assert "serving_default input many default sha256:" in told.out
    assert "words" not in told.out


def test_a_default_that_came_or_went() -> None:
    x, scale = ("x", "float32", (None,)), ("scale", "float32", ())
    with_one = Signature("serve", (x, scale), (), defaults=(("scale", "0.1"),))
    without = Signature("serve", (x, scale), ())
    for old, new, effect in ((with_one, without, BREAKING), (without, with_one, COMPATIBLE)):
        [change] = _of_defaults("serve", old, new)
        assert change.effect == effect and change.where == "serve input scale"


def tensor_proto(dtype: int, shape: list[int], **fields: Any) -> Any:
    message = message_class("TensorProto")(dtype=dtype, **fields)
    for size in shape:
        message.tensor_shape.dim.add().size = size
    return message


@pytest.mark.filterwarnings("error")
def test_an_infinite_part_of_a_complex_number_leaves_the_other_as_it_is() -> None:
    tensor = tensor_proto(8, [2], scomplex_val=[1, np.inf, -2, 0.5])
    found = numbers_of(tensor, "complex64", 2)
    assert found is not None and found.dtype == np.complex64
    assert found.real.tolist() == [1, -2] and found.imag.tolist() == [np.inf, 0.5]


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (tensor_proto(1, [], float_val=[np.nan]), "NaN"),
        (tensor_proto(3, [2, 1], int_val=[1, 2]), "[1, 2] as [2,1]"),
        (tensor_proto(3, [0]), "[]"),
        (tensor_proto(7, [], string_val=[b"\xff"]), '"\\udcff"'),
        (tensor_proto(7, [], string_val=[b"a" * 1000]), "sha256:"),
        (tensor_proto(1, [1 << 20], float_val=[1]), "sha256:"),
        (tensor_proto(1, [1 << 62, 1 << 62], float_val=[1]), "sha256:"),
        (tensor_proto(1, [-1]), "sha256:"),
        (tensor_proto(999, [2]), "sha256:"),
    ],
)
def test_the_text_of_a_default(tensor: Any, told: str) -> None:
    found = _values_text(tensor)
    assert found == told or (told == "sha256:" and found.startswith(told) and len(found) == 71)


def test_many_values_are_told_by_what_they_are_and_not_by_how_they_are_written() -> None:
    whole = tensor_proto(1, [20], float_val=[0.5] * 20)
    packed = tensor_proto(1, [20], tensor_content=np.full(20, 0.5, "<f4").tobytes())
    other = tensor_proto(1, [20], float_val=[0.5] * 19 + [0.25])
    assert _values_text(whole) == _values_text(packed) != _values_text(other)
