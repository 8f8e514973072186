"""Running models with TensorFlow; imported in the child process alone.

A model is named by `package.module:callable[?json]` or `file.py:callable[?json]`, whose callable
returns it built (json: an object of keyword arguments), or by a `.keras` file, which is loaded in
Keras's safe mode.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ckptkit.errors import UsageError
from ckptkit.runners.child import isolate as _isolate
from ckptkit.runners.child import session as _session
from ckptkit.runners.keras import revive as _revive
from ckptkit.runners.keras.model import keras as keras3
from ckptkit.runners.tensorflow.build import is_keras, load_model, name_of, versions
from ckptkit.runners.tensorflow.faults import audit
from ckptkit.runners.tensorflow.float64 import float64_outputs
from ckptkit.runners.tensorflow.isolate import subgraphs
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.perturb import perturb
from ckptkit.runners.tensorflow.restore import restore
from ckptkit.runners.tensorflow.resume import resume
from ckptkit.runners.tensorflow.session import start
from ckptkit.runners.tensorflow.setup import probe
from ckptkit.runners.tensorflow.variables import fill, write_structure
from ckptkit.stores.registry import KERAS, OBJECT_GRAPH, SAVED_MODEL, format_of

Request = Mapping[str, Any]


def skeleton(request: Request) -> dict[str, Any]:
    """Write the structure of the built model, values as built.

    request: model; out: a checkpoint prefix, or a path that ends in `.weights.h5`.
    """
    model = load_model(request["model"])
    write_structure(model, request["out"])
    return {"versions": versions(), "name": name_of(model)}


def export(request: Request) -> dict[str, Any]:
    """Fill the model from `filled` (made by `skeleton`'s pattern) and write it as `format`.

    request: model, filled, format, out, root, compare.  Returns `outputs` where `compare` is set.
    """
    model = load_model(request["model"])
    fill(model, request["filled"])
    _write(model, request["format"], request["out"], request.get("root") or "model")
    result = {"versions": versions(), "outputs": None}
    if request.get("compare"):
        from ckptkit.runners.tensorflow import outputs as _tensorflow_outputs

        compared = _tensorflow_outputs.live_against_file(model, request["format"], request["out"])
        result["outputs"] = compared
    return result


def outputs(request: Request) -> dict[str, Any]:
    """Run the models of two files on the same inputs; request: old, new, model (code, or None)."""
    from ckptkit.runners.tensorflow import outputs as _tensorflow_outputs

    compared = _tensorflow_outputs.file_against_file(
        request["old"], request["new"], request.get("model"), request.get("tags", ())
    )
    return {"versions": versions(), "outputs": compared}


def load(request: Request) -> dict[str, Any]:
    """Load the model of a `.keras` file in safe mode, and let it go.

    request: file.
    """
    keras3("tensorflow").saving.load_model(request["file"], safe_mode=True, compile=False)
    return {"versions": versions()}


def _write(model: Any, name: str, out: str, root: str) -> None:
    tf, row = tensorflow(), format_of(name)
    if row.structure == SAVED_MODEL and is_keras(model) and hasattr(model, "export"):
        model.export(out, **({"verbose": False} if _takes(model.export, "verbose") else {}))
    elif row.structure == SAVED_MODEL:
        tf.saved_model.save(model, out)
    elif row.structure == OBJECT_GRAPH:
        objects = {root: model}
        if getattr(model, "optimizer", None) is not None:
            objects["optimizer"] = model.optimizer
        checkpoint = tf.train.Checkpoint(**objects)
        checkpoint.save_counter.assign_add(1)
        checkpoint.write(out)
    elif row.structure == KERAS and row.holds_model and is_keras(model):
        model.save(out)
    elif row.structure == KERAS and is_keras(model):
        model.save_weights(out)
    else:
        raise UsageError(f"{name_of(model)} cannot be written as {name}")


def _takes(function: Callable[..., Any], option: str) -> bool:
    return option in inspect.signature(function).parameters


ACTIONS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "skeleton": skeleton,
    "export": export,
    "outputs": outputs,
    "load": load,
    "restore": restore,
    "resume": resume,
    "isolate": _isolate.action(start, subgraphs),
    "perturb": perturb,
    "audit": audit,
    "revive": _revive.action(lambda _request: keras3("tensorflow")),
    "export_saved_model": _revive.export_action(lambda _request: keras3("tensorflow")),
    "float64_outputs": float64_outputs,
    **_session.actions(start, probe),
}
