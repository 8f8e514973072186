"""Training runs of other kinds than `resumed_runs`, and what is lost of each when it goes on.

    python -m support.more_resumed_runs DIRECTORY

writes `DIRECTORY/NAME/ckpt-N` after N steps for each name in LOSSES: a GAN of two optimizers under
`tf.function`, mixed precision with a loss scale, an iterator of a dataset that shuffles, an
optimizer that averages, `fit` by epochs with metrics and a rate that follows the epoch, a recurrent
layer that keeps its state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

KEPT = (3, 4, 5, 7)  # steps after which the runs save
# What each run may lose, and what a finding then tells.
LOSSES = {
    "gan": {"critic_optimizer": "critic_optimizer", "latent": "StateVar"},
    "mixed": {"scale": "dynamic_scale"},
    "iterator": {"data": "data"},
    "averaging": {"average": "@ema", "count": "iterations"},
    "fitted": {"epoch": "learning_rate", "metrics": "over_all"},
    "stateful": {"states": "memory"},
}
Started = tuple[Any, Callable[[int], object]]


def _numbers(*shape: int) -> Any:
    import numpy as np

    return np.random.default_rng(4).normal(size=shape).astype("float32")


def gan(lost: str = "") -> Started:
    """Return a run of two models that learn from one another, one optimizer each."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    layers = keras.layers
    maker = keras.Sequential([keras.Input((3,)), layers.Dense(5, "relu"), layers.Dense(4)])
    critic = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), layers.Dense(1)])
    optimizers = keras.optimizers.Adam(0.01), keras.optimizers.RMSprop(0.01)
    for model, optimizer in zip((maker, critic), optimizers, strict=True):
        optimizer.build(model.trainable_variables)
    latent = tf.random.Generator.from_seed(7)
    real = tf.constant(_numbers(16, 4))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function  # type: ignore[untyped-decorator]
    def train() -> None:
        with tf.GradientTape(persistent=True) as tape:
            made = maker(latent.normal((16, 3)), training=True)
            judged, true = critic(made, training=True), critic(real, training=True)
            of_maker = loss(tf.ones_like(judged), judged)
            of_critic = loss(tf.zeros_like(judged), judged) + loss(tf.ones_like(true), true)
        for value, model, optimizer in (
            (of_maker, maker, optimizers[0]),
            (of_critic, critic, optimizers[1]),
        ):
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    objects = {
        "maker": maker,
        "critic": critic,
        "maker_optimizer": optimizers[0],
        "critic_optimizer": optimizers[1],
        "latent": latent,
    }
    objects.pop(lost, None)
    return tf.train.Checkpoint(**objects), lambda number: train()


def mixed(lost: str = "") -> Started:
    """Return a run in mixed precision, whose loss scale grows and shrinks."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(6, "relu", dtype="mixed_float16"),
        keras.layers.Dense(1, dtype="float32"),
    ]
    model = keras.Sequential(layers)
    inner = keras.optimizers.Adam(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(
        inner, initial_scale=1024.0, dynamic_growth_steps=2
    )
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64)
    x, y = _numbers(8, 8, 4), _numbers(8, 8, 1)

    def step(number: int) -> None:
        if lost == "scale" and number == 0:
            optimizer.dynamic_scale.assign(1024.0)
        at = int(done.numpy())
        wide = 1e38 if at == 4 else 1.0  # which overflows
        model.train_on_batch(x[at], y[at] * wide)
        done.assign_add(1)

    return tf.train.Checkpoint(model=model, optimizer=optimizer, done=done), step


def iterator(lost: str = "") -> Started:
    """Return a run whose place in the data is an iterator that is saved."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    data = tf.data.Dataset.from_tensor_slices((_numbers(40, 4), _numbers(40, 2)))
    data = iter(data.shuffle(40, seed=5).repeat().batch(8))
    objects = {"model": model, "optimizer": model.optimizer, "data": data}
    objects.pop(lost, None)
    return tf.train.Checkpoint(**objects), lambda number: model.train_on_batch(*next(data))


def averaging(lost: str = "") -> Started:
    """Return a run whose optimizer averages the weights and writes the average over them."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.Adam(
        0.05,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=5,
        gradient_accumulation_steps=2,
    )
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64)
    x, y = _numbers(8, 8, 4), _numbers(8, 8, 2)

    def step(number: int) -> None:
        if lost == "average" and number == 0:
            for average in optimizer._model_variables_moving_average:
                average.assign(average * 0)
        if lost == "count" and number == 0:
            optimizer._iterations.assign(0)
        at = int(done.numpy())
        model.train_on_batch(x[at], y[at])
        done.assign_add(1)

    return tf.train.Checkpoint(model=model, optimizer=optimizer, done=done), step


def fitted(lost: str = "") -> Started:
    """Return a run of `fit`, a step an epoch, with a metric over all epochs."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.optimizer.build(model.trainable_variables)
    metric, epoch = keras.metrics.Mean(name="over_all"), tf.Variable(0, dtype=tf.int64)
    x, y = _numbers(16, 4), _numbers(16, 2)
    halve = keras.callbacks.LearningRateScheduler(lambda at, rate: 0.05 * 0.5**at)

    def step(number: int) -> None:
        at = number if lost == "epoch" else int(epoch.numpy())
        if lost == "metrics" and number == 0:
            metric.reset_state()
        told = model.fit(
            x,
            y,
            batch_size=8,
            epochs=at + 1,
            initial_epoch=at,
            shuffle=False,
            verbose=0,
            callbacks=[halve],
        )
        metric.update_state(told.history["loss"][-1])
        epoch.assign_add(1)

    objects = {"model": model, "optimizer": model.optimizer, "epoch": epoch}
    root = tf.train.Checkpoint(**objects, metric=metric.variables)
    return root, step


def stateful(lost: str = "") -> Started:
    """Return a run of a recurrent layer that goes on from the state of the batch before."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    layers = [
        keras.Input(batch_shape=(2, 3, 4)),
        keras.layers.GRU(5, stateful=True, name="memory"),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64)
    x, y = _numbers(8, 2, 3, 4), _numbers(8, 2, 1)

    def step(number: int) -> None:
        if lost == "states" and number == 0:
            model.layers[0].reset_states()
        at = int(done.numpy())
        model.train_on_batch(x[at], y[at])
        done.assign_add(1)

    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, done=done), step


def write(directory: Path, name: str) -> None:
    """Train without a stop and save after the steps KEPT."""
    import tensorflow as tf

    root, step = globals()[name]()
    manager = tf.train.CheckpointManager(root, str(directory / name), max_to_keep=None)
    for number in range(KEPT[-1]):
        step(number)
        if number + 1 in KEPT:
            manager.save(checkpoint_number=number + 1)


if __name__ == "__main__":
    for kind in sys.argv[2:] or LOSSES:
        write(Path(sys.argv[1]), kind)
