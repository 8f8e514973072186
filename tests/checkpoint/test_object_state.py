"""Roles in object graphs of what no Keras optimizer holds: lists, counters, own optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit.checkpoint.naming import Naming

pytestmark = pytest.mark.needs_tf


def network() -> Any:
    """Return a module of two layers, with names as a name scope gives them."""
    import tensorflow as tf

    class Layer(tf.Module):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int, name: str) -> None:
            super().__init__(name=name)
            with tf.name_scope(name):
                self.w = tf.Variable(tf.ones([inputs, outputs]), name="w")
                self.b = tf.Variable(tf.zeros([outputs]), name="b")

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = Layer(3, 4, "first"), Layer(4, 2, "last")

    return Network()


def copies(variables: Any, scope: str = "") -> list[Any]:
    """Return variables like others, as Sonnet's `variable_like` names them in a name scope."""
    import tensorflow as tf

    names = [f"{scope}/{v.name.split(':')[0]}" if scope else None for v in variables]
    return [tf.Variable(tf.zeros_like(v), name=n) for v, n in zip(variables, names, strict=True)]


def named(path: Path, **objects: Any) -> Mapping[str, Naming]:
    """Save objects, and return the namings by the best path."""
    import tensorflow as tf

    tf.train.Checkpoint(**objects).write(str(path / "ckpt"))
    names = ckptkit.open(path / "ckpt").names
    return {key.partition("/.ATTRIBUTES")[0]: naming for key, naming in names.items()}


WEIGHTS = {f"model/{layer}/{variable}" for layer in ("first", "last") for variable in "wb"}


def weights(namings: Mapping[str, Naming]) -> set[str]:
    return {path for path, naming in namings.items() if naming.role == "weight"}


@pytest.mark.parametrize(
    "scopes", [("m", "v"), ("adam/m", "adam/v"), ("", "")], ids=["named", "scoped", "nameless"]
)
def test_an_optimizer_that_is_a_plain_object(tmp_path: Path, scopes: tuple[str, str]) -> None:
    """Sonnet's Adam (sonnet/src/optimizers/adam.py): a counter, and two lists."""
    import tensorflow as tf

    class Adam(tf.Module):  # type: ignore[misc]
        def __init__(self, parameters: Any) -> None:
            super().__init__()
            self.step = tf.Variable(3, dtype=tf.int64, trainable=False)
            self.learning_rate = tf.Variable(0.1)
            self.m = copies(parameters, scopes[0])
            self.v = copies(parameters, scopes[1])

    model = network()
    optimizer = Adam(model.trainable_variables)
    found = named(tmp_path, model=model, optimizer=optimizer)
    assert weights(found) == WEIGHTS
    assert found["optimizer/step"].role == "counter"
    assert found["optimizer/learning_rate"].role == "config"
    slots = {path: naming for path, naming in found.items() if naming.role == "slot"}
    assert set(slots) == {f"optimizer/{kind}/{k}" for kind in "mv" for k in range(4)}
    assert all(naming.role_inferred for naming in slots.values())
    for path, naming in slots.items():  # every shape is that of one variable alone
        index = int(path.rpartition("/")[2])
        owner = [f"{v.name.split(':')[0]}" for v in model.trainable_variables][index]
        assert naming.slot_of is not None
        assert naming.slot_of == owner
        assert naming.slot == path.split("/")[1]


def test_slots_of_variables_that_share_a_name(tmp_path: Path) -> None:
    """Sonnet calls the variables of every unnamed layer alike; shapes tell some apart."""
    import tensorflow as tf

    class Momentum(tf.Module):  # type: ignore[misc]
        def __init__(self, parameters: Any) -> None:
            super().__init__()
            self.accumulated_momentum = copies(parameters, "momentum")

    model = tf.Module()
    model.layers = [tf.Module() for _ in range(3)]
    for layer, inputs in zip(model.layers, (3, 4, 4), strict=True):
        with tf.name_scope("linear"):
            layer.w = tf.Variable(tf.ones([inputs, 4]), name="w")
    found = named(tmp_path, model=model, optimizer=Momentum([x.w for x in model.layers]))
    assert weights(found) == {f"model/layers/{k}/w" for k in range(3)}
    slots = [found[f"optimizer/accumulated_momentum/{k}"] for k in range(3)]
    assert [naming.role for naming in slots] == ["slot"] * 3
    assert slots[0].slot_of == found["model/layers/0/w"].name
    assert [naming.slot_of for naming in slots[1:]] == [None, None]


def test_variables_that_are_saved_by_themselves(tmp_path: Path) -> None:
    import tensorflow as tf

    model = network()
    parameters = list(model.trainable_variables)
    names = [v.name.split(":")[0] for v in parameters]
    slots = [
        tf.Variable(tf.zeros_like(v), name=f"{n}/Novel")
        for v, n in zip(parameters, names, strict=True)
    ]
    found = named(tmp_path, variables=[*parameters, *slots])
    assert {found[f"variables/{k}"].role for k in range(4)} == {"weight"}
    assert {found[f"variables/{k}"].role for k in range(4, 8)} == {"slot"}
    assert [found[f"variables/{k}"].slot_of for k in range(4, 8)] == names


def test_averages_in_a_list(tmp_path: Path) -> None:
    model = network()
    found = named(tmp_path, model=model, shadows=copies(model.trainable_variables, "ema"))
    assert weights(found) == WEIGHTS
    assert {found[f"shadows/{k}"].role for k in range(4)} == {"ema"}


def test_other_lists_of_variables_stay_weights(tmp_path: Path) -> None:
    """A second set of weights, though in a list and alike in shape, is nobody's state."""
    import tensorflow as tf

    class Memory(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.keys = [tf.Variable(tf.ones([3, 4]), name=f"key_{i}") for i in range(2)]
            self.bias = [tf.Variable(tf.ones([4]), name=f"bias_{i}") for i in range(2)]

    model = network()
    target = copies(model.trainable_variables, "target")
    found = named(tmp_path, model=model, memory=Memory(), target=target)
    assert weights(found) == set(found) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}


def test_scalars_beside_a_model(tmp_path: Path) -> None:
    import tensorflow as tf

    found = named(
        tmp_path,
        model=network(),
        examples_seen=tf.Variable(3, dtype=tf.int64),
        is_training=tf.Variable(True),
        loss_scale=tf.Variable(1024.0),
        temperature=tf.Variable(1.0),
        words=tf.Variable(["a", "b"]),
    )
    roles = {path: naming.role for path, naming in found.items() if path not in WEIGHTS}
    assert roles == {
        "_CHECKPOINTABLE_OBJECT_GRAPH": "config",
        "examples_seen": "counter",
        "is_training": "config",
        "loss_scale": "config",
        "temperature": "weight",
        "words": "table",
    }


def test_integers_that_a_keras_layer_holds_are_its_weights(tmp_path: Path) -> None:
    import keras
    import numpy as np

    layer = keras.layers.Normalization()
    layer.adapt(np.arange(6.0).reshape(3, 2))
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    found = named(tmp_path, model=model)
    assert len(weights(found)) == len(model.weights)

    class Subclassed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.dense = layer, keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(self.scale(x))

    other = Subclassed()
    other(np.ones((1, 2)))
    assert len(weights(named(tmp_path, model=other))) == len(other.weights)
