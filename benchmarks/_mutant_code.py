"""Code that builds reference models, sound and damaged: `build?{"fixture": NAME, ...}`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

_OTHER = {"relu": "tanh", "tanh": "relu", "gelu": "relu", "sigmoid": "tanh", "linear": "tanh"}


def build(fixture: str, change: str = "", layer: str = "") -> Any:
    """Return the model of a fixture as its code builds it, with one change.

    change: "" for none, "activation" (of `layer`), or "dropout" (active at inference).
    """
    module = import_module(f"ckptkit.fixtures.models.{fixture}")
    model = module.build()
    if change == "activation":
        import keras

        found = next(each for each in layers(model) if each.name == layer)
        other = _OTHER[found.activation.__name__]
        found.activation = keras.activations.get(other)
    if change == "dropout":
        for each in layers(model):
            if type(each).__name__ == "Dropout":
                each.call = _always(each.call)
    return model


def parts(fixture: str) -> Any:
    """Return a `tf.train.Checkpoint` of all that a fixture's checkpoint holds, untrained."""
    import tensorflow as tf

    module = import_module(f"ckptkit.fixtures.models.{fixture}")
    if fixture == "gan":
        gan = module.Gan()
        names = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
        return tf.train.Checkpoint(**{name: getattr(gan, name) for name in names})
    model = module.build()
    model.optimizer.build(model.trainable_variables)
    asked = module.Serving(model).asked
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, asked=asked)


def layers(model: Any) -> Iterator[Any]:
    """Yield all layers of a Keras model, inner ones too."""
    if hasattr(model, "_flatten_layers"):
        yield from model._flatten_layers(include_self=False)


def activated(model: Any) -> str:
    """Return the name of the first layer whose activation can be changed, or ""."""
    for each in layers(model):
        name = getattr(getattr(each, "activation", None), "__name__", "")
        if name in _OTHER and "cell" not in each.name and type(each).__name__ == "Dense":
            return str(each.name)
    return ""


def _always(call: Callable[..., Any]) -> Callable[..., Any]:
    def training(inputs: Any, training: Any = None) -> Any:
        del training
        return call(inputs, training=True)

    training.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]
    return training


def served(model: Any, example: Any, **change: Any) -> Any:
    """Return (module, signatures) that serve a Keras model, as exports with preprocessing do.

    The mean of `example` in the graph is taken off float inputs, and outputs get a softmax beside
    them.  change: shift (of the mean), factor (of inputs), training, axis (of the softmax),
    dtype (of the outputs), names ({input: its new name}), turned (two outputs permuted).
    """
    import tensorflow as tf

    names = change.get("names", {})
    back = {names.get(info.name, info.name): info.name for info in model.inputs}
    specs = [
        tf.TensorSpec(info.shape, info.dtype, name=names.get(info.name, info.name))
        for info in model.inputs
    ]
    means = {
        name: tf.constant(
            value.mean(axis=0, keepdims=True) * change.get("shift", 1.0), name=f"mean_{name}"
        )
        for name, value in example.items()
        if value.dtype.kind == "f"
    }

    def serve(*tensors: Any) -> Any:
        given = {}
        for spec, tensor in zip(specs, tensors, strict=True):
            name = back[spec.name]
            if name in means:
                tensor = tensor * change.get("factor", 1.0) - means[name]
            given[name] = tensor
        value = given if len(given) > 1 else next(iter(given.values()))
        found = model(value, training=change.get("training", False))
        found = dict(found) if isinstance(found, dict) else {"logits": found}
        first = next(iter(found))
        if found[first].shape[-1] > 1:
            found["probabilities"] = tf.nn.softmax(found[first], axis=change.get("axis", -1))
        if change.get("turned"):
            one, two = list(found)[:2]
            found[one], found[two] = found[two], found[one]
        return {key: tf.cast(each, change.get("dtype", each.dtype)) for key, each in found.items()}

    module = tf.Module(name="served")
    module.model = model
    if change.get("training"):  # dropout then draws, from a state that is saved too
        seeds = (getattr(each, "seed_generator", None) for each in layers(model))
        module.seeds = [seed.state.value for seed in seeds if seed is not None]
    module.serve = tf.function(serve, input_signature=specs, autograph=False)
    return module, {"serving_default": module.serve}
