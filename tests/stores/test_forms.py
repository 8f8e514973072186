"""The same weights in every form list the same names, dtypes, shapes and bytes, and one digest."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.ls import ls
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.writing import TensorToWrite

pytestmark = pytest.mark.needs_tf


def convolutional(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3)(image)
    x = layers.BatchNormalization()(x)
    x = layers.PReLU()(layers.DepthwiseConv2D(3)(x))
    x = layers.Conv2DTranspose(3, 3, use_bias=False)(layers.GroupNormalization(2)(x))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))


def recurrent(keras: Any) -> Any:
    layers = keras.layers
    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8)(words)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    return keras.Model(words, layers.Dense(2)(layers.GRU(3)(x)))


def attentive(keras: Any) -> Any:
    layers = keras.layers
    tokens = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4)(tokens, tokens)
    x = layers.TimeDistributed(layers.Dense(3))(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def nested(keras: Any) -> Any:
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, name="out"), layers.BatchNormalization()], name="inner"
    )
    features = keras.Input((8,))
    return keras.Model(features, layers.Dense(2)(inner(layers.Dense(8)(features))))


BUILDERS = [
    convolutional,
    nested,
    *(pytest.param(build, marks=pytest.mark.slow) for build in (recurrent, attentive)),
]


def neutral_copy(source: Checkpoint, path: Path) -> None:
    """Write the weights of `source` as safetensors or npz under their readable names."""
    kept = {
        naming.name: source.specs[key]
        for key, naming in source.names.items()
        if naming.role == "weight"
    }
    tensors = [TensorToWrite(name, spec.dtype, spec.shape) for name, spec in kept.items()]

    def blocks(name: str) -> Iterator[tuple[int, Any]]:
        return source.store.blocks(kept[name].key)

    write = write_npz if path.suffix == ".npz" else write_safetensors
    write(path, tensors, blocks)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_every_form_lists_the_same(build: Callable[[Any], Any], tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model = build(keras)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(tmp_path / "trained")
    tf.train.Checkpoint(model).write(tmp_path / "bare")
    tf.saved_model.save(model, tmp_path / "saved")
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(tmp_path / "exported")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    model.save(tmp_path / "model.h5")
    for name in ("model.safetensors", "model.npz"):
        neutral_copy(ckptkit.open(tmp_path / "trained"), tmp_path / name)

    forms = sorted(
        {
            path.name.partition(".index")[0]
            for path in tmp_path.iterdir()
            if ".data" not in path.name
        }
    )
    assert len(forms) == 9
    digests = {form: ls(tmp_path / form, digest=True).digest for form in forms}
    assert digests == dict.fromkeys(forms, digests["trained"])
    rows = {
        form: sorted(
            (t.naming.name, t.spec.dtype, t.spec.shape)
            for t in ls(tmp_path / form, roles=["weight"]).tensors
            if not t.naming.duplicate_of
        )
        for form in forms
    }
    assert rows == dict.fromkeys(forms, rows["trained"])
    assert [row[0] for row in rows["trained"]] == sorted(
        w.path for w in model.weights if "seed" not in w.path
    )
