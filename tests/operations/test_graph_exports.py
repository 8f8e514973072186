"""Exports of TensorFlow 1: assets in a collection, and several graphs told apart by their tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import UsageError
from ckptkit.operations.convert.api import MismatchError
from support.command_line import ckptkit as run

pytestmark = pytest.mark.needs_tf

_WORDS = ("a", "b", "c")


def export(path: Path, words: Sequence[str], tags: Sequence[Sequence[str]]) -> Path:
    """Write an export whose graphs look up words of a vocabulary file; each adds a number more."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    vocabulary = path.with_name("vocab.txt")
    vocabulary.write_text("".join(f"{word}\n" for word in words))
    builder = tf1.saved_model.Builder(str(path))
    for number, of_graph in enumerate(tags):
        with tf.Graph().as_default(), tf1.Session() as session:
            inputs = tf1.placeholder(tf.string, [None], "words")
            file = tf.constant(str(vocabulary), name="vocabulary")
            tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, file)
            lines = tf.lookup.TextFileIndex.LINE_NUMBER
            keys = tf.lookup.TextFileIndex.WHOLE_LINE
            filler = tf.lookup.TextFileInitializer(file, tf.string, keys, tf.int64, lines)
            table = tf.lookup.StaticHashTable(filler, 0)
            w = tf1.get_variable("w", initializer=tf.constant([[1.0, 2], [3, 4], [5, 6]]))
            outputs = tf.gather(w, table.lookup(inputs)) + float(number)
            session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
            signature = tf1.saved_model.predict_signature_def({"x": inputs}, {"y": outputs})
            options = {
                "signature_def_map": {"serving_default": signature},
                "assets_collection": tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
                "main_op": tf1.tables_initializer(),
            }
            if number == 0:
                builder.add_meta_graph_and_variables(session, list(of_graph), **options)
            else:
                builder.add_meta_graph(list(of_graph), **options)
    builder.save()
    return path


def without_own_list(path: Path) -> Path:
    """Leave the assets in the collection alone, as TensorFlow 1 wrote them."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in message.meta_graphs:
        assert graph.collection_def["saved_model_assets"].any_list.value
        del graph.asset_file_def[:]
    file.write_bytes(message.SerializeToString())
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of exports, the assets of each in the collection alone."""
    folder = tmp_path_factory.mktemp("exports")
    several = [["serve"], ["train"], ["serve", "gpu"]]
    for name, words, tags in (
        ("one", _WORDS, [["serve"]]),
        ("other", ("a", "c", "b"), [["serve"]]),
        ("several", _WORDS, several),
        ("unserved", _WORDS, several[1:]),
    ):
        without_own_list(export(folder / name, words, tags))
    return folder


# -- assets ----------------------------------------------------------------------------------------


def test_assets_are_listed(exports: Path) -> None:
    assert ckptkit.ls(exports / "one").to_json()["assets"] == ["vocab.txt"]


def test_a_vocabulary_is_not_dropped_silently(exports: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"vocab\.txt of \S+ would not be carried"):
        ckptkit.convert(exports / "one", tmp_path / "ck", to="checkpoint")
    receipt = ckptkit.convert(
        exports / "one", tmp_path / "ck", to="checkpoint", allow_unused=["assets/vocab.txt"]
    )
    assert [item["name"] for item in receipt.to_json()["left"]] == ["assets/vocab.txt"]


def test_another_vocabulary_is_refused(exports: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="its words would mean other rows"):
        ckptkit.convert(exports / "one", tmp_path / "out", to="saved-model", like=exports / "other")


def test_a_copy_has_its_vocabulary(exports: Path, tmp_path: Path) -> None:
    receipt = ckptkit.convert(exports / "one", tmp_path / "out", to="saved-model")
    assert receipt.ok
    assert (tmp_path / "out/assets/vocab.txt").read_text() == "a\nb\nc\n"
    assert receipt.proof is not None
    assert receipt.proof.outputs is not None
    assert receipt.proof.outputs.ok


def test_a_vocabulary_that_differs_is_said(exports: Path) -> None:
    result = ckptkit.diff(exports / "one", exports / "other")
    assert result.same
    [row] = result.beside
    assert row.what == "vocabularies"
    assert "'b' → 'c'" in str(row)


def test_scan_and_verify_know_them(exports: Path, tmp_path: Path) -> None:
    assert run("scan", str(exports / "one")).code == 0
    assert ckptkit.verify(exports / "one").ok
    copy = tmp_path / "copy"
    ckptkit.convert(exports / "one", copy, to="saved-model")
    (copy / "assets/vocab.txt").unlink()
    result = ckptkit.verify(copy)
    assert not result.ok
    assert "vocab.txt" in run("verify", str(copy)).out


# -- several graphs --------------------------------------------------------------------------------


def test_all_graphs_are_kept(exports: Path, tmp_path: Path) -> None:
    ckptkit.convert(exports / "several", tmp_path / "out", to="saved-model")
    tags = ckptkit.ls(tmp_path / "out").to_json()["tags"]
    assert sorted(tags) == sorted(ckptkit.ls(exports / "several").to_json()["tags"])
    assert len(tags) == 3


def test_one_graph_is_written(exports: Path, tmp_path: Path) -> None:
    receipt = ckptkit.convert(
        exports / "several", tmp_path / "out", to="saved-model", tags=["gpu", "serve"]
    )
    document = receipt.to_json()
    assert document["tags"] == ["gpu", "serve"]
    assert document["like"] is None
    assert document["signatures"] == []
    assert receipt.proof is not None
    assert receipt.proof.outputs is not None
    assert receipt.proof.outputs.ok
    assert [{*tags} for tags in ckptkit.ls(tmp_path / "out").to_json()["tags"]] == [
        {"serve", "gpu"}
    ]
    assert ckptkit.verify(tmp_path / "out").ok
    import tensorflow as tf

    [row] = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"](
        tf.constant(["b"])
    )["y"]
    assert row.numpy().tolist() == [5.0, 6.0]  # the third graph adds two


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tags": ["serve", "train"]}, "no graph has the tags serve,train"),
        ({"tags": ["train"]}, "npz holds no graphs"),
    ],
)
def test_tags_that_mean_nothing(
    exports: Path, tmp_path: Path, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ckptkit.convert(exports / "several", tmp_path / "out.npz", **keywords)


def test_the_graph_that_is_run(exports: Path, tmp_path: Path) -> None:
    for tags, added in (("train", 1), ("serve,gpu", 2)):
        golden = tmp_path / tags
        options = ("--tags", tags, "--no-noise", "--no-blind", "-o", str(golden))
        assert run("record", str(exports / "several"), *options).code == 0
        with np.load(golden / "drawn.outputs.npz") as outputs:
            assert outputs["y"].min() == 1 + added


def test_without_tags_a_graph_that_is_none_of_several_is_refused(exports: Path) -> None:
    result = run("check", str(exports / "unserved"), "--on", "CPU:0", "--on", "CPU:0,threads=1")
    assert result.code == 2
    assert "train; serve,gpu" in result.err
    assert "--tags" in result.err
