"""Sparse, ragged and nested inputs of functions and Keras models: their parts, drawn and given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ckptkit
from ckptkit.golden.golden import read_golden
from ckptkit.model_io.random_inputs import candidate_inputs
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays
    from ckptkit.runners.child.session import Session

pytestmark = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of SavedModels: `parts` of composite inputs, `open` without signatures."""
    import tensorflow as tf

    function: Any = tf.function

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3), name="w")

        @function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.SparseTensorSpec([None, 4], tf.float32),
                tf.RaggedTensorSpec([None, None], tf.int64),
            ]
        )
        def parts(self, x: Any, r: Any) -> Any:
            rows = tf.reduce_sum(tf.gather(self.w, r), axis=1)
            return {"y": tf.sparse.sparse_dense_matmul(x, self.w), "s": rows, "r": r}

        @function(  # type: ignore[untyped-decorator]
            input_signature=[
                {
                    "a": tf.TensorSpec([None, 4]),
                    "b": (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64)),
                },
                tf.RaggedTensorSpec([None, None, 3], tf.float32),
            ]
        )
        def nested(self, x: Any, q: Any) -> Any:
            y = (x["a"] + x["b"][0]) @ self.w
            return {"y": y + tf.cast(x["b"][1], tf.float32)[:, None], "q": tf.reduce_sum(q, [1, 2])}

        @function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])  # type: ignore[untyped-decorator]
        def parsing(self, examples: Any) -> Any:
            features = {
                "a": tf.io.FixedLenFeature([4], tf.float32),
                "r": tf.io.RaggedFeature(tf.int64),
                "s": tf.io.VarLenFeature(tf.string),
            }
            found = tf.io.parse_example(examples, features)
            lengths = tf.strings.length(tf.sparse.to_dense(found["s"], ""))
            return {"y": found["a"] @ self.w, "n": tf.reduce_sum(found["r"], 1), "s": lengths}

    folder = tmp_path_factory.mktemp("models")
    model = Model()
    signatures = {"parts": model.parts, "nested": model.nested, "parsing": model.parsing}
    tf.saved_model.save(model, str(folder / "signed"), signatures=signatures)
    tf.saved_model.save(Model(), str(folder / "open"))
    return folder


def opened(path: Path) -> Session:
    """Return a SavedModel, ready to run in this process."""
    from ckptkit.runners.tensorflow.session import open_saved_model

    return open_saved_model(path, [], RunnerSpec())


def drawn(session: Session, key: str) -> Arrays:
    """Return the first inputs that are made up for a signature."""
    facts = session.describe()
    [inputs] = next(
        candidate_inputs(
            facts.signatures[key].inputs,
            seed=20,
            words=facts.words,
            int_high=facts.int_high,
            examples=facts.examples.get(key, {}),
        )
    )
    return inputs


def test_a_signature_takes_parts_by_its_own_names(models: Path) -> None:
    session = opened(models / "signed")
    infos = {info.name: info for info in session.describe().signatures["parts"].inputs}
    assert list(infos) == ["r", "r_1", "x", "x_1", "x_2"]
    kinds = {name: (info.part.kind, info.part.role) for name, info in infos.items() if info.part}
    assert kinds == {
        "r": ("ragged", "values"),
        "r_1": ("ragged", "row_splits"),
        "x": ("sparse", "indices"),
        "x_1": ("sparse", "values"),
        "x_2": ("sparse", "dense_shape"),
    }
    inputs = drawn(session, "parts")
    outputs = session.call("parts", inputs)
    w = np.arange(12, dtype=np.float32).reshape(4, 3)
    dense = np.zeros(inputs["x_2"], np.float32)
    dense[tuple(inputs["x"].T)] = inputs["x_1"]
    np.testing.assert_allclose(outputs["y"], dense @ w, rtol=1e-5)
    starts = inputs["r_1"][:-1].astype(int)
    np.testing.assert_allclose(outputs["s"], np.add.reduceat(w[inputs["r"]], starts), rtol=1e-5)
    np.testing.assert_array_equal(outputs["r/row_splits"], inputs["r_1"])


def test_a_function_takes_parts_by_their_roles(models: Path) -> None:
    session = opened(models / "open")
    signatures = session.describe().signatures
    assert [info.name for info in signatures["parts"].inputs] == [
        *("x/indices", "x/values", "x/dense_shape", "r/values", "r/row_splits"),
    ]
    assert [info.name for info in signatures["nested"].inputs] == [
        *("x_a", "x_b_0", "x_b_1", "q/values", "q/row_splits", "q/row_splits_1"),
    ]
    for key in ("parts", "nested"):
        assert session.call(key, drawn(session, key))


def test_both_ways_give_the_same(models: Path) -> None:
    signed, free = opened(models / "signed"), opened(models / "open")
    inputs = drawn(free, "parts")
    names = {
        "x": "x/indices", "x_1": "x/values", "x_2": "x/dense_shape", "r": "r/values",
        "r_1": "r/row_splits",
    }  # fmt: skip
    given = {name: inputs[names[name]] for name in ("r", "r_1", "x", "x_1", "x_2")}
    one, two = free.call("parts", inputs), signed.call("parts", given)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])


@pytest.mark.parametrize("key", ["nested", "parsing"])
def test_inputs_are_made_up_that_a_model_takes(models: Path, key: str) -> None:
    session = opened(models / "signed")
    outputs = session.call(key, drawn(session, key))
    assert all(len(array) == 4 for array in outputs.values())


def test_parts_that_contradict_each_other_are_refused(models: Path) -> None:
    session = opened(models / "open")
    inputs = {**drawn(session, "parts"), "r/row_splits": np.array([3, 1, 0], np.int64)}
    with pytest.raises(Exception, match=r"partition|splits|Arguments"):
        session.call("parts", inputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_keras_models_are_recorded_and_checked(tmp_path: Path, kind: str) -> None:
    import keras

    if kind == "sparse":
        inputs = keras.Input((4,), sparse=True, name="x")
        outputs = keras.layers.Dense(3)(inputs)
    else:
        inputs = keras.Input((None,), ragged=True, name="x", dtype="int32")
        outputs = keras.layers.Embedding(10, 3)(inputs)
    model = tmp_path / "model.keras"
    keras.Model(inputs, outputs).save(model)
    ckptkit.record(model, tmp_path / "golden", noise=False)
    names = set(read_golden(tmp_path / "golden").cases[0].inputs)
    roles = ("indices", "values", "dense_shape") if kind == "sparse" else ("values", "row_splits")
    assert names == {f"x/{role}" for role in roles}
    assert ckptkit.check(model, golden=tmp_path / "golden", on="CPU:0,eager").ok
