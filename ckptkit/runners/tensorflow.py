"""Running models with TensorFlow; imported in the child process alone.

A model is named by `package.module:callable[?json]` or `file.py:callable[?json]`, whose callable
returns it built (json: an object of keyword arguments), or by a `.keras` file, which is loaded in
Keras's safe mode.

Before values are restored every variable is filled with a value that no training makes: a NaN of
one certain payload, or an integer.  One that still holds it afterwards was not restored, whatever
TensorFlow's own assertions say.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptkit._tf import tensorflow
from ckptkit.errors import CkptkitError, UsageError

SEED = 20  # of what a build draws at random, so that it draws the same again
_ALL = "weights"  # edge of the root under which every weight is found by its path
# An unlikely NaN (or number) of each width, as the bits of an unsigned integer.
_MARKS = {
    "bfloat16": 0x7FDA,
    "float16": 0x7E5A,
    "float32": 0x7FC5A5A5,
    "float64": 0x7FF8A5A5A5A5A5A5,
    "int32": 0x7A5A5A5A,
    "int64": 0x7A5A5A5A5A5A5A5A,
    "uint32": 0xFA5A5A5A,
}

Request = Mapping[str, Any]


def skeleton(request: Request) -> dict[str, Any]:
    """Write the structure of the built model, values as built.

    request: model; out: a checkpoint prefix, or a path that ends in `.weights.h5`.
    """
    model = load_model(request["model"])
    _write_structure(model, request["out"])
    return {"versions": _versions(), "name": _name(model)}


def export(request: Request) -> dict[str, Any]:
    """Fill the model from `filled` (made by `skeleton`'s pattern) and write it as `form`.

    request: model, filled, form, out, root, compare.  Returns `outputs` where `compare` is set.
    """
    model = load_model(request["model"])
    _restore(model, request["filled"])
    _write(model, request["form"], request["out"], request.get("root") or "model")
    result = {"versions": _versions(), "outputs": None}
    if request.get("compare"):
        from ckptkit.runners import _tensorflow_outputs

        compared = _tensorflow_outputs.live_against_file(model, request["form"], request["out"])
        result["outputs"] = compared
    return result


def outputs(request: Request) -> dict[str, Any]:
    """Run two files (SavedModels or `.keras`) on the same inputs; request: old, new."""
    from ckptkit.runners import _tensorflow_outputs

    compared = _tensorflow_outputs.file_against_file(request["old"], request["new"])
    return {"versions": _versions(), "outputs": compared}


ACTIONS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "skeleton": skeleton,
    "export": export,
    "outputs": outputs,
}


# -- making the model --------------------------------------------------------------------------


def load_model(spec: str) -> Any:
    """Return the built model; raises UsageError where there is none, or it is not built."""
    tensorflow().random.set_seed(SEED)
    if spec.endswith(".keras"):
        keras = _keras()
        keras.utils.set_random_seed(SEED)
        return _checked(keras.models.load_model(spec, safe_mode=True), spec)
    where, _, arguments = spec.partition("?")
    module, colon, name = where.rpartition(":")
    if not colon:
        raise UsageError(f"{spec!r} names no callable", hint="write package.module:callable")
    function = _attribute(_module(module), name, where)
    try:
        options = json.loads(arguments) if arguments else {}
    except json.JSONDecodeError as error:
        raise UsageError(f"{arguments!r} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise UsageError(f"{arguments!r} is no JSON object of keyword arguments")
    _seed_keras()
    return _checked(function(**options), spec)


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise
            raise UsageError(f"no module {name!r}", hint="run where it can be imported") from error
    path = Path(name).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError("no such file", where=name)
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _attribute(module: Any, name: str, where: str) -> Callable[..., Any]:
    value = module
    for step in name.split("."):
        value = getattr(value, step, None)
    if not callable(value):
        raise UsageError(f"nothing callable is called {name!r} there", where=where)
    return value  # type: ignore[no-any-return]


def _keras() -> Any:
    tensorflow()
    keras = import_module("keras")
    if int(keras.__version__.split(".")[0]) < 3:
        return keras
    if keras.backend.backend() != "tensorflow":
        raise UsageError("Keras runs on another backend", hint="unset KERAS_BACKEND")
    return keras


def _seed_keras() -> None:
    """Seed Keras, if the user's code (or TensorFlow) has brought one."""
    try:
        _keras().utils.set_random_seed(SEED)
    except ModuleNotFoundError:
        return


def is_keras(model: Any) -> bool:
    """Whether it is a Keras model."""
    return hasattr(model, "weights") and hasattr(model, "built") and callable(model)


def _name(model: Any) -> str:
    return f"{type(model).__name__} {getattr(model, 'name', '')!r}"


def _checked(model: Any, spec: str) -> Any:
    tf = tensorflow()
    if not is_keras(model):
        if isinstance(model, tf.Module) and model.variables:
            return model
        what = "has no variables yet" if isinstance(model, tf.Module) else "is no model"
        raise UsageError(f"{_name(model)} {what}", where=spec, hint="return a built Keras model")
    unbuilt = [] if model.built else [_name(model)]
    for layer in _layers(model):
        # a layer without a `build` of its own has nothing to build
        if not layer.built and type(layer).build is not _keras().layers.Layer.build:
            unbuilt.append(layer.name)
    if unbuilt:
        raise UsageError(
            f"not built: {', '.join(unbuilt[:4])}; restoring would match nothing and say nothing",
            where=spec,
            hint="let the callable call the model once on an example input",
        )
    _build_optimizer(model)
    return model


def _layers(model: Any) -> Iterable[Any]:
    walk = getattr(model, "_flatten_layers", None)
    return walk(include_self=False) if walk is not None else ()


def _build_optimizer(model: Any) -> None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and hasattr(optimizer, "build") and not optimizer.built:
        optimizer.build(model.trainable_variables)


# -- structure and values --------------------------------------------------------------------------


def _weights(model: Any) -> list[tuple[str, Any]]:
    """Return (path, variable) of every weight, paths made unique."""
    found: dict[str, Any] = {}
    for variable in model.weights if is_keras(model) else model.variables:
        path = getattr(variable, "path", None) or variable.name.partition(":")[0]
        name, number = path, 1
        while name in found:
            number += 1
            name = f"{path}#{number}"
        found[name] = variable
    return list(found.items())


def _root(model: Any) -> Any:
    """Return a Checkpoint that leads to every weight, layers in Python lists too."""
    tf = tensorflow()
    objects = {"model": model}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and hasattr(optimizer, "_trackable_children"):
        objects["optimizer"] = optimizer
    holder = tf.Module()
    for path, variable in _weights(model):
        holder._track_trackable(variable, name=path)
    return tf.train.Checkpoint(**objects, **{_ALL: holder})


def _write_structure(model: Any, out: str) -> None:
    if out.endswith(".weights.h5"):
        model.save_weights(out)
    else:
        _root(model).write(out)


def _restore(model: Any, filled: str) -> None:
    """Put the values in; raises CkptkitError naming the variables that got none."""
    marked = {}
    for path, variable in _weights(model):
        mark = _mark(variable)
        if mark is not None:
            variable.assign(mark)
            marked[path] = variable
    if filled.endswith(".weights.h5"):
        model.load_weights(filled)
    else:
        _root(model).read(filled)
    left = [path for path, variable in marked.items() if _is_marked(variable)]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        raise CkptkitError(f"not restored: {', '.join(left[:5])}{more}")


def _mark(variable: Any) -> Any:
    """Return the value that says "not restored"; None where there is none to be had."""
    import numpy as np

    dtype = tensorflow().as_dtype(variable.dtype)
    bits = _MARKS.get(dtype.name)
    shape = tuple(variable.shape)
    if bits is None or 0 in shape:
        return None
    unsigned = np.dtype(f"u{dtype.size}")
    return np.full(shape, bits, unsigned).view(dtype.as_numpy_dtype)


def _is_marked(variable: Any) -> bool:
    import numpy as np

    value = np.asarray(variable)
    bits = _MARKS[tensorflow().as_dtype(variable.dtype).name]
    return bool((np.ascontiguousarray(value).view(f"u{value.itemsize}") == bits).all())


def _write(model: Any, form: str, out: str, root: str) -> None:
    tf = tensorflow()
    if form == "saved_model" and is_keras(model) and hasattr(model, "export"):
        model.export(out, **({"verbose": False} if _takes(model.export, "verbose") else {}))
    elif form == "saved_model":
        tf.saved_model.save(model, out)
    elif form == "checkpoint":
        objects = {root: model}
        if getattr(model, "optimizer", None) is not None:
            objects["optimizer"] = model.optimizer
        checkpoint = tf.train.Checkpoint(**objects)
        checkpoint.save_counter.assign_add(1)
        checkpoint.write(out)
    elif form == "keras" and is_keras(model):
        model.save(out)
    elif form == "weights.h5" and is_keras(model):
        model.save_weights(out)
    else:
        raise UsageError(f"{_name(model)} cannot be written as {form}")


def _takes(function: Callable[..., Any], option: str) -> bool:
    import inspect

    return option in inspect.signature(function).parameters


def _versions() -> dict[str, str]:
    found = {"tensorflow": str(tensorflow().__version__)}
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "__version__"):
        found["keras"] = str(keras.__version__)
    return found
