"""Lookup tables: found by path, listed, shown, compared, converted, told apart by their digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit.operations.findings import Finding
from ckptkit.stores.base import ObjectGraph
from ckptkit.stores.tensor_bundle.reader import open_bundle
from support.command_line import ckptkit as run

pytestmark = pytest.mark.needs_tf


def vocabulary(words: dict[str, int]) -> Any:
    """Return a module with a table of words, one of numbers, a string variable and a weight."""
    import tensorflow as tf

    class Vocabulary(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ids = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            self.ids.insert(list(words), tf.constant(list(words.values()), tf.int64))
            self.scores = tf.lookup.experimental.DenseHashTable(
                tf.int64, tf.float32, -1.0, empty_key=-1, deleted_key=-2, initial_num_buckets=4
            )
            self.scores.insert(tf.constant([1, 2], tf.int64), tf.constant([0.5, 0.25]))
            self.labels = tf.Variable(["cat", "d\u00f6g"], name="labels")
            self.w = tf.Variable(tf.range(3.0), name="w")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "words")])  # type: ignore[untyped-decorator]
        def look_up(self, words: Any) -> Any:
            return {"ids": self.ids.lookup(words), "w": self.w}

    return Vocabulary()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint and an export of one module, and of a changed one."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("tables")
    for name, words in (("same", {"a": 1, "b/c.d": 2, "": 3}), ("other", {"a": 1, "b": 7, "": 3})):
        module = vocabulary(words)
        tf.train.Checkpoint(model=module).write(str(folder / f"{name}.ckpt"))
        tf.saved_model.save(
            module, str(folder / f"{name}.export"), signatures={"serving_default": module.look_up}
        )
    return folder


NAMES = {"ids.table-keys", "ids.table-values", "scores.table-keys", "scores.table-values", "labels"}


@pytest.mark.parametrize("form", ["same.ckpt", "same.export"])
def test_tables_are_listed_as_such(files: Path, form: str) -> None:
    listing = ckptkit.ls(files / form, roles=["table"])
    assert {tensor.naming.name for tensor in listing.tensors} == NAMES
    assert listing.totals["params"] == 0
    assert ckptkit.ls(files / form).totals["params"] == 3


def test_their_contents_are_shown(files: Path) -> None:
    shown = ckptkit.show(files / "same.ckpt", "ids.table-keys").values
    assert shown is not None
    assert set(shown.tolist()) == {b"a", b"b/c.d", b""}
    names = ckptkit.open(files / "same.ckpt").names
    assert any("model/ids.table-keys" in naming.aliases for naming in names.values())


@pytest.mark.parametrize("pair", [("ckpt", "export"), ("export", "ckpt")])
def test_one_module_is_the_same_in_both_forms(files: Path, pair: tuple[str, str]) -> None:
    left, right = (files / f"same.{form}" for form in pair)
    assert ckptkit.diff(left, right).ok
    result = ckptkit.diff(left, files / f"other.{pair[1]}")
    changed = {change.name for change in result.changes if change.status != "equal"}
    assert changed == {"ids.table-keys", "ids.table-values"}


def test_the_digest_tells_tables_apart(files: Path) -> None:
    forms = ("same.ckpt", "same.export", "other.ckpt", "other.export")
    same, again, other, third = (ckptkit.ls(files / form, digest=True).digest for form in forms)
    assert same == again != other == third


def test_weights_alone_leave_them_out(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    result = run("convert", files / "same.ckpt", out, "--weights-only")
    assert result.code == 0
    assert "--weights-only" not in result.out + result.err
    assert set(ckptkit.load(out)) == {"w"}


def test_an_export_takes_another_checkpoints_tables(files: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    ckptkit.convert(files / "other.ckpt", tmp_path / "out", like=files / "same.export")
    assert ckptkit.diff(tmp_path / "out", files / "other.export").ok
    signature = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    found = signature(words=tf.constant(["a", "b", "b/c.d"]))["ids"].numpy().tolist()
    assert found == [1, 7, -1]


def test_a_part_of_a_checkpoint_keeps_its_tables(files: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    ckptkit.convert(files / "same.ckpt#model", tmp_path / "part", to="checkpoint")
    module = vocabulary({"z": 9})
    tf.train.Checkpoint(module).read(str(tmp_path / "part")).assert_consumed()
    assert module.ids.lookup(tf.constant(["b/c.d", "z"])).numpy().tolist() == [2, -1]


def test_verify_misses_half_a_table(files: Path, tmp_path: Path) -> None:
    from ckptkit.operations.verify.bundle import _AttributeKeys, _missing_keys

    bundle = open_bundle(files / "same.ckpt")
    assert ckptkit.verify(files / "same.ckpt").ok
    graph = bundle.structure
    assert isinstance(graph, ObjectGraph)
    lost = "ids/.ATTRIBUTES/table-values"
    without = {key: spec for key, spec in bundle.specs.items() if not key.endswith(lost)}
    named = _AttributeKeys(graph, without)
    findings: list[Finding] = list(_missing_keys(graph, without, named, "here"))
    assert [f.key for f in findings] == ["model/ids/.ATTRIBUTES/table-values"]
