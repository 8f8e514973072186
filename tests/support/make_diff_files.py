"""Save one Keras model in every form into a folder; run as a script, since it needs TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

out = Path(sys.argv[1])
v1 = tf.compat.v1


def functional() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for _ in range(2):
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.Flatten()(x)
    for _ in range(3):
        x = keras.layers.Dense(8)(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (keras.layers.Dense(8) for _ in range(3))

    def call(self, x):  # type: ignore[no-untyped-def]
        return self.c(self.b(self.a(x)))


def save_v1(name: str, arrays: dict[str, np.ndarray[Any, Any]], parts: int = 1) -> None:
    """Save as TF1 does; with `parts`, each variable is cut along its first axis."""
    with tf.Graph().as_default(), v1.Session() as session:
        variables = []
        for key, array in arrays.items():
            cut = v1.fixed_size_partitioner(parts) if parts > 1 else None
            variable = v1.get_variable(
                key, array.shape, tf.as_dtype(array.dtype), partitioner=cut, use_resource=False
            )
            start = 0
            for part in variable if parts > 1 else [variable]:
                rows = part.shape[0]
                session.run(part.assign(array[start : start + rows]))
                start += rows
            variables.append(variable)
        v1.train.Saver(variables).save(session, str(out / name), write_meta_graph=False)


keras.utils.set_random_seed(7)
rng = np.random.default_rng(7)
x, y = rng.random((32, 8, 8, 3)), rng.random((32, 2))

model = functional()
optimizer = keras.optimizers.Adam()
model.compile(optimizer=optimizer, loss="mse")
checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
for _ in range(2):
    model.fit(x, y, verbose=0)
    checkpoint.save(str(out / "run" / "ckpt"))
tf.train.Checkpoint(model).write(str(out / "plain"))
model.export(str(out / "export"), verbose=False)
tf.saved_model.save(model, str(out / "saved"))
model.save(out / "model.keras")
model.save_weights(out / "model.weights.h5")

second = functional()
second.set_weights(model.get_weights())
tf.train.Checkpoint(model=second).write(str(out / "second"))
second.save(out / "second.keras")
second.save_weights(out / "second.weights.h5")
second.export(str(out / "second_export"), verbose=False)

subclassed = Subclassed()
subclassed.compile(optimizer="sgd", loss="mse")
data = rng.random((16, 8))
for suffix in ("", "2"):
    subclassed.fit(data, data, verbose=0)
    tf.train.Checkpoint(model=subclassed).write(str(out / f"sub{suffix}"))
    subclassed.export(str(out / f"sub{suffix}_export"), verbose=False)

weights = {v.path: v.numpy() for v in model.weights}
save_v1("tf1", weights)
save_v1("tf1scope", {f"scope/{name}": value for name, value in weights.items()})
table = rng.random((20, 3)).astype(np.float32)
save_v1("parts", {"table": table}, parts=3)
save_v1("whole", {"table": table})
changed = table.copy()
changed[7, 2] += 1
save_v1("whole2", {"table": changed})
