"""The models of `benchmarks.gpu`: reference models, wider than their fixtures.

Each is a function that builds one on whichever backend Keras runs, so that it can also be named as
the code of a file of weights.  A GPU's kernels are chosen by size: those of the fixtures, 8 to 32
units wide, are not the ones that real models run.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

SEED = 20
REGISTERED = {"transformer": "ckptkit.fixtures.models.transformer"}  # modules with custom layers


def functional_cnn() -> Any:
    """Return convolutions and batch normalisation."""
    return _module("functional_cnn").build(filters=(64, 128))


def transformer() -> Any:
    """Return embeddings, attention, layer normalisation and GELU."""
    return _module("transformer").build(depth=3, width=128)


def recurrent() -> Any:
    """Return a bidirectional LSTM and a GRU."""
    return _module("recurrent").build(lstm_units=128, gru_units=128)


def multi_io() -> Any:
    """Return a model of two inputs, two outputs and a shared tower."""
    return _module("multi_io").build(width=256)


MODELS: dict[str, Callable[[], Any]] = {
    "functional_cnn": functional_cnn,
    "transformer": transformer,
    "recurrent": recurrent,
    "multi_io": multi_io,
}


def _module(name: str) -> Any:
    return import_module(f"ckptkit.fixtures.models.{name}")


def drawn(name: str) -> Any:
    """Return a model with first values, and none of its variables constant.

    What is all zeros or ones (biases, scales, moving averages) could be lost unseen.
    """
    import keras
    import numpy as np

    keras.utils.set_random_seed(SEED)
    model = MODELS[name]()
    rng = np.random.default_rng(SEED)
    for variable in model.weights:
        value = np.array(variable)
        if value.size and (value == value.flat[0]).all():
            variable.assign(value + np.float32(0.1) * rng.normal(size=value.shape))
    return model


def in_policy(model: Any, policy: str) -> Any:
    """Return a copy that computes by a dtype policy, with outputs in float32, as Keras advises."""
    config = model.get_config()
    outputs = set(model.output_names)
    layers = [
        layer if layer["name"] in outputs else _replaced(layer, policy)
        for layer in config["layers"]
    ]
    copy = type(model).from_config({**config, "layers": layers})
    copy.set_weights(model.get_weights())
    return copy


def _replaced(config: Any, policy: str) -> Any:
    """Return a configuration in which every policy of float32 is another one."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": policy}}
        return {key: _replaced(value, policy) for key, value in config.items()}
    if isinstance(config, list):
        return [_replaced(value, policy) for value in config]
    return config
