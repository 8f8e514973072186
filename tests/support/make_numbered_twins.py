"""Load the `.h5` files of Keras 2 into Keras 3 and save them in its forms; run as a script.

Usage: python make_numbered_twins.py GOLDENS OUT.  For each NAME.h5 of GOLDENS, OUT gets NAME.keras,
.weights.h5, .legacy.h5, NAME_checkpoint, NAME_export, and as NAME_stepped.keras the same model once
every weight has moved a little; NAME_fresh.keras has other weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

goldens, out = Path(sys.argv[1]), Path(sys.argv[2])
layers = keras.layers
WIDTH = 3


def sequential() -> Any:
    return keras.Sequential([keras.Input((WIDTH,)), *(layers.Dense(WIDTH) for _ in range(4))])


def backwards() -> Any:
    inputs = x = keras.Input((WIDTH,))
    for layer in [layers.Dense(WIDTH) for _ in range(3)]:
        x = layer(x)
    return keras.Model(inputs, x)


def wrapped() -> Any:
    inputs = keras.Input((4, WIDTH))
    x = layers.TimeDistributed(layers.Dense(WIDTH))(inputs)
    x = layers.TimeDistributed(layers.Dense(WIDTH))(x)
    x = layers.Bidirectional(layers.LSTM(WIDTH, return_sequences=True), merge_mode="sum")(x)
    x = layers.Bidirectional(layers.LSTM(WIDTH), merge_mode="sum")(x)
    return keras.Model(inputs, layers.Dense(WIDTH)(x))


def nested() -> Any:
    inner = [
        keras.Sequential([keras.Input((WIDTH,)), layers.Dense(WIDTH), layers.Dense(WIDTH)])
        for _ in range(2)
    ]
    inputs = keras.Input((WIDTH,))
    x = layers.Dense(WIDTH)(inputs)
    for model in inner:
        x = model(x)
    return keras.Model(inputs, layers.Dense(WIDTH)(x))


layers.Dense(1)  # so that numbers begin elsewhere
for build in (sequential, backwards, wrapped, nested):
    name = build.__name__
    model = build()
    model.save(out / f"{name}_fresh.keras")
    model.load_weights(goldens / f"{name}.h5")
    model.save(out / f"{name}.keras")
    model.save_weights(out / f"{name}.weights.h5")
    model.save(out / f"{name}.legacy.h5")
    tf.train.Checkpoint(model=model).write(str(out / f"{name}_checkpoint"))
    model.export(out / f"{name}_export", verbose=False)
    step = np.random.default_rng(1)
    model.set_weights([w + step.normal(0, 0.01, w.shape) for w in model.get_weights()])
    model.save(out / f"{name}_stepped.keras")
