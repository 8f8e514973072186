"""One small model for each layer, loss and optimizer of a Keras, and more that loaders stumble on.

Run by an interpreter with the Keras that is to write them: `python _needs_models.py DIRECTORY
[keras|tf_keras]` writes NAME.h5 and NAME.keras, and for Keras 2 NAME_saved of some.  What that
Keras does not have, or does not save, is left out.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

keras = importlib.import_module(sys.argv[2] if len(sys.argv) > 2 else "keras")
layers = keras.layers
IS_3 = keras.__version__ >= "3"
Model = Any
FLAT, ROWS, IMAGE, VOLUME = (5,), (10, 4), (8, 8, 3), (6, 6, 6, 2)
# Layers that are called with one tensor: {class: (shape without the batch, arguments)}.
SINGLE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "Dense": (FLAT, {"units": 3, "kernel_regularizer": "l2", "kernel_constraint": "max_norm"}),
    "Conv1D": (ROWS, {"filters": 2, "kernel_size": 3}),
    "Conv2D": (IMAGE, {"filters": 2, "kernel_size": 3}),
    "Conv3D": (VOLUME, {"filters": 2, "kernel_size": 2}),
    "Conv1DTranspose": (ROWS, {"filters": 2, "kernel_size": 3}),
    "Conv2DTranspose": (IMAGE, {"filters": 2, "kernel_size": 3}),
    "Conv3DTranspose": (VOLUME, {"filters": 2, "kernel_size": 2}),
    "DepthwiseConv1D": (ROWS, {"kernel_size": 3}),
    "DepthwiseConv2D": (IMAGE, {"kernel_size": 3}),
    "SeparableConv1D": (ROWS, {"filters": 2, "kernel_size": 3}),
    "SeparableConv2D": (IMAGE, {"filters": 2, "kernel_size": 3}),
    "LocallyConnected1D": (ROWS, {"filters": 2, "kernel_size": 3}),
    "LocallyConnected2D": (IMAGE, {"filters": 2, "kernel_size": 3}),
    "BatchNormalization": (IMAGE, {}),
    "LayerNormalization": (IMAGE, {}),
    "GroupNormalization": (IMAGE, {"groups": 1}),
    "UnitNormalization": (FLAT, {}),
    "Normalization": (FLAT, {"mean": 0.5, "variance": 2.0}),
    "Dropout": (FLAT, {"rate": 0.5}),
    "SpatialDropout1D": (ROWS, {"rate": 0.5}),
    "SpatialDropout2D": (IMAGE, {"rate": 0.5}),
    "AlphaDropout": (FLAT, {"rate": 0.5}),
    "GaussianNoise": (FLAT, {"stddev": 0.5}),
    "Flatten": (IMAGE, {}),
    "Reshape": (FLAT, {"target_shape": (5, 1)}),
    "Masking": (ROWS, {}),
    "Embedding": ((4,), {"input_dim": 10, "output_dim": 3, "mask_zero": True}),
    "LSTM": (ROWS, {"units": 3, "return_sequences": True}),
    "GRU": (ROWS, {"units": 3}),
    "SimpleRNN": (ROWS, {"units": 3}),
    "ConvLSTM2D": ((4, 8, 8, 3), {"filters": 2, "kernel_size": 3}),
    "ReLU": (FLAT, {"max_value": 6}),
    "LeakyReLU": (FLAT, {}),
    "PReLU": (FLAT, {}),
    "ELU": (FLAT, {}),
    "ThresholdedReLU": (FLAT, {}),
    "Softmax": (FLAT, {}),
    "MaxPooling2D": (IMAGE, {}),
    "AveragePooling2D": (IMAGE, {"pool_size": 2}),
    "GlobalAveragePooling2D": (IMAGE, {}),
    "UpSampling2D": (IMAGE, {"interpolation": "bilinear"}),
    "ZeroPadding2D": (IMAGE, {}),
    "EinsumDense": (FLAT, {"equation": "ab,bc->ac", "output_shape": 3}),
    "Rescaling": (IMAGE, {"scale": 0.5}),
    "Resizing": (IMAGE, {"height": 4, "width": 4}),
    "RandomFlip": (IMAGE, {}),
    "RandomHeight": (IMAGE, {"factor": 0.1}),
    "RandomRotation": (IMAGE, {"factor": 0.1}),
    "CategoryEncoding": ((1,), {"num_tokens": 4}),
    "Discretization": ((1,), {"bin_boundaries": [0.0, 1.0]}),
}
LOSSES = ("mse", "mae", "kld", "huber", "categorical_crossentropy", "binary_crossentropy")
OPTIMIZERS = ("SGD", "RMSprop", "Adagrad", "Adamax", "Nadam", "AdamW", "Lion", "Ftrl")
SAVED = ("Dense", "LSTM", "loss_mse", "custom", "code", "subclassed", "words", "nested")


@keras.saving.register_keras_serializable("some_lab")
class Scale(layers.Layer):  # type: ignore[name-defined,misc]
    """A layer of somebody's own."""

    def __init__(self, factor: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def call(self, x: Any) -> Any:
        """Return the scaled tensor."""
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        """Return the settings."""
        return {**super().get_config(), "factor": self.factor}


class Subclassed(keras.Model):  # type: ignore[name-defined,misc]
    """A model of somebody's own, which no file can build."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x: Any) -> Any:
        """Return the outputs."""
        return self.dense(x)


def chain(shape: tuple[int, ...], *made: Any) -> Model:
    """Return a Sequential model."""
    return keras.Sequential([keras.Input(shape), *made])


def compiled(optimizer: Any, loss: Any, metrics: Any = None) -> Model:
    """Return a model that was trained for a step."""
    model = chain(FLAT, layers.Dense(3, activation="softmax"))
    model.compile(optimizer, loss, metrics=metrics)
    model.fit(np.zeros((4, 5), "float32"), np.zeros((4, 3), "float32"), verbose=0)
    return model


def nested() -> Model:
    """Return a model with a model inside, of which a layer follows."""
    inside = keras.Input(FLAT)
    inner = keras.Model(inside, layers.Dense(4)(inside), name="inner")
    inputs = keras.Input(FLAT)
    return keras.Model(inputs, layers.Dense(1)(inner(inputs)))


def mixed() -> Model:
    """Return a model of mixed precision."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return chain(FLAT, layers.Dense(3))
    finally:
        keras.mixed_precision.set_global_policy("float32")


def words() -> Model:
    """Return a model that takes texts."""
    inputs = keras.Input((1,), dtype="string")
    vectors = layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "b"])
    return keras.Model(inputs, layers.Embedding(6, 2)(vectors(inputs)))


def attended() -> Model:
    """Return a model whose layers take two tensors by name."""
    query, value = keras.Input(ROWS, name="query"), keras.Input(ROWS, name="value")
    both = layers.MultiHeadAttention(2, 3)(query, value=value)
    return keras.Model([query, value], layers.Attention()([both, value]))


def operations() -> Model:
    """Return a model with arithmetic between its layers."""
    inputs = keras.Input(FLAT)
    return keras.Model(inputs, layers.Dense(1)(inputs * 2.0 + 1.0))


def subclassed() -> Model:
    """Return a model of a class of its own, built."""
    model = Subclassed()
    model(np.zeros((1, 5), "float32"))
    return model


def single(name: str) -> Model:
    """Return a model of one layer."""
    shape, arguments = SINGLE[name]
    return chain(shape, getattr(layers, name)(**arguments))


def trained_by(name: str) -> Model:
    """Return a model that an optimizer has trained."""
    return compiled(getattr(keras.optimizers, name)(), "categorical_crossentropy", ["accuracy"])


def makers() -> dict[str, Callable[[], Model]]:
    """Return what makes each model, by name."""
    found: dict[str, Callable[[], Model]] = {
        name: partial(single, name) for name in SINGLE if hasattr(layers, name)
    }
    found |= {f"loss_{name}": partial(compiled, "adam", name) for name in LOSSES}
    optimizers = [name for name in OPTIMIZERS if hasattr(keras.optimizers, name)]
    found |= {f"by_{name}": partial(trained_by, name) for name in optimizers}
    return found | {
        "attended": attended,
        "both_ways": lambda: chain(ROWS, layers.Bidirectional(layers.LSTM(3))),
        "cells": lambda: chain(ROWS, layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)])),
        "code": lambda: chain(FLAT, layers.Lambda(lambda x: x * 2 + 1)),
        "custom": lambda: chain(FLAT, Scale()),
        "custom_activation": lambda: chain(FLAT, layers.Dense(2, activation=tf.nn.relu6)),
        "each_step": lambda: chain(ROWS, layers.TimeDistributed(layers.Dense(2))),
        "mixed": mixed,
        "mobile": lambda: keras.applications.MobileNetV2(
            input_shape=(32, 32, 3), weights=None, classes=2, alpha=0.35
        ),
        "nested": nested,
        "operations": operations,
        "subclassed": subclassed,
        "words": words,
    }


def main(folder: Path) -> None:
    """Write them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in makers().items():
        keras.backend.clear_session()
        targets = [folder / f"{name}.keras", folder / f"{name}.h5"]
        if not IS_3 and name in SAVED:
            targets.append(folder / f"{name}_saved")
        for target in targets:
            try:
                make().save(target, **({"save_format": "tf"} if not target.suffix else {}))
            except (NotImplementedError, TypeError, ValueError) as error:
                target.unlink(missing_ok=True)  # h5py leaves what it had begun
                print(f"{target.name}: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
