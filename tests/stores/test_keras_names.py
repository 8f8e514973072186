"""Names of Keras variables, compared with what the installed Keras itself calls them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ckptkit.checkpoint.names import name_tensors
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.keras.archive import open_keras, open_weights_h5
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.keras.layer_variables import class_of_group, snake_case, variable_names
from ckptkit.stores.keras.legacy_h5 import open_legacy_h5
from ckptkit.stores.keras.optimizer_variables import TrainableWeight, layout, optimizer_class
from support import keras_layers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytestmark = pytest.mark.filterwarnings("ignore")  # Keras's own, while models are made

VARIANTS = dict(keras_layers.variants())


@pytest.fixture
def fresh() -> Iterator[Any]:
    """Keras with its automatic name counters at zero."""
    keras = pytest.importorskip("keras")
    keras.backend.clear_session(free_memory=False)
    yield keras
    keras.backend.clear_session(free_memory=False)


def _fill(model: Any) -> None:
    """Give every variable values of its own, so that a swap cannot pass."""
    import numpy as np

    rng = np.random.default_rng(7)
    for number, variable in enumerate(model.variables):
        values = np.asarray(variable.numpy())
        if values.dtype.kind in "iu":
            variable.assign(rng.integers(0, 7, values.shape) + number % 3)
        else:
            variable.assign((rng.random(values.shape) + number).astype(values.dtype))


def _weights(store: H5Store) -> dict[str, tuple[str, Naming]]:
    """Return name -> (key, naming) of the model's own variables, each once."""
    namings = name_tensors(store.specs, store.structure)
    return {
        n.name: (key, n)
        for key, n in namings.items()
        if n.role in ("weight", "other") and n.duplicate_of is None
    }


def _assert_same_values(store: H5Store, named: dict[str, tuple[str, Naming]], model: Any) -> None:
    import numpy as np

    for variable in model.weights:
        key, _ = named[variable.path]
        values = np.asarray(variable.numpy())
        assert store.specs[key].shape == values.shape
        assert store.specs[key].dtype == values.dtype.name
        assert store.read(key).tobytes() == values.tobytes(), variable.path


@pytest.mark.needs_tf
def test_every_layer_class_is_covered() -> None:
    keras = pytest.importorskip("keras")
    exported = {value.__name__ for value in vars(keras.layers).values() if isinstance(value, type)}
    listed = keras_layers.covered() | keras_layers.WEIGHTLESS | keras_layers.UNDERIVABLE
    assert not exported - listed, "new in Keras: add them to tests/support/keras_layers.py"


@pytest.mark.needs_tf
@pytest.mark.parametrize("name", VARIANTS)
def test_names_are_keras_paths(name: str, fresh: Any, tmp_path: Path) -> None:
    model = VARIANTS[name]()
    _fill(model)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    _check_archive(tmp_path / "m.keras", model)
    _check_without_config(tmp_path / "m.weights.h5", model)


def _check_archive(path: Path, model: Any) -> None:
    store = open_keras(path)
    named = _weights(store)
    if any("lora" in v.path for v in model.weights):  # merged into the kernel when Keras saves
        assert set(named) == {v.path for v in model.weights if "lora" not in v.path}
        return
    assert set(named) == {v.path for v in model.weights}
    _assert_same_values(store, named, model)


def _check_without_config(path: Path, model: Any) -> None:
    """A `.weights.h5` has no config: a name is Keras's own, or says that it is not known."""
    store = open_weights_h5(path)
    values = {v.path: v.numpy().tobytes() for v in model.weights}
    for name, (key, naming) in _weights(store).items():
        if "/vars/" in name:
            assert naming.full_name is None
            continue
        names = [n for n in (name, *naming.aliases) if n in values]
        assert names, f"{name} is no variable of the model"
        if not any("lora" in p for p in values):
            assert store.read(key).tobytes() == values[names[0]]


@pytest.mark.needs_tf
@pytest.mark.parametrize("name", ["nested", "sequential", "MultiHeadAttention", "StackedRNNCells"])
def test_legacy_names_are_the_same(name: str, fresh: Any, tmp_path: Path) -> None:
    model = VARIANTS[name]()
    _fill(model)
    model.save(tmp_path / "m.h5")
    store = open_legacy_h5(tmp_path / "m.h5")
    named = _weights(store)
    assert set(named) == {v.path for v in model.weights}
    _assert_same_values(store, named, model)


# --- optimizers -----------------------------------------------------------------------------------

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("Adadelta", {}),
    ("Adafactor", {}),
    ("Adagrad", {}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"use_ema": True}),
    ("Adam", {"gradient_accumulation_steps": 2, "use_ema": True}),
    ("AdamW", {}),
    ("Adamax", {}),
    ("Ftrl", {}),
    ("Lamb", {}),
    ("Lion", {}),
    ("Muon", {}),
    ("Nadam", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("ScheduleFreeAdamW", {}),
]


def _compiled(keras: Any, optimizer: Any) -> Any:
    model = VARIANTS["nested"]()
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    return model


def _expected_owner(path: str, weights: list[str]) -> str | None:
    """Return the weight that Keras's flat optimizer path speaks of."""
    flat = path.rpartition("/")[2]
    owners = [w for w in weights if flat.startswith(w.replace("/", "_") + "_")]
    return max(owners, key=len) if owners else None


@pytest.mark.needs_tf
@pytest.mark.parametrize(("class_name", "config"), OPTIMIZERS)
def test_slots_are_tied_to_their_weights(
    class_name: str, config: dict[str, Any], fresh: Any, tmp_path: Path
) -> None:
    make = getattr(fresh.optimizers, class_name, None)
    if make is None:
        pytest.skip(f"this Keras has no {class_name}")
    optimizer = make(**config)
    model = _compiled(fresh, optimizer)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    weights = [v.path for v in model.weights]
    store = open_keras(tmp_path / "m.keras")
    namings = name_tensors(store.specs, store.structure)
    for number, variable in enumerate(optimizer.variables):
        naming = namings[f"optimizer/vars/{number}"]
        owner = _expected_owner(variable.path, weights)
        if variable.path.count("/") and owner is not None:
            assert naming.slot_of == owner, variable.path
            assert variable.path.endswith(f"_{naming.slot}")
            assert naming.name == f"{owner}@{naming.slot}"
            assert naming.role == ("ema" if naming.slot == "average" else "slot")
        elif variable.path.endswith("/iteration"):
            assert (naming.name, naming.role) == (variable.path, "counter")
        elif variable.path.endswith("/learning_rate"):
            assert (naming.name, naming.role) == (variable.path, "config")
        else:  # Adafactor's factors, Nadam's product
            assert naming.role in ("slot", "config")
    bare = open_weights_h5(tmp_path / "m.weights.h5")
    for key, naming in name_tensors(bare.specs, bare.structure).items():
        if naming.slot_of is not None and key in namings:
            known = namings[key]
            assert naming.slot == known.slot
            assert naming.slot_of in (known.slot_of, *_aliases_of(namings, known.slot_of))


def _aliases_of(namings: Mapping[str, Naming], name: str | None) -> tuple[str, ...]:
    """Return other spellings of a weight, with an unknown last part allowed."""
    aliases = next((n.aliases for n in namings.values() if n.name == name), ())
    stem = (name or "").rpartition("/")[0]
    return (*aliases, *(f"{stem}/vars/{number}" for number in range(4)))


@pytest.mark.needs_tf
def test_every_optimizer_is_covered(fresh: Any) -> None:
    exported = {v.__name__ for v in vars(fresh.optimizers).values() if isinstance(v, type)}
    tested = {name for name, _ in OPTIMIZERS}
    # wrappers around others, tested below or without a layout of their own
    assert exported - tested <= {
        "Optimizer",
        "LossScaleOptimizer",
        "MultiOptimizer",
        "OptimizerMap",
    }


@pytest.mark.needs_tf
def test_loss_scaling_wraps_the_inner_layout(fresh: Any, tmp_path: Path) -> None:
    optimizer = fresh.optimizers.LossScaleOptimizer(fresh.optimizers.Adam())
    model = _compiled(fresh, optimizer)
    model.save(tmp_path / "m.keras")
    store = open_keras(tmp_path / "m.keras")
    namings = name_tensors(store.specs, store.structure)
    assert len({n.name for n in namings.values()}) == len(namings)
    flat = [namings[f"optimizer/vars/{n}"] for n in range(len(optimizer.variables))]
    assert [n.role for n in flat[:6]] == [
        "counter",
        "config",
        "counter",
        "config",
        "counter",
        "config",
    ]
    assert all(n.slot_of for n in flat[6:])
    # what it wraps stores its own once more, in a group of its own
    inner = {namings[f"optimizer/inner_optimizer/vars/{n}"].name for n in range(len(flat) - 4)}
    assert {n.duplicate_of for n in flat} == {None, *inner}
    assert all(n.duplicate_of is None for n in flat[:4])


@pytest.mark.needs_tf
def test_custom_layers_keep_their_numbers(fresh: Any, tmp_path: Path) -> None:
    keras = fresh

    @keras.saving.register_keras_serializable(package="test_names")
    class Block(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.second = keras.layers.Dense(2)
            self.first = keras.layers.Dense(2)

        def build(self, shape: Any) -> None:
            self.own = self.add_weight(shape=(3,), name="own")
            self.second.build((None, 2))
            self.first.build(shape)
            self.built = True

        def call(self, inputs: Any) -> Any:
            return self.second(self.first(inputs))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Block(name="my_block")(inputs)))
    optimizer = keras.optimizers.SGD(momentum=0.5)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "m.keras")
    store = open_keras(tmp_path / "m.keras")
    namings = name_tensors(store.specs, store.structure)
    names = {n.name for n in namings.values() if n.role == "weight"}
    assert "my_block/vars/0" in names
    assert "my_block/dense_1/kernel" in names and "dense/kernel" in names
    assert store.model is not None
    flags = {layer.name: layer.flag for layer in store.model.layers}
    assert flags["my_block"] == "custom" and flags["dense"] == ""
    # the block's layers are sorted by attribute in the file, so only unique shapes can be tied
    tied = {n.slot_of for n in namings.values() if n.slot_of}
    assert tied <= {
        "my_block/vars/0",
        "my_block/dense_1/kernel",
        "my_block/dense_2/kernel",
        "dense/kernel",
        "dense/bias",
    }
    assert "my_block/vars/0" in tied and "my_block/dense_1/bias" not in tied
    for key, naming in namings.items():
        if naming.slot_of:
            variable = optimizer.variables[int(key.rpartition("/")[2])]
            owner = naming.slot_of.replace("vars/0", "own").replace("/", "_")
            assert variable.path.endswith(f"{owner}_momentum")


# --- the tables alone -----------------------------------------------------------------------------


def test_ambiguous_options_leave_a_variable_without_name() -> None:
    """Three vectors of a BatchNormalization: gamma or beta is missing, and nothing says which."""
    names = variable_names("BatchNormalization", None, [(4,)] * 3)
    assert [v.name if v else None for v in names] == ["", "moving_mean", "moving_variance"]
    assert [v.trainable for v in names if v] == [True, False, False]


def test_a_misfit_gives_no_name() -> None:
    assert variable_names("Dense", None, [(4,), (4, 2)]) == (None, None)
    assert variable_names("Dense", {"use_bias": False}, [(4, 2), (2,)]) == (None, None)
    assert variable_names("Unheard", {}, [(4,)]) == (None,)


def test_keras2_names_differ_where_they_did() -> None:
    shapes = [(3, 3, 4, 1), (4,)]
    (kernel, _) = variable_names("DepthwiseConv2D", {}, shapes, keras2=True)
    assert kernel is not None and kernel.name == "depthwise_kernel"
    (kernel, _) = variable_names("DepthwiseConv2D", {}, shapes)
    assert kernel is not None and kernel.name == "kernel"


@pytest.mark.parametrize(
    ("class_name", "group"),
    [("Conv2D", "conv2d"), ("LSTMCell", "lstm_cell"), ("STFTSpectrogram", "stft_spectrogram")],
)
def test_group_names_lead_back_to_classes(class_name: str, group: str) -> None:
    assert snake_case(class_name) == group
    assert class_of_group(f"{group}_12") == class_name


def test_layouts_that_do_not_fit_give_nothing() -> None:
    weights = [TrainableWeight("a", (2, 3)), TrainableWeight("b", (3,))]
    assert layout("Adam", {}, weights, [(), (), (2, 3)]) is None
    assert layout("Unheard", {}, weights, [(), ()]) is None


def test_layouts_that_disagree_give_nothing() -> None:
    """One scalar weight: without a config, momentum could as well be an average."""
    weights = [TrainableWeight("a", (3,))]
    assert layout("SGD", None, weights, [(), (), (3,)]) is None
    states = layout("SGD", {"momentum": 0.9}, weights, [(), (), (3,)])
    assert states is not None and states[2].name == "momentum"


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("adam_w", "AdamW"), ("SGD", "SGD"), ("Custom>Adam", "Adam"), ("rmsprop_1", "RMSprop")],
)
def test_optimizer_names_lead_to_classes(name: str, class_name: str) -> None:
    assert optimizer_class(name) == class_name
