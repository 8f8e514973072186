"""`convert` against TensorFlow and Keras: what was written restores, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.convert.api import MismatchError, convert
from ckptkit.runners.errors import RunnerError

pytestmark = [
    pytest.mark.needs_tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]

MODELS = "ckptkit.fixtures.models"


class Made:
    """A fixture model with weights of its own, and the files that it was written to."""

    def __init__(self, name: str, directory: Path) -> None:
        from importlib import import_module

        import keras

        from ckptkit.fixtures import saving

        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
        self.module = import_module(f"{MODELS}.{name}")
        self.model = self.module.build()
        self.path = directory
        rng = np.random.default_rng(1)
        for variable in self.model.weights:
            noise = np.abs(rng.normal(size=variable.shape))  # variances are not negative
            variable.assign(noise.astype(variable.dtype) * 0.3 + 0.1)
        self.model.optimizer.build(self.model.trainable_variables)
        for variable in self.model.optimizer.variables[2:]:
            variable.assign(rng.normal(size=variable.shape).astype(variable.dtype))
        directory.mkdir()
        forms = ("ckpt", "saved_model", "export", "model.keras", "model.weights.h5")
        saving.write(self.model, directory, forms if name != "text_lookup" else forms[:1])

    def fresh(self) -> Any:
        """Return a new, built model that holds nothing but NaN."""
        model = self.module.build()
        model.optimizer.build(model.trainable_variables)
        for variable in (*model.weights, *model.optimizer.variables):
            if "float" in variable.dtype:
                variable.assign(np.full(variable.shape, np.nan, variable.dtype))
        return model

    def assert_restored(self, model: Any, *, optimizer: bool = True) -> None:
        """Assert that a model holds every weight of this one, bit for bit."""
        pairs = list(zip(self.model.weights, model.weights, strict=True))
        if optimizer:
            pairs += zip(self.model.optimizer.variables, model.optimizer.variables, strict=True)
        for old, new in pairs:
            assert np.asarray(old).tobytes() == np.asarray(new).tobytes(), new.path


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("functional_cnn", tmp_path_factory.mktemp("cnn") / "m")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("list_of_blocks", tmp_path_factory.mktemp("blocks") / "m")


def restore(path: Path, **objects: Any) -> Any:
    import tensorflow as tf

    return tf.train.Checkpoint(**objects).restore(str(path))


def serve(path: Path, x: Any) -> Any:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # its variables live as long as it does
    return loaded.serve(x).numpy()


def images() -> Any:
    return np.random.default_rng(3).random((3, 8, 8, 1)).astype(np.float32)


# -- weight stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_a_checkpoint_through_a_neutral_file_is_consumed(
    cnn: Made, form: str, tmp_path: Path
) -> None:
    convert(cnn.path / "ckpt", tmp_path / f"w.{form}")
    convert(tmp_path / f"w.{form}", tmp_path / "back", like=cnn.path / "ckpt")
    model = cnn.fresh()
    status = restore(tmp_path / "back", model=model, optimizer=model.optimizer)
    status.assert_consumed()
    cnn.assert_restored(model)


def test_keras_through_npz_predicts_the_same(cnn: Made, tmp_path: Path) -> None:
    import keras

    convert(cnn.path / "model.keras", tmp_path / "w.npz")
    done = convert(tmp_path / "w.npz", tmp_path / "new.keras", like=cnn.path / "model.keras")
    assert done.ok
    model = keras.models.load_model(tmp_path / "new.keras")
    cnn.assert_restored(model)
    x = images()
    assert (model.predict(x, verbose=0) == cnn.model.predict(x, verbose=0)).all()


def test_safetensors_are_what_the_package_reads(cnn: Made, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    convert(cnn.path / "ckpt", tmp_path / "w.safetensors", weights_only=True)
    loaded = load_file(tmp_path / "w.safetensors")
    assert {v.path for v in cnn.model.weights} == set(loaded)
    for variable in cnn.model.weights:
        assert (loaded[variable.path] == np.asarray(variable)).all()


def test_keras_weights_into_a_checkpoint_and_back(cnn: Made, tmp_path: Path) -> None:
    convert(cnn.path / "model.keras", tmp_path / "ckpt", like=cnn.path / "ckpt")
    model = cnn.fresh()
    restore(tmp_path / "ckpt", model=model, optimizer=model.optimizer).assert_consumed()
    cnn.assert_restored(model)
    like = cnn.path / "model.weights.h5"
    convert(cnn.path / "ckpt", tmp_path / "w.weights.h5", like=like, weights_only=True)
    other = cnn.fresh()
    other.load_weights(tmp_path / "w.weights.h5")
    cnn.assert_restored(other, optimizer=False)


def test_a_tensorflow_1_saver_restores_what_was_written(cnn: Made, tmp_path: Path) -> None:
    import tensorflow as tf

    convert(cnn.path / "model.weights.h5", tmp_path / "one", to="checkpoint", weights_only=True)
    wanted = np.asarray(cnn.model.get_layer("conv1").kernel)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        kernel = tf.compat.v1.get_variable("conv1/kernel", (3, 3, 1, 16))
        tf.compat.v1.train.Saver([kernel]).restore(session, str(tmp_path / "one"))
        assert (session.run(kernel) == wanted).all()


# -- SavedModel, without a model's code ------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "blocks"])
def test_a_saved_model_restores_into_a_live_model(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made: Made = request.getfixturevalue(name)
    done = convert(made.path / "saved_model", tmp_path / "ckpt", to="checkpoint", root="model")
    assert done.ok
    model = made.fresh()
    status = restore(tmp_path / "ckpt", model=model)
    status.assert_existing_objects_matched()
    status.assert_nontrivial_match()
    made.assert_restored(model)
    warned = any("held in Python lists" in note for note in done.plan.notes)
    assert warned == (name == "blocks")


def test_the_warning_about_lists_is_true(blocks: Made, tmp_path: Path) -> None:
    done = convert(blocks.path / "saved_model", tmp_path / "ckpt", to="checkpoint")
    model = blocks.module.Stack(name="stack")  # not compiled: no optimizer leads to the lists
    model(blocks.module.examples()[0][:1])
    before = np.asarray(model.blocks[0].kernel).copy()
    restore(tmp_path / "ckpt", model=model).assert_existing_objects_matched()
    assert (np.asarray(model.blocks[0].kernel) == before).all()  # passed by, and nothing said so
    [note] = [note for note in done.plan.notes if "held in Python lists" in note]
    assert note.startswith("blocks/0/")


def test_saved_model_to_checkpoint_to_saved_model_serves_the_same(
    cnn: Made, tmp_path: Path
) -> None:
    convert(
        cnn.path / "export",
        tmp_path / "ckpt",
        to="checkpoint",
        like=cnn.path / "ckpt",
        weights_only=True,
    )
    other = Made("functional_cnn", tmp_path / "other")
    for variable in other.model.weights:
        variable.assign(np.asarray(variable) * 2)
    other.model.export(str(tmp_path / "donor"), verbose=False)
    # of counters (the state of random seeds) the checkpoint knows nothing: the donor's stay
    done = convert(
        tmp_path / "ckpt", tmp_path / "out", like=tmp_path / "donor", drop_roles=["counter"]
    )
    assert done.ok
    x = images()
    assert (serve(tmp_path / "out", x) == serve(cnn.path / "export", x)).all()
    assert (serve(tmp_path / "donor", x) != serve(tmp_path / "out", x)).any()


def test_two_saved_models_are_compared_by_what_they_compute(cnn: Made, tmp_path: Path) -> None:
    done = convert(cnn.path / "export", tmp_path / "copy", to="saved_model")
    assert done.ok and done.proof is not None and done.proof.outputs is not None
    assert [row["bits"] for row in done.proof.outputs.rows] == [True, True]
    assert done.signatures == () and "tensorflow" in done.versions


def test_tables_follow_into_the_checkpoint(tmp_path: Path) -> None:
    import tensorflow as tf

    from ckptkit.fixtures import data

    made = Made("text_lookup", tmp_path / "m")
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("".join(f"{word}\n" for word in data.WORDS))
    model = made.module.build(vocabulary)
    for old, new in zip(made.model.weights, model.weights, strict=True):
        new.assign(old)
    serving = made.module.Serving(model)
    words = tf.constant([["good", "day", "", "good", "x", "y"]])
    serving.serve(words)
    signatures = {"serving_default": serving.serve}
    tf.saved_model.save(serving, str(tmp_path / "sm"), signatures=signatures)
    with pytest.raises(MismatchError, match="would not be carried"):
        convert(tmp_path / "sm", tmp_path / "ckpt", to="checkpoint", root="net")
    convert(
        tmp_path / "sm", tmp_path / "ckpt", to="checkpoint", root="net", allow_unused=["assets/*"]
    )
    model = made.module.build()
    new = made.module.Serving(model)
    restore(tmp_path / "ckpt", net=new).assert_existing_objects_matched()
    made.assert_restored(model, optimizer=False)
    assert new.asked.lookup(tf.constant("good")).numpy() == 2


# -- with a model ----------------------------------------------------------------------------------


def test_a_checkpoint_and_code_give_a_saved_model(cnn: Made, tmp_path: Path) -> None:
    code = f"{MODELS}.functional_cnn:build"
    with pytest.raises(MismatchError, match=r"\d+ tensors of \S+: the model has no place"):
        convert(cnn.path / "ckpt", tmp_path / "out", to="saved_model", model=code)
    done = convert(
        cnn.path / "ckpt", tmp_path / "out", to="saved_model", model=code, weights_only=True
    )
    assert done.ok and done.proof is not None and done.proof.outputs is not None
    assert done.proof.outputs.why_not == "" and len(done.proof.outputs.rows) == 1
    assert {"tensorflow", "keras"} <= done.versions.keys()
    x = images()
    assert np.allclose(serve(tmp_path / "out", x), cnn.model(x), rtol=1e-5, atol=1e-6)


def test_layers_in_lists_reach_every_form(blocks: Made, tmp_path: Path) -> None:
    """From a file that has them as `blocks/dense_1`, to a checkpoint, by the code of the model."""
    code = tmp_path / "stack.py"
    code.write_text(
        "from ckptkit.fixtures.models import list_of_blocks\n"
        "def make(**options):\n    assert options == {'x': 1}\n    return list_of_blocks.build()\n"
    )
    source = blocks.path / "model.keras"
    done = convert(source, tmp_path / "ckpt", to="checkpoint", model=f'{code}:make?{{"x": 1}}')
    assert done.ok
    model = blocks.fresh()
    restore(tmp_path / "ckpt", model=model, optimizer=model.optimizer).assert_consumed()
    blocks.assert_restored(model)


@pytest.mark.slow
def test_what_an_export_would_lose_fails_the_proof(blocks: Made, tmp_path: Path) -> None:
    """A checkpoint of an uncompiled model lacks layers in lists; TensorFlow says nothing."""
    code = tmp_path / "bare.py"
    code.write_text(
        "from ckptkit.fixtures.models.list_of_blocks import Stack, examples\n"
        "def make():\n    m = Stack(name='stack')\n    m(examples()[0][:1])\n    return m\n"
    )
    source = blocks.path / "model.weights.h5"
    options = {"to": "checkpoint", "model": f"{code}:make", "weights_only": True}
    done = convert(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not done.ok and done.path == tmp_path / "out.rejected"
    assert any("did not arrive" in failure for failure in done.proof.failures)  # type: ignore[union-attr]
    assert not list(tmp_path.glob("out.index"))


@pytest.mark.slow
def test_a_keras_archive_becomes_a_saved_model_in_safe_mode(cnn: Made, tmp_path: Path) -> None:
    done = convert(cnn.path / "model.keras", tmp_path / "out", to="saved_model", weights_only=True)
    assert done.ok and done.proof is not None and str(done.proof.outputs).startswith("1 compared")
    x = images()
    assert np.allclose(serve(tmp_path / "out", x), cnn.model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_code_in_a_keras_archive_is_not_run(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)])
    model.add(keras.layers.Dense(1))
    model.save(tmp_path / "unsafe.keras")
    with pytest.raises(RunnerError, match="unsafe"):
        convert(tmp_path / "unsafe.keras", tmp_path / "out", to="saved_model")
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_filled_are_refused_by_name(cnn: Made, tmp_path: Path) -> None:
    code = tmp_path / "bad.py"
    code.write_text(
        "from ckptkit.fixtures.models.subclassed import Regressor\n"
        "def unbuilt():\n    return Regressor(name='regressor')\n"
    )
    options = {"to": "saved_model", "weights_only": True}
    with pytest.raises(RunnerError, match=r"not built: Regressor 'regressor', project, refine"):
        convert(cnn.path / "ckpt", tmp_path / "out", model=f"{code}:unbuilt", **options)  # type: ignore[arg-type]
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"bad.py"}


def test_an_unrestored_variable_cannot_hide(cnn: Made, tmp_path: Path) -> None:
    from ckptkit.errors import CkptkitError
    from ckptkit.runners.tensorflow import variables
    from ckptkit.stores.tensor_bundle.edit_graph import edit_graph
    from ckptkit.stores.tensor_bundle.reader import graph_bytes
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
    from ckptkit.stores.writing import TensorToWrite

    variables.write_structure(cnn.model, str(tmp_path / "whole"))
    whole = ckptkit.open(tmp_path / "whole")
    lost = whole.key("bn1/gamma")
    keep = [key for key in whole.specs if key != lost and "OBJECT_GRAPH" not in key]
    write_tensor_bundle(
        tmp_path / "part",
        [TensorToWrite(key, whole.specs[key].dtype, whole.specs[key].shape) for key in keep],
        whole.store.blocks,
        object_graph=edit_graph(graph_bytes(whole.store), "test", keep=keep).data,
    )
    with pytest.raises(CkptkitError, match=r"not restored: bn1/gamma$"):
        variables.fill(cnn.fresh(), str(tmp_path / "part"))
    model = cnn.fresh()
    variables.fill(model, str(tmp_path / "whole"))
    cnn.assert_restored(model)


def test_outputs_that_differ_are_found(cnn: Made, tmp_path: Path) -> None:
    from ckptkit.runners.tensorflow.outputs import file_against_file

    convert(cnn.path / "export", tmp_path / "w.npz", names=["!digit/bias"])
    convert(
        tmp_path / "w.npz",
        tmp_path / "other",
        like=cnn.path / "export",
        check=False,
        allow_missing=["digit/bias"],
    )
    same = file_against_file(str(cnn.path / "export"), str(tmp_path / "other"))
    assert all(row["bits"] for row in same["rows"])
    convert(
        cnn.path / "export",
        tmp_path / "odd",
        to="saved_model",
        check=False,
        like=tmp_path / "other",
        rules=["^bn1/gamma$=>bn1/beta", "^bn1/beta$=>bn1/gamma"],
        allow_renamed=["bn1/*"],
    )
    odd = file_against_file(str(cnn.path / "export"), str(tmp_path / "odd"))
    assert {row["output"] for row in odd["rows"]} == {"serve/output_0", "serving_default/output_0"}
    assert not any(row["ok"] for row in odd["rows"])


def test_outputs_in_a_dict_are_paired_by_name(tmp_path: Path) -> None:
    import keras

    from ckptkit.runners.tensorflow.outputs import live_against_file

    given = keras.Input((4,))
    heads = {name: keras.layers.Dense(size) for size, name in enumerate(("a", "bb", "c"), 1)}
    model = keras.Model(given, {name: layer(given) for name, layer in heads.items()})
    model.export(str(tmp_path / "out"), verbose=False)
    same = live_against_file(model, "saved_model", str(tmp_path / "out"))
    named = [f"serving_default/{name}" for name in heads]
    assert [row["output"] for row in same["rows"] if row["ok"] and row["n"]] == named
    heads["c"].bias.assign([0.0, 0.0, 1e-3])
    odd = live_against_file(model, "saved_model", str(tmp_path / "out"))
    assert [row["output"] for row in odd["rows"] if not row["ok"]] == named[2:]


@pytest.mark.slow
def test_a_checkpoint_and_a_keras_archive_give_a_saved_model(cnn: Made, tmp_path: Path) -> None:
    like = cnn.path / "model.keras"
    options = {"to": "saved_model", "like": like, "receipt": tmp_path / "r.json"}
    done = convert(cnn.path / "ckpt", tmp_path / "out", weights_only=True, **options)  # type: ignore[arg-type]
    assert done.ok and '"model": "' in (tmp_path / "r.json").read_text()
    x = images()
    assert np.allclose(serve(tmp_path / "out", x), cnn.model(x), rtol=1e-5, atol=1e-6)


def test_an_export_and_code_give_a_checkpoint(cnn: Made, tmp_path: Path) -> None:
    """The lists of an export() go back under the model's own objects."""
    code = f"{MODELS}.functional_cnn:build"
    done = convert(
        cnn.path / "export",
        tmp_path / "ckpt",
        to="checkpoint",
        model=code,
        weights_only=True,
    )
    assert done.ok
    model = cnn.fresh()
    restore(tmp_path / "ckpt", model=model).expect_partial()
    cnn.assert_restored(model, optimizer=False)


def test_two_keras_archives_are_compared_by_what_they_compute(cnn: Made, tmp_path: Path) -> None:
    source = cnn.path / "model.keras"
    done = convert(source, tmp_path / "new.keras", like=source)
    assert done.proof is not None and done.proof.outputs is not None
    assert [row["bits"] for row in done.proof.outputs.rows] == [True]
    convert(source, tmp_path / "half.npz", names=["!digit/bias"], weights_only=True)
    other = Made("functional_cnn", tmp_path / "other").path / "model.keras"
    options: dict[str, Any] = {"like": other, "weights_only": True}
    done = convert(
        source, tmp_path / "kept.keras", names=["!digit/bias"], allow_missing=["digit/*"], **options
    )
    assert done.ok and done.proof is not None
    assert str(done.proof.outputs).startswith(f"not compared: digit/bias has the value of {other}")


def test_a_custom_class_is_named_in_one_line(tmp_path: Path) -> None:
    import keras

    @keras.saving.register_keras_serializable("mine")
    class Scale(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x: Any) -> Any:
            return x * self.factor

    model = keras.Sequential([keras.Input((4,)), Scale(), keras.layers.Dense(2)])
    model.save(tmp_path / "custom.keras")
    with pytest.raises(RunnerError, match=r"custom classes.*: Scale \(model='package") as caught:
        convert(tmp_path / "custom.keras", tmp_path / "out", to="saved_model")
    assert len(str(caught.value)) < 300 + len(str(tmp_path)) and "\n" not in str(caught.value)


def test_outputs_do_not_take_the_pairing_as_given(tmp_path: Path) -> None:
    """A map that pairs the wrong layers is found by what the two models compute."""
    import keras

    def model(*names: str) -> Any:
        layers = [keras.layers.Dense(4, activation="tanh", name=name) for name in names]
        return keras.Sequential([keras.Input((4,)), *layers])

    keras.utils.set_random_seed(3)
    model("a", "b").export(str(tmp_path / "source"), verbose=False)
    model("x", "y").save(tmp_path / "like.keras")
    out = tmp_path / "out.keras"

    def converted(first: str, second: str) -> Any:
        rules = [rf"^.*\ba/=>{first}/", rf"^.*\bb/=>{second}/"]
        return convert(
            tmp_path / "source",
            out,
            like=tmp_path / "like.keras",
            rules=rules,
            weights_only=True,
            check_outputs=True,
        )

    names = [name for name in ckptkit.open(tmp_path / "like.keras") if name.endswith("x/kernel")]
    scope = names[0].removesuffix("x/kernel")
    wrong = converted(f"{scope}y", f"{scope}x")
    assert not wrong.ok and "output serving_default/" in wrong.proof.failures[0]
    assert not out.exists()
    right = converted(f"{scope}x", f"{scope}y")
    assert right.ok and right.proof.outputs.ok and right.proof.outputs.rows


@pytest.mark.slow
def test_weights_are_run_by_the_model_that_code_builds(blocks: Made, tmp_path: Path) -> None:
    """SRC and the output are restored by TensorFlow and Keras alone."""
    done = convert(
        blocks.path / "ckpt",
        tmp_path / "out.weights.h5",
        model=f"{MODELS}.list_of_blocks:build",
        weights_only=True,
        check_outputs=True,
    )
    assert done.ok and done.proof is not None
    outputs = done.proof.outputs
    assert outputs is not None and (outputs.rows or "not restored" in outputs.why_not)
    done = convert(
        blocks.path / "model.weights.h5",
        tmp_path / "out.keras",
        model=f"{MODELS}.list_of_blocks:build",
        weights_only=True,
        check_outputs=True,
    )
    assert done.ok and done.proof is not None
    assert done.proof.outputs is not None and done.proof.outputs.rows


def test_outputs_that_are_not_compared_say_why(cnn: Made, tmp_path: Path) -> None:
    done = convert(
        cnn.path / "ckpt",
        tmp_path / "out.keras",
        like=cnn.path / "model.keras",
        weights_only=True,
        check_outputs=True,
    )
    why = done.to_json()["proof"]["outputs"]["why_not"]
    assert done.ok and "holds no model to run (tensor-bundle)" in why
