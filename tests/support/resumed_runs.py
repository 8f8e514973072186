"""A small training run with all kinds of state, the code that goes on with it, and planted faults.

    python -m support.resumed_runs DIRECTORY

writes `DIRECTORY/sound` and `DIRECTORY/forgetful`: `ckpt-N` after N steps each, as
`tf.train.CheckpointManager` does.  The forgetful run saves neither its average nor its generators.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

KEPT = (4, 6, 7, 8, 10)  # steps after which the runs save
Started = tuple[Any, Callable[[int], object]]


def run(fault: str = "") -> Started:
    """Return (Checkpoint, step); fault: "" or what is wrong when it goes on."""
    import keras
    import tensorflow as tf

    from ckptkit.fixtures.training import batches, eager_loop

    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(6, "relu", name="hidden"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(0.25, seed=5, name="dropout"),
        keras.layers.Dense(2, name="scores"),
    ]
    model = keras.Sequential(layers)
    rate = keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.8)
    optimizer = keras.optimizers.Adam(0.05)
    if fault != "late":  # which is none: what is not there yet is restored when it is made
        optimizer.build(model.trainable_variables)
    generator = tf.random.Generator.from_seed(11)
    average = [tf.Variable(weight, name="average") for weight in model.trainable_variables]
    done = tf.Variable(0, dtype=tf.int64, name="done")
    metric = keras.metrics.Mean()
    counts = tf.Module()
    object.__setattr__(counts, "_batches", tf.Variable(0))  # so that it is not tracked
    examples = tf.random.Generator.from_seed(2).normal((64, 4))
    steps = batches(examples.numpy(), examples.numpy()[:, :2], 8)
    loss = keras.losses.MeanSquaredError()
    objects = {"model": model, "optimizer": optimizer, "done": done, "counts": counts}
    if fault != "forgetful":
        # Keras gives no checkpoint of TensorFlow the generator of a Dropout
        seed = layers[3].seed_generator.state
        objects |= {"generator": generator, "average": average, "seed": seed}
    lost = {"slots": "optimizer", "average": "average", "generator": "generator", "seed": "seed"}
    objects.pop(lost.get(fault, ""), None)

    def step(number: int) -> None:
        if fault == "iterations" and number == 0:
            optimizer.iterations.assign(0)
        optimizer.learning_rate = rate(number if fault == "schedule" else int(done.numpy()))
        x, y = steps[int(done.numpy()) % len(steps)]
        noise = generator.normal(x.shape, stddev=0.1)
        metric.update_state(eager_loop(model, optimizer, loss, [(x + noise, y)]))
        if fault == "noise" or (fault == "late_noise" and number >= 2):
            optimizer.learning_rate.assign_add(1e-6)
            model.layers[0].bias.assign_add([1e-6] * 6)
        for mean, weight in zip(average, model.trainable_variables, strict=True):
            mean.assign(0.9 * mean + 0.1 * weight)
        done.assign_add(1)
        counts._batches.assign_add(1)

    return tf.train.Checkpoint(**objects), step


def reference() -> Started:
    """Return the reference loop of a cut and resumed run, one step at a time."""
    import tensorflow as tf

    from ckptkit.fixtures.models import sequential
    from ckptkit.fixtures.training import batches, eager_loop

    model = sequential.build()
    model.optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64, trainable=False, name="done")
    steps = batches(*sequential.examples()) * 3
    root = tf.train.Checkpoint(done=done, model=model, optimizer=model.optimizer)

    def step(number: int) -> None:
        del number
        eager_loop(model, model.optimizer, model.loss, [steps[int(done.numpy())]])
        done.assign_add(1)

    return root, step


def nothing() -> None:
    """Return what no run can go on with."""


def broken() -> Started:
    """Return a run whose step fails."""
    root, _ = run()

    def step(number: int) -> None:
        raise ValueError(f"no batch {number}")

    return root, step


def write(directory: Path, fault: str) -> None:
    """Train without a stop and save after the steps KEPT."""
    import tensorflow as tf

    root, step = run(fault)
    manager = tf.train.CheckpointManager(root, str(directory), max_to_keep=None)
    for number in range(KEPT[-1]):
        step(number)
        if number + 1 in KEPT:
            manager.save(checkpoint_number=number + 1)


if __name__ == "__main__":
    for name, kind in (("sound", ""), ("forgetful", "forgetful")):
        write(Path(sys.argv[1]) / name, kind)
    from ckptkit.fixtures.training_runs import make_directory

    make_directory(Path(sys.argv[1]) / "reference")
