"""Small real runs of TensorFlow, sound ones and ones with a fault planted while they train.

    python -m support.training_runs DIRECTORY [SAVES]

Each is a directory of checkpoints `ckpt-N`, N the number of the save, written by
`tf.train.CheckpointManager`; a step is four batches.  The faults are planted in the live variables
at the save FAULT_AT, so that the files are what such a run really leaves.  With SAVES, one
sound run that saves so often and keeps five checkpoints.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

SAVES, FAULT_AT = 12, 7
BATCHES = 4  # between two saves
LAYER = "second"  # that faults are planted in
Fault = Callable[["Run", int], None]


class Run:
    """A model and its optimizer, which train from the same start as often as one likes."""

    def __init__(self, optimizer: Any, *, trainable: bool = True) -> None:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(7)
        self.tf, self.keras = tf, keras
        self.model = keras.Sequential(
            [
                keras.Input((), dtype="int32"),
                keras.layers.Embedding(50, 8, name="embedding"),
                keras.layers.Dense(16, activation="tanh", name="first"),
                keras.layers.BatchNormalization(momentum=0.9, name="norm"),
                keras.layers.Dense(12, activation="relu", name="second"),
                keras.layers.Dense(6, activation="tanh", name="frozen", trainable=trainable),
                keras.layers.Dense(3, name="scores"),
            ]
        )
        self.optimizer = optimizer
        self.x = tf.constant([(7 * i) % 40 for i in range(64)], tf.int32)  # ten rows never move
        self.y = tf.constant([i % 3 for i in range(64)])
        optimizer.build(self.model.trainable_variables)
        self.checkpoint = tf.train.Checkpoint(model=self.model, optimizer=optimizer)
        self._variables = [*self.model.variables, *optimizer.variables]
        self._start = [variable.numpy() for variable in self._variables]
        self._step = tf.function(self._train)
        self.before: list[Any] = []
        self.afterwards: Callable[[], object] | None = None

    def layer(self) -> Any:
        """Return the layer that faults are planted in."""
        return self.model.get_layer(LAYER)

    def _train(self, x: Any, y: Any) -> None:
        variables = self.model.trainable_variables
        with self.tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = self.keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        self.optimizer.apply(tape.gradient(loss, variables), variables)

    def train(self) -> None:
        """Take the batches of one step."""
        for start in range(0, 64, 64 // BATCHES):
            stop = start + 64 // BATCHES
            self._step(self.x[start:stop], self.y[start:stop])

    def go(self, directory: Path, fault: Fault | None = None) -> None:
        """Train from the start and save, and let the fault do what it does after each step."""
        for variable, value in zip(self._variables, self._start, strict=True):
            variable.assign(value)
        directory.mkdir(parents=True)
        for number in range(1, SAVES + 1):
            self.before = [variable.numpy() for variable in self.layer().variables]
            self.train()
            if fault is not None:
                fault(self, number)
            self.checkpoint.write(str(directory / f"ckpt-{number}"))
            if self.afterwards is not None:
                self.afterwards()
                self.afterwards = None


# --- faults ---------------------------------------------------------------------------------------


def frozen(run: Run, number: int) -> None:
    """From the fault on, the layer is as it was."""
    if number >= FAULT_AT:
        for variable, value in zip(run.layer().variables, run.before, strict=True):
            variable.assign(value)


def never(run: Run, _number: int) -> None:
    """The layer never moves, though the optimizer has it."""
    for variable, value in zip(run.layer().variables, run.before, strict=True):
        variable.assign(value)


def rate_of_zero(run: Run, number: int) -> None:
    """From the fault on, the learning rate is 0."""
    if number == FAULT_AT - 1:
        run.optimizer.learning_rate.assign(0.0)


def nan(run: Run, number: int) -> None:
    """One value of the kernel is NaN from the fault on; the gradient spreads it."""
    if number == FAULT_AT:
        kernel = run.layer().kernel
        values = kernel.numpy()
        values[1, 2] = float("nan")
        kernel.assign(values)


def nan_in_slots(run: Run, number: int) -> None:
    """One tensor of the optimizer's state is NaN, in one checkpoint alone."""
    if number == FAULT_AT:
        slot = next(v for v in run.optimizer.variables if "second_kernel" in v.path)
        kept = slot.numpy()
        slot.assign(kept * float("nan"))
        run.afterwards = lambda: slot.assign(kept)


def dead(run: Run, number: int) -> None:
    """Two columns of the kernel are zeros from the fault on."""
    if number >= FAULT_AT:
        values = run.layer().kernel.numpy()
        values[:, [1, 4]] = 0.0
        run.layer().kernel.assign(values)


def exploding(run: Run, number: int) -> None:
    """The kernel grows 2.5-fold with each step from the fault on."""
    if number >= FAULT_AT:
        run.layer().kernel.assign(2.5 * run.layer().kernel)


def made_anew(run: Run, number: int) -> None:
    """The layer is drawn again, once."""
    if number == FAULT_AT:
        kernel = run.layer().kernel
        kernel.assign(run.keras.initializers.GlorotUniform(seed=3)(kernel.shape))
        run.layer().bias.assign(run.tf.zeros_like(run.layer().bias))


def optimizer_not_restored(run: Run, number: int) -> None:
    """The run was started again with the weights alone: its optimizer is a new one."""
    if number == FAULT_AT:
        for variable in run.optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(run.tf.zeros_like(variable))
        run.train()


FAULTS: dict[str, Fault] = {
    "frozen": frozen,
    "never": never,
    "rate_of_zero": rate_of_zero,
    "nan": nan,
    "nan_in_slots": nan_in_slots,
    "dead": dead,
    "exploding": exploding,
    "made_anew": made_anew,
    "optimizer": optimizer_not_restored,
}


def main(top: Path) -> None:
    import keras

    optimizers = keras.optimizers
    sound = top / "sound"
    Run(optimizers.SGD(0.05)).go(sound / "sgd")
    Run(optimizers.SGD(0.05, momentum=0.9)).go(sound / "momentum")
    Run(optimizers.Adam(0.01, use_ema=True), trainable=False).go(sound / "by_design")
    run = Run(optimizers.Adam(0.01))
    run.go(sound / "adam")
    for name, fault in FAULTS.items():
        run.go(top / name, fault)
        run.optimizer.learning_rate.assign(0.01)
    # An older checkpoint in the place of a newer one.
    shutil.copytree(sound / "adam", top / "older")
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(top / f"older/ckpt-3.{suffix}", top / f"older/ckpt-{FAULT_AT}.{suffix}")
    # Files of epochs.
    epochs = top / "epochs"
    epochs.mkdir()
    run.model.compile(run.optimizer, "mse")
    for epoch in range(1, 5):
        run.train()
        run.model.save(epochs / f"model.{epoch:02d}.keras")
        run.model.save_weights(epochs / f"weights.{epoch:02d}-{1 / epoch:.2f}.weights.h5")
    run.checkpoint.write(str(epochs / "ckpt-5"))


def live(directory: Path, saves: int) -> None:
    """Train and save, and keep the last five checkpoints."""
    import keras
    import tensorflow as tf

    run = Run(keras.optimizers.Adam(0.001))
    manager = tf.train.CheckpointManager(run.checkpoint, str(directory), max_to_keep=5)
    for number in range(1, saves + 1):
        run.train()
        manager.save(checkpoint_number=number)


if __name__ == "__main__":
    if sys.argv[2:]:
        live(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
