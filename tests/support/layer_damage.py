"""Damage in one layer of a model's file, and runners without a process of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.runners import client
from ckptkit.runners.registry import RUNNERS

Values = dict[str, Any]
Damage = Callable[[Values], list[str]]
"""Changes values by readable name in place; returns the layers that it damaged."""


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the actions of runners called in this process: no start of TensorFlow for each."""

    def run(runner: str, request: Mapping[str, Any], **_limits: Any) -> dict[str, Any]:
        action = import_module(RUNNERS[runner].module).ACTIONS[request["action"]]
        found: dict[str, Any] = json.loads(json.dumps(action(json.loads(json.dumps(request)))))
        return found

    monkeypatch.setattr(client, "run", run)


def damaged(model: Path, out: Path, damage: Damage) -> list[str]:
    """Write a copy of a SavedModel or `.keras` file with damage; return the layers damaged."""
    return _saved_model(model, out, damage) if model.is_dir() else _keras(model, out, damage)


def _saved_model(model: Path, out: Path, damage: Damage) -> list[str]:
    import tensorflow as tf

    shutil.copytree(model, out)
    prefix = str(out / "variables" / "variables")
    checkpoint = ckptkit.open(model)
    keys: dict[str, list[str]] = {}
    for key, naming in checkpoint.names.items():
        if naming.role == "weight":
            keys.setdefault(naming.duplicate_of or naming.name, []).append(key)
    reader = tf.train.load_checkpoint(prefix)
    everything = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    dtypes = reader.get_variable_to_dtype_map()
    values = {name: np.array(everything[same[0]]) for name, same in keys.items()}
    layers = damage(values)
    for name, same in keys.items():
        everything |= dict.fromkeys(same, values[name])
    tensors = [tf.constant(everything[key], dtypes[key]) for key in everything]
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(everything),
        shape_and_slices=[""] * len(everything),
        tensors=tensors,
    )
    return layers


def _keras(model: Path, out: Path, damage: Damage) -> list[str]:
    import keras

    live = keras.models.load_model(model, compile=False)
    variables = {variable.path: variable for variable in live.weights}
    values = {path: np.array(variable) for path, variable in variables.items()}
    layers = damage(values)
    for path, variable in variables.items():
        variable.assign(values[path])
    live.save(out)
    return layers


def off_by(name: str, amount: float = 1e-3) -> Damage:
    """One weight of the kernel, the one in the middle, is off."""

    def damage(values: Values) -> list[str]:
        flat = values[name].reshape(-1)
        flat[flat.size // 2] += amount
        return [name.rpartition("/")[0]]

    return damage


def zeroed(name: str) -> Damage:
    """All of one variable is 0."""

    def damage(values: Values) -> list[str]:
        values[name] = np.zeros_like(values[name])
        return [name.rpartition("/")[0]]

    return damage


def transposed(name: str) -> Damage:
    """A kernel with its last two axes swapped, in the shape that it had."""

    def damage(values: Values) -> list[str]:
        value = values[name]
        values[name] = np.ascontiguousarray(np.swapaxes(value, -1, -2)).reshape(value.shape)
        return [name.rpartition("/")[0]]

    return damage


def swapped(one: str, two: str) -> Damage:
    """Two variables of one shape have each other's values."""

    def damage(values: Values) -> list[str]:
        values[one], values[two] = values[two], values[one]
        return [one.rpartition("/")[0], two.rpartition("/")[0]]

    return damage
