"""Making models with TensorFlow: built code, and Keras files in safe mode.  Child process alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ckptkit.errors import MissingDependencyError, UsageError
from ckptkit.runners.child.keras_file import (
    is_before_keras_3,
    not_loaded,
    refuse_lambdas,
    written_by,
)
from ckptkit.runners.child.object_tree import is_variable
from ckptkit.runners.child.user_code import call_code
from ckptkit.runners.errors import RunnerError, safe_mode_refusal
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.trackables import below, children_of

_UNKNOWN_CLASS = re.compile(r"(?:Could not locate class|Unknown layer:) '([^']+)'")
WHICH_KERAS = "CKPTKIT_KERAS"  # the module that is Keras here; a runner sets it
TF_KERAS = "tf_keras"
SEED = 20  # of what a build draws at random, so that it draws the same again


def load_model(spec: str) -> Any:
    """Return the built model; raises UsageError where there is none, or it is not built."""
    tensorflow().random.set_seed(SEED)
    if spec.endswith(".keras"):
        return checked(load_keras(spec, compiled=True), spec)
    return checked(call_code(spec, seed_keras), spec)


def load_keras(path: str, *, compiled: bool = False, trusted: bool = False) -> Any:
    """Return the model of a Keras file, loaded in safe mode; raises RunnerError for code in it.

    A file of Keras 2 is loaded by Keras 2 where that is installed.  trusted: code in it is run.
    """
    version = written_by(path)
    load = partial(_loaded, path, compiled, trusted)
    if not is_before_keras_3(version):
        return load()
    if not is_keras_2(keras()) and find_spec(TF_KERAS) is None:
        hint = f"pip install {TF_KERAS}, which does, or `ckptkit upgrade`"
        return _tried(load, path, version, f"Keras {keras().__version__}", hint)
    if not is_keras_2(keras()):
        os.environ[WHICH_KERAS] = TF_KERAS
    if version.startswith("2."):
        return load()
    hint = "`ckptkit upgrade` translates it; or give code that builds the model"
    return _tried(load, path, version, f"{TF_KERAS} {keras().__version__}", hint)


def _tried(load: Callable[[], Any], path: str, version: str, by: str, hint: str) -> Any:
    """Return what a Keras makes of a file of an older one, which it reads sometimes."""
    try:
        return load()
    except RunnerError:
        raise
    except Exception as error:
        raise not_loaded(path, version, by, hint) from error


def _loaded(path: str, compiled: bool, trusted: bool) -> Any:
    loader = keras()
    if is_keras_2(loader) and not trusted:
        refuse_lambdas(path)
    loader.utils.set_random_seed(SEED)
    try:
        return loader.models.load_model(path, safe_mode=not trusted, compile=compiled)
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and "safe_mode" in str(error):
            raise safe_mode_refusal(path) from error
        found = _UNKNOWN_CLASS.search(str(error))
        if found is None:
            raise
        raise UsageError(
            f"the class {found[1]!r} is not known to Keras",
            where=path,
            hint="import the module that registers it",
        ) from error


def keras() -> Any:
    """Return the Keras of this process, running on TensorFlow.

    That is `keras`, or `tf_keras` where the runner says so or the model is its.  Raises UsageError
    where Keras runs on another backend, MissingDependencyError where tf_keras is not installed.
    """
    name = os.environ.get(WHICH_KERAS) or "keras"
    if name == TF_KERAS and find_spec(name) is None:  # told before TensorFlow takes its seconds
        hint = f"pip install {TF_KERAS}"
        raise MissingDependencyError(f"this needs {TF_KERAS}, which is not installed", hint=hint)
    tensorflow()
    module = import_module(name)
    if int(module.__version__.split(".")[0]) < 3:
        return module
    if module.backend.backend() != "tensorflow":
        raise UsageError("Keras runs on another backend", hint="unset KERAS_BACKEND")
    return module


def seed_keras() -> None:
    """Seed Keras, if the user's code (or TensorFlow) has brought one."""
    try:
        keras().utils.set_random_seed(SEED)
    except ModuleNotFoundError:
        return


def is_keras_2(module: Any) -> bool:
    """Whether a module is Keras 2, under whatever name."""
    return str(module.__version__).startswith("2.")


def adopt_keras(model: Any) -> None:
    """Have `keras` return tf_keras from now on, if the model is one of its."""
    if any(base.__module__.split(".")[0] == TF_KERAS for base in type(model).__mro__):
        os.environ[WHICH_KERAS] = TF_KERAS


def is_keras(model: Any) -> bool:
    """Whether it is a Keras model."""
    return hasattr(model, "weights") and hasattr(model, "built") and callable(model)


def name_of(model: Any) -> str:
    """Return what to call a model in a message."""
    return f"{type(model).__name__} {getattr(model, 'name', '')!r}"


def checked(model: Any, spec: str) -> Any:
    """Return the model with its optimizer built; raises UsageError where it is not built itself.

    A model is one of Keras, or any trackable that leads to variables: a tf.Module, also one that
    holds models of Keras, which are none of its `variables` (a Keras 3 layer is no tf.Module).
    """
    adopt_keras(model)
    if is_keras(model):
        _check_built([model, *layers_of(model)], spec)
        _build_optimizer(model)
        return model
    if not children_of(model) and not hasattr(model, "_trackable_children"):
        hint = "return a built Keras model, or a tf.Module"
        raise UsageError(f"{name_of(model)} is no model", where=spec, hint=hint)
    inside = [item for _, item in below(model, optimizers=False)]
    _check_built([item for item in inside if is_keras(item)], spec)
    if not any(map(is_variable, inside)):
        hint = "return a built Keras model, or a tf.Module that has made its variables"
        raise UsageError(f"{name_of(model)} has no variables yet", where=spec, hint=hint)
    return model


def _check_built(layers: Iterable[Any], spec: str) -> None:
    """Raise UsageError naming the layers that have not made their variables yet."""
    unbuilt = []
    for layer in layers:
        # a layer without a `build` of its own has nothing to build
        builds = is_model(layer) or type(layer).build is not keras().layers.Layer.build
        if not layer.built and builds:
            unbuilt.append(name_of(layer) if is_model(layer) else layer.name)
    if unbuilt:
        raise UsageError(
            f"not built: {', '.join(dict.fromkeys(unbuilt[:4]))}; restoring would match nothing "
            "and say nothing",
            where=spec,
            hint="let the callable call the model once on an example input",
        )


def is_model(layer: Any) -> bool:
    """Whether a layer of Keras is a model."""
    return isinstance(layer, keras().Model)


def layers_of(model: Any) -> Iterable[Any]:
    """Return the layers of a Keras model, those inside of others too."""
    walk = getattr(model, "_flatten_layers", None)
    return walk(include_self=False) if walk is not None else ()


def _build_optimizer(model: Any) -> None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not hasattr(optimizer, "build"):
        return
    if not getattr(optimizer, "built", getattr(optimizer, "_built", False)):  # Keras 3; Keras 2
        optimizer.build(model.trainable_variables)


def versions() -> dict[str, str]:
    """Return the versions of TensorFlow, and of Keras where it was imported."""
    found = {"tensorflow": str(tensorflow().__version__)}
    name = os.environ.get(WHICH_KERAS) or "keras"
    module = sys.modules.get(name)
    if module is not None and hasattr(module, "__version__"):
        found[name] = str(module.__version__)
    return found
