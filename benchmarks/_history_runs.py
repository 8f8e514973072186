"""Runs of 40 checkpoints for benchmarks/history.py: sound ones, and two with planted faults.

python -m benchmarks._history_runs DIRECTORY
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

SAVES = 40
SOUND = ("functional_cnn", "transformer", "recurrent", "mixed_precision", "sequential", "multi_io")
# What is planted in which run: kind, save from which on, layer ("" for none).
FAULTS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "first": (
        ("dead", 9, "digit"),
        ("reinitialised", 14, "conv2"),
        ("older", 20, ""),
        ("frozen", 25, "conv1"),
        ("nan", 36, "bn2"),
    ),
    "second": (
        ("optimizer", 10, ""),
        ("exploding", 18, "class"),
        ("rate of zero", 33, ""),
    ),
}
EXPLODING_FOR = 12  # saves
MODELS = {"first": "functional_cnn", "second": "recurrent"}


def trained(
    model: Any, data: tuple[Any, Any], directory: Path, fault: Callable[[int], None] | None = None
) -> None:
    """Train a compiled model for an epoch, SAVES times, and save after each."""
    import tensorflow as tf

    directory.mkdir(parents=True)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    for number in range(1, SAVES + 1):
        model.fit(*data, batch_size=64, epochs=1, verbose=0)
        if fault is not None:
            fault(number)
        checkpoint.write(str(directory / f"ckpt-{number}"))


class Planted:
    """Plants the faults of one run, each from its save on."""

    def __init__(self, model: Any, faults: tuple[tuple[str, int, str], ...]) -> None:
        import numpy as np

        self.np, self.model, self.faults = np, model, faults
        self.kept: dict[str, list[Any]] = {}

    def __call__(self, number: int) -> None:
        for kind, start, name in self.faults:
            if kind == "rate of zero":
                start -= 1  # of the step before, so that this is the first without a change
            if kind == "older" or (number < start and kind != "frozen"):
                continue
            layer = self.model.get_layer(name) if name else None
            self.plant(kind, layer, number - start)

    def plant(self, kind: str, layer: Any, after: int) -> None:
        np, optimizer = self.np, self.model.optimizer
        if kind == "frozen":
            values = [variable.numpy() for variable in layer.variables]
            if after >= 0:
                for variable, value in zip(layer.variables, self.kept[layer.name], strict=True):
                    variable.assign(value)
            else:
                self.kept[layer.name] = values
        elif kind == "dead":
            values = layer.kernel.numpy()
            values[..., [2, 5, 7]] = 0.0
            layer.kernel.assign(values)
        elif kind == "nan":
            variable = layer.gamma
            variable.assign(np.where(np.arange(variable.shape[0]) == 3, np.nan, variable.numpy()))
        elif kind == "exploding" and after < EXPLODING_FOR:
            layer.kernel.assign(1.5 * layer.kernel)
        elif kind == "rate of zero":
            optimizer.learning_rate.assign(0.0)
        elif kind == "reinitialised" and after == 0:
            rng = np.random.default_rng(5)
            kernel = layer.kernel
            kernel.assign(rng.standard_normal(kernel.shape) * float(np.std(kernel.numpy())))
        elif kind == "optimizer" and after == 0:
            for variable in optimizer.variables:
                if "learning_rate" not in variable.path and "average" not in variable.path:
                    variable.assign(np.zeros_like(variable.numpy()))


def main(top: Path) -> None:
    """Make what is not there yet."""
    import keras

    for name in SOUND:
        if (top / "sound" / name).exists():
            continue
        keras.utils.set_random_seed(1)
        module = import_module(f"ckptkit.fixtures.models.{name}")
        trained(module.build(), module.examples(), top / "sound" / name)
    for name, faults in FAULTS.items():
        if (top / name).exists():
            continue
        keras.utils.set_random_seed(1)
        module = import_module(f"ckptkit.fixtures.models.{MODELS[name]}")
        model = module.build()
        trained(model, module.examples(), top / name, Planted(model, faults))
        for kind, number, _ in faults:
            if kind == "older":
                for file in (top / name).glob("ckpt-6.*"):
                    shutil.copy(file, file.with_name(file.name.replace("ckpt-6", f"ckpt-{number}")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
