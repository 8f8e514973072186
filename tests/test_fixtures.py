"""Reference models write the files that they promise, and training loops do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptkit import errors, fixtures
from ckptkit.cli.main import cli

needs_tf = pytest.mark.needs_tf
# Keras and TensorFlow call numpy in ways that numpy 2 warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]

ALL = {"ckpt", "saved_model", "export", "model.keras", "model.weights.h5", "model.h5"}
WRITES = {
    "mlp_module": {"ckpt", "saved_model"},
    "custom_layer": ALL,
    "subclassed": ALL - {"model.h5"},
    "list_of_blocks": ALL - {"model.h5"} | {"ckpt_without_optimizer"},
    "sequential": ALL,
    "functional_cnn": ALL,
    "multi_io": ALL,
    "recurrent": ALL - {"saved_model"},
    "transformer": ALL - {"saved_model"},
    "text_lookup": ALL - {"export", "model.h5"} | {"vocabulary.txt"},
    "mixed_precision": ALL - {"model.h5"},
    "partitioned_embedding": {"model.ckpt", "saved_model"},
    "gan": {"ckpt", "model.keras", "model.weights.h5", "export"},
    "training_directory": {"ckpt-15", "ckpt-20"},
    "mirrored": {"ckpt", "model.keras", "model.weights.h5"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that makes a fixture, once in this module."""
    root = tmp_path_factory.mktemp("fixtures")

    def make(name: str) -> Path:
        if not (root / name).exists():
            fixtures.make(name, root / name)
        return root / name

    return make


def run(code: str, *arguments: str) -> str:
    """Run Python code in a process of its own; return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# The registry


def test_listing_needs_no_tensorflow_and_no_numpy() -> None:
    code = """
import sys
from ckptkit import fixtures
print(*fixtures.list_fixtures())
assert not {"tensorflow", "keras", "numpy", "sklearn"} & set(sys.modules)
"""
    assert set(run(code).split()) == set(fixtures.NAMES) == set(WRITES)


def test_command_lists_every_fixture_with_its_description() -> None:
    result = CliRunner().invoke(cli, ["fixtures", "list"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == list(fixtures.NAMES)
    assert all(row.description in line for row, line in zip(fixtures.NAMES.values(), lines))  # noqa: B905


def test_unknown_name_lists_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="functional_cnn"):
        fixtures.make("functional_cn", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_used_directory_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    mine = target / "mine" if kind == "directory" else target
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    with pytest.raises(errors.OutputError, match="not empty"):
        fixtures.make("mlp_module", target)
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["precious"]


@needs_tf
def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(errors.MissingDependencyError, match="pip install"):
        fixtures.make("functional_cnn", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@needs_tf
@pytest.mark.parametrize("name", [name for name in WRITES if name != "mirrored"])
def test_fixture_writes_what_it_promises(made: Any, name: str) -> None:
    import keras
    import tensorflow as tf

    folder = made(name)
    for form in WRITES[name]:
        path = folder / form
        if form.startswith(("ckpt", "model.ckpt")):
            assert len(tf.train.list_variables(str(path))) > 1
        elif form in ("saved_model", "export"):
            assert (path / "saved_model.pb").stat().st_size
            assert tf.train.list_variables(str(path / "variables" / "variables"))
        elif form in ("model.keras", "model.h5"):
            model = keras.models.load_model(path, compile=False)
            assert all(np.isfinite(np.float32(w)).all() for w in model.get_weights())
        else:
            assert path.stat().st_size
    found = {p.name.removesuffix(".index").split(".data-")[0] for p in folder.iterdir()}
    assert found - {"checkpoint"} == WRITES[name]


@needs_tf
def test_command_makes_into_an_empty_directory(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["fixtures", "make", "mlp_module", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(tmp_path / "ckpt"), str(tmp_path / "saved_model")]
    assert (tmp_path / "ckpt.index").exists()


# What single models are there to show


@needs_tf
def test_blocks_in_a_list_are_lost_without_the_optimizer(made: Any) -> None:
    import tensorflow as tf

    folder = made("list_of_blocks")
    shapes = [s for _, s in tf.train.list_variables(str(folder / "ckpt_without_optimizer"))]
    assert [4, 4] not in shapes and [4, 1] in shapes
    keys = [k for k, s in tf.train.list_variables(str(folder / "ckpt")) if s == [4, 4]]
    assert sum("/_trainable_variables/" in key for key in keys) == 3


@needs_tf
def test_partitioned_embedding_is_stored_as_slices(made: Any) -> None:
    from ckptkit.stores.tensor_bundle.reader import open_bundle

    store = open_bundle(made("partitioned_embedding") / "model.ckpt")
    for key in ("embedding", "embedding/Momentum"):
        assert store.specs[key].shape == (1000, 8)
        assert len(store.specs[key].slices) == 3


@needs_tf
def test_served_words_become_labels_and_are_counted(made: Any) -> None:
    import tensorflow as tf

    folder = made("text_lookup")
    assert (folder / "saved_model" / "assets" / "vocabulary.txt").read_text().startswith("good\n")
    serve = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    words = tf.constant([["good"] * 6, ["bad"] * 6])
    assert serve(words=words)["label"].numpy().tolist() == [b"good", b"bad"]
    reader = tf.train.load_checkpoint(str(folder / "ckpt"))
    counts = reader.get_tensor("asked/.ATTRIBUTES/table-values")
    assert counts.sum() == 32 * 6


@needs_tf
def test_bfloat16_weights_are_stored_as_such(made: Any) -> None:
    import tensorflow as tf

    dtypes = tf.train.load_checkpoint(str(made("mixed_precision") / "ckpt"))
    names = {dtype.name for dtype in dtypes.get_variable_to_dtype_map().values()}
    assert {"bfloat16", "float32"} <= names


@needs_tf
def test_gan_discriminator_learns_and_both_optimizers_are_saved(made: Any) -> None:
    import tensorflow as tf

    from ckptkit.fixtures.models import gan

    losses = gan.train(gan.Gan(), steps=40)
    assert losses[-1][1] < losses[0][1]  # the discriminator starts by knowing nothing
    keys = [key for key, _ in tf.train.list_variables(str(made("gan") / "ckpt"))]
    for optimizer in ("generator_optimizer", "discriminator_optimizer"):
        assert any(key.startswith(f"{optimizer}/_iterations") for key in keys)


@needs_tf
def test_loss_of_the_session_and_of_the_module_falls() -> None:
    from ckptkit.fixtures.models import mlp_module, partitioned_embedding

    with partitioned_embedding.trained() as (_, _, losses):
        assert losses[-1] < 0.9 * losses[0]
    losses = mlp_module.train(mlp_module.build())
    assert losses[-1] < 0.5 * losses[0]


@needs_tf
def test_cnn_learns_the_digits() -> None:
    import time

    import keras

    from ckptkit.fixtures.models import functional_cnn

    keras.utils.set_random_seed(1)
    start = time.perf_counter()
    accuracy = functional_cnn.train(functional_cnn.build())
    assert accuracy > 0.95
    assert time.perf_counter() - start < 60  # 7 s on two idle cores; others may be at work too


# Training loops


def sequential(seed: int = 1) -> Any:
    """Return the sequential model, the same weights each time."""
    import keras

    from ckptkit.fixtures.models import sequential

    keras.utils.set_random_seed(seed)
    return sequential.build()


@needs_tf
def test_fit_lowers_the_loss() -> None:
    from ckptkit.fixtures import data, training

    losses = training.fit(sequential(), *data.table(), epochs=6)
    assert losses[-1] < 0.7 * losses[0]


@needs_tf
def test_graph_loop_equals_eager_loop() -> None:
    from ckptkit.fixtures import data, training

    steps = training.batches(*data.table()) * 2
    eager, graph = sequential(), sequential()
    first = training.eager_loop(eager, eager.optimizer, eager.loss, steps)
    second = training.graph_loop(graph, graph.optimizer, graph.loss, steps)
    np.testing.assert_allclose(first, second, rtol=1e-4)
    for a, b in zip(eager.get_weights(), graph.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    half = len(first) // 2
    assert np.mean(first[half:]) < np.mean(first[:half])


@needs_tf
def test_ascend_moves_the_input_and_no_weight() -> None:
    from ckptkit.fixtures import data, training

    model, x = sequential(), data.table()[0][:8]
    before = model.get_weights()
    moved, outputs = training.ascend(model, x)
    assert outputs == sorted(outputs) and outputs[-1] > outputs[0]
    assert np.abs(moved.numpy() - x).max() > 0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_tf
def test_only_trainable_variables_are_reached() -> None:
    from ckptkit.fixtures import data, training
    from ckptkit.fixtures.models import custom_layer

    model = custom_layer.build()
    steps = training.batches(*data.table())
    reached = training.reached(model, model.loss, steps[0])
    assert len(reached) == 10
    assert {name for name in reached if not reached[name]} == {"gated_1/scale", "gated_2/scale"}


@needs_tf
def test_frozen_layer_is_not_changed_by_training() -> None:
    from ckptkit.fixtures import data, training
    from ckptkit.fixtures.models import custom_layer

    model = custom_layer.build()
    frozen, free = model.get_layer("gated_2"), model.get_layer("gated_1")
    frozen.trainable = False
    before = [layer.get_weights() for layer in (frozen, free)]
    steps = training.batches(*data.table())
    training.eager_loop(model, model.optimizer, model.loss, steps)
    after = [layer.get_weights() for layer in (frozen, free)]
    assert all((a == b).all() for a, b in zip(before[0], after[0], strict=True))
    assert (before[1][0] != after[1][0]).any()


@needs_tf
def test_restarted_run_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    from ckptkit.fixtures import data, training

    steps = training.batches(*data.table()) * 3

    def go(directory: str, until: int, seed: int) -> list[float]:
        model = sequential(seed)
        folder = tmp_path / directory
        return training.resumable(
            model, model.optimizer, model.loss, steps, folder, until=until, every=5, keep=2
        )

    whole = go("whole", 20, seed=1)
    assert len(whole) == 20
    assert len(go("cut", 12, seed=1)) == 12
    rest = go("cut", 20, seed=2)  # other weights to begin with: all must come from the checkpoint
    np.testing.assert_allclose(rest, whole[10:], rtol=1e-4)
    kept = sorted(p.name for p in (tmp_path / "cut").glob("*.index"))
    assert kept == ["ckpt-15.index", "ckpt-20.index"]


@needs_tf
def test_mirrored_checkpoint_has_the_keys_of_an_ordinary_one(made: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    run(
        "import sys; from ckptkit import fixtures; from ckptkit.fixtures import training as t\n"
        "fixtures.make('mirrored', sys.argv[1]); assert len(t.two_cpus()) == 2",
        str(tmp_path / "mirrored"),
    )
    ours = tf.train.list_variables(str(tmp_path / "mirrored" / "ckpt"))
    assert ours == tf.train.list_variables(str(made("sequential") / "ckpt"))
    files = {
        p.name.split(".index")[0].split(".data-")[0] for p in (tmp_path / "mirrored").iterdir()
    }
    assert files == WRITES["mirrored"]


@needs_tf
def test_splitting_the_cpu_too_late_is_refused() -> None:
    import tensorflow as tf

    from ckptkit.fixtures import training

    tf.constant(1.0)  # starts the runtime
    with pytest.raises(errors.UsageError, match="process of its own"):
        training.two_cpus()


# Data


def test_synthetic_data_repeat_and_follow_their_rule() -> None:
    from ckptkit.fixtures import data

    for make in (data.table, data.signals, data.tokens, data.sentences):
        (x, y), (again, _), (other, _) = make(), make(), make(seed=1)
        assert len(x) == len(y) == 256
        np.testing.assert_array_equal(x, again)
        assert (x != other).any()
    x, y = data.tokens(count=50)
    assert y.tolist() == [int(sum(t % 2 == 0 for t in row) > 5) for row in x.tolist()]
    words, y = data.sentences(count=50)
    for row, label in zip(words.tolist(), y.tolist(), strict=True):
        good, bad = (sum(word in words for word in row) for words in (data.GOOD, data.BAD))
        assert label == int(good > bad)


def test_digits_are_split_without_overlap() -> None:
    pytest.importorskip("sklearn")
    from ckptkit.fixtures import data

    split = data.digits()
    assert split.train_x.shape == (1437, 8, 8, 1) and split.test_x.shape == (360, 8, 8, 1)
    assert split.train_x.min() == 0 and split.train_x.max() == 1
    assert set(split.test_y.tolist()) == set(range(10))
    total = np.concatenate([split.train_y, split.test_y])
    assert np.bincount(total).min() > 170
