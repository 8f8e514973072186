"""Pairing by structure: HDF5 groups, object graphs and lists of one model, whatever names say."""

from __future__ import annotations

import random
import shutil
import tarfile
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ckptkit
from ckptkit._io.crc32c import value
from ckptkit.align.layer_scopes import renumbered
from ckptkit.align.matching import Alignment, TensorSet, align
from ckptkit.align.own_variables import OwnVariable, pair_own
from ckptkit.align.variable_lists import join_optimizers
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.diff.result import DiffResult
from ckptkit.stores.base import TensorSpec
from support import pinned

KEPT = Path(__file__).with_name("structures")
FORMS = ("ckpt", "saved_model", "export", "model.keras", "model.weights.h5", "model.h5")

# --- one layer ------------------------------------------------------------------------------------

S, V = ("float32", (4, 4)), ("float32", (4,))


def own(*rows: tuple[str, Any, str | None, bool | None]) -> list[OwnVariable]:
    return [OwnVariable(*row) for row in rows]


def test_trainable_variables_come_first() -> None:
    numbered = own(("0", S, None, None), ("1", S, None, None))
    made = own(("count", S, "count", False), ("kernel", S, "kernel", True))
    assert sorted(pair_own(numbered, made)) == [("0", "kernel"), ("1", "count")]


def test_what_could_be_either_is_not_paired() -> None:
    numbered = own(("0", S, None, None), ("1", S, None, None), ("2", V, None, None))
    made = own(("a", S, "a", None), ("b", S, "b", None), ("c", V, "c", None))
    assert pair_own(numbered, made) == [("2", "c")]
    assert len(pair_own(numbered, [v._replace(trainable=True) for v in made])) == 3


def test_names_that_keras_uses_tell_what_is_trainable() -> None:
    numbered = own(*((str(n), V, None, None) for n in range(4)))
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    made = own(*((n, V, n, None) for n in names))
    assert sorted(pair_own(numbered, made)) == [
        ("0", "gamma"),
        ("1", "beta"),
        ("2", "moving_mean"),
        ("3", "moving_variance"),
    ]


def test_numbers_in_names() -> None:
    assert renumbered(["dense", "dense_1"], ["dense_1", "dense"])["dense"] == "dense"
    assert renumbered(["dense", "dense_1"], ["dense_3", "dense_7"]) == {
        "dense": "dense_3",
        "dense_1": "dense_7",
    }
    assert renumbered(["dense", "dense_1"], ["dense_3"]) == {}
    assert renumbered(["net/block_2/up"], ["net_1/block/up"]) == {
        "net/block_2/up": "net_1/block/up"
    }


def test_optimizers_without_structure_are_left_alone() -> None:
    empty = TensorSet({"w": TensorSpec("w", "float32", (1,), 4)}, {})
    assert join_optimizers(empty, empty) == []


# --- real files -----------------------------------------------------------------------------------


def nested() -> Any:
    """Functional in Functional in Functional, with a custom layer that holds a Sequential."""
    import keras
    from keras import layers

    @keras.saving.register_keras_serializable(package="structures")
    class Scaled(layers.Layer):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.net = keras.Sequential([layers.Dense(4), layers.LayerNormalization()])

        def build(self, shape: Any) -> None:
            self.offset = self.add_weight(shape=(4,), name="offset", trainable=False)
            self.scale = self.add_weight(shape=(4,), name="scale")
            self.net.build(shape)

        def call(self, x: Any) -> Any:
            return self.net(x) * self.scale + self.offset

    deep = keras.Input((4,))
    deepest = keras.Model(deep, Scaled()(layers.Dense(4)(deep)))
    middle = keras.Input((4,))
    inner = keras.Model(middle, layers.Dense(4)(Scaled()(deepest(middle))))
    outer = keras.Input((4,))
    return keras.Model(outer, layers.Dense(1)(layers.Dense(4)(inner(outer))))


def held() -> Any:
    """A subclassed model: own weights, lists, dicts and tuples of layers, equal towers."""
    import keras
    from keras import layers

    @keras.saving.register_keras_serializable(package="structures")
    class Held(keras.Model):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.zeta = layers.Dense(4)
            self.blocks = [layers.Dense(4), layers.Dense(4)]
            self.named = {"b": layers.Dense(4), "a": layers.Dense(4)}
            self.pair = (layers.Dense(4), layers.BatchNormalization())
            self.left = keras.Sequential([layers.Dense(4), layers.Dense(4)])
            self.right = keras.Sequential([layers.Dense(4), layers.Dense(4)])
            self.same = self.zeta
            self.alpha = layers.Dense(1)
            self.gain = self.add_weight(shape=(4,), name="gain")

        def call(self, x: Any, training: bool = False) -> Any:
            x = self.same(self.zeta(x))
            for block in (*self.blocks, *self.named.values(), self.pair[0]):
                x = block(x)
            x = self.pair[1](x, training=training) * self.gain
            return self.alpha(self.left(x) - self.right(x))

    return Held()


def recurrent() -> Any:
    """Bidirectional, wrapped and custom cells."""
    import keras
    from keras import layers, ops

    @keras.saving.register_keras_serializable(package="structures")
    class Cell(layers.Layer):  # type: ignore[misc]
        state_size = 3

        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(shape[-1], 3), name="w")
            self.u = self.add_weight(shape=(3, 3), name="u")
            self.v = self.add_weight(shape=(3, 3), name="v")

        def call(self, x: Any, states: Any) -> Any:
            state = ops.tanh(x @ self.w + states[0] @ self.u @ self.v)
            return state, [state]

    steps = keras.Input((5, 2))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(steps)
    x = layers.TimeDistributed(layers.Dense(6))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.RNN(Cell())(layers.RNN(Cell(), return_sequences=True)(x))
    return keras.Model(steps, layers.Dense(1)(x))


MODELS = {"nested": (nested, (4,)), "held": (held, (4,)), "recurrent": (recurrent, (5, 2))}


@pytest.fixture(
    scope="module",
    params=["nested", *(pytest.param(s, marks=pytest.mark.slow) for s in ("held", "recurrent"))],
)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All forms of a model at two instants, one step of training apart: DIR/0 and DIR/1."""
    import keras
    import numpy as np

    from ckptkit.fixtures import saving

    build, shape = MODELS[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    keras.utils.set_random_seed(11)
    rng = np.random.default_rng(2)
    model = build()
    x, y = rng.normal(size=(8, *shape)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, verbose=0)
    for variable in model.weights:
        variable.assign(variable + np.abs(rng.normal(size=variable.shape)).astype("float32") / 9)
    for instant in ("0", "1"):
        (directory / instant).mkdir()
        forms = FORMS[:-1] if request.param == "held" else FORMS  # its own weights: no `.h5`
        saving.write(model, directory / instant, forms)
        model.fit(x, y, verbose=0)
    if request.config.getoption("--regen"):
        with tarfile.open(KEPT / f"{request.param}.tar.xz", "w:xz") as archive:
            for path in sorted((directory / "0").iterdir()):
                if path.name != "saved_model":  # as large as all others together
                    archive.add(path, path.name)
    return directory


@pytest.fixture(scope="module", params=MODELS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `written` left of a model at one instant, kept here: Keras 3.15, TensorFlow 2.21."""
    directory = tmp_path_factory.mktemp("kept")
    with tarfile.open(KEPT / f"{request.param}.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory


def forms(directory: Path) -> list[Path]:
    return [
        directory / form
        for form in FORMS
        if (directory / form).exists() or (directory / f"{form}.index").exists()
    ]


def pairs(result: DiffResult) -> set[tuple[str, str]]:
    """Return the weights that belong together, by key; every tensor must have a partner."""
    alone = [change for change in result.changes if change.old is None or change.new is None]
    assert not alone and not result.counts["renamed"], result
    return {
        (change.old.spec.key, change.new.spec.key)
        for change in result.changes
        if change.old and change.new and change.role == "weight"
    }


@pytest.mark.needs_tf
def test_one_instant_is_the_same_in_every_form_and_stays_paired(written: Path) -> None:
    together: dict[tuple[Path, Path], set[tuple[str, str]]] = {}
    for one, other in permutations(forms(written / "0"), 2):
        result = ckptkit.diff(one, other)
        assert result.same, (one.name, other.name)
        together[one, other] = pairs(result)
        later = ckptkit.diff(one, written / "1" / other.name)
        assert later.counts["changed"] > 0
        assert pairs(later) == together[one, other]
    for (one, other), found in together.items():
        assert together[other, one] == {(new, old) for old, new in found}


def side_of(path: Path) -> TensorSet:
    """Return the weights of a file without their contents, in any order."""
    checkpoint: Checkpoint = ckptkit.open(path)
    keys = [k for k, n in checkpoint.names.items() if n.role == "weight"]
    specs = {k: checkpoint.specs[k]._replace(crc32c=None) for k in keys}
    random.Random(3).shuffle(keys)
    return TensorSet(specs, {k: checkpoint.names[k] for k in keys}, structure=checkpoint.structure)


@pytest.mark.needs_tf
def test_values_play_no_part(written: Path) -> None:
    """Names, attributes and orders alone pair a checkpoint with the forms of HDF5."""

    for one, other in permutations(forms(written / "0"), 2):
        alignment = align(side_of(one), side_of(other))
        assert not alignment.renamed and not alignment.only_left and not alignment.only_right


def test_kept_files_of_one_instant_pair_by_structure_alone(
    kept: Path, request: pytest.FixtureRequest
) -> None:
    """Values play no part in the pairing, and say that it is right."""
    name = request.node.callspec.params["kept"]
    opened = {path.name: ckptkit.open(path) for path in forms(kept)}
    sides = {path.name: side_of(path) for path in forms(kept)}
    crcs = {
        form: {
            key: value(np.ascontiguousarray(file.store.read(key)).tobytes()) for key in file.specs
        }
        for form, file in opened.items()
    }
    answers = {}
    for one, other in permutations(sides, 2):
        alignment = align(sides[one], sides[other])
        assert not alignment.renamed and not alignment.only_left and not alignment.only_right
        assert all(crcs[one][m.old] == crcs[other][m.new] for m in alignment.pairs), (one, other)
        whole = TensorSet(opened[one].specs, opened[one].names, structure=opened[one].structure)
        file = opened[other]
        with_slots = align(whole, TensorSet(file.specs, file.names, structure=file.structure))
        answers[f"{one} | {other}"] = f"{told(alignment)}; {told(with_slots)}"
    pinned.check(KEPT / f"{name}.json", answers, request.config.getoption("--regen"))


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subclassed models of Keras 2.15, each as a checkpoint, `.h5` and `.weights.h5`."""
    directory = tmp_path_factory.mktemp("keras_2")
    with tarfile.open(KEPT / "keras2_15.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.mark.parametrize("model", ["plain", "listed"])
def test_layers_that_keras_2_counts_are_called_by_no_name(keras_2: Path, model: str) -> None:
    """Its `layers/dense` is the first Dense that no attribute of another group leads to."""
    names = (f"{model}.weights.h5", f"{model}.h5", model)
    for one, other in permutations(names, 2):
        assert ckptkit.diff(keras_2 / one, keras_2 / other).same, (one, other)


def test_layers_of_one_list_pair_by_their_order(keras_2: Path) -> None:
    alignment = align(side_of(keras_2 / "listed.weights.h5"), side_of(keras_2 / "listed"))
    found = {m.old: m.new.partition("/.")[0] for m in alignment.pairs}
    assert found["layers/dense/vars/0"] == "model/blocks/0/kernel"
    assert found["layers/dense_1/vars/1"] == "model/blocks/1/bias"
    alike = align(side_of(keras_2 / "plain.weights.h5"), side_of(keras_2 / "plain"))
    # Which attribute of two that are alike was made first is in neither file.
    assert {m.old for m in alike.pairs} == {"zed/vars/0", "zed/vars/1"}


def test_what_an_attribute_leads_to_is_not_paired_by_content(keras_2: Path, tmp_path: Path) -> None:
    swapped = shutil.copy(keras_2 / "plain.weights.h5", tmp_path / "swapped.weights.h5")
    with h5py.File(swapped, "a") as file:
        for number in "01":
            one, other = file[f"zed/vars/{number}"], file[f"layers/dense/vars/{number}"]
            one[...], other[...] = other[...], one[...]
    assert not ckptkit.diff(swapped, keras_2 / "plain").same
    assert not ckptkit.diff(keras_2 / "plain", swapped).same


def told(alignment: Alignment) -> str:
    """Return what a pairing rests on, and a digest of it."""
    counts = Counter(match.evidence for match in alignment.pairs)
    pairs = sorted((m.old, m.new, m.evidence) for m in alignment.pairs)
    alone = len(alignment.only_left), len(alignment.only_right)
    return f"{dict(sorted(counts.items()))}, {alone} alone: {pinned.digest(pairs)}"
